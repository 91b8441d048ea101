# SPDX-License-Identifier: Apache-2.0
"""Neighbour lists of all rows from those of the distinct ones; compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .candidates import compiled


@compiled()
def _expand(
    members: Any, starts: Any, lists: Any, list_keys: Any, own: Any, indices: Any, keys: Any
) -> None:
    k = indices.shape[1]
    for group in range(starts.size - 1):
        low, high = starts[group], starts[group + 1]
        near = members[low : min(high, low + k + 1)].copy()
        far = np.full(near.size, own[group])
        gathered = 0
        last = -np.inf
        for place in range(lists.shape[1]):
            key = list_keys[group, place]
            if gathered >= k and key > last:
                break
            other = lists[group, place]
            begin = starts[other]
            more = members[begin : min(starts[other + 1], begin + k)]
            near = np.concatenate((near, more))
            far = np.concatenate((far, np.full(more.size, key)))
            gathered += more.size
            last = key
        by_index = np.argsort(near)
        near, far = near[by_index], far[by_index]
        order = np.argsort(far, kind="mergesort")
        for row in members[low:high]:
            place = 0
            for entry in order:
                if place == k:
                    break
                if near[entry] != row:
                    indices[row, place] = near[entry]
                    keys[row, place] = far[entry]
                    place += 1


def expand_copies(
    copies: NDArray[np.intp],
    lists: NDArray[np.int32],
    list_keys: NDArray[np.float64],
    own: NDArray[np.float64],
    k: int,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the lists of all rows from those of the distinct ones, equal keys by index.

    Parameters
    ----------
    copies : int array, shape (n,)
        Group of each row among equal rows, numbered in order of their first rows.
    lists : int32 array, shape (groups, c)
        Nearest other groups, c = k or all there are; equal keys by first row.
    list_keys : float64 array, shape (groups, c)
    own : float64 array, shape (groups,)
        Key of a row with a copy of itself.
    k : int
        k < n.

    Returns
    -------
    indices : int32 array, shape (n, k)
    keys : float64 array, shape (n, k)
    """
    members = np.argsort(copies, kind="stable").astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(np.bincount(copies))])
    indices = np.empty((copies.size, k), np.int32)
    keys = np.empty((copies.size, k))
    _expand(members, starts, lists, list_keys, own, indices, keys)
    return indices, keys
