# SPDX-License-Identifier: Apache-2.0
"""Views give the same bits, read no more than is asked, and name what is not installed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import vectors
import xarray as xr
from servers.files import FileServer
from torch.utils.data import DataLoader, Dataset, default_collate

import matteratlas as ma
from matteratlas.registry.files import Files
from matteratlas.registry.shards import ShardedArray
from matteratlas.schemas.errors import ArchiveError

REAL = ["chgnet-0.3.0", "mat2vec", "morgan", "random-128"]


@pytest.fixture(scope="module")
def real(built_atlas: Path) -> ma.Atlas:
    return ma.open_atlas(built_atlas)


@pytest.fixture(scope="module")
def large(vector_atlas: Path) -> ma.Atlas:
    """Several chunks and shards a model, of two widths and precisions."""
    return ma.open_atlas(vector_atlas)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """(array, chunk) -> times decoded by this process."""
    seen: Counter[tuple[str, int]] = Counter()
    bodies = ShardedArray._bodies

    def counted(self: ShardedArray, shard: int, slots: range) -> Iterator[tuple[int, memoryview]]:
        for chunk, body in bodies(self, shard, slots):
            seen[self.path, chunk] += 1
            yield chunk, body

    monkeypatch.setattr(ShardedArray, "_bodies", counted)
    return seen


def same(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal to the bit, NaN where NaN."""
    assert found.dtype == expected.dtype == np.float32
    absent = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), absent)
    np.testing.assert_array_equal(found.view(np.uint32)[~absent], expected.view(np.uint32)[~absent])


def table_of(dataset: object, column: str) -> np.ndarray:
    """(row, feature) values of a list column, NaN where null."""
    cells = dataset.with_format("arrow")[:][column].combine_chunks()  # type: ignore[attr-defined]
    out = np.full((len(cells), cells.type.list_size), np.nan, np.float32)
    out[cells.is_valid().to_numpy(zero_copy_only=False)] = (
        cells.flatten().to_numpy(zero_copy_only=False).reshape(-1, cells.type.list_size)
    )
    return out


# --- numpy and pandas ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", REAL)
def test_numpy_is_the_computed_array(real: ma.Atlas, model: str) -> None:
    x = real.embeddings(model)
    same(ma.views.to_numpy(x), x.compute().values)
    same(ma.views.to_numpy(x.isel(structure=[5, 1, 7])), x.values[[5, 1, 7]])
    same(ma.views.to_numpy(x * 2), x.values * 2)
    same(ma.views.to_numpy(x.compute()), x.values)
    same(ma.views.to_numpy(real.read(model, slice(3, 9))), x.values[3:9])
    few = real.embeddings(model, where="n_atoms <= 3", missing="drop")
    assert np.isfinite(ma.views.to_numpy(few)).all() and 0 < few.shape[0] < x.shape[0]
    same(ma.views.to_numpy(few), few.values)


def test_numpy_of_several_shards_and_precisions(large: ma.Atlas) -> None:
    for model in vectors.MODELS:
        x = large.embeddings(model)
        same(ma.views.to_numpy(x), x.compute().values)
    wide = ma.views.to_numpy(large.embeddings("wide"))
    given = np.concatenate([vectors.vectors("wide", s) for s in vectors.ROWS])
    lacks = np.concatenate([vectors.missing("wide", s) for s in vectors.ROWS])
    same(wide, np.where(lacks[:, None], np.float32(np.nan), given))
    half = ma.views.to_numpy(large.embeddings("wider", sets=["early"]))
    same(half, vectors.vectors("wider", "early").astype(np.float16).astype(np.float32))


def test_numpy_of_aligned_models(real: ma.Atlas, large: ma.Atlas) -> None:
    both = large.aligned(["wider", "wide"])
    found = ma.views.to_numpy(both)
    assert list(found) == ["wider", "wide"]
    for model, values in found.items():
        same(values, both[model].compute().values)
        assert np.isfinite(values).all()
    with pytest.raises(ArchiveError, match="no set of vectors by structure"):
        ma.views.to_numpy(real.structures)  # type: ignore[arg-type]
    with pytest.raises(ArchiveError, match="a DataArray is no set of vectors"):
        ma.views.to_numpy(real.nodes("chgnet-0.3.0", str(real.structures["id"][0])))
    with pytest.raises(ArchiveError, match="a Dataset is no set of vectors"):
        ma.views.to_numpy(xr.Dataset())


