# SPDX-License-Identifier: Apache-2.0
"""What ``datasets`` reads of an atlas, from its folder and from a Hub, is what Zarr holds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vectors
from huggingface_hub import HfApi
from servers.hub import HubServer
from servers.hub_client import connected

import matteratlas as ma
from matteratlas.analysis.analyze import analyze
from matteratlas.builders.dataset_card import write_card
from matteratlas.builders.encode import write_twin
from matteratlas.builders.release import release
from matteratlas.builders.spool import Rows, Spool
from matteratlas.schemas.archive import Precision

REPO, TAG = "matter/atlas", "v1.0.0"
#: ``load(config, **options)`` from one place, at one version.
Load = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A Hub for the whole module; caches of ``datasets`` are in its home."""
    with HubServer() as server, connected(server, home=tmp_path_factory.mktemp("home")):
        yield server


@pytest.fixture(scope="module")
def released(built_atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of the small real atlas, with scores."""
    folder = tmp_path_factory.mktemp("face")
    shutil.copytree(built_atlas, folder / "atlas")
    analyze(folder / "atlas", permutations=20)
    return release(folder / "atlas", out=folder / "releases").path


@pytest.fixture(scope="module")
def large(vector_atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of several row groups and three precisions, with its card; never released."""
    root = tmp_path_factory.mktemp("face") / "large"
    shutil.copytree(vector_atlas, root, copy_function=os.link)
    write_card(root)
    return root


@pytest.fixture(scope="module")
def pushed(hub: HubServer, released: Path) -> str:
    """The release on the Hub, tagged; ``main`` has moved on."""
    api = HfApi()
    api.create_repo(REPO, repo_type="dataset")
    api.upload_folder(repo_id=REPO, repo_type="dataset", folder_path=released)
    api.create_tag(REPO, repo_type="dataset", tag=TAG)
    for path in ("README.md", "parquet/mat2vec/g2.parquet"):
        api.delete_file(path, REPO, repo_type="dataset")
    return REPO


@pytest.fixture(params=["folder", "hub"])
def load(request: pytest.FixtureRequest, released: Path) -> Load:
    """``load_dataset`` of the release, from its folder and from the tag on the Hub."""
    if request.param == "folder":
        return partial(datasets.load_dataset, str(released))
    return partial(datasets.load_dataset, request.getfixturevalue("pushed"), revision=TAG)


def tables(dataset: Any) -> pa.Table:
    """All rows of a dataset, streamed or not, as Arrow."""
    if isinstance(dataset, datasets.IterableDataset):
        parts = dataset.with_format("arrow").iter(batch_size=1000)
        return pa.concat_tables([part.combine_chunks() for part in parts])
    return dataset.with_format("arrow")[:]


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """(row, feature) in the stored dtype, NaN where null."""
    cells = pa.concat_arrays(column.chunks)
    flat = cells.flatten().to_numpy(zero_copy_only=False)
    out = np.full((len(cells), cells.type.list_size), np.nan, flat.dtype)
    out[cells.is_valid().to_numpy(zero_copy_only=False)] = flat.reshape(-1, cells.type.list_size)
    return out


def same(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal to the bit, NaN where NaN."""
    absent = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), absent)
    np.testing.assert_array_equal(
        found.astype(np.float32).view(np.uint32)[~absent], expected.view(np.uint32)[~absent]
    )


def check_split(table: pa.Table, atlas: ma.Atlas, model: str, set_id: str) -> int:
    """The split is the unit, in its order, every layer; returns how many rows are missing."""
    layers = atlas.index["models"][model]["layers"]
    default = atlas.index["models"][model]["default_layer"]
    rows = atlas.rows(model, sets=[set_id])
    assert table["structure_id"].to_pylist() == list(rows["id"])
    assert table["missing_reason"].to_pylist() == [r or None for r in rows["reason"]]
    found = table["energy"].to_pandas().to_numpy(dtype=float, na_value=np.nan)
    np.testing.assert_array_equal(found, rows["energy"].to_numpy())
    for layer in layers:
        column = "embedding" if layer == default else f"embedding.{layer}"
        expected = atlas.embeddings(model, layer=layer, sets=[set_id]).values
        same(matrix(table[column]), expected)
        absent = (rows["reason"] != "").tolist()
        assert [not valid for valid in table[column].is_valid().to_pylist()] == absent
    assert len(table.column_names) == 3 + len(layers)
    return int(sum(absent))


@pytest.mark.parametrize("streaming", [False, True])
def test_models_are_bit_equal_with_zarr(load: Load, released: Path, streaming: bool) -> None:
    atlas = ma.open_atlas(released)
    missing = 0
    for model in atlas.index["models"]:
        splits = load(model, streaming=streaming)
        assert set(splits) == {"elements", "g2"}
        for set_id, split in splits.items():
            missing += check_split(tables(split), atlas, model, set_id)
    assert missing > 10


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", vectors.MODELS)
def test_every_precision_is_bit_equal_with_zarr(large: Path, model: str, streaming: bool) -> None:
    atlas = ma.open_atlas(large)
    precision = vectors.MODELS[model][1]
    for set_id, unit in atlas.index["models"][model]["units"].items():
        split = datasets.load_dataset(str(large), model, split=set_id, streaming=streaming)
        stored = "float16" if precision == "float16" else "float32"
        assert split.features["embedding"].feature.dtype == stored
        assert split.features["embedding"].length == vectors.MODELS[model][0]
        assert unit["precision"] == precision
        absent = check_split(tables(split), atlas, model, set_id)
        assert absent == vectors.missing(model, set_id).sum()


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_in_python_say_why_they_are_missing(load: Load, streaming: bool) -> None:
    rows = list(load("morgan", split="elements", streaming=streaming))
    crystals = [row for row in rows if row["missing_reason"] is not None]
    assert crystals and all(row["embedding"] is None for row in crystals)
    assert {row["missing_reason"] for row in crystals} == {
        "wrong_modality: graph2d model, structure is a crystal"
    }
    held = next(row for row in load("morgan", split="g2", streaming=streaming) if row["embedding"])
    assert held["missing_reason"] is None and set(held["embedding"]) == {0.0, 1.0}


@pytest.mark.parametrize("streaming", [False, True])
def test_structures_have_a_split_a_set(load: Load, released: Path, streaming: bool) -> None:
    everything = load("structures", streaming=streaming)
    assert set(everything) == {"elements", "g2"}
    names = None
    for set_id, split in everything.items():
        stored = pq.read_table(released / f"structures/{set_id}.parquet")
        table = tables(split)
        assert names in (None, table.column_names)
        names = table.column_names
        assert "positions" in names and not [n for n in names if n.startswith("label_")]
        assert table.to_pylist() == stored.select(names).to_pylist()
        (own,) = load(f"structures-{set_id}", streaming=streaming).values()
        assert tables(own).to_pylist() == stored.to_pylist()
    assert "label_atomization_energy" in tables(load("structures-g2", split="g2")).column_names


@pytest.mark.parametrize("streaming", [False, True])
def test_scores_are_the_atlas_s_tables(load: Load, released: Path, streaming: bool) -> None:
    atlas = ma.open_atlas(released)
    paths = sorted((released / "scores").glob("*.parquet"))
    assert len(paths) > 3
    read = 0
    for path in paths:
        if not pq.read_metadata(path).num_rows:
            continue
        name = "scores" if path.stem == "pairs" else f"scores-{path.stem}"
        ((split, found),) = load(name, streaming=streaming).items()
        assert split == path.stem.replace("-", "_")
        pd.testing.assert_frame_equal(
            tables(found).to_pandas(), atlas.table(f"scores/{path.name}"), check_dtype=False
        )
        read += 1
    assert read > 3


def test_configurations_are_complete(load: Load, released: Path) -> None:
    place, options = load.args[0], {k: v for k, v in load.keywords.items() if k == "revision"}
    names = datasets.get_dataset_config_names(place, **options)
    tables = [p.stem for p in (released / "scores").glob("*.parquet") if _rows(p)]
    assert sorted(names) == sorted(
        [
            *ma.open_atlas(released).models["id"],
            *("structures", "structures-elements", "structures-g2"),
            *("scores" if t == "pairs" else f"scores-{t}" for t in tables),
        ]
    )
    assert datasets.get_dataset_default_config_name(place, **options) == "structures"
    for name in names:
        assert datasets.get_dataset_split_names(place, name, **options)


def _rows(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)


def test_a_tag_is_read_while_main_has_moved_on(pushed: str, released: Path) -> None:
    with pytest.raises(ValueError, match="BuilderConfig 'mat2vec' not found"):
        datasets.load_dataset(pushed, "mat2vec")
    atlas = ma.open_atlas(f"hf://datasets/{pushed}@{TAG}", cache=False)
    assert atlas.version == "1.0.0"
    split = datasets.load_dataset(pushed, "mat2vec", split="g2", revision=TAG, streaming=True)
    check_split(tables(split), atlas, "mat2vec", "g2")


def test_an_unreleased_folder_loads_once_it_has_a_card(large: Path) -> None:
    names = datasets.get_dataset_config_names(str(large))
    assert {*vectors.MODELS, "structures", "structures-early", "structures-late"} == set(names)
    some = datasets.load_dataset(str(large), "structures", split="early", streaming=True)
    assert [row["id"] for row in some.skip(4090).take(10)] == vectors.ids("early")[4090:4100]


def test_columns_can_be_chosen_before_they_are_read(load: Load, released: Path) -> None:
    atlas = ma.open_atlas(released)
    expected = atlas.embeddings("chgnet-0.3.0", layer="conv_1", sets=["g2"]).values
    for streaming in (False, True):
        names = ["structure_id", "embedding.conv_1"]
        split = load("chgnet-0.3.0", split="g2", streaming=streaming, columns=names)
        table = tables(split)
        assert table.column_names == names
        same(matrix(table["embedding.conv_1"]), expected)


# --- the layout that viewers and the Hub's storage want ------------------------------------------


def test_every_column_of_every_table_has_a_page_index_and_checksums(
    released: Path, large: Path
) -> None:
    paths = [p for root in (released, large) for p in root.rglob("*.parquet")]
    seen = 0
    for path in paths:
        found = pq.read_metadata(path)
        # A column in which all is null may have no type of its own, and then no bounds.
        untyped = {f.name for f in pq.read_schema(path) if "null" in str(f.type)}
        for group in range(found.num_row_groups if found.num_rows else 0):
            for column in range(found.num_columns):
                chunk = found.row_group(group).column(column)
                assert chunk.has_offset_index, f"{path.name}: {chunk.path_in_schema}"
                if chunk.path_in_schema.split(".list")[0] not in untyped:
                    assert chunk.has_column_index, f"{path.name}: {chunk.path_in_schema}"
                    seen += 1
        pq.ParquetFile(path, page_checksum_verification=True).read()
    assert len(paths) > 25 and seen > 300


def test_row_groups_are_small_enough_to_page_through(large: Path) -> None:
    found = pq.read_metadata(large / "parquet/wide/early.parquet")
    assert [found.row_group(i).num_rows for i in range(found.num_row_groups)] == [4096, 2904]


def test_a_row_put_in_leaves_most_bytes_as_they_were(tmp_path: Path) -> None:
    """Content-defined chunking: pages before and after the change are the same bytes."""

    def twin(name: str, values: np.ndarray, ids: list[str]) -> bytes:
        spool, rows = Spool(tmp_path / f"{name}.spool", values.shape[1]), Rows()
        for structure_id in ids:
            rows.append(structure_id, "", np.nan, 0)
        spool.append(values)
        spool.close()
        path = tmp_path / f"{name}.parquet"
        write_twin(
            path,
            name=name,
            rows=rows,
            pooled={"last": spool},
            dims={"last": values.shape[1]},
            default="last",
            precision=Precision(),
        )
        return path.read_bytes()

    values, ids = vectors.vectors("wide", "early")[:4000], vectors.ids("early")[:4000]
    extra = np.full((1, 512), 0.5, np.float32)
    before = twin("before", values, ids)
    after = twin("after", np.vstack([values[:50], extra, values[50:]]), [
        *ids[:50], "ma1-" + "z" * 26, *ids[50:],
    ])  # fmt: skip
    places = np.linspace(0, len(after) - 64, 200).astype(int)
    assert np.mean([after[i : i + 64] in before for i in places]) > 0.7  # 0.01 in fixed pages
