# SPDX-License-Identifier: Apache-2.0
"""Exact nearest neighbours of every row: FAISS proposes in float32, float64 decides.

Ties are broken by the lower row index, so lists are the same on every run, thread count and device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import MissingExtraError, missing_extra
from .blocks import FloatArray, Space, check_neighbour_count, row_blocks, rows_per_block, to_single

Similarity = Literal["euclidean", "inner"]

DENSE_ROWS = 1024
"""Up to this many rows a float64 tile is as fast as a float32 search and its second look."""

SPARE = 8
"""Candidates asked for beyond those needed, so that rounding cannot push a neighbour out."""


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
    """

    indices: NDArray[np.int32]
    scores: NDArray[np.float64]

    def first(self, k: int) -> Neighbours:
        """The same lists cut to their first ``k`` columns."""
        return Neighbours(self.indices[:, :k], self.scores[:, :k])


@lru_cache(maxsize=1)
def load_faiss() -> Any:
    """Import FAISS once, after checking that exactly one of its two packages is installed.

    Raises
    ------
    MissingExtraError
        If neither is installed, or both are: they own the same folder, so pip lets them overwrite
        each other without a word.
    """
    installed = []
    for name in ("faiss-cpu", "faiss-gpu"):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        installed.append(name)
    if len(installed) == 2:
        raise MissingExtraError(
            "packages 'faiss-cpu' and 'faiss-gpu' are both installed and overwrite each other; "
            "run: pip uninstall faiss-cpu faiss-gpu, then pip install 'matteratlas[cpu]' "
            "or 'matteratlas[gpu]'"
        )
    try:
        import faiss
    except ImportError as error:
        raise missing_extra("faiss-cpu", "cpu") from error
    return faiss


def gpu_count() -> int:
    """Number of GPUs FAISS can use: 0 with the CPU package or on a machine without one."""
    faiss = load_faiss()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def nearest(space: Space, k: int, *, similarity: Similarity = "euclidean") -> Neighbours:
    """Return the ``k`` nearest other rows of every row, exactly.

    Parameters
    ----------
    space : Space
        n rows.
    k : int
        Neighbours a row, 1 <= k < n.
    similarity : {"euclidean", "inner"}
        Smallest Euclidean distance, or largest inner product. On rows of unit length both give
        the same lists.

    Notes
    -----
    FAISS searches centred float32 rows for ``k + SPARE`` candidates; their distances are then taken
    again in float64 from differences, and sorted by (distance, index). A row whose list rounding or
    a tie could have cut short is searched again in float64 over all rows.
    """
    check_neighbour_count(k, space.n)
    load_faiss()  # small inputs do not need it, but must not hide that it is missing
    if space.n <= max(DENSE_ROWS, 4 * (k + SPARE)):
        return _search_dense(space, np.arange(space.n), k, similarity)
    candidates, worst = _search_faiss(space, k + SPARE + 1, similarity)
    found, doubtful = _decide(space, candidates, worst, k, similarity)
    if doubtful.size:
        again = _search_dense(space, doubtful, k, similarity)
        found.indices[doubtful] = again.indices
        found.scores[doubtful] = again.scores
    return found


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
        return Neighbours(names[again.indices], again.scores)
    chosen = available & (place <= k)
    return Neighbours(
        found.indices[kept][chosen].reshape(-1, k), found.scores[kept][chosen].reshape(-1, k)
    )


def order_by_distance(squared: NDArray[np.float64]) -> NDArray[np.intp]:
    """Argsort each row of a (rows, n) array, equal values by index.

    The fast sort is not stable, so rows in which two values are equal are sorted again by one
    that is.
    """
    order = np.argsort(squared, axis=1)
    ordered = np.take_along_axis(squared, order, axis=1)
    tied = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
    if tied.size:
        order[tied] = np.argsort(squared[tied], axis=1, kind="stable")
    return order


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
        order = order_by_distance(tile)[:, :k]
        indices[block] = order
        scores[block] = np.take_along_axis(tile, order, axis=1)
    return Neighbours(indices, scores if similarity == "euclidean" else -scores)


def _search_faiss(
    space: Space, k: int, similarity: Similarity
) -> tuple[NDArray[np.int64], FloatArray]:
    """Candidates (n, k) and the score of each row's last one, in the units of ``space``."""
    faiss = load_faiss()
    points, scale = to_single(space.centred if similarity == "euclidean" else space.values)
    measure = faiss.METRIC_L2 if similarity == "euclidean" else faiss.METRIC_INNER_PRODUCT
    if gpu_count() > 0:
        resources = faiss.StandardGpuResources()
        found, labels = faiss.knn_gpu(resources, points, points, k, metric=measure)
    else:
        found, labels = faiss.knn(points, points, k, metric=measure)
    return labels.astype(np.int64), found[:, -1].astype(np.float64) * scale**2


def _decide(
    space: Space,
    candidates: NDArray[np.int64],
    worst: FloatArray,
    k: int,
    similarity: Similarity,
) -> tuple[Neighbours, NDArray[np.intp]]:
    """Sort candidates by float64 scores; return the lists and the rows that stay in doubt."""
    n, d = space.values.shape
    indices = np.empty((n, k), np.int32)
    scores = np.empty((n, k))
    values = space.values
    for block in row_blocks(0, n, rows_per_block(8 * d * candidates.shape[1], n)):
        labels = np.sort(candidates[block], axis=1)  # by index first, so the stable sort keeps it
        if similarity == "euclidean":
            gap = values[labels]
            gap -= values[block, None, :]
            exact = np.einsum("ikd,ikd->ik", gap, gap)
        else:
            exact = -np.einsum("id,ikd->ik", values[block], values[labels])
        exact[labels == np.arange(block.start, block.stop)[:, None]] = np.inf
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        indices[block] = np.take_along_axis(labels, order, axis=1)
        scores[block] = np.take_along_axis(exact, order, axis=1)
    # A row left out of the candidates scored no better than `worst` in float32. It can belong in
    # the list only if float32 was wrong by more than the distance between `worst` and the last.
    searched = space.centred if similarity == "euclidean" else values
    length = np.sqrt(np.einsum("id,id->i", searched, searched))
    unit = np.finfo(np.float32).eps * (4.0 + np.sqrt(d))
    if similarity == "euclidean":
        reach = length + np.sqrt(scores[:, -1])
        error = unit * (length**2 + reach**2)
        doubtful = scores[:, -1] + error >= worst
    else:
        error = unit * length * length.max()
        doubtful = scores[:, -1] + error >= -worst
        scores = -scores
    return Neighbours(indices, scores), np.flatnonzero(doubtful)