def test_pandas_is_all_numbers_with_the_rest_as_its_index(real: ma.Atlas) -> None:
    x = real.embeddings("morgan")
    frame = ma.views.to_pandas(x)
    same(frame.to_numpy(), x.values)
    assert frame.index.names == ["id", "set", "stratum", "kind", "reason"]
    rows = real.rows("morgan")
    pd.testing.assert_frame_equal(
        frame.index.to_frame(index=False), rows[["id", "set", "stratum", "kind", "reason"]]
    )
    means = frame.groupby("stratum").mean()
    assert set(means.index) == set(rows["stratum"])
    labels = real.structures.set_index(["id", "set"])["label_atomization_energy"]
    joined = frame.join(labels, on=["id", "set"])
    assert joined["label_atomization_energy"].notna().sum() == labels.notna().sum() > 0
    same(ma.views.to_pandas(real.read("morgan", slice(0, 4))).to_numpy(), x.values[:4])


def test_pandas_of_aligned_models_has_a_block_of_columns_each(real: ma.Atlas) -> None:
    both = real.aligned(["chgnet-0.3.0", "mat2vec"])
    frame = ma.views.to_pandas(both)
    assert frame.columns.names == ["model", "feature"]
    assert frame.index.names == ["id", "set", "stratum", "kind"]
    for model in both.data_vars:
        same(frame[model].to_numpy(), both[model].values)


# --- torch ---------------------------------------------------------------------------------------


def test_torch_items_and_batches(real: ma.Atlas) -> None:
    x = real.embeddings("morgan")
    rows = ma.views.to_torch(x)
    assert isinstance(rows, Dataset) and len(rows) == x.shape[0]
    item = rows[3]
    assert set(item) == {"id", "morgan"} and item["id"] == x["structure"].values[3]
    assert item["morgan"].dtype == torch.float32
    same(item["morgan"].numpy(), x.values[3])
    assert rows[-1]["id"] == x["structure"].values[-1]
    order = [7, 2, 2, -4]
    batch = default_collate(rows.__getitems__(order))
    same(batch["morgan"].numpy(), x.values[order])
    assert batch["id"] == list(x["structure"].values[order])
    for bad in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError, match="rows run from 0"):
            rows[bad]
    item["morgan"][:] = 0  # the caller's own
    same(rows[3]["morgan"].numpy(), x.values[3])
    assert len(ma.views.to_torch(real.embeddings("morgan", where="n_atoms > 10**6"))) == 0


@pytest.mark.parametrize("shuffle", [False, True])
def test_torch_loader_of_two_workers(large: ma.Atlas, shuffle: bool) -> None:
    both = large.aligned(["wide", "wider"])
    rows = ma.views.to_torch(both)
    loader = DataLoader(rows, batch_size=500, num_workers=2, shuffle=shuffle)
    batches = list(loader)
    ids = [i for batch in batches for i in batch["id"]]
    assert sorted(ids) == sorted(both["structure"].values)
    assert (ids == list(both["structure"].values)) is not shuffle
    for model in both.data_vars:
        found = torch.cat([batch[model] for batch in batches]).numpy()
        same(found, both[model].sel(structure=ids).compute().values)


def test_torch_decodes_each_chunk_of_a_batch_once(
    large: ma.Atlas, decoded: Counter[tuple[str, int]]
) -> None:
    x = large.embeddings("wide")
    expected = x.values
    rows = ma.views.to_torch(x, cache_bytes=0)  # nothing but the last chunk is kept
    order = np.random.default_rng(0).permutation(len(rows))[:900]
    decoded.clear()
    batch = default_collate(rows.__getitems__(order.tolist()))
    same(batch["wide"].numpy(), expected[order])
    assert set(decoded.values()) == {1} and len(decoded) == 5
    decoded.clear()
    assert rows[8999]["id"] == x["structure"].values[8999]
    assert not decoded  # of the chunk used last


