# SPDX-License-Identifier: Apache-2.0
"""Reading: lazy, aligned, honest about what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import matteratlas as ma
from matteratlas.builders.adapters.base import load_adapter
from matteratlas.registry import catalog
from matteratlas.registry.files import Files
from matteratlas.registry.index import file_entries, read_index, seal, write_json
from matteratlas.registry.tables import read_structures_table, table_version, write_table
from matteratlas.schemas.archive import ATLAS_FILE
from matteratlas.schemas.errors import ArchiveError, StructureError


@pytest.fixture(scope="module")
def atlas(built_atlas: Path) -> ma.Atlas:
    return ma.open_atlas(str(built_atlas))


def test_tables(atlas: ma.Atlas) -> None:
    assert set(atlas.models["id"]) == {"chgnet-0.3.0", "mat2vec", "morgan", "random-128"}
    assert set(atlas.structures["set"]) == {"g2", "elements"}
    assert "positions" not in atlas.structures.columns
    assert "label_atomization_energy" in atlas.structures.columns
    assert "4 models, 2 sets" in repr(atlas)


def test_embeddings_are_lazy_and_say_why_rows_are_missing(atlas: ma.Atlas) -> None:
    x = atlas.embeddings("morgan")
    assert isinstance(x.data, da.Array) and x.dims == ("structure", "feature")
    assert x.dtype == np.float32 and x.sizes["structure"] == len(atlas.structures)
    values = x.values
    absent = x["reason"].values != ""
    assert absent.any() and not absent.all()
    assert np.isnan(values[absent]).all() and np.isfinite(values[~absent]).all()
    assert set(x["reason"].values[x["set"].values == "elements"]) >= {
        "wrong_modality: graph2d model, structure is a crystal"
    }
    dropped = atlas.embeddings("morgan", missing="drop")
    np.testing.assert_array_equal(dropped.values, values[~absent])


def test_embeddings_equal_the_adapter(atlas: ma.Atlas) -> None:
    adapter = load_adapter(catalog.model("chgnet-0.3.0"))
    ids = list(atlas.structures.query("set == 'g2' and n_atoms > 3")["id"][:3])
    structures = [atlas.structure(i) for i in ids]
    x = atlas.embeddings("chgnet-0.3.0").sel(structure=ids).values
    for row, result in zip(x, adapter.embed(structures), strict=True):
        np.testing.assert_allclose(row, result.pooled[adapter.card.default_layer], rtol=1e-4)


def test_where_and_sets(atlas: ma.Atlas) -> None:
    x = atlas.embeddings("mat2vec", where="n_atoms <= 3", sets=["g2"])
    expected = atlas.structures.query("set == 'g2' and n_atoms <= 3")["id"]
    assert list(x["structure"].values) == list(expected)
    y = atlas.embeddings("mat2vec").sel(structure=list(expected))
    np.testing.assert_array_equal(x.values, y.values)
    assert atlas.embeddings("mat2vec", where="n_atoms > 10**6").shape[0] == 0


def test_aligned_has_common_rows_in_one_order(atlas: ma.Atlas) -> None:
    both = atlas.aligned(["chgnet-0.3.0", "morgan"])
    n = both.sizes["structure"]
    assert 20 < n < len(atlas.structures)
    for model in both.data_vars:
        assert np.isfinite(both[model].values).all()
        single = atlas.embeddings(str(model)).sel(structure=both["structure"].values)
        np.testing.assert_array_equal(both[model].values, single.values)


def test_nodes_pool_to_the_stored_vector(atlas: ma.Atlas) -> None:
    x = atlas.embeddings("chgnet-0.3.0", missing="drop")
    for i in (0, 7, x.sizes["structure"] - 1):
        structure_id = str(x["structure"].values[i])
        nodes = atlas.nodes("chgnet-0.3.0", structure_id)
        row = atlas.structures.set_index("id").loc[structure_id]
        assert nodes.sizes["node"] == row["n_atoms"]
        np.testing.assert_allclose(nodes.values.mean(axis=0), x.values[i], rtol=1e-4, atol=1e-5)


def edit_structures(root: Path, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Change a set's table as a later build would, which lists what it wrote."""
    path = root / "structures" / "g2.parquet"
    schema, version = pq.read_schema(path), table_version(path)
    write_table(edit(read_structures_table(path)), path, schema=schema, version=version)
    index = read_index(Files(str(root)))
    index["files"] |= file_entries(root, [path])
    write_json(seal(index), root / ATLAS_FILE)


def test_tables_are_held_against_the_index(atlas_copy: Path) -> None:
    path = atlas_copy / "structures" / "g2.parquet"
    write_table(read_structures_table(path).iloc[1:], path)
    with pytest.raises(ArchiveError, match=r"structures/g2\.parquet: sha256 differs"):
        _ = ma.open_atlas(atlas_copy).structures
    path.unlink()
    with pytest.raises(ArchiveError, match=r"structures/g2\.parquet: missing"):
        _ = ma.open_atlas(atlas_copy).structures


