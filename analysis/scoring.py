# SPDX-License-Identifier: Apache-2.0
"""Score selections: one pass for all selections with the same rows.

Each task runs on one thread and depends on nothing but its own rows and the settings, so scores are
the same for any number of workers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from itertools import permutations as ordered_pairs
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from . import effective_rank
from .blocks import Space
from .effective_rank import participation_ratio
from .metrics import CARDS
from .pairwise import pairwise
from .selections import Selection

if TYPE_CHECKING:
    import xarray as xr

#: Version of the two scores below; rises whenever the same input would give another number.
MODEL_VERSIONS = {"participation_ratio": effective_rank.VERSION, "distinct_share": "1"}

#: Pairs times rows above which a task is cut by metric, so that workers share it.
SPLIT_ABOVE = 20_000

#: Share of rows with a partner of the same label from which on nulls are restricted to labels.
EXCHANGED = 0.5


@dataclass(frozen=True)
class Settings:
    """What every score of an analysis shares.

    ``within`` names a column of the structures table: null draws relabel rows among those with one
    value of it.
    """

    metrics: tuple[str, ...]
    k: int
    permutations: int
    seed: int
    release: str
    within: str | None = None

    def neighbours(self, metric: str) -> int | None:
        """The k of a metric: of information imbalance 1, of metrics without neighbours None."""
        if metric == "information_imbalance":
            return 1
        return self.k if metric in ("mutual_knn", "cknna") else None


@dataclass(frozen=True)
class Task:
    """Selections with the same rows, and the metrics to score them by."""

    selections: tuple[Selection, ...]
    metrics: tuple[str, ...]

    @property
    def charts(self) -> tuple[str, ...]:
        """Every chart some selection needs."""
        return tuple(dict.fromkeys(m for s in self.selections for m in s.models))

    @property
    def cost(self) -> int:
        """Pairs times rows."""
        m = len(self.charts)
        return m * (m - 1) // 2 * self.selections[0].n


@dataclass(frozen=True)
class Part:
    """One metric on one selection.

    Attributes
    ----------
    charts : tuple of lists of str
        Chart keys of each row: (a, b) for a metric of pairs, (own,) for one of single charts.
    columns : dict of float64 arrays
        ``value``, ``standard_error`` and, with null draws, what calibration gives.
    within : str or None
        Column of structures within whose values the null relabelled.
    """

    selection: str
    metric: str
    normalise: str
    charts: tuple[list[str], ...]
    columns: dict[str, NDArray[np.float64]]
    within: str | None = None


@dataclass
class Scored:
    """Scores of pairs and of single charts, and charts left out of a selection with the reason."""

    pairs: list[Part] = field(default_factory=list)
    models: list[Part] = field(default_factory=list)
    excluded: dict[str, dict[str, str]] = field(default_factory=dict)


def make_tasks(selections: Sequence[Selection], metrics: Sequence[str]) -> list[Task]:
    """Gather selections with the same rows; cut expensive ones by metric. Dearest first."""
    by_rows: dict[tuple[str, ...], list[Selection]] = {}
    for selection in selections:
        by_rows.setdefault(selection.ids, []).append(selection)
    tasks = []
    for group in by_rows.values():
        whole = Task(tuple(group), tuple(metrics))
        if whole.cost <= SPLIT_ABOVE:
            tasks.append(whole)
            continue
        # These two share their neighbour lists and overlaps; the others share their own work.
        near = tuple(m for m in metrics if m in ("mutual_knn", "cknna"))
        rest = tuple(m for m in metrics if m not in near)
        tasks += [Task(whole.selections, part) for part in (near, rest) if part]
    return sorted(tasks, key=lambda task: -task.cost)


def score_task(
    task: Task,
    data: Mapping[str, NDArray[np.float32]],
    settings: Settings,
    groups: NDArray[np.object_] | None = None,
) -> Scored:
    """Score every selection of a task, in this process; ``groups`` as :func:`exchangeable` has it.

    A chart with fewer than k + 2 distinct rows has no neighbours to speak of and is left out.
    """
    shapes = {key: Shape.of(rows) for key, rows in data.items()}
    kept = [key for key, shape in shapes.items() if shape.distinct >= settings.k + 2]
    scores = None
    if kept:
        scores = pairwise(
            {key: data[key] for key in kept},
            metrics=task.metrics,
            k=settings.k,
            permutations=settings.permutations,
            seed=settings.seed,
            groups=groups,
            threads=1,
        )
    return put_together(task, scores, shapes, settings)


def exchangeable(
    structures: pd.DataFrame, ids: Sequence[str], within: str | None
) -> NDArray[np.object_] | None:
    """Labels within which rows may be exchanged under the null; None where all may.

    Rows that alone have their label stay in place in every draw, and a null of rows in place is the
    score itself. Where fewer than :data:`EXCHANGED` of the rows have a partner the null is free.

    Parameters
    ----------
    structures : DataFrame
        One row a structure, with ``id`` and the column ``within``.
    ids : sequence of str
        Rows of the selection.
    within : str or None
        ``formula`` (frames of a trajectory, strained cells, isomers), or another column.
    """
    if within is None:
        return None
    column = structures.drop_duplicates("id").set_index("id")[within]
    labels = column.loc[list(ids)].astype(str).to_numpy(dtype=object)
    _, codes, counts = np.unique(labels.astype(str), return_inverse=True, return_counts=True)
    shared = counts[codes] > 1
    return labels if shared.mean() >= EXCHANGED else None


@dataclass(frozen=True)
class Shape:
    """What one chart's vectors are like: how many differ, and the directions they fill."""

    distinct: int
    participation_ratio: float

    @staticmethod
    def of(rows: NDArray[np.float32]) -> Shape:
        """Of the rows of one chart."""
        distinct = len(Space(np.asarray(rows, dtype=np.float64)).unique_rows)
        return Shape(distinct, participation_ratio(rows))


