# SPDX-License-Identifier: Apache-2.0
"""The study's scale: all pairs of 59 models, six families of metrics, against the multiply floor.

    python benchmarks/engine.py --n 10000 --models 59 --dim 256 --workers 2 --permutations 0

Made-up embeddings (each model sees a shared 12-dimensional latent through a random smooth map, with
noise of its own). The floor is 2 n^2 sum(d) operations at the float32 matrix-multiply peak measured
before and after in the same run; the run's seconds are given as a multiple of it. Prints seconds
and processor seconds of every step, peak memory of the process and its workers, and bytes on disk.

    python benchmarks/engine.py --n 5000 10000 20000

states how seconds grow from one n to the next, and what 50,000 rows would take by that.

    python benchmarks/engine.py --n 50000 --folder parts --log engine.log

keeps parts and goes on from them: ended at any moment, the same command does what is left. Seconds
of parts that an earlier run made are added from the log of the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from floor import floor_seconds, measured_peak
from scipy.optimize import nnls
from threadpoolctl import threadpool_limits

from matteratlas.analysis.choices import Settings
from matteratlas.analysis.engine.job import Job
from matteratlas.analysis.engine.results import gather
from matteratlas.analysis.engine.run import Done, run, waves
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


class Memory:
    """Largest memory of this process and all below it, in MB; what they share counts once."""

    def __init__(self, every: float = 1.0) -> None:
        self.most, self.every = 0, every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            start = time.perf_counter()
            self.most = max(self.most, sum(map(_proportional, _family(os.getpid()))))
            # Looking takes the kernel a while when much is held: at most a twentieth of the time.
            if self._done.wait(max(self.every, 20.0 * (time.perf_counter() - start))):
                return


def _family(process: int) -> list[int]:
    found = [process]
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                found += _family(int(child))
    return found


def _proportional(process: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) // 1024
    return 0


def machine_peak(workers: int) -> np.ndarray:
    """GFLOP/s of all workers' processors by the clock, and of one by its own time."""
    with threadpool_limits(limits=workers):
        wall = measured_peak(repeats=3, clock="wall")
    with threadpool_limits(limits=1):
        return np.array([wall, measured_peak(repeats=3, clock="cpu")])


class Log:
    """Lines with the time, on the screen and at the end of a file."""

    def __init__(self, path: str | None) -> None:
        self.path = path

    def say(self, line: str) -> None:
        """Write one line."""
        line = f"{time.strftime('%H:%M:%S')} {line}"
        print(line, flush=True)
        if self.path is not None:
            with Path(self.path).open("a") as file:
                file.write(line + "\n")


class Steps:
    """Tasks, seconds and processor seconds of each step; kept beside the parts they made."""

    def __init__(self, path: Path, log: Log) -> None:
        self.path, self.log = path, log
        self.held: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
        self.said = time.perf_counter()
        if path.exists():
            for line in path.read_text().splitlines():
                self._add(*json.loads(line))

    def _add(self, step: str, seconds: float, busy: float) -> None:
        for place, value in enumerate((1, seconds, busy)):
            self.held[step][place] += value

    def done(self, one: Done) -> None:
        """A task ran."""
        self._add(one.task.step, one.seconds, one.busy)
        with self.path.open("a") as file:
            file.write(json.dumps([one.task.step, one.seconds, one.busy]) + "\n")
        if time.perf_counter() - self.said > 60:
            self.said = time.perf_counter()
            self.log.say(", ".join(f"{name} {held[0]} tasks" for name, held in self.held.items()))


def measure(args: argparse.Namespace, n: int, log: Log) -> tuple[float, float]:
    """One run: seconds, and how many times the floor."""
    settings = Settings(
        {name: CARDS[name].normalise for name in METRICS if name in args.metrics},
        k=args.k,
        permutations=args.permutations,
    )
    job = Job(MadeUp(args.models, n, args.dim), settings)
    with folder(args.folder) as place, contextlib.ExitStack() as stack:
        client = None
        if not args.threads:
            client = stack.enter_context(cluster(workers=args.workers))
        peaks = machine_peak(args.workers)
        store = FolderStore(place / job.fingerprint)
        steps = Steps(place / f"{job.fingerprint}.jsonl", log)
        before = sum(held[1] for held in steps.held.values())
        log.say(
            f"{args.models} models, n = {n}, d = {args.dim}, k = {args.k}, {args.permutations} "
            f"permutations, {args.workers} workers, {sum(map(len, waves(job)))} tasks"
        )
        with Memory() as memory:
            start = time.perf_counter()
            run(job, store, threads=args.workers, client=client, done=steps.done)
            ran = time.perf_counter() - start
            results = gather(job, store)
            seconds = time.perf_counter() - start
        peaks = np.maximum(peaks, machine_peak(args.workers))
        size = sum(p.stat().st_size for p in place.rglob("*") if p.is_file())
    log.say(f"{'step':12} {'tasks':>6} {'seconds':>9} {'processor s':>12}")
    for name, (count, clock, busy) in steps.held.items():
        log.say(f"{name:12} {count:6.0f} {clock:9.1f} {busy:12.1f}")
    log.say(f"{'gather':12} {1:6d} {seconds - ran:9.1f}")
    if before:
        log.say(f"of these, {before:.0f} s of tasks ran earlier: shared by the workers")
        seconds += before / args.workers
    dims = [args.dim] * args.models
    busy = sum(held[2] for held in steps.held.values())
    floors = [floor_seconds(n, dims, peak=peak) for peak in peaks]
    for what, spent, peak, floor in zip(
        ("by the clock", "processor time of one core"), (seconds, busy), peaks, floors, strict=True
    ):
        log.say(f"{what}: peak {peak:.0f} GFLOP/s, floor {floor:.1f} s; all {spent:.1f} s = "
                f"{spent / floor:.2f} x floor")  # fmt: skip
    log.say(f"memory {memory.most} MB, workers and all; parts on disk {size / 1e9:.2f} GB")
    for name, one in results.items():
        upper = one.value[np.triu_indices(len(one.value), 1)] if one.value.ndim == 2 else one.value
        log.say(
            f"{name:24} mean {upper.mean():.4f}, least {upper.min():.4f}, most {upper.max():.4f}"
        )
    return busy, busy / floors[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[10_000])
    parser.add_argument("--models", type=int, default=59)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--k", type=int, default=25)
    parser.add_argument("--permutations", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", action="store_true", help="threads here, not processes")
    parser.add_argument("--metrics", nargs="*", default=list(METRICS))
    parser.add_argument("--folder", help="keep parts here, and go on from them")
    parser.add_argument("--log", help="write what is printed to the end of this file too")
    args = parser.parse_args()
    log = Log(args.log)
    found = {n: measure(args, n, log) for n in args.n}
    if len(found) > 1:
        rows, spent = np.array(list(found), float), np.array([one[0] for one in found.values()])
        power = np.polyfit(np.log(rows), np.log(spent), 1)[0]
        for n, (seconds, ratio) in found.items():
            log.say(f"n = {n}: {seconds:.1f} processor seconds, {ratio:.2f} x floor")
        # Steps that look at neighbours grow as n, products as n^2: least squares of both shares.
        terms = np.stack([rows, rows**2], axis=1) / spent[:, None]
        linear, square = nnls(terms, np.ones(len(rows)))[0]
        log.say(
            f"growth: n^{power:.2f}; as {linear * 1e4:.2f} (n / 10,000) + {square * 1e8:.2f} "
            f"(n / 10,000)^2, 50,000 rows take {linear * 5e4 + square * 25e8:.0f} processor seconds"
        )


if __name__ == "__main__":
    main()
