# SPDX-License-Identifier: Apache-2.0
"""Information imbalance: how well one space's neighbours predict the other's."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..blocks import Normalise, Space, as_pair, check_neighbour_count, normalise_rows
from ..neighbours import nearest
from ..ranks import rank_means

VERSION = "1"


def information_imbalance(
    x: ArrayLike, y: ArrayLike, *, k: int = 1, normalise: Normalise = "none"
) -> tuple[float, float]:
    """Information imbalance in both directions.

    Delta(x -> y) = (2 / n) * mean over i, and over the k nearest rows j of i in x, of the rank of j
    among the neighbours of i in y (1 for the nearest).

    Parameters
    ----------
    x, y : array_like, shape (n, d_x) and (n, d_y)
        Embeddings of the same structures in the same order.
    k : int
        Neighbours a row whose ranks are averaged, 1 <= k < n.
    normalise : {"l2", "max", "none"}
        Row scaling before Euclidean distances are taken.

    Returns
    -------
    (float, float)
        Delta(x -> y), Delta(y -> x). (k + 1) / n when x's neighbours are y's: x tells all about y;
        1 expected when x tells nothing. NaN if an embedding is constant.

    Raises
    ------
    MetricError
        If rows differ in number, are not finite, or number k or fewer.

    Notes
    -----
    Equal distances are ordered by row index. Source: Glielmo et al. 2022, PNAS Nexus 1, pgac039.
    """
    spaces = [Space(normalise_rows(rows, normalise)) for rows in as_pair(x, y)]
    check_neighbour_count(k, spaces[0].n)
    if any(space.constant for space in spaces):
        return float(np.nan), float(np.nan)
    ranks = rank_means(spaces, [nearest(space, k).indices for space in spaces])
    imbalance = from_mean_rank(ranks.observed, spaces[0].n)
    return float(imbalance[0, 1]), float(imbalance[1, 0])


def from_mean_rank(mean_rank: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Scale mean ranks so that unrelated spaces give 1."""
    return 2.0 * mean_rank / n