def put_together(
    task: Task, scores: xr.Dataset | None, shapes: Mapping[str, Shape], settings: Settings
) -> Scored:
    """Cut the scores of a task's rows into those of its selections; thin charts are left out."""
    out = Scored()
    n, least = task.selections[0].n, settings.k + 2
    for selection in task.selections:
        thin = {
            key: f"{shapes[key].distinct} distinct vectors on {n} rows, {least} needed"
            for key in selection.models
            if shapes[key].distinct < least
        }
        if thin:
            out.excluded[selection.name] = thin
    if scores is None:
        return out
    kept = [str(name) for name in scores["model_a"].to_numpy()]
    for selection in task.selections:
        sound = [key for key in selection.models if shapes[key].distinct >= least]
        _cut(out, selection, scores, kept, sound, settings)
        if "intrinsic_dimension" not in task.metrics:
            continue
        own = _described(selection, sound)
        values = {
            "participation_ratio": [shapes[key].participation_ratio for key in own],
            "distinct_share": [shapes[key].distinct / n for key in own],
        }
        for metric, found in values.items():
            columns = {"value": np.array(found, dtype=float)}
            out.models.append(Part(selection.name, metric, "none", (own,), columns))
    return out


def _cut(
    out: Scored,
    selection: Selection,
    scores: xr.Dataset,
    kept: Sequence[str],
    wanted: Sequence[str],
    settings: Settings,
) -> None:
    """Take one selection's pairs and charts out of the scores of a task."""
    place = {key: i for i, key in enumerate(kept)}
    pairs = [p for p in selection.pairs or combinations(wanted, 2) if set(p) <= set(wanted)]
    layers = list(scores["metric"].to_numpy()) if "metric" in scores.coords else []
    for metric, normalise in json.loads(scores.attrs["normalise"]).items():
        values = scores[metric].to_numpy()
        if not CARDS[metric].pairwise:
            own = _described(selection, wanted)
            at = np.array([place[key] for key in own], dtype=int)
            errors = scores[f"{metric}_standard_error"].to_numpy()
            columns = {"value": values[at], "standard_error": errors[at]}
            out.models.append(Part(selection.name, metric, normalise, (own,), columns))
            continue
        chosen = _directions(pairs, place, symmetric=CARDS[metric].symmetric)
        a, b = (np.array([place[p[side]] for p in chosen], dtype=int) for side in (0, 1))
        columns = {"value": values[a, b]}
        for name in ("standard_error", "null_mean", "null_quantile", "p_value", "calibrated"):
            if name in scores:
                columns[name] = scores[name].to_numpy()[layers.index(metric)][a, b]
        if "calibrated" in columns:
            # CKNNA has no upper bound; calibrated scores end at the best possible score.
            columns["calibrated"] = np.minimum(columns["calibrated"], 1.0)
        keys = ([p[0] for p in chosen], [p[1] for p in chosen])
        within = settings.within if scores.attrs["restricted_permutations"] else None
        out.pairs.append(Part(selection.name, metric, normalise, keys, columns, within))


def _described(selection: Selection, wanted: Sequence[str]) -> list[str]:
    """Charts whose own scores belong to a selection: of a partial one, the added chart's."""
    return [m for m in wanted if selection.role != "partial" or m == selection.models[-1]]


def _directions(
    pairs: Sequence[tuple[str, str]], place: Mapping[str, int], *, symmetric: bool
) -> list[tuple[str, str]]:
    """Each pair once in chart order, or both ways."""
    once = {(a, b) if place[a] < place[b] else (b, a) for a, b in pairs}
    found = sorted(once, key=lambda p: (place[p[0]], place[p[1]]))
    if symmetric:
        return found
    return [direction for pair in found for direction in ordered_pairs(pair)]  # type: ignore[misc]
