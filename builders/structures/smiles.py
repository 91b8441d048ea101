# SPDX-License-Identifier: Apache-2.0
"""SMILES from what a source gives: bonds where it lists them, else the geometry.

A SMILES is kept only when it passes its cross-checks (all atoms present, total charge, number of
unpaired electrons); otherwise the structure has none. A wrong string would teach string models a
different molecule than the one the 3D models see.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ...schemas.errors import missing_extra
from ...schemas.structures import ATOMIC_NUMBERS

if TYPE_CHECKING:
    from rdkit.Chem import Mol, RemoveHsParameters, RWMol

#: Elements whose bonds can be told from distances and valences.
COVALENT: frozenset[int] = frozenset(
    ATOMIC_NUMBERS[s]
    for s in "H Li Be B C N O F Na Mg Al Si P S Cl Ge As Se Br Sn Sb Te I Pb Bi".split()
)
#: Search steps allowed to rdkit's bond-order assignment; keeps odd cases cheap.
MAX_ITERATIONS = 2000
#: Size above which bond orders are not searched for.
MAX_ATOMS = 300


def smiles_from_geometry(
    numbers: np.ndarray, positions: np.ndarray, *, charge: int = 0, multiplicity: int | None = None
) -> str | None:
    """Canonical SMILES of a molecule known by its atoms alone, or None where not derivable.

    Closed shells go through rdkit's ``DetermineBonds`` (Kim and Kim, Bull. Korean Chem. Soc. 36,
    1769 (2015)), with charges on atoms only where no neutral structure exists. Open shells
    (neutral only) start from single bonds and raise bond orders between neighbouring radical
    centres until ``multiplicity - 1`` electrons are unpaired.

    Parameters
    ----------
    numbers, positions:
        (n,) atomic numbers; (n, 3) ångström.
    charge, multiplicity:
        Total charge in e; 2S+1. None is read as the lowest the electron count allows.
    """
    _chem()
    numbers = np.asarray(numbers, dtype=int)
    if len(numbers) > MAX_ATOMS or not set(numbers.tolist()) <= COVALENT:
        return None
    electrons = int(numbers.sum()) - charge
    spin = multiplicity - 1 if multiplicity is not None else electrons % 2
    if spin % 2 != electrons % 2:
        return None
    with _quiet():
        if len(numbers) == 1:
            return _atom(int(numbers[0]), charge, spin)
        bare = _bare_molecule(numbers, positions)
        if spin == 0:
            for separated, molecule in product((False, True), _reordered(bare)):
                found = _closed_shell(molecule, charge, separated=separated)
                if found is not None:
                    return found
        return _open_shell(bare, spin) if charge == 0 else None


def smiles_from_bonds(
    symbols: Sequence[str],
    charges: Sequence[int],
    bonds: Sequence[tuple[int, int, int]],
    *,
    positions: np.ndarray | None = None,
) -> str | None:
    """Canonical SMILES of a molecule whose bonds the source lists, or None where not derivable.

    Parameters
    ----------
    symbols, charges:
        Element and formal charge, one an atom, hydrogens included.
    bonds:
        (atom, atom, order) with order 1, 2 or 3 (Kekulé form).
    positions:
        (n, 3) ångström; gives the stereo marks when present.

    Bonds from a lone pair to a metal are first read as written and, where that breaks valence
    rules, as dative.
    """
    Chem = _chem()
    order = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
    molecule = _atoms([ATOMIC_NUMBERS[s] for s in symbols], positions)
    for atom, charge in zip(molecule.GetAtoms(), charges, strict=True):
        atom.SetFormalCharge(int(charge))
    for first, second, multiple in bonds:
        molecule.AddBond(int(first), int(second), order[int(multiple)])
    total = sum(map(int, charges))
    with _quiet():
        text = _written(molecule, charge=total, spin=None)
        return text or _written(_dative(molecule), charge=total, spin=None)


def _quiet() -> AbstractContextManager[Any]:
    """No rdkit messages: a molecule it refuses is an answer here, not a fault."""
    from rdkit import rdBase

    return rdBase.BlockLogs()


def _chem():  # type: ignore[no-untyped-def]
    try:
        from rdkit import Chem
    except ModuleNotFoundError as error:
        raise missing_extra("rdkit", "sources") from error
    return Chem


def _atoms(numbers: Sequence[int], positions: np.ndarray | None) -> RWMol:
    Chem = _chem()
    molecule = Chem.RWMol()
    for z in numbers:
        atom = Chem.Atom(int(z))
        atom.SetNoImplicit(True)  # every hydrogen is an atom of its own
        molecule.AddAtom(atom)
    if positions is not None:
        conformer = Chem.Conformer(len(numbers))
        for i, xyz in enumerate(np.asarray(positions, dtype=float).tolist()):
            conformer.SetAtomPosition(i, xyz)
        molecule.AddConformer(conformer)
    return molecule


def _bare_molecule(numbers: np.ndarray, positions: np.ndarray) -> Mol:
    """Single bonds between neighbours, atoms in canonical order."""
    from rdkit.Chem import rdDetermineBonds

    molecule = _atoms(numbers.tolist(), positions)
    rdDetermineBonds.DetermineConnectivity(molecule)
    ranks = _chem().CanonicalRankAtoms(molecule, breakTies=True)
    return _chem().RenumberAtoms(molecule, [int(i) for i in np.argsort(ranks)])


def _reordered(molecule: Mol) -> list[Mol]:
    """The molecule with its atoms in this and the reverse order.

    Whether rdkit finds the bond orders of, say, a nitro group depends on the order of the atoms;
    a fixed order makes the answer the same for every file, and a second one finds more.
    """
    backwards = list(range(molecule.GetNumAtoms()))[::-1]
    return [molecule, _chem().RenumberAtoms(molecule, backwards)]


def _atom(number: int, charge: int, spin: int) -> str | None:
    molecule = _atoms([number], None)
    molecule.GetAtomWithIdx(0).SetFormalCharge(charge)
    return _written(molecule, charge=charge, spin=spin)


def _closed_shell(bare: Mol, charge: int, *, separated: bool) -> str | None:
    from rdkit.Chem import rdDetermineBonds

    molecule = _chem().RWMol(bare)
    try:
        rdDetermineBonds.DetermineBondOrders(
            molecule,
            charge=charge,
            allowChargedFragments=separated,
            embedChiral=False,
            maxIterations=MAX_ITERATIONS,
        )
    except (ValueError, RuntimeError):  # rdkit's way to say that no assignment fits
        return None
    return _written(_neutralised(molecule), charge=charge, spin=0)


def _open_shell(bare: Mol, spin: int) -> str | None:
    """Single bonds raised until ``spin`` electrons are unpaired; a lone pair on one atom may stay.

    SMILES cannot tell triplet from singlet methylene: both are ``[CH2]``, with two free valences.
    """
    Chem = _chem()
    molecule = Chem.RWMol(bare)
    raise_to = {
        Chem.BondType.SINGLE: Chem.BondType.DOUBLE,
        Chem.BondType.DOUBLE: Chem.BondType.TRIPLE,
    }
    while True:
        try:
            Chem.SanitizeMol(molecule)
        except ValueError:
            return None
        free = [a.GetNumRadicalElectrons() for a in molecule.GetAtoms()]
        if sum(free) <= spin:
            break
        candidates = [
            b
            for b in molecule.GetBonds()
            if free[b.GetBeginAtomIdx()] and free[b.GetEndAtomIdx()] and b.GetBondType() in raise_to
        ]
        if not candidates:
            break
        bond = max(
            candidates,
            key=lambda b: (free[b.GetBeginAtomIdx()] + free[b.GetEndAtomIdx()], -b.GetIdx()),
        )
        for atom in (bond.GetBeginAtom(), bond.GetEndAtom()):
            atom.SetNumRadicalElectrons(atom.GetNumRadicalElectrons() - 1)
        bond.SetBondType(raise_to[bond.GetBondType()])
    excess = sum(free) - spin
    on_one_centre = max(free) >= excess
    if excess < 0 or excess % 2 or (excess and not on_one_centre):
        return None
    return _written(molecule, charge=0, spin=sum(free))


def _neutralised(molecule: Mol) -> Mol:
    """Opposite charges removed where valence allows: ``[S+]-[O-]`` to ``S=O``,
    ``[S+]#C[S-]`` to ``S=C=S``; nitro groups and carbon monoxide stay as they are.
    """
    Chem = _chem()
    for pattern, orders in (
        ("[+1:1]-[-1:2]", [Chem.BondType.DOUBLE]),
        ("[+1:1]#[+0:2]-[-1:3]", [Chem.BondType.DOUBLE, Chem.BondType.DOUBLE]),
    ):
        query = Chem.MolFromSmarts(pattern)
        for match in molecule.GetSubstructMatches(query):
            trial = Chem.RWMol(molecule)
            for i, order in enumerate(orders):
                trial.GetBondBetweenAtoms(match[i], match[i + 1]).SetBondType(order)
            trial.GetAtomWithIdx(match[0]).SetFormalCharge(0)
            trial.GetAtomWithIdx(match[-1]).SetFormalCharge(0)
            try:
                Chem.SanitizeMol(trial)
            except ValueError:
                continue
            if not any(a.GetNumRadicalElectrons() for a in trial.GetAtoms()):
                molecule = trial
    return molecule


def _dative(molecule: Mol) -> Mol:
    """Single bonds to metals turned into dative bonds from the other atom."""
    Chem = _chem()
    metal = Chem.MolFromSmarts("[!#1;!#2;!#5;!#6;!#7;!#8;!#9;!#14;!#15;!#16;!#17;!#34;!#35;!#53]")
    metals = {i for (i,) in molecule.GetSubstructMatches(metal)}
    out = Chem.RWMol(molecule)
    for bond in list(molecule.GetBonds()):
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if (ends[0] in metals) != (ends[1] in metals):
            donor, acceptor = ends if ends[1] in metals else ends[::-1]
            out.RemoveBond(*ends)
            out.AddBond(donor, acceptor, Chem.BondType.DATIVE)
    return out


def _written(molecule: Mol, *, charge: int, spin: int | None) -> str | None:
    """Canonical SMILES after the cross-checks, or None.

    Checks: rdkit accepts the valences; charge and unpaired electrons are as asked; the string,
    read back, holds the same atoms and writes the same string.
    """
    Chem = _chem()
    molecule = Chem.Mol(molecule)
    try:
        Chem.SanitizeMol(molecule)
        if molecule.GetNumConformers():
            Chem.AssignStereochemistryFrom3D(molecule)
            _forget_coordination(molecule)
        if Chem.GetFormalCharge(molecule) != charge:
            return None
        unpaired = sum(a.GetNumRadicalElectrons() for a in molecule.GetAtoms())
        if spin is not None and unpaired != spin:
            return None
        text = Chem.MolToSmiles(Chem.RemoveHs(molecule, _plain_hydrogens()))
        back = Chem.MolFromSmiles(text)
    except (ValueError, RuntimeError):  # rdkit's sanitisation errors
        return None
    if back is None or _content(back) != _content(molecule):
        return None
    written = Chem.MolToSmiles(back)
    return written if Chem.CanonSmiles(written) == written else None


def _forget_coordination(molecule: Mol) -> None:
    """Drop the marks of square-planar, octahedral and like centres, which rdkit does not write in
    one canonical way and string models do not know.
    """
    Chem = _chem()
    known = (
        Chem.ChiralType.CHI_UNSPECIFIED,
        Chem.ChiralType.CHI_TETRAHEDRAL_CW,
        Chem.ChiralType.CHI_TETRAHEDRAL_CCW,
    )
    for atom in molecule.GetAtoms():
        if atom.GetChiralTag() not in known:
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)


def _plain_hydrogens() -> RemoveHsParameters:
    """Hydrogens are written as counts, also where one marks a double bond's side (imines)."""
    parameters = _chem().RemoveHsParameters()
    parameters.removeDefiningBondStereo = True
    return parameters


def _content(molecule: Mol) -> dict[int, int]:
    """Atomic number -> count, hydrogens included."""
    found: dict[int, int] = {}
    for atom in molecule.GetAtoms():
        z = atom.GetAtomicNum()
        found[z] = found.get(z, 0) + 1
        hydrogens = atom.GetTotalNumHs()
        if hydrogens:
            found[1] = found.get(1, 0) + hydrogens
    return found
