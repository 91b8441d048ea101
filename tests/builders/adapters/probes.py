# SPDX-License-Identifier: Apache-2.0
"""Real, cheap structures in every form, for the tests of adapters."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from matteratlas.schemas.structures import Structure

SMILES = {"CH3CH2OH": "CCO", "C6H6": "c1ccccc1", "CH3COOH": "CC(=O)O"}
#: Equal lengths: some sequence models compile once for each length.
SEQUENCES = ("MKTAYIAKQR", "GSHMWEDLFN")


def from_ase(atoms: Atoms, name: str, **known: Any) -> Structure:
    """A structure from ASE atoms: a crystal when periodic in any direction, else a molecule."""
    periodic = bool(atoms.pbc.any())
    digest = base64.b32encode(hashlib.sha256(name.encode()).digest()).decode().lower()
    return Structure(
        id=f"ma1-{digest[:26]}",
        set="probes",
        source_id=name,
        name=name,
        kind="crystal" if periodic else "molecule",
        stratum="probes",
        numbers=atoms.numbers.astype(np.int64),
        positions=atoms.positions.copy(),
        cell=np.array(atoms.cell) if periodic else np.zeros((3, 3)),
        pbc=tuple(bool(p) for p in atoms.pbc),  # type: ignore[arg-type]
        **known,
    )


def to_ase_atoms(structure: Structure) -> Atoms:
    """The way back, for calculators."""
    return Atoms(
        numbers=structure.numbers,
        positions=structure.positions,
        cell=structure.cell,
        pbc=structure.pbc,
        info={"charge": structure.charge},
    )


@cache
def molecules() -> tuple[Structure, ...]:
    """Three organic molecules of the G2 set, with SMILES."""
    return tuple(
        from_ase(molecule(name), name, smiles=smiles, multiplicity=1)
        for name, smiles in SMILES.items()
    )


@cache
def crystals() -> tuple[Structure, ...]:
    """Silicon, rock salt and wurtzite; primitive cells."""
    return (
        from_ase(bulk("Si"), "Si"),
        from_ase(bulk("NaCl", "rocksalt", a=5.64), "NaCl"),
        from_ase(bulk("ZnO", "wurtzite", a=3.25, c=5.2), "ZnO"),
    )


@cache
def proteins() -> tuple[Structure, ...]:
    """Two short peptides: sequence, heavy atoms and backbone, embedded by RDKit."""
    return tuple(_peptide(sequence) for sequence in SEQUENCES)


def everything() -> tuple[Structure, ...]:
    """All of the above; any model can read some of them."""
    return molecules() + crystals() + proteins()


def _peptide(sequence: str) -> Structure:
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    mol = Chem.AddHs(Chem.MolFromSequence(sequence))
    if rdDistGeom.EmbedMolecule(mol, randomSeed=7) != 0:
        raise RuntimeError(f"no geometry for peptide {sequence}")
    mol = Chem.RemoveHs(mol)
    positions = mol.GetConformer().GetPositions()
    backbone = np.full((len(sequence), 4, 3), np.nan)
    for atom in mol.GetAtoms():
        info = atom.GetPDBResidueInfo()
        name = info.GetName().strip()
        if name in ("N", "CA", "C", "O"):
            slot = ("N", "CA", "C", "O").index(name)
            backbone[info.GetResidueNumber() - 1, slot] = positions[atom.GetIdx()]
    if not np.isfinite(backbone).all():
        raise RuntimeError(f"backbone of peptide {sequence} is incomplete")
    atoms = Atoms(numbers=[a.GetAtomicNum() for a in mol.GetAtoms()], positions=positions)
    built = from_ase(atoms, sequence, sequence=sequence, backbone=backbone)
    return _as_protein(built)


def _as_protein(structure: Structure) -> Structure:
    import dataclasses

    return dataclasses.replace(structure, kind="protein")
