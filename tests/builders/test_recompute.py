# SPDX-License-Identifier: Apache-2.0
"""Recomputation: what the models said is found again, and a planted row is named."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matteratlas.builders import recompute as module
from matteratlas.builders.adapters.base import Adapter, Embedded, Missing
from matteratlas.builders.build import build
from matteratlas.builders.encode import stored
from matteratlas.builders.recompute import recompute, rounding
from matteratlas.builders.writer import UnitWriter
from matteratlas.registry import catalog
from matteratlas.registry.files import Files
from matteratlas.registry.index import write_index
from matteratlas.registry.tables import read_structures_table, write_table
from matteratlas.registry.unit import open_unit
from matteratlas.registry.validate import validate
from matteratlas.schemas.archive import Precision
from matteratlas.schemas.errors import ArchiveError
from matteratlas.schemas.structure_sets import structure_arrow_schema

#: More rows than any starter set holds: everything is looked at.
ALL = 1000

Alter = Callable[[Embedded | Missing], Embedded | Missing]


def rewrite(root: Path, model: str, set_id: str, row: int, alter: Alter) -> str:
    """Write a unit again through the real writer with one row altered; returns the row's id."""
    unit = open_unit(Files(str(root)), model, set_id)
    card, record = catalog.model(model), unit.record
    ids, reasons, energy = unit.ids(), unit.reasons(), unit.energy()
    offsets = np.concatenate([[0], np.cumsum(unit.row_size())])
    pooled = {name: unit.vectors(name).read() for name in record.layers}
    nodes = {n: a.read() for n in record.layers if (a := unit.nodes(n)) is not None}
    with UnitWriter(
        root,
        card,
        catalog.structure_set(set_id),
        fingerprint=record.fingerprint,
        model_fingerprint=record.model_fingerprint,
        build_version=record.build_version,
        keep_nodes=bool(nodes),
        precision=record.precision,
    ) as writer:
        for i, name in enumerate(ids):
            result: Embedded | Missing = Missing(str(reasons[i]))
            if not reasons[i]:
                result = Embedded(
                    pooled={n: v[i] for n, v in pooled.items()},
                    nodes={n: v[offsets[i] : offsets[i + 1]] for n, v in nodes.items()},
                    energy=None if np.isnan(energy[i]) else float(energy[i]),
                )
            writer.append(name, alter(result) if i == row else result)
        writer.finish()
    write_index(root)
    assert validate(root, deep=True).ok  # nothing but the model can tell
    return str(ids[row])


def scaled(what: str, layer: str, factor: float) -> Alter:
    """An altered row: one layer's pooled or node vectors are ``factor`` times what they were."""

    def alter(row: Embedded | Missing) -> Embedded:
        assert isinstance(row, Embedded)
        values = {**getattr(row, what)}
        values[layer] = (values[layer] * factor).astype(np.float32)
        return dataclasses.replace(row, **{what: values})

    return alter


def test_what_the_models_said_is_found_again(built_atlas: Path) -> None:
    result = recompute(built_atlas, sample=3)
    assert result.ok and not result.unchecked, result.text()
    assert result.units == 8 and result.rows == 3 * 6 + 0 + 3 and result.missing > 0
    assert set(result.worst) == {"chgnet-0.3.0", "mat2vec", "morgan", "random-128"}
    assert max(result.worst.values()) < 1e-5
    assert result.summary()["ok"] is True and "as stored" in result.text()


LAST = catalog.model("chgnet-0.3.0").default_layer
FIRST = next(la.name for la in catalog.model("chgnet-0.3.0").layers if la.name != LAST)


