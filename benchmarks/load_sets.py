# SPDX-License-Identifier: Apache-2.0
"""How long does each structure set take to load, and how much memory?

Every set is loaded in a process of its own, twice: cold (the loader runs, and every check, id and
description after it; package archives are fetched beforehand and not counted) and warm (from the
cache of loaded sets). Prints rows, strata, seconds and the peak of the process's resident memory.

Usage: python benchmarks/load_sets.py [SET ...] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

from matteratlas.registry.catalog import select_sets, structure_set

COLUMNS = ("set", "rows", "starter", "strata", "rejected", "repeated", "cold_s", "warm_s", "rss_mb")


def measure(set_id: str) -> dict[str, object]:
    """Load one set cold and warm in this process; peak memory is that of the whole process."""
    import resource

    from matteratlas.builders.structures.sets import load_set
    from matteratlas.registry.hub import package_file

    card = structure_set(set_id)
    for source in card.sources:
        package_file(source.package, source.path, kind=source.kind, sha256=source.sha256)
    seconds = []
    for refresh in (True, False):
        start = time.perf_counter()
        loaded = load_set(card, refresh=refresh)
        seconds.append(time.perf_counter() - start)
    # Linux counts in KiB, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "set": set_id,
        "rows": len(loaded),
        "starter": card.starter,
        "strata": loaded.table["stratum"].nunique(),
        "rejected": len(loaded.rejected),
        "repeated": len(loaded.duplicates),
        "cold_s": round(seconds[0], 2),
        "warm_s": round(seconds[1], 2),
        "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit),
    }


def in_own_process(set_id: str) -> dict[str, object]:
    """:func:`measure` in a fresh interpreter, so that sets do not share caches or memory."""
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    done = subprocess.run(
        [sys.executable, __file__, "--measure", set_id],
        env={**os.environ, **threads},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{set_id}: loading failed (exit {done.returncode})")
    return json.loads(done.stdout.splitlines()[-1])


def show(row: dict[str, object]) -> str:
    return "  ".join(f"{row[c]:>10}" for c in COLUMNS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help="set ids; default: all")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--measure", metavar="SET", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    if not arguments.json:
        print(show({c: c for c in COLUMNS}))
    for card in select_sets(arguments.sets):
        row = in_own_process(card.id)
        print(json.dumps(row) if arguments.json else show(row), flush=True)


if __name__ == "__main__":
    main()
