# SPDX-License-Identifier: Apache-2.0
"""The domain of a structure nobody has told the domain of: from its kind and elements alone.

Domains decide whether a model counts a structure as inside its training. The rules are made so that
what is unusual is never taken for usual: a slab is ``off_equilibrium``, a crystal with C-H groups
is no ``inorganic_crystal``, a molecule with a metal no ``organic_molecule``. What elements cannot
tell (whether a crystal is relaxed) is not guessed; who knows better says so.
"""

from __future__ import annotations

from ...schemas.structures import ATOMIC_NUMBERS, SYMBOLS, Structure
from .ccd import METALS, ORGANIC

F_BLOCK: frozenset[str] = frozenset(
    SYMBOLS[z]
    for low, high in (("La", "Lu"), ("Ac", "Lr"))
    for z in range(ATOMIC_NUMBERS[low], ATOMIC_NUMBERS[high] + 1)
)
#: Atoms up to which a molecule without carbon and hydrogen is a small one.
SMALL = 12


def domain_of(structure: Structure) -> str:
    """The domain, one of ``schemas.structures.DOMAINS``."""
    elements = set(structure.elements)
    organic = {"C", "H"} <= elements
    metal = bool(elements & (METALS | F_BLOCK))
    if structure.kind == "protein":
        return "protein"
    if structure.kind == "crystal":
        if structure.periodicity < 3 or structure.charge:
            return "off_equilibrium"
        if organic:
            return "framework" if metal else "molecular_crystal"
        return "element_bulk" if len(elements) == 1 else "inorganic_crystal"
    if elements & F_BLOCK:
        return "f_block"
    if structure.charge:
        return "ion_pair"
    if (structure.multiplicity or 1) > 1:
        return "radical"
    if metal:
        return "metal_complex"
    if "C" in elements and elements <= ORGANIC and (organic or len(structure) > SMALL):
        return "organic_molecule"
    return "small_inorganic_molecule" if len(structure) <= SMALL else "main_group_molecule"
