# SPDX-License-Identifier: Apache-2.0
"""A structure in words: the text that language models embed.

Deterministic, from structure alone: no labels, no names, no set, so that what a text model says of
a structure comes from the matter itself.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ..schemas.structures import ATOMIC_NUMBERS, Structure

if TYPE_CHECKING:
    import spglib

#: Symmetry tolerance in ångström.
SYMPREC = 0.01
#: Mass unit over cubic ångström, in g/cm3.
DENSITY_UNIT = 1.66053906660

_AMINO_ACIDS: dict[str, str] = {
    "A": "alanine", "R": "arginine", "N": "asparagine", "D": "aspartate", "C": "cysteine",
    "Q": "glutamine", "E": "glutamate", "G": "glycine", "H": "histidine", "I": "isoleucine",
    "L": "leucine", "K": "lysine", "M": "methionine", "F": "phenylalanine", "P": "proline",
    "S": "serine", "T": "threonine", "W": "tryptophan", "Y": "tyrosine", "V": "valine",
}  # fmt: skip


def describe(structure: Structure) -> str:
    """One paragraph of plain English about a structure.

    Molecules: Hill formula, elements, atom count, charge, SMILES. Crystals: reduced formula,
    elements, space group and crystal system (spglib; left out where it finds none), atoms a cell,
    density, cell. Proteins: length, residue counts, sequence.
    """
    if structure.kind == "protein" and structure.sequence:
        return _protein(structure)
    if structure.periodicity:
        return _crystal(structure)
    return _molecule(structure)


def _molecule(structure: Structure) -> str:
    parts = [
        f"A molecule with formula {structure.formula}.",
        f"It has {_count(len(structure), 'atom')} of {_elements(structure.composition)}.",
        f"Its charge is {structure.charge:+d}." if structure.charge else "It is neutral.",
    ]
    if structure.multiplicity is not None and structure.multiplicity > 1:
        parts.append(f"It has {_count(structure.multiplicity - 1, 'unpaired electron')}.")
    if structure.smiles:
        parts.append(f"SMILES: {structure.smiles}")
    return " ".join(parts)


def _crystal(structure: Structure) -> str:
    what = {3: "crystal", 2: "layer", 1: "chain"}[structure.periodicity]
    parts = [
        f"A {what} with reduced formula {_reduced(structure)}.",
        f"It is made of {_elements(_electropositive_first(structure))}.",
    ]
    lengths, angles = _cell(structure)
    if structure.periodicity == 3:
        dataset = _symmetry(structure)
        if dataset is not None:
            parts.append(
                f"Its space group is {dataset.international} (number {dataset.number}), "
                f"its crystal system {_system(dataset.number)}."
            )
        mass = sum(_masses()[int(z)] for z in structure.numbers)
        density = DENSITY_UNIT * mass / abs(np.linalg.det(structure.cell))
        parts.append(
            f"The cell holds {_count(len(structure), 'atom')}, a density of {density:.2f} g/cm3."
        )
        parts.append(
            f"The cell lengths are {_join([f'{x:.3f}' for x in lengths])} Å, "
            f"the angles {_join([f'{x:.1f}' for x in angles])} degrees."
        )
    else:
        repeats = [f"{x:.3f}" for x, p in zip(lengths, structure.pbc, strict=True) if p]
        parts.append(
            f"The repeat unit holds {_count(len(structure), 'atom')}; "
            f"it repeats every {_join(repeats)} Å."
        )
    if structure.charge:
        parts.append(f"The charge of the cell is {structure.charge:+d}.")
    return " ".join(parts)


def _protein(structure: Structure) -> str:
    sequence = structure.sequence or ""
    counts = {name: sequence.count(letter) for letter, name in _AMINO_ACIDS.items()}
    listed = [f"{n} {name}" for name, n in sorted(counts.items(), key=lambda c: (-c[1], c[0])) if n]
    other = len(sequence) - sum(counts.values())
    # Blocks of ten, as sequence databases print them: tokenizers give up on words of hundreds.
    blocks = " ".join(sequence[i : i + 10] for i in range(0, len(sequence), 10))
    if other:
        listed.append(f"{other} other")
    return (
        f"A protein chain of {_count(len(sequence), 'amino-acid residue')}: {_join(listed)}. "
        f"Sequence: {blocks}"
    )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _join(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _elements(symbols: Iterable[str]) -> str:
    return _join([_names()[ATOMIC_NUMBERS[s]] for s in symbols])


@cache
def _names() -> tuple[str, ...]:
    from ase.data import atomic_names

    return tuple(n.lower() for n in atomic_names)


@cache
def _masses() -> tuple[float, ...]:
    from ase.data import atomic_masses

    return tuple(float(m) for m in atomic_masses)


def _reduced(structure: Structure) -> str:
    """Reduced formula, electropositive elements first, e.g. ``NaCl``, ``Al2O3``."""
    counts = structure.composition
    divisor = math.gcd(*counts.values())
    shares = {s: counts[s] // divisor for s in _electropositive_first(structure)}
    return "".join(f"{s}{n if n > 1 else ''}" for s, n in shares.items())


def _electropositive_first(structure: Structure) -> list[str]:
    return sorted(structure.elements, key=lambda s: (_electronegativity(s), s))


@cache
def _electronegativity(symbol: str) -> float:
    """Pauling's scale; elements without a value (light noble gases) come last."""
    from pymatgen.core.periodic_table import Element

    value = Element(symbol).data.get("X")
    return float(value) if isinstance(value, (int, float)) else math.inf


def _cell(structure: Structure) -> tuple[np.ndarray, list[float]]:
    cell = np.asarray(structure.cell, dtype=float)
    lengths = np.linalg.norm(cell, axis=1)
    angles = []
    if lengths.all():
        for i, j in ((1, 2), (0, 2), (0, 1)):
            cosine = cell[i] @ cell[j] / (lengths[i] * lengths[j])
            angles.append(float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))))
    return lengths, angles


def _symmetry(structure: Structure) -> spglib.SpglibDataset | None:
    """Spglib's answer, or None where it has none (distorted or overlapping cells)."""
    import spglib

    cell = np.asarray(structure.cell, dtype=float)
    fractional = np.asarray(structure.positions) @ np.linalg.inv(cell)
    crystal = (cell.tolist(), fractional.tolist(), np.asarray(structure.numbers).tolist())
    with warnings.catch_warnings():
        # spglib warns that it will raise where it now returns None; both are read here.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return spglib.get_symmetry_dataset(crystal, symprec=SYMPREC)
        except spglib.SpglibError:
            return None


def _system(number: int) -> str:
    limits = (2, 15, 74, 142, 167, 194, 230)
    names = (
        "triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic",
    )  # fmt: skip
    return next(name for limit, name in zip(limits, names, strict=True) if number <= limit)