@pytest.mark.parametrize(
    ("alter", "array"),
    [
        (scaled("pooled", LAST, 1.001), LAST),
        (scaled("pooled", FIRST, -1.0), FIRST),
        (scaled("nodes", FIRST, 1.001), f"{FIRST}.nodes"),
        (lambda row: dataclasses.replace(row, energy=row.energy + 0.01), "energy"),
        (lambda row: dataclasses.replace(row, energy=None), "energy"),
        (lambda row: Missing("failed: planted"), "reason"),
        (lambda row: Missing("too_large: 3 > 2"), "reason"),
    ],
    ids=["pooled", "other layer", "nodes", "energy", "no energy", "failed", "excluded"],
)
def test_a_planted_row_is_found_by_name(atlas_copy: Path, alter: Alter, array: str) -> None:
    planted = rewrite(atlas_copy, "chgnet-0.3.0", "elements", 11, alter)
    result = recompute(atlas_copy, sample=ALL, models=["chgnet-0.3.0"], sets=["elements"])
    assert not result.ok and len(result.faults) == 1, result.text()
    where = f"embeddings.zarr/chgnet-0.3.0/elements/{array}, row 11 ('{planted}'): "
    assert result.faults[0].startswith(where)
    assert "1 faults" in result.text()


def test_a_missing_row_must_be_missing_for_the_stored_reason(atlas_copy: Path) -> None:
    unit = open_unit(Files(str(atlas_copy)), "morgan", "elements")
    row = int(np.flatnonzero(unit.reasons() != "")[0])
    planted = rewrite(atlas_copy, "morgan", "elements", row, lambda _: Missing("too_large: 9 > 1"))
    (fault,) = recompute(atlas_copy, sample=ALL, models=["morgan"], sets=["elements"]).faults
    assert f"elements/reason, row {row} ('{planted}'): stored: too_large: 9 > 1; anew: " in fault
    assert "wrong_modality" in fault


