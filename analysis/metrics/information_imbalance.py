# SPDX-License-Identifier: Apache-2.0
"""Information imbalance: how well one space's neighbours predict the other's."""

from __future__ import annotations

from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...schemas.errors import MetricError
from ..blocks import Normalise, Space, as_pair, check_neighbour_count, normalise_rows
from ..neighbours import nearest
from .matrices import Floats, blocks_of
from .midranks import mid_ranks

VERSION = "2"

Ties = Literal["index", "share"]

Both = tuple[float, float]


@overload
def information_imbalance(
    x: ArrayLike,
    y: ArrayLike,
    *,
    k: int = 1,
    ties: Ties = "index",
    with_error: Literal[False] = False,
    normalise: Normalise = "none",
) -> Both: ...


@overload
def information_imbalance(
    x: ArrayLike,
    y: ArrayLike,
    *,
    k: int = 1,
    ties: Ties = "index",
    with_error: Literal[True],
    normalise: Normalise = "none",
) -> tuple[Both, Both]: ...


def information_imbalance(
    x: ArrayLike,
    y: ArrayLike,
    *,
    k: int = 1,
    ties: Ties = "index",
    with_error: bool = False,
    normalise: Normalise = "none",
) -> Both | tuple[Both, Both]:
    """Information imbalance in both directions.

    Delta(x -> y) = (2 / n) * mean over i, and over the k nearest rows j of i in x, of the rank of j
    among the neighbours of i in y (1 for the nearest; rows equally far share their mean rank).

    Parameters
    ----------
    x, y : array_like, shape (n, d_x) and (n, d_y)
        Embeddings of the same structures in the same order.
    k : int
        Neighbours a row whose ranks are averaged, 1 <= k < n.
    ties : {"index", "share"}
        Which of several rows equally far are among the k nearest in x: those of lowest index, or
        each for its share of the places left, so that the order of rows does not matter at all.
    with_error : bool
        Return standard errors too.
    normalise : {"l2", "max", "none"}
        Row scaling before Euclidean distances are taken.

    Returns
    -------
    (float, float)
        Delta(x -> y), Delta(y -> x), between 0 and 2. (k + 1) / n when x's neighbours are y's and
        no two distances are equal: x tells all about y. 1 on average over all relabelings of the
        rows of y, exactly so with shared ties. NaN if an embedding is constant.
    ((float, float), (float, float))
        With ``with_error``: both values, and their standard errors.

    Raises
    ------
    MetricError
        If rows differ in number, are not finite, or number k or fewer; for another ``ties``.

    Notes
    -----
    The standard error is that of the mean of one number a row: the row's own imbalance, plus what
    the row adds to the ranks of others (ranks share their rows, so that the spread of the first
    alone is too small by up to a half). What a row changes by being a neighbour is left out. Source
    of the imbalance: Glielmo et al. 2022, PNAS Nexus 1, pgac039.
    """
    if ties not in ("index", "share"):
        raise MetricError(f"information_imbalance ties={ties!r} is not one of index, share")
    spaces = [Space(normalise_rows(rows, normalise)) for rows in as_pair(x, y)]
    n = spaces[0].n
    check_neighbour_count(k, n)
    if any(space.constant for space in spaces):
        nothing = (float(np.nan), float(np.nan))
        return (nothing, nothing) if with_error else nothing
    counted = np.zeros((2, n)) if with_error else None
    rows = row_imbalance(spaces[0], spaces[1], k, ties=ties, counted=counted)
    values = (float(rows[0].mean()), float(rows[1].mean()))
    if counted is None:
        return values
    spread = (rows + counted).std(axis=1, ddof=1) / np.sqrt(n)
    return values, (float(spread[0]), float(spread[1]))


def row_imbalance(
    first: Space,
    second: Space,
    k: int,
    *,
    ties: Ties = "index",
    counted: Floats | None = None,
) -> Floats:
    """Both imbalances row by row, shape (2, n), whose means are the values; memory O(block).

    ``counted``, zeros of the same shape, is filled with what each row adds to the ranks of the
    others' neighbours, by being closer than them, on the same scale.
    """
    spaces = (first, second)
    n = first.n
    lists = [nearest(space, k).indices for space in spaces] if ties == "index" else None
    means = np.empty((2, n))
    for rows in blocks_of(n, tiles=12):
        here = np.arange(rows.stop - rows.start)
        tiles = []
        for space in spaces:
            tile = space.squared_distances(rows)
            tile[here, here + rows.start] = np.inf  # a row comes last
            tiles.append(tile)
        ranks = [mid_ranks(tile) for tile in tiles]
        for side in (0, 1):
            theirs = ranks[1 - side]
            if lists is None:
                weights = _shares(tiles[side], k)
                means[side, rows] = np.einsum("ij,ij->i", weights, theirs) / k
            else:
                means[side, rows] = theirs[here[:, None], lists[side][rows]].mean(axis=1)
            if counted is not None:
                near = (
                    np.argsort(tiles[side], axis=1)[:, :k] if lists is None else lists[side][rows]
                )
                for targets in theirs[here[:, None], near].T:
                    ahead = np.sign(targets[:, None] - theirs)
                    counted[side] += (1.0 + ahead).sum(axis=0) / (n * k)
    return 2.0 * means / n


def _shares(tile: Floats, k: int) -> Floats:
    """Weight of each column among the k nearest: 1, or a share of the last places; sums to k."""
    last = np.partition(tile, k - 1, axis=1)[:, k - 1 : k]
    closer, level = tile < last, tile == last
    left = k - closer.sum(axis=1, keepdims=True)
    return np.asarray(closer + level * (left / level.sum(axis=1, keepdims=True)))


def from_mean_rank(mean_rank: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Scale mean ranks so that unrelated spaces give 1."""
    return 2.0 * mean_rank / n
