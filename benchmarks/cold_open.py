# SPDX-License-Identifier: Apache-2.0
"""Requests of a cold open: an atlas on a server, opened by a new process that has no cache.

    python benchmarks/cold_open.py --rows 200000 --dim 256 --models 3,60

Serves a synthetic atlas from this machine (static files over HTTP, then a Hub with redirects to a
second origin) and lets a fresh process do ``open_atlas(url).read(model, slice(0, 1000))``. Prints
every request, their number, and bytes over those of the chunks touched; the client's values and ids
are compared with a local read. Each further model has small units in every set.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from archive_io import add_structures
from build_memory import MODEL, SET, ids, vectors, write

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from servers.files import FileServer
from servers.http_base import Request
from servers.hub import HubServer
from servers.hub_client import client_env

from matteratlas.builders.adapters.base import Embedded
from matteratlas.builders.writer import UnitWriter
from matteratlas.registry import catalog
from matteratlas.registry.archive import Atlas, open_atlas
from matteratlas.registry.index import write_index

REPO = "matteratlas/cold"
SMALL = 20

CLIENT = """
import hashlib, json, sys, time
clock = time.perf_counter()
import matteratlas as ma
imported = time.perf_counter()
url, model, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
array = ma.open_atlas(url).read(model, slice(0, rows))
text = "".join(array["structure"].to_numpy())
digest = hashlib.sha256(array.to_numpy().tobytes() + text.encode()).hexdigest()
print(json.dumps({"digest": digest, "seconds": time.perf_counter() - imported}))
"""


def add_models(root: Path, count: int) -> None:
    """Made-up models beside the large one, each with a small unit in every set."""
    base = catalog.model(MODEL)
    names, rows = list(ids(SMALL)), np.concatenate(list(vectors(SMALL, base.layer().dim)))
    for i in range(count):
        card = base.model_copy(update={"id": f"synthetic-{i:02d}"})
        if (root / "embeddings.zarr" / card.id).exists():
            continue
        for set_card in catalog.structure_sets().values():
            with UnitWriter(
                root,
                card,
                set_card,
                fingerprint="f",
                model_fingerprint="m",
                build_version="benchmark",
            ) as writer:
                for name, vector in zip(names, rows, strict=True):
                    writer.append(name, Embedded(pooled={card.default_layer: vector}))
                writer.finish()
    write_index(root)


def chunk_bytes(atlas: Atlas, rows: int) -> int:
    """Bytes of the chunks that hold the first rows of the large unit and their ids."""
    total = 0
    unit = atlas.unit(MODEL, SET)
    folder = Path(atlas.location) / "embeddings.zarr" / MODEL / SET
    for name in ("structure_id", unit.record.default_layer):
        array = unit.arrays[name]
        last = min(rows, len(array)) - 1
        for chunk in range(last // array.chunk_rows + 1):
            shard, slot = divmod(chunk, array.slots)
            path = folder / name / "c" / str(shard) / ("0" if array.ndim == 2 else "")
            tail = np.frombuffer(path.read_bytes()[-(16 * array.slots + 4) : -4], dtype="<u8")
            total += int(tail.reshape(-1, 2)[slot, 1])
    return total


def ask(url: str, rows: int, environment: Mapping[str, str]) -> dict[str, Any]:
    """What a new process reads."""
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CLIENT, url, MODEL, str(rows)],
            env={**environment, "MATTERATLAS_CACHE": cache},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    return dict(json.loads(done.stdout))


def report(title: str, log: Iterable[Request], touched: int, limit: int) -> bool:
    print(f"\n{title}")
    requests = list(log)
    for one in requests:
        where = one.path if len(one.path) < 96 else f"{one.path[:60]}...{one.path[-33:]}"
        part = (one.range or "all").removeprefix("bytes=")
        print(f"  {one.method:4} {one.status} {one.origin:4} {one.sent:9d} B  {part:>17}  {where}")
    sent = sum(one.sent for one in requests)
    good = len(requests) <= limit and sent <= 1.3 * touched
    print(
        f"  {len(requests)} requests (limit {limit}), {sent} bytes, {sent / touched:.3f} of the "
        f"{touched} bytes of the chunks touched (limit 1.3): {'good' if good else 'TOO MUCH'}"
    )
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000, help="of the large unit")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--models", default="3,60", help="models of the atlases")
    parser.add_argument("--first", type=int, default=1000, help="rows to read")
    args = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "atlas"
        write(root, args.rows, args.dim)
        add_structures(root, open_atlas(root).unit(MODEL, SET).ids())
        local = open_atlas(root).read(MODEL, slice(0, args.first))
        text = "".join(local["structure"].to_numpy())
        expected = hashlib.sha256(local.to_numpy().tobytes() + text.encode()).hexdigest()
        for models in sorted(int(n) for n in args.models.split(",")):
            add_models(root, models - 1)
            atlas = open_atlas(root)
            touched = chunk_bytes(atlas, args.first)
            named = f"{len(atlas.index['models'])} models, {len(atlas.units)} units"
            with FileServer(root) as server:
                found = ask(server.url, args.first, os.environ)
                good &= report(f"http://, {named}", server.log, touched, 6)
                good &= found["digest"] == expected
            with HubServer(folder=Path(scratch) / "hub") as hub:
                files = [p for p in root.rglob("*") if p.is_file() and p.name != ".lock"]
                hub.create(REPO, {p.relative_to(root).as_posix(): p.read_bytes() for p in files})
                hub.repo(REPO).refs["refs/tags/v1.0.0"] = hub.head(REPO)
                url = f"hf://datasets/{REPO}@v1.0.0"
                found = ask(url, args.first, client_env(hub))
                good &= report(f"hf://...@v1.0.0, {named}", hub.log, touched, 10)
                good &= found["digest"] == expected
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
