# SPDX-License-Identifier: Apache-2.0
"""The loading path, on a planted set whose faults are known; real sets have tests of their own."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from matteratlas.builders.structures import sets
from matteratlas.builders.structures.canonical import structure_id
from matteratlas.builders.structures.fingerprint import module_closure, set_fingerprint
from matteratlas.builders.structures.sets import iter_structures, load_set
from matteratlas.registry.catalog import structure_set
from matteratlas.registry.tables import link_sets
from matteratlas.schemas.cards import StructureSetCard
from matteratlas.schemas.errors import CardError, SourceError
from matteratlas.schemas.structures import STRUCTURE_TABLE, Structure

LOADER = '''
"""A set of argon pairs: ROWS says which, RUNS counts how often it was asked."""
import numpy as np
from matteratlas.schemas.structures import Structure

RUNS = []
ROWS = []


def load(card):
    RUNS.append(card.id)
    for source_id, stratum, distance, extra in ROWS:
        yield Structure(
            source_id=source_id,
            kind="molecule",
            stratum=stratum,
            numbers=np.array([18, 18]),
            positions=np.array([[0.0, 0.0, 0.0], [0.0, 0.0, distance]]),
            **extra,
        )
'''


def planted_card(**changes: Any) -> StructureSetCard:
    label = {"description": "d", "unit": "eV", "level_of_theory": "t"}
    stratum = {"description": "d", "domains": ["organic_molecule"]}
    card = {
        "id": "planted",
        "name": "Planted",
        "version": "1.0.0",
        "kinds": ["molecule"],
        "description": "d",
        "loader": "planted:load",
        "sources": [{"package": "p==1", "kind": "wheel", "path": "data", "sha256": None}],
        "selection": "s",
        "strata": {
            "near": {**stratum, "count": 12, "starter": 5},
            "far": {**stratum, "count": 8, "starter": 2},
        },
        "elements": ["Ar"],
        "labels": {
            "energy": {**label, "shape": "scalar"},
            "forces": {**label, "shape": "per_atom_vector"},
            "stress": {**label, "shape": "tensor"},
        },
        "licence": "CC0-1.0",
        "licence_note": "n",
        "redistribute_coordinates": True,
        "citation": "c",
    }
    return StructureSetCard.model_validate({**card, **changes})


def good_rows() -> list[tuple[str, str, float, dict[str, Any]]]:
    rows = []
    for i in range(20):
        labels = {
            "energy": float(i),
            "forces": np.arange(6.0).reshape(2, 3) + i,
            "stress": np.arange(9.0).reshape(3, 3) - i,
        }
        rows.append((f"r{i:02d}", "near" if i < 12 else "far", 3.0 + i / 10, {"labels": labels}))
    return rows


@dataclass
class Planted:
    module: ModuleType
    path: Path

    @property
    def runs(self) -> int:
        return len(self.module.RUNS)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planted]:
    """A loader module of twenty good rows, and a cache of its own."""
    monkeypatch.setenv("MATTERATLAS_CACHE", str(tmp_path / "cache"))
    name = f"{sets.__package__}.planted"
    path = tmp_path / "planted.py"
    path.write_text(LOADER, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    module.ROWS[:] = good_rows()
    yield Planted(module, path)


def test_a_set_loads_with_ids_provenance_and_labels(planted):
    card = planted_card()
    found = load_set(card)
    assert len(found) == 20
    assert found.rejected.empty and found.duplicates.empty
    STRUCTURE_TABLE.validate(found.table)
    assert set(found.table["source"]) == {"p==1:data"}
    assert set(found.table["licence"]) == {"CC0-1.0"}
    assert set(found.table["set"]) == {"planted"}
    assert "linked" not in found.table  # depends on which sets stand side by side
    assert found.table["description"].str.startswith("A molecule with formula Ar2.").all()
    first = found.structures[0]
    assert first.id == structure_id(first) == found.table["id"].iloc[0]
    assert first.labels["energy"] == 0.0
    np.testing.assert_array_equal(first.labels["forces"], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(first.labels["stress"], np.arange(9.0).reshape(3, 3))


def test_structures_come_back_from_the_cache_as_they_went_in(planted):
    card = planted_card()
    fresh, cached = load_set(card), load_set(card)
    pd.testing.assert_frame_equal(fresh.table, cached.table)
    for source, back in zip(planted.module.load(card), cached, strict=True):
        assert (back.source_id, back.kind, back.stratum) == (
            source.source_id,
            source.kind,
            source.stratum,
        )
        np.testing.assert_array_equal(back.numbers, source.numbers)
        np.testing.assert_array_equal(back.positions, source.positions)
        assert back.multiplicity is None and back.smiles is None and back.backbone is None
        for name, value in source.labels.items():
            np.testing.assert_array_equal(back.labels[name], value)


def test_a_second_load_does_not_run_the_loader(planted):
    card = planted_card()
    load_set(card)
    load_set(card)
    load_set(card, selection="starter")
    assert planted.runs == 1
    load_set(card, refresh=True)
    assert planted.runs == 2


def test_a_changed_card_or_loader_is_never_served_from_the_cache(planted):
    card = planted_card()
    load_set(card)
    load_set(planted_card(description="another"))
    assert planted.runs == 2
    planted.path.write_text(LOADER + "# changed\n", encoding="utf-8")
    load_set(card)
    assert planted.runs == 3


def test_a_damaged_cache_is_made_anew(planted, tmp_path):
    card = planted_card()
    whole = load_set(card)
    (path,) = (tmp_path / "cache" / "sets").glob("planted-1.0.0-*.parquet")
    path.write_bytes(path.read_bytes()[:100])
    assert load_set(card).table["id"].tolist() == whole.table["id"].tolist()
    assert planted.runs == 2


def test_the_cache_holds_no_partial_files_and_few_old_ones(planted, tmp_path):
    for i in range(6):
        load_set(planted_card(description=f"version {i}"))
    files = list((tmp_path / "cache" / "sets").iterdir())
    assert len(files) == 4
    assert all(f.suffix == ".parquet" and not f.name.startswith(".") for f in files)


def test_planted_duplicates_are_found_and_listed(planted):
    rows = good_rows()
    rows.insert(5, ("copy-of-r02", "near", rows[2][2], {"labels": {"energy": 9.0}}))
    rows.append(("other-copy", "far", rows[2][2] + 1e-10, {"labels": {"energy": 9.0}}))
    planted.module.ROWS[:] = rows
    found = load_set(planted_card())
    assert found.duplicates.to_dict("records") == [
        {"source_id": "copy-of-r02", "kept": "r02"},
        {"source_id": "other-copy", "kept": "r02"},
    ]
    assert len(found) == 20 and "copy-of-r02" not in set(found.table["source_id"])


def test_bad_rows_are_rejected_by_name_and_the_run_goes_on(planted):
    planted.module.ROWS[:] = [
        ("clash", "near", 0.1, {}),
        ("nowhere", "near", float("nan"), {}),
        ("flat", "far", 3.0, {"pbc": (True, True, True)}),
        *good_rows(),
    ]
    found = load_set(planted_card())
    assert len(found) == 20
    reasons = dict(zip(found.rejected["source_id"], found.rejected["reason"], strict=True))
    assert list(reasons) == ["clash", "nowhere", "flat"]
    assert "overlapping atoms 0 and 1 (0.100 Å apart)" in reasons["clash"]
    assert "non-finite position at atom 1" in reasons["nowhere"]
    assert "its cell has no volume" in reasons["flat"]
    assert all("\n" not in reason and f"'{row}'" in reason for row, reason in reasons.items())
    again = load_set(planted_card())
    assert planted.runs == 1
    pd.testing.assert_frame_equal(again.rejected, found.rejected)


def test_the_starter_selection_is_deterministic_and_of_the_cards_size(planted):
    card = planted_card()
    full, starter = load_set(card), load_set(card, selection="starter")
    assert starter.table["stratum"].value_counts().to_dict() == {"near": 5, "far": 2}
    for stratum, n in (("near", 5), ("far", 2)):
        ids = full.table.loc[full.table["stratum"] == stratum, "id"]
        key = {i: hashlib.sha256(f"starter:{i}".encode()).hexdigest() for i in ids}
        expected = set(sorted(key, key=key.__getitem__)[:n])
        assert set(starter.table.loc[starter.table["stratum"] == stratum, "id"]) == expected
    planted.module.ROWS.reverse()
    reversed_starter = load_set(card, selection="starter", refresh=True)
    assert set(reversed_starter.table["id"]) == set(starter.table["id"])
    kept = full.table[full.table["id"].isin(starter.table["id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, starter.table)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: r.pop(), r"'planted', stratum 'far': found 7 structures, the card says 8"),
        (lambda r: r.append(("r00", "far", 9.0, {})), "source_id 'r00' is given twice"),
        (lambda r: r.append(("x", "middle", 9.0, {})), "'x' is in stratum 'middle'"),
        (
            lambda r: r.append(("x", "far", 9.0, {"labels": {"gap": 1.0}})),
            "'x': label 'gap' is not on the card",
        ),
        (
            lambda r: r.append(("x", "far", 9.0, {"labels": {"energy": np.zeros(3)}})),
            r"'x': label 'energy' has shape \(3,\), the card says scalar",
        ),
        (
            lambda r: r.append(("x", "far", 9.0, {"labels": {"forces": np.zeros((3, 3))}})),
            "'x': label 'forces' has 3 rows for 2 atoms",
        ),
        (lambda r: [e["labels"].pop("stress") for *_, e in r], "no row has label 'stress'"),
        (
            lambda r: r.__setitem__(0, ("r00", "near", 3.0, {"multiplicity": 0})),
            "column 'multiplicity'",
        ),
    ],
)
def test_what_the_card_does_not_say_is_an_error_by_name(
    planted, tmp_path, damage: Callable[[list], Any], message
):
    damage(planted.module.ROWS)
    with pytest.raises(SourceError, match=message):
        load_set(planted_card())
    assert not list((tmp_path / "cache").rglob("*.parquet"))


def test_a_foreign_element_is_an_error_by_name(planted):
    with pytest.raises(SourceError, match="'planted': structure 'r00' has element Ar"):
        load_set(planted_card(elements=["H-Cl"]))


@pytest.mark.parametrize(
    ("loader", "message"),
    [("absent_module:load", "module 'absent_module' does not exist"), ("g2:lode", "'g2:lode' is")],
)
def test_a_card_without_loader_is_an_error_by_name(planted, loader, message):
    with pytest.raises(CardError, match=f"'planted'.*{message}"):
        load_set(planted_card(loader=loader))


def test_an_unknown_selection_is_an_error(planted):
    with pytest.raises(CardError, match="'some' is not known"):
        load_set(planted_card(), selection="some")  # type: ignore[arg-type]


def test_a_cache_that_cannot_be_written_is_an_error(planted, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("MATTERATLAS_CACHE", str(blocked))
    with pytest.raises(SourceError, match="MATTERATLAS_CACHE"):
        load_set(planted_card())


def test_several_sources_are_told_apart_by_the_rows_names(planted):
    one = {"kind": "wheel", "sha256": None}
    card = planted_card(
        sources=[
            {"package": "First==1", "path": "a", **one},
            {"package": "second==2", "path": "b", **one},
        ]
    )
    rows = planted.module.ROWS
    rows[0] = ("first/x", *rows[0][1:])
    rows[1] = ("second/x", *rows[1][1:])
    sources = load_set(card).table["source"].tolist()
    assert sources[:3] == ["First==1:a", "second==2:b", "First==1:a; second==2:b"]


def test_structures_stream_in_batches(planted):
    card = planted_card()
    found = load_set(card)
    blocks = list(iter_structures(found.table, 8, card=card))
    assert [len(b) for b in blocks] == [8, 8, 4]
    assert [s.id for b in blocks for s in b] == found.table["id"].tolist()


def test_real_sets_that_overlap_are_linked(loaded):
    g2 = loaded("g2").table
    exotic = loaded("exotic").table.copy()
    exotic.loc[3, "id"] = g2.loc[7, "id"]
    linked = link_sets({"exotic": exotic, "g2": g2})
    assert linked["g2"]["linked"].isna().all()
    assert linked["exotic"].loc[3, "linked"] == "g2"
    assert linked["exotic"]["linked"].notna().sum() == 1


def test_the_fingerprint_covers_the_loaders_own_imports():
    card = structure_set("g2")
    names = module_closure([f"{sets.__package__}.g2", sets.__name__])
    short = {n.removeprefix("matteratlas.") for n in names}
    assert {
        "builders.structures.g2",
        "builders.structures.literals",
        "builders.structures.smiles",
        "builders.structures.canonical",
        "builders.describe",
        "schemas.structures",
    } <= short
    assert "builders.structures.ccd" not in short
    assert set_fingerprint(card) == set_fingerprint(card)
    assert set_fingerprint(card) != set_fingerprint(structure_set("ccd"))


def test_loaders_yield_what_the_contract_says(planted):
    raw = list(planted.module.load(planted_card()))
    assert all(isinstance(s, Structure) and s.id == s.set == "" for s in raw)
