# SPDX-License-Identifier: Apache-2.0
"""DFT energies, forces and stresses of strained and disturbed elemental cells (mlearn)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np

from ...schemas.cards import StructureSetCard
from ...schemas.structures import Structure
from .crystals import PERIODIC, jarvis_geometry, source_file

#: Where the shear components of a (3, 3) stress sit.
_PLACE = {"yz": (1, 2), "xz": (0, 2), "xy": (0, 1)}
#: What the packaged matrix holds at (yz, xz, xy), by the order in which mlearn wrote its numbers.
_FOUND_VASP = ("xy", "yz", "xz")
_FOUND_OTHER = ("xy", "xz", "yz")
#: Cosine between lattice vectors above which a diamond cell was sheared on purpose (0.04 and more;
#: the shears of molecular dynamics stay below 0.02).
_SHEARED = 0.03


def shear_order(element: str, cell: np.ndarray, *, n_atoms: int) -> tuple[str, str, str]:
    """Components that the packaged stress of a cell holds at (yz, xz, xy).

    The package filled the matrix as if mlearn's six numbers came in ASE's Voigt order (xx, yy, zz,
    yz, xz, xy). They come as xx, yy, zz, xy, xz, yz; but as xx, yy, zz, xy, yz, xz (VASP's order)
    for lithium, and for the purposely sheared 64-atom cells of silicon and germanium. Pure shears
    prove it (a cubic crystal resists in the plane it is sheared in), for all six elements; for
    the disordered cells of Si and Ge it was read off the stresses of a universal potential.
    """
    if element == "Li":
        return _FOUND_VASP
    unit = cell / np.linalg.norm(cell, axis=1)[:, None]
    sheared = np.abs((unit @ unit.T)[[1, 0, 0], [2, 2, 1]]).max() > _SHEARED
    return _FOUND_VASP if element in ("Si", "Ge") and n_atoms == 64 and sheared else _FOUND_OTHER


def mended_stress(packaged: Sequence[Sequence[float]], found: Sequence[str]) -> np.ndarray:
    """Put the shear components of a packaged stress where they belong.

    Parameters
    ----------
    packaged:
        (3, 3), kbar, as the package has it.
    found:
        What it holds at (yz, xz, xy), from :func:`shear_order`.

    Returns
    -------
    ndarray
        (3, 3) float64, kbar, symmetric; VASP's sign: positive when the cell would expand.
    """
    given = np.asarray(packaged, dtype=float)
    stress = np.diag(np.diag(given))
    for place, component in zip(_PLACE, found, strict=True):
        i, j = _PLACE[component]
        stress[i, j] = stress[j, i] = given[_PLACE[place]]
    return stress


def load(card: StructureSetCard) -> Iterator[Structure]:
    """Yield each cell once, in source order; ``source_id`` is the package's id.

    An id that ends in ``a`` is of mlearn's test part; the package lists those rows twice. Labels:
    ``energy`` (eV, of the cell), ``energy_per_atom`` (eV/atom), ``forces`` ((n, 3), eV/Å) and
    ``stress`` ((3, 3), kbar, see :func:`mended_stress`).
    """
    rows = json.loads(source_file(card).read_text(encoding="utf-8"))
    seen: set[str] = set()
    for row in rows:
        if row["jid"] in seen:
            continue
        seen.add(row["jid"])
        numbers, positions, cell = jarvis_geometry(row["atoms"], source_id=row["jid"])
        element = row["jid"].partition("-")[0]
        yield Structure(
            source_id=row["jid"],
            kind="crystal",
            stratum=element.lower(),
            numbers=numbers,
            positions=positions,
            cell=cell,
            pbc=PERIODIC,
            labels={
                "energy": float(row["energy"]),
                "energy_per_atom": float(row["energy"]) / len(numbers),
                "forces": np.asarray(row["forces"], dtype=float),
                "stress": mended_stress(
                    row["stresses"], shear_order(element, cell, n_atoms=len(numbers))
                ),
            },
        )