def test_torch_keeps_chunks_within_its_bound(
    large: ma.Atlas, decoded: Counter[tuple[str, int]]
) -> None:
    x = large.embeddings("wide")
    chunk = 2048 * 512 * 4
    rows = ma.views.to_torch(x, cache_bytes=2 * chunk)
    most = 0
    for i in np.random.default_rng(1).permutation(len(rows))[:300]:
        rows[int(i)]
        most = max(most, sum(v.nbytes for v in rows._kept.values()))
    assert chunk < most <= 2 * chunk
    ample = ma.views.to_torch(x)
    decoded.clear()
    for i in np.random.default_rng(1).permutation(len(ample))[:300]:
        ample[int(i)]
    assert set(decoded.values()) == {1} and len(decoded) == 5
    assert len(pickle.dumps(ample)) < len(ample) * 200  # what is kept does not travel


@pytest.mark.parametrize("models", [["wide"], ["wide", "wider"]])
def test_torch_sampler_mixes_rows_and_decodes_each_chunk_once(
    large: ma.Atlas, decoded: Counter[tuple[str, int]], models: list[str]
) -> None:
    data = large.aligned(models)
    rows = ma.views.to_torch(data, cache_bytes=2**24)
    sampler = rows.sampler(seed=3)
    decoded.clear()
    first = [i for batch in DataLoader(rows, batch_size=64, sampler=sampler) for i in batch["id"]]
    assert sorted(first) == sorted(data["structure"].values) and len(sampler) == len(first)
    once = sum(len(edges) - 1 for edges in rows.edges.values())
    assert once <= sum(decoded.values()) <= 1.3 * once
    place = {i: n for n, i in enumerate(data["structure"].values)}
    steps = np.abs(np.diff([place[i] for i in first]))
    assert np.median(steps) > 300  # mixed, and over more than one chunk
    second = list(sampler)
    assert second != [place[i] for i in first] and sorted(second) == list(range(len(rows)))
    again = rows.sampler(seed=3)
    assert list(again) == [place[i] for i in first] and list(again) == second
    again.set_epoch(0)
    assert list(again) == [place[i] for i in first]


def test_torch_loads_any_array_and_a_sampler_of_an_empty_one(large: ma.Atlas) -> None:
    x = large.embeddings("wider", sets=["early"])[:5000]
    for array in (x + 1, (x + 1).compute()):
        rows = ma.views.to_torch(array)
        loader = DataLoader(rows, batch_size=1000, num_workers=1)
        found = torch.cat([batch["wider"] for batch in loader]).numpy()
        same(found, (x + 1).values)
    assert list(ma.views.to_torch(x[:0]).sampler()) == []


def test_torch_workers_read_a_url(vector_atlas: Path, tmp_path: Path) -> None:
    with FileServer(vector_atlas) as server:
        atlas = ma.open_atlas(server.url, cache=tmp_path)
        x = atlas.embeddings("wide", sets=["late"])
        rows = ma.views.to_torch(x)
        rows[0]  # the parent has a connection of its own before it forks
        loader = DataLoader(rows, batch_size=300, num_workers=2)
        found = torch.cat([batch["wide"] for batch in loader]).numpy()
    absent = vectors.missing("wide", "late")[:, None]
    same(found, np.where(absent, np.float32(np.nan), vectors.vectors("wide", "late")))


