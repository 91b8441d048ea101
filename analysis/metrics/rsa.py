# SPDX-License-Identifier: Apache-2.0
"""Representational similarity analysis (RSA): correlation of two lists of pairwise distances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...schemas.errors import MetricError
from ..blocks import Normalise, Space, as_pair, normalise_rows
from .matrices import Floats, Matrix, blocks_of, distances
from .midranks import mid_ranks

VERSION = "1"

Distance = Literal["euclidean", "sqeuclidean", "cosine", "correlation"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)
Compare = Literal["pearson", "spearman", "cosine"]
COMPARES: tuple[Compare, ...] = get_args(Compare)

EXACT_ROWS = 2048
"""Up to this many rows Spearman sorts all distances (two million: 50 MB)."""

COARSE, FINE = 2**14, 2**20
"""Bins of the two histograms that stand for the sort beyond: by value, then by share of values."""


def rsa(
    x: ArrayLike,
    y: ArrayLike,
    *,
    distance: Distance = "euclidean",
    compare: Compare = "pearson",
    normalise: Normalise = "none",
) -> float:
    """Correlation of the two embeddings' distances over all pairs of rows i < j.

    Parameters
    ----------
    x, y : array_like, shape (n, d_x) and (n, d_y)
        Embeddings of the same structures in the same order.
    distance : {"euclidean", "sqeuclidean", "cosine", "correlation"}
        ``"sqeuclidean"`` up to a factor is what rsatoolbox calls "euclidean"; ``"cosine"``: 1 - cos
        of the angle of two rows (a row of zeros is at 1 from all others); ``"correlation"``: the
        same of rows less their own mean.
    compare : {"pearson", "spearman", "cosine"}
        ``"spearman"``: of ranks, ties sharing their mean rank. ``"cosine"``: without taking the
        mean distance off, so that unrelated embeddings come close to 1.
    normalise : {"l2", "max", "none"}
        Row scaling before distances are taken.

    Returns
    -------
    float
        In [-1, 1], cosine in [0, 1]; 0 expected of unrelated embeddings, but for cosine. NaN if an
        embedding is constant or all its distances are equal.

    Raises
    ------
    MetricError
        If rows differ in number, are not finite, or number fewer than four; for another
        ``distance`` or ``compare``.

    Notes
    -----
    Blockwise. Spearman is exact up to 2,048 rows; beyond, ranks are those of a histogram of 2^20
    bins of nearly equal share, off by at most :func:`rank_error_bound` (about 2e-6 unless distances
    tie in bulk). Source: Kriegeskorte et al. 2008.
    """
    spaces = _prepare(x, y, distance, compare, normalise)
    n = spaces[0].n
    if any(space.constant for space in spaces):
        return float(np.nan)
    matrices = [_matrix(space, distance) for space in spaces]
    if compare == "spearman":
        if n <= EXACT_ROWS:
            lists = [
                mid_ranks(np.concatenate(list(_upper([one], n)), axis=1)[0]) for one in matrices
            ]
            return _finish(_moments([np.stack(lists)], centre=True))
        ranks = [_histogram_ranks(one, n) for one in matrices]
        matched = (
            np.stack([rank(row) for rank, row in zip(ranks, part, strict=True)])
            for part in _upper(matrices, n)
        )
        return _finish(_moments(matched, centre=True))
    return _finish(_moments(_upper(matrices, n), centre=compare == "pearson"))


def rank_error_bound(
    x: ArrayLike,
    y: ArrayLike,
    *,
    distance: Distance = "euclidean",
    normalise: Normalise = "none",
) -> float:
    """How far ``rsa(..., compare="spearman")`` can be from the exact coefficient on this input.

    Returns
    -------
    float
        0 where it is exact; else (u + v) (1 + u + v) with u^2, v^2 the shares of the rank variance
        that lie within bins, were no distances in a bin equal.

    Notes
    -----
    A bin's mid-rank is the mean of the ranks in it, so exact ranks r are binned ranks b plus a rest
    e at right angles to them: for unit vectors r = sqrt(1 - u^2) b + u e, and s = sqrt(1 - v^2) c
    + v f of the other embedding. Then |<r, s> - <b, c>| <= u + v + u v + u^2 + v^2.
    """
    spaces = _prepare(x, y, distance, "spearman", normalise)
    n = spaces[0].n
    if n <= EXACT_ROWS or any(space.constant for space in spaces):
        return 0.0
    first, second = (
        _histogram_ranks(_matrix(space, distance), n).unresolved ** 0.5 for space in spaces
    )
    return float((first + second) * (1.0 + first + second))


def _prepare(
    x: ArrayLike, y: ArrayLike, distance: str, compare: str, normalise: Normalise
) -> list[Space]:
    if distance not in DISTANCES:
        raise MetricError(f"rsa distance={distance!r} is not one of {', '.join(DISTANCES)}")
    if compare not in COMPARES:
        raise MetricError(f"rsa compare={compare!r} is not one of {', '.join(COMPARES)}")
    spaces = []
    for rows in as_pair(x, y):
        values = normalise_rows(rows, normalise)
        if distance == "correlation":
            means = values.mean(axis=1, keepdims=True)
            values = np.where((values == values[:, :1]).all(axis=1)[:, None], 0.0, values - means)
        if distance in ("cosine", "correlation"):
            values = normalise_rows(values, "l2")
        spaces.append(Space(values))
    return spaces


def _matrix(space: Space, distance: Distance) -> Matrix:
    if distance == "euclidean":
        return distances(space)
    if distance == "sqeuclidean":
        return lambda rows: np.asarray(np.maximum(space.squared_distances(rows), 0.0))
    # 1 - cos of unit rows is half their squared distance, which keeps the digits of small angles;
    # a row of zeros is at a squared distance of 1 from a unit row and of 0 from another of zeros.
    short = 0.5 * (space.squares == 0.0)

    def angles(rows: slice) -> Floats:
        tile = np.maximum(space.squared_distances(rows), 0.0)
        tile *= 0.5
        tile += short[rows, None]
        tile += short
        return np.asarray(tile)

    return angles


def _upper(matrices: Sequence[Matrix], n: int) -> Iterator[Floats]:
    """Entries i < j of every matrix, (m, count), a block of rows at a time."""
    columns = np.arange(n)
    for rows in blocks_of(n, tiles=2 * len(matrices) + 3):
        above = columns > np.arange(rows.start, rows.stop)[:, None]
        yield np.stack([matrix(rows)[above] for matrix in matrices])


def _moments(parts: Iterator[Floats] | list[Floats], *, centre: bool) -> tuple[Floats, Floats]:
    """Inner products (2, 2) of two long lists, less their means, and the size that rounding has."""
    shift: Floats | None = None
    dots, sums, count, raw = np.zeros((2, 2)), np.zeros(2), 0, np.zeros(2)
    for part in parts:
        if part.shape[1] == 0:
            continue
        raw += np.einsum("ij,ij->i", part, part)
        if shift is None:
            shift = part.mean(axis=1, keepdims=True) if centre else np.zeros((2, 1))
        moved = part - shift
        dots += moved @ moved.T
        sums += moved.sum(axis=1)
        count += part.shape[1]
    if centre:
        dots -= np.outer(sums, sums) / count
    return dots, raw * 1e-26


def _finish(moments: tuple[Floats, Floats]) -> float:
    dots, floor = moments
    size = np.diagonal(dots)
    if not (size > floor).all():
        return float(np.nan)
    return float(np.clip(dots[0, 1] / np.sqrt(size[0]) / np.sqrt(size[1]), -1.0, 1.0))


class _Ranks:
    """Mid-ranks of values by the bin they fall into.

    Attributes
    ----------
    unresolved : float
        Share of the variance of distinct ranks that lies within bins.
    """

    def __init__(
        self, place: Callable[[Floats], NDArray[np.intp]], held: NDArray[np.int64]
    ) -> None:
        self.place = place
        before = np.concatenate([[0], np.cumsum(held)])
        self.ranks = 0.5 * (before[:-1] + before[1:] + 1.0)
        size = held.astype(np.float64)
        total = float(before[-1])
        self.unresolved = float((size**3 - size).sum() / (total**3 - total))

    def __call__(self, values: Floats) -> Floats:
        return np.asarray(self.ranks[self.place(values)])


def _histogram_ranks(matrix: Matrix, n: int) -> _Ranks:
    """Ranks of the entries i < j from two histograms, the second by share of the first."""
    low, high = np.inf, -np.inf
    for part in _upper([matrix], n):
        if part.size:
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    if low == high:
        return _Ranks(lambda values: np.zeros(values.shape, np.intp), np.array([n * (n - 1) // 2]))
    edges = np.linspace(low, high, COARSE + 1)
    held = np.zeros(COARSE, np.int64)
    for part in _upper([matrix], n):
        held += np.histogram(part[0], edges)[0]
    shares = np.concatenate([[0.0], np.cumsum(held)]) / held.sum()

    def place(values: Floats) -> NDArray[np.intp]:
        # Interpolating the cumulative shares keeps the order and fills the bins evenly.
        share = np.interp(values, edges, shares)
        return np.minimum((share * FINE).astype(np.intp), FINE - 1)

    fine = np.zeros(FINE, np.int64)
    for part in _upper([matrix], n):
        fine += np.bincount(place(part[0]), minlength=FINE)
    return _Ranks(place, fine)
