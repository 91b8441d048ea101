# SPDX-License-Identifier: Apache-2.0
"""Hostile archives and releases, made from real ones by seeded mutations.

A :class:`Forgery` does what somebody would who means harm and knows the format: it changes one
thing and then puts every hash and seal above it right, so that only what the content *says* is
left to refuse it by. Unsealed ones (a byte changed anywhere) are made too.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hostile_bytes
import pyarrow as pa
import pyarrow.parquet as pq
from hostile_values import NUMBERS, bytes_changed, mutate, text, written

from matteratlas.registry.index import seal
from matteratlas.registry.manifest import _sealed

STORE = "embeddings.zarr"


def sealed(doc: dict[str, Any], marks: dict[str, str]) -> bytes:
    """A document that carries the hash of itself, as far as it can be read at all."""
    body = {k: v for k, v in doc.items() if k != "sha256"}
    data = written(body, marks)
    try:
        found = json.loads(data)
        return written({**body, "sha256": seal(found)["sha256"]}, marks)
    except (ValueError, RecursionError, TypeError):
        return data


@dataclass
class Forgery:
    """An atlas or release about to be changed: its documents in memory, its files on disk."""

    base: Path
    arena: Path
    rng: random.Random
    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    resealed: bool = True
    rows: Callable[[pa.Table], pa.Table] | None = None
    about: Callable[[dict[str, Any]], Any] | None = None

    def __post_init__(self) -> None:
        self.index = json.loads((self.base / "atlas.json").read_bytes())
        self.models = {
            m: json.loads((self.base / STORE / m / "zarr.json").read_bytes())
            for m in self.index["models"]
        }
        self.analysis = json.loads((self.base / "scores/analysis.json").read_bytes())

    def entries(self, model: str) -> dict[str, Any]:
        """Metadata documents of all units of a model."""
        held: Any = self.models[model]
        for key in ("consolidated_metadata", "metadata"):
            held = held.get(key) if isinstance(held, dict) else None
        return {k: v for k, v in held.items() if k} if isinstance(held, dict) else {}

    def read(self, path: str) -> bytes:
        """A file as it will be."""
        return self.files.get(path) or (self.base / path).read_bytes()

    def declare(self, path: str) -> None:
        """Let what vouches for a changed file say what it is now."""
        data = self.files[path]
        said = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if path in self.index["files"]:
            self.index["files"][path] = said
        elif path in self.analysis["tables"]:
            self.analysis["tables"][path] |= said
        else:
            for model in self.models:
                for entry in self.entries(model).values():
                    said_of = entry.get("attributes") if isinstance(entry, dict) else None
                    record = said_of.get("matemb") if isinstance(said_of, dict) else None
                    for file in record.get("files", ()) if isinstance(record, dict) else ():
                        if file["path"] == path:
                            file.update(said)

    def write(self, root: Path, *, alone: str | None = None) -> None:
        """The forged tree, or one file of it; files that stay are hard links."""
        if alone is not None:
            self._put_right()
            root.mkdir()
            (root / alone).write_bytes(self.files[alone])
            return
        for folder, _, names in os.walk(self.base):
            here = root / Path(folder).relative_to(self.base)
            here.mkdir(parents=True, exist_ok=True)
            for name in names:
                os.link(Path(folder) / name, here / name)
        if self.resealed:
            self._put_right()
        for path, data in self.files.items():
            (root / path).unlink(missing_ok=True)
            (root / path).write_bytes(data)
        for path, target in self.links.items():
            if (root / path).is_dir():
                (root / path).rename(self.arena / "case" / "aside")
            (root / path).unlink(missing_ok=True)
            (root / path).symlink_to(target.replace("{aside}", str(self.arena / "case" / "aside")))

    def _put_right(self) -> None:
        known = {*self.files}
        for model in self.models:
            for name, entry in self.entries(model).items():
                path = f"{STORE}/{model}/{name}/zarr.json"
                if path not in known and os.path.isfile(self.base / path):  # noqa: PTH113
                    self.files[path] = written(entry, self.marks)
            data = written(self.models[model], self.marks)
            self.files.setdefault(f"{STORE}/{model}/zarr.json", data)
            entry = self.index.get("models")
            entry = entry.get(model) if isinstance(entry, dict) else None
            if isinstance(entry, dict) and "metadata_sha256" in entry:
                now = self.files[f"{STORE}/{model}/zarr.json"]
                entry["metadata_sha256"] = hashlib.sha256(now).hexdigest()
        self.files.setdefault("scores/analysis.json", sealed(self.analysis, self.marks))
        self.files.setdefault("atlas.json", sealed(self.index, self.marks))
        if (self.base / "manifest.parquet").exists():
            self.files.setdefault("manifest.parquet", self._manifest())

    def _manifest(self) -> bytes:
        file = pq.ParquetFile(self.base / "manifest.parquet")
        table = file.read()
        rows = table.to_pylist()
        for row in rows:
            if row["path"] in self.files:
                data = self.files[row["path"]]
                row |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        table = pa.Table.from_pylist(rows, schema=table.schema)
        about: Any = json.loads(file.metadata.metadata[b"matteratlas"])
        table = self.rows(table) if self.rows else table
        return _sealed(table, self.about(about) if self.about else about)


# --- what is changed -----------------------------------------------------------------------------


def index(f: Forgery) -> str:
    """The atlas's index."""
    return mutate(f.index, f.rng, f.arena, f.marks)


