# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import AllChem
from scipy.spatial.transform import Rotation

from matteratlas.builders.structures.smiles import smiles_from_bonds, smiles_from_geometry

MOLECULES = [
    "CCO",
    "c1ccc2[nH]ccc2c1",
    "CC(=O)Nc1ccc(O)cc1",
    "OC[C@H](N)C(=O)O",
    "C/C=C/C#N",
    "O=[N+]([O-])c1ccccc1",
    "CS(=O)(=O)N1CCOCC1",
    "FC(F)(F)c1ccncc1",
    "CP(=O)(O)O",
    "C[Si](C)(C)Cl",
]


def embedded(smiles: str) -> tuple[np.ndarray, np.ndarray]:
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(molecule, randomSeed=7) == 0
    AllChem.MMFFOptimizeMolecule(molecule)
    numbers = np.array([a.GetAtomicNum() for a in molecule.GetAtoms()])
    return numbers, molecule.GetConformer().GetPositions()


GEOMETRIES = {s: embedded(s) for s in MOLECULES}


@pytest.mark.parametrize("smiles", MOLECULES)
def test_a_molecule_is_recognised_by_its_geometry(smiles):
    numbers, positions = GEOMETRIES[smiles]
    assert smiles_from_geometry(numbers, positions) == Chem.CanonSmiles(smiles)


@given(st.sampled_from(MOLECULES), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_order_and_orientation_do_not_count(smiles, seed):
    numbers, positions = GEOMETRIES[smiles]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(numbers))
    turned = positions @ Rotation.random(rng=rng).as_matrix().T + rng.normal(size=3)
    assert smiles_from_geometry(numbers[order], turned[order]) == Chem.CanonSmiles(smiles)


def test_ions_need_their_charge():
    numbers, positions = embedded("C[NH3+]")
    assert smiles_from_geometry(numbers, positions, charge=1) == "C[NH3+]"
    assert smiles_from_geometry(numbers, positions, charge=0, multiplicity=1) is None


def test_atoms():
    at = np.zeros((1, 3))
    assert smiles_from_geometry(np.array([17]), at, charge=-1) == "[Cl-]"
    assert smiles_from_geometry(np.array([1]), at, multiplicity=2) == "[H]"


@pytest.mark.parametrize(
    ("numbers", "positions"),
    [
        ([26, 17, 17], [[0, 0, 0], [0, 0, 2.2], [0, 0, -2.2]]),  # bonds of a metal
        ([6, 1, 1, 1, 1, 1], np.vstack([np.zeros(3), np.eye(3), -np.eye(3)[:2]])),  # five bonds
    ],
)
def test_what_cannot_be_told_has_none(numbers, positions):
    assert smiles_from_geometry(np.array(numbers), np.array(positions, dtype=float)) is None


def test_a_spin_that_contradicts_the_electrons_has_none():
    numbers, positions = GEOMETRIES["CCO"]
    assert smiles_from_geometry(numbers, positions, multiplicity=2) is None


def test_metal_bonds_become_dative_where_valence_asks():
    # Nickel with four ammonia ligands: each nitrogen has four bonds as written.
    symbols = ["Ni"] + ["N", "H", "H", "H"] * 4
    bonds = []
    for ligand in range(4):
        nitrogen = 1 + 4 * ligand
        bonds += [(0, nitrogen, 1)] + [(nitrogen, nitrogen + h, 1) for h in (1, 2, 3)]
    charges = [2] + [0] * 16
    text = smiles_from_bonds(symbols, charges, bonds)
    assert text is not None and text.count("->") + text.count("<-") == 4
    back = Chem.MolFromSmiles(text)
    assert Chem.GetFormalCharge(back) == 2
    assert Chem.MolToSmiles(back) == text


def test_impossible_bonds_have_none():
    assert smiles_from_bonds(["C", *["F"] * 5], [0] * 6, [(0, i, 1) for i in range(1, 6)]) is None


def test_rdkit_keeps_its_voice():
    from rdkit import rdBase

    before = rdBase.LogStatus()
    smiles_from_geometry(*GEOMETRIES["CCO"])
    assert rdBase.LogStatus() == before
