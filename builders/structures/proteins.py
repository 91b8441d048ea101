# SPDX-License-Identifier: Apache-2.0
"""Protein chains with sequence and backbone, from PDB entries that packages ship for tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...registry.hub import package_file
from ...schemas.cards import StructureSetCard
from ...schemas.structures import ATOMIC_NUMBERS, Structure

if TYPE_CHECKING:
    import gemmi

#: Three-letter -> one-letter code of the standard amino acids.
RESIDUES: dict[str, str] = dict(
    zip(
        "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL".split(),
        "ARNDCQEGHILKMFPSTWYV",
        strict=True,
    )
)
BACKBONE: tuple[str, ...] = ("N", "CA", "C", "O")
#: Residues a chain may have.
LENGTHS = (20, 400)
#: Longest C-N distance of a peptide bond, in ångström; more is a break in the chain.
PEPTIDE_BOND = 2.0
#: A chain that shares more than this part of its five-residue words with one already taken is
#: left out.
OVERLAP = 0.7
#: Stratum -> residues, both ends included.
STRATA: dict[str, tuple[int, int]] = {"short": (20, 99), "medium": (100, 149), "long": (150, 400)}

#: PDB entries by their code, some with their chain: not the doctored variants among test data.
_ENTRY = re.compile(r"^(\d[A-Za-z0-9]{3})[A-Z]?\.(?:pdb|cif)(?:\.gz)?$")


def load(card: StructureSetCard) -> Iterator[Structure]:
    """Chains of every source in the card's order, files by path, chains as in the file.

    Taken are chains of standard residues only, every residue with N, CA, C and O, unbroken, of
    20 to 400 residues, unlike any chain taken before. The first conformation of the first model
    counts; hydrogens, waters and ligands do not.
    """
    taken: list[set[str]] = []
    for source in card.sources:
        folder = package_file(source.package, source.path, kind=source.kind, sha256=source.sha256)
        for path in sorted(p for p in folder.rglob("*") if _ENTRY.match(p.name)):
            # The package's name says in which of the sources a row is.
            where = f"{source.package.partition('==')[0]}/{path.relative_to(folder).as_posix()}"
            for chain in _chains(path):
                residues = _polymer(chain)
                sequence = _sequence(residues)
                if sequence is None or not _is_complete(residues):
                    continue
                words = {sequence[i : i + 5] for i in range(len(sequence) - 4)}
                if any(len(words & w) > OVERLAP * min(len(words), len(w)) for w in taken):
                    continue
                taken.append(words)
                yield _structure(f"{where}:{chain.name}", path, residues, sequence)


def _chains(path: Path) -> list[gemmi.Chain]:
    import gemmi

    entry = gemmi.read_structure(str(path))
    entry.setup_entities()
    entry.remove_alternative_conformations()
    return list(entry[0]) if len(entry) else []


def _polymer(chain: gemmi.Chain) -> list[gemmi.Residue]:
    # Files without waters or ligands may say nothing of entities: then all residues count.
    return list(chain.get_polymer()) or list(chain)


def _sequence(residues: list[gemmi.Residue]) -> str | None:
    low, high = LENGTHS
    if not low <= len(residues) <= high or any(r.name not in RESIDUES for r in residues):
        return None
    return "".join(RESIDUES[r.name] for r in residues)


def _is_complete(residues: list[gemmi.Residue]) -> bool:
    if any(r.find_atom(name, "*") is None for r in residues for name in BACKBONE):
        return False
    return all(
        first.find_atom("C", "*").pos.dist(second.find_atom("N", "*").pos) < PEPTIDE_BOND
        for first, second in pairwise(residues)
    )


def _structure(
    source_id: str, path: Path, residues: list[gemmi.Residue], sequence: str
) -> Structure:
    numbers: list[int] = []
    positions: list[list[float]] = []
    for residue in residues:
        for atom in residue:
            # Standard residues hold C, N, O, S and H; older files leave the element column blank.
            element = atom.name.lstrip("0123456789")[0]
            if element not in "HD":
                numbers.append(ATOMIC_NUMBERS[element])
                positions.append(atom.pos.tolist())
    backbone = [[r.find_atom(name, "*").pos.tolist() for name in BACKBONE] for r in residues]
    code = _ENTRY.match(path.name)
    entry = code.group(1).upper() if code else path.stem
    return Structure(
        source_id=source_id,
        kind="protein",
        stratum=next(s for s, (low, high) in STRATA.items() if low <= len(sequence) <= high),
        numbers=np.array(numbers),
        positions=np.array(positions),
        sequence=sequence,
        backbone=np.array(backbone),
        name=f"PDB {entry}, chain {source_id.rpartition(':')[2]}",
        labels=_secondary_structure(path, len(residues)),
    )


def _secondary_structure(path: Path, length: int) -> dict[str, float]:
    """Helix and strand fractions from the DSSP string beside the file, where there is one."""
    beside = path.with_name(f"{path.name.removesuffix('.gz')}.dssp")
    if not beside.is_file():
        return {}
    letters = beside.read_text(encoding="ascii").split()[0]
    if len(letters) != length:
        return {}
    return {
        "helix_fraction": letters.count("H") / length,
        "strand_fraction": letters.count("E") / length,
    }
