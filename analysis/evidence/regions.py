# SPDX-License-Identifier: Apache-2.0
"""Which rows a readout is trained and read on: a region, its cues, its folds.

Names of samples do not hold the model, so that models with the same rows get the same sample and
baselines are read once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..selections import ids_sha256, subsample
from .cues import Cue
from .readout import (
    Array,
    bootstrap_weights,
    cross_read,
    determined,
    explained,
    group_folds,
    narrowed,
    ranked,
    tamed,
)

#: Rows of one side of a readout, at most.
ROWS = 1000
#: Different formulas a side must hold; fewer leave too little to cross-validate by formula.
FORMULAS = 10
#: Formulas that must have a class, or hold an element whose share is read, on either side.
CLASS_FORMULAS = 8


@dataclass(frozen=True)
class Scored:
    """Draws of one score: the sample's own first, then bootstrap draws; and R2 (or NaN)."""

    draws: Array
    r2: float

    @property
    def value(self) -> float:
        """The score on the sample as it is."""
        return float(self.draws[0])


@dataclass
class Region:
    """Rows and cues that are all defined on them.

    Attributes
    ----------
    name : str
        ``all:crystal``, ``out:molecule`` or ``set:stratum``.
    inside, outside : tuple of str
        Ids. With ``outside`` both have the same number; without, only ``inside`` is read.
    cues : list of Cue
    """

    name: str
    inside: tuple[str, ...]
    outside: tuple[str, ...]
    cues: list[Cue]
    place: pd.Series = field(repr=False)
    formulas: NDArray[np.intp] = field(repr=False)
    seed: int = 0

    @cached_property
    def key(self) -> tuple[str, str, str]:
        """What tells two regions apart."""
        return (
            ids_sha256(self.inside),
            ids_sha256(self.outside),
            ",".join(c.name for c in self.cues),
        )

    def rows(self, side: str) -> NDArray[np.intp]:
        """Positions in the table of structures of ``inside`` or ``outside``."""
        return self.place.loc[list(getattr(self, side))].to_numpy()

    def groups(self, side: str) -> NDArray[np.intp]:
        """Codes of the formulas, which are never split between folds."""
        return self.formulas[self.rows(side)]

    @cached_property
    def weights(self) -> dict[str, Array]:
        """Bootstrap weights of both sides; every model's are the same, so that all is paired."""
        return {
            side: bootstrap_weights(self.groups(side), seed=self.seed)
            for side in ("inside", "outside")
            if getattr(self, side)
        }

    @cached_property
    def folds(self) -> dict[str, NDArray[np.intp]]:
        """Folds of both sides."""
        return {s: group_folds(self.groups(s), seed=self.seed) for s in self.weights}

    def targets(self, cue: Cue, side: str) -> Array:
        """Values of a cue; of a regression those that vary enough on both sides."""
        values = cue.values[self.rows(side)]
        if cue.values.shape[1] == 1:
            return values
        return values[:, self.shared_targets(cue)]

    def shared_targets(self, cue: Cue) -> NDArray[np.bool_]:
        """Targets of a cue that vary enough on either side, shape (t,)."""
        enough = np.ones(cue.values.shape[1], dtype=bool)
        for side in self.weights:
            enough &= varied(cue.values[self.rows(side)], self.groups(side))
        return enough


