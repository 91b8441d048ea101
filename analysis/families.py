# SPDX-License-Identifier: Apache-2.0
"""Each family of metrics over all pairs of models: values, values without a block, null draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .blocks import MINIMUM_ROWS, Normalise, Space
from .calibration import Permutations
from .metrics.cards import MetricName
from .metrics.cka import feature_covariances, features_are_cheaper, null_feature_covariances
from .metrics.cknna import Variant, align, divide_by_self, kernel_edges, kernel_similarity
from .metrics.information_imbalance import from_mean_rank
from .metrics.intrinsic_dimension import Method, dimension_from, distinct
from .neighbours import Neighbours, Similarity, nearest, nearest_among
from .nulls import null_covariances
from .overlaps import SharedSums, shared_sums
from .ranks import rank_means
from .tiles import Kernel, PairSums, correlation, pair_sums


@dataclass(frozen=True)
class Measured:
    """One metric over all pairs.

    Attributes
    ----------
    value : float64 array, shape (m, m); (m,) for a metric of one model
    deleted : float64 array, shape (G, m, m) or (G, m), or None
        The same without each jackknife block.
    null : float64 array, shape (K, m, m), or None
    """

    value: NDArray[np.float64]
    deleted: NDArray[np.float64] | None
    null: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Sampling:
    """What is resampled: jackknife block of each row (or None), and relabelings."""

    blocks: NDArray[np.intp] | None
    draws: Permutations

    @property
    def count(self) -> int:
        """Number of jackknife blocks."""
        return 0 if self.blocks is None else int(self.blocks.max()) + 1

    def kept(self, block: int) -> NDArray[np.bool_]:
        """Rows outside one block, shape (n,)."""
        assert self.blocks is not None
        return np.asarray(self.blocks != block)


class NeighbourLists:
    """Neighbour lists of the models, each searched once and shared by the families."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        # The space is kept beside its lists, so that its id stays its own.
        self._lists: dict[tuple[int, Similarity], tuple[Space, Neighbours]] = {}

    def reach(self, k: int, n: int) -> int:
        """How far to search for ``k`` neighbours to be left when any one block is deleted."""
        if not self.blocks:
            return k
        lost = (k + 4.0) / (self.blocks - 1.0) if self.blocks > 1 else float(n)
        return int(min(n - 1, k + np.ceil(lost + 8.0 * np.sqrt(lost)) + 1))

    def of(self, space: Space, k: int, similarity: Similarity = "euclidean") -> Neighbours:
        """At least ``k`` neighbours a row, with those to spare."""
        return self.held(space, self.reach(k, space.n), similarity)

    def held(self, space: Space, count: int, similarity: Similarity = "euclidean") -> Neighbours:
        """At least ``count`` neighbours a row."""
        key = (id(space), similarity)
        held = self._lists.get(key)
        if held is None or held[1].indices.shape[1] < count:
            held = space, nearest(space, count, similarity=similarity)
            self._lists[key] = held
        return held[1]

    def hold(self, space: Space, found: Neighbours) -> None:
        """Keep lists of smallest distances that were found elsewhere."""
        self._lists[id(space), "euclidean"] = space, found


def mirror(upper: NDArray[np.float64]) -> NDArray[np.float64]:
    """Copy the upper triangle of (..., m, m) to the lower one."""
    strict = np.triu(upper, 1)
    return np.triu(upper) + np.swapaxes(strict, -1, -2)


def measure_neighbour_overlap(
    spaces: Sequence[Space],
    lists: NeighbourLists,
    sampling: Sampling,
    *,
    k: int,
    normalise: Normalise,
    variant: Variant | None,
    count: bool,
) -> dict[MetricName, Measured]:
    """CKNNA (unless ``variant`` is None) and mutual kNN (if ``count``) of the same row scaling.

    Where every model's largest inner products are its smallest distances, the shared edges are
    found once for both.
    """
    similar = [
        "euclidean" if variant is None else kernel_similarity(space, normalise) for space in spaces
    ]
    if count and "inner" in similar:
        again = partial(
            measure_neighbour_overlap, spaces, lists, sampling, k=k, normalise=normalise
        )
        return again(variant=None, count=True) | again(variant=variant, count=False)
    full = [lists.of(space, k, how) for space, how in zip(spaces, similar, strict=True)]

    def sums(kept: NDArray[np.bool_], draws: Permutations | None = None) -> SharedSums:
        edges = []
        for space, found, how in zip(spaces, full, similar, strict=True):
            near = nearest_among(space, found, kept, k, similarity=how)
            edges.append(kernel_edges(space, near, variant=variant, similarity=how, kept=kept))
        return shared_sums(edges, draws, kernels=variant is not None)

    every = np.ones(spaces[0].n, bool)
    observed = sums(every)
    deleted = [
        (sampling.kept(block), sums(sampling.kept(block))) for block in range(sampling.count)
    ]
    null = sums(every, sampling.draws) if sampling.draws.count else None
    out: dict[MetricName, Measured] = {}
    if count:
        out["mutual_knn"] = Measured(
            mirror(observed.count / (every.size * k)),
            _stack([mirror(part.count / (kept.sum() * k)) for kept, part in deleted]),
            None if null is None else mirror(null.count / (every.size * k)),
        )
    if variant is not None:
        full_alignment = align(observed, every.size, variant=variant)
        parts = [align(part, int(kept.sum()), variant=variant) for kept, part in deleted]
        out["cknna"] = Measured(
            mirror(divide_by_self(full_alignment, full_alignment)),
            _stack([mirror(divide_by_self(part, part)) for part in parts]),
            None
            if null is None
            else mirror(divide_by_self(align(null, every.size, variant=variant), full_alignment)),
        )
    return out


