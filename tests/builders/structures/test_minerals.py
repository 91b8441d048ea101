# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from matteratlas.builders.structures.minerals import anion_class, load
from matteratlas.registry.catalog import structure_set
from matteratlas.schemas.structures import Structure, check_geometry

CARD = structure_set("minerals")


@pytest.fixture(scope="module")
def crystals() -> dict[str, Structure]:
    found = list(load(CARD))
    assert len({s.source_id for s in found}) == len(found)
    return {s.source_id: s for s in found}


def by_name(crystals: dict[str, Structure], name: str) -> list[Structure]:
    return [s for s in crystals.values() if s.name == name]


def test_counts_are_the_cards(crystals):
    assert len(crystals) == 1069
    assert Counter(s.stratum for s in crystals.values()) == {
        name: stratum.count for name, stratum in CARD.strata.items()
    }
    assert Counter(k.partition("-")[0] for k in crystals) == {"mp": 566, "JVASP": 503}


def test_crystals_listed_twice_keep_both_names(crystals):
    doubled = {k: s.name for k, s in crystals.items() if " / " in s.name}
    assert len(doubled) == 12
    assert doubled["JVASP-51945"] == "Freibergite / Tetrahedrite"


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"O", "Si", "Zr"}, "silicates"),
        ({"O", "Si"}, "oxides"),
        ({"O", "Si", "H"}, "oxides"),
        ({"Ca", "C", "O"}, "oxysalts"),
        ({"N", "H", "P", "O"}, "oxysalts"),
        ({"As", "O"}, "oxides"),
        ({"B", "H", "O"}, "oxides"),
        ({"Mg", "Cl", "O", "H"}, "oxides"),
        ({"Na", "Cl"}, "halides"),
        ({"Hg", "S", "Cl"}, "halides"),
        ({"Pb", "S"}, "chalcogenides"),
        ({"Fe", "As", "S"}, "chalcogenides"),
        ({"Ni", "As"}, "pnictides"),
        ({"S"}, "elements_and_alloys"),
        ({"Bi"}, "elements_and_alloys"),
        ({"Fe", "C"}, "elements_and_alloys"),
    ],
)
def test_anion_rule(elements, expected):
    assert anion_class(elements) == expected


@pytest.mark.parametrize(
    ("name", "stratum", "formula", "shortest"),
    [
        # Shortest distances of the real minerals, Å, to a few percent of DFT.
        ("Galena", "chalcogenides", "PbS", 2.97),
        ("Periclase", "oxides", "MgO", 2.11),
        ("Copper", "elements_and_alloys", "Cu", 2.56),
        ("Carobbiite", "halides", "FK", 2.67),
    ],
)
def test_known_minerals(crystals, name, stratum, formula, shortest):
    (crystal,) = by_name(crystals, name)
    assert crystal.stratum == stratum
    assert crystal.formula == formula
    lattice = np.array(np.meshgrid(*[[-2, -1, 0, 1, 2]] * 3)).reshape(3, -1).T @ crystal.cell
    pairs = (crystal.positions - crystal.positions[0])[:, None] + lattice[None]
    distances = np.linalg.norm(pairs, axis=-1)
    assert distances[distances > 1e-6].min() == pytest.approx(shortest, rel=0.03)


def test_fractional_and_cartesian_entries_agree_on_density(crystals):
    # The source mixes both; read the wrong way, a cell would hold atoms on top of one another.
    masses = {"Zr": 91.224, "Si": 28.085, "O": 15.999}
    (zircon,) = by_name(crystals, "Zircon")
    mass = sum(masses[s] for s in zircon.symbols)
    # g/mol/Å³ to g/cm³; zircon weighs 4.6 to 4.7 g/cm³.
    assert mass / abs(np.linalg.det(zircon.cell)) * 1.66054 == pytest.approx(4.6, abs=0.2)


def test_every_crystal_is_readable(crystals):
    for s in crystals.values():
        assert s.kind == "crystal"
        assert s.pbc == (True, True, True)
        check_geometry(s, min_distance=0.7)


def test_two_loads_are_equal(crystals):
    again = list(load(CARD))
    assert [(s.source_id, s.name) for s in again] == [(k, s.name) for k, s in crystals.items()]
    assert all(np.array_equal(s.positions, crystals[s.source_id].positions) for s in again)
