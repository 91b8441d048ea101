# SPDX-License-Identifier: Apache-2.0
"""Sums over the edges that many pairs of models share, compiled: all pairs of a batch row by row.

A row's edges out and in are looked up together, so that all four margins of a pair are sums in
registers and no array of margins is needed; one look-up table of the first model serves every
second one. Memberships (all rows, and all rows without a jackknife block) are the lanes of a
vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..candidates import compiled
from .store import Arrays

#: Memberships of an edge: the bits of a 16-bit number.
LANES = 16


#: What lists hold of each edge out and in.
_OUT = ("others", "bits", "back", "kernel")
_IN = ("others_in", "bits_in", "kernel_in")


def edge_lists(
    indices: NDArray[np.int32],
    member: NDArray[np.uint16],
    returned: NDArray[np.uint16],
    values: NDArray[np.float64],
) -> dict[str, NDArray[Any]]:
    """One model's edges that have any membership, by the row they leave and by the row they enter.

    Returns
    -------
    dict of arrays
        ``starts`` and ``starts_in``, int64 of shape (n + 1,): where a row's edges begin in the
        others, of shape (edges,): the row at the other end, membership, that of the opposite edge
        too, and kernel value.
    """
    n, edges = indices.shape[0], int(np.count_nonzero(member))
    out: dict[str, NDArray[Any]] = {}
    for side in ("", "_in"):
        out[f"starts{side}"] = np.zeros(n + 1, np.int64)
        out[f"others{side}"] = np.empty(edges, np.int32)
        out[f"bits{side}"] = np.empty(edges, np.uint16)
        out[f"kernel{side}"] = np.empty(edges)
    out["back"] = np.empty(edges, np.uint16)
    arguments: list[Any] = [indices, member, returned, values]
    arguments += [out["starts"], *(out[name] for name in _OUT)]
    arguments += [out["starts_in"], *(out[name] for name in _IN)]
    _list_edges(*arguments)
    return out


def join_lists(models: list[Arrays]) -> list[NDArray[Any]]:
    """Lists of some models one after the other, as :func:`shared_kernel_sums` takes them."""
    out: list[NDArray[Any]] = []
    first = np.cumsum([0, *(one["others"].size for one in models[:-1])])
    for starts, names in (("starts", _OUT), ("starts_in", _IN)):
        begins = [one[starts] + add for one, add in zip(models, first, strict=True)]
        out.append(np.stack(begins))
        out += [np.concatenate([one[name] for one in models]) for name in names]
    return out


@compiled(error_model="numpy")
def _list_edges(
    indices: Any,
    member: Any,
    returned: Any,
    values: Any,
    starts: Any,
    others: Any,
    bits: Any,
    back: Any,
    kernel: Any,
    starts_in: Any,
    others_in: Any,
    bits_in: Any,
    kernel_in: Any,
) -> None:
    n, reach = indices.shape
    at = np.zeros(n, np.int64)
    for i in range(n):
        for p in range(reach):
            at[indices[i, p]] += member[i, p] != 0
    for i in range(n):
        starts_in[i + 1] = starts_in[i] + at[i]
        at[i] = starts_in[i]
    here = 0
    for i in range(n):
        starts[i] = here
        for p in range(reach):
            if member[i, p] == 0:
                continue
            j = indices[i, p]
            others[here], bits[here] = j, member[i, p]
            back[here], kernel[here] = returned[i, p], values[i, p]
            there = at[j]
            others_in[there], bits_in[there] = i, member[i, p]
            kernel_in[there] = values[i, p]
            at[j] = there + 1
            here += 1
    starts[n] = here


@compiled(error_model="numpy", fastmath={"contract", "nsz"})
def shared_kernel_sums(
    pairs: Any,
    starts: Any,
    others: Any,
    member: Any,
    returned: Any,
    values: Any,
    starts_in: Any,
    others_in: Any,
    member_in: Any,
    values_in: Any,
    place: Any,
    sums: Any,
) -> None:
    """Sum kernel values over the edges that pairs of models share, for each membership.

    Parameters
    ----------
    pairs : int64 array, shape (pairs, 2)
        Models by place in the lists; pairs of one first model stand together.
    starts, others, member, returned, values, starts_in, others_in, member_in, values_in : arrays
        As :func:`join_lists` gives them.
    place : unsigned array, shape (n,), zeros, left so
        Wide enough for the longest list of a row.
    sums : float64 array, shape (pairs, 9 * 16)
        Raised, in the order of the fields of ``SharedSums``.
    """
    n, count = place.size, pairs.shape[0]
    longest = 1
    for model in range(starts.shape[0]):
        for i in range(n):
            longest = max(longest, starts[model, i + 1] - starts[model, i])
            longest = max(longest, starts_in[model, i + 1] - starts_in[model, i])
    hit_a, hit_b = np.empty(longest + 1, np.int64), np.empty(longest + 1, np.int64)
    rows = np.zeros((count, 2 * LANES))
    work = np.zeros(7 * LANES)
    for i in range(n):
        low = 0
        while low < count:
            a = pairs[low, 0]
            high = low
            while high < count and pairs[high, 0] == a:
                high += 1
            begin, end = starts[a, i], starts[a, i + 1]
            for e in range(begin, end):
                place[others[e]] = e - begin + 1
            for number in range(low, high):
                b = pairs[number, 1]
                found = 0
                for e in range(starts[b, i], starts[b, i + 1]):
                    p = np.int64(place[others[e]])
                    hit_a[found], hit_b[found] = begin + p - 1, e
                    found += p != 0
                work[: 5 * LANES] = 0.0
                for h in range(found):
                    e, f = hit_a[h], hit_b[h]
                    both = np.int64(member[e] & member[f])
                    back = np.int64(returned[e] & returned[f])
                    one, two = values[e], values[f]
                    product = one * two
                    for g in range(LANES):
                        on = np.float64((both >> g) & 1)
                        work[g] += on
                        work[LANES + g] += on * product
                        work[2 * LANES + g] += np.float64((back >> g) & 1) * product
                        work[3 * LANES + g] += on * one
                        work[4 * LANES + g] += on * two
                for g in range(5 * LANES):
                    sums[number, g] += work[g]
                for g in range(2 * LANES):
                    rows[number, g] = work[3 * LANES + g]
            for e in range(begin, end):
                place[others[e]] = 0
            begin, end = starts_in[a, i], starts_in[a, i + 1]
            for e in range(begin, end):
                place[others_in[e]] = e - begin + 1
            for number in range(low, high):
                b = pairs[number, 1]
                found = 0
                for e in range(starts_in[b, i], starts_in[b, i + 1]):
                    p = np.int64(place[others_in[e]])
                    hit_a[found], hit_b[found] = begin + p - 1, e
                    found += p != 0
                work[: 2 * LANES] = 0.0
                for h in range(found):
                    e, f = hit_a[h], hit_b[h]
                    both = np.int64(member_in[e] & member_in[f])
                    one, two = values_in[e], values_in[f]
                    for g in range(LANES):
                        on = np.float64((both >> g) & 1)
                        work[g] += on * one
                        work[LANES + g] += on * two
                for g in range(LANES):
                    row_a, row_b = rows[number, g], rows[number, LANES + g]
                    column_a, column_b = work[g], work[LANES + g]
                    sums[number, 5 * LANES + g] += row_a * row_b
                    sums[number, 6 * LANES + g] += column_a * column_b
                    sums[number, 7 * LANES + g] += row_a * column_b
                    sums[number, 8 * LANES + g] += column_a * row_b
            for e in range(begin, end):
                place[others_in[e]] = 0
            low = high
