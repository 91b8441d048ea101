# SPDX-License-Identifier: Apache-2.0
"""Hostile cards, archives and releases, made from real ones by seeded mutations.

A :class:`Forgery` does what somebody would who means harm and knows the format: it changes one
thing and then puts every hash and seal above it right, so that only what the content *says* is
left to refuse it by. Unsealed ones (a byte changed anywhere) are made too.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numcodecs import blosc, zstd

from matteratlas.registry.index import canonical, seal
from matteratlas.registry.manifest import _sealed

STORE = "embeddings.zarr"
#: What is put where a text belongs; ``{arena}`` is the folder around the target.
TEXTS: tuple[str, ...] = (
    "",
    ".",
    "..",
    "../../victim.txt",
    "{arena}/victim.txt",
    "/etc/passwd",
    "a/../../b",
    "..\\..\\victim.txt",
    "C:\\victim.txt",
    "file://{arena}/victim.txt",
    "con",
    "NUL.parquet",
    "aux",
    "a\x00b",
    "a\nb",
    "a\r\nx: y",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "\u200bzero",
    "\ud800",
    "e\u0301",
    "ﬁ",
    "A" * 5000,
    "🧪" * 300,
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[x](javascript:alert(1))",
    "![x](http://127.0.0.1:9/t.png)",
    "{{ 7*7 }}",
    "${model}",
    "$model",
    "{0.__class__}",
    "%s%n",
    "-rf",
    "--version",
    "a|b`c`",
    "| a |\n|---|\n",
    "---\nlicense: mit\n---",
    "!!python/object/apply:os.system ['true']",
    "__import__('os').system('true')",
    "os:system",
    "nan",
    "null",
    "2.0",
    "3.0",
    "1e999",
    "unreleased",
    "1.0.0-" + "9" * 400,
    "float128",
    "object",
    "|O",
    "V1000000000",
    "M8[ns]",
    "pickle",
    "numcodecs.pickle",
    "structure_id",
    "reasons",
    "linked",
    "id",
    "set",
    "structures",
    "scores-pairs",
    "index",
    "level_0",
)
#: Raw JSON that a writer of Python objects would not give.
RAW: tuple[str, ...] = (
    "NaN", "Infinity", "-Infinity", "1e999", "-0", "9" * 400, "9" * 5000, "1" + "0" * 18, "-1",
    "[" * 100_000 + "]" * 100_000, '{"a":' * 20_000 + "1" + "}" * 20_000, '{"a":1,"a":2}',
    "[" + "0," * 50_000 + "0]", '"\\ud800"', '"' + "x" * 300_000 + '"', "true", "null", "{}", "[]",
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    -1, 0, 1, 2, 7, 2**15, 2**31 - 1, 2**31, 2**32, 2**40, 2**53, 10**15, 2**62, 2**63 - 1, 2**63,
    2**64, 10**30, -(2**63), 0.5, 1e308, True, False,
)  # fmt: skip


def text(rng: random.Random, arena: Path) -> str:
    """Some text that no honest writer puts there."""
    return rng.choice(TEXTS).replace("{arena}", str(arena))


def value(rng: random.Random, arena: Path, marks: dict[str, str]) -> Any:
    """Some value; ``marks`` gathers the raw JSON that is put in after writing."""
    kind = rng.randrange(10)
    if kind < 3:
        return text(rng, arena)
    if kind < 6:
        return rng.choice(NUMBERS)
    if kind == 6:
        return rng.choice([None, [], {}, [[]], [None], {"": None}, [1, "a"], {"a": {"b": []}}])
    mark = f"@@{len(marks)}@@"
    marks[mark] = rng.choice(RAW)
    return mark


def nodes(doc: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a document."""
    found = [path] if path else []
    if isinstance(doc, dict):
        for key in doc:
            found += nodes(doc[key], (*path, key))
    elif isinstance(doc, list):
        for i in range(min(len(doc), 12)):
            found += nodes(doc[i], (*path, i))
    return found


