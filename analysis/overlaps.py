# SPDX-License-Identifier: Apache-2.0
"""Neighbour lists of two models side by side: sums over the edges they share.

An edge (i, j) says that j is among the k nearest rows of i. Mutual kNN counts the edges two models
share; CKNNA sums kernel values over them. Lists are n x k; the only n-wide thing is a byte table
of one model's edges for a block of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks import row_blocks, rows_per_block
from .calibration import Permutations

EDGES_PER_BATCH = 1_000_000
"""Edges of the relabeled model looked up in one step."""


@dataclass(frozen=True)
class Edges:
    """One model's neighbour lists with a kernel value on every edge.

    Attributes
    ----------
    indices : int32 array, shape (n, k)
    values : float64 array, shape (n, k), or None
        Kernel value of each edge; None when only shared edges are counted.
    returned : bool array, shape (n, k), or None
        Whether the opposite edge (j, i) is in the lists too.
    """

    indices: NDArray[np.int32]
    values: NDArray[np.float64] | None = None
    returned: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class SharedSums:
    """Sums over shared edges for each pair of models: arrays of shape (..., m, m), a <= b filled.

    ``p`` is the first model's value on a shared edge, ``q`` the second's; ``rows_columns`` is the
    sum over j of (row sum of p) x (column sum of q), and so on. Without kernel values only
    ``count`` is filled.
    """

    count: NDArray[np.float64]
    products: NDArray[np.float64]
    returned_products: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    rows_rows: NDArray[np.float64]
    columns_columns: NDArray[np.float64]
    rows_columns: NDArray[np.float64]
    columns_rows: NDArray[np.float64]


def find_returned(indices: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Mark the edges whose opposite is in the lists too, shape (n, k)."""
    n = indices.shape[0]
    forward = np.arange(n, dtype=np.int64)[:, None] * n + indices
    backward = indices.astype(np.int64) * n + np.arange(n)[:, None]
    return np.isin(backward, forward)


