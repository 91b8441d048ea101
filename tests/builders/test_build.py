# SPDX-License-Identifier: Apache-2.0
"""Builds: resumable, isolated by model, never embedding a structure twice."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import matteratlas as ma
from matteratlas.builders import build as build_module
from matteratlas.builders import embed
from matteratlas.builders.adapters.base import Adapter, Missing
from matteratlas.builders.build import BuildReport, build
from matteratlas.registry import catalog
from matteratlas.registry.files import Files
from matteratlas.registry.index import seal, write_index
from matteratlas.registry.unit import open_unit
from matteratlas.registry.validate import validate
from matteratlas.registry.workers import cluster
from matteratlas.schemas.archive import LOCK
from matteratlas.schemas.errors import ArchiveError, CardError


def hashes(root: Path) -> dict[str, str]:
    """Every file of an atlas but the run records, which hold wall-clock times, and the lock."""
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file() and "runs" not in p.parts and p.name != LOCK
    }


def starter(root: Path, *models: str, **options: Any) -> BuildReport:
    """A build in this process, of the starter rows of ``elements`` unless told otherwise."""
    return build(
        root,
        models=list(models),
        **{"sets": ["elements"], "selection": "starter", "workers": 0, **options},
    )


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


def test_a_grown_set_is_the_one_built_at_once(tmp_path: Path) -> None:
    for selection in ("starter", "full"):
        starter(tmp_path / "grown", "mat2vec", "random-128", selection=selection)
    starter(tmp_path / "once", "mat2vec", "random-128", selection="full")
    assert hashes(tmp_path / "grown") == hashes(tmp_path / "once")


def test_a_grown_set_carries_nodes_and_energies(
    atlas_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "chgnet-0.3.0"
    before = rows_of(atlas_copy, model)
    counting = Counting(monkeypatch)
    (unit,) = starter(atlas_copy, model, selection="full").units
    after = rows_of(atlas_copy, model)
    assert unit.outcome == "built" and unit.carried == len(before) < len(after)
    assert len(counting.seen) == len(after) - len(before)
    embedded = 0
    for structure_id, (reason, energy, nodes) in before.items():
        kept_reason, kept_energy, kept_nodes = after[structure_id]
        assert kept_reason == reason
        np.testing.assert_array_equal([kept_energy], [energy])
        np.testing.assert_array_equal(kept_nodes, nodes)
        embedded += bool(not reason and np.isfinite(energy) and len(nodes))
    assert embedded > 10
    assert validate(atlas_copy, deep=True).ok


def rows_of(root: Path, model: str) -> dict[str, tuple[str, float, np.ndarray]]:
    """Reason, energy and node vectors by structure, read now."""
    unit = open_unit(Files(str(root)), model, "elements")
    array = unit.nodes(unit.record.default_layer)
    assert array is not None
    parts = np.split(array.read(), np.cumsum(unit.row_size())[:-1])
    columns = zip(unit.ids(), unit.reasons(), unit.energy(), parts, strict=True)
    return {str(i): (str(reason), float(energy), nodes) for i, reason, energy, nodes in columns}


def test_a_set_does_not_shrink_behind_ones_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "atlas"
    starter(path, "mat2vec", selection="full")
    before = hashes(path)
    with pytest.raises(
        ArchiveError, match=r"holds 71 .* of set 'elements' .* would drop \d+; build"
    ):
        starter(path, "mat2vec")
    assert hashes(path) == before
    # A card of another version says that the data themselves changed.
    sets = dict(catalog.structure_sets())
    sets["elements"] = sets["elements"].model_copy(update={"version": "99.0.0"})
    monkeypatch.setattr(catalog, "structure_sets", lambda folder=None: sets)
    (unit,) = starter(path, "mat2vec").units
    assert unit.outcome == "built" and unit.rows < 71
    assert unit.carried == unit.rows  # the structures are the same ones
    assert validate(path, deep=True).ok
    assert (
        open_unit(Files(str(path)), "mat2vec", "elements").record.structure_set_version == "99.0.0"
    )


def test_adding_a_model_touches_no_other_unit(atlas_copy: Path) -> None:
    before = hashes(atlas_copy)
    times = {p: (atlas_copy / p).stat().st_mtime_ns for p in before}
    starter(atlas_copy, "skipatom")
    after = hashes(atlas_copy)
    changed = {p for p in before if before[p] != after.get(p)}
    assert changed == {"atlas.json", "registry/models.parquet", "README.md"}
    units = [p for p in before if p.split("/")[0] in ("embeddings.zarr", "parquet")]
    assert all((atlas_copy / p).stat().st_mtime_ns == times[p] for p in units) and units
    assert any(p.startswith("embeddings.zarr/skipatom/") for p in after)
    assert set(ma.open_atlas(str(atlas_copy)).models["id"]) >= {"skipatom", "chgnet-0.3.0"}


def test_adding_a_set_touches_no_other_unit(atlas_copy: Path) -> None:
    before = hashes(atlas_copy)
    starter(atlas_copy, "mat2vec", sets=["prototypes"])
    after = hashes(atlas_copy)
    changed = {p for p in before if before[p] != after.get(p)}
    assert changed <= {
        "atlas.json",
        "embeddings.zarr/mat2vec/zarr.json",
        "README.md",
        "registry/sets.parquet",
        "registry/rejected.parquet",
        "registry/duplicates.parquet",
    }
    assert validate(atlas_copy).ok
    assert list(ma.open_atlas(atlas_copy).index["models"]["mat2vec"]["units"]) == [
        "elements", "g2", "prototypes",
    ]  # fmt: skip


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x01
    path.write_bytes(bytes(data))


def spoil(path: Path) -> None:
    path.write_text("{")


UNIT = "embeddings.zarr/mat2vec/g2"


@pytest.mark.parametrize(
    ("fault", "name", "embedded"),
    [
        # What is lost is embedded again; what is there still is carried over.
        (flip, f"{UNIT}/elements/c/0/0", True),
        (Path.unlink, f"{UNIT}/structure_id/c/0", True),
        (shutil.rmtree, UNIT, True),
        (spoil, f"{UNIT}/zarr.json", False),
        (flip, f"{UNIT}/zarr.json", False),
        (Path.unlink, f"{UNIT}/elements/zarr.json", False),
        (Path.unlink, "parquet/mat2vec/g2.parquet", False),
        (flip, "parquet/mat2vec/g2.parquet", False),
        # No unit is at fault.
        (flip, "embeddings.zarr/mat2vec/zarr.json", None),
        (Path.unlink, "embeddings.zarr/mat2vec/zarr.json", None),
        (flip, "structures/g2.parquet", None),
        (Path.unlink, "structures/elements.parquet", None),
        (spoil, "registry/models.parquet", None),
        (flip, "registry/rejected.parquet", None),
        (Path.unlink, "registry/sets.parquet", None),
    ],
)
def test_building_again_heals_damage_and_nothing_else(
    tmp_path: Path,
    small_build: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Any,
    name: str,
    embedded: bool | None,
) -> None:
    path = Path(shutil.copytree(small_build, tmp_path / "atlas"))
    layer = catalog.model("mat2vec").default_layer
    fault(path / name.replace("/elements/", f"/{layer}/"))
    assert not validate(path).ok
    counting = Counting(monkeypatch)
    report = starter(path, "mat2vec", "random-128", sets=["elements", "g2"])
    built = {(u.model, u.set) for u in report.units if u.outcome == "built"}
    assert built == (set() if embedded is None else {("mat2vec", "g2")})
    assert bool(counting.seen) == bool(embedded)
    assert hashes(path) == hashes(small_build)
    assert validate(path, deep=True).ok


@pytest.fixture(scope="module")
def small_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two quick models on two sets; read-only."""
    path = tmp_path_factory.mktemp("quick") / "atlas"
    report = starter(path, "mat2vec", "random-128", sets=["elements", "g2"])
    assert not report.failed
    return path


