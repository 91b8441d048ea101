# SPDX-License-Identifier: Apache-2.0
"""Agreement around single structures: what mutual kNN and information imbalance average over."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...schemas.errors import MetricError
from ..blocks import Normalise, Space, as_pair, check_neighbour_count, normalise_rows
from ..neighbours import nearest
from .information_imbalance import row_imbalance

VERSION = "1"

Measure = Literal["overlap", "rank"]


def local_knn_agreement(
    x: ArrayLike,
    y: ArrayLike,
    *,
    k: int = 25,
    measure: Measure = "overlap",
    normalise: Normalise = "l2",
) -> NDArray[np.float64]:
    """How well two embeddings agree on the neighbours of each structure.

    Parameters
    ----------
    x, y : array_like, shape (n, d_x) and (n, d_y)
        Embeddings of the same structures in the same order.
    k : int
        Neighbours a row, 1 <= k < n.
    measure : {"overlap", "rank"}
        ``"overlap"``: share of the k nearest in common; its mean is :func:`mutual_knn`. ``"rank"``:
        1 - the mean of both information imbalances of the row (2 / n times the mean rank in one
        space of the k nearest in the other), which tells near misses from far ones.
    normalise : {"l2", "max", "none"}
        Row scaling before Euclidean distances are taken.

    Returns
    -------
    float64 array, shape (n,)
        Overlap in [0, 1], k / (n - 1) expected of unrelated embeddings; rank in (-1, 1), at most
        1 - (k + 1) / n, 0 expected. All NaN if an embedding is constant.

    Raises
    ------
    MetricError
        If rows differ in number, are not finite, or number k or fewer; for another ``measure``.

    Notes
    -----
    Equal distances are ordered by row index; ranks of rows equally far are their mean.
    """
    if measure not in ("overlap", "rank"):
        raise MetricError(f"local_knn_agreement measure={measure!r} is not one of overlap, rank")
    spaces = [Space(normalise_rows(rows, normalise)) for rows in as_pair(x, y)]
    n = spaces[0].n
    check_neighbour_count(k, n)
    if any(space.constant for space in spaces):
        return np.full(n, np.nan)
    if measure == "rank":
        return np.asarray(1.0 - row_imbalance(spaces[0], spaces[1], k).mean(axis=0))
    first, second = (nearest(space, k).indices.astype(np.int64) for space in spaces)
    rows = np.arange(n)[:, None] * n
    return np.asarray(np.isin(rows + first, rows + second).sum(axis=1) / k)
