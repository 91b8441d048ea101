# SPDX-License-Identifier: Apache-2.0
"""Inner loops of the engine, compiled: each on one thread, without the interpreter's lock.

Rows are numbered in the order of the jackknife blocks throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

#: Number of the lowest bit of each 16-bit number.
_LOWEST = np.array([(i & -i).bit_length() - 1 for i in range(1 << 16)], np.int8)

_F = TypeVar("_F", bound=Callable[..., Any])


def _compiled(function: _F) -> _F:
    return cast(_F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def _summing(function: _F) -> _F:
    # Sums may be taken in any order: they are spread over the lanes of the processor.
    options = {
        "reassoc",
        "nsz",
        "contract",
    }
    return cast(
        _F, numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=options)(function)
    )


@_summing
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


@_summing
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


@_summing
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


@_compiled
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


@_compiled
def membership(indices: Any, blocks: Any, k: int, count: int, member: Any) -> int:
    """Bits of each edge: in the k nearest of all rows (bit 0) or without block g (bit g + 1).

    Parameters
    ----------
    indices : int32 array, shape (n, reach)
        Neighbour lists, nearest first.
    blocks : int32 array, shape (n,)
    k, count : int
        Neighbours a row, and number of blocks (at most 15).
    member : uint16 array, shape (n, reach)
        Filled.

    Returns
    -------
    int
        How many entries some list lacks to hold k rows outside a block; 0 when all reach.
    """
    n, reach = indices.shape
    lost = np.zeros(count, np.int64)
    lacking = 0
    for i in range(n):
        lost[:] = 0
        own = blocks[i]
        for p in range(reach):
            theirs = blocks[indices[i, p]]
            bits = np.uint16(1) if p < k else np.uint16(0)
            for g in range(count):
                if g != own and g != theirs and p - lost[g] < k:
                    bits |= np.uint16(1 << (g + 1))
            member[i, p] = bits
            lost[theirs] += 1
        for g in range(count):
            if g != own:
                lacking = max(lacking, k - (reach - lost[g]))
    return lacking


@_compiled
def returning(indices: Any, member: Any, returned: Any) -> None:
    """Bits of each edge whose opposite has them too; ``returned`` is filled, as ``member``."""
    n, reach = indices.shape
    for i in range(n):
        for p in range(reach):
            j = indices[i, p]
            found = np.uint16(0)
            for q in range(reach):
                if indices[j, q] == i:
                    found = member[j, q]
                    break
            returned[i, p] = member[i, p] & found


@_compiled
def shared_edges(
    indices_a: Any, member_a: Any, indices_b: Any, member_b: Any, place: Any, counts: Any
) -> None:
    """Count the edges two models share, for each bit of membership.

    ``place`` is an int32 array of n zeros, left so; ``counts``, int64 of shape (bits,), is raised.
    """
    n, reach = indices_a.shape
    bits = counts.size
    for i in range(n):
        for p in range(reach):
            place[indices_a[i, p]] = p + 1
        for q in range(reach):
            p = place[indices_b[i, q]]
            if p:
                both = member_a[i, p - 1] & member_b[i, q]
                for g in range(bits):
                    counts[g] += (both >> g) & 1
        for p in range(reach):
            place[indices_a[i, p]] = 0


@_compiled
def shared_kernels(
    indices_a: Any,
    member_a: Any,
    returned_a: Any,
    values_a: Any,
    offsets_a: Any,
    indices_b: Any,
    member_b: Any,
    returned_b: Any,
    values_b: Any,
    offsets_b: Any,
    place: Any,
    margins: Any,
    sums: Any,
) -> None:
    """Sum kernel values over the edges two models share, for each bit of membership.

    Parameters
    ----------
    values_a, values_b : float64 arrays, shape (n, reach)
    offsets_a, offsets_b : float64 arrays, shape (n, bits) or (n, 0)
        Taken off the values of a row; without columns nothing is.
    place : int32 array, shape (n,), zeros, left so
    margins : float64 array, shape (n, bits, 4), zeroed here
        Row and column sums of either model's values.
    sums : float64 array, shape (9, bits)
        Filled, in the order of the fields of ``SharedSums``.

    Notes
    -----
    Most edges have bit 0 (all rows) and all others but two (the blocks of its ends): without
    offsets only the exceptions are summed bit by bit, and taken off what all edges of bit 0 give.
    """
    n, reach = indices_a.shape
    bits = sums.shape[1]
    plain = offsets_a.shape[1] == 0
    every = np.uint16((1 << bits) - 1)
    margins[:] = 0.0
    sums[:] = 0.0
    for i in range(n):
        for p in range(reach):
            place[indices_a[i, p]] = p + 1
        for q in range(reach):
            j = indices_b[i, q]
            p = place[j]
            if p == 0:
                continue
            both = member_a[i, p - 1] & member_b[i, q] & every
            if both == 0:
                continue
            back = returned_a[i, p - 1] & returned_b[i, q] & every
            one, two = values_a[i, p - 1], values_b[i, q]
            if not plain:
                while both:
                    g = _LOWEST[both]
                    both &= np.uint16(both - 1)
                    _add_edge(
                        i, j, g, one - offsets_a[i, g], two - offsets_b[i, g], 1.0,
                        (back >> g) & 1 != 0, margins, sums,
                    )  # fmt: skip
                continue
            if both & 1:
                usual = back & 1 != 0
                _add_edge(i, j, 0, one, two, 1.0, usual, margins, sums)
                left = np.uint16(every ^ both)
                while left:
                    g = _LOWEST[left]
                    left &= np.uint16(left - 1)
                    _add_edge(i, j, g, one, two, -1.0, usual, margins, sums)
                other = np.uint16(both & ((every ^ back) if usual else back))
                sign = -1.0 if usual else 1.0
                while other:
                    g = _LOWEST[other]
                    other &= np.uint16(other - 1)
                    sums[2, g] += sign * one * two
            else:
                while both:
                    g = _LOWEST[both]
                    both &= np.uint16(both - 1)
                    _add_edge(i, j, g, one, two, 1.0, (back >> g) & 1 != 0, margins, sums)
        for p in range(reach):
            place[indices_a[i, p]] = 0
    if plain:
        for g in range(1, bits):
            for field in range(3):
                sums[field, g] += sums[field, 0]
    for i in range(n):
        for g in range(bits):
            if plain and g:
                for side in range(4):
                    margins[i, g, side] += margins[i, 0, side]
            row_a, row_b = margins[i, g, 0], margins[i, g, 1]
            column_a, column_b = margins[i, g, 2], margins[i, g, 3]
            sums[3, g] += row_a
            sums[4, g] += row_b
            sums[5, g] += row_a * row_b
            sums[6, g] += column_a * column_b
            sums[7, g] += row_a * column_b
            sums[8, g] += column_a * row_b


@_compiled
def _add_edge(
    i: int,
    j: int,
    g: int,
    one: float,
    two: float,
    weight: float,
    returns: bool,
    margins: Any,
    sums: Any,
) -> None:
    product = weight * one * two
    sums[0, g] += weight
    sums[1, g] += product
    if returns:
        sums[2, g] += product
    margins[i, g, 0] += weight * one
    margins[i, g, 1] += weight * two
    margins[j, g, 2] += weight * one
    margins[j, g, 3] += weight * two


@_compiled
def rotated_hits(
    starts_a: Any,
    places_a: Any,
    starts_b: Any,
    places_b: Any,
    chosen: Any,
    counts: Any,
    hits: Any,
) -> int:
    """Find the edges two models share under each chosen rotation of a cycle.

    Edges that span the same offset along the cycle meet under exactly one rotation, so every
    rotation of a pair costs n k^2 steps together.

    Parameters
    ----------
    starts_a, starts_b : int64 arrays, shape (n + 1,)
        Where the edges of each offset begin.
    places_a, places_b : int32 arrays, shape (n k,)
        Place along the cycle at which each edge starts, ascending in offset.
    chosen : int32 array, shape (n,)
        Number of the draw of each rotation, or -1.
    counts : int64 array, shape (draws,)
        Raised by the edges shared under each draw.
    hits : int32 array, shape (capacity, 3)
        Filled with draw and both edges, as far as it goes.

    Returns
    -------
    int
        Hits found, even beyond the capacity.
    """
    n = chosen.size
    found = 0
    for offset in range(n):
        for e in range(starts_a[offset], starts_a[offset + 1]):
            u = places_a[e]
            for f in range(starts_b[offset], starts_b[offset + 1]):
                shift = places_b[f] - u
                if shift < 0:
                    shift += n
                draw = chosen[shift]
                if draw >= 0:
                    counts[draw] += 1
                    if found < hits.shape[0]:
                        hits[found, 0] = draw
                        hits[found, 1] = e
                        hits[found, 2] = f
                    found += 1
    return found


@_compiled
def hit_sums(
    hits: Any,
    found: int,
    rows_a: Any,
    columns_a: Any,
    values_a: Any,
    returned_a: Any,
    values_b: Any,
    returned_b: Any,
    margins: Any,
    sums: Any,
) -> None:
    """Sum kernel values over the hits of each draw.

    Parameters
    ----------
    hits : int32 array, shape (found, 3)
    rows_a, columns_a : int32 arrays, shape (n k,)
        Both ends of the first model's edges.
    values_a, values_b, returned_a, returned_b : arrays, shape (n k,)
    margins : float64 array, shape (4, n), zeros, left so
    sums : float64 array, shape (9, draws)
        Filled, in the order of the fields of ``SharedSums``.
    """
    draws = sums.shape[1]
    sums[:] = 0.0
    starts = np.zeros(draws + 1, np.int64)
    for h in range(found):
        starts[hits[h, 0] + 1] += 1
    for draw in range(draws):
        starts[draw + 1] += starts[draw]
    order = np.empty(found, np.int64)
    at = starts[:-1].copy()
    for h in range(found):
        order[at[hits[h, 0]]] = h
        at[hits[h, 0]] += 1
    for draw in range(draws):
        for o in range(starts[draw], starts[draw + 1]):
            e, f = hits[order[o], 1], hits[order[o], 2]
            i, j = rows_a[e], columns_a[e]
            one, two = values_a[e], values_b[f]
            sums[0, draw] += 1.0
            sums[1, draw] += one * two
            if returned_a[e] and returned_b[f]:
                sums[2, draw] += one * two
            margins[0, i] += one
            margins[1, i] += two
            margins[2, j] += one
            margins[3, j] += two
        for o in range(starts[draw], starts[draw + 1]):
            e = hits[order[o], 1]
            for end in (rows_a[e], columns_a[e]):
                row_a, row_b = margins[0, end], margins[1, end]
                column_a, column_b = margins[2, end], margins[3, end]
                sums[3, draw] += row_a
                sums[4, draw] += row_b
                sums[5, draw] += row_a * row_b
                sums[6, draw] += column_a * column_b
                sums[7, draw] += row_a * column_b
                sums[8, draw] += column_a * row_b
                for which in range(4):
                    margins[which, end] = 0.0


@_compiled
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
