# SPDX-License-Identifier: Apache-2.0
"""Symmetric n x n matrices that are never held: rows of them on demand, and what they sum to.

The reference of the metrics that compare such matrices, in float64 throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..blocks import Space, row_blocks, rows_per_block

Floats = NDArray[np.float64]

Matrix = Callable[[slice], Floats]
"""Rows of a symmetric matrix, (len(rows), n), the diagonal included; the array is the caller's."""


def distances(space: Space) -> Matrix:
    """Euclidean distances: equal rows at exactly 0, and exactly as far from every other row."""

    def rows_of(rows: slice) -> Floats:
        tile = space.squared_distances(rows)
        tile[np.arange(tile.shape[0]), np.arange(rows.start, rows.stop)] = 0.0
        np.maximum(tile, 0.0, out=tile)
        return np.sqrt(tile, out=tile)

    return rows_of


def products(space: Space) -> Matrix:
    """Inner products of centred rows."""
    return lambda rows: np.asarray(space.centred[rows] @ space.centred.T)


def gaussian(space: Space, sigma: float) -> Matrix:
    """Values exp(-distance^2 / (2 sigma^2))."""

    def rows_of(rows: slice) -> Floats:
        tile = distances(space)(rows)
        tile /= sigma
        tile *= tile
        tile *= -0.5
        return np.exp(tile, out=tile)

    return rows_of


def blocks_of(n: int, *, tiles: int) -> Iterator[slice]:
    """Blocks of rows such that ``tiles`` temporaries of (rows, n) numbers keep to their size."""
    return row_blocks(0, n, rows_per_block(8 * tiles * n, n))


def covariance(matrices: Sequence[Matrix], n: int, *, unbiased: bool) -> Floats:
    """Centred inner products of all pairs of matrices, shape (m, m).

    Parameters
    ----------
    matrices : sequence of m Matrix
    unbiased : bool
        True: <U-centred a, U-centred b> / (n (n - 3)), without the diagonals (Szekely & Rizzo 2013;
        for Gram matrices Song et al. 2012, Eq. 5). False: mean of the doubly centred products.

    Notes
    -----
    Neither changes when a constant is added to a matrix, so its mean (of the first rows) is taken
    off before anything is squared. What rounding leaves of a constant matrix is set to exactly 0.
    """
    m = len(matrices)
    dots, raw = np.zeros((m, m)), np.zeros(m)
    rows_sum, shift = np.zeros((m, n)), np.zeros(m)
    for rows in blocks_of(n, tiles=m + 2):
        here = np.arange(rows.stop - rows.start)
        parts = []
        for index, matrix in enumerate(matrices):
            tile = matrix(rows)
            raw[index] += np.vdot(tile, tile)
            if rows.start == 0:
                own = tile[here, here].sum() if unbiased else 0.0
                shift[index] = (tile.sum() - own) / (tile.size - here.size * unbiased)
            tile -= shift[index]
            if unbiased:
                tile[here, here + rows.start] = 0.0
            rows_sum[index, rows] = tile.sum(axis=1)
            parts.append(tile.ravel())
        for a in range(m):
            for b in range(a, m):
                dots[a, b] += np.vdot(parts[a], parts[b])
    dots = np.triu(dots) + np.triu(dots, 1).T
    margins = rows_sum @ rows_sum.T
    totals = rows_sum.sum(axis=1)
    if unbiased:
        outer = np.outer(totals, totals) / ((n - 1) * (n - 2))
        value = (dots - 2.0 / (n - 2) * margins + outer) / (n * (n - 3))
    else:
        value = (dots - 2.0 / n * margins + np.outer(totals, totals) / n**2) / n**2
    empty = np.diagonal(value) <= 1e-26 * raw / n**2
    value[empty] = 0.0
    value[:, empty] = 0.0
    return np.asarray(value)


def ratio(value: Floats) -> float:
    """Correlation from a (2, 2) covariance; NaN where a matrix has no variance left."""
    if not (value[0, 0] > 0 and value[1, 1] > 0):
        return float(np.nan)
    return float(value[0, 1] / (np.sqrt(value[0, 0]) * np.sqrt(value[1, 1])))


GATHER = 2**20
"""How many values of a matrix may be held to finish a search for its quantile."""

BINS = 2**16


def median(matrix: Matrix, n: int, *, above: float = -np.inf) -> float:
    """Exact median of the entries i < j (those greater than ``above``), or NaN if there are none.

    Counts all entries in a histogram over their range, then again in the bin that holds the
    middle, until few enough are left to sort: two or three passes, the same number whatever the
    size of the blocks.
    """

    def upper() -> Iterator[Floats]:
        columns = np.arange(n)
        for rows in blocks_of(n, tiles=4):
            tile = matrix(rows)
            mine = tile[columns > np.arange(rows.start, rows.stop)[:, None]]
            yield mine[mine > above]

    low, high, count = np.inf, -np.inf, 0
    for values in upper():
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            count += values.size
    if count == 0:
        return float(np.nan)
    middle = [(count - 1) // 2, count // 2]
    return float(np.mean([_select(upper, low, high, count, place) for place in set(middle)]))


def _select(
    values: Callable[[], Iterator[Floats]], low: float, high: float, count: int, place: int
) -> float:
    """Value at ``place`` in ascending order among the ``count`` values from low to high."""
    while low < high and count > GATHER:
        edges = np.linspace(low, high, BINS + 1)
        edges[-1] = high
        inner = edges[1:-1]
        held = np.zeros(BINS, np.int64)
        for part in values():
            part = part[(part >= low) & (part <= high)]
            held += np.bincount(np.searchsorted(inner, part, side="right"), minlength=BINS)
        before = np.concatenate([[0], np.cumsum(held)])
        bin_ = int(np.searchsorted(before, place, side="right")) - 1
        place -= int(before[bin_])
        count = int(held[bin_])
        # A bin is [edge, next edge), but for the last, which is closed.
        top = (
            float(edges[bin_ + 1])
            if bin_ == BINS - 1
            else float(np.nextafter(edges[bin_ + 1], low))
        )
        if (float(edges[bin_]), top) == (low, high):
            break  # neighbouring numbers: nothing lies between
        low, high = float(edges[bin_]), top
    if low == high:
        return low
    kept = np.concatenate([part[(part >= low) & (part <= high)] for part in values()])
    return float(np.partition(kept, place)[place])
