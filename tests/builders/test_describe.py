# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from dataclasses import replace

import ase.build
import numpy as np
import pytest
import spglib
from ase import Atoms

from matteratlas.builders import describe as module
from matteratlas.builders.describe import describe
from matteratlas.builders.structures.sets import load_set
from matteratlas.registry.catalog import structure_set
from matteratlas.schemas.structures import Structure


def crystal(atoms: Atoms) -> Structure:
    return Structure(
        source_id="x",
        kind="crystal",
        stratum="s",
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=tuple(bool(p) for p in atoms.pbc),
    )


def test_a_molecule():
    ethanol = Structure(
        source_id="x",
        kind="molecule",
        stratum="s",
        numbers=np.array([6, 6, 8] + [1] * 6),
        positions=np.arange(27.0).reshape(9, 3),
        smiles="CCO",
    )
    assert describe(ethanol) == (
        "A molecule with formula C2H6O. It has 9 atoms of carbon, hydrogen and oxygen. "
        "It is neutral. SMILES: CCO"
    )


def test_an_ion_with_unpaired_electrons():
    ion = Structure(
        source_id="x",
        kind="molecule",
        stratum="s",
        numbers=np.array([8, 8]),
        positions=np.eye(3)[:2],
        charge=1,
        multiplicity=2,
    )
    assert describe(ion) == (
        "A molecule with formula O2. It has 2 atoms of oxygen. Its charge is +1. "
        "It has 1 unpaired electron."
    )
    assert "Its charge is -2." in describe(replace(ion, charge=-2))


def test_rock_salt():
    text = describe(crystal(ase.build.bulk("NaCl", "rocksalt", 5.64, cubic=True)))
    assert text == (
        "A crystal with reduced formula NaCl. It is made of sodium and chlorine. "
        "Its space group is Fm-3m (number 225), its crystal system cubic. "
        "The cell holds 8 atoms, a density of 2.16 g/cm3. "
        "The cell lengths are 5.640, 5.640 and 5.640 Å, the angles 90.0, 90.0 and 90.0 degrees."
    )


@pytest.mark.parametrize(
    ("atoms", "group", "system"),
    [
        (ase.build.bulk("Si"), "Fd-3m (number 227)", "cubic"),
        (ase.build.bulk("Mg"), "P6_3/mmc (number 194)", "hexagonal"),
        (ase.build.bulk("In", "bct", 3.25, c=4.95), "I4/mmm (number 139)", "tetragonal"),
        (Atoms("Po", cell=[3, 4, 5], pbc=True), "Pmmm (number 47)", "orthorhombic"),
        (Atoms("Po", cell=[3, 4, 5, 90, 100, 90], pbc=True), "P2/m (number 10)", "monoclinic"),
        (Atoms("Po", cell=[3, 4, 5, 80, 100, 95], pbc=True), "P-1 (number 2)", "triclinic"),
        (
            Atoms("Po", cell=[4, 4, 4, 80, 80, 80], pbc=True),
            "R-3m (number 166)",
            "trigonal",
        ),
    ],
)
def test_space_groups(atoms, group, system):
    assert f"Its space group is {group}, its crystal system {system}." in describe(crystal(atoms))


def test_reduced_formulas_start_with_what_gives_electrons():
    corundum = crystal(Atoms("O6Al4", positions=np.arange(30).reshape(10, 3), cell=[30] * 3, pbc=1))
    assert "reduced formula Al2O3. It is made of aluminium and oxygen." in describe(corundum)


@pytest.mark.parametrize("failure", ["none", "raises"])
def test_without_symmetry_the_rest_is_still_said(monkeypatch, failure):
    def fail(*args, **kwargs):
        if failure == "raises":
            raise spglib.SpglibError("no symmetry")

    monkeypatch.setattr(spglib, "get_symmetry_dataset", fail)
    text = describe(crystal(ase.build.bulk("Cu")))
    assert "space group" not in text
    assert "density of 8.9" in text


def test_layers_and_chains():
    graphene = crystal(ase.build.graphene(vacuum=5))
    assert describe(graphene) == (
        "A layer with reduced formula C. It is made of carbon. "
        "The repeat unit holds 2 atoms; it repeats every 2.460 and 2.460 Å."
    )
    assert describe(crystal(ase.build.nanotube(3, 3))).startswith("A chain with reduced formula C.")


def test_a_protein():
    chain = Structure(
        source_id="x",
        kind="protein",
        stratum="s",
        numbers=np.array([6]),
        positions=np.zeros((1, 3)),
        sequence="MKKAX",
    )
    assert describe(chain) == (
        "A protein chain of 5 amino-acid residues: 2 lysine, 1 alanine, 1 methionine and 1 other. "
        "Sequence: MKKAX"
    )


def test_names_labels_and_places_do_not_leak():
    plain = crystal(ase.build.bulk("NaCl", "rocksalt", 5.64))
    dressed = replace(
        plain, name="halite", labels={"energy": -3.14159}, set="minerals", stratum="q", id="ma1-z"
    )
    assert describe(dressed) == describe(plain)


@pytest.mark.parametrize("set_id", ["g2", "exotic", "proteins"])
def test_real_sets_are_described_as_their_rows_say(set_id):
    table = load_set(structure_set(set_id)).table
    names = {"molecule": "A molecule", "crystal": "A crystal", "protein": "A protein chain"}
    for row in table.itertuples():
        assert row.description.startswith(names[row.kind])
        assert "\n" not in row.description and "  " not in row.description
        if row.kind == "molecule":
            assert f"formula {row.formula}." in row.description
            assert (f"SMILES: {row.smiles}" in row.description) == (row.smiles is not None)
        if row.kind == "protein":
            written = row.description.partition("Sequence: ")[2]
            assert written.replace(" ", "") == row.sequence
            assert max(map(len, written.split())) <= 10
            counts = map(int, re.findall(r"(\d+) [a-z]+(?:,| and|\.)", row.description))
            assert sum(counts) == len(row.sequence)


def test_the_amino_acids_are_the_twenty():
    assert len(module._AMINO_ACIDS) == 20 == len(set(module._AMINO_ACIDS.values()))
