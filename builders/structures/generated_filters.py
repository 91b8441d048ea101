# SPDX-License-Identifier: Apache-2.0
"""What a generated crystal must pass: charges that balance, atoms not too near, a sane volume.

The limits leave in 99 % of the small crystals of the sets ``minerals``, ``prototypes`` and
``elements``: shortest distance over the sum of covalent radii from 0.64, volume over that of
covalent spheres from 0.90 to 11.4. They say what is absurd, not what is stable.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import product

import numpy as np

from ...schemas.errors import StructureError
from ...schemas.structures import Structure, check_geometry

#: Shortest distance of two atoms over the sum of their covalent radii, at least.
NEAREST = 0.65
#: And in ångström: hydrogen's covalent radius is half of a bond that no crystal has.
SHORTEST = 0.7

#: Volume of the cell over that of its atoms' covalent spheres.
VOLUMES = (0.9, 11.5)

#: Most sums of oxidation states that are tried of one composition.
MOST_SUMS = 20_000


@lru_cache(maxsize=256)
def oxidation_states(symbol: str) -> tuple[int, ...]:
    """Common oxidation states but 0, as pymatgen lists them; () of noble gases and unknowns."""
    from pymatgen.core import Element

    return tuple(int(s) for s in Element(symbol).common_oxidation_states if int(s) != 0)


def charges_balance(composition: Mapping[str, int]) -> bool:
    """Whether one common oxidation state an element adds up to 0.

    Elements by themselves balance. What needs one element in two states (magnetite) does not pass:
    the filter is narrow on purpose.
    """
    if len(composition) == 1:
        return True
    states = [oxidation_states(s) for s in composition]
    if not all(states) or np.prod([len(s) for s in states]) > MOST_SUMS:
        return False
    counts = list(composition.values())
    return any(sum(c * s for c, s in zip(counts, chosen, strict=True)) == 0
               for chosen in product(*states))  # fmt: skip


def nearest_ratio(structure: Structure) -> float:
    """Shortest distance of two atoms over the sum of their covalent radii; inf beyond 6 Å."""
    from ase import Atoms
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    first, second, distance = neighbor_list("ijd", atoms, 6.0)
    if len(distance) == 0:
        return float("inf")
    radii = covalent_radii[atoms.numbers]
    return float((distance / (radii[first] + radii[second])).min())


def volume_ratio(structure: Structure) -> float:
    """Volume of the cell over that of its atoms' covalent spheres."""
    from ase.data import covalent_radii

    spheres = 4.0 / 3.0 * np.pi * covalent_radii[structure.numbers] ** 3
    return float(abs(np.linalg.det(structure.cell)) / spheres.sum())


def fault(structure: Structure) -> str | None:
    """Why a generated crystal is left out, or None."""
    if not charges_balance(structure.composition):
        return f"{structure.formula}: no common oxidation states balance"
    try:
        check_geometry(structure, min_distance=SHORTEST)
    except StructureError as error:
        return f"{structure.formula}: {error}"
    near = nearest_ratio(structure)
    if near < NEAREST:
        return f"{structure.formula}: atoms at {near:.2f} of their covalent radii, below {NEAREST}"
    volume = volume_ratio(structure)
    if not VOLUMES[0] <= volume <= VOLUMES[1]:
        return f"{structure.formula}: volume {volume:.1f} of its atoms', not in {VOLUMES}"
    return None
