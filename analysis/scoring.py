# SPDX-License-Identifier: Apache-2.0
"""Score selections: one pass for all selections with the same rows, in this process or several.

Each task runs on one thread and depends on nothing but its own rows and the settings, so scores are
the same for any number of workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import combinations
from itertools import permutations as ordered_pairs
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .blocks import Space
from .charts import Chart, ChartReader
from .metrics import CARDS
from .pairwise import pairwise
from .selections import Selection

if TYPE_CHECKING:
    import xarray as xr

#: Version of the two scores below; rises whenever the same input would give another number.
MODEL_VERSIONS = {"participation_ratio": "1", "distinct_share": "1"}

#: Pairs times rows above which a task is cut by metric, so that workers share it.
SPLIT_ABOVE = 20_000


@dataclass(frozen=True)
class Settings:
    """What every score of an analysis shares."""

    metrics: tuple[str, ...]
    k: int
    permutations: int
    seed: int
    release: str

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


@dataclass
class Scored:
    """Score rows by selection name, and charts left out of a selection with the reason."""

    pairs: list[pd.DataFrame] = field(default_factory=list)
    models: list[pd.DataFrame] = field(default_factory=list)
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
        alone = [m for m in metrics if m in ("mutual_knn", "cknna")]
        rest = tuple(m for m in metrics if m not in alone)
        tasks += [Task(whole.selections, part) for part in [*((m,) for m in alone), rest] if part]
    return sorted(tasks, key=lambda task: -task.cost)


def score_task(
    task: Task,
    data: Mapping[str, NDArray[np.float32]],
    charts: Mapping[str, Chart],
    settings: Settings,
) -> Scored:
    """Score every selection of a task.

    A chart with fewer than k + 2 distinct rows has no neighbours to speak of and is left out.
    """
    out = Scored()
    distinct = {key: _distinct(rows) for key, rows in data.items()}
    n = task.selections[0].n
    for selection in task.selections:
        thin = {
            key: f"{distinct[key]} distinct vectors on {n} rows, {settings.k + 2} needed"
            for key in selection.models
            if distinct[key] < settings.k + 2
        }
        if thin:
            out.excluded[selection.name] = thin
    kept = [key for key in task.charts if distinct[key] >= settings.k + 2]
    if not kept:
        return out
    scores = pairwise(
        {key: data[key] for key in kept},
        metrics=task.metrics,
        k=settings.k,
        permutations=settings.permutations,
        seed=settings.seed,
        threads=1,
    )
    for selection in task.selections:
        _add_selection(out, selection, scores, kept, charts, settings)
        if "intrinsic_dimension" in task.metrics:
            _add_shapes(out, selection, data, distinct, kept, charts, settings)
    return out


def _add_selection(
    out: Scored,
    selection: Selection,
    scores: xr.Dataset,
    kept: Sequence[str],
    charts: Mapping[str, Chart],
    settings: Settings,
) -> None:
    """Rows of every metric of one selection."""
    normalise = json.loads(scores.attrs["normalise"])
    place = {key: i for i, key in enumerate(kept)}
    wanted = [key for key in selection.models if key in place]
    pairs = [p for p in selection.pairs or combinations(wanted, 2) if set(p) <= set(wanted)]
    for metric, scaling in normalise.items():
        card = CARDS[metric]
        about = _provenance(selection, metric, card.version, scaling, settings)
        if card.pairwise:
            chosen = _directions(pairs, place, symmetric=card.symmetric)
            if chosen:
                rows = _pair_rows(scores, metric, chosen, place, charts, settings)
                out.pairs.append(rows.assign(**about))
            continue
        own = _described(selection, wanted)
        values = scores[metric].to_numpy()
        errors = scores[f"{metric}_standard_error"].to_numpy()
        rows = _model_rows(
            own,
            [values[place[key]] for key in own],
            charts,
            errors=[errors[place[key]] for key in own],
        )
        out.models.append(rows.assign(**about))


def _add_shapes(
    out: Scored,
    selection: Selection,
    data: Mapping[str, NDArray[np.float32]],
    distinct: Mapping[str, int],
    kept: Sequence[str],
    charts: Mapping[str, Chart],
    settings: Settings,
) -> None:
    """Effective rank and share of distinct rows of each chart."""
    own = _described(selection, [key for key in selection.models if key in kept])
    shapes = {
        "participation_ratio": [participation_ratio(data[key]) for key in own],
        "distinct_share": [distinct[key] / selection.n for key in own],
    }
    for metric, values in shapes.items():
        about = _provenance(selection, metric, MODEL_VERSIONS[metric], "none", settings)
        out.models.append(_model_rows(own, values, charts).assign(**about))


def _provenance(
    selection: Selection, metric: str, version: str, normalise: str, settings: Settings
) -> dict[str, str | int | None]:
    return {
        "release": settings.release,
        "selection": selection.name,
        "selection_sha256": selection.sha256,
        "n": selection.n,
        "k": settings.neighbours(metric),
        "metric": metric,
        "metric_version": version,
        "normalise": normalise,
        "seed": settings.seed,
    }


def participation_ratio(x: NDArray[np.floating]) -> float:  # type: ignore[type-arg]
    """Effective rank of an embedding: (sum l)^2 / sum l^2 over the covariance's eigenvalues l.

    1 when one direction holds all variance, min(n - 1, d) when all directions hold the same.
    Source: Gao et al. 2017 (bioRxiv 214262). NaN for a constant embedding.

    Parameters
    ----------
    x : array, shape (n, d)
    """
    space = Space(np.asarray(x, dtype=np.float64))
    if space.constant:
        return float(np.nan)
    centred = space.centred / np.abs(space.centred).max()
    product = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    return float(np.trace(product) ** 2 / np.einsum("ij,ij->", product, product))


def _described(selection: Selection, wanted: list[str]) -> list[str]:
    """Charts whose own scores belong to a selection: of a partial one, the added chart's."""
    return [m for m in wanted if selection.role != "partial" or m == selection.models[-1]]


