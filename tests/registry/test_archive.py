# SPDX-License-Identifier: Apache-2.0
"""Reading: lazy, aligned, honest about what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import pytest

import matteratlas as ma
from matteratlas.builders.adapters.base import load_adapter
from matteratlas.registry import catalog
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


def test_a_model_that_lags_behind_says_so(atlas_copy: Path) -> None:
    path = atlas_copy / "structures/g2.parquet"
    table = pd.read_parquet(path)
    extra = table.iloc[[0]].assign(id="ma1-" + "z" * 26, source_id="new")
    pd.concat([table, extra]).to_parquet(path, index=False)
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
    path = atlas_copy / "structures/g2.parquet"
    table = pd.read_parquet(path)
    table[["numbers", "positions", "cell", "backbone"]] = None
    table.to_parquet(path, index=False)
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
