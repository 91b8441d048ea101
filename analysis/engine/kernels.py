# SPDX-License-Identifier: Apache-2.0
"""Inner loops over tiles and ranks, compiled: each on one thread, without the interpreter's lock.

Rows are numbered in the order of the jackknife blocks throughout.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..candidates import compiled

#: Sums may be taken in any order: they are spread over the lanes of the processor.
_SUMMING = {"reassoc", "nsz", "contract"}


@compiled(error_model="numpy", fastmath=_SUMMING)
def finish_tile(
    gram: Any,
    squares_rows: Any,
    squares_columns: Any,
    copies_rows: Any,
    copies_columns: Any,
    diagonal: bool,
    shift: float,
    squared: Any,
    distance: Any,
    linear: Any,
    distance_sums: Any,
    linear_sums: Any,
) -> None:
    """Turn inner products into squared distances, distances less ``shift``, and row sums.

    Parameters
    ----------
    gram : float32 array, shape (r, c)
        Inner products of the tile's rows and columns.
    squares_rows, squares_columns : float32 arrays, shape (r,), (c,)
    copies_rows, copies_columns : int32 arrays, shape (r,), (c,), or of no entries
        Labels of equal rows, which are at distance 0; without entries all rows differ.
    diagonal : bool
        Whether the tile's rows are its columns; a row has no entry with itself.
    shift : float
        Taken off every distance, so that sums of products lose no digits.
    squared : float32 array, shape (r, c)
        Filled; infinite for a row with itself.
    distance, linear : float32 arrays, shape (r, c), or of no entries
        Filled; 0 for a row with itself. Without entries they are not wanted.
    distance_sums, linear_sums : float64 arrays, shape (r,)
        Raised by the tile's row sums.
    """
    rows, columns = gram.shape
    copies = copies_rows.size > 0
    distances, products = distance.size > 0, linear.size > 0
    for i in range(rows):
        own = squares_rows[i]
        for j in range(columns):
            value = own + squares_columns[j] - np.float32(2.0) * gram[i, j]
            squared[i, j] = max(value, np.float32(0.0))
        if copies:
            label = copies_rows[i]
            for j in range(columns):
                if copies_columns[j] == label:
                    squared[i, j] = np.float32(0.0)
        if distances:
            less = np.float32(shift)
            for j in range(columns):
                distance[i, j] = np.sqrt(squared[i, j]) - less
            if diagonal:
                distance[i, i] = np.float32(0.0)
            total = 0.0
            for j in range(columns):
                total += distance[i, j]
            distance_sums[i] += total
        if products:
            for j in range(columns):
                linear[i, j] = gram[i, j]
            if diagonal:
                linear[i, i] = np.float32(0.0)
            total = 0.0
            for j in range(columns):
                total += linear[i, j]
            linear_sums[i] += total
        if diagonal:
            squared[i, i] = np.float32(np.inf)


@compiled(error_model="numpy", fastmath=_SUMMING)
def count_closer(squared: Any, low: Any, high: Any, doubled: Any, work: Any) -> None:
    """Count the columns closer than each threshold, and those as close as it, twice and once.

    Thresholds are taken from the largest down. Values above one can count for none below it: they
    are left out as soon as they are half of those left, which where models agree is at once.

    Parameters
    ----------
    squared : float32 array, shape (r, c)
    low, high : float32 arrays, shape (r, t)
        Below ``low`` a column is closer; up to ``high`` it is as close. Both ascend.
    doubled : int32 array, shape (r, t)
        Raised by 2 for each closer column and by 1 for each as close.
    work : float32 array, shape (c,)
        Room to work in.
    """
    rows, columns = squared.shape
    for i in range(rows):
        work[:] = squared[i]
        left = columns
        upto, step, least = low.shape[1], 1, np.int32(0)
        while upto > 0 and left > 0:
            start = max(0, upto - step)
            close = np.int32(0)
            for t in range(start, upto):
                below, within = low[i, t], high[i, t]
                closer, close = np.int32(0), np.int32(0)
                for j in range(left):
                    closer += np.int32(work[j] < below)
                    close += np.int32(work[j] <= within)
                doubled[i, t] += closer + close
                if t == start:
                    least = close
            if start > 0 and 2 * least <= left:
                most = high[i, start - 1]
                kept = 0
                for j in range(left):
                    value = work[j]
                    work[kept] = value
                    kept += value <= most
                left = kept
            upto, step = start, 8


@compiled(error_model="numpy", fastmath=_SUMMING)
def thresholds(
    points: Any,
    first: int,
    targets: Any,
    idle: Any,
    unit: float,
    low: Any,
    high: Any,
    order: Any,
) -> None:
    """Squared distances from rows to given others, with the reach of rounding on either side.

    Parameters
    ----------
    points : float32 array, shape (n, d)
    first : int
        Number of the tile's first row.
    targets : int32 array, shape (r, t)
        The others of each row.
    unit : float
        Rounding error of a squared distance, in parts of the squared lengths it is made of.
    low, high : float32 arrays, shape (r, t)
        Filled, ascending.
    order : int32 array, shape (r, t)
        Filled: which of the others each threshold is of.
    idle : bool array, shape (r, t)
        Others that do not count; they get thresholds below all distances.
    """
    rows, count = targets.shape
    found = np.empty(count, np.float64)
    width = points.shape[1]
    for i in range(rows):
        own = 0.0
        for c in range(width):
            own += np.float64(points[first + i, c]) ** 2
        for t in range(count):
            other = targets[i, t]
            value = 0.0
            for c in range(width):
                gap = np.float64(points[first + i, c]) - np.float64(points[other, c])
                value += gap * gap
            found[t] = -1.0 if idle[i, t] else value
        sorting = np.argsort(found)
        for t in range(count):
            order[i, t] = sorting[t]
            value = found[sorting[t]]
            reach = unit * (own + (np.sqrt(own) + np.sqrt(max(value, 0.0))) ** 2)
            low[i, t] = value - reach if value >= 0.0 else -1.0
            high[i, t] = value + reach if value >= 0.0 else -1.0


@compiled(error_model="numpy")
def sum_members(counts: Any, order: Any, member: Any, bit: int, sums: Any) -> None:
    """Sum counts over the edges that have a bit of membership.

    Parameters
    ----------
    counts, order : int32 arrays, shape (m, r, m w)
        Of model b and row, one a threshold; and which neighbour that is of.
    member : uint16 array, shape (r, m w)
        Of row, and neighbour in model a.
    sums : int64 array, shape (m, m)
        Entry [a, b] is raised.
    """
    models, rows, count = counts.shape
    width = count // models
    for b in range(models):
        for i in range(rows):
            for t in range(count):
                edge = order[b, i, t]
                if (member[i, edge] >> bit) & 1:
                    sums[edge // width, b] += counts[b, i, t]


@compiled(error_model="numpy")
def relabeled_ranks(
    ranks: Any, first: int, near: Any, indices: Any, inverse: Any, total: Any
) -> None:
    """Sum the ranks of every model's neighbours with the ranking model's rows relabeled.

    Parameters
    ----------
    ranks : float64 array, shape (r, n)
        Ranks in one model of all rows, for its rows from ``first`` on.
    near : int32 array, shape (m, n, k)
        Neighbours in each model.
    indices, inverse : int32 arrays, shape (draws, n)
        Row ``indices[draw, i]`` stands at i; and the other way round.
    total : float64 array, shape (draws, m)
        Raised.
    """
    models, _, k = near.shape
    for draw in range(indices.shape[0]):
        for r in range(ranks.shape[0]):
            i = inverse[draw, first + r]
            for a in range(models):
                for p in range(k):
                    total[draw, a] += ranks[r, indices[draw, near[a, i, p]]]
