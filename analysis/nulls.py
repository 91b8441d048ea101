# SPDX-License-Identifier: Apache-2.0
"""Null draws of the global metrics: centred products of all pairs under the same relabelings.

Draws are in float32 (relative error about 1e-6, far below the spread of any null); observed scores
are not computed here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from .blocks import Space, row_blocks, rows_per_block, to_single
from .calibration import Cycle, Permutations
from .tiles import Kernel


class Centred:
    """One model's U-centred matrix in float32, any entries of it on demand.

    U-centred off the diagonal: a_ij - r_i/(n-2) - r_j/(n-2) + s/((n-1)(n-2)), and the products of
    two such matrices over i != j are the unbiased estimate times n (n - 3).
    """

    def __init__(
        self,
        points: NDArray[np.float32],
        scale: float,
        row_sums: dict[Kernel, NDArray[np.float64]],
    ) -> None:
        self.points = points
        self.squares = np.einsum("id,id->i", self.points, self.points)
        self.means: dict[Kernel, NDArray[np.float32]] = {}
        self.grand: dict[Kernel, float] = {}
        self.units: dict[Kernel, float] = {}
        n = points.shape[0]
        for kernel, given in row_sums.items():
            self.units[kernel] = scale if kernel == "distance" else scale**2
            rows = given / self.units[kernel]
            self.means[kernel] = (rows / (n - 2)).astype(np.float32)
            self.grand[kernel] = float(rows.sum() / ((n - 1) * (n - 2)))

    def entries(
        self,
        kernel: Kernel,
        gram: NDArray[np.float32],
        rows: NDArray[np.intp],
        columns: NDArray[np.intp],
    ) -> NDArray[np.float32]:
        """Centre the entries whose inner products are ``gram``, at ``rows`` and ``columns``."""
        if kernel == "linear":
            entries = gram - self.means[kernel][rows]
        else:
            entries = np.multiply(gram, np.float32(-2.0))
            entries += self.squares[rows]
            entries += self.squares[columns]
            np.maximum(entries, 0.0, out=entries)
            np.sqrt(entries, out=entries)
            entries -= self.means[kernel][rows]
        entries -= self.means[kernel][columns]
        entries += np.float32(self.grand[kernel])
        return entries


def null_covariances(
    spaces: Sequence[Space], row_sums: dict[Kernel, NDArray[np.float64]], draws: Permutations
) -> dict[Kernel, NDArray[np.float64]]:
    """Unbiased centred products under each draw, shape (K, m, m) a kernel.

    Entry [t, a, b] is the product of model a's matrix with model b's, rows and columns of the
    latter relabeled by draw t. The lower triangle belongs to the inverse relabelings.

    Parameters
    ----------
    spaces : sequence of m Space
    row_sums : dict of float64 arrays, shape (m, n)
        Sum over j != i of each model's a_ij, a kernel each; the kernels asked for.

    Notes
    -----
    Rotations: one pass over the n / 2 distinct cyclic diagonals of every model, and a Fourier
    transform along each, give *all* n rotations for about the cost of two evaluations. Draws
    within groups: one pass over the tiles a draw.
    """
    models = [
        Centred(
            *to_single(space.centred), {kernel: rows[index] for kernel, rows in row_sums.items()}
        )
        for index, space in enumerate(spaces)
    ]
    count, m, n = draws.count, len(spaces), spaces[0].n
    null = {kernel: np.empty((count, m, m)) for kernel in row_sums}
    if draws.cycles:
        start = 0
        for cycle in draws.cycles:
            stop = start + cycle.shifts.size
            for kernel, product in _rotated(models, tuple(row_sums), cycle, n).items():
                null[kernel][start:stop] = product[cycle.shifts]
            start = stop
    else:
        _shuffled(models, null, draws.indices, n)
    for kernel, product in null.items():
        unit = np.array([model.units[kernel] for model in models])
        product *= unit[:, None] * unit[None, :] / (n * (n - 3))
    return null


def _rotated(
    models: Sequence[Centred], kernels: Sequence[Kernel], cycle: Cycle, n: int
) -> dict[Kernel, NDArray[np.float64]]:
    """Sums over i != j of a_ij b_{i+s, j+s} for every shift s, shape (n, m, m)."""
    width = rows_per_block(8 * len(models) * n, n // 2)
    return rotation_sums(models, kernels, cycle, range(1, n // 2 + 1), width=width)


def rotation_sums(
    models: Sequence[Centred],
    kernels: Sequence[Kernel],
    cycle: Cycle,
    diagonals: range,
    *,
    width: int,
) -> dict[Kernel, NDArray[np.float64]]:
    """Share of some cyclic diagonals in the sums over i != j of a_ij b_{i+s, j+s}, all shifts s.

    Parameters
    ----------
    diagonals : range
        Of 1..n // 2, which together stand for all.
    width : int
        Diagonals held at once.

    Returns
    -------
    dict of kernel to float64 array, shape (n, m, m)
    """
    m, n = len(models), cycle.order.size
    spectra = {kernel: np.zeros((n // 2 + 1, m, m), np.complex64) for kernel in kernels}
    # Rows in the order of the cycle, and again, so that a diagonal never wraps around.
    double = np.concatenate([cycle.order, cycle.order])
    for offsets in row_blocks(diagonals.start, diagonals.stop, width):
        size = offsets.stop - offsets.start
        entries = {kernel: np.empty((m, size, n), np.float32) for kernel in kernels}
        here = double[None, :n]
        there = as_strided(
            double[offsets.start :], (size, n), (double.strides[0], double.strides[0])
        )
        for index, model in enumerate(models):
            gram = _diagonals(model.points, double, offsets, n)
            for kernel in kernels:
                entries[kernel][index] = model.entries(kernel, gram, here, there)
        # Diagonal n - o is diagonal o rotated: count it by doubling, but the middle one only once.
        weight = np.full(size, 2.0, np.float32)
        weight[-1] = 1.0 if 2 * (offsets.stop - 1) == n else 2.0
        for kernel in kernels:
            waves = np.fft.rfft(entries.pop(kernel), axis=2).transpose(2, 0, 1)
            left = np.conj(waves) * weight
            spectra[kernel] += left @ np.ascontiguousarray(waves.transpose(0, 2, 1))
    return {
        kernel: np.fft.irfft(spectrum, n=n, axis=0).astype(np.float64)
        for kernel, spectrum in spectra.items()
    }


def _diagonals(
    points: NDArray[np.float32], double: NDArray[np.intp], offsets: slice, n: int
) -> NDArray[np.float32]:
    """Inner products of place i with place i + o, for o in ``offsets``, shape (len(offsets), n)."""
    size = offsets.stop - offsets.start
    ordered = points[double[: n + offsets.stop]]
    out = np.empty((size, n), np.float32)
    for rows in row_blocks(0, n, max(64, size)):
        band = ordered[rows] @ ordered[rows.start + offsets.start : rows.stop + offsets.stop - 1].T
        step, unit = band.strides
        out[:, rows] = as_strided(band, (size, band.shape[0]), (unit, step + unit))
    return out


def _shuffled(
    models: Sequence[Centred],
    null: dict[Kernel, NDArray[np.float64]],
    indices: NDArray[np.int32],
    n: int,
) -> None:
    """Fill ``null`` draw by draw from tiles of the upper triangle."""
    m = len(models)
    for product in null.values():
        product[:] = 0.0
    for rows in row_blocks(0, n, rows_per_block(8 * m * n, n)):
        places = np.arange(rows.start, n)
        size = rows.stop - rows.start
        weight = np.full((size, places.size), 2.0, np.float32)  # stands for the lower triangle
        weight[:, :size] = 1.0
        weight[np.arange(size), np.arange(size)] = 0.0
        fixed = {kernel: _tile(models, kernel, places[:size], places) * weight for kernel in null}
        for draw, order in enumerate(indices):
            moved = order[places].astype(np.intp)
            for kernel, product in null.items():
                tile = _tile(models, kernel, moved[:size], moved)
                product[draw] += fixed[kernel].reshape(m, -1) @ tile.reshape(m, -1).T


def _tile(
    models: Sequence[Centred], kernel: Kernel, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Centred entries of all models at ``rows`` x ``columns``, shape (m, rows, columns)."""
    tile = np.empty((len(models), rows.size, columns.size), np.float32)
    for index, model in enumerate(models):
        gram = model.points[rows] @ model.points[columns].T
        tile[index] = model.entries(kernel, gram, rows[:, None], columns[None, :])
    return tile
