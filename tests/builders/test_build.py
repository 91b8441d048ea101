# SPDX-License-Identifier: Apache-2.0
"""Builds: resumable, isolated by model, never embedding a structure twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import matteratlas as ma
from matteratlas.builders import build as build_module
from matteratlas.builders import embed
from matteratlas.builders.adapters.base import Adapter
from matteratlas.builders.build import build
from matteratlas.registry import catalog
from matteratlas.registry.validate import validate
from matteratlas.schemas.errors import ArchiveError, CardError


def hashes(root: Path) -> dict[str, str]:
    """Every file of an atlas but the run records, which hold wall-clock times."""
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file() and "runs" not in p.parts
    }


class Counting:
    """Counts the structures an adapter class is asked to embed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        original = Adapter.embed

        def embed_counted(adapter: Adapter, structures: Any) -> Any:
            self.seen += [s.id for s in structures]
            return original(adapter, structures)

        monkeypatch.setattr(Adapter, "embed", embed_counted)


def test_a_second_build_keeps_everything(
    built_atlas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(monkeypatch)
    before = hashes(built_atlas)
    models = list(ma.open_atlas(str(built_atlas)).models["id"])
    report = build(
        built_atlas, models=models, sets=["g2", "elements"], selection="starter", workers=0
    )
    assert {u.outcome for u in report.units} == {"kept"}
    assert counting.seen == [] and hashes(built_atlas) == before


def test_workers_give_the_same_bytes_as_one_process(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "models": ["mat2vec", "random-128"],
        "sets": ["g2", "elements"],
        "selection": "starter",
    }
    serial = build(tmp_path / "serial", **arguments, workers=0)
    parallel = build(tmp_path / "parallel", **arguments, workers=2)
    assert not serial.failed and not parallel.failed
    assert hashes(tmp_path / "serial") == hashes(tmp_path / "parallel")
    assert validate(tmp_path / "parallel", deep=True).ok


def test_growing_a_set_embeds_only_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "atlas"
    build(path, models=["mat2vec"], sets=["elements"], selection="starter", workers=0)
    small = ma.open_atlas(str(path)).embeddings("mat2vec").load()
    counting = Counting(monkeypatch)
    report = build(path, models=["mat2vec"], sets=["elements"], selection="full", workers=0)
    full = ma.open_atlas(str(path)).embeddings("mat2vec")
    assert report.units[0].carried == small.sizes["structure"]
    assert len(counting.seen) == full.sizes["structure"] - small.sizes["structure"] > 0
    assert not set(counting.seen) & set(small["structure"].to_numpy())
    again = full.sel(structure=small["structure"].to_numpy())
    np.testing.assert_array_equal(again.to_numpy(), small.to_numpy())
    assert validate(path, deep=True).ok


def test_adding_a_model_touches_no_other_unit(atlas_copy: Path) -> None:
    before = hashes(atlas_copy)
    build(atlas_copy, models=["skipatom"], sets=["elements"], selection="starter", workers=0)
    after = hashes(atlas_copy)
    changed = {p for p in before if before[p] != after.get(p)}
    # The registry's index is rewritten; structures are too, with the same bytes.
    assert changed <= {
        "registry/models.parquet",
        "registry/units.parquet",
        "registry/rejected.parquet",
        "registry/duplicates.parquet",
    }
    assert any(p.startswith("embeddings.zarr/skipatom/") for p in after)
    assert set(ma.open_atlas(str(atlas_copy)).models["id"]) >= {"skipatom", "chgnet-0.3.0"}


def test_a_structure_two_sets_hold_is_linked_and_embedded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plant the first five elements into a second set's table."""
    real = build_module.load_set
    elements = real(catalog.structure_set("elements"), selection="starter")

    def planted(card: Any, *, selection: Any) -> Any:
        loaded = real(card, selection=selection)
        if card.id != "prototypes":
            return loaded
        shared = elements.table.head(5).drop(
            columns=[c for c in elements.table if c.startswith("label_")]
        )
        shared = shared.assign(
            set="prototypes",
            source_id=[f"planted-{i}" for i in range(5)],
            stratum=loaded.table["stratum"].iloc[0],
        )
        table = pd.concat([loaded.table, shared], ignore_index=True)[list(loaded.table.columns)]
        return type(loaded)(
            loaded.card, loaded.selection, table, loaded.rejected, loaded.duplicates
        )

    monkeypatch.setattr(build_module, "load_set", planted)
    counting = Counting(monkeypatch)
    path = tmp_path / "atlas"
    report = build(
        path,
        models=["mat2vec"],
        sets=["elements", "prototypes"],
        selection="starter",
        workers=0,
    )
    assert report.linked == {"elements": 0, "prototypes": 5}
    assert len(counting.seen) == len(set(counting.seen))
    atlas = ma.open_atlas(str(path))
    linked = atlas.structures.query("linked == 'elements'")
    assert len(linked) == 5
    one = atlas.embeddings("mat2vec", sets=["elements"]).sel(structure=list(linked["id"]))
    two = atlas.embeddings("mat2vec", sets=["prototypes"]).sel(structure=list(linked["id"]))
    np.testing.assert_array_equal(one.to_numpy(), two.to_numpy())
    assert atlas.aligned(["mat2vec"]).sizes["structure"] == atlas.structures["id"].nunique()


def test_one_broken_model_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = embed.load_adapter

    def broken(card: Any, **options: Any) -> Adapter:
        if card.id == "mat2vec":
            raise RuntimeError("planted: no such weights")
        return real(card, **options)

    monkeypatch.setattr(embed, "load_adapter", broken)
    path = tmp_path / "atlas"
    report = build(
        path, models=["mat2vec", "skipatom"], sets=["elements"], selection="starter", workers=0
    )
    assert [u.model for u in report.failed] == ["mat2vec"]
    assert "planted: no such weights" in str(report.failed[0].error)
    assert validate(path).ok
    assert list(ma.open_atlas(str(path)).models["id"]) == ["skipatom"]
    monkeypatch.undo()
    report = build(
        path, models=["mat2vec", "skipatom"], sets=["elements"], selection="starter", workers=0
    )
    assert {u.model: u.outcome for u in report.units} == {"mat2vec": "built", "skipatom": "kept"}


def test_a_dying_worker_fails_its_model_only(tmp_path: Path) -> None:
    """A segmentation fault in one model's library must not take the build along."""
    with build_module._client(1, None) as client:
        assert client is not None

        def die() -> None:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)

        future = client.submit(die, pure=False)
        with pytest.raises(Exception, match="die"):
            future.result(timeout=60)
        assert client.submit(len, [1, 2]).result(timeout=60) == 2


