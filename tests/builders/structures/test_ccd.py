# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import biotite.structure.info as info
import numpy as np
import pytest
from biotite.interface import rdkit as biotite_rdkit
from rdkit import Chem

from matteratlas.builders.structures.ccd import (
    ENERGIES,
    HEAVY,
    METALS,
    ORGANIC,
    gfn2_energies,
)
from matteratlas.builders.structures.sets import iter_structures, starter_rows
from matteratlas.schemas.errors import SourceError


@pytest.fixture(scope="module")
def rows(loaded):
    return loaded("ccd").table.set_index("source_id", drop=False)


def test_organics_and_metal_components(rows):
    assert (rows["stratum"] != "metal").sum() == 3000
    assert (rows["stratum"] == "metal").sum() == 500


def test_strata_are_by_heavy_atoms(rows):
    heavy = rows["numbers"].map(lambda z: int((np.asarray(z) != 1).sum()))
    for stratum, (low, high) in HEAVY.items():
        assert heavy[rows["stratum"] == stratum].between(low, high).all()


def test_organics_are_neutral_small_and_organic(rows):
    organic = rows[rows["stratum"] != "metal"]
    assert (organic["charge"] == 0).all()
    assert organic["n_atoms"].between(2, 60).all()
    assert all(set(e) <= ORGANIC and "C" in e for e in organic["elements"])


def test_metal_components_hold_metals(rows):
    metal = rows[rows["stratum"] == "metal"]
    assert all(set(e) & METALS for e in metal["elements"])
    assert metal["charge"].nunique() > 5
    found = {e for elements in metal["elements"] for e in elements} & METALS
    assert {"Fe", "Ru", "Co", "Pt", "Zn", "Mg"} <= found and len(found) > 25


def test_smiles_are_there_for_every_organic_and_most_metals(rows):
    known = rows["smiles"].notna()
    assert known[rows["stratum"] != "metal"].all()
    assert known[rows["stratum"] == "metal"].mean() > 0.9


def test_smiles_hold_the_atoms_and_charge_of_the_row(rows):
    for _, row in rows[rows["smiles"].notna()].iloc[::25].iterrows():
        molecule = Chem.MolFromSmiles(row["smiles"])
        assert molecule is not None
        with_hydrogens = Chem.AddHs(molecule)
        assert sorted(a.GetAtomicNum() for a in with_hydrogens.GetAtoms()) == sorted(row["numbers"])
        assert Chem.GetFormalCharge(molecule) == row["charge"]
        assert Chem.MolToSmiles(molecule) == row["smiles"]


def test_smiles_agree_with_biotites_own_conversion(rows):
    sample = rows[rows["stratum"] != "metal"].iloc[::300]
    assert len(sample) == 10
    for component, row in sample.iterrows():
        molecule = biotite_rdkit.to_mol(info.residue(component))
        Chem.SanitizeMol(molecule)
        flat = Chem.MolToSmiles(Chem.RemoveHs(molecule), isomericSmiles=False)
        ours = Chem.MolToSmiles(Chem.MolFromSmiles(row["smiles"]), isomericSmiles=False)
        assert ours == flat


def test_stereo_marks_follow_the_coordinates(rows):
    from matteratlas.builders.structures.smiles import smiles_from_bonds

    marked = rows[rows["smiles"].str.contains("@", na=False) & (rows["stratum"] != "metal")]
    assert len(marked) > 500
    # L-alanine by its bonds; its mirror image is D-alanine.
    alanine = info.residue("ALA")
    bonds = [(int(i), int(j), {1: 1, 2: 2}[int(t) % 4]) for i, j, t in alanine.bonds.as_array()]
    symbols = [e.capitalize() for e in alanine.element]
    zero = [0] * len(symbols)
    left = smiles_from_bonds(symbols, zero, bonds, positions=alanine.coord)
    right = smiles_from_bonds(symbols, zero, bonds, positions=alanine.coord * [1, 1, -1])
    assert left == Chem.CanonSmiles("C[C@H](N)C(=O)O")
    assert right == Chem.CanonSmiles("C[C@@H](N)C(=O)O")


def test_geometry_is_the_dictionarys(loaded):
    found = loaded("ccd")
    for structure in next(iter_structures(found.table.iloc[::700], card=found.card)):
        ideal = info.residue(structure.source_id)
        assert [e.capitalize() for e in ideal.element] == structure.symbols
        np.testing.assert_allclose(structure.positions, ideal.coord, atol=1e-3)


def test_a_thousand_organic_molecules_carry_an_energy(loaded, rows):
    energy = rows["label_gfn2_energy"]
    known = rows[energy.notna()]
    assert len(known) == 1000
    assert (known["stratum"] != "metal").all()
    starter = rows[starter_rows(rows, loaded("ccd").card)]
    assert starter.loc[starter["stratum"] != "metal", "label_gfn2_energy"].notna().all()
    assert set(known["stratum"]) == set(HEAVY)


def test_energies_are_of_these_molecules(rows):
    """Total energies follow the composition to some hundredths of an eV an atom."""
    known = rows[rows["label_gfn2_energy"].notna()]
    elements = sorted({e for found in known["elements"] for e in found})
    counts = np.array(
        [
            [(np.asarray(z) == n).sum() for n in range(1, 54)]
            for z in known["numbers"]
        ],
        dtype=float,
    )  # fmt: skip
    assert np.linalg.matrix_rank(counts) == len(elements)
    energy = known["label_gfn2_energy"].to_numpy()
    left = energy - counts @ np.linalg.lstsq(counts, energy, rcond=None)[0]
    per_atom = np.abs(left) / known["n_atoms"].to_numpy()
    assert np.median(per_atom) < 0.05
    assert gfn2_energies().keys() == set(known.index)


def test_an_energy_file_of_another_origin_is_refused(tmp_path):
    other = tmp_path / "energies.csv"
    other.write_text(ENERGIES.read_text().replace("ev\n", "ev\nXYZ,-1.0\n"))
    with pytest.raises(SourceError, match=r"energies\.csv: .* made with"):
        gfn2_energies(other)
    with pytest.raises(SourceError, match="reinstall"):
        gfn2_energies(tmp_path / "absent.csv")
