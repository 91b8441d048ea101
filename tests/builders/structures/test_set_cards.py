# SPDX-License-Identifier: Apache-2.0
"""Every structure set of the registry, loaded for real and held against its card."""

from __future__ import annotations

import re
from importlib import metadata

import numpy as np
import pytest

from matteratlas.builders.structures import sets
from matteratlas.builders.structures.canonical import structure_id
from matteratlas.builders.structures.sets import load_set
from matteratlas.registry.catalog import SET_ORDER, structure_set, structure_sets
from matteratlas.registry.tables import link_sets
from matteratlas.schemas.cards import elements_of
from matteratlas.schemas.structure_sets import check_structure_table, label_columns
from matteratlas.schemas.structures import check_geometry

SETS = list(structure_sets())


def test_the_registry_holds_the_sets_it_orders():
    assert list(SET_ORDER) == SETS


@pytest.mark.parametrize("set_id", SETS)
def test_a_set_is_what_its_card_says(loaded, set_id):
    card, found = structure_set(set_id), loaded(set_id)
    check_structure_table(found.table, card)
    assert len(found) == card.count
    counts = found.table["stratum"].value_counts().to_dict()
    assert counts == {name: s.count for name, s in card.strata.items()}
    assert found.table["id"].is_unique and found.table["source_id"].is_unique
    assert set(found.table["kind"]) == set(card.kinds)
    present = {e for elements in found.table["elements"] for e in elements}
    assert present <= elements_of(card.elements)
    assert [c for c in found.table if c.startswith("label_")] == label_columns(card)
    assert all(found.table[c].notna().any() for c in label_columns(card))


@pytest.mark.parametrize("set_id", SETS)
def test_provenance_and_licence_are_filled(loaded, set_id):
    card, found = structure_set(set_id), loaded(set_id)
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", s.package) for s in card.sources)
    sources = {f"{s.package}:{s.path}" for s in card.sources}
    for source in found.table["source"].unique():
        assert set(source.split("; ")) <= sources
    assert found.table["description"].str.len().gt(20).all()
    assert card.licence_note and card.citation and card.selection
    assert isinstance(card.redistribute_coordinates, bool)
    # Nothing is passed on without a licence that says so.
    assert card.licence or not card.redistribute_coordinates
    assert all(s.sha256 for s in card.sources if s.kind != "installed")
    for source in card.sources:
        if source.kind == "installed":
            assert metadata.version(source.package.partition("==")[0])


@pytest.mark.parametrize("set_id", SETS)
def test_a_sample_of_rows_is_sound(loaded, set_id):
    found = loaded(set_id)
    step = max(1, len(found) // 25)
    rows = found.table.iloc[::step]
    for block in sets.iter_structures(rows, card=found.card):
        for structure in block:
            check_geometry(structure, min_distance=0.5)
            assert structure_id(structure) == structure.id
            assert structure.set == set_id
            assert len(structure) == len(structure.positions)


@pytest.mark.parametrize("set_id", SETS)
def test_the_starter_selection_is_the_cards(loaded, set_id):
    card, full = structure_set(set_id), loaded(set_id).table
    starter = load_set(card, selection="starter").table
    counts = starter["stratum"].value_counts().to_dict()
    assert counts == {name: s.starter for name, s in card.strata.items() if s.starter}
    assert all(s.starter <= s.count for s in card.strata.values())
    assert full["id"].isin(starter["id"]).sum() == len(starter)


def test_the_starter_selections_make_a_small_atlas_of_every_kind():
    cards = structure_sets().values()
    assert 550 <= sum(c.starter for c in cards) <= 700
    assert {k for c in cards for k in c.kinds} == {"molecule", "crystal", "protein"}
    assert all(s.starter for c in cards for s in c.strata.values())


def test_no_structure_is_left_unlinked_in_two_sets(loaded):
    tables = link_sets({s: loaded(s).table[["id"]] for s in SETS})
    owned = np.concatenate([t.loc[t["linked"].isna(), "id"].to_numpy() for t in tables.values()])
    assert len(set(owned)) == len(owned)