def varied(values: Array, groups: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Targets that differ from their commonest value in enough formulas, shape (t,)."""
    out = np.zeros(values.shape[1], dtype=bool)
    for column in range(values.shape[1]):
        levels, counts = np.unique(values[:, column], return_counts=True)
        rest = values[:, column] != levels[np.argmax(counts)]
        out[column] = len(np.unique(groups[rest])) >= CLASS_FORMULAS
    return out


def both_classes(values: Array, groups: NDArray[np.intp]) -> bool:
    """Whether either class is held by enough formulas."""
    return all(len(np.unique(groups[values[:, 0] == c])) >= CLASS_FORMULAS for c in (0.0, 1.0))


def make_regions(
    name: str,
    inside: pd.Index,
    outside: pd.Index | None,
    *,
    cues: Sequence[Cue],
    place: pd.Series,
    formulas: NDArray[np.intp],
    least: int,
    most: int,
    seed: int,
) -> Iterator[Region]:
    """A region for each lot of cues that are defined on the same of these rows.

    Parameters
    ----------
    inside, outside :
        Ids; without ``outside`` the region is read as a whole.
    place :
        Id -> row in the tables of cues.
    formulas : int array, shape (structures,)
        Codes of the formulas.
    least, most :
        Rows of a side.
    """
    sides = [inside] if outside is None else [inside, outside]
    lots: dict[bytes, list[Cue]] = {}
    for cue in cues:
        defined = cue.defined
        mask = b"|".join(defined[place.loc[s].to_numpy()].tobytes() for s in sides)
        lots.setdefault(mask, []).append(cue)
    for lot in lots.values():
        defined = lot[0].defined
        pools = [s[defined[place.loc[s].to_numpy()]] for s in sides]
        size = min(most, *(len(p) for p in pools))
        if size < least:
            continue
        taken = [
            subsample(list(pool), size, seed=seed, label=f"cues:{name}:{side}:{lot[0].name}")
            for side, pool in enumerate(pools)
        ]
        far = taken[1] if len(taken) > 1 else ()
        region = Region(name, taken[0], far, [], place, formulas, seed)
        if min(len(np.unique(region.groups(s))) for s in region.weights) < FORMULAS:
            continue
        region.cues = [cue for cue in lot if _readable(region, cue)]
        if region.cues:
            yield region


def _readable(region: Region, cue: Cue) -> bool:
    for side in region.weights:
        values, groups = cue.values[region.rows(side)], region.groups(side)
        if cue.task == "classification" and not both_classes(values, groups):
            return False
        if cue.task == "regression" and cue.values.shape[1] == 1 and not varied(values, groups)[0]:
            return False
    return cue.values.shape[1] == 1 or bool(region.shared_targets(cue).any())


def read_region(
    region: Region, inside: Array, outside: Array | None
) -> dict[str, dict[str, Scored]]:
    """Scores of all cues of a region from one embedding.

    Returns
    -------
    dict of side to dict of cue to Scored
        ``all`` without ``outside``; else ``inside`` (cross-validated), ``outside`` (by the maps
        trained inside) and ``bound`` (cross-validated outside).
    """
    n = len(inside)
    if outside is None:
        near, far, there = narrowed(tamed(inside)[0]), None, None
    else:
        rows = narrowed(np.vstack(tamed(inside, outside)))
        near, far, there = rows[:n], rows[n:], narrowed(tamed(outside)[0])
    found: dict[str, dict[str, Scored]] = {}
    for classify in (False, True):
        cues = [c for c in region.cues if (c.task == "classification") is classify]
        if not cues:
            continue
        own = [region.targets(c, "inside") for c in cues]
        cuts = np.cumsum([v.shape[1] for v in own])[:-1]
        y = np.hstack(own)
        if there is None:
            read = cross_read(near, y, region.folds["inside"], classify=classify)
            parts = {"all": (own, read.own, "inside")}
        else:
            read = cross_read(
                near,
                y,
                region.folds["inside"],
                classify=classify,
                other=far,
                other_folds=region.folds["outside"],
            )
            others = [region.targets(c, "outside") for c in cues]
            bound = cross_read(there, np.hstack(others), region.folds["outside"], classify=classify)
            assert read.other is not None
            parts = {
                "inside": (own, read.own, "inside"),
                "outside": (others, read.other, "outside"),
                "bound": (others, bound.own, "outside"),
            }
        for side, (truth, guess, weights) in parts.items():
            pieces = zip(cues, truth, np.split(guess, cuts, axis=1), strict=True)
            for cue, values, said in pieces:
                score = ranked if classify else explained
                draws = score(values, said, region.weights[weights])
                r2 = float(np.nan) if classify else determined(values, said)
                found.setdefault(side, {})[cue.name] = Scored(draws, r2)
    return found
