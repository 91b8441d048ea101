# SPDX-License-Identifier: Apache-2.0
"""Pools: the same structure by the same id from a set, an atlas, files or a table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from ase.build import bulk, molecule
from ase.io import write

from matteratlas.builders.build import build
from matteratlas.builders.pool import pool_of_files, take
from matteratlas.builders.structures.brought import bring
from matteratlas.builders.structures.sets import load_set
from matteratlas.registry import catalog
from matteratlas.registry.archive import open_atlas
from matteratlas.registry.validate import validate
from matteratlas.schemas.errors import ArchiveError, CardError, SourceError


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three crystals and a molecule in files, and empty folders for sets and cache."""
    monkeypatch.setenv("MATTERATLAS_SETS", str(tmp_path / "sets"))
    monkeypatch.setenv("MATTERATLAS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "own"
    (folder / "salts").mkdir(parents=True)
    for name, a in (("NaCl", 5.64), ("KCl", 6.29), ("LiF", 4.03)):
        write(folder / "salts" / f"{name}.cif", bulk(name, "rocksalt", a=a, cubic=True))
    write(folder / "water.xyz", molecule("H2O"))
    return folder


def test_a_brought_set_builds_opens_and_validates(own: Path, tmp_path: Path) -> None:
    made = bring(own, name="own", licence="CC0-1.0")
    root = tmp_path / "atlas"
    report = build(root, models=["mat2vec", "soap"], sets=["own"], workers=1)
    assert not report.failed and report.structures == {"own": 4}
    assert validate(root, deep=True).faults == []
    atlas = open_atlas(root)
    assert atlas.structures["source_id"].tolist() == load_set(made.card).table["source_id"].tolist()
    assert atlas.table("registry/sets.parquet")["id"].tolist() == ["own", "own"]
    assert atlas.embeddings("soap", missing="drop").shape[0] == 4
    write(own / "salts" / "RbF.cif", bulk("RbF", "rocksalt", a=5.6, cubic=True))
    assert bring(own, name="own", licence="CC0-1.0").card.version == "1.1.0"
    again = build(root, models=["mat2vec", "soap"], sets=["own"], workers=0)
    assert {u.model: (u.rows, u.carried) for u in again.units} == {
        "mat2vec": (5, 4), "soap": (5, 4),
    }  # fmt: skip
    assert validate(root, deep=True).faults == []


def test_without_a_licence_coordinates_stay_with_the_set(own: Path, tmp_path: Path) -> None:
    bring(own, name="own")
    root = tmp_path / "atlas"
    assert not build(root, models=["soap"], sets=["own"], workers=0).failed
    table = open_atlas(root).table("structures/own.parquet")
    assert table["positions"].isna().all() and table["licence"].isna().all()
    picked = take(str(root), table["id"].tolist())  # from the set, by the same ids
    assert [p.structure.id for p in picked] == table["id"].tolist()
    assert not any(p.redistribute for p in picked)


def test_every_pool_gives_the_same_structure(own: Path, tmp_path: Path) -> None:
    bring(own, name="own", licence="MIT")
    root = tmp_path / "atlas"
    build(root, models=["mat2vec"], sets=["own"], workers=0)
    table = load_set(catalog.structure_set("own")).table
    table.to_parquet(tmp_path / "made.parquet")
    ids = table["id"].tolist()[::-1]
    places = ["own", str(root), str(own), str(tmp_path / "made.parquet")]
    for place in places:
        picked = take(place, [*ids, ids[0]])
        assert [p.structure.id for p in picked] == ids
        assert [p.structure.formula for p in picked] == table["formula"].tolist()[::-1]
        assert {p.domains for p in picked} == {
            ("inorganic_crystal",), ("small_inorganic_molecule",),
        }  # fmt: skip
        with pytest.raises(SourceError, match="holds no structure 'ma1-none'"):
            take(place, ["ma1-none"])
    assert {p.licence for p in take(places[0], ids)} == {"MIT"}
    with pytest.raises(CardError, match="no set 'nowhere'"):
        take("nowhere", ids)


def test_a_table_with_forged_ids_is_no_pool(own: Path, tmp_path: Path) -> None:
    bring(own, name="own")
    table = load_set(catalog.structure_set("own")).table
    forged = table.assign(id=table["id"].to_numpy()[[1, 0, 2, 3]])
    forged.to_parquet(tmp_path / "forged.parquet")
    with pytest.raises(SourceError, match="another structure's id"):
        take(str(tmp_path / "forged.parquet"), forged["id"].tolist())
    pd.DataFrame({"id": ["x"]}).to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(SourceError, match="not a table of structures"):
        take(str(tmp_path / "bare.parquet"), ["x"])
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(SourceError, match="not a table of structures"):
        take(str(tmp_path / "text.parquet"), ["x"])


def test_files_are_embedded_once(own: Path) -> None:
    first = pool_of_files(own)
    first.embed(["mat2vec"])
    stamp = (first.root / "parquet" / "mat2vec" / f"{first.set_id}.parquet").stat().st_mtime_ns
    again = pool_of_files(own)
    again.embed(["mat2vec"])
    assert again.root == first.root and again.structures.equals(first.structures)
    unit = again.root / "parquet" / "mat2vec" / f"{again.set_id}.parquet"
    assert unit.stat().st_mtime_ns == stamp
    assert first.set_id not in catalog.structure_sets()  # the scratch set is nobody's else
    write(own / "more.cif", bulk("Si", cubic=True))
    assert pool_of_files(own).root != first.root
    with pytest.raises(ArchiveError, match="no model 'soap'"):
        open_atlas(again.root).unit("soap", again.set_id)


def test_a_model_that_cannot_be_run_is_told(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of_files(own)
    monkeypatch.setattr("matteratlas.builders.embed.load_adapter", lambda *_, **__: 1 / 0)
    with pytest.raises(ArchiveError, match="mat2vec cannot be run here: ZeroDivisionError"):
        pool.embed(["mat2vec"])


def test_only_the_newest_pools_are_kept(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matteratlas.builders.pool.KEPT", 1)
    first = pool_of_files(own / "salts")
    second = pool_of_files(own / "water.xyz")
    assert second.root.parent.exists() and not first.root.parent.exists()
