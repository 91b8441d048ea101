# SPDX-License-Identifier: Apache-2.0
"""What building costs over the bare loop of the same model calls.

    python benchmarks/build_overhead.py --models chgnet-0.3.0,so3lr --sets ccd,minerals --rounds 3

For each model, in turn and in one process: (bare) the adapter's forward calls alone, on the batches
a build makes; (build) the same rows through ``embed_model``: streaming, support checks, pooling,
spooling, Zarr, Parquet, read-back and hashing. Prints CPU seconds of both and the ratio of the
medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from matteratlas.builders.adapters.base import Adapter, load_adapter
from matteratlas.builders.build import open_root
from matteratlas.builders.embed import WINDOW, embed_model, read_structures, set_threads
from matteratlas.builders.structures.sets import load_set
from matteratlas.registry import catalog
from matteratlas.registry.tables import write_table
from matteratlas.schemas.structure_sets import structure_arrow_schema
from matteratlas.schemas.structures import Structure


def batches(adapter: Adapter, source: Path) -> list[list[Structure]]:
    """The forward calls a build makes: windows, supported rows, sorted by size, batched."""
    out = []
    for window in read_structures(source, window=WINDOW):
        rows = [s for s in window if adapter.missing_reason(s) is None]
        rows.sort(key=len)
        size = adapter.batch_size
        out += [rows[i : i + size] for i in range(0, len(rows), size)]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="sevennet-0,chgnet-0.3.0,diep,so3lr,chemnet,mat2vec")
    parser.add_argument("--sets", default="g2,ccd,minerals")
    parser.add_argument("--selection", default="starter", choices=["starter", "full"])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    set_threads(1)
    print(f"{'model':16} {'rows':>5} {'bare s':>8} {'build s':>8} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as scratch:
        jobs = []
        for set_id in args.sets.split(","):
            card = catalog.structure_set(set_id)
            path = Path(scratch) / f"{set_id}.parquet"
            table = load_set(card, selection=args.selection).table
            write_table(table, path, schema=structure_arrow_schema(card))
            jobs.append((card, path))
        for model_id in args.models.split(","):
            card = catalog.model(model_id)
            adapter = load_adapter(card)
            work = [b for _, path in jobs for b in batches(adapter, path)]
            for batch in work[:2]:
                list(adapter.forward(batch))  # warm-up: kernels, caches
            bare, build = [], []
            for i in range(args.rounds):
                clock = time.process_time()
                for batch in work:
                    list(adapter.forward(batch))
                bare.append(time.process_time() - clock)
                root = Path(scratch) / f"{model_id}-{i}"
                open_root(root)
                # The same loaded model, as a worker has it for every set after its first.
                with _loaded(adapter):
                    clock = time.process_time()
                    reports = embed_model(root, card, jobs, build_version="benchmark")
                    build.append(time.process_time() - clock)
                assert all(r.outcome == "built" for r in reports), reports
            rows = sum(len(b) for b in work)
            a, b = statistics.median(bare), statistics.median(build)
            print(f"{model_id:16} {rows:5d} {a:8.2f} {b:8.2f} {b / a:6.3f}", flush=True)


class _loaded:
    """Let ``embed_model`` use a model that is already in memory."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def __enter__(self) -> None:
        from matteratlas.builders import embed

        self.real = embed.load_adapter
        embed.load_adapter = lambda *_, **__: self.adapter

    def __exit__(self, *_: object) -> None:
        from matteratlas.builders import embed

        embed.load_adapter = self.real


if __name__ == "__main__":
    main()
