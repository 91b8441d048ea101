# SPDX-License-Identifier: Apache-2.0
"""Lists of SMILES, and the one conformer each molecule gets.

Riniker and Landrum, J. Chem. Inf. Model. 55, 2562 (2015): ETKDG, version 3, from a fixed seed;
then MMFF94 (Halgren, J. Comput. Chem. 17, 490 (1996)), or UFF where it lacks parameters. Atoms are
in the order of the canonical SMILES, so that two spellings of a molecule are one structure.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from ...schemas.errors import StructureError, missing_extra
from ...schemas.names import odd_character
from ...schemas.structures import Structure
from .sets import LeftOut

if TYPE_CHECKING:
    from rdkit.Chem import Mol

#: Seed of every conformer.
SEED = 61453
#: Trials of the distance geometry, and steps of the force field, at most.
TRIALS, STEPS = 30, 2000
#: Between the parts of a salt before they are relaxed, in ångström.
SPACING = 2.5
#: Characters of a SMILES and atoms (with hydrogens) of a molecule, at most: beyond, distance
#: geometry takes minutes.
MAX_LENGTH, MAX_ATOMS = 1000, 300
#: Columns of a table that hold names, first come first.
NAMES = ("name", "id", "title")


def read_lines(text: str) -> Iterator[Structure | LeftOut]:
    """A SMILES a line, then its name; empty lines, ``#`` and a first line ``smiles`` are skipped.

    The ``source_id`` of what is given is the line's number.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.split(maxsplit=1)
        if not parts or parts[0].startswith("#") or (number == 1 and parts[0].lower() == "smiles"):
            continue
        yield _given(number, parts[0], parts[1].strip() if len(parts) > 1 else None)


def read_table(
    text: str, *, delimiter: str = ",", column: str | None = None
) -> Iterator[Structure | LeftOut]:
    """A table with a column of SMILES, and of names where there is one.

    Raises
    ------
    StructureError
        The table has no such column.
    """
    rows = csv.DictReader(StringIO(text), delimiter=delimiter)
    columns = {c.strip().lower(): c for c in rows.fieldnames or [] if c}
    wanted = (column or "smiles").strip().lower()
    if wanted not in columns:
        raise StructureError(
            f"has no column '{wanted}', it has {', '.join(columns) or 'none'}; name one"
        )
    label = next((columns[n] for n in NAMES if n in columns), None)
    for row in rows:
        value = (row[columns[wanted]] or "").strip()
        yield _given(rows.line_num, value, row[label] if label else None)


def _given(line: int, text: str, name: str | None) -> Structure | LeftOut:
    try:
        found = structure_from_smiles(text)
    except StructureError as error:
        return LeftOut(str(line), str(error))
    return replace(found, source_id=str(line), name=name or None)


def structure_from_smiles(text: str) -> Structure:
    """The molecule with its one conformer: the same for every spelling, on every run.

    Raises
    ------
    StructureError
        Not a SMILES, not a molecule that has a place in space, or too large.
    """
    if not text or len(text) > MAX_LENGTH or odd_character(text):
        raise StructureError(f"a SMILES has 1 to {MAX_LENGTH} printable characters")
    Chem, quiet = _rdkit()
    with quiet():
        mol = Chem.MolFromSmiles(text)
        if mol is None or mol.GetNumAtoms() == 0:
            raise StructureError(f"'{text[:60]}' is not a SMILES that rdkit accepts")
        return _embedded(mol)


def molecule(mol: Mol) -> Structure:
    """A molecule that came with coordinates; without (all of) them it is given a conformer."""
    Chem, quiet = _rdkit()
    with quiet():
        title = mol.GetProp("_Name").strip() if mol.HasProp("_Name") else ""
        whole = Chem.AddHs(mol).GetNumAtoms() == mol.GetNumAtoms()
        flat = mol.GetNumConformers() == 0
        if not flat and mol.GetNumAtoms() > 1:
            flat = not np.abs(mol.GetConformer().GetPositions()[:, 2]).max() > 0
            flat = flat and not mol.GetConformer().Is3D()
        if whole and not flat:
            positions = np.array(mol.GetConformer().GetPositions())
            return _structure(mol, positions, _canonical(mol), title)
        bare = Chem.RemoveHs(mol)
        if not flat:
            Chem.AssignStereochemistryFrom3D(bare)
        return _embedded(bare, title)


def _embedded(mol: Mol, name: str = "") -> Structure:
    Chem, _ = _rdkit()
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    smiles = _canonical(mol)
    ordered = Chem.MolFromSmiles(smiles)
    if ordered is None or any(a.GetAtomicNum() == 0 for a in ordered.GetAtoms()):
        raise StructureError(f"'{smiles[:60]}' has atoms of no element, or no canonical SMILES")
    full = Chem.AddHs(ordered)
    if full.GetNumAtoms() > MAX_ATOMS:
        raise StructureError(
            f"'{smiles[:60]}' has {full.GetNumAtoms()} atoms; at most {MAX_ATOMS} get a "
            "conformer, give a file with coordinates"
        )
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = SEED
    parameters.maxIterations = TRIALS
    parameters.numThreads = 1
    for parameters.useRandomCoords in (False, True):
        if rdDistGeom.EmbedMolecule(full, parameters) == 0:
            break
    else:
        raise StructureError(f"'{smiles[:60]}' got no conformer; give a file with coordinates")
    _apart(full)
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(full):
        rdForceFieldHelpers.MMFFOptimizeMolecule(full, maxIters=STEPS)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(full):
        rdForceFieldHelpers.UFFOptimizeMolecule(full, maxIters=STEPS)
    return _structure(full, np.array(full.GetConformer().GetPositions()), smiles, name)


def _apart(mol: Mol) -> None:
    """Set the parts of a salt side by side along x: distance geometry puts all in one place."""
    Chem, _ = _rdkit()
    parts = Chem.GetMolFrags(mol)
    if len(parts) == 1:
        return
    conformer = mol.GetConformer()
    positions = np.array(conformer.GetPositions())
    edge = 0.0
    for part in map(list, parts):
        own = positions[part] - positions[part].mean(axis=0)
        own[:, 0] += edge - own[:, 0].min()
        edge = float(own[:, 0].max()) + SPACING
        for atom, place in zip(part, own.tolist(), strict=True):
            conformer.SetAtomPosition(atom, place)


def _canonical(mol: Mol) -> str:
    """Canonical SMILES, as of the molecule read back from it."""
    Chem, _ = _rdkit()
    text = Chem.MolToSmiles(Chem.RemoveHs(mol))
    back = Chem.MolFromSmiles(text)
    if back is None:
        raise StructureError(f"'{text[:60]}' is not a SMILES that rdkit reads back")
    return str(Chem.MolToSmiles(back))


def _structure(mol: Mol, positions: np.ndarray, smiles: str, name: str) -> Structure:
    Chem, _ = _rdkit()
    unpaired = sum(a.GetNumRadicalElectrons() for a in mol.GetAtoms())
    return Structure(
        source_id="",
        kind="molecule",
        stratum="",
        numbers=np.array([a.GetAtomicNum() for a in mol.GetAtoms()], dtype=np.int64),
        positions=positions,
        smiles=smiles,
        charge=int(Chem.GetFormalCharge(mol)),
        multiplicity=unpaired + 1 if unpaired else None,
        name=name or None,
    )


def _rdkit() -> tuple[Any, Any]:
    try:
        from rdkit import Chem, rdBase
    except ModuleNotFoundError as error:
        raise missing_extra("rdkit", "sources") from error
    return Chem, rdBase.BlockLogs
