# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from matteratlas.analysis.evidence import cues
from matteratlas.analysis.evidence.cues import (
    Cue,
    composition_features,
    cues_of,
    element_counts,
    mean_coordination,
)
from matteratlas.schemas.structures import ATOMIC_NUMBERS, Structure


def structure(atoms: Atoms, **about: object) -> Structure:
    kind = "crystal" if atoms.pbc.any() else "molecule"
    return Structure(
        source_id="x", kind=kind, stratum="s", numbers=atoms.numbers,  # type: ignore[arg-type]
        positions=atoms.positions, cell=np.array(atoms.cell), pbc=tuple(bool(p) for p in atoms.pbc),
        **about,  # type: ignore[arg-type]
    )  # fmt: skip


def table(rows: list[dict[str, object]]) -> pd.DataFrame:
    base = {"kind": "molecule", "charge": 0, "smiles": None, "n_atoms": 1}
    frame = pd.DataFrame([{**base, **r} for r in rows])
    frame.index = pd.Index([f"s{i}" for i in range(len(frame))])
    return frame


def by_name(found: list[Cue]) -> dict[str, np.ndarray]:
    return {c.name: c.values[:, 0] for c in found}


def test_formulas_are_counted() -> None:
    counts = element_counts(table([{"formula": "C2H6O"}, {"formula": "NaCl"}, {"formula": "U"}]))
    assert counts.shape == (3, 119)
    assert counts[0, [6, 1, 8]].tolist() == [2, 6, 1]
    assert counts[1, [11, 17]].tolist() == [1, 1] and counts.sum() == 12 and counts[2, 92] == 1


@pytest.mark.parametrize(
    "atoms",
    [
        bulk("Cu"), bulk("Si"), bulk("NaCl", "rocksalt", a=5.64), bulk("Fe") * (2, 2, 1),
        molecule("CH3CH2OH"), molecule("C6H6"),
        Atoms("OCO", [[0, 0, 0], [0, 0, 1.2], [0, 0, 2.4]], cell=[5, 5, 8], pbc=[0, 0, 1]),
    ],
    ids=str,
)  # fmt: skip
def test_coordination_is_that_of_ases_neighbour_list(atoms: Atoms) -> None:
    reach = covalent_radii[atoms.numbers] * cues.BOND_FACTOR
    first = neighbor_list("i", atoms, list(reach))
    assert mean_coordination(structure(atoms)) == pytest.approx(len(first) / len(atoms))


def test_known_coordination_and_density() -> None:
    copper, silicon = bulk("Cu", a=3.61), bulk("Si", a=5.43)
    water = molecule("H2O")
    frame = table(
        [
            {"formula": "Cu", "kind": "crystal"},
            {"formula": "Si2", "kind": "crystal", "n_atoms": 2},
            {"formula": "H2O", "n_atoms": 3},
            {"formula": "Fe", "kind": "crystal"},
        ]
    )
    held = {"s0": structure(copper), "s1": structure(silicon), "s2": structure(water)}
    found = by_name(cues_of(frame, held)[0])
    assert found["coordination"][:3] == pytest.approx([12, 4, 4 / 3])
    assert np.exp(found["mass_density"][:2]) == pytest.approx([8.97, 2.33], abs=0.02)
    assert np.exp(found["volume_per_atom"][:2]) == pytest.approx([3.61**3 / 4, 5.43**3 / 8])
    assert np.isnan(found["mass_density"][2:]).all()  # no cell; no coordinates
    assert np.isnan(found["coordination"][3])


