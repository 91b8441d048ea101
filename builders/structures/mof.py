# SPDX-License-Identifier: Apache-2.0
"""Small metal-organic frameworks of CoRE MOF 2019 (all solvent removed)."""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from ...schemas.cards import StructureSetCard
from ...schemas.errors import StructureError, missing_extra
from ...schemas.structures import ATOMIC_NUMBERS, Structure, check_geometry
from .crystals import PERIODIC, hash_order, source_named

MAX_ATOMS = 100
#: Å. Hydrogen placed by X-ray refinement sits as close as 0.7 Å; nearer pairs are disorder left in.
MIN_DISTANCE = 0.6

#: Column of the table -> label of the card.
LABELS = {
    "LCD": "largest_cavity_diameter",
    "PLD": "pore_limiting_diameter",
    "AV_VF": "void_fraction",
    "ASA_m2_g": "surface_area",
    "cm3_g": "density",
}


def metal_class(metals: Collection[str]) -> str:
    """Stratum of a framework from its metals; the first class that any of them is in wins.

    ``f_block`` (La to Lu, Ac to Lr), ``heavy_d`` (Y to Cd, Hf to Hg), ``first_row`` (Sc to Zn),
    ``main_group`` (the rest).
    """
    z = [ATOMIC_NUMBERS[m] for m in metals]
    if any(57 <= n <= 71 or 89 <= n <= 103 for n in z):
        return "f_block"
    if any(39 <= n <= 48 or 72 <= n <= 80 for n in z):
        return "heavy_d"
    return "first_row" if any(21 <= n <= 30 for n in z) else "main_group"


def load(card: StructureSetCard) -> Iterator[Structure]:
    """Yield, stratum by stratum, the first ``count`` frameworks in the order of their hash.

    Candidates are the table's rows that are public, not flagged DISORDER and cleaned by the
    database's standard script alone (Extension ``clean``), with at most 100 atoms in the cell, all
    fully occupied, carbon among them, and no two closer than 0.6 Å. ``source_id`` is the file's
    name, ``name`` the CSD reference code in it.

    Raises
    ------
    MissingExtraError
        gemmi, which reads the files, is not installed.
    StructureError
        A candidate's file cannot be read, or a stratum has fewer candidates than the card's count.
    """
    with source_named(card, ".csv").open(encoding="utf-8-sig", newline="") as handle:
        table = {r["filename"]: r for r in csv.DictReader(handle) if _wanted(r)}
    small = _read_small(source_named(card, ".tar.xz"), table)
    for stratum, spec in card.strata.items():
        names = [n for n in small if metal_class(table[n]["All_Metals"].split(",")) == stratum]
        taken = 0
        for name in hash_order(names):
            if taken == spec.count:
                break
            structure = _structure(name, stratum, small[name], table[name])
            if _overlapping(structure):
                continue
            taken += 1
            yield structure
        if taken < spec.count:
            raise StructureError(
                f"set '{card.id}': stratum '{stratum}' has {taken} frameworks, its card says "
                f"{spec.count}; lower the card's count"
            )


def _wanted(row: Mapping[str, str]) -> bool:
    return row["public"] == "Y" and not row["DISORDER"].strip() and row["Extension"] == "clean"


Geometry = tuple[np.ndarray, np.ndarray, np.ndarray]


def _read_small(path: Path, names: Collection[str]) -> dict[str, Geometry]:
    """Numbers, positions (Å) and cell (Å) of the wanted files of at most ``MAX_ATOMS`` atoms."""
    try:
        import gemmi
    except ImportError as error:
        raise missing_extra("gemmi", "sources") from error
    found: dict[str, Geometry] = {}
    with tarfile.open(path) as bundle:
        for member in bundle:
            name = member.name.removesuffix(".cif")
            handle = bundle.extractfile(member) if name in names else None
            if handle is not None:
                geometry = _parse(gemmi, name, handle.read())
                if geometry is not None:
                    found[name] = geometry
    return found


def _parse(gemmi: ModuleType, name: str, text: bytes) -> Geometry | None:
    """One CIF, symmetry applied and special positions merged; None when it is filtered out."""
    try:
        block = gemmi.cif.read_string(text).sole_block()
        crystal = gemmi.make_small_structure_from_block(block)
    except (ValueError, RuntimeError) as error:
        raise StructureError(
            f"framework '{name}' cannot be read: {error}; leave it out by a filter of the set"
        ) from error
    sites = crystal.get_all_unit_cell_sites()
    numbers = np.array([site.element.atomic_number for site in sites], dtype=np.int64)
    if len(sites) > MAX_ATOMS or 6 not in numbers or any(site.occ != 1 for site in sites):
        return None
    cell = np.array(crystal.cell.orth.mat.tolist(), dtype=float).T
    return numbers, np.array([site.fract.tolist() for site in sites], dtype=float) @ cell, cell


def _structure(name: str, stratum: str, geometry: Geometry, row: Mapping[str, str]) -> Structure:
    numbers, positions, cell = geometry
    labels: dict[str, float] = {label: float(row[column]) for column, label in LABELS.items()}
    return Structure(
        source_id=name,
        kind="crystal",
        stratum=stratum,
        numbers=numbers,
        positions=positions,
        cell=cell,
        pbc=PERIODIC,
        name=name.removesuffix("_clean"),
        labels={**labels, "open_metal_site": float(row["Has_OMS"] == "Yes")},
    )


def _overlapping(structure: Structure) -> bool:
    try:
        check_geometry(structure, min_distance=MIN_DISTANCE)
    except StructureError:
        return True
    return False
