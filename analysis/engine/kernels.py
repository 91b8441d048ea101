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
    distance_sums: Any,
) -> None:
    """Turn inner products into squared distances, distances less ``shift``, and their row sums.

    Parameters
    ----------
    gram : float32 array, shape (r, c)
        Inner products of the tile's rows and columns; set to 0 for a row with itself.
    squares_rows, squares_columns : float32 arrays, shape (r,), (c,)
    copies_rows, copies_columns : int32 arrays, shape (r,), (c,), or of no entries
        Labels of equal rows, which are at distance 0; without entries all rows differ.
    diagonal : bool
        Whether the tile's rows are its columns; a row has no entry with itself.
    shift : float
        Taken off every distance, so that sums of products lose no digits.
    squared : float32 array, shape (r, c)
        Filled; infinite for a row with itself.
    distance : float32 array, shape (r, c), or of no entries
        Filled, unless only the sums are wanted; 0 for a row with itself.
    distance_sums : float64 array, shape (r,), or of no entries
        Raised by the tile's row sums; without entries distances are not wanted.
    """
    rows, columns = gram.shape
    copies, held = copies_rows.size > 0, distance.size > 0
    less = np.float32(shift)
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
        if distance_sums.size > 0:
            total = 0.0
            if held:
                for j in range(columns):
                    distance[i, j] = np.sqrt(squared[i, j]) - less
                if diagonal:
                    distance[i, i] = np.float32(0.0)
                for j in range(columns):
                    total += distance[i, j]
            else:
                for j in range(columns):
                    total += np.sqrt(squared[i, j]) - less
            distance_sums[i] += total
        if diagonal:
            squared[i, i] = np.float32(np.inf)
            gram[i, i] = np.float32(0.0)


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
