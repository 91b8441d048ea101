# SPDX-License-Identifier: Apache-2.0
"""From rows to files: precision does what it says, and Zarr and Parquet say the same bits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matteratlas.builders import encode
from matteratlas.builders.encode import stored, write_group, write_twin
from matteratlas.builders.spool import Rows, Spool
from matteratlas.schemas import archive
from matteratlas.schemas.archive import Precision
from matteratlas.schemas.errors import ArchiveError

NORMAL = st.floats(width=32, allow_subnormal=False, allow_nan=False, allow_infinity=False)
SPECIAL = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0], dtype=np.float32)
ROOMY = float(np.finfo(np.float32).max) / 2


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def matrix(elements: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)
    return hnp.arrays(np.float32, shapes, elements=elements)


@pytest.mark.parametrize("text", ["float32", "float16", "bitround-1", "bitround-22"])
def test_a_precision_is_its_name(text: str) -> None:
    assert str(Precision.parse(text)) == text


@pytest.mark.parametrize("text", ["", "float64", "bitround", "bitround-0", "bitround-23", "10"])
def test_other_precisions_are_refused(text: str) -> None:
    with pytest.raises(ArchiveError, match="give float32, float16 or bitround-N with N from 1"):
        Precision.parse(text)


@given(matrix(st.floats(width=32)))
def test_float32_is_stored_bit_by_bit(values: np.ndarray) -> None:
    out = stored(values, Precision(), where="x")
    np.testing.assert_array_equal(bits(out), bits(values))


@given(matrix(st.floats(width=32, min_value=-65504, max_value=65504)))
def test_float16_is_the_nearest(values: np.ndarray) -> None:
    out = stored(values, Precision.parse("float16"), where="x")
    assert out.dtype == np.float16
    np.testing.assert_array_equal(bits(out), bits(values.astype(np.float16)))
    again = stored(out.astype(np.float32), Precision.parse("float16"), where="x")
    np.testing.assert_array_equal(bits(again), bits(out))  # rows that carry over do not drift


@given(matrix(NORMAL.filter(lambda x: abs(x) < ROOMY)), st.integers(1, 22))
def test_bitround_keeps_its_bound_and_its_bits(values: np.ndarray, keep: int) -> None:
    precision = Precision.parse(f"bitround-{keep}")
    out = stored(values, precision, where="x")
    assert out.dtype == np.float32
    wide, rounded = values.astype(np.float64), out.astype(np.float64)
    assert (np.abs(rounded - wide) <= 2.0 ** -(keep + 1) * np.abs(wide)).all()
    np.testing.assert_array_equal(np.signbit(out), np.signbit(values))
    assert not (bits(out) & (2 ** (23 - keep) - 1)).any()  # the bits it drops are zero
    np.testing.assert_array_equal(bits(stored(out, precision, where="x")), bits(out))
    finer = stored(values, Precision.parse(f"bitround-{min(22, keep + 4)}"), where="x")
    assert (np.abs(finer - wide) <= np.abs(rounded - wide)).all()


@pytest.mark.parametrize("text", ["float32", "float16", "bitround-1", "bitround-7", "bitround-22"])
def test_what_is_no_number_stays_what_it_is(text: str) -> None:
    payload = np.array([0x7F800001, 0xFFFFFFFF, 0x7FC12345], dtype=np.uint32).view(np.float32)
    values = np.concatenate([SPECIAL, payload])[None, :]
    out = stored(values.copy(), Precision.parse(text), where="x").astype(np.float32)
    np.testing.assert_array_equal(out, values)  # NaN where NaN was, infinities, zeros
    np.testing.assert_array_equal(np.signbit(out[0, 4:6]), [False, True])


def test_rounding_leaves_the_given_values_alone() -> None:
    values = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    before = values.copy()
    for text in ("float16", "bitround-3"):
        assert not np.array_equal(stored(values, Precision.parse(text), where="x"), before)
        np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(
    ("text", "value"),
    [("float16", 65520.0), ("float16", -1e30), ("bitround-5", np.finfo(np.float32).max)],
)
def test_a_value_that_does_not_fit_is_named_by_its_row(text: str, value: float) -> None:
    values = np.ones((6, 3), dtype=np.float32)
    values[2, 1] = np.inf  # fits: it is infinite already
    values[4, 1] = value
    with pytest.raises(ArchiveError, match=rf"m/s/layer, row 104: .* does not fit {text}; build"):
        stored(values, Precision.parse(text), where="m/s/layer", first=100)
    assert np.isinf(stored(values[:4], Precision.parse(text), where="x")[2, 1])


# Whole units: rows with and without vectors, energies and nodes, several layers, many chunks.

ROW = st.tuples(
    st.sampled_from(["", "", "", "failed: a", "too_large: 9"]),
    st.sampled_from([np.nan, 0.5, -3.25]),
    st.integers(0, 4),
)


@dataclass
class Written:
    """A unit's files, what went in, and the digests that came out."""

    folder: Path
    rows: list[tuple[str, float, int]]
    pooled: dict[str, np.ndarray]
    nodes: dict[str, np.ndarray]
    precision: Precision
    content: dict[str, str]

    @property
    def absent(self) -> np.ndarray:
        return np.array([bool(reason) for reason, *_ in self.rows], dtype=bool)


