# SPDX-License-Identifier: Apache-2.0
"""Peak memory of writing a unit against its number of rows.

    python benchmarks/build_memory.py --rows 10000,100000,400000 --dim 256

Each size runs in a process of its own that streams synthetic rows through ``UnitWriter``. Prints
rows, megabytes of vectors, and the peak resident memory above what the imports take.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from matteratlas.builders.adapters.base import Embedded
from matteratlas.builders.writer import UnitWriter
from matteratlas.registry import catalog


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(rows: int, dim: int) -> None:
    card = catalog.model("random-128")
    layer = card.layers[0].model_copy(update={"dim": dim})
    card = card.model_copy(update={"layers": [layer]})
    rng = np.random.default_rng(0)
    before, clock = peak_mb(), time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        UnitWriter(
            Path(folder),
            card,
            catalog.structure_set("elements"),
            fingerprint="f",
            model_fingerprint="m",
            build_version="benchmark",
        ) as writer,
    ):
        for i in range(rows):
            vector = rng.standard_normal(dim, dtype=np.float32)
            writer.append(f"ma1-{i:026d}", Embedded(pooled={layer.name: vector}))
        writer.finish()
    seconds = time.perf_counter() - clock
    grown = peak_mb() - before
    print(f"{rows:9d} {rows * dim * 4 / 1e6:10.0f} {grown:12.0f} {seconds:9.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="10000,100000,400000")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        write(args.one, args.dim)
        return
    print(f"{'rows':>9} {'vectors MB':>10} {'peak MB over':>12} {'seconds':>9}", flush=True)
    for rows in args.rows.split(","):
        command = [sys.executable, __file__, "--one", rows, "--dim", str(args.dim)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
