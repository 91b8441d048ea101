# SPDX-License-Identifier: Apache-2.0
"""FAISS: the same exact candidates on GPUs, and approximate indexes for those who ask for them.

Whatever proposes candidates, :mod:`.neighbours` orders them in float64.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import MetricError, MissingExtraError, missing_extra

logger = logging.getLogger("matteratlas")

Index = Literal["exact", "ivf", "hnsw"]
INDEXES: tuple[Index, ...] = get_args(Index)

GPU_NEIGHBOURS = 2048
"""Most candidates a row that FAISS selects on a GPU."""

GPU_BYTES = (2**30, 2**28)
"""Device memory for database rows, and for queries with their results; halved when refused."""

GPU_ATTEMPTS = 4

SEED = 1234

Candidates = tuple[NDArray[np.int64], NDArray[np.float32]]


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


def search_gpu(points: NDArray[np.float32], k: int, *, inner: bool) -> Candidates | None:
    """Return the k nearest rows of every row, itself among them, by brute force on all GPUs.

    Parameters
    ----------
    points : float32 array, shape (n, d)
    k : int
        Candidates a row.
    inner : bool
        Largest inner products instead of smallest squared distances.

    Returns
    -------
    labels : int64 array, shape (n, k)
    keys : float32 array, shape (n, k)
        Ascending squared distances, or inner products with the sign changed.
    None
        Where there is no GPU, where k is more than FAISS selects on one, or, with a line in the
        log, where device memory does not even hold small batches: search on the processor.

    Notes
    -----
    Each GPU takes an equal share of the queries; rows and queries pass through it in batches of at
    most ``GPU_BYTES``.
    """
    count = gpu_count()
    if count == 0 or k > GPU_NEIGHBOURS:
        return None
    vectors, queries = GPU_BYTES
    refused = ""
    for _ in range(GPU_ATTEMPTS):
        try:
            return _search_gpus(points, k, inner, count, vectors, queries)
        except RuntimeError as error:
            refused = _first_line(error)
            if not _out_of_memory(str(error)):
                raise
            vectors, queries = vectors // 4, queries // 4
    logger.warning("GPU out of memory, neighbours searched on the processor: %s", refused)
    return None


def _search_gpus(
    points: NDArray[np.float32], k: int, inner: bool, count: int, vectors: int, queries: int
) -> Candidates:
    faiss = load_faiss()
    metric = faiss.METRIC_INNER_PRODUCT if inner else faiss.METRIC_L2

    def search(device: int, part: NDArray[np.float32]) -> tuple[Any, Any]:
        return faiss.knn_gpu(  # type: ignore[no-any-return]
            faiss.StandardGpuResources(),
            part,
            points,
            k,
            metric=metric,
            device=device,
            vectorsMemoryLimit=vectors,
            queriesMemoryLimit=queries,
        )

    parts = [part for part in np.array_split(points, count) if len(part)]
    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(search, range(len(parts)), parts))
    keys = np.concatenate([part[0] for part in found])
    labels = np.concatenate([part[1] for part in found]).astype(np.int64, copy=False)
    return labels, (-keys if inner else keys)


def _out_of_memory(message: str) -> bool:
    """Whether a failure of FAISS on a device is one of memory (its own pool, or cudaMalloc)."""
    text = message.lower()
    return "out of memory" in text or "alloc fail" in text or "memoryallocation" in text


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def check_index(index: str, options: Mapping[str, int] | None, n: int) -> dict[str, int]:
    """Return an index's settings, defaults filled in.

    Parameters
    ----------
    index : {"exact", "ivf", "hnsw"}
    options : mapping of str to int, optional
        ``"ivf"``: ``cells`` the rows are divided into (sqrt(n)) and ``probes``, the nearest cells
        looked into (cells / 8). ``"hnsw"``: ``links`` a row (32), ``build`` and ``visit``, rows
        visited when a row is added (200) and looked up (200).
    n : int
        Number of rows.

    Raises
    ------
    MetricError
        For an unknown index or setting, or a value that is not a whole number above 0.
    """
    if index not in INDEXES:
        raise MetricError(f"index={index!r} is not one of {', '.join(INDEXES)}")
    cells = max(1, round(float(np.sqrt(n))))
    if options and isinstance(options.get("cells"), int):
        cells = max(1, options["cells"])
    defaults: dict[str, dict[str, int]] = {
        "exact": {},
        "ivf": {"cells": cells, "probes": max(1, cells // 8)},
        "hnsw": {"links": 32, "build": 200, "visit": 200},
    }
    settings = defaults[index]
    for name, value in (options or {}).items():
        if name not in settings:
            known = ", ".join(settings) or "none"
            raise MetricError(f"index '{index}' has no setting '{name}'; it has: {known}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise MetricError(f"index setting {name}={value!r} is not a whole number above 0")
        settings[name] = value
    if index == "ivf" and settings["cells"] > n:
        raise MetricError(f"index setting cells={settings['cells']} is more than the {n} rows")
    return settings


def search_index(
    points: NDArray[np.float32],
    k: int,
    *,
    inner: bool,
    index: Index,
    settings: Mapping[str, int],
) -> NDArray[np.int64]:
    """Return up to k near rows of every row, -1 where an index found fewer, shape (n, k).

    Parameters
    ----------
    points : float32 array, shape (n, d)
    k : int
    inner : bool
    index : {"ivf", "hnsw"}
    settings : mapping
        From :func:`check_index`.

    Notes
    -----
    The same on every run and with any number of threads: cells are trained from one seed, and that
    and laying links take one thread, as order decides what is found. Looking up takes all allowed.
    """
    faiss = load_faiss()
    metric = faiss.METRIC_INNER_PRODUCT if inner else faiss.METRIC_L2
    n, d = points.shape
    if index == "ivf":
        plain = faiss.IndexFlat(d, metric)
        found = faiss.IndexIVFFlat(plain, d, settings["cells"], metric)
        found.cp.seed = SEED
        found.cp.min_points_per_centroid = 1  # few rows a cell are no reason for a warning
        with _one_thread(faiss):
            found.train(points)
        found.add(points)
        found.nprobe = min(settings["probes"], settings["cells"])
        _, labels = found.search(points, k)
    else:
        graph = faiss.IndexHNSWFlat(d, settings["links"], metric)
        graph.hnsw.efConstruction = settings["build"]
        with _one_thread(faiss):
            graph.add(points)
        graph.hnsw.efSearch = max(settings["visit"], k)
        _, labels = graph.search(points, k)
    return np.asarray(labels, np.int64).reshape(n, k)


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
