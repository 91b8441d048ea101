# SPDX-License-Identifier: Apache-2.0
"""The matrix-multiply floor that the times of the analysis are held against.

    OMP_NUM_THREADS=1 python benchmarks/floor.py

Comparing n rows of all models with each other takes 2 n^2 sum(d) flops in matrix products alone. At
this machine's float32 peak, measured in the same run, that is the floor. Clocks: ``wall`` is what a
user waits; ``cpu`` counts the process' seconds on all cores, and is the fairer one on a machine
that others use too. A ratio takes both its sides from one clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np

Clock = Literal["wall", "cpu"]
CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}

SIDE = 4096
"""Rows of the square matrices: large enough for the peak, 0.2 GB, about a second a core."""


def allowed_threads() -> int:
    """Threads that NumPy's matrix product may use now."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))
    pools = [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"]
    return min(pools, default=1)


def measured_peak(*, repeats: int = 5, side: int = SIDE, clock: Clock = "wall") -> float:
    """Return the best float32 matrix-multiply rate of this machine, in GFLOP/s.

    Parameters
    ----------
    repeats : int
        Products timed, after one that is not; the fastest counts.
    side : int
        Rows and columns of the matrices.
    clock : {"wall", "cpu"}
        Flops a second that passes, or a second of processor time (of one thread, whatever the
        number of threads).
    """
    random = np.random.default_rng(0)
    a = random.standard_normal((side, side), dtype=np.float32)
    out = np.empty_like(a)
    now = CLOCKS[clock]
    np.matmul(a, a, out=out)
    times = []
    for _ in range(repeats):
        start = now()
        np.matmul(a, a, out=out)
        times.append(now() - start)
    return 2e-9 * side**3 / min(times)


def floor_flops(n: int, dims: Iterable[int]) -> float:
    """Flops of all inner products of n rows of models of these widths: 2 n^2 sum(d)."""
    return 2.0 * n**2 * sum(dims)


def floor_seconds(
    n: int, dims: Iterable[int], *, peak: float | None = None, clock: Clock = "wall"
) -> float:
    """Seconds that 2 n^2 sum(d) flops take at ``peak`` GFLOP/s (measured now, by default)."""
    rate = measured_peak(clock=clock) if peak is None else peak
    return floor_flops(n, dims) / (1e9 * rate)


def main() -> None:
    print(f"threads allowed: {allowed_threads()}")
    peaks = {clock: measured_peak(clock=clock) for clock in CLOCKS}
    for clock, peak in peaks.items():
        print(f"float32 peak by {clock} clock: {peak:.0f} GFLOP/s")
    for n in (5_000, 10_000, 20_000, 50_000):
        seconds = floor_seconds(n, [256] * 59, peak=peaks["wall"])
        print(f"floor, 59 models of 256 features, n = {n}: {seconds:.1f} s")


if __name__ == "__main__":
    main()
