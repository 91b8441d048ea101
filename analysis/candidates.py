# SPDX-License-Identifier: Apache-2.0
"""Neighbour candidates in float32 on the processor, and their order in float64; compiled.

Rows are compared with themselves, so each tile of the matrix of distances serves its rows and, seen
from the other side, its columns: half the products of a search that knows queries and a database.
What a tile holds is looked at once, against the worst candidate so far of its row and its column.
FAISS finds the same candidates, and stays the way on a GPU and to approximate indexes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., Any])

FIRST = 2048
"""Columns that every row is compared with first; their best bound what is worth keeping."""

TILE = (512, 1024)
"""Rows and columns of a tile: 2 MB, which a core's caches hold beside the lists of its columns."""

CHUNK = 8
"""Marks that are looked at together: most chunks hold none."""

GROUPS = 128
"""Groups of columns whose smallest keys bound a row's first list, if that is more than 2 k."""

SINGLE = np.float32
LOWEST = np.float32(-3e38)
"""Below every key: a bound that lets nothing in."""


def compiled(**options: Any) -> Callable[[Function], Function]:
    """Compile on first use; kept on disk for the next process where a folder can be written."""

    def decorate(function: Function) -> Function:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)  # type: ignore[no-any-return]
        except RuntimeError:  # numba found no folder for its cache
            return numba.njit(nogil=True, **options)(function)  # type: ignore[no-any-return]

    return decorate


@compiled()
def _keep_smallest(keys: Any, labels: Any, size: int, k: int) -> Any:
    """Move the k smallest of ``size`` keys to the front (Hoare's selection); return the largest."""
    low, high = 0, size - 1
    while low < high:
        first, middle, last = keys[low], keys[(low + high) >> 1], keys[high]
        pivot = max(min(first, middle), min(max(first, middle), last))
        left, right = low, high
        while left <= right:
            while keys[left] < pivot:
                left += 1
            while keys[right] > pivot:
                right -= 1
            if left <= right:
                keys[left], keys[right] = keys[right], keys[left]
                labels[left], labels[right] = labels[right], labels[left]
                left += 1
                right -= 1
        if k - 1 <= right:
            high = right
        elif k - 1 >= left:
            low = left
        else:
            break
    worst = keys[0]
    for place in range(1, k):
        worst = max(worst, keys[place])
    return worst


@compiled(inline="always")
def _push(
    row: int, key: Any, label: int, bound: Any, count: Any, keys: Any, labels: Any, k: int
) -> None:
    place = count[row]
    keys[row, place] = key
    labels[row, place] = label
    place += 1
    if place == keys.shape[1]:
        bound[row] = _keep_smallest(keys[row], labels[row], place, k)
        place = k
    count[row] = place


@compiled(fastmath={"contract"})
def _seed(
    tile: Any, squares: Any, start: int, bound: Any, count: Any, keys: Any, labels: Any, k: int
) -> None:
    """Fill the lists of rows ``start`` on from their tile with the first columns; bound them."""
    rows, columns = tile.shape
    key = np.empty(columns + 1, SINGLE)
    near = np.empty(columns + 1, SINGLE)
    label = np.empty(columns + 1, np.int32)
    groups = min(columns, max(GROUPS, 2 * k))
    least = np.empty(groups, SINGLE)
    unused = np.empty(groups, np.int32)
    for i in range(rows):
        row = start + i
        square = squares[row]
        line = tile[i]
        for j in range(columns):
            key[j] = line[j] + (square + squares[j])
        if row < columns:
            key[row] = np.inf
        # Of groups of columns, k have a key up to the k-th of their least: a bound on the list.
        least[:] = key[:groups]
        for low in range(groups, columns, groups):
            for j in range(min(groups, columns - low)):
                least[j] = min(least[j], key[low + j])
        limit = _keep_smallest(least, unused, groups, k)
        kept = 0
        for j in range(columns):
            near[kept] = key[j]
            label[kept] = j
            kept += key[j] <= limit
        if row < columns and limit == np.inf:  # fewer groups than k without the row's own
            kept = 0
            for j in range(columns):
                near[kept] = key[j]
                label[kept] = j
                kept += j != row
        bound[row] = _keep_smallest(near, label, kept, k)
        for j in range(k):
            keys[row, j] = near[j]
            labels[row, j] = label[j]
        count[row] = k


