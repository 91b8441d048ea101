# SPDX-License-Identifier: Apache-2.0
"""Hostile tables and shards: bytes that claim or hold something else, under hashes that fit."""

from __future__ import annotations

import base64
import io
import random
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hostile_values import NUMBERS, bytes_changed, text, written
from numcodecs import blosc, zstd

if TYPE_CHECKING:
    from hostile import Forgery

STORE = "embeddings.zarr"
#: Rows and cells a table is repeated to at most: more is the fuzzer's own time, not the reader's.
MOST_ROWS, MOST_CELLS = 300_000, 3_000_000
#: How the name of a change ends that is written with dictionaries, however else it may be.
BOMB = "long texts"


def structures(f: Forgery) -> str:
    """The structures of a set."""
    return table(f, [p for p in f.index["files"] if p.startswith("structures/")])


def registry(f: Forgery) -> str:
    """Cards and notes as tables."""
    return table(f, [p for p in f.index["files"] if p.startswith("registry/")])


def scores(f: Forgery) -> str:
    """Any score table there is, with rows or without."""
    return table(f, list(f.analysis["tables"]))


def twins(f: Forgery) -> str:
    """The table that holds the same vectors as a unit's arrays."""
    return table(f, [p.relative_to(f.base).as_posix() for p in f.base.glob("parquet/*/*.parquet")])


def table(f: Forgery, paths: list[str]) -> str:
    """A Parquet table: its columns, types, cells or size, or just its bytes."""
    path = f.rng.choice(sorted(paths))
    if f.rng.random() < 0.25:
        f.files[path] = bytes_changed(f.read(path), f.rng)
        f.declare(path)
        return f"{path}: bytes"
    found = pq.read_table(io.BytesIO(f.read(path)))
    found, what = _table_changed(found, f)
    handle = io.BytesIO()
    with pq.ParquetWriter(
        handle,
        found.schema,
        compression=f.rng.choice(["zstd", "snappy", "gzip", "none"]),
        use_dictionary=f.rng.random() < 0.7 or what.endswith(BOMB),
        write_page_checksum=True,
        store_schema=f.rng.random() < 0.5,
    ) as writer:
        writer.write_table(found)
    f.files[path] = handle.getvalue()
    f.declare(path)
    return f"{path}: {what}"


def _table_changed(found: pa.Table, f: Forgery) -> tuple[pa.Table, str]:
    rng = f.rng
    names = found.column_names
    i = rng.randrange(len(names))
    kind = rng.randrange(10)
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
        most = min(MOST_ROWS, MOST_CELLS // len(names)) // max(1, len(found))
        return pa.concat_tables([found] * max(2, min(rng.choice([2, 50, most]), most))), "repeated"
    if kind == 4:
        return found.slice(0, 0), "no rows"
    if kind == 5:
        rows = pa.concat_tables([found] * 40) if len(found) < 2000 else found
        return rows.set_column(i, names[i], _long(len(rows), rng)), f"{names[i]}: {BOMB}"
    if kind == 6:
        about = {"matteratlas_version": text(rng, f.arena).encode("utf-8", "replace")}
        return found.replace_schema_metadata(
            {**about, "pandas": b'{"index_columns": [1]}'}
        ), "about"
    if kind == 7:
        lists = pa.array([[0.0] * rng.choice([3, 10_000])]).take(pa.array([0] * len(found), "int8"))
        return found.set_column(i, names[i], lists), f"{names[i]}: long lists"
    if kind == 8:
        for j in range(300):
            found = found.append_column(f"x{j}", pa.nulls(len(found), pa.float64()))
        return found, "columns more"
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


def _long(rows: int, rng: random.Random) -> pa.Array:
    """One long text in every row, or a list of it: little in a file, much in memory."""
    texts = pa.array(["A" * rng.choice([2**14, 2**20])])
    found = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, "i4")), texts)
    if rng.random() < 0.7:
        return found
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype="i4")), found)


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
    try:
        raw = (zstd if texts else blosc).decompress(body)
    except (RuntimeError, ValueError, MemoryError):  # an earlier edit of this case broke it
        return bytes_changed(body, rng), "bytes changed again"
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
