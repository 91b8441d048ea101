# SPDX-License-Identifier: Apache-2.0
"""The G2/97 molecules with experimental energies, from ASE (``ase.data.g2``), read as data.

Curtiss, Raghavachari, Redfern and Pople, J. Chem. Phys. 106, 1063 (1997); enthalpies and thermal
corrections of the molecules: Staroverov et al., J. Chem. Phys. 119, 12129 (2003).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...registry.hub import package_file
from ...schemas.cards import StructureSetCard
from ...schemas.structures import ATOMIC_NUMBERS, Structure
from .literals import read_assignment
from .smiles import smiles_from_geometry

#: 1 kcal/mol in eV (CODATA 2018; thermochemical calorie).
KCAL_PER_MOL = 4184.0 / 96485.33212331001
_PARTS = ("g2_1.py", "g2_2.py")
_HALOGENS = frozenset({"F", "Cl"})


def load(card: StructureSetCard) -> Iterator[Structure]:
    """The 148 molecules, G2-1 then G2-2, in ASE's order; energies in eV a molecule."""
    source = card.sources[0]
    folder = package_file(source.package, source.path, kind=source.kind)
    names: list[str] = []
    data: dict[str, dict[str, Any]] = {}
    for part in _PARTS:
        names += read_assignment(folder / part, "molecule_names")
        data |= read_assignment(folder / part, "data")
    for name in names:
        entry = data[name]
        symbols = _symbols(entry["symbols"])
        numbers = np.array([ATOMIC_NUMBERS[s] for s in symbols])
        positions = np.array(entry["positions"], dtype=float)
        multiplicity = 1 + round(sum(entry["magmoms"] or [0.0]))
        yield Structure(
            source_id=name,
            kind="molecule",
            stratum=stratum_of(Counter(symbols), multiplicity),
            numbers=numbers,
            positions=positions,
            smiles=smiles_from_geometry(numbers, positions, multiplicity=multiplicity),
            multiplicity=multiplicity,
            name=entry["description"],
            labels={
                "atomization_energy": atomization_energy(entry, symbols, data) * KCAL_PER_MOL,
                "formation_enthalpy": entry["enthalpy"] * KCAL_PER_MOL,
            },
        )


def _symbols(formula: str) -> list[str]:
    """``C2H4`` -> ``[C, C, H, H, H, H]``."""
    pieces = re.findall(r"([A-Z][a-z]?)(\d*)", formula)
    return [symbol for symbol, count in pieces for _ in range(int(count or 1))]


def stratum_of(composition: Mapping[str, int], multiplicity: int) -> str:
    """``radical``: open shells; ``organic``: carbon with C, H or halogen; ``inorganic_small``."""
    if multiplicity > 1:
        return "radical"
    carbon = composition.get("C", 0)
    partners = "H" in composition or _HALOGENS & set(composition)
    return "organic" if carbon > 1 or (carbon and partners) else "inorganic_small"


def atomization_energy(
    entry: Mapping[str, Any], symbols: list[str], data: Mapping[str, Mapping[str, Any]]
) -> float:
    """Electronic atomisation energy in kcal/mol, from the experimental enthalpy of formation.

    sum over atoms of [dHf(0 K) - (H298 - H0 of the element)] - dHf(298 K) + (H298 - H0) + ZPE,
    as ``ase.data.g2_1.get_atomization_energy``, which knows the first 55 molecules only.
    """
    atoms = sum(data[s]["enthalpy"] - data[s]["thermal correction"] for s in symbols)
    return float(atoms - entry["enthalpy"] + entry["thermal correction"] + entry["ZPE"])