def mutate(doc: Any, rng: random.Random, arena: Path, marks: dict[str, str]) -> str:
    """Change one thing of a document in place; says what."""
    places = nodes(doc)
    # Near the top as often as deep down, where most of the places are.
    depth = rng.choice(sorted({len(p) for p in places}))
    path = rng.choice([p for p in places if len(p) == depth])
    *way, key = path
    parent = doc
    for step in way:
        parent = parent[step]
    where = "/".join(str(k)[:30] for k in path)
    kind = rng.randrange(8)
    if kind == 0:
        del parent[key]
        return f"without {where}"
    if kind == 1 and isinstance(parent, dict):
        name = text(rng, arena)
        parent[name] = parent.pop(key)
        return f"{where} renamed {name[:20]!r}"
    if kind == 2 and isinstance(parent, dict):
        name = text(rng, arena)
        parent[name] = copy.deepcopy(parent[key])
        return f"{where} again as {name[:20]!r}"
    if kind == 3 and isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
        parent[key] = parent[key] * rng.choice([-1, 2, 3, 1000, 10**9]) + rng.choice([-1, 0, 1])
        return f"{where} is {parent[key]}"
    if kind == 4 and isinstance(parent[key], str):
        held, at = parent[key], rng.randrange(len(parent[key]) + 1)
        parent[key] = held[:at] + text(rng, arena) + held[at:]
        return f"{where} is {parent[key][:30]!r}"
    parent[key] = value(rng, arena, marks)
    return f"{where} is {marks.get(str(parent[key]), str(parent[key]))[:30]!r}"


def written(doc: Any, marks: dict[str, str]) -> bytes:
    """A document as JSON with the raw parts put in."""
    found = json.dumps(doc, sort_keys=True, separators=(",", ":"))
    for mark, raw in marks.items():
        found = found.replace(f'"{mark}"', raw)
    return found.encode() + b"\n"


def sealed(doc: dict[str, Any], marks: dict[str, str]) -> bytes:
    """A document that carries the hash of itself, as far as it can be read at all."""
    body = {k: v for k, v in doc.items() if k != "sha256"}
    data = written(body, marks)
    try:
        found = json.loads(data)
        return written({**body, "sha256": seal(found)["sha256"]}, marks)
    except (ValueError, RecursionError, TypeError):
        return data


