# SPDX-License-Identifier: Apache-2.0
"""The study's scale: all pairs of 59 models, six families of metrics, against the multiply floor.

    python benchmarks/engine.py --n 10000 --models 59 --dim 256 --workers 2 --permutations 0

Made-up embeddings (each model sees a shared 12-dimensional latent through a random smooth map, with
noise of its own). The floor is 2 n^2 sum(d) operations at the float32 matrix-multiply peak measured
before and after in the same run; the run's seconds are given as a multiple of it. Prints seconds
and processor seconds of every step, peak memory of the process and its workers, and bytes on disk.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from floor import floor_seconds, measured_peak
from threadpoolctl import threadpool_limits

from matteratlas.analysis.choices import Settings
from matteratlas.analysis.engine.job import Job
from matteratlas.analysis.engine.results import gather
from matteratlas.analysis.engine.run import Done, run
from matteratlas.analysis.engine.store import FolderStore
from matteratlas.analysis.metrics import CARDS, METRICS
from matteratlas.registry.workers import cluster


@dataclass(frozen=True)
class MadeUp:
    """Models that see one latent, each in its own way; nothing is held, rows are made when read."""

    models: int
    rows: int
    dim: int
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The models."""
        return tuple(f"model-{i:02d}" for i in range(self.models))

    @property
    def fingerprint(self) -> str:
        """Changes with any number."""
        return f"made up {self.models} {self.rows} {self.dim} {self.seed}"

    def read(self, name: str) -> np.ndarray:
        """One model's embedding, float32 (rows, dim)."""
        latent = np.random.default_rng(self.seed).normal(size=(self.rows, 12)).astype(np.float32)
        random = np.random.default_rng([self.seed, int(name.rpartition("-")[2])])
        turn = random.normal(size=(12, self.dim)).astype(np.float32)
        noise = random.normal(size=(self.rows, self.dim)).astype(np.float32)
        return np.tanh(0.5 * latent @ turn) + 0.4 * noise


@contextlib.contextmanager
def folder(given: str | None) -> Iterator[Path]:
    """Where parts lie: a folder to keep and go on from, or a temporary one."""
    if given is not None:
        yield Path(given)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


def peak_memory(client: Any) -> list[int]:
    """Largest resident memory in MB, of this process and of each worker."""

    def own() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    return [own(), *(client.run(own).values() if client is not None else ())]


def machine_peak(workers: int) -> np.ndarray:
    """GFLOP/s of all workers' processors by the clock, and of one by its own time."""
    with threadpool_limits(limits=workers):
        wall = measured_peak(repeats=3, clock="wall")
    with threadpool_limits(limits=1):
        return np.array([wall, measured_peak(repeats=3, clock="cpu")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=59)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--k", type=int, default=25)
    parser.add_argument("--permutations", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", action="store_true", help="threads here, not processes")
    parser.add_argument("--metrics", nargs="*", default=list(METRICS))
    parser.add_argument("--folder", help="keep parts here, and go on from them")
    args = parser.parse_args()
    settings = Settings(
        {name: CARDS[name].normalise for name in METRICS if name in args.metrics},
        k=args.k,
        permutations=args.permutations,
    )
    job = Job(MadeUp(args.models, args.n, args.dim), settings)
    steps: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])

    def done(one: Done) -> None:
        held = steps[one.task.step]
        held[0] += 1
        held[1] += one.seconds
        held[2] += one.busy

    with folder(args.folder) as place, contextlib.ExitStack() as stack:
        client = None
        if not args.threads:
            client = stack.enter_context(cluster(workers=args.workers))
        peaks = machine_peak(args.workers)
        store = FolderStore(place / job.fingerprint)
        start = time.perf_counter()
        run(job, store, threads=args.workers, client=client, done=done)
        results = gather(job, store)
        seconds = time.perf_counter() - start
        peaks = np.maximum(peaks, machine_peak(args.workers))
        memory = peak_memory(client)
        size = sum(p.stat().st_size for p in place.rglob("*") if p.is_file())
    print(f"{args.models} models, n = {args.n}, d = {args.dim}, k = {args.k}, "
          f"{args.permutations} permutations, {args.workers} workers")  # fmt: skip
    print(f"{'step':12} {'tasks':>6} {'seconds':>9} {'processor s':>12}")
    for name, (count, clock, busy) in steps.items():
        print(f"{name:12} {count:6d} {clock:9.1f} {busy:12.1f}")
    dims = [args.dim] * args.models
    busy = sum(times[2] for times in steps.values())
    for what, spent, peak in (
        ("by the clock", seconds, peaks[0]),
        ("processor time of one core", busy, peaks[1]),
    ):
        floor = floor_seconds(args.n, dims, peak=peak)
        print(f"{what}: peak {peak:.0f} GFLOP/s, floor {floor:.1f} s; all {spent:.1f} s = "
              f"{spent / floor:.2f} x floor")  # fmt: skip
    print(f"memory MB {memory}, together {sum(memory)}; parts on disk {size / 1e9:.2f} GB")
    for name, one in results.items():
        upper = one.value[np.triu_indices(len(one.value), 1)] if one.value.ndim == 2 else one.value
        print(f"{name:24} mean {upper.mean():.4f}, least {upper.min():.4f}, most {upper.max():.4f}")


if __name__ == "__main__":
    main()
