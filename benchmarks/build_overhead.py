# SPDX-License-Identifier: Apache-2.0
"""What building costs over the bare loop of the same model calls.

    python benchmarks/build_overhead.py --models chgnet-0.3.0,so3lr --sets ccd,minerals --rounds 3

For each model, in turn: (bare) the adapter's forward calls alone, on the batches a build makes;
(build) the same rows through ``embed_model``: streaming, support checks, pooling, spooling, Zarr,
Parquet, read-back and hashing. A model in an environment of its own runs bare in a process of that
environment that does nothing else. Prints seconds of both and their ratio, the fastest of the
rounds: CPU seconds, and for models apart also the wall's, on which the two processes overlap.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

from matteratlas.builders.adapters.base import Adapter, load_adapter, load_here
from matteratlas.builders.adapters.remote import Remote
from matteratlas.builders.adapters.stand_ins import install_stand_ins
from matteratlas.builders.embed import (
    WINDOW,
    UnitReport,
    embed_model,
    read_structures,
    set_threads,
)
from matteratlas.builders.environments import child_environment, prepare
from matteratlas.registry import catalog
from matteratlas.registry.environment_cards import environment
from matteratlas.schemas.structures import Structure

Seconds = tuple[float, float]
"""CPU's and the wall's."""


def batches(adapter: Adapter, source: Path) -> list[list[Structure]]:
    """The forward calls a build makes: windows, supported rows, sorted by size, batched."""
    out = []
    for window in read_structures(source, window=WINDOW):
        rows = [s for s in window if adapter.missing_reason(s) is None]
        rows.sort(key=len)
        size = adapter.batch_size
        out += [rows[i : i + size] for i in range(0, len(rows), size)]
    return out


def bare_rounds(adapter: Adapter, sources: list[Path], rounds: int) -> tuple[int, list[Seconds]]:
    """Rows, and what the forward calls take."""
    work = [b for path in sources for b in batches(adapter, path)]
    for batch in work[:2]:
        list(adapter.forward(batch))  # warm-up: kernels, caches
    found = []
    for _ in range(rounds):
        cpu, wall = time.process_time(), time.perf_counter()
        for batch in work:
            list(adapter.forward(batch))
        found.append((time.process_time() - cpu, time.perf_counter() - wall))
    return sum(map(len, work)), found


def bare_apart(model: str, sources: list[Path], rounds: int) -> tuple[int, list[Seconds]]:
    """:func:`bare_rounds` in the model's own environment."""
    own = environment(str(catalog.model(model).isolation))
    command = [str(prepare(own).python), __file__, "--bare", model, "--rounds", str(rounds)]
    done = subprocess.run(
        [*command, *map(str, sources)], env=child_environment(), check=True, capture_output=True
    )
    rows, found = json.loads(done.stdout.splitlines()[-1])
    return rows, [(cpu, wall) for cpu, wall in found]


def timed(
    adapter: Adapter, build: Callable[[], list[UnitReport]]
) -> tuple[Seconds, list[UnitReport]]:
    """What a build takes, the model's own process included, and what it reports."""

    def cpu() -> float:
        apart = adapter.pid if isinstance(adapter, Remote) else None
        there = psutil.Process(apart).cpu_times() if apart else None
        return time.process_time() + (there.user + there.system if there else 0.0)

    before, wall = cpu(), time.perf_counter()
    reports = build()
    return (cpu() - before, time.perf_counter() - wall), reports


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="sevennet-0,chgnet-0.3.0,diep,so3lr,chemnet,mat2vec")
    parser.add_argument("--sets", default="g2,ccd,minerals")
    parser.add_argument("--selection", default="starter", choices=["starter", "full"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("sources", nargs="*", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    set_threads(1)
    if args.bare:
        card = catalog.model(args.bare)
        install_stand_ins(sorted(environment(str(card.isolation)).stand_ins))
        adapter = load_here(card)
        set_threads(1)
        print("\n" + json.dumps(bare_rounds(adapter, args.sources, args.rounds)))
        return
    # Only the builder's environment has what these need.
    from matteratlas.builders.build import open_root
    from matteratlas.builders.structures.sets import load_set
    from matteratlas.registry.tables import write_table
    from matteratlas.schemas.structure_sets import structure_arrow_schema

    print(f"{'model':16} {'rows':>5} {'bare s':>8} {'build s':>8} {'ratio':>6}  on the wall")
    with tempfile.TemporaryDirectory() as scratch:
        jobs = []
        for set_id in args.sets.split(","):
            card = catalog.structure_set(set_id)
            path = Path(scratch) / f"{set_id}.parquet"
            table = load_set(card, selection=args.selection).table
            write_table(table, path, schema=structure_arrow_schema(card))
            jobs.append((card, path))
        sources = [path for _, path in jobs]
        for model_id in args.models.split(","):
            model = catalog.model(model_id)
            adapter = load_adapter(model)
            apart = isinstance(adapter, Remote)
            bare, built, rows = [], [], 0
            for i in range(args.rounds):
                rows, found = (
                    bare_apart(model_id, sources, 1) if apart else bare_rounds(adapter, sources, 1)
                )
                bare += found
                root = Path(scratch) / f"{model_id}-{i}"
                open_root(root)
                build = partial(embed_model, root, model, jobs, build_version="benchmark")
                # The same loaded model, as a worker has it for every set after its first.
                with _loaded(adapter):
                    seconds, reports = timed(adapter, build)
                built.append(seconds)
                assert all(r.outcome == "built" for r in reports), reports
            a, b = min(bare)[0], min(built)[0]
            wall = [min(w for _, w in all_) for all_ in (bare, built)]
            more = f"{wall[0]:8.2f} {wall[1]:8.2f} {wall[1] / wall[0]:6.3f}" if apart else ""
            print(f"{model_id:16} {rows:5d} {a:8.2f} {b:8.2f} {b / a:6.3f}  {more}", flush=True)


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
