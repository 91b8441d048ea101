# SPDX-License-Identifier: Apache-2.0
"""Tables whose hashes are right: they may not unpack to more than they should, whoever says so."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_atlas as made

from matteratlas.analysis.report.data import _table
from matteratlas.registry.archive import open_atlas
from matteratlas.registry.digest import column_digests
from matteratlas.registry.files import Files
from matteratlas.registry.index import canonical, file_entries, read_index, seal
from matteratlas.registry.parquet import (
    check_size,
    open_parquet,
    read_arrow,
    read_frame,
)
from matteratlas.registry.tables import MODELS
from matteratlas.registry.validate import validate
from matteratlas.schemas.errors import ArchiveError


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("sound")
    with made.registry():
        made.write_small(folder / "atlas")
        yield folder / "atlas"


@pytest.fixture
def atlas(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "atlas"))


def put(root: Path, path: str, table: pa.Table, **options: Any) -> None:
    """Write a table into an atlas under a hash and a seal that fit."""
    pq.write_table(table, root / path, **options)
    index = read_index(Files(str(root)))
    index["files"] |= file_entries(root, [root / path])
    (root / "atlas.json").write_bytes(canonical(seal(index)))


def bomb(rows: int, *, nested: bool, size: int = 2**20) -> pa.Array:
    """One long text that every row names by its code."""
    found = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, "i4")), pa.array(["A" * size]))
    if not nested:
        return found
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype="i4")), found)


def data_of(table: pa.Table, **options: Any) -> bytes:
    handle = io.BytesIO()
    with pq.ParquetWriter(handle, table.schema, **options) as writer:
        writer.write_table(table)
    return handle.getvalue()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("typed", [False, True])
def test_one_text_in_every_row(nested: bool, typed: bool) -> None:
    data = data_of(pa.table({"a": bomb(5000, nested=nested)}), store_schema=typed)
    assert len(data) < 60_000
    with pytest.raises(ValueError, match=r"column 'a.*' unpacks "):
        read_arrow(data)


def test_long_texts_in_an_atlas(atlas: Path, tmp_path: Path) -> None:
    """Refused by every reader in one line that names the file; nothing of it is unpacked."""
    path = "structures/ores.parquet"
    table = pq.read_table(atlas / path)
    many = pa.concat_tables([table] * (4000 // len(table)))
    put(atlas, path, many.set_column(0, "id", bomb(len(many), nested=False)))
    opened = open_atlas(atlas)
    line = r"structures/ores\.parquet: damaged \(.*unpacks .*\); fetch or build it again"
    for ask in (
        lambda: opened.structures,
        lambda: opened.table(path),
        lambda: opened.structure("ma1-" + "a" * 26),
        lambda: read_frame(atlas / path),
    ):
        with pytest.raises(ArchiveError, match=line) as error:
            ask()
        assert str(error.value).isprintable()
    with pytest.raises(ArchiveError, match="unpacks"):
        column_digests(atlas / path)
    assert any("ores.parquet: unreadable" in f and "unpacks" in f for f in validate(atlas).faults)


def test_cards_repeated_without_end(atlas: Path) -> None:
    table = pq.read_table(atlas / MODELS)
    put(atlas, MODELS, pa.concat_tables([table] * (30_000 // len(table))))
    with pytest.raises(ArchiveError, match=r"models\.parquet: damaged \(claims .* (cards|values)"):
        _ = open_atlas(atlas).models
    put(atlas, MODELS, pa.concat_tables([table] * 2))
    with pytest.raises(ArchiveError, match=r"models\.parquet: .*there twice"):
        _ = open_atlas(atlas).models
    put(atlas, MODELS, table.append_column("id", table["id"]))
    with pytest.raises(ArchiveError, match=r"models\.parquet: not the table .*twice"):
        _ = open_atlas(atlas).models


def test_more_rows_or_values_than_bytes() -> None:
    rows = pa.table({"a": pa.array([0.5] * 3_000_000)})
    data = data_of(rows, compression="zstd")
    with pytest.raises(ValueError, match="3,000,000 rows"):
        check_size(pq.read_metadata(io.BytesIO(data)), size=len(data))
    lists = pa.array([[0.0] * 3_000_000])
    data = data_of(pa.table({"a": lists}), compression="zstd")
    with pytest.raises(ValueError, match=r"3,000,000 values|unpack"):
        read_arrow(data)


def test_pages_that_hold_more_than_the_footer_says() -> None:
    """The footer of a small table over the pages of a large one."""
    large = data_of(pa.table({"a": pa.array([7] * 60_000_000, "int8")}), use_dictionary=False)
    small = data_of(pa.table({"a": pa.array([7] * 1000, "int8")}), use_dictionary=False)
    assert len(large) > len(small)
    found = pq.read_metadata(io.BytesIO(small))
    chunk = found.row_group(0).column(0)
    end = chunk.data_page_offset + chunk.total_compressed_size
    # The page of the large one in place of the small one's, cut to the same span.
    forged = large[:end] + small[end:]
    with pytest.raises(ValueError, match=r"more than it declares|beyond its end"):
        open_parquet(io.BytesIO(forged), size=len(forged))
    found = pq.read_metadata(io.BytesIO(small))
    assert open_parquet(io.BytesIO(small), size=len(small)).metadata.equals(found)


def test_every_byte_of_a_table_changed() -> None:
    """Footers too, which Arrow trusts: none ends the process."""
    sound = data_of(pa.table({"a": ["x", "y", None], "n": [1, 2, 3]}))
    refused = 0
    for at in range(len(sound)):
        for bit in (1, 8, 64):
            data = bytearray(sound)
            data[at] ^= bit
            try:
                read_arrow(bytes(data))
            except (ValueError, OSError, pa.ArrowException):
                refused += 1
    assert refused > len(sound)


@pytest.mark.parametrize("at", range(4, 40))
@pytest.mark.parametrize("byte", [0x00, 0x7F, 0xFF])
def test_headers_of_pages_with_any_byte(at: int, byte: int) -> None:
    """Read as it was or refused; never another exception, never without end."""
    data = bytearray(data_of(pa.table({"a": ["x", "y", None], "b": [[1, 2], [], None]})))
    data[at] = byte
    with suppress(ValueError, OSError, IndexError, pa.ArrowException):
        read_arrow(bytes(data))


@pytest.mark.parametrize("kind", ["none", "snappy", "gzip", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_honest_tables_are_what_they_were(kind: str, version: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 30_000
    table = pa.table(
        {
            "text": pa.array([f"t{i % 7}" for i in range(n)]),
            "own": pa.array([f"id-{i}" if i % 3 else None for i in range(n)]),
            "number": rng.normal(size=n),
            "flag": pa.array([True, None] * (n // 2)),
            "lists": pa.array([["a", "b"], [], None] * (n // 3)),
            "struct": pa.array([{"p": "q", "x": 1.5}] * n),
            "raw": pa.array([b"\xff"] * n),
            "boxes": pa.FixedSizeListArray.from_arrays(rng.normal(size=3 * n), 3),
            "wide": pa.array(["é\u00df"] * n),
        }
    )
    path = tmp_path / "t.parquet"
    for options in ({}, {"use_dictionary": False}, {"write_page_index": True}):
        pq.write_table(table, path, compression=kind, data_page_version=version,
                       row_group_size=7000, data_page_size=4096, **options)  # fmt: skip
        found = read_arrow(path)
        assert found.equals(pq.read_table(path)) and found.schema.equals(table.schema)
        assert read_arrow(path, columns=["own"]).column_names == ["own"]
        pd.testing.assert_frame_equal(read_frame(path), pd.read_parquet(path))
    with pytest.raises(ArchiveError, match="no column 'z'"):
        read_frame(path, columns=["z"])


def test_a_constant_chart_is_digested_however_small_it_packs(tmp_path: Path) -> None:
    rows = pa.FixedSizeListArray.from_arrays(np.zeros(4000 * 1024, np.float32), 1024)
    path = tmp_path / "twin.parquet"
    pq.write_table(pa.table({"embedding": rows}), path, compression="zstd")
    with pytest.raises(ValueError, match="claims"):
        read_arrow(path)
    assert column_digests(path) == column_digests(pa.table({"embedding": rows}))


def test_tables_without_rows_or_columns(tmp_path: Path) -> None:
    for table in (pa.table({"a": pa.array([], pa.string())}), pa.table({})):
        path = tmp_path / "empty.parquet"
        pq.write_table(table, path)
        assert read_arrow(path).equals(table)


def test_score_tables_of_odd_cells(atlas: Path) -> None:
    """Cells that cannot be compared or hashed are a fault of the table, not of the check."""
    with made.registry():
        made.write_scores(atlas, [made.score()])
    path = "scores/pairs.parquet"
    table = pq.read_table(atlas / path)
    odd = table.set_column(0, table.column_names[0], pa.array([[1.0, 2.0]] * len(table)))
    handle = io.BytesIO()
    pq.write_table(odd, handle)
    record = json.loads((atlas / "scores/analysis.json").read_bytes())
    (atlas / path).write_bytes(handle.getvalue())
    record["tables"][path] |= file_entries(atlas, [atlas / path])[path]
    (atlas / "scores/analysis.json").write_bytes(canonical(seal(record)))
    assert any(path in fault for fault in validate(atlas).faults)


def test_damaged_score_tables_on_a_page() -> None:
    data = bytearray(data_of(pa.table({"id": ["a" * 30] * 50}), compression="none"))
    data[30:60] = b"\xff" * 30
    with pytest.raises(ArchiveError, match="not the table expected"):
        _table("x", "scores/pairs.parquet", bytes(data))
