# SPDX-License-Identifier: Apache-2.0
"""Mutual k-nearest-neighbour overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..blocks import Normalise, Space, as_pair, check_neighbour_count, normalise_rows
from ..neighbours import nearest
from ..overlaps import Edges, shared_sums

VERSION = "1"


def mutual_knn(x: ArrayLike, y: ArrayLike, *, k: int = 25, normalise: Normalise = "l2") -> float:
    """Share of neighbours two embeddings have in common.

    ``(1/n) sum_i |N_x(i) & N_y(i)| / k``, with N the k nearest other rows by Euclidean distance.

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
        In [0, 1]; 1 for equal neighbour lists; k / (n - 1) expected of unrelated embeddings. NaN if
        an embedding is constant. Values at different n or k do not compare.

    Raises
    ------
    MetricError
        If rows differ in number, are not finite, or number k or fewer.

    Notes
    -----
    Equal distances are ordered by row index. Source: Huh et al. 2024 (arXiv:2405.07987), App. A.
    """
    spaces = [Space(normalise_rows(rows, normalise)) for rows in as_pair(x, y)]
    n = spaces[0].n
    check_neighbour_count(k, n)
    if any(space.constant for space in spaces):
        return float(np.nan)
    sums = shared_sums([Edges(nearest(space, k).indices) for space in spaces], kernels=False)
    return float(sums.count[0, 1] / (n * k))