def test_a_build_that_does_not_resume_embeds_all_anew(
    tmp_path: Path, small_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(small_build, tmp_path / "atlas"))
    counting = Counting(monkeypatch)
    report = starter(path, "mat2vec", resume=False)
    assert [u.outcome for u in report.units] == ["built"]
    assert [u.carried for u in report.units] == [0]
    assert len(counting.seen) == report.units[0].rows
    assert hashes(path) == hashes(small_build)


@pytest.mark.parametrize(("precision", "bound"), [("float16", 2.0**-11), ("bitround-7", 2.0**-8)])
def test_stored_precision_is_a_choice(
    tmp_path: Path, small_build: Path, precision: str, bound: float
) -> None:
    path = Path(shutil.copytree(small_build, tmp_path / "atlas"))
    report = starter(path, "random-128", precision=precision)
    assert [(u.outcome, u.carried) for u in report.units] == [("built", 0)]
    exact = ma.open_atlas(small_build).embeddings("random-128", sets=["elements"]).values
    atlas = ma.open_atlas(path)
    coarse = atlas.embeddings("random-128", sets=["elements"])
    assert coarse.dtype == np.float32 and not np.array_equal(coarse.values, exact)
    assert (np.abs(coarse.values - exact) <= bound * np.abs(exact) + 1e-7).all()
    held = atlas.units.set_index(["model", "set"])["precision"]
    assert held["random-128", "elements"] == precision
    assert held["random-128", "g2"] == "float32"  # a unit at a time
    twin = pq.read_schema(path / "parquet" / "random-128" / "elements.parquet")
    wanted = pa.float16() if precision == "float16" else pa.float32()
    assert twin.field("embedding").type.value_type == wanted
    assert validate(path, deep=True).ok
    # Asked for again it is kept; asked for otherwise, made anew.
    assert [u.outcome for u in starter(path, "random-128", precision=precision).units] == ["kept"]
    assert [u.outcome for u in starter(path, "random-128").units] == ["built"]
    assert hashes(path) == hashes(small_build)


