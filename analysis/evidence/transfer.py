# SPDX-License-Identifier: Apache-2.0
"""Transfer: what of one model's space can be found again in another's, on rows held out.

Rows of a selection are split by formula into three parts: a *map* part, on which maps between
spaces are fitted without any label; a *probe* part, on which probes learn a label in one space; a
*test* part, on which both are read. No formula is in two parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.transfer import TRANSFER
from ..blocks import normalise_rows
from ..calibration import permutations
from ..charts import Chart
from ..selections import ids_sha256, subsample
from ..tables import typed
from . import held_out, maps, read_outs
from .context import Evidence, Findings

Array = NDArray[np.floating[Any]]

TABLE = "scores/transfer.parquet"
#: Rows of a selection at most, and the shares of its map, probe and test parts.
ROWS, SHARES = 1000, (0.5, 0.25, 0.25)
#: Fewest rows of a part, and fewest with a label for a probe.
LEAST_ROWS, LEAST_LABELLED = 12, 25
#: Ordered pairs of a selection at most; beyond, families keep fewer variants.
MOST_PAIRS = 1200
#: Smallest ridge strength of a probe on relative representations: it must bear reading rows of
#: another model, which lie where no row of its own does.
RELATIVE_STRENGTH = 0.1
#: Element shares as a space: what a map reaches that knows the composition and nothing else.
COMPOSITION = "composition"


@dataclass(frozen=True)
class Parts:
    """Places of a selection's rows by part, and what all its pairs share."""

    fit: NDArray[np.intp]
    probe: NDArray[np.intp]
    test: NDArray[np.intp]
    half: NDArray[np.bool_]
    probe_half: NDArray[np.bool_]
    anchors: NDArray[np.intp]
    test_groups: tuple[str, ...]
    blocks: NDArray[np.intp] | None
    draws: NDArray[np.intp]

    @classmethod
    def of(cls, ids: Sequence[str], groups: Sequence[str], *, draws: int, seed: int) -> Parts:
        """Split by group; ``groups`` are the formulas, in the order of ``ids``."""
        part = held_out.grouped_parts(groups, SHARES, seed=seed, label="transfer")
        fit, probe, test = (np.flatnonzero(part == i) for i in range(3))

        def names(rows: NDArray[np.intp], of: Sequence[str] = groups) -> list[str]:
            return [of[int(i)] for i in rows]

        def halves(rows: NDArray[np.intp]) -> NDArray[np.bool_]:
            parts = held_out.grouped_parts(names(rows), (1, 1), seed=seed, label="half")
            return np.asarray(parts == 0)

        anchors = maps.choose_anchors(names(fit, ids), names(fit), seed=seed)
        count = draws if len(test) > 1 else 0
        return cls(
            fit,
            probe,
            test,
            halves(fit),
            halves(probe),
            fit[anchors],
            tuple(names(test)),
            held_out.blocks_of(names(test), seed=seed),
            permutations(len(test), count, seed=seed).indices.astype(np.intp),
        )

    @property
    def lack(self) -> str | None:
        """Why this split is no good, if so."""
        least = min(len(self.fit), len(self.probe), len(self.test))
        if least < LEAST_ROWS:
            return f"{least} rows in its smallest part, {LEAST_ROWS} needed"
        for half in (self.half, self.probe_half):
            if not 2 <= half.sum() <= len(half) - 2:
                return "nearly all rows of a part have one formula"
        return None