def _distinct(rows: NDArray[np.float32]) -> int:
    return len(Space(np.asarray(rows, dtype=np.float64)).unique_rows)


def _directions(
    pairs: Sequence[tuple[str, str]], place: Mapping[str, int], *, symmetric: bool
) -> list[tuple[str, str]]:
    """Each pair once in chart order, or both ways."""
    once = {(a, b) if place[a] < place[b] else (b, a) for a, b in pairs}
    found = sorted(once, key=lambda p: (place[p[0]], place[p[1]]))
    if symmetric:
        return found
    return [direction for pair in found for direction in ordered_pairs(pair)]  # type: ignore[misc]


def _pair_rows(
    scores: xr.Dataset,
    metric: str,
    pairs: Sequence[tuple[str, str]],
    place: Mapping[str, int],
    charts: Mapping[str, Chart],
    settings: Settings,
) -> pd.DataFrame:
    a, b = (np.array([place[p[side]] for p in pairs]) for side in (0, 1))
    columns: dict[str, object] = {"value": scores[metric].to_numpy()[a, b]}
    row = list(scores["metric"].to_numpy()).index(metric)
    for name in ("standard_error", "null_mean", "null_quantile", "p_value", "calibrated"):
        if name in scores:
            columns[name] = scores[name].to_numpy()[row][a, b]
        else:
            columns[name] = np.nan
    # CKNNA has no upper bound; calibrated scores end at the best possible score.
    columns["calibrated"] = np.minimum(columns["calibrated"], 1.0)  # type: ignore[call-overload]
    for side, index in (("a", 0), ("b", 1)):
        own = [charts[p[index]] for p in pairs]
        columns[f"model_{side}"] = [c.card.id for c in own]
        columns[f"version_{side}"] = [c.card.version for c in own]
        columns[f"layer_{side}"] = [c.layer.name for c in own]
        columns[f"pooling_{side}"] = [c.pooling for c in own]
    return pd.DataFrame({**columns, "permutations": settings.permutations})


def _model_rows(
    keys: Sequence[str],
    values: Sequence[float],
    charts: Mapping[str, Chart],
    *,
    errors: Sequence[float] | None = None,
) -> pd.DataFrame:
    own = [charts[key] for key in keys]
    return pd.DataFrame(
        {
            "model": [c.card.id for c in own],
            "version": [c.card.version for c in own],
            "layer": [c.layer.name for c in own],
            "pooling": [c.pooling for c in own],
            "value": np.asarray(values, dtype=float),
            "standard_error": np.asarray([np.nan] * len(own) if errors is None else errors, float),
        }
    )


def run_tasks(
    tasks: Sequence[Task],
    reader: ChartReader,
    settings: Settings,
    *,
    workers: int,
    done: Callable[[Task], None],
) -> Iterator[Scored]:
    """Score tasks in ``workers`` processes, in any order; with fewer than two, in this one.

    Rows are read as tasks are handed out, so that memory holds those of the running ones.
    """
    left = list(tasks)
    if workers > 1:
        try:
            for task, scored in _in_processes(left, reader, settings, workers):
                left.remove(task)
                done(task)
                yield scored
        except BrokenProcessPool:
            # No processes to be had (a script without a main guard, too little memory): go on here.
            reader.notes.append("worker processes could not be kept running; scored in one process")
    for task in left:
        scored = score_task(task, _rows(task, reader), reader.charts, settings)
        done(task)
        yield scored


def _rows(task: Task, reader: ChartReader) -> dict[str, NDArray[np.float32]]:
    ids = task.selections[0].ids
    return {key: reader.rows(key, ids) for key in task.charts}


def _in_processes(
    tasks: Sequence[Task], reader: ChartReader, settings: Settings, workers: int
) -> Iterator[tuple[Task, Scored]]:
    from multiprocessing import get_context

    waiting = list(tasks)
    running: dict[Future[Scored], Task] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while waiting or running:
            while waiting and len(running) < workers + 1:
                task = waiting.pop(0)
                own = {key: reader.charts[key] for key in task.charts}
                future = pool.submit(score_task, task, _rows(task, reader), own, settings)
                running[future] = task
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                task = running.pop(future)
                yield task, future.result()