def pending(f: Forgery) -> str:
    """The index of an interrupted build, whose files are to be moved or removed."""
    model = next(iter(f.models))
    path = f.rng.choice(
        [text(f.rng, f.arena), f"parquet/{text(f.rng, f.arena)}", "parquet/../../victim.parquet",
         "parquet/ghost/../../../outside/keep.parquet", "structures/../../victim.txt",
         f"{STORE}/{model}/zarr.json", f"{STORE}/../../outside/zarr.json",
         f"{STORE}/ghost/zarr.json", f"parquet/{model}/ghost.parquet", "registry/models.parquet"]
    )  # fmt: skip
    said = {"bytes": 1, "sha256": hashlib.sha256(b"victim").hexdigest()}
    states = f.rng.choice([[said, None], [None], [], [said], None, "x", [1], [{}], {"a": 1}])
    f.index["pending"] = {path: states}
    return f"pending {path[:40]!r}: {states!r:.20}"


def record(f: Forgery) -> str:
    """A unit's commit record."""
    model = f.rng.choice(sorted(f.models))
    units = [n for n in f.entries(model) if "/" not in n]
    entry = f.entries(model)[f.rng.choice(units)]
    return mutate(entry["attributes"]["matemb"], f.rng, f.arena, f.marks)


def array(f: Forgery) -> str:
    """The metadata of an array."""
    model = f.rng.choice(sorted(f.models))
    name = f.rng.choice([n for n in f.entries(model) if "/" in n])
    entry = f.entries(model)[name]
    part = f.rng.choice(["chunk_grid", "codecs", "shape", "data_type", "attributes", None, None])
    if part is None:
        what = mutate(entry, f.rng, f.arena, f.marks)
    elif isinstance(entry[part], str):
        entry[part] = text(f.rng, f.arena)
        what = f"{part} is {entry[part][:30]!r}"
    else:
        what = f"{part}/{mutate(entry[part], f.rng, f.arena, f.marks)}"
    path = f"{STORE}/{model}/{name}/zarr.json"
    f.files[path] = written(entry, f.marks)
    f.declare(path)
    return f"{name}: {what}"


def model(f: Forgery) -> str:
    """A model's consolidated metadata: names and nesting."""
    held = f.models[f.rng.choice(sorted(f.models))]
    if f.rng.random() < 0.5:
        return mutate(held["consolidated_metadata"], f.rng, f.arena, f.marks)
    return mutate(held, f.rng, f.arena, f.marks)


def analysis(f: Forgery) -> str:
    """The record of the analysis."""
    return mutate(f.analysis, f.rng, f.arena, f.marks)


def manifest(f: Forgery) -> str:
    """The manifest of a release: rows and what is said about it."""
    rng, marks = f.rng, f.marks
    said: list[str] = []

    def rows(found: pa.Table) -> pa.Table:
        listed = found.to_pylist()
        if rng.random() < 0.3:
            listed += [{**listed[rng.randrange(len(listed))]} for _ in range(rng.choice([1, 3]))]
        row = rng.choice(listed)
        key = rng.choice(["path", "path", "path", *row])
        new: Any = rng.choice(NUMBERS[:14]) if key == "bytes" else text(rng, f.arena)
        if key == "path" and rng.random() < 0.6:
            near = [
                "{}/../{}",
                "{}/{}",
                "/{}{}",
                "{}\\{}",
                "{} {}",
                "{}.{}",
                "{}\u202e{}",
                "{}\n{}",
            ]
            new = rng.choice(near).format(*(row["path"].rpartition("/")[::2]))
        said.append(f"{key} is {str(new)[:30]!r}")
        row[key] = new
        if rng.random() < 0.7:
            listed.sort(key=lambda r: str(r["path"]))
        try:
            return pa.Table.from_pylist(listed, schema=found.schema)
        except (ValueError, TypeError, pa.ArrowException, OverflowError):
            return found.slice(1)

    def about(doc: Any) -> Any:
        own: dict[str, str] = {}
        said.append(mutate(doc, rng, f.arena, own))
        return doc

    if rng.random() < 0.6:
        f.rows = rows
    else:
        f.about = about
    if rng.random() < 0.2:
        f.files["manifest.parquet"] = bytes_changed(f.read("manifest.parquet"), rng)
    del marks
    return "rows" if f.rows else "about"


def damage(f: Forgery) -> str:
    """Bytes of any file, under hashes that no longer fit."""
    paths = sorted(p.relative_to(f.base).as_posix() for p in f.base.rglob("*") if p.is_file())
    path = f.rng.choice(paths)
    f.files[path], f.resealed = bytes_changed(f.read(path), f.rng), False
    return path


def link(f: Forgery) -> str:
    """A file or folder that is a link elsewhere."""
    paths = [p.relative_to(f.base).as_posix() for p in sorted(f.base.rglob("*"))]
    path = f.rng.choice(paths)
    targets = ["/etc/passwd", str(f.arena / "victim.txt"), str(f.arena / "outside"), "{aside}"]
    f.links[path] = f.rng.choice([*targets, "..", ".", Path(path).name])
    return f"{path} -> {f.links[path]}"


def unit(f: Forgery) -> str:
    """What a unit's metadata say: its record, its arrays, its model's names for them."""
    return f.rng.choice([record, record, array, array, model])(f)


def freed(f: Forgery) -> str:
    """A released file that is another, or a link."""
    return (damage if f.rng.random() < 0.7 else link)(f)


#: What is forged, by the target it aims at.
FORGERIES: dict[str, Callable[[Forgery], str]] = {
    "index": index, "pending files": pending, "unit metadata": unit, "analysis record": analysis,
    "manifests": manifest, "shards": hostile_bytes.shard, "releases": freed,
    "structure tables": hostile_bytes.structures, "registry tables": hostile_bytes.registry,
    "score tables": hostile_bytes.scores, "twin tables": hostile_bytes.twins,
}  # fmt: skip
