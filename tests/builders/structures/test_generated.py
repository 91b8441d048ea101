# SPDX-License-Identifier: Apache-2.0
"""Generated crystals: right geometry, balanced charges, the same each time, labelled as made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from matteratlas.builders.structures import generated
from matteratlas.builders.structures.canonical import structure_id
from matteratlas.builders.structures.files import read_files
from matteratlas.builders.structures.generated import (
    ANIONS,
    FAMILIES,
    SIMPLE,
    generate,
    generated_pool,
    radius,
    write_generated,
)
from matteratlas.builders.structures.generated_filters import (
    charges_balance,
    fault,
    nearest_ratio,
    volume_ratio,
)
from matteratlas.schemas.errors import SourceError
from matteratlas.schemas.structures import Structure, check_geometry

FEW = ("rocksalt", "fluorite", "perovskite")


def salt(edge: float) -> Structure:
    """Rock salt, conventional cell."""
    sodium = np.array([(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)])
    return Structure(
        source_id="salt",
        kind="crystal",
        stratum="x",
        numbers=np.array([11] * 4 + [17] * 4),
        positions=np.concatenate([sodium, sodium + 0.5]) * edge,
        cell=np.eye(3) * edge,
        pbc=(True, True, True),
    )


def test_hydrogen_in_a_collapsed_cell_is_left_out() -> None:
    dense = Structure(
        source_id="dense",
        kind="crystal",
        stratum="generated_substituted",
        numbers=np.ones(2, dtype=int),
        positions=np.array([[0.0, 0.0, 0.0], [0.6, 0.6, 0.6]]),
        cell=np.eye(3) * 1.2,
        pbc=(True, True, True),
    )
    reason = fault(dense)
    assert reason is not None and "Å³ an atom" in reason


@pytest.mark.parametrize("family", SIMPLE)
def test_simple_types_hold_ions_in_contact(family: str) -> None:
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    made = list(generate([family], limit=5))
    assert len(made) == 5
    expected = {"rocksalt": 6, "cesiumchloride": 8, "fluorite": 8}.get(family, 4)
    for structure in made:
        check_geometry(structure)
        assert structure.name == structure.source_id
        assert structure.name.startswith(f"generated {family} ")
        assert structure.stratum == f"generated_{family}"
        assert structure.id == structure_id(structure)
        assert structure.periodicity == 3
        assert charges_balance(structure.composition)
        cation = next(s for s in structure.elements if s not in ANIONS)
        charge = int(structure.name.rpartition("(" + cation)[2].rstrip(")"))
        anion = next(s for s in structure.elements if s in ANIONS)
        sum_of_radii = radius(cation, charge) + radius(anion, ANIONS[anion])
        atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=True)
        first, second, distance = neighbor_list("ijd", atoms, sum_of_radii * 1.01)
        unlike = atoms.numbers[first] != atoms.numbers[second]
        assert distance[unlike] == pytest.approx(sum_of_radii, rel=2e-3)
        centre = [s in (cation,) for s in structure.symbols].index(True)
        assert (first[unlike] == centre).sum() == expected


def test_perovskites_fit_together() -> None:
    made = list(generate(["perovskite"], limit=20))
    assert len(made) == 20
    for structure in made:
        assert len(structure) == 5
        assert sorted(structure.composition.values()) == [1, 1, 3]
        edge = structure.cell[0, 0]
        assert np.allclose(structure.cell, edge * np.eye(3))


def test_changed_crystals_stay_near_their_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = (replace(salt(5.64), id="ma1-salt"),)
    monkeypatch.setattr(generated, "_parents", lambda: parents)
    swapped = list(generate(["substituted"], limit=50))
    formulas = {s.formula for s in swapped}
    assert {"Br4Na4", "Cl4K4"} <= formulas
    bromide = next(s for s in swapped if s.formula == "Br4Na4")
    assert 1.0 < bromide.cell[0, 0] / 5.64 < 1.15
    (rattled,) = generate(["rattled"], limit=5)
    assert rattled.formula == "Cl4Na4"
    moved = rattled.positions @ np.linalg.inv(rattled.cell) - salt(5.64).positions / 5.64
    assert 0 < np.abs(moved).max() * 5.64 < 0.4
    assert abs(np.linalg.det(rattled.cell) / 5.64**3 - 1) < 0.15
    (other,) = generate(["rattled"], limit=5, seed=1)
    assert other.id != rattled.id


def test_the_same_call_gives_the_same_crystals_and_no_two_are_equal() -> None:
    first = list(generate(FEW, limit=12))
    assert [s.id for s in first] == [s.id for s in generate(FEW, limit=12)]
    assert len({s.id for s in first}) == len(first) == 36
    assert [s.id for s in first[:12]] == [s.id for s in generate(FEW[:1], limit=12)]
    assert {s.id for s in generate(FEW, limit=12, seed=1)} != {s.id for s in first}
    assert all(fault(s) is None for s in first)


def test_filters_name_what_is_absurd() -> None:
    good = salt(5.64)
    assert fault(good) is None
    assert nearest_ratio(good) == pytest.approx(2.82 / (1.66 + 1.02), rel=1e-3)
    spheres = 4 / 3 * np.pi * 4 * (1.66**3 + 1.02**3)
    assert volume_ratio(good) == pytest.approx(5.64**3 / spheres, rel=1e-6)
    assert "covalent radii" in str(fault(salt(3.0)))
    assert "volume" in str(fault(salt(20.0)))
    wrong = replace(good, numbers=np.where(good.numbers == 17, 8, 11))
    assert "oxidation states" in str(fault(wrong))
    assert charges_balance({"Fe": 2, "O": 3})
    assert charges_balance({"Si": 5})
    assert not charges_balance({"Na": 1, "O": 1})
    assert not charges_balance({"Ne": 1, "O": 1})


def test_files_are_read_back_and_say_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list(generate(FEW, limit=4))
    write_generated(tmp_path / "pool", FEW, limit=4)
    found = [item for _, item in read_files(tmp_path / "pool")]
    assert sorted(structure_id(s) for s in found) == sorted(s.id for s in made)
    assert all("generated" in s.source_id and s.name.startswith("generated") for s in found)
    monkeypatch.setattr(generated, "cache_dir", lambda: tmp_path / "cache")
    first = generated_pool(FEW, limit=2)
    stamp = first.stat().st_mtime_ns
    assert generated_pool(FEW, limit=2) == first
    assert first.stat().st_mtime_ns == stamp
    assert generated_pool(FEW, limit=3) != first


def test_errors_name_the_family() -> None:
    with pytest.raises(SourceError, match="'spinel' is not known; use rocksalt"):
        list(generate(["spinel"]))
    with pytest.raises(SourceError, match="at least 1"):
        list(generate(FAMILIES, limit=0))