@pytest.mark.parametrize("model", ["chgnet-0.3.0", "mat2vec", "morgan", "random-128"])
def test_contiguous_rows_are_those_of_the_embeddings(atlas: ma.Atlas, model: str) -> None:
    every = atlas.embeddings(model).load()
    whole = atlas.read(model)
    assert isinstance(whole.data, np.ndarray) and whole.dtype == np.float32
    assert list(whole["structure"].values) == list(every["structure"].values)
    assert list(whole["set"].values) == list(every["set"].values)
    np.testing.assert_array_equal(whole.values, every.values)
    n = len(whole)
    edge = int((whole["set"] == whole["set"][0]).sum())  # the first set's rows come first
    assert 0 < edge < n
    for rows in (
        slice(0, 5),
        slice(edge - 3, edge + 4),
        slice(-7, None),
        slice(edge, edge),
        slice(n, n + 10),
        slice(9, 2),
    ):
        part = atlas.read(model, rows)
        np.testing.assert_array_equal(part.values, every.values[rows])
        assert list(part["structure"].values) == list(every["structure"].values[rows])
        assert part.shape[1] == every.shape[1]


def test_contiguous_rows_of_some_sets_and_layers(atlas: ma.Atlas) -> None:
    model = "chgnet-0.3.0"
    layers = list(atlas.index["models"][model]["layers"])
    assert len(layers) > 1
    for layer in layers:
        for sets in (["g2"], ["elements"], ["elements", "g2"]):
            one = atlas.read(model, slice(2, 30), layer=layer, sets=sets)
            two = atlas.embeddings(model, layer=layer, sets=sets)[2:30]
            assert list(one["structure"].values) == list(two["structure"].values)
            np.testing.assert_array_equal(one.values, two.values)
    with pytest.raises(ArchiveError, match="step -1; give contiguous rows"):
        atlas.read(model, slice(None, None, -1))
    with pytest.raises(ArchiveError, match="no layer 'x'"):
        atlas.read(model, layer="x")
    with pytest.raises(ArchiveError, match="no set 'qm9'"):
        atlas.read(model, sets=["qm9"])


def test_linked_structures_are_named_and_taken_once(atlas: ma.Atlas) -> None:
    table = atlas.structures
    assert set(table["linked"].dropna()) <= {"g2", "elements"}
    repeated = table["id"].duplicated()
    assert (table["linked"].notna() == repeated).all()
    assert atlas.aligned(["mat2vec"]).sizes["structure"] == table["id"].nunique()


def test_units_are_read_from_the_index_alone(atlas_copy: Path) -> None:
    """Opening and listing read one file, whatever else is there."""
    shutil.rmtree(atlas_copy / "embeddings.zarr")
    atlas = ma.open_atlas(atlas_copy)
    units = atlas.units.set_index(["model", "set"])
    assert len(units) == 8 and units.loc[("mat2vec", "g2"), "precision"] == "float32"
    assert (units["embedded"] <= units["rows"]).all()
    with pytest.raises(ArchiveError, match=r"mat2vec/zarr\.json: missing"):
        atlas.embeddings("mat2vec")


def test_a_model_that_lags_behind_says_so(atlas_copy: Path) -> None:
    def grow(table: pd.DataFrame) -> pd.DataFrame:
        extra = table.iloc[[0]].assign(id="ma1-" + "z" * 26, source_id="new")
        return pd.concat([table, extra])

    edit_structures(atlas_copy, grow)
    x = ma.open_atlas(str(atlas_copy)).embeddings("mat2vec", sets=["g2"])
    assert x["reason"].values[-1].startswith("not_embedded")
    assert np.isnan(x.values[-1]).all() and np.isfinite(x.values[:-1]).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda a: a.embeddings("chgnet"), "did you mean 'chgnet-0.3.0'"),
        (lambda a: a.embeddings("mat2vec", layer="last"), "no layer 'last'"),
        (lambda a: a.embeddings("mat2vec", sets=["qm9"]), "no set 'qm9'"),
        (lambda a: a.embeddings("mat2vec", where="stratam == 'x'"), "stratam"),
        (lambda a: a.structure("ma1-none"), "no structure"),
        (lambda a: a.nodes("mat2vec", a.structures["id"][0]), "structure level only"),
        (lambda a: a.table("scores/pairs.parquet"), "run: matteratlas analyze"),
    ],
)
def test_wrong_questions_get_one_line(atlas: ma.Atlas, call, says: str) -> None:
    with pytest.raises(ArchiveError, match=says) as caught:
        call(atlas)
    assert "\n" not in str(caught.value)


def test_withheld_coordinates_are_refused_by_name(atlas_copy: Path) -> None:
    edit_structures(
        atlas_copy,
        lambda t: t.assign(numbers=None, positions=None, cell=None, backbone=None),
    )
    atlas = ma.open_atlas(str(atlas_copy))
    with pytest.raises(StructureError, match="no coordinates in this atlas"):
        atlas.structure(atlas.structures["id"][0])


def test_not_an_atlas(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no atlas\.json"):
        ma.open_atlas(str(tmp_path))
    (tmp_path / "atlas.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(ArchiveError, match="not a matteratlas archive"):
        ma.open_atlas(str(tmp_path))
    (tmp_path / "atlas.json").write_text(
        json.dumps({"format": "matteratlas", "format_version": "9.1", "version": "1"})
    )
    with pytest.raises(ArchiveError, match="newer"):
        ma.open_atlas(str(tmp_path))