class Place:
    """One model's space on a selection's rows, with all that is fitted to it alone, found once."""

    def __init__(self, name: str, layer: str, modality: str, rows: Array, parts: Parts) -> None:
        self.name, self.layer, self.modality, self.parts = name, layer, modality, parts
        rows = normalise_rows(np.asarray(rows, dtype=float), "l2")
        if rows.shape[1] > len(rows):  # the same distances in as many axes as there are rows
            u, s, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
            rows = u * s
        self.rows = rows
        self.probes: dict[tuple[str, bool], maps.LinearMap] = {}

    @cached_property
    def linear(self) -> maps.LinearSource:
        """Factors for maps from here."""
        return maps.LinearSource(self.rows[self.parts.fit], self.parts.half)

    @cached_property
    def standard(self) -> maps.Standard:
        """By the map part."""
        return maps.Standard.of(self.rows[self.parts.fit])

    @cached_property
    def fitted(self) -> Array:
        """Map part in standard form."""
        return self.standard(self.rows[self.parts.fit])

    @cached_property
    def tested(self) -> Array:
        """Test part in standard form."""
        return self.standard(self.rows[self.parts.test])

    @cached_property
    def spread(self) -> Array:
        """Squared distance of every test row to the mean of the map part."""
        return np.asarray((self.tested**2).sum(axis=1))

    @cached_property
    def local(self) -> maps.LocalWeights:
        """Of the test rows, from the map part."""
        return maps.local_weights(self.fitted, self.tested)

    @cached_property
    def relative(self) -> Array:
        """Cosines of all rows with the anchors, in standard form by the map part."""
        mean = self.rows[self.parts.fit].mean(axis=0)
        found = maps.relative(self.rows, self.rows[self.parts.anchors], mean=mean)
        return maps.Standard.of(found[self.parts.fit])(found)

    @property
    def varied(self) -> bool:
        """Do the map rows and the test rows differ among themselves?"""
        return len(np.unique(self.fitted, axis=0)) > 2 and len(np.unique(self.tested, axis=0)) > 2


@dataclass
class Arena:
    """A selection's rows, their parts, read-outs, and the table rows found so far."""

    selection: str
    sha256: str
    n: int
    parts: Parts
    labels: dict[str, Array]
    k: int
    found: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        first: Place,
        second: Place,
        map_: str,
        estimates: dict[str, held_out.Estimate],
        **about: Any,
    ) -> None:
        """Rows of the table."""
        for statistic, estimate in estimates.items():
            self.found.append(
                {
                    "selection": self.selection,
                    "selection_sha256": self.sha256,
                    "n": self.n,
                    "n_train": len(self.parts.fit),
                    "n_test": len(self.parts.test),
                    "k": self.k if statistic == "recall_at_k" else None,
                    "model_a": first.name,
                    "layer_a": first.layer,
                    "modality_a": first.modality,
                    "model_b": second.name,
                    "layer_b": second.layer,
                    "modality_b": second.modality,
                    "map": map_,
                    "statistic": statistic,
                    **asdict(estimate),
                    **about,
                }
            )


def transfer_stage(evidence: Evidence) -> Findings:
    """Maps between the spaces of learned models and baselines, by kind of matter.

    Every ordered pair of default layers that see more than elements, on one row count a selection
    (models outside the core with the core, on the rows they have); and element shares as a source.
    """
    findings = Findings()
    table = evidence.tables["scores/selections.parquet"]
    kinds = table[table["role"] == "kind"]
    partial = table[(table["role"] == "partial") & table["parent"].isin(kinds["selection"])]
    found: list[dict[str, Any]] = []
    last: tuple[Arena, dict[str, Place]] | None = None
    selections: list[Any] = list(pd.concat([kinds, partial]).itertuples(index=False))
    for selection in selections:
        keys = [m for m in selection.models if _takes_part(evidence.charts.get(m))]
        pairs, left_out = _pairs(selection, keys, evidence)
        if left_out:
            findings.notes.append(
                f"transfer on {selection.selection}: more than {MOST_PAIRS} pairs; left out, as "
                f"further variants of their families: {', '.join(left_out)}"
            )
        if not pairs:
            continue
        label = selection.parent or selection.selection
        ids = subsample(list(selection.ids), ROWS, seed=evidence.seed, label=f"transfer:{label}")
        sha256 = ids_sha256(ids)
        if last is None or last[0].sha256 != sha256:
            made = _arena(evidence, ids, sha256)
            if isinstance(made, str):
                findings.notes.append(f"transfer on {selection.selection}: {made}")
                continue
            last = made, {}
        arena, places = last
        arena.selection, arena.found = str(selection.selection), []
        found += _compare(evidence, arena, places, pairs, ids, findings.notes)
    rows = pd.DataFrame(found, columns=[c for c in TRANSFER.columns if c != "release"])
    rows.insert(0, "release", evidence.release)
    rows["seed"], rows["permutations"] = evidence.seed, evidence.permutations
    findings.tables[TABLE] = typed(rows[list(TRANSFER.columns)].copy(), TRANSFER)
    return findings


