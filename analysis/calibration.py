# SPDX-License-Identifier: Apache-2.0
"""How far a score is from chance, and how sure it is: permutations, p-values, jackknife.

Source of the calibrated score: Groeger et al. 2026, "Aristotelian" calibration, Eqs 8-12.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..schemas.errors import MetricError

JACKKNIFE_BLOCKS = 10
"""Blocks of the delete-block jackknife; its standard error is itself known to about a quarter."""


@dataclass(frozen=True)
class Cycle:
    """A cyclic group of permutations: ``order`` relabels the rows, ``shifts`` rotate them.

    Draw ``s`` sends the row at place p of ``order`` to the row at place (p + s) mod n.
    """

    order: NDArray[np.intp]
    shifts: NDArray[np.intp]


@dataclass(frozen=True)
class Permutations:
    """Relabelings of n rows, the same for every pair and metric.

    Attributes
    ----------
    indices : int32 array, shape (K, n)
        Row i of the permuted second model is row ``indices[draw, i]`` of the original.
    cycles : tuple of Cycle
        The structure of the draws, in their order; empty when restricted to groups.
    """

    indices: NDArray[np.int32]
    cycles: tuple[Cycle, ...] = ()

    @property
    def count(self) -> int:
        """Number of draws."""
        return int(self.indices.shape[0])


def permutations(
    n: int, count: int, *, seed: int = 0, groups: ArrayLike | None = None
) -> Permutations:
    """Draw ``count`` relabelings of ``n`` rows.

    Without ``groups`` they are rotations of randomly ordered rows: a random relabeling, then
    distinct shifts drawn from 1..n-1 (a further relabeling for every n - 1 draws). The shifts of
    one relabeling and the identity form a group, so the test is exact when rows are exchangeable,
    as with unrestricted shuffles; and every shift of a product of two n x n matrices comes out of
    one Fourier transform along their diagonals. No draw leaves any row in its place.

    With ``groups`` rows are shuffled uniformly within equal labels only (rows of one trajectory or
    composition are exchangeable with each other, not with the rest).

    Raises
    ------
    MetricError
        If the labels do not fit the rows, or every group is a single row (nothing can move).
    """
    if isinstance(count, bool) or int(count) != count or count < 0:
        raise MetricError(f"permutations={count!r} is not a whole number of at least 0")
    random = np.random.default_rng(seed)
    if groups is None:
        return _rotations(n, int(count), random)
    labels = np.asarray(groups)
    if labels.shape != (n,):
        raise MetricError(f"groups has shape {labels.shape}, one label for each of {n} rows needed")
    coded = np.unique(labels, return_inverse=True)[1]
    if np.bincount(coded).max() < 2:
        raise MetricError("groups: every row is a group of its own; use coarser labels or None")
    home = np.argsort(coded, kind="stable")
    indices = np.empty((int(count), n), np.int32)
    for draw in indices:
        draw[home] = np.lexsort((random.random(n), coded))
    return Permutations(indices)


def _rotations(n: int, count: int, random: np.random.Generator) -> Permutations:
    indices = np.empty((count, n), np.int32)
    cycles = []
    done = 0
    while done < count:
        order = random.permutation(n)
        shifts = 1 + random.permutation(n - 1)[: count - done]
        places = (np.arange(n) + shifts[:, None]) % n
        indices[done : done + shifts.size, order] = order[places]
        cycles.append(Cycle(order, shifts))
        done += shifts.size
    return Permutations(indices, tuple(cycles))


def null_quantile(
    observed: NDArray[np.float64], null: NDArray[np.float64], *, alpha: float, larger: bool
) -> NDArray[np.float64]:
    """Threshold a score must pass at level ``alpha``.

    The ceil((1 - alpha)(K + 1))-th smallest of the K null draws and the observed score itself
    (Groeger et al., Eq. 8); mirrored where smaller is more similar.

    Parameters
    ----------
    observed : float64 array, shape (...)
    null : float64 array, shape (K, ...)
    larger : bool
        Whether larger scores are more similar.
    """
    sign = 1.0 if larger else -1.0
    everything = np.sort(sign * np.concatenate([null, observed[None]]), axis=0)
    place = int(np.ceil(np.round((1.0 - alpha) * everything.shape[0], 9))) - 1
    return sign * everything[place]


def p_value(
    observed: NDArray[np.float64], null: NDArray[np.float64], *, larger: bool
) -> NDArray[np.float64]:
    """(1 + #{null at least as similar as observed}) / (K + 1); NaN where the score is."""
    reached = null >= observed if larger else null <= observed
    value = (1.0 + reached.sum(axis=0)) / (null.shape[0] + 1.0)
    return np.where(np.isnan(observed), np.nan, value)


def calibrated(
    observed: NDArray[np.float64], quantile: NDArray[np.float64], best: float, *, larger: bool
) -> NDArray[np.float64]:
    """max((s - tau) / (s_max - tau), 0): 0 at the null's threshold, 1 at the best possible score.

    Where smaller is more similar both differences change sign (Groeger et al., Eq. 10, mirrored).
    0 where even the best score would not pass the threshold, as with too few draws.
    """
    sign = 1.0 if larger else -1.0
    room = sign * (best - quantile)
    gain = sign * (observed - quantile)
    value = np.where(room > 0, np.maximum(gain / np.where(room > 0, room, 1.0), 0.0), 0.0)
    return np.where(np.isnan(gain), np.nan, value)


def jackknife_blocks(
    n: int, *, least: int, seed: int = 0, blocks: int = JACKKNIFE_BLOCKS
) -> NDArray[np.intp] | None:
    """Assign rows to random blocks of equal size (to within one row), shape (n,).

    The fewest blocks, from ``blocks`` up, are used that leave ``least`` rows when one is deleted;
    None when no number of blocks does.
    """
    for number in range(min(blocks, n), n + 1):
        if n - -(-n // number) >= least and number > 1:
            labels = np.arange(n) % number
            return np.random.default_rng([seed, n]).permutation(labels).astype(np.intp)
    return None


def standard_error(deleted: Sequence[Any] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Delete-block jackknife: sqrt((G - 1) / G * sum of squared deviations) over axis 0."""
    values = np.asarray(deleted, float)
    count = values.shape[0]
    spread = ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    return np.asarray(np.sqrt((count - 1) / count * spread))
