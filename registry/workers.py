# SPDX-License-Identifier: Apache-2.0
"""Where long work runs: this process, others of this machine, or a Dask scheduler that is there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ..schemas.errors import SourceError, missing_extra

if TYPE_CHECKING:
    from dask.distributed import Client

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def scheduler_address(given: str | None = None) -> str | None:
    """Address of an existing scheduler: as given, or that of ``DASK_SCHEDULER_ADDRESS``."""
    return given or os.environ.get("DASK_SCHEDULER_ADDRESS") or None


@contextmanager
def cluster(
    *, workers: int = 0, scheduler: str | None = None, failures: int = 1
) -> Iterator[Client | None]:
    """A client of an existing scheduler, or of ``workers`` processes made here; None for neither.

    Parameters
    ----------
    workers : int
        Processes, each on one thread; 0 makes none.
    scheduler : str, optional
        ``tcp://host:port`` of a scheduler, or the path of its scheduler file (``.json``). Its
        workers must reach the atlas folder under the same path.
    failures : int
        Workers that a task may cost before it counts as failed.

    Raises
    ------
    SourceError
        If no scheduler answers there, or the processes cannot be started.
    """
    if scheduler is None and workers == 0:
        yield None
        return
    try:
        import dask
        from dask.distributed import Client, LocalCluster
    except ImportError as error:
        raise missing_extra("distributed", "cpu") from error
    settings = {
        # One thread a worker: on few cores oversubscription costs far more than it gives.
        **{f"distributed.nanny.pre-spawn-environ.{name}": "1" for name in _THREADS},
        # Models free large tensors all the time; giving the pages back at once costs more than
        # keeping them (Dask's default trims at 64 kB).
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": str(1 << 28),
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": str(1 << 25),
        # A model holds the interpreter for long stretches; that is no reason to call it dead.
        "distributed.scheduler.worker-ttl": None,
        "distributed.scheduler.allowed-failures": failures,
        "distributed.admin.tick.limit": "1h",
    }
    with dask.config.set(settings), ExitStack() as stack:
        if scheduler is not None:
            file = scheduler.endswith(".json")
            where = {"scheduler_file" if file else "address": scheduler}
            try:
                client = Client(**where, timeout="10s")
            except (OSError, TimeoutError, ValueError) as error:
                raise SourceError(
                    f"scheduler '{scheduler}' does not answer; start it with: dask scheduler, or "
                    "leave --scheduler and DASK_SCHEDULER_ADDRESS out"
                ) from error
            yield stack.enter_context(client)
            return
        try:
            made = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=0,
                    dashboard_address=None,
                    silence_logs=logging.ERROR,
                )
            )
            client = stack.enter_context(Client(made))
        except (OSError, RuntimeError) as error:
            raise SourceError(
                f"{workers} workers could not be started ({error}); run it again, or with "
                "--workers 0"
            ) from error
        yield client
