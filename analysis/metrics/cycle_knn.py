# SPDX-License-Identifier: Apache-2.0
"""Cycle kNN: whether a step to a neighbour in one space can be undone in the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..blocks import (
    Normalise,
    Space,
    as_pair,
    check_neighbour_count,
    normalise_rows,
    row_blocks,
    rows_per_block,
)
from ..neighbours import nearest

VERSION = "1"


def cycle_knn(x: ArrayLike, y: ArrayLike, *, k: int = 25, normalise: Normalise = "l2") -> float:
    """Share of rows that two steps bring back: to a neighbour in y, and from there to one in x.

    ``(1/n) #{i : i in N_x(j) for some j in N_y(i)}``, with N the k nearest other rows by Euclidean
    distance.

    Parameters
    ----------
    x, y : array_like, shape (n, d_x) and (n, d_y)
        Embeddings of the same structures in the same order.
    k : int
        Neighbours a row, 1 <= k < n.
    normalise : {"l2", "max", "none"}
        Row scaling before distances are taken.

    Returns
    -------
    float
        In [0, 1]. Not symmetric. For x = y it is the share of rows that are a neighbour of some
        neighbour of theirs, less than 1 where neighbours are not mutual; unrelated embeddings reach
        about 1 - (1 - k / (n - 1))^k. NaN if an embedding is constant.

    Raises
    ------
    MetricError
        If rows differ in number, are not finite, or number k or fewer.

    Notes
    -----
    Equal distances are ordered by row index. Source: code of Huh et al. 2024 (platonic-rep,
    ``cycle_knn(feats_A, feats_B)``: ``knn_A[knn_B]``, so A is x).
    """
    spaces = [Space(normalise_rows(rows, normalise)) for rows in as_pair(x, y)]
    n = spaces[0].n
    check_neighbour_count(k, n)
    if any(space.constant for space in spaces):
        return float(np.nan)
    back, out = (nearest(space, k).indices for space in spaces)
    returned = 0
    for rows in row_blocks(0, n, rows_per_block(4 * k * k, n)):
        own = np.arange(rows.start, rows.stop)[:, None, None]
        returned += int((back[out[rows]] == own).any(axis=(1, 2)).sum())
    return returned / n