def test_withheld_coordinates_do_not_ship(tmp_path: Path) -> None:
    card = catalog.structure_set("mlearn")
    assert not card.redistribute_coordinates
    path = tmp_path / "atlas"
    build(path, models=["mat2vec"], sets=["mlearn"], selection="starter", workers=0)
    table = pd.read_parquet(path / "structures" / "mlearn.parquet")
    assert table["positions"].isna().all() and table["cell"].isna().all()
    assert table["label_energy"].notna().all()
    assert ma.open_atlas(str(path)).embeddings("mat2vec").notnull().all()


def test_unknown_names_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="did you mean 'elements'"):
        build(tmp_path / "a", models=["mat2vec"], sets=["element"], workers=0)
    with pytest.raises(CardError, match="did you mean 'mat2vec'"):
        build(tmp_path / "a", models=["mat2vek"], sets=["elements"], workers=0)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("x")
    with pytest.raises(ArchiveError, match="not an atlas"):
        build(tmp_path / "b", models=["mat2vec"], sets=["elements"], workers=0)
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["thesis.tex"]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "atlas.json").write_text(json.dumps({"format_version": "7.0"}))
    with pytest.raises(ArchiveError, match="newer"):
        build(tmp_path / "c", models=["mat2vec"], sets=["elements"], workers=0)
