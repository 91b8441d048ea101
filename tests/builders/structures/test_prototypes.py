# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import json
import re
from collections import Counter

import numpy as np
import pytest

from matteratlas.builders.structures.prototypes import load, prototype_name, reduced_formula
from matteratlas.registry.catalog import structure_set
from matteratlas.schemas.cards import Source
from matteratlas.schemas.errors import SourceError
from matteratlas.schemas.structures import Structure, check_geometry

CARD = structure_set("prototypes")


@pytest.fixture(scope="module")
def crystals() -> dict[str, Structure]:
    found = list(load(CARD))
    assert len({s.source_id for s in found}) == len(found)
    return {s.source_id: s for s in found}


def test_counts_are_the_cards(crystals):
    assert len(crystals) == 288
    assert Counter(s.stratum for s in crystals.values()) == {
        name: stratum.count for name, stratum in CARD.strata.items()
    }


def test_rock_salt_is_sodium_chloride_with_six_neighbours(crystals):
    halite = crystals["AB_cF8_225_a_b:ClNa"]
    assert halite.name == "AB_cF8_225_a_b (B1; Halite, Rock Salt)"
    assert halite.stratum == "binary"
    assert halite.formula == "ClNa"
    shifts = np.array(np.meshgrid(*[[-1, 0, 1]] * 3)).reshape(3, -1).T @ halite.cell
    sodium, chlorine = (halite.positions[halite.numbers == z][0] for z in (11, 17))
    distances = np.sort(np.linalg.norm(chlorine + shifts - sodium, axis=1))
    # Half of rock salt's lattice constant, 5.64 Å.
    assert distances[:6] == pytest.approx(2.820, abs=1e-3)
    assert distances[6] > 4.5


def test_diamond_and_perovskite_have_their_chemistry(crystals):
    diamond = crystals["A_cF8_227_a:C"]
    assert diamond.stratum == "unary"
    # Eight atoms in a cube of 3.57 Å, two in the primitive cell.
    assert abs(np.linalg.det(diamond.cell)) / len(diamond) == pytest.approx(3.567**3 / 8, rel=0.02)
    perovskite = crystals["AB3C_cP5_221_a_c_b:CaO3Ti"]
    assert perovskite.stratum == "ternary"
    assert perovskite.name == "AB3C_cP5_221_a_c_b (E2_1; (Cubic) Perovskite)"
    assert perovskite.composition == {"Ca": 1, "O": 3, "Ti": 1}


def test_label_stoichiometry_matches_the_atoms(crystals):
    # The first field of an AFLOW label counts each kind of atom (AB3C is 1:3:1); labels of
    # one-letter Greek phases (sigma_tP30_...) have none.
    checked = 0
    for source_id, s in crystals.items():
        field = source_id.partition("_")[0]
        letters = re.findall(r"[A-Z](\d*)", field)
        if not letters:
            continue
        counts = np.array(sorted(int(n or 1) for n in letters))
        atoms = np.array(sorted(s.composition.values()))
        assert len(letters) == len(s.elements), source_id
        assert np.array_equal(counts * atoms.sum(), atoms * counts.sum()), source_id
        checked += 1
    assert checked > 280


def test_every_crystal_is_readable(crystals):
    for s in crystals.values():
        assert s.kind == "crystal"
        assert s.pbc == (True, True, True)
        check_geometry(s, min_distance=0.9)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"aflow": "A", "strukturbericht": "None", "mineral": ""}, "A"),
        ({"aflow": "A", "strukturbericht": "A1", "mineral": ""}, "A (A1)"),
        ({"aflow": "A", "strukturbericht": "A1", "mineral": "Copper"}, "A (A1; Copper)"),
    ],
)
def test_name_leaves_out_what_the_source_lacks(tags, expected):
    assert prototype_name(tags) == expected


def test_reduced_formula_is_alphabetical_and_smallest():
    assert reduced_formula(["O", "Ti", "O", "O", "Ti", "O"]) == "O2Ti"


def test_disordered_site_is_refused_by_name(tmp_path, monkeypatch):
    site = {"species": [{"element": "Cu", "occu": 0.5}], "abc": [0, 0, 0]}
    entry = {"tags": {"aflow": "A_cF4_225_a"}, "snl": {"sites": [site]}}
    path = tmp_path / "entries.json.gz"
    path.write_bytes(gzip.compress(json.dumps([entry]).encode()))
    monkeypatch.setattr(
        "matteratlas.builders.structures.crystals.package_file", lambda *a, **k: path
    )
    source = Source(package="x==1", kind="wheel", path="entries.json.gz", sha256=None)
    with pytest.raises(SourceError, match=r"A_cF4_225_a.*disordered"):
        list(load(CARD.model_copy(update={"sources": [source]})))


def test_two_loads_are_equal(crystals):
    again = list(load(CARD))
    assert [s.source_id for s in again] == list(crystals)
    assert all(np.array_equal(s.positions, crystals[s.source_id].positions) for s in again)
