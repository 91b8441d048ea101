# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from matteratlas.builders.structures.exotic import BOHR, multiplicity_of
from matteratlas.schemas.structures import ATOMIC_NUMBERS


@pytest.fixture(scope="module")
def structures(loaded):
    return {s.source_id: s for s in loaded("exotic")}


def test_repeated_ions_are_found(loaded):
    duplicates = loaded("exotic").duplicates
    assert set(duplicates["kept"]) == {"il16/008B"}
    assert len(duplicates) == 5
    assert loaded("exotic").rejected.empty


def test_the_package_is_parsed_not_imported(structures):
    assert len(structures) == 267
    assert "tad_mctc" not in sys.modules


def shortest(structure, first: str, second: str) -> float:
    """Shortest distance between two elements, in Å."""
    a = structure.positions[structure.numbers == ATOMIC_NUMBERS[first]]
    b = structure.positions[structure.numbers == ATOMIC_NUMBERS[second]]
    return float(np.linalg.norm(a[:, None] - b[None], axis=-1).min())


@pytest.mark.parametrize(
    ("row", "pair", "low", "high"),
    [
        ("polyalanine/polyala_04", ("N", "H"), 0.96, 1.05),
        ("polyalanine/polyala_28", ("N", "H"), 0.96, 1.05),
        ("polyalanine/polyala_28", ("C", "N"), 1.28, 1.50),
        ("x23/benzene", ("C", "H"), 1.05, 1.12),
        ("x23/CO2", ("C", "O"), 1.13, 1.20),
        ("ice10/ih", ("O", "H"), 0.93, 1.03),
        ("f_block/UF3", ("U", "F"), 1.9, 2.2),
        ("heavy28/pbh4", ("Pb", "H"), 1.70, 1.80),
        ("mb16_43/N2", ("N", "N"), -0.1, 1.2),
        ("il16/230", ("S", "O"), 1.40, 1.55),
        ("rc21/ethylene", ("C", "H"), 1.05, 1.12),
    ],
)
def test_bonds_have_the_length_of_bonds(structures, row, pair, low, high):
    # The package gives bohr everywhere but for polyalanine: a wrong unit shows here.
    assert low < shortest(structures[row], *pair) < high


def test_nothing_is_squeezed_or_torn(structures):
    for structure in structures.values():
        if len(structure) > 1:
            assert 0.7 < pdist(structure.positions).min() < 3.0, structure.source_id


def test_the_molecular_crystals_have_cells(structures):
    crystals = [s for s in structures.values() if s.kind == "crystal"]
    assert len(crystals) == 33
    assert all(s.pbc == (True, True, True) for s in crystals)
    benzene = structures["x23/benzene"]
    # Four molecules of 78.11 g/mol, about 1.1 g/cm3 when cold.
    assert benzene.formula == "C24H24"
    assert np.linalg.det(benzene.cell) == pytest.approx(462, abs=15)
    assert pytest.approx(0.529177, abs=1e-6) == BOHR


def test_charges_and_spins(structures):
    assert structures["il16/008"].charge == 0
    assert structures["il16/008A"].charge == 1
    assert structures["il16/008B"].charge == -1
    assert (structures["rc21/1e"].charge, structures["rc21/1e"].multiplicity) == (1, 2)
    assert structures["f_block/GdCl3"].multiplicity == 8
    for structure in structures.values():
        if structure.multiplicity is not None:
            electrons = int(structure.numbers.sum()) - structure.charge
            assert (electrons + structure.multiplicity) % 2 == 1


@pytest.mark.parametrize(
    ("electrons", "unpaired", "expected"),
    [(10, None, 1), (9, 1, 2), (9, None, None), (10, 3, None)],
)
def test_a_spin_that_cannot_be_is_unknown(electrons, unpaired, expected):
    assert multiplicity_of(electrons, unpaired) == expected


@pytest.mark.parametrize(
    ("row", "smiles"),
    [
        ("il16/008", "Cn1cc[n+](C)c1.[Cl-]"),
        ("il16/150B", "O=[N+]([O-])[O-]"),
        ("heavy28/bih3_h2o", "O.[BiH3]"),
        ("rc21/2p2", "CC[O]"),
        ("rc21/1e", None),
        ("mb16_43/01", None),
        ("mb16_43/CH4", "C"),
        ("f_block/LaCl3", None),
        ("x23/benzene", None),
    ],
)
def test_smiles_where_derivable(structures, row, smiles):
    assert structures[row].smiles == smiles


def test_polyalanine_is_made_of_the_natural_hand(structures):
    for name, residues in (("polyala_04", 4), ("polyala_28", 28)):
        smiles = structures[f"polyalanine/{name}"].smiles
        assert smiles.count("N[C@@H](C)C(=O)") == residues - 1
        assert smiles.startswith("C[C@H](N)C(=O)")
