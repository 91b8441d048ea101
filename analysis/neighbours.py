# SPDX-License-Identifier: Apache-2.0
"""Exact nearest neighbours of every row: float32 proposes candidates, float64 decides.

Ties are broken by the lower row index, so lists are the same on every run, thread count and device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import missing_extra
from .blocks import FloatArray, Space, check_neighbour_count, row_blocks, rows_per_block, to_single
from .indexes import Index, check_index, gpu_count, load_faiss, search_gpu, search_index

__all__ = [
    "Neighbours",
    "Similarity",
    "gpu_count",
    "load_faiss",
    "nearest",
    "nearest_among",
    "nearest_scaled",
]

Similarity = Literal["euclidean", "inner"]

DENSE_ROWS = 1024
"""Up to this many rows a float64 tile is as fast as a float32 search and its second look."""

SPARE = 8
"""Candidates asked for beyond those needed, so that rounding cannot push a neighbour out."""

FAR_OFF = 4.0
"""Rows whose squares are larger than this many times their spread are centred before a search."""

RECALL_ROWS = 500
"""Rows whose exact lists an approximate index is held against, drawn from one seed."""


@dataclass(frozen=True)
class Neighbours:
    """Every row's nearest other rows, nearest first.

    Attributes
    ----------
    indices : int32 array, shape (n, k)
        Row numbers; a row is never its own neighbour.
    scores : float64 array, shape (n, k)
        Squared Euclidean distance (``"euclidean"``, ascending) or inner product (``"inner"``,
        descending).
    index : {"exact", "ivf", "hnsw"}
        What proposed the candidates.
    recall : float
        Share of the exact neighbours that the lists hold: 1 for exact lists, else measured on
        ``RECALL_ROWS`` rows.
    """

    indices: NDArray[np.int32]
    scores: NDArray[np.float64]
    index: Index = "exact"
    recall: float = 1.0

    def first(self, k: int) -> Neighbours:
        """The same lists cut to their first ``k`` columns."""
        return replace(self, indices=self.indices[:, :k], scores=self.scores[:, :k])


def nearest(
    space: Space,
    k: int,
    *,
    similarity: Similarity = "euclidean",
    index: Index = "exact",
    index_options: Mapping[str, int] | None = None,
) -> Neighbours:
    """Return the ``k`` nearest other rows of every row, exactly unless asked otherwise.

    Parameters
    ----------
    space : Space
        n rows.
    k : int
        Neighbours a row, 1 <= k < n.
    similarity : {"euclidean", "inner"}
        Smallest Euclidean distance, or largest inner product. On rows of unit length both give
        the same lists.
    index : {"exact", "ivf", "hnsw"}
        An approximate index of FAISS instead; its lists miss some neighbours, and the result says
        what share it found. Up to ``DENSE_ROWS`` rows are searched exactly whatever is asked.
    index_options : mapping of str to int, optional
        Settings of the index, see :func:`matteratlas.analysis.indexes.check_index`.

    Raises
    ------
    MetricError
        If k does not fit, or the index or a setting is unknown.
    MissingExtraError
        If the packages of the ``cpu`` or ``gpu`` extra are not installed.

    Notes
    -----
    Centred float32 rows are searched for ``k + SPARE`` candidates, by FAISS where there is a GPU
    and else by compiled tiles; the candidates' distances are then taken again in float64 from
    differences, and sorted by (distance, index). A row whose list rounding or a tie could have cut
    short is searched again in float64 over all rows. Of equal rows one is searched for all.
    """
    check_neighbour_count(k, space.n)
    settings = check_index(index, index_options, space.n)
    load_faiss()  # small inputs do not need it, but must not hide that it is missing
    if space.n <= max(DENSE_ROWS, 4 * (k + SPARE)):
        return _search_dense(space, np.arange(space.n), k, similarity)
    if index != "exact":
        return _search_approximately(space, k, similarity, index, settings)
    if space.copies is not None:
        return _search_distinct(space, space.copies, k, similarity)
    return _search_exactly(space, k, similarity)


def nearest_among(
    space: Space,
    found: Neighbours,
    kept: NDArray[np.bool_],
    k: int,
    *,
    similarity: Similarity = "euclidean",
) -> Neighbours:
    """Return the ``k`` nearest kept rows of every kept row, from longer lists over all rows.

    Row numbers stay those of all rows. Where a list has too few kept rows left, the kept rows are
    searched anew, so the result is exact however short ``found`` is.
    """
    available = kept[found.indices[kept]]
    place = np.cumsum(available, axis=1)
    if (place[:, -1] < k).any():
        names = np.flatnonzero(kept).astype(np.int32)
        again = nearest(Space(space.values[kept]), k, similarity=similarity)
        return replace(again, indices=names[again.indices])
    chosen = available & (place <= k)
    return replace(
        found,
        indices=found.indices[kept][chosen].reshape(-1, k),
        scores=found.scores[kept][chosen].reshape(-1, k),
    )


def _search_dense(
    space: Space, rows: NDArray[np.intp], k: int, similarity: Similarity
) -> Neighbours:
    indices = np.empty((rows.size, k), np.int32)
    scores = np.empty((rows.size, k))
    for block in row_blocks(0, rows.size, rows_per_block(32 * space.n, rows.size)):
        here = rows[block]
        euclidean = similarity == "euclidean"
        tile = space.squared_distances(here) if euclidean else -space.products(here)
        tile[np.arange(here.size), here] = np.inf
        indices[block], scores[block] = _smallest(tile, k)
    return Neighbours(indices, scores if similarity == "euclidean" else -scores)


def _smallest(tile: NDArray[np.float64], k: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Columns and values of the k smallest of each row of (rows, n), equal values by column."""
    cut = np.partition(tile, k - 1, axis=1)[:, k - 1 : k]
    chosen = tile <= cut
    many = np.flatnonzero(chosen.sum(axis=1) > k)  # equal values at the cut: the first of them
    if many.size:
        equal = tile[many] == cut[many]
        below = chosen[many] & ~equal
        room = k - below.sum(axis=1)
        chosen[many] = below | (equal & (equal.cumsum(axis=1) <= room[:, None]))
    columns = np.nonzero(chosen)[1].reshape(-1, k)
    values = np.take_along_axis(tile, columns, axis=1)
    order = np.argsort(values, axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(values, order, axis=1)


def _search_exactly(space: Space, k: int, similarity: Similarity) -> Neighbours:
    inner = similarity == "inner"
    tools = _compiled()
    threads = tools.blas_threads()
    searched = space.values if inner else space.centred
    points, scale = to_single(searched)
    lengths = np.sqrt(np.einsum("id,id->i", searched, searched))
    unit = np.finfo(np.float32).eps * (4.0 + np.sqrt(space.d))
    on_gpu = search_gpu(points, k + SPARE + 1, inner=inner)
    if on_gpu is None:
        candidates, worst = tools.search_tiles(points, k + SPARE, inner=inner, threads=threads)
    else:
        candidates, worst = on_gpu[0], on_gpu[1][:, -1]
        unit = max(unit, 8.0 * _observed_error(searched, lengths, *on_gpu, scale, inner))
    return _decide(
        space, k, similarity, candidates, worst.astype(np.float64) * scale**2, lengths, unit
    )


def _decide(
    space: Space,
    k: int,
    similarity: Similarity,
    candidates: NDArray[np.int32],
    worst: NDArray[np.float64],
    lengths: FloatArray,
    unit: float,
) -> Neighbours:
    """Order candidates in float64, and search rows anew that float32 may have cut short.

    ``lengths`` are those of the rows that were searched, ``unit`` the error of a key in parts of
    squared lengths.
    """
    inner = similarity == "inner"
    tools = _compiled()
    indices, keys = tools.order_candidates(
        space.values, candidates, k, inner=inner, threads=tools.blas_threads()
    )
    # A row left out of the candidates has no key below `worst` in float32. It can belong in the
    # list only if float32 was wrong by more than the distance between `worst` and the last key.
    if inner:
        error = unit * lengths * lengths.max()
    else:
        error = unit * (lengths**2 + (lengths + np.sqrt(keys[:, -1])) ** 2)
    doubtful = np.flatnonzero(keys[:, -1] + error >= worst)
    found = Neighbours(indices, -keys if inner else keys)
    if doubtful.size:
        again = _search_dense(space, doubtful, k, similarity)
        found.indices[doubtful] = again.indices
        found.scores[doubtful] = again.scores
    return found


def nearest_scaled(
    space: Space, scaled: Space, k: int, k_scaled: int
) -> tuple[Neighbours, Neighbours] | None:
    """Return the nearest rows as given and as scaled to unit length, from one matrix product.

    The same lists as two searches by :func:`nearest`, in less time.

    Parameters
    ----------
    space, scaled : Space
        The same rows, the second at length 1.
    k, k_scaled : int

    Returns
    -------
    tuple of two Neighbours, or None
        None where two searches are better: few rows, equal rows, rows of zeros, a mean far off
        (distances would lose digits), or a GPU.
    """
    n, most = space.n, max(k, k_scaled)
    if n <= max(DENSE_ROWS, 4 * (most + SPARE)) or gpu_count():
        return None
    if space.copies is not None or scaled.copies is not None or (scaled.squares != 1.0).any():
        return None
    if space.squares.sum() > FAR_OFF * float(np.einsum("id,id->", space.centred, space.centred)):
        return None
    tools = _compiled()
    points, scale = to_single(space.values)
    lengths = np.sqrt(space.squares)
    scales = (scale / lengths).astype(np.float32)
    if not np.isfinite(scales).all():
        return None
    found = tools.search_scaled(
        points, scales, k + SPARE, k_scaled + SPARE, threads=tools.blas_threads()
    )
    unit = np.finfo(np.float32).eps * (8.0 + np.sqrt(space.d))
    ones = np.ones(n)
    return tuple(
        _decide(one, reach, "euclidean", labels, worst.astype(np.float64) * factor, length, unit)
        for one, reach, (labels, worst), factor, length in zip(
            (space, scaled), (k, k_scaled), found, (scale**2, 1.0), (lengths, ones), strict=True
        )
    )  # type: ignore[return-value]


def _observed_error(
    searched: FloatArray,
    lengths: FloatArray,
    labels: NDArray[np.int64],
    keys: NDArray[np.float32],
    scale: float,
    inner: bool,
) -> float:
    """Largest error of a device's float32 keys over some rows, relative to what they are sums of.

    Devices may multiply with fewer digits than float32 has; more rows are then in doubt.
    """
    rows = np.linspace(0, len(labels) - 1, min(len(labels), 256)).astype(int)
    there = labels[rows]
    if inner:
        exact = -np.einsum("id,ikd->ik", searched[rows], searched[there])
        size = lengths[rows, None] * lengths.max()
    else:
        gaps = searched[rows, None] - searched[there]
        exact = np.einsum("ikd,ikd->ik", gaps, gaps)
        size = lengths[rows, None] ** 2 + lengths[there] ** 2
    wrong = np.abs(keys[rows].astype(np.float64) * scale**2 - exact)
    return float((wrong / np.where(size > 0, size, 1.0)).max())


def _search_distinct(
    space: Space, copies: NDArray[np.intp], k: int, similarity: Similarity
) -> Neighbours:
    """Search one of each group of equal rows, then write its list out for all of them."""
    distinct = Space(space.values[space.unique_rows])
    inner = similarity == "inner"
    reach = min(k, distinct.n - 1)
    lists, keys = np.empty((distinct.n, 0), np.int32), np.empty((distinct.n, 0))
    if reach:
        found = nearest(distinct, reach, similarity=similarity)
        lists, keys = found.indices, -found.scores if inner else found.scores
    own = -distinct.squares if inner else np.zeros(distinct.n)
    _compiled()
    from .copies import expand_copies

    indices, scores = expand_copies(copies, lists, keys, own, k)
    return Neighbours(indices, -scores if inner else scores)


def _search_approximately(
    space: Space, k: int, similarity: Similarity, index: Index, settings: Mapping[str, int]
) -> Neighbours:
    """Order what an index finds in float64; rows it finds too little for are searched exactly."""
    inner = similarity == "inner"
    tools = _compiled()
    points, _ = to_single(space.values if inner else space.centred)
    candidates = search_index(points, k + SPARE + 1, inner=inner, index=index, settings=settings)
    indices, keys = tools.order_candidates(
        space.values, candidates, k, inner=inner, threads=tools.blas_threads()
    )
    scores = -keys if inner else keys
    few = np.flatnonzero(~np.isfinite(scores[:, -1]))
    if few.size:
        exact = _search_dense(space, few, k, similarity)
        indices[few], scores[few] = exact.indices, exact.scores
    sample = np.random.default_rng(0).permutation(space.n)[:RECALL_ROWS]
    expected = _search_dense(space, np.sort(sample), k, similarity).indices
    held = indices[np.sort(sample)]
    shared = sum(np.intersect1d(a, b).size for a, b in zip(held, expected, strict=True))
    return Neighbours(indices, scores, index, float(shared / expected.size))


def _compiled() -> ModuleType:
    try:
        from . import candidates
    except ImportError as error:
        raise missing_extra("numba", "cpu") from error
    return candidates