@given(st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_geometry_cues_do_not_hang_on_frame_order_or_cell(seed: int) -> None:
    random = np.random.default_rng(seed)
    atoms = bulk("ZnS", "zincblende", a=5.41)
    atoms.rattle(0.05, seed=seed)
    other = atoms * (2, 1, 1)
    other = other[random.permutation(len(other))]
    other.rotate(float(random.uniform(0, 180)), random.normal(size=3), rotate_cell=True)
    other.translate(random.normal(size=3))
    frame = table(
        [
            {"formula": "SZn", "kind": "crystal", "n_atoms": 2},
            {"formula": "S2Zn2", "kind": "crystal"},
        ]
    )
    found = by_name(cues_of(frame, {"s0": structure(atoms), "s1": structure(other)})[0])
    for name in ("coordination", "mass_density", "volume_per_atom"):
        assert found[name][0] == pytest.approx(found[name][1]), name


def test_bonds_rings_and_charges_come_from_smiles() -> None:
    frame = table(
        [
            {"formula": "C6H6", "smiles": "c1ccccc1", "n_atoms": 12},
            {"formula": "C4H4O", "smiles": "c1ccoc1", "n_atoms": 9},
            {"formula": "C4H10", "smiles": "CCCC", "n_atoms": 14},
            {"formula": "C2H3O2", "smiles": "CC(=O)[O-]", "n_atoms": 7, "charge": -1},
            {"formula": "H2O", "smiles": "O", "n_atoms": 3},
            {"formula": "CH4", "smiles": "no SMILES at all", "n_atoms": 5},
            {"formula": "Cu", "kind": "crystal"},
        ]
    )
    found = by_name(cues_of(frame, {})[0])
    assert found["rings"][:3] == pytest.approx([1 / 6, 1 / 5, 0])
    assert found["rings_of_6"][:3].tolist() == [1, 0, 0]
    assert found["rings_of_5"][:3].tolist() == [0, 1, 0]
    assert found["aromatic"][:4].tolist() == [1, 1, 0, 0]
    assert found["bonds"][:3] == pytest.approx([1, 1, 3 / 4])
    assert found["rotatable_bonds"][2] == pytest.approx(1 / 4)
    assert found["heteroatoms"][:4] == pytest.approx([0, 1 / 5, 0, 1 / 2])
    assert np.isnan(found["rings"][4:]).all()
    assert found["charged"][:6].tolist() == [0, 0, 0, 1, 0, 0] and np.isnan(found["charged"][6])


def test_energies_lose_what_one_number_an_element_explains() -> None:
    random = np.random.default_rng(0)
    counts = random.integers(1, 6, (30, 2))
    atoms = counts.sum(axis=1)
    rest = random.normal(size=30)
    frame = table([{"formula": f"Li{a}O{b}", "n_atoms": a + b, "kind": "crystal"}
                   for a, b in counts])  # fmt: skip
    frame["label_energy"] = counts @ [-3.0, 7.0] + rest * atoms
    frame.loc["s3", "label_energy"] = np.nan
    found = by_name(cues_of(frame, {})[0])
    kept = np.arange(30) != 3
    share = (counts / atoms[:, None])[kept]
    expected = rest[kept] - share @ np.linalg.lstsq(share, rest[kept], rcond=None)[0]
    assert found["energy"][kept] == pytest.approx(expected, abs=1e-9)
    assert np.isnan(found["energy"][3])
    assert "atomization_energy" not in found


def test_elements_that_tell_structures_apart_are_cues() -> None:
    rows = [{"formula": "CO"}] * 30 + [{"formula": "CN"}] * 25 + [{"formula": "CF"}] * 5
    found = {c.name: c for c in cues_of(table(rows), {})[0]}
    # Carbon is everywhere, fluorine in too few.
    assert {n for n in found if n.startswith("element:")} == {"element:N", "element:O"}
    assert found["element:O"].values.sum() == 30 and found["element:O"].task == "classification"
    assert found["composition"].values.sum(axis=1) == pytest.approx(np.ones(60))
    assert found["composition"].determined and not found["charged"].determined


def test_every_cue_is_finite_where_defined_and_says_its_kinds() -> None:
    frame = table([{"formula": "C6H6", "smiles": "c1ccccc1", "n_atoms": 12}] * 3)
    found, notes = cues_of(frame, {})
    assert not notes
    for cue in found:
        assert cue.values.shape[0] == 3 and cue.defined.any() and "molecule" in cue.kinds
    assert "mass_density" not in {c.name for c in found}  # no row has it


def test_what_is_not_installed_is_left_out_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdkit", None)
    frame = table([{"formula": "C6H6", "smiles": "c1ccccc1", "n_atoms": 12}])
    found, notes = cues_of(frame, {"s0": structure(molecule("C6H6"))})
    assert {"atom_count", "coordination"} <= {c.name for c in found}
    assert "rings" not in {c.name for c in found}
    assert len(notes) == 1 and "rdkit is not installed" in notes[0]
    assert "matteratlas[sources]" in notes[0]


def test_composition_features_hang_on_the_formula_alone() -> None:
    frame = table(
        [
            {"formula": "C2H6O", "n_atoms": 9, "smiles": "CCO"},
            {"formula": "C2H6O", "n_atoms": 9, "smiles": "COC"},
            {"formula": "NaCl", "n_atoms": 2, "kind": "crystal"},
            {"formula": "Na2Cl2", "n_atoms": 4, "kind": "crystal"},
            {"formula": "He", "n_atoms": 1},
            {"formula": "OU", "n_atoms": 2},
        ]
    )
    features = composition_features(frame)
    assert np.isfinite(features).all()
    assert np.array_equal(features[0], features[1])
    assert features.mean(axis=0) == pytest.approx(np.zeros(features.shape[1]), abs=1e-9)
    assert features.std(axis=0) == pytest.approx(np.ones(features.shape[1]))
    differ = np.abs(features[2] - features[3]) > 1e-9
    assert differ.sum() == 2  # only the logarithm and the inverse of the number of atoms
    assert ATOMIC_NUMBERS["U"] == 92
