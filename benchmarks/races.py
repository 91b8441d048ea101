# SPDX-License-Identifier: Apache-2.0
"""What the races share: rows, environments of the peers, processes of their own, and the table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PEERS = Path(__file__).resolve().parent / "peers"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Result:
    """One contestant: values, median seconds by both clocks, memory in MB."""

    name: str
    values: list[float]
    wall: float
    cpu: float
    runs: int
    before: float
    peak: float

    @property
    def grown(self) -> float:
        """Memory the call took beyond what the process held, at least 1 MB."""
        return max(1.0, self.peak - self.before)

    def line(self) -> str:
        values = ", ".join(f"{value:.9g}" for value in self.values)
        return (
            f"| {self.name} | {self.wall:.2f} | {self.cpu:.2f} | {self.runs} | {self.peak:.0f} | "
            f"{self.grown:.0f} | {values} |"
        )


def arguments(doc: str | None, *, n: Sequence[int], d: int = 256) -> argparse.Namespace:
    """Command line of every race."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=list(n), help="rows")
    parser.add_argument("--d", type=int, default=d, help="features")
    parser.add_argument("--threads", type=int, default=1, help="of either side")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "matteratlas" / "peers",
        help="where the peers' environments are kept",
    )
    return parser.parse_args()


def environment(cache: Path, name: str) -> Path:
    """Python of the peers' environment ``name``, made from its requirements when absent."""
    requirements = PEERS / ("requirements.txt" if name == "peers" else f"requirements-{name}.txt")
    python = cache / name / "bin" / "python"
    wanted, done = requirements.read_text(), cache / name / "installed.txt"
    if not done.exists() or done.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", cache / name], check=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "-r", requirements], check=True)
        done.write_text(wanted)
    return python


def make_rows(n: int, d: int, *, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """Two made-up models of d features: curved views of one 12-dimensional latent, and noise."""
    random = np.random.default_rng(0)
    latent = random.standard_normal((n, 12))
    views = []
    for _ in range(2):
        view = np.tanh(latent @ random.standard_normal((12, d)) / 3)
        views.append((view + 0.2 * random.standard_normal((n, d))).astype(dtype))
    return views[0], views[1]


class Race:
    """Contestants on one pair of embeddings, each in a fresh process.

    Parameters
    ----------
    x, y : array, shape (n, d)
    threads : int
        BLAS, OpenMP and numba threads of every contestant.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, *, threads: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        np.save(Path(self.folder.name) / "x.npy", x)
        np.save(Path(self.folder.name) / "y.npy", y)
        self.environ = {**os.environ, **dict.fromkeys(THREADS, str(threads))}

    def run(
        self,
        name: str,
        contestant: str,
        *,
        script: str = "ours.py",
        python: Path | str = sys.executable,
        **options: object,
    ) -> Result:
        command = [str(python), str(PEERS / script), contestant, self.folder.name]
        done = subprocess.run(
            [*command, json.dumps(options)], env=self.environ, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
        return Result(name, **json.loads(done.stdout.splitlines()[-1]))


def show(title: str, ours: Result, *others: Result, tolerance: float | None = 1e-6) -> None:
    """Print a table and the ratios; stop if values differ by more than a share of their size."""
    print(f"\n### {title}\n")
    print("| | seconds | processor seconds | runs | peak MB | of it in the call | value |")
    print("|---|---|---|---|---|---|---|")
    for result in (ours, *others):
        print(result.line())
    print()
    for other in others:
        print(
            f"{other.name} / {ours.name}: time {other.wall / ours.wall:.1f}x, processor time "
            f"{other.cpu / ours.cpu:.1f}x, memory in the call {other.grown / ours.grown:.1f}x, "
            f"peak memory {other.peak / ours.peak:.1f}x"
        )
        if len(other.values) != len(ours.values):
            continue
        gap = max(
            abs(a - b) / max(abs(a), abs(b), 1e-300)
            for a, b in zip(ours.values, other.values, strict=True)
        )
        print(f"values differ by {gap:.1e} of their size", flush=True)
        if tolerance is not None and gap > tolerance:
            raise SystemExit(f"{title}: values differ by more than {tolerance}")