@contextmanager
def chunks(rows: int, shards: int) -> Iterator[None]:
    """Chunks of a few rows, a few of them a shard, so that small units have many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "CHUNK_ROWS", (rows, rows))
        patch.setattr(archive, "SHARD_BYTES", shards * rows * 4 * 3)
        patch.setattr(encode, "COLUMN_CHUNK_ROWS", rows)
        patch.setattr(encode, "COLUMN_SHARD_ROWS", rows * shards)
        patch.setattr(encode, "_ROW_GROUP", 3 * rows)
        yield


def write(folder: Path, rows: list[tuple[str, float, int]], text: str, seed: int = 0) -> Written:
    """Two layers of 3 and 2 features, the first with nodes; nothing where no row is embedded."""
    random = np.random.default_rng(seed)
    precision, dims = Precision.parse(text), {"last": 3, "first": 2}
    columns = Rows()
    pooled = {layer: Spool(folder / f"{layer}.pooled", dim) for layer, dim in dims.items()}
    nodes = {"last": Spool(folder / "last.nodes", 3)}
    vectors: dict[str, list[np.ndarray]] = {layer: [] for layer in dims}
    atoms = [np.empty((0, 3), np.float32)]
    for i, (reason, energy, size) in enumerate(rows):
        columns.append(f"ma1-{i:026d}", reason, energy if not reason else np.nan, size)
        for layer, dim in dims.items():
            row = random.normal(size=(1, dim)).astype(np.float32)
            vectors[layer].append(np.full_like(row, np.nan) if reason else row)
            pooled[layer].append(vectors[layer][-1])
        atoms.append(random.normal(size=(size, 3)).astype(np.float32))
        nodes["last"].append(atoms[-1])
    for spool in (*pooled.values(), *nodes.values()):
        spool.close()
    held = any(not reason for reason, *_ in rows)
    content = write_group(
        folder / "unit",
        name="m/s",
        rows=columns,
        pooled=pooled if held else {},
        nodes=nodes if held else {},
        matemb={layer: {"layer": layer} for layer in dims},
        precision=precision,
    )
    write_twin(
        folder / "unit.parquet",
        name="m/s",
        rows=columns,
        pooled=pooled if held else {},
        dims=dims,
        default="last",
        precision=precision,
    )
    given_vectors = {
        layer: np.concatenate([np.empty((0, dims[layer]), np.float32), *parts])
        for layer, parts in vectors.items()
    }
    return Written(folder, rows, given_vectors, {"last": np.concatenate(atoms)}, precision, content)


def check(unit: Written) -> None:
    """Both files against what went in."""
    group = zarr.open_group(unit.folder / "unit", mode="r")
    held = not unit.absent.all()
    twin = pq.read_table(unit.folder / "unit.parquet")
    reasons = [reason for reason, *_ in unit.rows]
    assert twin["missing_reason"].to_pylist() == [reason or None for reason in reasons]
    assert twin["structure_id"].to_pylist() == list(np.asarray(group["structure_id"][:]))
    energies = [None if r or np.isnan(e) else e for r, e, _ in unit.rows]
    assert twin["energy"].to_pylist() == energies
    assert ("energy" in group) == any(e is not None for e in energies)
    assert ("row_size" in group) == any(size for *_, size in unit.rows)
    assert ("reason" in group) == (len(set(reasons)) > 1)
    assert set(unit.content) == set(group.array_keys())
    for layer, values in unit.pooled.items():
        assert (layer in group) == held
        column = twin["embedding" if layer == "last" else f"embedding.{layer}"].combine_chunks()
        np.testing.assert_array_equal(column.is_valid().to_numpy(False), ~unit.absent)
        flat = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, values.shape[1])
        if not held:
            assert len(flat) == 0
            continue
        kept = np.asarray(group[layer][:])
        np.testing.assert_array_equal(bits(kept), bits(stored(values, unit.precision, where="")))
        np.testing.assert_array_equal(bits(kept[~unit.absent]), bits(flat))
        assert flat.dtype == kept.dtype == np.dtype(unit.precision.data_type)
    if held:
        nodes = np.asarray(group["last.nodes"][:])
        wanted = stored(unit.nodes["last"], unit.precision, where="")
        np.testing.assert_array_equal(bits(nodes), bits(wanted))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(ROW, max_size=25),
    st.sampled_from(["float32", "float16", "bitround-4"]),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_zarr_and_parquet_hold_what_went_in(
    rows: list[tuple[str, float, int]], text: str, chunk: int, shards: int
) -> None:
    # Structures that are missing have no nodes.
    rows = [(reason, energy, 0 if reason else size) for reason, energy, size in rows]
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "a", Path(folder) / "b"
        one.mkdir(), two.mkdir()
        with chunks(chunk, shards):
            first = write(one, rows, text)
        check(first)
        second = write(two, rows, text)
        assert first.content == second.content  # whatever the chunks


def test_chunks_leave_no_trace_in_digests_but_in_files(tmp_path: Path) -> None:
    rows = [("", 1.0, 2)] * 20
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    with chunks(4, 2):
        first = write(tmp_path / "a", rows, "float32")
        check(first)
    second = write(tmp_path / "b", rows, "float32")
    assert first.content == second.content
    assert len(list((tmp_path / "a" / "unit" / "last" / "c").glob("*/0"))) == 3
    assert len(list((tmp_path / "b" / "unit" / "last" / "c").glob("*/0"))) == 1
    third = write(_made(tmp_path / "c"), rows, "float32", seed=1)
    assert {k for k in third.content if third.content[k] != first.content[k]} == {
        "last", "first", "last.nodes",
    }  # fmt: skip


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_nothing_embedded_takes_no_room(tmp_path: Path) -> None:
    unit = write(tmp_path, [("failed: x", np.nan, 0)] * 5000, "float32")
    check(unit)
    group = tmp_path / "unit"
    assert {p.name for p in group.iterdir()} == {"zarr.json", "structure_id"}
    assert (tmp_path / "unit.parquet").stat().st_size < 5000 * 20


def test_files_are_of_the_precision_asked_for(tmp_path: Path) -> None:
    rows = [("", np.nan, 0)] * 6000
    sizes = {}
    for text in ("float32", "float16", "bitround-4"):
        unit = write(_made(tmp_path / text), rows, text)
        sizes[text] = sum(
            p.stat().st_size for p in (unit.folder / "unit" / "last").rglob("*") if p.is_file()
        )
    assert sizes["float16"] < 0.6 * sizes["float32"]
    assert sizes["bitround-4"] < 0.6 * sizes["float32"]


@pytest.mark.parametrize("column", ["structure_id", "energy", "last", "last.nodes"])
def test_what_reads_back_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    """A store that loses a value, as a bad disk or codec would."""
    real = zarr.Array.__setitem__

    def losing(array: zarr.Array, rows: Any, values: np.ndarray) -> None:
        if array.name.endswith(f"/{column}"):
            values = values.copy()
            values[-1] = "" if values.dtype.hasobject else 0
        real(array, rows, values)

    monkeypatch.setattr(zarr.Array, "__setitem__", losing)
    with pytest.raises(ArchiveError, match=rf"{column}: bytes read back differ from the model's"):
        write(tmp_path, [("", 1.0, 2)] * 9, "float32")


@pytest.mark.parametrize("column", ["missing_reason", "embedding", "embedding.first"])
def test_a_twin_that_reads_back_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    real = pq.ParquetWriter.write_table

    def losing(writer: pq.ParquetWriter, table: Any) -> None:
        place = table.column_names.index(column)
        rolled = table.column(place).combine_chunks().take([0, 1, 2, 3, 4, 4])
        real(writer, table.set_column(place, table.schema.field(place), rolled))

    monkeypatch.setattr(pq.ParquetWriter, "write_table", losing)
    rows = [("", 1.0, 1)] * 5 + [("failed: last", np.nan, 0)]
    with pytest.raises(ArchiveError, match=rf"m/s/{column}: bytes read back differ"):
        write(tmp_path, rows, "float32")


def test_arrays_carry_what_other_readers_need(tmp_path: Path) -> None:
    unit = write(tmp_path, [("", 1.0, 2), ("failed: x", np.nan, 0)], "bitround-4")
    group = zarr.open_group(unit.folder / "unit", mode="r")
    for name, array in group.arrays():
        assert array.metadata.dimension_names is not None
        assert array.attrs["long_name"]
        assert [c.to_dict()["name"] for c in array.metadata.codecs] == ["sharding_indexed"]
        inner = [c.to_dict()["name"] for c in array.metadata.codecs[0].codecs]
        assert inner == [
            *(["vlen-utf8", "zstd"] if name == "structure_id" else ["bytes", "blosc"]), "crc32c",
        ]  # fmt: skip
    assert group["last"].attrs["matemb"] == {"layer": "last"}
    assert group["last"].metadata.dimension_names == ("structure", "last_feature")
    assert group["last.nodes"].metadata.dimension_names == ("node", "last_feature")
