# SPDX-License-Identifier: Apache-2.0
"""Linear centred kernel alignment (CKA), unbiased and biased."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..blocks import FloatArray, Normalise, Space, as_pair, normalise_rows, to_single
from ..calibration import Permutations
from .matrices import covariance as matrix_covariance
from .matrices import products, ratio

VERSION = "1"


def linear_cka(
    x: ArrayLike, y: ArrayLike, *, unbiased: bool = True, normalise: Normalise = "none"
) -> float:
    """Similarity of the two embeddings' Gram matrices.

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = x x^T, L = y y^T.

    Parameters
    ----------
    x, y : array_like, shape (n, d_x) and (n, d_y)
        Embeddings of the same structures in the same order.
    unbiased : bool
        Unbiased HSIC (Song et al. 2012, Eq. 5) in all three terms, whose mean over unrelated
        embeddings is 0; else the biased one of Kornblith et al. 2019, which tends to 1 as features
        outnumber rows.
    normalise : {"l2", "max", "none"}
        Row scaling.

    Returns
    -------
    float
        Biased: in [0, 1]. Unbiased: at most 1, below 0 for less than chance. NaN if an embedding is
        constant.

    Raises
    ------
    MetricError
        If rows differ in number, are not finite, or number fewer than four.

    Notes
    -----
    Taken from products of features or of rows, whichever is less work; the numbers are the same.
    """
    spaces = [Space(normalise_rows(rows, normalise)) for rows in as_pair(x, y)]
    if features_are_cheaper(spaces):
        covariance = feature_covariances(spaces, unbiased=unbiased)[0]
        # All rows equally far apart leave a variance of 0, and rounding less than this of it.
        least = [1e-13 * (_lengths(space.centred) ** 2).mean() / spaces[0].n for space in spaces]
        if (np.diagonal(covariance) <= least).any():
            return float(np.nan)
        return ratio(covariance)
    matrices = [products(space) for space in spaces]
    return ratio(matrix_covariance(matrices, spaces[0].n, unbiased=unbiased))


def features_are_cheaper(spaces: Sequence[Space], *, passes: int = 1, shared: bool = False) -> bool:
    """Whether d x d products beat n x n tiles.

    Parameters
    ----------
    passes : int
        How often features would be multiplied: once, and once a null draw.
    shared : bool
        Whether the tiles are made in any case, for distances.
    """
    m, n = len(spaces), spaces[0].n
    widths = np.array([space.d for space in spaces], float)
    features = passes * n * (widths.sum() ** 2 + (widths**2).sum()) / 2.0
    tiles = n * n * m * m / 2.0
    if not shared:
        tiles += n * n * widths.sum() * (1.0 if passes > 1 else 0.5)
    return bool(features < tiles)


def feature_covariances(
    spaces: Sequence[Space], bounds: NDArray[np.intp] | None = None, *, unbiased: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """HSIC of all pairs from products of features: over all rows (m, m), and without each block.

    Parameters
    ----------
    spaces : sequence of m Space
        Rows sorted so that blocks are contiguous.
    bounds : int array, shape (G + 1,), optional
        Block boundaries; without them the second result is empty.

    Notes
    -----
    With centred features K 1 = 0, so that with a_i = |x_i|^2 the unbiased HSIC times n (n - 3) is
    |X^T Y|_F^2 - n/(n-2) sum a_i b_i + (sum a)(sum b) / ((n-1)(n-2)). Without a block, the products
    and lengths are those about the mean of the rows kept.
    """
    m, n = len(spaces), spaces[0].n
    edges = np.array([0, n]) if bounds is None else bounds
    count = 0 if bounds is None else edges.size - 1
    lengths = np.stack([_lengths(space.centred) for space in spaces])
    cuts = [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]
    shifts = [np.stack([space.centred[cut].sum(axis=0) for cut in cuts]) for space in spaces]
    squares = np.zeros((m, m))
    squares_without = np.zeros((count, m, m))
    for a in range(m):
        for b in range(a, m):
            parts = np.stack([spaces[a].centred[cut].T @ spaces[b].centred[cut] for cut in cuts])
            total = parts.sum(axis=0)
            squares[a, b] = squares[b, a] = np.einsum("ij,ij->", total, total)
            for block in range(count):
                left = n - (cuts[block].stop - cuts[block].start)
                rest = total - parts[block]
                rest -= np.outer(shifts[a][block], shifts[b][block]) / left
                value = np.einsum("ij,ij->", rest, rest)
                squares_without[block, a, b] = squares_without[block, b, a] = value
    full = _hsic(squares, lengths, n, unbiased=unbiased)
    for block in range(count):
        kept = np.ones(n, bool)
        kept[cuts[block]] = False
        moved = np.stack(
            [
                _lengths(space.centred[kept] + shift[block] / kept.sum())
                for space, shift in zip(spaces, shifts, strict=True)
            ]
        )
        squares_without[block] = _hsic(
            squares_without[block], moved, int(kept.sum()), unbiased=unbiased
        )
    return full, squares_without


def null_feature_covariances(spaces: Sequence[Space], draws: Permutations) -> NDArray[np.float64]:
    """Unbiased HSIC of all pairs a < b under each draw, shape (K, m, m), in float32 products."""
    m, n = len(spaces), spaces[0].n
    scaled = [to_single(space.centred) for space in spaces]
    units = np.array([scale**2 for _, scale in scaled])
    lengths = np.stack([_lengths(points).astype(np.float64) for points, _ in scaled])
    null = np.zeros((draws.count, m, m))
    squares = np.zeros((m, m))
    for draw, order in enumerate(draws.indices):
        for b in range(1, m):
            moved = scaled[b][0][order]
            for a in range(b):
                product = scaled[a][0].T @ moved
                squares[a, b] = np.einsum("ij,ij->", product, product, dtype=np.float64)
        null[draw] = _hsic(squares, lengths, n, unbiased=True, second=lengths[:, order])
    return np.triu(null * np.outer(units, units), 1)


def _lengths(rows: FloatArray) -> FloatArray:
    return np.einsum("id,id->i", rows, rows)


def _hsic(
    squares: NDArray[np.float64],
    lengths: FloatArray,
    n: int,
    *,
    unbiased: bool,
    second: FloatArray | None = None,
) -> NDArray[np.float64]:
    if not unbiased:
        return squares / (n - 1) ** 2
    dots = lengths @ (lengths if second is None else second).T
    totals = lengths.sum(axis=1)
    outer = np.outer(totals, totals) / ((n - 1) * (n - 2))
    return (squares - n / (n - 2) * dots + outer) / (n * (n - 3))