def bytes_changed(data: bytes, rng: random.Random) -> bytes:
    """A file with some of its bytes changed, cut, repeated or put in."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if not out:
            return bytes(rng.randrange(256) for _ in range(16))
        at = rng.randrange(len(out))
        kind = rng.randrange(6)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.choice([0, 1, 127, 128, 255])
        elif kind == 2:
            del out[at : at + rng.choice([1, 4, 64, len(out)])]
        elif kind == 3:
            out[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice([1, 4, 64])))
        elif kind == 4:
            out[at : at + 4] = rng.choice([0, 1, 2**31 - 1, 2**32 - 1]).to_bytes(4, "little")
        else:
            out[at:at] = out[at : at + rng.choice([8, 256])]
    return bytes(out)


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
                    record = said_of.get("matemb", {}) if isinstance(said_of, dict) else {}
                    for file in record.get("files", ()):
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


TABLES = (
    "registry/models.parquet", "registry/sets.parquet", "registry/rejected.parquet",
    "structures/elements.parquet", "scores/pairs.parquet",
    "scores/selections.parquet", "scores/models.parquet", "scores/gaps.parquet",
    "scores/coverage.parquet", "parquet/mat2vec/elements.parquet",
)  # fmt: skip


def table(f: Forgery) -> str:
    """A Parquet table: its columns, types, cells or size."""
    path = f.rng.choice(TABLES)
    found = pq.read_table(io.BytesIO(f.read(path)))
    found, what = _table_changed(found, f)
    handle = io.BytesIO()
    pq.write_table(
        found,
        handle,
        compression=f.rng.choice(["zstd", "snappy", "gzip", "none"]),
        use_dictionary=f.rng.random() < 0.7,
        write_page_checksum=True,
    )
    f.files[path] = handle.getvalue()
    f.declare(path)
    return f"{path}: {what}"


def _table_changed(found: pa.Table, f: Forgery) -> tuple[pa.Table, str]:
    rng = f.rng
    names = found.column_names
    i = rng.randrange(len(names))
    kind = rng.randrange(8)
    if kind == 0:
        return found.remove_column(i), f"without {names[i]}"
    if kind == 1:
        new = [*names]
        new[i] = rng.choice([*names, "a", "set", "id", "", "\x00", "<b>"])
        return found.rename_columns(new), f"{names[i]} renamed {new[i]!r}"
    if kind == 2:
        odd = rng.choice(
            [pa.array([rng.choice(NUMBERS[:12])] * len(found), pa.int64()),
             pa.array([float("nan")] * len(found)), pa.array([[1.0, None]] * len(found)),
             pa.array([{"a": 1}] * len(found)), pa.nulls(len(found)),
             pa.array([b"\xff\xfe"] * len(found)), pa.array(["x" * 1000] * len(found)),
             pa.array([True] * len(found)), pa.array([10**15] * len(found), pa.timestamp("ns"))]
        )  # fmt: skip
        return found.set_column(i, names[i], odd), f"{names[i]} is {odd.type}"
    if kind == 3:
        times = rng.choice([2, 50, 20_000])
        return pa.concat_tables([found] * min(times, 2_000_000 // max(1, len(found)))), "repeated"
    if kind == 4:
        return found.slice(0, 0), "no rows"
    if kind == 5:
        long = pa.array(["A" * 2**20] * max(1, len(found) * 40)).dictionary_encode()
        rows = pa.concat_tables([found] * 40) if len(found) else found
        return rows.set_column(i, names[i], long.slice(0, len(rows))), f"{names[i]}: long texts"
    if kind == 6:
        about = {"matteratlas_version": text(rng, f.arena).encode("utf-8", "replace")}
        return found.replace_schema_metadata(
            {**about, "pandas": b'{"index_columns": [1]}'}
        ), "about"
    rows = found.to_pylist()
    if not rows:
        return found.append_column("odd", pa.nulls(0)), "a column more"
    row = rng.randrange(len(rows))
    held = rows[row][names[i]]
    new_value: Any = text(rng, f.arena).encode("utf-8", "replace").decode()
    if isinstance(held, int | float):
        new_value = type(held)(rng.choice(NUMBERS[:12]))
    elif isinstance(held, list):
        new_value = held * 3 if rng.random() < 0.5 else []
    rows[row][names[i]] = rng.choice([None, new_value, new_value])
    try:
        return pa.Table.from_pylist(rows, schema=found.schema), f"{names[i]}: {new_value!r:.30}"
    except (ValueError, TypeError, pa.ArrowException, OverflowError):
        return found.slice(1), "a row less"


def shard(f: Forgery) -> str:
    """A shard: chunks that claim or hold something else, under checksums that fit."""
    name = f.rng.choice(sorted(f.models))
    arrays = [n for n in f.entries(name) if "/" in n]
    held = f.entries(name)[array_name := f.rng.choice(arrays)]
    folder = f"{STORE}/{name}/{array_name}"
    path = f"{folder}/c/0" + ("/0" if len(held["shape"]) > 1 else "")
    inner = held["codecs"][0]["configuration"]
    slots = held["chunk_grid"]["configuration"]["chunk_shape"][0] // inner["chunk_shape"][0]
    data = (f.base / path).read_bytes()
    places = np.frombuffer(data[-(16 * slots + 4) : -4], "<u8").reshape(-1, 2)
    bodies = [data[int(o) : int(o) + int(n) - 4] if o != 2**64 - 1 else None for o, n in places]
    slot = f.rng.choice([i for i, b in enumerate(bodies) if b is not None])
    bodies[slot], what = _chunk(bodies[slot] or b"", inner["codecs"], f.rng)
    out, index_bytes, tags, end = b"", b"", [], 0
    for body in bodies:
        if body is None:
            index_bytes += b"\xff" * 16
            tags += [0, 0]
            continue
        crc = google_crc32c.value(body)
        out += body + crc.to_bytes(4, "little")
        index_bytes += end.to_bytes(8, "little") + (len(body) + 4).to_bytes(8, "little")
        tags += [crc, len(body) + 4]
        end += len(body) + 4
    if f.rng.random() < 0.1:
        index_bytes, what = bytes_changed(index_bytes, f.rng)[: len(index_bytes)], f"{what}, index"
    crc = google_crc32c.value(index_bytes)
    f.files[path] = out + index_bytes + crc.to_bytes(4, "little")
    said = base64.b64encode(np.array([crc, *tags], "<u4").tobytes()).decode()
    held["attributes"]["shard_crc32c"][0] = said
    f.files[f"{folder}/zarr.json"] = written(held, {})
    f.declare(path)
    f.declare(f"{folder}/zarr.json")
    return f"{array_name}: {what}"


def _chunk(body: bytes, codecs: list[dict[str, Any]], rng: random.Random) -> tuple[bytes, str]:
    texts = codecs[0]["name"] == "vlen-utf8"
    kind = rng.randrange(5)
    if kind == 0:
        return bytes_changed(body, rng), "bytes changed"
    if kind == 1:  # headers of the compressors: sizes, offsets, flags
        at, new = rng.randrange(min(24, len(body))), bytearray(body)
        new[at : at + 4] = rng.choice([0, 16, 2**24, 2**31 - 1, 2**32 - 1]).to_bytes(4, "little")
        return bytes(new), "header changed"
    raw = (zstd if texts else blosc).decompress(body)
    if kind == 2:
        raw = bytes(rng.choice([2**20, 2**26])) + raw  # a bomb
    elif kind == 3:
        raw = bytes_changed(raw, rng)
    elif texts:
        size = rng.choice([0, 1, 2**31 - 1, 2**32 - 1]).to_bytes(4, "little")
        raw = size + raw[4:] if rng.random() < 0.5 else raw[:4] + size + raw[8:]
    else:
        raw = rng.choice([b"\xff", b"\x80", b"\x00"]) * len(raw)
    if texts:
        return zstd.compress(raw, 3), "content changed"
    return blosc.compress(raw, b"zstd", 3, rng.choice([0, 1, 2])), "content changed"


def damage(f: Forgery) -> str:
    """Bytes of any file, under hashes that no longer fit."""
    paths = sorted(p.relative_to(f.base).as_posix() for p in f.base.rglob("*") if p.is_file())
    path = f.rng.choice(paths)
    f.files[path], f.resealed = bytes_changed(f.read(path), f.rng), False
    return path


def parquet_bytes(f: Forgery) -> str:
    """Bytes of a table, under hashes that fit: its own reader's business."""
    path = f.rng.choice(TABLES)
    f.files[path] = bytes_changed(f.read(path), f.rng)
    f.declare(path)
    return path


def link(f: Forgery) -> str:
    """A file or folder that is a link elsewhere."""
    paths = [p.relative_to(f.base).as_posix() for p in sorted(f.base.rglob("*"))]
    path = f.rng.choice(paths)
    targets = ["/etc/passwd", str(f.arena / "victim.txt"), str(f.arena / "outside"), "{aside}"]
    f.links[path] = f.rng.choice([*targets, "..", ".", Path(path).name])
    return f"{path} -> {f.links[path]}"


FORGERIES: dict[str, Callable[[Forgery], str]] = {
    "index": index, "pending files": pending, "commit record": record, "array metadata": array,
    "model metadata": model, "analysis record": analysis, "manifest": manifest, "table": table,
    "table bytes": parquet_bytes, "shard": shard, "bytes of any file": damage, "link": link,
}  # fmt: skip

__all__ = ["FORGERIES", "Forgery", "bytes_changed", "canonical", "mutate", "text", "value"]