def test_damaged_chunks_are_not_served(vector_atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Files._read_local

    def flipped(self: Files, path: Path, *place: int | None) -> bytes:
        data = bytearray(read(self, path, *place))  # type: ignore[arg-type]
        if "/last/c/" in path.as_posix():
            data[len(data) // 3] ^= 1
        return bytes(data)

    rows = ma.views.to_torch(ma.open_atlas(vector_atlas).embeddings("wide"))
    monkeypatch.setattr(Files, "_read_local", flipped)
    with pytest.raises(ArchiveError, match="CRC-32C"):
        rows[0]


# --- datasets ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def no_bars() -> Iterator[None]:
    import datasets

    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.mark.parametrize("mapped", [False, True])
def test_datasets_hold_the_same_bits_and_null_where_missing(
    large: ma.Atlas, tmp_path: Path, mapped: bool
) -> None:
    x = large.embeddings("wide")
    found = ma.views.to_datasets(x, path=tmp_path / "wide.arrow" if mapped else None)
    assert found.column_names == [
        "structure_id", "set", "stratum", "kind", "missing_reason", "embedding",
    ]  # fmt: skip
    assert found.features["embedding"].length == 512 and len(found) == x.shape[0]
    same(table_of(found, "embedding"), x.values)
    assert found["structure_id"][:] == list(x["structure"].values)
    reasons = [r or None for r in x["reason"].values]
    assert found["missing_reason"][:] == reasons and vectors.REASON in reasons
    row = reasons.index(vectors.REASON)
    assert found[row]["embedding"] is None
    same(np.array(found[0]["embedding"], np.float32), x.values[0])
    picked = found.filter(lambda reason: reason is None, input_columns="missing_reason")
    assert len(picked) == reasons.count(None)
    assert bool(found.cache_files) is mapped
    if mapped:
        with pytest.raises(ArchiveError, match="exists; give a new file"):
            ma.views.to_datasets(x, path=tmp_path / "wide.arrow")
        assert [p.name for p in tmp_path.glob("*wide*")] == ["wide.arrow"]


def test_datasets_of_aligned_models_have_a_column_each(large: ma.Atlas, real: ma.Atlas) -> None:
    both = large.aligned(["wide", "wider"])
    found = ma.views.to_datasets(both)
    assert found.column_names == ["structure_id", "set", "stratum", "kind", "wide", "wider"]
    for model in both.data_vars:
        same(table_of(found, str(model)), both[model].values)
    short = ma.views.to_datasets(real.read("morgan", slice(0, 5)))
    assert short.column_names == ["structure_id", "set", "embedding"]
    assert len(ma.views.to_datasets(real.embeddings("morgan", where="n_atoms > 10**6"))) == 0


def test_a_failed_write_leaves_no_file(
    vector_atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = ma.open_atlas(vector_atlas).embeddings("wide")
    read = Files.read

    def cut_off(self: Files, path: str, *args: int, **options: str) -> bytes:
        if path.endswith("early/last/c/1/0"):
            raise ArchiveError(f"{path}: cut off")
        return read(self, path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Files, "read", cut_off)
    with pytest.raises(ArchiveError, match="cut off"):
        ma.views.to_datasets(x, path=tmp_path / "x.arrow")
    assert list(tmp_path.iterdir()) == []


def test_a_mapped_file_is_written_shard_by_shard(
    large: ma.Atlas, tmp_path: Path, decoded: Counter[tuple[str, int]]
) -> None:
    x = large.embeddings("wide")
    decoded.clear()
    ma.views.to_datasets(x, path=tmp_path / "wide.arrow")
    assert set(decoded.values()) == {1}
    with pa.OSFile(str(tmp_path / "wide.arrow")) as source:
        sizes = [b.num_rows for b in pa.ipc.open_stream(source)]
    assert sizes == [4096, 2904, 2000]
    assert [b - a for a, b in pairwise([0, 4096, 7000, 9000])] == sizes


# --- what is not installed -----------------------------------------------------------------------


@pytest.mark.parametrize(("package", "view"), [("torch", "to_torch"), ("datasets", "to_datasets")])
def test_an_absent_package_is_named_in_one_line(
    vector_atlas: Path, package: str, view: str
) -> None:
    script = f"""
import sys
sys.modules[{package!r}] = None
import matteratlas as ma
x = ma.open_atlas({str(vector_atlas)!r}).embeddings("spare")
assert ma.views.to_numpy(x).shape == (2000, 8) and len(ma.views.to_pandas(x)) == 2000
try:
    ma.views.{view}(x)
except ma.AtlasError as error:
    print(type(error).__name__, error.exit_code, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == (
        f"MissingExtraError 6 package '{package}' is not installed; "
        f"run: pip install 'matteratlas[{package}]'\n"
    )


def test_importing_the_package_or_its_views_loads_neither() -> None:
    script = (
        "import sys, matteratlas as ma; ma.views; assert 'views' in dir(ma);"
        "print([m for m in ('torch', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "[]\n"
