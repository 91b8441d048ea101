# SPDX-License-Identifier: Apache-2.0
"""Sums over all pairs of rows, for all pairs of models at once, without holding n x n.

Both global metrics are inner products of symmetric n x n matrices: of distances (distance
correlation) or of Gram matrices (CKA). A tile of rows of *all* models, flattened, is a matrix with
one line per model; its product with itself holds the tile's share of every pair of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .blocks import Space, row_blocks, rows_per_block

Kernel = Literal["distance", "linear"]


@dataclass(frozen=True)
class PairSums:
    """Sums over rows i != j of the m models' matrices a_ij, resolved by block of rows.

    Attributes
    ----------
    n : int
        Number of rows; ``bounds`` cuts them into G blocks (G + 1 ascending numbers from 0 to n).
    crossing : float64 array, shape (G, m, m)
        Sum of a_ij b_ij with i in the block and j anywhere.
    within : float64 array, shape (G, m, m)
        The same with i and j both in the block.
    rows : float64 array, shape (m, n, G)
        Sum of a_ij over j in the block.
    """

    n: int
    bounds: NDArray[np.intp]
    crossing: NDArray[np.float64]
    within: NDArray[np.float64]
    rows: NDArray[np.float64]

    def covariance(self, *, unbiased: bool) -> NDArray[np.float64]:
        """Centred inner products of all pairs of models over all rows, shape (m, m)."""
        rows = self.rows.sum(axis=2)
        return _centre(self.crossing.sum(axis=0), rows, self.n, unbiased=unbiased)

    def covariance_without(self, block: int, *, unbiased: bool) -> NDArray[np.float64]:
        """The same over the rows outside one block: exactly what those rows alone would give."""
        kept = np.ones(self.n, bool)
        kept[self.bounds[block] : self.bounds[block + 1]] = False
        products = self.crossing.sum(axis=0) - 2.0 * self.crossing[block] + self.within[block]
        rows = self.rows[:, kept].sum(axis=2) - self.rows[:, kept, block]
        return _centre(products, rows, int(kept.sum()), unbiased=unbiased)


def _centre(
    products: NDArray[np.float64], rows: NDArray[np.float64], n: int, *, unbiased: bool
) -> NDArray[np.float64]:
    """Centre sum_ij a_ij b_ij given row sums (m, n) of matrices with a zero diagonal.

    Unbiased: <U-centred a, U-centred b> / (n (n - 3)) (Szekely & Rizzo 2013; for Gram matrices it
    is Song et al. 2012, Eq. 5). Biased: the mean of the doubly centred products.
    """
    dots = rows @ rows.T
    totals = rows.sum(axis=1)
    if unbiased:
        outer = np.outer(totals, totals) / ((n - 1) * (n - 2))
        return (products - 2.0 / (n - 2) * dots + outer) / (n * (n - 3))
    return (products - 2.0 / n * dots + np.outer(totals, totals) / n**2) / n**2


def pair_sums(
    spaces: Sequence[Space], kernels: Sequence[Kernel], bounds: NDArray[np.intp] | None = None
) -> dict[Kernel, PairSums]:
    """Sum the products of all pairs of models' distance and/or Gram matrices.

    Parameters
    ----------
    spaces : sequence of m Space
        The models over the same n rows, sorted so that blocks are contiguous.
    kernels : sequence of {"distance", "linear"}
        Euclidean distances, and inner products of centred rows; both from one product a tile.
    bounds : int array, shape (G + 1,), optional
        Block boundaries; one block of all rows by default.

    Notes
    -----
    2 n^2 sum(d) / 2 flops for the tiles and m^2 n^2 / 2 products a kernel; O(tile + m n G) memory.
    """
    m, n = len(spaces), spaces[0].n
    edges = np.array([0, n]) if bounds is None else np.asarray(bounds)
    g = edges.size - 1
    sums = {
        kernel: PairSums(n, edges, np.zeros((g, m, m)), np.zeros((g, m, m)), np.zeros((m, n, g)))
        for kernel in kernels
    }
    for block in range(g):
        low, high = int(edges[block]), int(edges[block + 1])
        step = rows_per_block(8 * m * (n - low) * len(kernels), n)
        for rows in row_blocks(low, high, step):
            tiles = _tiles(spaces, kernels, rows, low)
            for kernel, tile in tiles.items():
                _add_tile(sums[kernel], tile, rows, block)
    return sums


def _tiles(
    spaces: Sequence[Space], kernels: Sequence[Kernel], rows: slice, low: int
) -> dict[Kernel, NDArray[np.float64]]:
    """Tiles (m, rows, n - low) of each kernel, zero on the diagonal."""
    n = spaces[0].n
    shape = (len(spaces), rows.stop - rows.start, n - low)
    tiles = {kernel: np.empty(shape) for kernel in kernels}
    here = np.arange(shape[1])
    for index, space in enumerate(spaces):
        gram = space.centred[rows] @ space.centred[low:].T
        if "linear" in tiles:
            tiles["linear"][index] = gram
            tiles["linear"][index, here, here + rows.start - low] = 0.0
        if "distance" in tiles:
            squares = np.einsum("id,id->i", space.centred[low:], space.centred[low:])
            gram *= -2.0
            gram += squares[rows.start - low : rows.stop - low, None]
            gram += squares
            np.maximum(gram, 0.0, out=gram)
            if space.copies is not None:
                gram[space.copies[rows][:, None] == space.copies[low:]] = 0.0
            gram[here, here + rows.start - low] = 0.0
            np.sqrt(gram, out=tiles["distance"][index])
    return tiles


def _add_tile(sums: PairSums, tile: NDArray[np.float64], rows: slice, block: int) -> None:
    """Add one tile: rows of ``block`` against all columns from the start of ``block`` on."""
    edges = sums.bounds[block:] - sums.bounds[block]
    m = tile.shape[0]
    sums.rows[:, rows, block:] += np.add.reduceat(tile, edges[:-1], axis=2)
    sums.rows[:, sums.bounds[block + 1] :, block] += tile[:, :, edges[1] :].sum(axis=1)
    for offset in range(edges.size - 1):
        part = tile[:, :, edges[offset] : edges[offset + 1]].reshape(m, -1)
        products = part @ part.T
        sums.crossing[block] += products
        if offset:
            sums.crossing[block + offset] += products
        else:
            sums.within[block] += products


def correlation(
    covariance: NDArray[np.float64], *, scale: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Divide c_ab by sqrt(c_aa c_bb); NaN where a model has no variance left.

    Parameters
    ----------
    covariance : float64 array, shape (m, m)
    scale : float64 array, shape (m,), optional
        Variances over all rows: a variance of 1e-12 of it is what rounding leaves of none.
    """
    variance = np.diagonal(covariance).copy()
    floor = np.zeros_like(variance) if scale is None else 1e-12 * scale
    variance[~(variance > floor)] = np.nan
    length = np.sqrt(variance)
    return np.asarray(covariance / np.outer(length, length))
