# SPDX-License-Identifier: Apache-2.0
"""Ranks of one space's neighbours in another, for all pairs of models, a block of rows at a time.

A block's rows are ranked once per model; observed values, values without a jackknife block and
null draws all look their ranks up in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .blocks import Space, row_blocks, rows_per_block
from .calibration import Permutations


@dataclass(frozen=True)
class RankMeans:
    """Mean ranks in model b of the neighbours in model a, ranks from 1; ties share their mean.

    Attributes
    ----------
    observed : float64 array, shape (m, m)
        Entry [a, b].
    deleted : float64 array, shape (G, m, m), or None
        The same without each jackknife block.
    null : float64 array, shape (K, m, m), or None
        The same with model b's rows relabeled by each draw.
    """

    observed: NDArray[np.float64]
    deleted: NDArray[np.float64] | None
    null: NDArray[np.float64] | None


def rank_means(
    spaces: Sequence[Space],
    neighbours: Sequence[NDArray[np.int32]],
    *,
    blocks: NDArray[np.intp] | None = None,
    neighbours_without: Sequence[NDArray[np.int32]] | None = None,
    draws: Permutations | None = None,
) -> RankMeans:
    """Rank every model's neighbours in every model.

    Parameters
    ----------
    spaces : sequence of m Space
        The models over the same n rows.
    neighbours : sequence of m int32 arrays, shape (n, k)
        Nearest rows of each model, whose ranks in the others are averaged.
    blocks : int array, shape (n,), optional
        Jackknife block of each row.
    neighbours_without : sequence of m int32 arrays, shape (G, n, k), optional
        Nearest rows outside each block; entries of rows inside it are not used.
    draws : Permutations, optional
        Relabelings of the second model of each ordered pair.

    Notes
    -----
    n^2 sum(d) flops, m n^2 log n comparisons, and m^2 n k (1 + G + K) look-ups; memory O(tile).
    """
    m, n = len(spaces), spaces[0].n
    first = np.stack(neighbours)
    k = first.shape[2]
    observed = np.zeros((m, m))
    count = 0 if blocks is None else int(blocks.max()) + 1
    deleted = np.zeros((count, m, m)) if count else None
    without = np.stack(neighbours_without) if neighbours_without is not None else None
    null = np.zeros((draws.count, m, m)) if draws is not None and draws.count else None
    inverse = None if null is None or draws is None else np.argsort(draws.indices, axis=1)
    per_row = n * (48 + 24 * count) + (0 if null is None else 8 * m * k * null.shape[0])
    for rows in row_blocks(0, n, rows_per_block(per_row, n)):
        here = np.arange(rows.stop - rows.start)
        targets = first[:, rows]
        moved = None
        if null is not None and inverse is not None and draws is not None:
            # Row r of b stands at place inverse[r]; a's neighbours there are b's rows indices[...].
            places = first[:, inverse[:, rows]]  # (m, K, rows, k)
            draw = np.arange(null.shape[0])[None, :, None, None]
            moved = draws.indices[draw, places]
        for b, space in enumerate(spaces):
            ranks, before = _ranks_and_blocks(space, rows, blocks, count)
            observed[:, b] += ranks[here[:, None], targets].sum(axis=(1, 2))
            if deleted is not None and without is not None and blocks is not None:
                assert before is not None
                for block in range(count):
                    kept = np.flatnonzero(blocks[rows] != block)
                    chosen = without[:, block, rows][:, kept]
                    place = ranks[kept[:, None], chosen]
                    lost = before[kept[:, None], block, chosen]
                    deleted[block, :, b] += (place - lost).sum(axis=(1, 2))
            if null is not None and moved is not None:
                null[:, :, b] += ranks[here[:, None], moved].sum(axis=(2, 3)).T
    observed /= n * k
    if deleted is not None and blocks is not None:
        deleted /= k * (n - np.bincount(blocks, minlength=count))[:, None, None]
    if null is not None:
        null /= n * k
    return RankMeans(observed, deleted, null)


def _ranks_and_blocks(
    space: Space, rows: slice, blocks: NDArray[np.intp] | None, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Ranks (rows, n) of all rows, 1 for the nearest; and how many of each block come before.

    Rows at the same distance share the mean of their ranks, and count as half before each other:
    (rows, G, n).
    """
    squared = space.squared_distances(rows)
    size, n = squared.shape
    squared[np.arange(size), np.arange(rows.start, rows.stop)] = np.inf  # a row comes last
    order = np.argsort(squared, axis=1)
    ordered = np.take_along_axis(squared, order, axis=1)
    fresh = np.ones(squared.shape, bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = np.broadcast_to(np.arange(n), squared.shape)
    first = np.maximum.accumulate(np.where(fresh, place, 0), axis=1)
    ends = np.ones(squared.shape, bool)
    ends[:, :-1] = fresh[:, 1:]
    last = np.minimum.accumulate(np.where(ends, place, n)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(squared.shape)
    np.put_along_axis(ranks, order, 1.0 + 0.5 * (first + last), axis=1)
    if blocks is None or count == 0:
        return ranks, None
    member = blocks[order][:, None, :] == np.arange(count)[None, :, None]
    upto = np.zeros((size, count, n + 1))
    np.cumsum(member, axis=2, out=upto[:, :, 1:])
    closer = np.take_along_axis(upto, first[:, None, :], axis=2)
    closer += np.take_along_axis(upto, last[:, None, :] + 1, axis=2)
    before = np.empty(member.shape)
    np.put_along_axis(
        before, np.broadcast_to(order[:, None, :], member.shape), 0.5 * closer, axis=2
    )
    return ranks, before


def rank_tile(space: Space, rows: slice) -> NDArray[np.float64]:
    """Ranks of all rows seen from some, shape (rows, n): 1 for the nearest, a row itself last."""
    return _ranks_and_blocks(space, rows, None, 0)[0]