def test_an_unknown_precision_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="precision 'float8': give float32"):
        starter(tmp_path / "a", "mat2vec", precision="float8")
    assert not (tmp_path / "a").exists()


def test_a_release_is_not_built_into(tmp_path: Path, small_build: Path) -> None:
    path = Path(shutil.copytree(small_build, tmp_path / "atlas"))
    write_index(path, version="1.0.0")
    before = hashes(path)
    with pytest.raises(ArchiveError, match=r"is release 1\.0\.0, and releases never change"):
        starter(path, "skipatom")
    assert hashes(path) == before


def test_nodes_are_left_out_on_demand(tmp_path: Path) -> None:
    starter(tmp_path / "pooled", "chgnet-0.3.0", keep_nodes=False)
    unit = open_unit(Files(str(tmp_path / "pooled")), "chgnet-0.3.0", "elements")
    assert all(unit.nodes(layer) is None for layer in unit.record.layers)
    assert not unit.row_size().any() and unit.record.embedded > 10
    assert validate(tmp_path / "pooled", deep=True).ok


def test_rows_that_failed_are_tried_again_when_a_set_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure may have been the machine's; what the model cannot take stays as it is."""
    path = tmp_path / "atlas"
    real = Adapter.embed
    hit: list[str] = []

    def failing(adapter: Adapter, structures: Any) -> Any:
        for structure, row in zip(structures, real(adapter, structures), strict=True):
            if not hit:
                hit.append(structure.id)
            yield Missing("failed: planted") if structure.id in hit else row

    with monkeypatch.context() as patch:
        patch.setattr(Adapter, "embed", failing)
        (unit,) = starter(path, "mat2vec").units
    assert unit.missing == {"failed": 1} and len(hit) == 1
    counting = Counting(monkeypatch)
    (unit,) = starter(path, "mat2vec", selection="full").units
    assert hit[0] in counting.seen and unit.missing == {}


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
    with cluster(workers=1) as client:
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
    newer = seal({"format": "matteratlas", "format_version": "7.0"})
    (tmp_path / "c" / "atlas.json").write_text(json.dumps(newer))
    with pytest.raises(ArchiveError, match="newer"):
        build(tmp_path / "c", models=["mat2vec"], sets=["elements"], workers=0)
