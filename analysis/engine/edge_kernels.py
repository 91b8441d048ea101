# SPDX-License-Identifier: Apache-2.0
"""Inner loops over neighbour lists, compiled: each on one thread, without the interpreter's lock.

Rows are numbered in the order of the jackknife blocks throughout.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..candidates import compiled

#: Number of the lowest bit of each 16-bit number.
_LOWEST = np.array([(i & -i).bit_length() - 1 for i in range(1 << 16)], np.int8)


@compiled(error_model="numpy")
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


@compiled(error_model="numpy")
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


@compiled(error_model="numpy")
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
        for q in range(indices_b.shape[1]):  # lists of models differ in width
            p = place[indices_b[i, q]]
            if p:
                both = member_a[i, p - 1] & member_b[i, q]
                for g in range(bits):
                    counts[g] += (both >> g) & 1
        for p in range(reach):
            place[indices_a[i, p]] = 0


@compiled(error_model="numpy")
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
        for q in range(indices_b.shape[1]):  # lists of models differ in width
            j = indices_b[i, q]
            p = place[j]
            if p == 0:
                continue
            both = member_a[i, p - 1] & member_b[i, q] & every
            if both == 0:
                continue
            back = returned_a[i, p - 1] & returned_b[i, q] & every
            one, two = values_a[i, p - 1], values_b[i, q]
            while both:
                g = _LOWEST[both]
                both &= np.uint16(both - 1)
                p_here = one if plain else one - offsets_a[i, g]
                q_here = two if plain else two - offsets_b[i, g]
                sums[0, g] += 1.0
                sums[1, g] += p_here * q_here
                if (back >> g) & 1:
                    sums[2, g] += p_here * q_here
                margins[i, g, 0] += p_here
                margins[i, g, 1] += q_here
                margins[j, g, 2] += p_here
                margins[j, g, 3] += q_here
        for p in range(reach):
            place[indices_a[i, p]] = 0
    for i in range(n):
        for g in range(bits):
            row_a, row_b = margins[i, g, 0], margins[i, g, 1]
            column_a, column_b = margins[i, g, 2], margins[i, g, 3]
            sums[3, g] += row_a
            sums[4, g] += row_b
            sums[5, g] += row_a * row_b
            sums[6, g] += column_a * column_b
            sums[7, g] += row_a * column_b
            sums[8, g] += column_a * row_b


@compiled(error_model="numpy")
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


@compiled(error_model="numpy")
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