def shared_sums(
    edges: Sequence[Edges], draws: Permutations | None = None, *, kernels: bool
) -> SharedSums:
    """Sum over the shared edges of every pair a <= b of models (a < b under draws).

    Parameters
    ----------
    edges : sequence of m Edges
    draws : Permutations, optional
        Relabel the second model of each pair; results gain a leading axis of K draws.
    kernels : bool
        Whether values are summed too, or edges only counted.
    """
    m = len(edges)
    n, k = edges[0].indices.shape
    count = 1 if draws is None else draws.count
    out = {name: np.zeros((count, m, m)) for name in SharedSums.__dataclass_fields__}
    table = _Table(edges)
    inverse = None if draws is None else np.argsort(draws.indices, axis=1)
    for b in range(m):
        for batch in row_blocks(0, count, max(1, EDGES_PER_BATCH // (n * k))):
            moved = list(_move(edges[b], draws, inverse, batch, table.block))
            for a in range(b + 1 if draws is None else b):
                sums = _pair(table, a, moved, batch.stop - batch.start, kernels)
                for name, value in sums.items():
                    out[name][batch, a, b] = value
    if draws is None:
        out = {name: value[0] for name, value in out.items()}
    return SharedSums(**out)


@dataclass(frozen=True)
class _Moved:
    """Edges of the (relabeled) second model that start in a block of rows; (P, rows, k) each."""

    rows: slice
    keys: NDArray[np.intp]
    values: NDArray[np.float64] | None
    returned: NDArray[np.bool_] | None


def _move(
    edges: Edges,
    draws: Permutations | None,
    inverse: NDArray[np.intp] | None,
    batch: slice,
    block: int,
) -> Iterator[_Moved]:
    n = edges.indices.shape[0]
    for rows in row_blocks(0, n, block):
        local = np.arange(rows.stop - rows.start, dtype=np.intp)[None, :, None] * n
        if draws is None or inverse is None:
            keys = local + edges.indices[None, rows]
            values = None if edges.values is None else edges.values[None, rows]
            returned = None if edges.returned is None else edges.returned[None, rows]
        else:
            source = draws.indices[batch, rows]
            draw = np.arange(batch.start, batch.stop)[:, None, None]
            keys = local + inverse[draw, edges.indices[source]]
            values = None if edges.values is None else edges.values[source]
            returned = None if edges.returned is None else edges.returned[source]
        yield _Moved(rows, keys, values, returned)


class _Table:
    """For a block of rows of one model: 1 + place of j in the list of i, or 0."""

    def __init__(self, edges: Sequence[Edges]) -> None:
        self.edges = edges
        self.n, k = edges[0].indices.shape
        dtype = np.uint8 if k < 255 else np.uint16 if k < 65535 else np.uint32
        self.block = rows_per_block(self.n * np.dtype(dtype).itemsize, self.n)
        self.cells = np.zeros(self.block * self.n, dtype)
        self.touched: NDArray[np.intp] | None = None
        self.held: tuple[int, int] | None = None

    def load(self, index: int, rows: slice) -> NDArray[np.unsignedinteger[Any]]:
        """Fill the table for ``rows`` of one model, clearing only what was set before."""
        if self.held != (index, rows.start):
            if self.touched is not None:
                self.cells[self.touched] = 0
            lists = self.edges[index].indices[rows]
            keys = np.arange(lists.shape[0], dtype=np.intp)[:, None] * self.n + lists
            self.cells[keys] = np.arange(1, lists.shape[1] + 1)
            self.touched, self.held = keys, (index, rows.start)
        return self.cells


def _pair(
    table: _Table, index: int, moved: Sequence[_Moved], draws: int, kernels: bool
) -> dict[str, NDArray[np.float64]]:
    """All sums of one pair of models, an array of ``draws`` values each."""
    first = table.edges[index]
    n = table.n
    k = first.indices.shape[1]
    sums = {"count": np.zeros(draws)}
    if kernels:
        sums |= {"products": np.zeros(draws), "returned_products": np.zeros(draws)}
        margins = [np.zeros(draws * n) for _ in range(4)]
    for part in moved:
        place = np.take(table.load(index, part.rows), part.keys)
        shared = place != 0
        sums["count"] += np.count_nonzero(shared.reshape(draws, -1), axis=1)
        if not kernels:
            continue
        assert first.values is not None and part.values is not None
        assert first.returned is not None and part.returned is not None
        hit = np.flatnonzero(shared)
        line = hit // k  # counts the rows of this part, draw after draw
        draw, row = np.divmod(line, part.keys.shape[1])
        edge = row * k + np.take(place, hit) - 1
        p = np.take(first.values[part.rows], edge)
        q = np.take(part.values, hit)
        product = p * q
        sums["products"] += np.bincount(draw, weights=product, minlength=draws)
        product *= np.take(first.returned[part.rows], edge)
        product *= np.take(part.returned, hit)
        sums["returned_products"] += np.bincount(draw, weights=product, minlength=draws)
        at_column = np.take(part.keys, hit)
        at_column += (draw - row) * n
        at_row = line if part.keys.shape[1] == n else draw * n + row + part.rows.start
        for margin, at, weight in zip(
            margins, (at_row, at_row, at_column, at_column), (p, q, p, q), strict=True
        ):
            margin += np.bincount(at, weights=weight, minlength=draws * n)
    if kernels:
        row_p, row_q, column_p, column_q = (margin.reshape(draws, n) for margin in margins)
        sums |= {"first": row_p.sum(axis=1), "second": row_q.sum(axis=1)}
        for name, left, right in (
            ("rows_rows", row_p, row_q),
            ("columns_columns", column_p, column_q),
            ("rows_columns", row_p, column_q),
            ("columns_rows", column_p, row_q),
        ):
            sums[name] = np.einsum("pi,pi->p", left, right)
    return sums
