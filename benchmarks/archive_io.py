# SPDX-License-Identifier: Apache-2.0
"""Writing and reading one large unit: memory, seconds, files, and other readers of the same files.

    python benchmarks/archive_io.py --rows 1000000 --dim 256 --repeats 7

Writes a synthetic unit through ``UnitWriter`` (``build_memory.py`` says how), then reads the same
files with this project's reader, tensorstore and zarr-python in turn: one process, warm page cache,
a new order each round. Prints seconds of a full read and its speed against tensorstore's,
milliseconds of 1,000 contiguous and 1,000 random rows, and the files.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from build_memory import HEADER, MODEL, SET

from matteratlas.registry import catalog
from matteratlas.registry.archive import open_atlas
from matteratlas.registry.index import write_index
from matteratlas.registry.tables import write_table
from matteratlas.registry.views import to_numpy
from matteratlas.schemas.structure_sets import structure_arrow_schema

Read = Callable[[], np.ndarray]


def add_structures(root: Path, ids: np.ndarray) -> None:
    """The table that ``Atlas.embeddings`` joins rows with; its structures are all one atom."""
    card = catalog.structure_set(SET)
    schema = structure_arrow_schema(card)
    constant = {
        "set": SET,
        "stratum": next(iter(card.strata)),
        "kind": card.kinds[0],
        "formula": "Si",
        "n_atoms": 1,
        "periodicity": 3,
        "charge": 0,
        "description": "synthetic",
        "source": "synthetic==1:none",
    }
    table = pd.DataFrame({"id": ids, "source_id": ids})
    for name in schema.names:
        if name not in table:
            table[name] = constant.get(name)
    table["elements"] = [["Si"]] * len(ids)
    path = root / "structures" / f"{SET}.parquet"
    write_table(table[schema.names], path, schema=schema, version=card.version)
    write_index(root)


def full_reads(root: Path, path: Path) -> dict[str, Read]:
    """Ways to read the whole matrix, each opening it anew."""
    import tensorstore as ts
    import zarr

    def ours() -> np.ndarray:
        return open_atlas(root).unit(MODEL, SET).vectors(path.name).read()

    labelled = open_atlas(root).embeddings(MODEL)

    def view() -> np.ndarray:
        return to_numpy(labelled)

    def dask() -> np.ndarray:
        return labelled.compute().values

    def tensorstore() -> np.ndarray:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
        return ts.open(spec, open=True, context=ts.Context()).result().read().result()

    def zarr_python() -> np.ndarray:
        return np.asarray(zarr.open_array(path, mode="r", zarr_format=3)[:])

    return {
        "Unit.vectors().read()": ours,
        "tensorstore": tensorstore,
        "zarr-python": zarr_python,
        "views.to_numpy(embeddings)": view,
        "embeddings.compute()": dask,
    }


def row_reads(root: Path, path: Path) -> dict[str, Callable[[np.ndarray], object]]:
    """Ways to read given rows of an array that is open already; contiguous where they are."""
    import tensorstore as ts
    import zarr

    atlas = open_atlas(root)
    ours = atlas.unit(MODEL, SET).vectors(path.name)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    other = ts.open(spec, open=True).result()
    third = zarr.open_array(path, mode="r", zarr_format=3)

    def span(rows: np.ndarray) -> slice | None:
        contiguous = rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all()
        return slice(int(rows[0]), int(rows[-1]) + 1) if contiguous else None

    def by_slice(array: object) -> Callable[[np.ndarray], object]:
        return lambda rows: array[span(rows) or rows]  # type: ignore[index]

    return {
        "new Atlas.read(), with ids": lambda rows: open_atlas(root).read(MODEL, span(rows)),
        "Atlas.read(), with ids": lambda rows: atlas.read(MODEL, span(rows)),
        "Unit.vectors()[rows]": by_slice(ours),
        "tensorstore": lambda rows: other[span(rows) or rows].read().result(),
        "zarr-python": lambda rows: third[span(rows)] if span(rows) else third.oindex[rows],
    }


def measure(root: Path, repeats: int) -> None:
    unit = open_atlas(root).unit(MODEL, SET)
    layer = unit.record.default_layer
    path = root / "embeddings.zarr" / MODEL / SET / layer
    rows, dim = unit.vectors(layer).shape
    rng = np.random.default_rng(0)
    ways = full_reads(root, path)
    expected = ways["Unit.vectors().read()"]()
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats):
        for name in rng.permutation(list(ways)):
            clock = time.perf_counter()
            found = ways[name]()
            spent[name].append(time.perf_counter() - clock)
            if turn == 0 and not np.array_equal(found, expected, equal_nan=True):
                raise SystemExit(f"{name}: other values than the rest")
            del found
    best = statistics.median(spent["tensorstore"])
    labels = []
    for atlas in [open_atlas(root)] * 2:
        clock = time.perf_counter()
        atlas.embeddings(MODEL)
        labels.append(time.perf_counter() - clock)
    print(f"\nfull read of {rows} x {dim} float32, {repeats} turns")
    print(f"{'':26} {'median s':>9} {'least s':>8} {'GB/s':>6} {'tensorstore = 1':>16}")
    for name, seconds in spent.items():
        median = statistics.median(seconds)
        speed = expected.nbytes / median / 1e9
        print(f"{name:26} {median:9.3f} {min(seconds):8.3f} {speed:6.2f} {best / median:16.2f}")
    print(f"labels of Atlas.embeddings(): {labels[0]:.2f} s at first, then {labels[1]:.2f} s")
    del expected
    take = min(1000, rows)
    for title, contiguous in (("contiguous", True), ("random", False)):
        turns = 10 * repeats if contiguous else repeats
        print(f"\n{take} {title} rows of {rows}, {turns} turns")
        print(f"{'':26} {'median ms':>9} {'least':>8} {'most':>8}")
        ways_of_rows = row_reads(root, path)
        taken: dict[str, list[float]] = {
            n: [] for n in ways_of_rows if contiguous or "ids" not in n
        }
        for _ in range(turns):
            first = int(rng.integers(0, rows - take + 1))
            wanted = np.arange(first, first + take)
            if not contiguous:
                wanted = np.sort(rng.choice(rows, take, replace=False))
            for name in rng.permutation(list(taken)):
                clock = time.perf_counter()
                ways_of_rows[name](wanted)
                taken[name].append(1e3 * (time.perf_counter() - clock))
        for name, ms in taken.items():
            print(f"{name:26} {statistics.median(ms):9.1f} {min(ms):8.1f} {max(ms):8.1f}")
    files = [p for p in root.rglob("*") if p.is_file() and not p.name.startswith(".")]
    matrix = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    twin = (root / "parquet" / MODEL / f"{SET}.parquet").stat().st_size
    raw = rows * dim * 4
    print(
        f"\n{len(files)} files; {raw / 1e6:.0f} MB of vectors take {matrix / 1e6:.0f} MB in Zarr, "
        f"{twin / 1e6:.0f} MB in Parquet (with ids)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--atlas", type=Path, help="atlas that an earlier run left with --keep")
    parser.add_argument("--keep", type=Path, help="leave the atlas in this folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = args.atlas or args.keep or Path(scratch) / "atlas"
        if not args.atlas:
            print(HEADER, flush=True)
            script = str(Path(__file__).with_name("build_memory.py"))
            command = [sys.executable, script, "--one", str(args.rows), "--dim", str(args.dim)]
            subprocess.run([*command, "--keep", str(root)], check=True)
            add_structures(root, open_atlas(root).unit(MODEL, SET).ids())
        measure(root, args.repeats)


if __name__ == "__main__":
    main()