def _takes_part(chart: Chart | None) -> bool:
    """Element tables are one linear map of the composition each; that stands in for them all."""
    return chart is not None and not chart.card.context_free


def _pairs(
    selection: Any, keys: Sequence[str], evidence: Evidence
) -> tuple[list[tuple[str, str]], list[str]]:
    """Ordered pairs to map between, and charts left out to keep them few."""
    if selection.role == "partial":
        own = str(selection.selection).rsplit("|", 1)[1]
        if own not in keys:
            return [], []
        others = [key for key in keys if key != own]
        pairs = [pair for other in others for pair in ((other, own), (own, other))]
        return [*((COMPOSITION, key) for key in keys), *pairs], []
    kept = list(keys)
    most = len(keys)
    while len(kept) * (len(kept) - 1) > MOST_PAIRS and most > 1:
        most -= 1
        counts: dict[str, int] = {}
        kept = []
        for key in keys:
            family = evidence.charts[key].card.family
            counts[family] = counts.get(family, 0) + 1
            if counts[family] <= most:
                kept.append(key)
    if not kept:
        return [], []
    pairs = [(COMPOSITION, key) for key in kept]
    pairs += [(a, b) for a in kept for b in kept if a != b]
    return pairs, [key for key in keys if key not in kept]


def _arena(evidence: Evidence, ids: Sequence[str], sha256: str) -> Arena | str:
    """The rows in parts with their labels, or why they will not do."""
    if len(ids) < 3 * LEAST_ROWS:
        return f"{len(ids)} rows, {3 * LEAST_ROWS} needed"
    formulas = evidence.structures.loc[list(ids), "formula"].astype(str)
    parts = Parts.of(ids, list(formulas), draws=evidence.permutations, seed=evidence.seed)
    if parts.lack:
        return parts.lack
    shares = read_outs.composition(evidence.structures.loc[list(ids)])
    trained = np.zeros(len(ids), dtype=bool)
    trained[np.concatenate([parts.fit, parts.probe])] = True
    labels = {}
    for name, values in read_outs.read_outs(evidence, ids).items():
        if read_outs.is_energy(name):
            values = read_outs.beyond_composition(values, shares, trained)
        counts = [np.isfinite(values[rows]).sum() for rows in (parts.probe, parts.test)]
        if min(counts) >= LEAST_LABELLED or (min(counts) >= LEAST_ROWS and "." not in name):
            labels[name] = values
    return Arena("", sha256, len(ids), parts, labels, evidence.k)


def _compare(
    evidence: Evidence,
    arena: Arena,
    places: dict[str, Place],
    pairs: Sequence[tuple[str, str]],
    ids: Sequence[str],
    notes: list[str],
) -> list[dict[str, Any]]:
    """All maps of the pairs, and the native probes of their models."""
    for key in dict.fromkeys(key for pair in pairs for key in pair):
        if key not in places:
            places[key] = _place(evidence, key, ids, arena.parts)
    constant = [key for key, place in places.items() if not place.varied]
    if constant:
        notes.append(f"transfer on {arena.selection}: constant there: {', '.join(constant)}")
    done: set[str] = set()
    rotations: dict[tuple[str, str], maps.RotationMap] = {}
    for a, b in pairs:
        if a in constant or b in constant:
            continue
        first, second = places[a], places[b]
        for place in (first, second):
            if place.name not in done:
                done.add(place.name)
                _native(arena, place)
        if (a, b) not in rotations:
            rotations[a, b], rotations[b, a] = maps.rotation_map(
                first.linear.whole, second.linear.whole
            )
        _between(arena, first, second, rotations.pop((a, b)))
    return arena.found


