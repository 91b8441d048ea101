# SPDX-License-Identifier: Apache-2.0
"""Where an analysis runs: processes of this machine, or a Dask scheduler that is there already."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..schemas.errors import SourceError, missing_extra

if TYPE_CHECKING:
    from dask.distributed import Client

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def scheduler_address(given: str | None = None) -> str | None:
    """Address of an existing scheduler: as given, or that of ``DASK_SCHEDULER_ADDRESS``."""
    return given or os.environ.get("DASK_SCHEDULER_ADDRESS") or None


@contextmanager
def cluster(*, workers: int = 0, scheduler: str | None = None) -> Iterator[Client | None]:
    """A client of an existing scheduler, or of ``workers`` processes made here; None for neither.

    Parameters
    ----------
    workers : int
        Processes, each on one thread; fewer than two make none.
    scheduler : str, optional
        ``tcp://host:port`` of a scheduler, or the path of its scheduler file (``.json``). Its
        workers must reach the atlas folder under the same path.

    Raises
    ------
    SourceError
        If no scheduler answers there.
    """
    if scheduler is None and workers < 2:
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
        # A long product holds no lock, but a worker may still miss a beat on a busy machine.
        "distributed.scheduler.worker-ttl": None,
        "distributed.scheduler.allowed-failures": 3,
        "distributed.admin.tick.limit": "1h",
    }
    with dask.config.set(settings):
        if scheduler is not None:
            options = (
                {"scheduler_file": scheduler}
                if scheduler.endswith(".json")
                else {"address": scheduler}
            )
            try:
                client = Client(**options, timeout="10s")
            except (OSError, TimeoutError, ValueError) as error:
                raise SourceError(
                    f"scheduler '{scheduler}' does not answer; start it with: dask scheduler, or "
                    "leave --scheduler and DASK_SCHEDULER_ADDRESS out"
                ) from error
            with client:
                yield client
            return
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                dashboard_address=None,
                silence_logs=logging.ERROR,
            ) as made,
            Client(made) as client,
        ):
            yield client
