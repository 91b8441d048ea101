# SPDX-License-Identifier: Apache-2.0
"""Readers of structure files: text in, structures (or why there is none) out, in file order.

Structures have an empty ``source_id`` and stratum; :mod:`.files` names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ...schemas.errors import StructureError, missing_extra
from ...schemas.structures import ATOMIC_NUMBERS, Structure
from .crystals import PERIODIC
from .proteins import BACKBONE, PEPTIDE_BOND, RESIDUES
from .sets import LeftOut
from .smiles import smiles_from_geometry
from .smiles_lists import molecule

if TYPE_CHECKING:
    import gemmi
    from ase import Atoms

#: Sites of a crystal that are at most this far from full count as full.
OCCUPANCY = 0.01


def read_cif(text: str) -> Iterator[Structure | LeftOut]:
    """Every block of a CIF: a crystal with its symmetry expanded, or the chains of an entry.

    Disordered crystals (sites that are partly occupied) are left out: no model here reads them.
    """
    gemmi = _gemmi()
    for block in gemmi.cif.read_string(text):
        if block.find_values("_atom_site.Cartn_x"):
            yield from _entry(gemmi.make_structure_from_block(block), block.name)
            continue
        small = gemmi.make_small_structure_from_block(block)
        if small.sites:
            try:
                yield _crystal(small, block.name)
            except StructureError as error:
                yield LeftOut("", str(error))


def _crystal(small: gemmi.SmallStructure, name: str) -> Structure:
    for site in small.sites:
        if site.element.atomic_number == 0:
            raise StructureError(f"site {site.label} is of no element")
        if site.occ < 1.0 - OCCUPANCY:
            raise StructureError(
                f"site {site.label} is occupied to {site.occ:.2f}; give an ordered crystal"
            )
    if not small.cell.is_crystal():
        raise StructureError("it has no unit cell")
    sites = small.get_all_unit_cell_sites()
    cell = np.array(small.cell.orth.mat.tolist()).T
    fractions = np.array([site.fract.tolist() for site in sites])
    return Structure(
        source_id="",
        kind="crystal",
        stratum="",
        numbers=np.array([site.element.atomic_number for site in sites], dtype=np.int64),
        positions=fractions @ cell,
        cell=cell,
        pbc=PERIODIC,
        name=name or None,
    )


def read_pdb(text: str) -> Iterator[Structure | LeftOut]:
    """The chains of a PDB entry; where there are none, all its atoms as a molecule."""
    yield from _entry(_gemmi().read_pdb_string(text), "")


def _entry(entry: gemmi.Structure, name: str) -> Iterator[Structure | LeftOut]:
    """Protein chains of the first model, first conformation, without waters and ligands."""
    if not len(entry):
        return
    entry.setup_entities()
    entry.remove_alternative_conformations()
    label = entry.name or name
    chains = [(chain.name, list(chain.get_polymer())) for chain in entry[0]]
    polymers = [(chain, residues) for chain, residues in chains if len(residues) > 1]
    for chain, residues in polymers:
        try:
            yield _protein(residues, f"{label} chain {chain}".strip())
        except StructureError as error:
            yield LeftOut("", f"chain {chain}: {error}")
    if not polymers:
        atoms = [atom for chain in entry[0] for residue in chain for atom in residue]
        if atoms:
            numbers = np.array([a.element.atomic_number for a in atoms], dtype=np.int64)
            positions = np.array([a.pos.tolist() for a in atoms])
            yield _molecule(numbers, positions, charge=sum(a.charge for a in atoms), name=label)


def _protein(residues: list[gemmi.Residue], name: str) -> Structure:
    strange = next((r for r in residues if r.name not in RESIDUES), None)
    if strange is not None:
        raise StructureError(f"residue {strange} is not one of the twenty amino acids")
    for residue in residues:
        if any(residue.find_atom(atom, "*") is None for atom in BACKBONE):
            raise StructureError(f"residue {residue} lacks an atom of the backbone")
    for first, second in pairwise(residues):
        reach = first.find_atom("C", "*").pos.dist(second.find_atom("N", "*").pos)
        if reach >= PEPTIDE_BOND:
            raise StructureError(f"it is broken between residues {first} and {second}")
    heavy = [a for r in residues for a in r if not a.is_hydrogen()]
    return Structure(
        source_id="",
        kind="protein",
        stratum="",
        numbers=np.array([a.element.atomic_number for a in heavy], dtype=np.int64),
        positions=np.array([a.pos.tolist() for a in heavy]),
        sequence="".join(RESIDUES[r.name] for r in residues),
        backbone=np.array([[r.find_atom(n, "*").pos.tolist() for n in BACKBONE] for r in residues]),
        name=name or None,
    )


def read_xyz(text: str) -> Iterator[Structure | LeftOut]:
    """Every frame of a plain or extended XYZ file.

    Extended headers may give ``Lattice``, ``pbc``, ``charge`` (or ``total_charge``) and
    ``multiplicity``. A header that is no extended one is a comment.
    """
    from ase.io import iread

    extended = "lattice" in text.lower()
    count = 0
    try:
        for atoms in iread(StringIO(text), index=":", format="extxyz"):
            count += 1
            yield _from_ase(atoms)
    except Exception:
        # A comment may look like a broken header; one with a lattice is no comment.
        if extended or count:
            raise
        for atoms in iread(StringIO(text), index=":", format="xyz"):
            yield _from_ase(atoms)


def read_poscar(text: str) -> Iterator[Structure | LeftOut]:
    """The crystal of a POSCAR or CONTCAR."""
    from ase.io import read

    atoms = read(StringIO(text), index=-1, format="vasp")
    yield _from_ase(atoms[-1] if isinstance(atoms, list) else atoms)


def _from_ase(atoms: Atoms) -> Structure:
    info: dict[str, Any] = atoms.info
    charge = round(float(info.get("charge", info.get("total_charge", 0))))
    spin = info.get("multiplicity")
    multiplicity = None if spin is None else int(spin)
    numbers = np.asarray(atoms.numbers, dtype=np.int64)
    positions = np.asarray(atoms.positions, dtype=float)
    name = str(info["name"]) if "name" in info else None
    if not atoms.pbc.any():
        return _molecule(numbers, positions, charge=charge, multiplicity=multiplicity, name=name)
    a, b, c = (bool(p) for p in atoms.pbc)
    return Structure(
        source_id="",
        kind="crystal",
        stratum="",
        numbers=numbers,
        positions=positions,
        cell=np.asarray(atoms.cell[:], dtype=float),
        pbc=(a, b, c),
        charge=charge,
        multiplicity=multiplicity,
        name=name,
    )


def _molecule(
    numbers: np.ndarray,
    positions: np.ndarray,
    *,
    charge: int = 0,
    multiplicity: int | None = None,
    name: str | None = None,
) -> Structure:
    """A molecule known by its atoms; its SMILES where the geometry gives one."""
    known = len(numbers) > 0 and all(0 < z <= max(ATOMIC_NUMBERS.values()) for z in numbers)
    smiles = None
    if known and np.isfinite(positions).all():
        smiles = smiles_from_geometry(numbers, positions, charge=charge, multiplicity=multiplicity)
    return Structure(
        source_id="",
        kind="molecule",
        stratum="",
        numbers=numbers,
        positions=positions,
        smiles=smiles,
        charge=charge,
        multiplicity=multiplicity,
        name=name or None,
    )


def read_sdf(text: str) -> Iterator[Structure | LeftOut]:
    """Every molecule of an SDF or MOL file.

    One without coordinates in space, or without its hydrogens, is given a conformer as if it came
    as SMILES.
    """
    try:
        from rdkit import Chem, rdBase
    except ModuleNotFoundError as error:
        raise missing_extra("rdkit", "sources") from error
    supplier = Chem.SDMolSupplier()
    with rdBase.BlockLogs():
        supplier.SetData(text, removeHs=False)
        for mol in supplier:
            if mol is None:
                yield LeftOut("", "rdkit refuses the molecule (broken block, or wrong valences)")
                continue
            try:
                yield molecule(mol)
            except StructureError as error:
                yield LeftOut("", str(error))


def _gemmi() -> Any:
    try:
        import gemmi
    except ModuleNotFoundError as error:
        raise missing_extra("gemmi", "sources") from error
    return gemmi