@compiled(fastmath={"contract"})
def _collect(
    tile: Any,
    squares: Any,
    start: int,
    first: int,
    bound: Any,
    count: Any,
    keys: Any,
    labels: Any,
    k: int,
    both: bool,
) -> None:
    """Offer a tile (rows ``start`` on, columns ``first`` on) to its columns and, if both, rows.

    On the diagonal only what lies right of it counts, so that no pair is offered twice.
    """
    rows, columns = tile.shape
    diagonal = start == first
    marks = np.zeros(-(-columns // CHUNK) * CHUNK, np.uint8)
    chunks = marks.view(np.uint64)
    hits = np.empty(marks.size + 1, np.int64)
    column_bound = bound[first : first + columns]
    column_square = squares[first : first + columns]
    for i in range(rows):
        row = start + i
        square = squares[row]
        limit = bound[row] if both else LOWEST
        line = tile[i]
        for j in range(columns):
            key = line[j] + (square + column_square[j])
            marks[j] = key < max(limit, column_bound[j])
        found = 0
        for chunk in range((i + 1) // CHUNK if diagonal else 0, chunks.size):
            if chunks[chunk] != 0:
                for j in range(chunk * CHUNK, (chunk + 1) * CHUNK):
                    hits[found] = j
                    found += marks[j]
        for hit in range(found):
            j = hits[hit]
            if diagonal and j <= i:
                continue
            key = line[j] + (square + column_square[j])
            if key < limit:
                _push(row, key, first + j, bound, count, keys, labels, k)
                limit = bound[row]
            if key < column_bound[j]:
                _push(first + j, key, row, bound, count, keys, labels, k)


@compiled()
def _finish(keys: Any, labels: Any, count: Any, k: int, worst: Any) -> None:
    for row in range(keys.shape[0]):
        worst[row] = _keep_smallest(keys[row], labels[row], count[row], k)


# Sums may be taken in another order than written: that vectorises them. It is one order for all
# pairs of rows of one width, so equal rows still get equal distances.
@compiled(fastmath={"reassoc", "contract", "nsz"})
def _order(
    values: Any, candidates: Any, start: int, stop: int, inner: bool, indices: Any, keys: Any
) -> None:
    d, k = values.shape[1], indices.shape[1]
    exact = np.empty(candidates.shape[1])
    for row in range(start, stop):
        labels = np.sort(candidates[row])  # by index first, so that the stable sort keeps it
        here = values[row]
        for place in range(labels.size):
            label = labels[place]
            if label == row or label < 0:
                exact[place] = np.inf
                continue
            there = values[label]
            total = 0.0
            if inner:
                for j in range(d):
                    total -= here[j] * there[j]
            else:
                for j in range(d):
                    gap = here[j] - there[j]
                    total += gap * gap
            exact[place] = total
        order = np.argsort(exact, kind="mergesort")
        for place in range(k):
            indices[row, place] = labels[order[place]]
            keys[row, place] = exact[order[place]]


def blas_threads() -> int:
    """Threads that matrix products may use now."""
    from threadpoolctl import threadpool_info

    pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return max(1, min(pools, default=1))


def search_tiles(
    points: NDArray[np.float32], k: int, *, inner: bool, threads: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the k nearest other rows of every row in float32, in no order.

    Parameters
    ----------
    points : float32 array, shape (n, d)
    k : int
        Candidates a row, 1 <= k < n.
    inner : bool
        Largest inner products instead of smallest distances.
    threads : int
        With more than one, the next tile is multiplied while the last one is looked at.

    Returns
    -------
    labels : int32 array, shape (n, k)
    worst : float32 array, shape (n,)
        Key of each row's last candidate: no row left out has a smaller one. A key is a squared
        distance, or an inner product with its sign changed.

    Notes
    -----
    n^2 d flops; 16 n k bytes beside the points, and two tiles.
    """
    n = points.shape[0]
    squares = np.zeros(n, np.float32)
    if not inner:
        squares = np.einsum("id,id->i", points, points)
    lists = _Lists(squares, k)
    first = min(n, max(FIRST, 4 * k))
    for start, column, tile in _tiles(points, first, scale=-1.0 if inner else -2.0, ahead=threads):
        lists.offer(tile, start, column, first)
    return lists.finish()


def search_scaled(
    points: NDArray[np.float32], scales: NDArray[np.float32], k: int, k_scaled: int, *, threads: int
) -> tuple[tuple[NDArray[np.int32], NDArray[np.float32]], ...]:
    """Return the nearest other rows as given, and of rows times ``scales``, from one product.

    Parameters
    ----------
    points : float32 array, shape (n, d)
    scales : float32 array, shape (n,)
        Of the scaled rows, whose length is 1.
    k, k_scaled : int
        Candidates a row.

    Returns
    -------
    tuple of two pairs
        As :func:`search_tiles` gives them.
    """
    n = points.shape[0]
    plain = _Lists(np.einsum("id,id->i", points, points), k)
    scaled = _Lists(np.ones(n, np.float32), k_scaled)
    first = min(n, max(FIRST, 4 * max(k, k_scaled)))
    for start, column, tile in _tiles(points, first, scale=-2.0, ahead=threads):
        plain.offer(tile, start, column, first)
        _rescale(tile, scales, start, column)
        scaled.offer(tile, start, column, first)
    return plain.finish(), scaled.finish()


@compiled()
def _rescale(tile: Any, scales: Any, start: int, first: int) -> None:
    rows, columns = tile.shape
    for i in range(rows):
        own = scales[start + i]
        for j in range(columns):
            tile[i, j] *= own * scales[first + j]


class _Lists:
    """Candidates of all rows so far."""

    def __init__(self, squares: NDArray[np.float32], k: int) -> None:
        n = squares.size
        self.squares, self.k = squares, k
        self.keys, self.labels = np.empty((n, 2 * k), np.float32), np.empty((n, 2 * k), np.int32)
        self.count = np.zeros(n, np.int64)
        self.state = (np.empty(n, np.float32), self.count, self.keys, self.labels, k)

    def offer(self, tile: NDArray[np.float32], start: int, column: int, first: int) -> None:
        """Look at a tile; those of the first columns begin the lists."""
        if column:
            _collect(tile, self.squares, start, column, *self.state, True)
            return
        _seed(tile, self.squares, start, *self.state)
        if start >= first:
            _collect(tile, self.squares, start, 0, *self.state, False)

    def finish(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The k nearest of every row, and the last one's key."""
        worst = np.empty(self.squares.size, np.float32)
        _finish(self.keys, self.labels, self.count, self.k, worst)
        return np.ascontiguousarray(self.labels[:, : self.k]), worst


def _tiles(
    points: NDArray[np.float32], first: int, *, scale: float, ahead: int
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """All rows against the first columns, then the upper triangle of the rest; one at a time."""
    n = points.shape[0]
    scaled = points * np.float32(scale)
    spans = []
    start = 0
    while start < n:  # a block of rows lies on one side of `first`
        stop = min(start + TILE[0], first if start < first else n)
        spans.append((start, stop, 0, first))
        start = stop
    for start in range(first, n, TILE[0]):
        stop = min(start + TILE[0], n)
        spans.append((start, stop, start, stop))
        spans += [(start, stop, c, min(c + TILE[1], n)) for c in range(stop, n, TILE[1])]
    size = TILE[0] * max(first, TILE[1])
    buffers = [np.empty(size, np.float32) for _ in range(2)]

    def product(number: int) -> NDArray[np.float32]:
        start, stop, column, end = spans[number]
        tile = buffers[number % 2][: (stop - start) * (end - column)].reshape(stop - start, -1)
        return np.matmul(scaled[start:stop], points[column:end].T, out=tile)

    if ahead < 2:
        for number, span in enumerate(spans):
            yield span[0], span[2], product(number)
        return
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(product, 0)
        for number, span in enumerate(spans):
            tile = coming.result()
            if number + 1 < len(spans):
                coming = pool.submit(product, number + 1)
            yield span[0], span[2], tile


def order_candidates(
    values: NDArray[np.float64],
    candidates: NDArray[np.integer[Any]],
    k: int,
    *,
    inner: bool,
    threads: int = 1,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the k best candidates of every row by float64 keys, equal keys by index.

    Parameters
    ----------
    values : float64 array, shape (n, d)
    candidates : integer array, shape (n, c)
        Row numbers, each once a row; a row itself and negative numbers are passed over. At least k
        others must be left, or the rest of a list has an infinite key.
    k : int
    inner : bool
    threads : int

    Returns
    -------
    indices : int32 array, shape (n, k)
    keys : float64 array, shape (n, k)
        Ascending: squared distances taken from differences, or inner products with the sign
        changed.
    """
    n = values.shape[0]
    indices = np.empty((n, k), np.int32)
    keys = np.empty((n, k))
    if threads < 2:
        _order(values, candidates, 0, n, inner, indices, keys)
        return indices, keys
    cuts = np.linspace(0, n, threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        done = [
            pool.submit(_order, values, candidates, low, high, inner, indices, keys)
            for low, high in pairwise(cuts)
        ]
        for part in done:
            part.result()
    return indices, keys
