# SPDX-License-Identifier: Apache-2.0
"""Run the tasks of a job: on threads of this process, or on any Dask cluster; each at most once.

A task writes one group of arrays and depends on nothing but the groups of an earlier step, so it
may run anywhere, twice, or be left out when its group is there. Sums are added up in one order
whoever made them: results do not depend on who ran what.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...schemas.errors import missing_extra
from ...schemas.progress import Reporter, Silent
from ..choices import OVERLAPS
from ..neighbours import load_faiss
from . import models, nulls, overlaps, tiles
from .job import Job, Step
from .store import FolderStore, Store

if TYPE_CHECKING:
    from dask.distributed import Client


@dataclass(frozen=True)
class Task:
    """One unit of work.

    Attributes
    ----------
    step : str
        Which; tasks of one wave do not need each other.
    key : str
        The group of arrays it leaves.
    arguments : tuple
    """

    step: Step
    key: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Done:
    """A task that ran, and the seconds it took: of the clock, and of one processor."""

    task: Task
    seconds: float
    busy: float


_DO: dict[Step, Callable[..., None]] = {
    "models": models.do_model,
    "null_models": nulls.do_null_model,
    "tiles": tiles.do_tiles,
    "pairs": overlaps.do_pairs,
    "null_tiles": nulls.do_null_tiles,
    "null_ranks": nulls.do_null_ranks,
}


def waves(job: Job) -> list[list[Task]]:
    """All tasks of a job; a wave needs what the one before it made."""
    m, settings = len(job.names), job.settings
    drawing = settings.permutations > 0
    scalings = tiles.tile_scalings(job)
    first = [Task("models", f"constant-{i:05d}", (i,)) for i in range(m)]
    second: list[Task] = []
    for how in scalings:
        strips = range(len(job.strips))
        second += [Task("tiles", tiles.tile_key(how, i), (how, i)) for i in strips]
        if drawing:
            # The last group a model's task leaves stands for all of them.
            if how == scalings[-1]:
                keys = [models.key_of("null", how, i) for i in range(m)]
                first += [Task("null_models", key, (i,)) for i, key in enumerate(keys)]
            if tiles.tile_kernels(job, how):
                parts = range(nulls.null_tile_tasks(job))
                second += [Task("null_tiles", nulls.null_key(how, i), (how, i)) for i in parts]
    if drawing and "information_imbalance" in settings.scaling:
        second += [Task("null_ranks", nulls.rank_key(i), (i,)) for i in range(m)]
    if set(OVERLAPS) & set(settings.scaling):
        batches = range(overlaps.pair_tasks(job))
        second += [Task("pairs", overlaps.pairs_key(i), (i,)) for i in batches]
    return [first, second]


def run(
    job: Job,
    store: Store,
    *,
    threads: int = 1,
    client: Client | None = None,
    reporter: Reporter | None = None,
    done: Callable[[Done], None] | None = None,
) -> None:
    """Do every task whose arrays are not there yet.

    Parameters
    ----------
    job, store :
        What to do, and where arrays lie; a :class:`FolderStore` that all workers reach, with
        ``client``.
    threads : int
        Tasks at once in this process, without ``client``; each on one thread.
    client : dask.distributed.Client, optional
        Where tasks run.
    done : callable, optional
        Told of every task that ran.
    """
    said = reporter or Silent()
    for tasks in waves(job):
        left = [task for task in tasks if task.key not in store]
        for step in dict.fromkeys(task.step for task in tasks):
            kept = sum(task.step == step for task in tasks) - sum(t.step == step for t in left)
            if kept:
                said.note(f"{step}: {kept} parts kept from an earlier run")
        said.stage(" + ".join(dict.fromkeys(t.step for t in left)) or "nothing left", len(left))
        ran = _on_cluster(job, store, left, client) if client else _here(job, store, left, threads)
        for one in ran:
            said.advance(f"{one.task.step} {one.task.key}", 1)
            if done is not None:
                done(one)


def _here(job: Job, store: Store, tasks: list[Task], threads: int) -> Iterator[Done]:
    with one_thread_each():
        if threads <= 1 or len(tasks) <= 1:
            for task in tasks:
                yield do_task(job, store, task)
            return
        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(do_task, job, store, task) for task in tasks]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()


def _on_cluster(job: Job, store: Store, tasks: list[Task], client: Client) -> Iterator[Done]:
    from dask.distributed import as_completed as completed

    assert isinstance(store, FolderStore)
    root, packed = str(store.root.absolute()), pickle.dumps(job)
    for last in (False, False, True):
        # The job is sent once, to all workers; should those that hold it all be lost, once more.
        held = client.scatter(_Packed(packed), broadcast=True, hash=False)
        futures = client.map(_remote, tasks, root=root, job=held, pure=False, retries=2)
        try:
            for future in completed(futures):
                if last or future.status == "finished" or future.status == "error":
                    yield future.result()
        finally:
            client.cancel(futures)
        tasks = [task for task in tasks if task.key not in store]
        if not tasks:
            return


@dataclass(frozen=True)
class _Packed:
    """A job on its way."""

    content: bytes


@lru_cache(maxsize=2)
def _unpacked(packed: bytes) -> Job:
    job: Job = pickle.loads(packed)  # sent by our own client, as every Dask task is
    return job


def _remote(task: Task, *, root: str, job: _Packed) -> Done:
    store = FolderStore(Path(root))
    if task.key in store:  # someone was faster, or an earlier try finished before it was lost
        return Done(task, 0.0, 0.0)
    with one_thread_each():
        return do_task(_unpacked(job.content), store, task)


def do_task(job: Job, store: Store, task: Task) -> Done:
    """Do one task."""
    start, busy = time.perf_counter(), time.thread_time()
    _DO[task.step](job, store, *task.arguments)
    return Done(task, time.perf_counter() - start, time.thread_time() - busy)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """BLAS and FAISS on one thread a task: tasks, not libraries, share the processors."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise missing_extra("threadpoolctl", "cpu") from error
    load_faiss()  # its thread pool can only be limited once it is loaded
    with threadpool_limits(limits=1):
        yield
