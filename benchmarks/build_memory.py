# SPDX-License-Identifier: Apache-2.0
"""Peak memory of writing a unit against its number of rows.

    python benchmarks/build_memory.py --rows 10000,100000,400000 --dim 256

Each size runs in a process of its own that streams synthetic rows through ``UnitWriter``. Prints
rows, megabytes of vectors, the peak resident memory above what the imports take, and seconds.

Rows are correlated as embeddings are: 32 latent directions of falling weight, and 10 % noise. One
in fifty is missing. With ``--keep FOLDER`` the atlas stays there (``archive_io.py`` reads it).
"""

from __future__ import annotations

import argparse
import base64
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from matteratlas.builders.adapters.base import Embedded, Missing
from matteratlas.builders.build import open_root
from matteratlas.builders.writer import UnitWriter
from matteratlas.registry import catalog

#: The set comes first in the catalogue, so that its rows are the first of the model.
MODEL, SET = "random-128", "g2"


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def vectors(rows: int, dim: int, *, block: int = 4096) -> Iterator[np.ndarray]:
    """float32 blocks, (block, dim): correlated columns of different scales, heavy-tailed rows."""
    rng = np.random.default_rng(0)
    rank = min(32, dim)
    weights = (1.0 / np.arange(1, rank + 1, dtype=np.float32))[:, None]
    mixing = weights * rng.standard_normal((rank, dim), dtype=np.float32)
    offset = rng.standard_normal(dim, dtype=np.float32)
    for start in range(0, rows, block):
        n = min(block, rows - start)
        latent = rng.standard_normal((n, rank), dtype=np.float32)
        noise = np.float32(0.1) * rng.standard_normal((n, dim), dtype=np.float32)
        yield latent @ mixing + noise + offset


def ids(rows: int) -> Iterator[str]:
    """Ids of the right form, as little compressible as content hashes are."""
    rng = np.random.default_rng(1)
    for _ in range(rows):
        yield "ma1-" + base64.b32encode(rng.bytes(17)).decode("ascii").lower()[:26]


def write(root: Path, rows: int, dim: int) -> None:
    """Stream rows through the writer that builds use; prints rows, MB, peak MB, seconds."""
    card = catalog.model(MODEL)
    layer = card.layers[0].model_copy(update={"dim": dim})
    card = card.model_copy(update={"layers": [layer]})
    open_root(root)
    before, clock = peak_mb(), time.perf_counter()
    with UnitWriter(
        root,
        card,
        catalog.structure_set(SET),
        fingerprint="f",
        model_fingerprint="m",
        build_version="benchmark",
    ) as writer:
        names = ids(rows)
        for block in vectors(rows, dim):
            for i, vector in enumerate(block):
                missing = i % 50 == 49
                writer.append(
                    next(names),
                    Missing("unsupported_element: Xe")
                    if missing
                    else Embedded(pooled={layer.name: vector}, energy=float(vector[0])),
                )
        writer.finish()
    seconds = time.perf_counter() - clock
    grown = peak_mb() - before
    print(f"{rows:9d} {rows * dim * 4 / 1e6:10.0f} {grown:12.0f} {seconds:9.1f}", flush=True)


HEADER = f"{'rows':>9} {'vectors MB':>10} {'peak MB over':>12} {'seconds':>9}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="10000,100000,400000")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--keep", type=Path, help="keep the atlas of the last size in this folder")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        keep = nullcontext(str(args.keep)) if args.keep else tempfile.TemporaryDirectory()
        with keep as folder:
            write(Path(folder), args.one, args.dim)
        return
    print(HEADER, flush=True)
    sizes = args.rows.split(",")
    for rows in sizes:
        command = [sys.executable, __file__, "--one", rows, "--dim", str(args.dim)]
        if args.keep and rows == sizes[-1]:
            command += ["--keep", str(args.keep)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