def _stack(parts: list[NDArray[np.float64]]) -> NDArray[np.float64] | None:
    return np.stack(parts) if parts else None


def measure_global(
    spaces: Sequence[Space], sampling: Sampling, kernels: Sequence[Kernel]
) -> dict[Kernel, Measured]:
    """Unbiased linear CKA ("linear") and bias-corrected distance correlation ("distance")."""
    passes = 1 + sampling.draws.count
    tiled: list[Kernel] = list(kernels)
    out: dict[Kernel, Measured] = {}
    n = spaces[0].n
    order = np.arange(n)
    bounds = None
    if sampling.blocks is not None:
        order = np.argsort(sampling.blocks, kind="stable")
        bounds = np.concatenate([[0], np.cumsum(np.bincount(sampling.blocks))])
    sorted_spaces = [space.take(order) for space in spaces]
    if "linear" in tiled and features_are_cheaper(
        spaces, passes=passes, shared="distance" in tiled
    ):
        tiled.remove("linear")
        full, without = feature_covariances(sorted_spaces, bounds)
        scale = np.diagonal(full)
        deleted = None
        if bounds is not None:
            deleted = np.stack([correlation(part, scale=scale) for part in without])
        null = None
        if sampling.draws.count:
            null = _null_correlation(null_feature_covariances(spaces, sampling.draws), full)
        out["linear"] = Measured(correlation(full), deleted, null)
    if not tiled:
        return out
    sums = pair_sums(sorted_spaces, tiled, bounds)
    place = np.argsort(order)
    row_sums = {kernel: part.rows.sum(axis=2)[:, place] for kernel, part in sums.items()}
    nulls = null_covariances(spaces, row_sums, sampling.draws) if sampling.draws.count else {}
    for kernel, part in sums.items():
        out[kernel] = _from_sums(part, nulls.get(kernel), blocks=bounds is not None)
    return out


def _from_sums(sums: PairSums, null: NDArray[np.float64] | None, *, blocks: bool) -> Measured:
    value, deleted = correlations(sums)
    if null is not None:
        null = _null_correlation(null, sums.covariance(unbiased=True))
    return Measured(value, deleted if blocks else None, null)


def correlations(sums: PairSums) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unbiased correlations of all pairs (m, m), and the same without each block (G, m, m)."""
    full = sums.covariance(unbiased=True)
    scale = np.diagonal(full)
    blocks = range(sums.bounds.size - 1)
    if len(blocks) == 1:
        return correlation(full), np.empty((0, *full.shape))
    without = [
        correlation(sums.covariance_without(block, unbiased=True), scale=scale) for block in blocks
    ]
    return correlation(full), np.stack(without)


def _null_correlation(
    null: NDArray[np.float64], observed: NDArray[np.float64]
) -> NDArray[np.float64]:
    length = np.sqrt(np.where(np.diagonal(observed) > 0, np.diagonal(observed), np.nan))
    return mirror(null / np.outer(length, length))


def measure_imbalance(
    spaces: Sequence[Space], lists: NeighbourLists, sampling: Sampling, *, k: int
) -> Measured:
    """Information imbalance from the first model to the second."""
    n = spaces[0].n
    found = [lists.of(space, k) for space in spaces]
    without = None
    if sampling.count:
        without = []
        for space, one in zip(spaces, found, strict=True):
            near = np.zeros((sampling.count, n, k), np.int32)
            for block in range(sampling.count):
                kept = sampling.kept(block)
                near[block, kept] = nearest_among(space, one, kept, k).indices
            without.append(near)
    ranks = rank_means(
        spaces,
        [one.indices[:, :k] for one in found],
        blocks=sampling.blocks,
        neighbours_without=without,
        draws=sampling.draws,
    )
    deleted = None
    if ranks.deleted is not None and sampling.blocks is not None:
        left = n - np.bincount(sampling.blocks, minlength=sampling.count)
        deleted = 2.0 * ranks.deleted / left[:, None, None]
    null = None if ranks.null is None else from_mean_rank(ranks.null, n)
    return Measured(from_mean_rank(ranks.observed, n), deleted, null)


def measure_dimension(
    spaces: Sequence[Space],
    lists: NeighbourLists,
    sampling: Sampling,
    *,
    method: Method,
    k: int,
) -> Measured:
    """Intrinsic dimension of each model, (m,)."""
    needed = 2 if method == "twonn" else k
    values = np.full(len(spaces), np.nan)
    deleted = np.full((sampling.count, len(spaces)), np.nan) if sampling.count else None
    for index, space in enumerate(spaces):
        rows = distinct(space)
        if rows.n < max(MINIMUM_ROWS, needed + 1):
            continue
        found = lists.of(rows, needed)
        values[index] = dimension_from(found.scores[:, :needed], method=method)
        if deleted is None:
            continue
        for block in range(sampling.count):
            kept = sampling.kept(block)
            if space.copies is not None:  # a distinct row stays while any copy of it does
                kept = np.bincount(space.copies[kept], minlength=rows.n) > 0
            if kept.sum() < max(MINIMUM_ROWS, needed + 1):
                continue
            near = nearest_among(rows, found, kept, needed)
            deleted[block, index] = dimension_from(near.scores, method=method)
    return Measured(values, deleted)
