# SPDX-License-Identifier: Apache-2.0
"""The official GPU package of FAISS on this machine: imports, searches, and gives the same lists.

    python benchmarks/gpu_wheel.py [--folder FOLDER]

Makes an environment with ``faiss-gpu`` (never beside ``faiss-cpu``: both own the same folder) and
this package, searches the same rows there and here, and compares the lists. Without a GPU that
shows the fall-back to the processor, with one the search on it. Downloads 0.9 GB once (CUDA runtime
and cuBLAS), 1.7 GB on disk; kept in ``--folder`` for the next time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SOURCES = "atlas registry builders schemas analysis pyproject.toml README.md LICENSE".split()
NEEDED = ("faiss-gpu>=1.15,<2", "numba", "threadpoolctl")

SEARCH = """
import json, sys, time
from importlib import metadata
import numpy as np
from matteratlas.analysis import indexes, neighbours
from matteratlas.analysis.blocks import Space
out = {}
for kind, route in json.loads(sys.argv[2]):
    space = Space(np.load(f"{sys.argv[1]}/{kind}.npy"))
    start = time.perf_counter()
    found = neighbours.nearest(space, 25, **route)
    name = f"{kind} {route}"
    np.save(f"{sys.argv[1]}/{len(out)}-{sys.argv[3]}.npy", found.indices)
    out[name] = round(time.perf_counter() - start, 3)
installed = {}
for name in ("faiss-cpu", "faiss-gpu"):
    try:
        installed[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
faiss = neighbours.load_faiss()
print(json.dumps({
    "installed": installed,
    "gpu symbols": hasattr(faiss, "StandardGpuResources"),
    "gpus": indexes.gpu_count(),
    "seconds": out,
}))
"""

ROUTES: list[tuple[str, dict[str, str]]] = [
    ("plain", {}),
    ("plain", {"similarity": "inner"}),
    ("copies", {}),
    ("plain", {"index": "ivf"}),
]


def make_environment(folder: Path) -> Path:
    """Environment with faiss-gpu and this package, made or brought up to date; its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    start = time.perf_counter()
    subprocess.run([*pip, *NEEDED], check=True)
    with tempfile.TemporaryDirectory() as name:  # a build leaves files beside its sources
        sources = Path(name)
        for part in SOURCES:
            here = ROOT / part
            copy = shutil.copytree if here.is_dir() else shutil.copy2
            copy(here, sources / part)
        subprocess.run([*pip, "--no-deps", "--force-reinstall", sources], check=True)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())
    print(f"environment: {size / 1e9:.2f} GB, installed in {time.perf_counter() - start:.0f} s")
    return python


def make_rows(folder: Path) -> None:
    random = np.random.default_rng(0)
    plain = random.normal(size=(3000, 64))
    np.save(folder / "plain.npy", plain)
    np.save(folder / "copies.npy", plain[random.integers(0, 400, 3000)])


def search(python: str | Path, folder: Path, label: str) -> dict[str, object]:
    command = [str(python), "-c", SEARCH, str(folder), json.dumps(ROUTES), label]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    print(done.stderr, end="")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the environment is kept")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        make_rows(scratch)
        python = make_environment(args.folder or scratch / "environment")
        for label, which in (("here", sys.executable), ("gpu wheel", python)):
            print(f"{label}: {search(which, scratch, label)}")
        for number, route in enumerate(ROUTES):
            here = np.load(scratch / f"{number}-here.npy")
            there = np.load(scratch / f"{number}-gpu wheel.npy")
            same = float((here == there).all(axis=1).mean())
            print(f"{route}: {same:.2%} of {len(here)} lists equal")
            if same < 1.0 and "index" not in route[1]:
                raise SystemExit("exact lists differ between the two packages")


if __name__ == "__main__":
    main()