def _place(evidence: Evidence, key: str, ids: Sequence[str], parts: Parts) -> Place:
    if key == COMPOSITION:
        shares = read_outs.composition(evidence.structures.loc[list(ids)])
        return Place(COMPOSITION, "elements", "composition", shares, parts)
    chart = evidence.charts[key]
    rows = evidence.reader.rows(key, ids)
    return Place(chart.card.id, chart.layer.name, chart.card.modality, rows, parts)


def _between(arena: Arena, first: Place, second: Place, rotation: maps.RotationMap) -> None:
    """Every map from the first space to the second."""
    parts = arena.parts
    source = first.rows[parts.test]
    linear = first.linear.fit(second.rows[parts.fit])
    for name, predicted in (
        ("linear", linear(source)),
        ("local", first.local(second.fitted)),
        ("rotation", rotation(source)),
    ):
        distances = held_out.squared_distances(predicted, second.tested)
        arena.add(
            first,
            second,
            name,
            held_out.reconstruction(distances, second.spread, parts.blocks, parts.draws)
            | held_out.retrieval(distances, arena.k, parts.blocks, parts.draws),
        )
        if name != "local":
            moved = predicted * second.standard.scale + second.standard.mean
            _read(arena, first, second, name, moved)
    distances = held_out.squared_distances(
        *(_unit(place.relative[parts.test]) for place in (first, second))
    )
    arena.add(
        first,
        second,
        "relative",
        held_out.retrieval(distances, arena.k, parts.blocks, parts.draws),
    )
    _read(arena, first, second, "relative", first.relative[parts.test])


def _unit(rows: Array) -> Array:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0))


def _native(arena: Arena, place: Place) -> None:
    """Probes trained and read in one space: what a map into it can reach at most."""
    _read(arena, place, place, "identity", place.rows[arena.parts.test])


def _read(arena: Arena, first: Place, second: Place, map_: str, moved: Array) -> None:
    """Probes of the second space, read on test rows of the first that were moved there."""
    parts = arena.parts
    for name, truth, probe, count in _probes(arena, second, relative=map_ == "relative"):
        labelled = np.isfinite(truth)
        predicted = probe(moved[labelled])[:, 0] * probe.target.scale + probe.target.mean[0]
        whole = bool(labelled.all())
        groups = [g for g, own in zip(parts.test_groups, labelled, strict=True) if own]
        blocks = parts.blocks if whole else held_out.blocks_of(groups, seed=0)
        draws = parts.draws if whole else _redraw(len(groups), len(parts.draws))
        estimate = held_out.explained(truth[labelled], predicted, blocks, draws)
        arena.add(
            first,
            second,
            map_,
            {"probe_r2": estimate},
            read_out=name,
            n_probe=count,
            n_test=int(labelled.sum()),
        )


def _redraw(n: int, count: int) -> NDArray[np.intp]:
    return permutations(n, count, seed=n).indices.astype(np.intp)


def _probes(
    arena: Arena, place: Place, *, relative: bool
) -> Iterator[tuple[str, Array, maps.LinearMap, int]]:
    """Name, values on the test part, probe, and rows it was trained on."""
    parts = arena.parts
    rows = (place.relative if relative else place.rows)[parts.probe]
    sources: dict[bytes, maps.LinearSource] = {}
    for name, values in arena.labels.items():
        labelled = np.isfinite(values[parts.probe])
        half = parts.probe_half[labelled]
        if not 2 <= half.sum() <= len(half) - 2:
            continue
        if np.ptp(values[parts.probe][labelled]) == 0 or np.nanstd(values[parts.test]) == 0:
            continue
        if (name, relative) not in place.probes:
            mask = labelled.tobytes()
            if mask not in sources:
                least = RELATIVE_STRENGTH if relative else 0.0
                sources[mask] = maps.LinearSource(rows[labelled], half, least=least)
            place.probes[name, relative] = sources[mask].fit(values[parts.probe][labelled, None])
        yield name, values[parts.test], place.probes[name, relative], int(labelled.sum())