def test_a_failure_may_be_worded_otherwise(
    atlas_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(atlas_copy, "mat2vec", "elements", 0, lambda _: Missing("failed: in another way"))
    real = Adapter.embed

    def failing(adapter: Adapter, structures: Any) -> Any:
        broken = open_unit(Files(str(atlas_copy)), "mat2vec", "elements").ids(0, 1)[0]
        return [
            Missing("failed: like this") if s.id == broken else r
            for s, r in zip(structures, real(adapter, structures), strict=True)
        ]

    only: dict[str, Any] = {"sample": ALL, "models": ["mat2vec"], "sets": ["elements"]}
    assert not recompute(atlas_copy, **only).ok  # the model embeds it
    monkeypatch.setattr(Adapter, "embed", failing)
    assert recompute(atlas_copy, **only).ok


@pytest.mark.parametrize("precision", ["float16", "bitround-7"])
def test_rounding_of_the_stored_precision_is_no_fault(tmp_path: Path, precision: str) -> None:
    path = tmp_path / "atlas"
    build(
        path, models=["mat2vec", "soap"], sets=["elements"], selection="starter", workers=0,
        precision=precision,
    )  # fmt: skip
    result = recompute(path, sample=ALL, tolerance=1e-7)
    assert result.ok and result.rows > 80, result.text()
    assert min(result.worst.values()) > 1e-5  # it did round
    rewrite(path, "mat2vec", "elements", 5, scaled("pooled", "elements", 1.02))
    assert len(recompute(path, sample=ALL, tolerance=1e-7).faults) == 1


@given(
    hnp.arrays(np.float32, (2, 3), elements=st.floats(-6e4, 6e4, width=32)),
    st.sampled_from(["float32", "float16", "bitround-1", "bitround-7", "bitround-13"]),
)
def test_rounding_bounds_what_storing_changes(values: np.ndarray, name: str) -> None:
    precision = Precision.parse(name)
    relative, absolute = rounding(precision)
    after = stored(values, precision, where="x").astype(np.float64)
    limit = np.abs(values.astype(np.float64)) * relative + absolute
    if precision.quantization:  # float32's own smallest numbers lose bits too
        limit += 2.0**-127
    assert (np.abs(after - values) <= limit).all()


def test_withheld_coordinates_come_from_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "atlas"
    build(path, models=["mat2vec", "soap"], sets=["mlearn"], selection="starter", workers=0)
    result = recompute(path, sample=5)
    assert result.ok and result.rows == 10 and not result.unchecked, result.text()
    card = catalog.structure_set("mlearn").model_copy(update={"version": "9.0.0"})
    monkeypatch.setattr(catalog, "structure_set", lambda _: card)
    result = recompute(path, sample=5)
    assert set(result.unchecked) == {"mat2vec/mlearn", "soap/mlearn"} and result.rows == 0
    assert "has no coordinates here" in result.text() and "nothing was checked" in result.text()


def test_a_model_that_cannot_be_run_is_told(
    built_atlas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [m for m in sys.modules if m.startswith("chgnet.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "chgnet", None)
    result = recompute(built_atlas, sample=2)
    assert set(result.unchecked) == {"chgnet-0.3.0"}
    assert "package 'chgnet" in result.text() and "pip install" in result.text()
    assert result.ok and set(result.worst) == {"mat2vec", "morgan", "random-128"}


def test_a_card_of_another_model_is_told(
    built_atlas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = catalog.model("mat2vec")
    layer = real.layers[0].model_copy(update={"dim": 7})
    for changes, said in (
        ({"version": "0.0.9"}, "version 0.0.9"),
        ({"layers": [layer]}, "layers are not those"),
    ):
        card = real.model_copy(update=changes)
        monkeypatch.setattr(catalog, "model", lambda _, card=card: card)
        result = recompute(built_atlas, models=["mat2vec"])
        assert said in result.unchecked["mat2vec"] and not result.units


def test_the_draw_depends_on_the_seed_and_the_unit_only(
    built_atlas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = Adapter.embed

    def watched(adapter: Adapter, structures: Any) -> Any:
        seen.extend(sorted(f"{adapter.card.id} {s.id}" for s in structures))
        return real(adapter, structures)

    monkeypatch.setattr(Adapter, "embed", watched)

    def drawn(**options: Any) -> list[str]:
        seen.clear()
        assert recompute(built_atlas, sample=4, **options).ok
        return [s for s in seen if s.startswith("mat2vec ")]

    first = drawn(models=["mat2vec", "random-128"])
    assert len(first) == 8 and drawn(models=["mat2vec"], seed=0) == first
    assert drawn(models=["mat2vec"], seed=1) != first
    assert set(drawn(models=["mat2vec"], sets=["g2"])) < set(first)


def test_an_edited_structure_is_named(atlas_copy: Path) -> None:
    path = atlas_copy / "structures" / "g2.parquet"
    table = read_structures_table(path)
    moved = np.array(table.loc[3, "positions"], dtype=float)
    moved[0] += 0.2
    table.at[3, "positions"] = list(moved)
    write_table(table, path, schema=structure_arrow_schema(catalog.structure_set("g2")))
    write_index(atlas_copy)
    assert validate(atlas_copy, deep=True).ok
    (fault,) = recompute(atlas_copy, sample=ALL, models=["mat2vec"], sets=["g2"]).faults
    assert f"('{table.loc[3, 'id']}')" in fault and "not what its id says" in fault


def test_damaged_data_is_a_fault_not_an_end(atlas_copy: Path) -> None:
    shard = next(
        (atlas_copy / "embeddings.zarr" / "mat2vec" / "g2" / "elements" / "c").rglob("0/0")
    )
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(bytes(data))
    result = recompute(atlas_copy, sample=2, models=["mat2vec", "random-128"])
    assert len(result.faults) == 1 and "mat2vec/g2/elements" in result.faults[0]
    assert "random-128" in result.worst


def test_unknown_names_and_no_sample_are_refused(built_atlas: Path) -> None:
    for options, said in (
        ({"models": ["nothing"]}, "no model 'nothing'"),
        ({"sets": ["nothing"]}, "no set 'nothing'"),
        ({"sample": 0}, "at least one row"),
    ):
        with pytest.raises(ArchiveError, match=said):
            recompute(built_atlas, **options)  # type: ignore[arg-type]


def test_limits_are_those_of_the_adapters_tests() -> None:
    assert module.TOLERANCE == 1e-4
