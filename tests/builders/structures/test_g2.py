# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from ase.data.g2 import data, get_atomization_energy
from ase.data.g2_1 import molecule_names

from matteratlas.builders.structures.g2 import KCAL_PER_MOL, stratum_of


@pytest.fixture(scope="module")
def rows(loaded):
    return loaded("g2").table.set_index("source_id")


def test_all_148_molecules_have_an_experimental_energy(rows):
    assert len(rows) == 148
    assert rows["label_atomization_energy"].gt(0).all()
    assert rows["label_formation_enthalpy"].notna().all()


@pytest.mark.parametrize(
    ("name", "kcal"), [("LiH", 58.00), ("CH4", 420.18), ("C6H6", 1367.71), ("BF3", 469.9)]
)
def test_known_atomisation_energies(rows, name, kcal):
    # In kcal/mol, as the thermochemical tables print them.
    energy = rows.loc[name, "label_atomization_energy"] / KCAL_PER_MOL
    assert energy == pytest.approx(kcal, abs=0.5 if name == "BF3" else 0.01)


def test_the_formula_is_ases_where_ase_has_one(rows):
    for name in molecule_names:
        assert rows.loc[name, "label_atomization_energy"] == pytest.approx(
            get_atomization_energy(name) * KCAL_PER_MOL, abs=1e-9
        )


def test_the_unit_is_ases():
    from ase.units import kcal, mol

    assert pytest.approx(kcal / mol, rel=1e-7) == KCAL_PER_MOL


def test_geometries_are_the_imported_packages(rows):
    for name, row in rows.iterrows():
        flat = [x for xyz in data[name]["positions"] for x in xyz]
        assert list(row["positions"]) == pytest.approx(flat, abs=0)


def test_spins_are_the_electron_counts(rows):
    electrons = rows["numbers"].map(sum) - rows["charge"]
    assert ((electrons + rows["multiplicity"]) % 2 == 1).all()
    assert rows.loc[["O2", "CH2_s3B1d"], "multiplicity"].tolist() == [3, 3]
    assert rows.loc[["CH2_s1A1d", "H2O"], "multiplicity"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("name", "smiles"),
    [
        ("CH4", "C"),
        ("C6H6", "c1ccccc1"),
        ("CO", "[C-]#[O+]"),
        ("CO2", "O=C=O"),
        ("CS2", "S=C=S"),
        ("SO2", "O=S=O"),
        ("O3", "O=[O+][O-]"),
        ("N2O", "N#[N+][O-]"),
        ("CH3NO2", "C[N+](=O)[O-]"),
        ("C2H6SO", "CS(C)=O"),
        ("C5H5N", "c1ccncc1"),
        ("CN", "[C]#N"),
        ("NO2", "[O]N=O"),
        ("CH3CO", "C[C]=O"),
        ("O2", "[O][O]"),
        ("LiF", "[Li][F]"),
        ("ClF3", None),
    ],
)
def test_known_smiles(rows, name, smiles):
    assert rows.loc[name, "smiles"] == smiles


def test_smiles_are_there_for_all_but_one(rows):
    assert rows["smiles"].isna().sum() == 1


@pytest.mark.parametrize(
    ("composition", "multiplicity", "stratum"),
    [
        ({"C": 1, "H": 4}, 1, "organic"),
        ({"C": 1, "Cl": 4}, 1, "organic"),
        ({"C": 2, "N": 2}, 1, "organic"),
        ({"C": 1, "O": 2}, 1, "inorganic_small"),
        ({"Na": 1, "Cl": 1}, 1, "inorganic_small"),
        ({"C": 1, "H": 3}, 2, "radical"),
    ],
)
def test_strata(composition, multiplicity, stratum):
    assert stratum_of(composition, multiplicity) == stratum
