# SPDX-License-Identifier: Apache-2.0
"""Structures: the record every model reads and the table an atlas stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np
import pandas as pd
import pandera.pandas as pa

from .errors import StructureError

Kind = Literal["molecule", "crystal", "protein"]
KINDS: tuple[str, ...] = ("molecule", "crystal", "protein")

#: Vocabulary of domain tags (strata) and training domains (model cards).
DOMAINS: tuple[str, ...] = (
    "inorganic_crystal",
    "element_bulk",
    "off_equilibrium",
    "framework",
    "molecular_crystal",
    "organic_molecule",
    "small_inorganic_molecule",
    "main_group_molecule",
    "metal_complex",
    "f_block",
    "ion_pair",
    "radical",
    "noncovalent",
    "reaction",
    "reaction_path",
    "biomolecule",
    "peptide",
    "protein",
    "text",
)

#: Chemical symbols indexed by atomic number; index 0 is unused.
SYMBOLS: tuple[str, ...] = tuple(
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As "
    "Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd "
    "Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am "
    "Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og".split()
)
ATOMIC_NUMBERS: dict[str, int] = {s: z for z, s in enumerate(SYMBOLS) if z}

LABEL_PREFIX = "label_"


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """One piece of matter, in every form it is known in; compare structures by ``id``.

    Attributes
    ----------
    id:
        Content hash of the canonical form (``builders.structures.canonical``); "" until assigned.
    source_id:
        The name the source gives it; unique within a set.
    kind, stratum:
        ``molecule``, ``crystal`` (periodic in at least one direction) or ``protein``; the named
        part of its set.
    numbers:
        (n,) int atomic numbers. For a protein: of the heavy atoms present in the source.
    positions:
        (n, 3) float64, ångström.
    cell:
        (3, 3) float64, ångström, rows are lattice vectors; zeros when not periodic.
    pbc:
        Periodicity along the three lattice vectors.
    smiles, sequence:
        Canonical SMILES (molecules) and one-letter amino-acid sequence (proteins), or None.
    backbone:
        (n_residues, 4, 3) float64 N, CA, C, O positions in ångström (proteins), or None.
    charge, multiplicity:
        Total charge in e; spin multiplicity 2S+1, or None when the source does not say.
    labels:
        Scalar or array reference values, by the names and units of the set's card.
    """

    source_id: str
    kind: Kind
    stratum: str
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: tuple[bool, bool, bool] = (False, False, False)
    smiles: str | None = None
    sequence: str | None = None
    backbone: np.ndarray | None = None
    charge: int = 0
    multiplicity: int | None = None
    name: str | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    set: str = ""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def symbols(self) -> list[str]:
        """Chemical symbols, one an atom."""
        return [SYMBOLS[z] for z in self.numbers]

    @property
    def elements(self) -> tuple[str, ...]:
        """Distinct elements, sorted by atomic number."""
        return tuple(SYMBOLS[z] for z in sorted({int(z) for z in self.numbers}))

    @property
    def periodicity(self) -> int:
        """Number of periodic directions, 0 to 3."""
        return sum(self.pbc)

    @property
    def composition(self) -> dict[str, int]:
        """Element -> count, in Hill order."""
        z, counts = np.unique(np.asarray(self.numbers), return_counts=True)
        found = {SYMBOLS[int(a)]: int(c) for a, c in zip(z, counts, strict=True)}
        first = [s for s in ("C", "H") if s in found] if "C" in found else []
        return {s: found[s] for s in first + sorted(s for s in found if s not in first)}

    @property
    def formula(self) -> str:
        """Hill formula, e.g. ``C2H6O``."""
        return "".join(f"{s}{c if c > 1 else ''}" for s, c in self.composition.items())


#: Smallest volume an atom of a crystal, Å³: carbon at a terapascal has 3. A denser cell has so many
#: neighbours within a model's reach that its graph would fill the memory.
LEAST_VOLUME = 1.0


def check_geometry(structure: Structure, *, min_distance: float = 0.3) -> None:
    """Refuse what no model can read.

    Checks, in order: at least one atom, known elements, finite positions and cell, a cell with
    volume where periodic, no two atoms closer than ``min_distance`` ångström (minimum image),
    at least ``LEAST_VOLUME`` an atom of a crystal.

    Raises
    ------
    StructureError
        Naming ``source_id``, what is wrong and the mend.
    """
    who = f"structure '{structure.source_id}'"
    numbers = np.asarray(structure.numbers)
    positions = np.asarray(structure.positions, dtype=float)
    if numbers.size == 0:
        raise StructureError(f"{who} has no atoms; remove it from the source")
    bad = [int(z) for z in numbers if not 1 <= z < len(SYMBOLS)]
    if bad:
        raise StructureError(
            f"{who} has unknown atomic number {bad[0]}; use 1 to {len(SYMBOLS) - 1}"
        )
    if positions.shape != (numbers.size, 3):
        raise StructureError(
            f"{who} has positions of shape {positions.shape}; expected ({numbers.size}, 3)"
        )
    finite = np.isfinite(positions).all(axis=1)
    if not finite.all():
        raise StructureError(
            f"{who} has a non-finite position at atom {int(np.flatnonzero(~finite)[0])}; "
            "mend or remove the structure"
        )
    if structure.periodicity:
        cell = np.asarray(structure.cell, dtype=float)
        if not np.isfinite(cell).all() or abs(np.linalg.det(cell)) < 1e-3:
            raise StructureError(
                f"{who} is periodic but its cell has no volume; give three lattice vectors in Å"
            )
    pair = _closest_pair(structure, min_distance)
    if pair is not None and pair[2] < min_distance:
        raise StructureError(
            f"{who} has overlapping atoms {pair[0]} and {pair[1]} ({pair[2]:.3f} Å apart); "
            f"at least {min_distance} Å is needed"
        )
    if structure.periodicity == 3:
        volume = abs(float(np.linalg.det(np.asarray(structure.cell, dtype=float)))) / numbers.size
        if volume < LEAST_VOLUME:
            raise StructureError(
                f"{who} has {volume:.2f} Å³ an atom, below {LEAST_VOLUME:g}; check its cell's units"
            )


def _closest_pair(structure: Structure, reach: float) -> tuple[int, int, float] | None:
    """Closest pair of atoms (an atom and its own image included) and their distance in Å.

    Exact whenever some pair is closer than ``reach``; else the distance is an upper bound, because
    only the images that can hold such a pair are looked at.
    """
    positions = np.asarray(structure.positions, dtype=float)
    n = len(positions)
    shifts = [np.zeros(3)]
    if structure.periodicity:
        cell = np.asarray(structure.cell, dtype=float)
        inverse = np.linalg.inv(cell)
        fractional = positions @ inverse
        fractional -= np.floor(fractional) * np.asarray(structure.pbc)
        positions = fractional @ cell
        # Within the cell fractional differences are below 1, so an image n cells away is at least
        # (|n| - 1) plane spacings off.
        spacings = 1.0 / np.linalg.norm(inverse, axis=0)
        most = [
            int(np.ceil(reach / h)) if p else 0
            for h, p in zip(spacings, structure.pbc, strict=True)
        ]
        images = product(*(range(-m, m + 1) for m in most))
        # Of each image and its opposite one suffices: they hold the same pairs.
        shifts = [np.asarray(s) @ cell for s in images if s >= (0, 0, 0)]
    if n * len(shifts) < 2:
        return None
    best: tuple[int, int, float] | None = None
    for shift in shifts:
        # In blocks of rows, so that memory stays small for thousands of atoms.
        for start in range(0, n, 512):
            delta = positions[start : start + 512, None] - (positions + shift)[None]
            square = np.einsum("ijk,ijk->ij", delta, delta)
            if not shift.any():
                rows = np.arange(len(square))
                square[rows, start + rows] = np.inf
            i, j = np.unravel_index(int(np.argmin(square)), square.shape)
            if best is None or square[i, j] < best[2] ** 2:
                best = (start + int(i), int(j), float(np.sqrt(square[i, j])))
    return best


def _is_list_like(values: pd.Series) -> pd.Series:
    return values.map(lambda v: v is None or isinstance(v, (list, tuple, np.ndarray)))


#: The structures table: one row a structure. Set-specific ``label_*`` columns are declared by the
#: set's card and checked by :func:`structure_table_schema`.
STRUCTURE_TABLE = pa.DataFrameSchema(
    {
        "id": pa.Column(str, pa.Check.str_matches(r"^ma1-[a-z2-7]{26}$"), unique=True),
        "set": pa.Column(str, pa.Check.str_matches(r"^[a-z][a-z0-9_]*$")),
        "source_id": pa.Column(str, pa.Check.str_length(min_value=1), unique=True),
        "stratum": pa.Column(str, pa.Check.str_matches(r"^[a-z][a-z0-9_]*$")),
        "kind": pa.Column(str, pa.Check.isin(KINDS)),
        "name": pa.Column(object, nullable=True),
        "formula": pa.Column(str, pa.Check.str_matches(r"^([A-Z][a-z]?\d*)+$")),
        "elements": pa.Column(object, pa.Check(_is_list_like, element_wise=False)),
        "n_atoms": pa.Column("int64", pa.Check.ge(1)),
        "periodicity": pa.Column("int64", pa.Check.in_range(0, 3)),
        "pbc": pa.Column(object, pa.Check(_is_list_like, element_wise=False)),
        "charge": pa.Column("int64"),
        "multiplicity": pa.Column("Int64", pa.Check.ge(1), nullable=True),
        "smiles": pa.Column(object, nullable=True),
        "sequence": pa.Column(object, nullable=True),
        "description": pa.Column(str, pa.Check.str_length(min_value=1)),
        "numbers": pa.Column(object, pa.Check(_is_list_like, element_wise=False), nullable=True),
        "positions": pa.Column(object, pa.Check(_is_list_like, element_wise=False), nullable=True),
        "cell": pa.Column(object, pa.Check(_is_list_like, element_wise=False), nullable=True),
        "backbone": pa.Column(object, pa.Check(_is_list_like, element_wise=False), nullable=True),
        "source": pa.Column(str),
        "licence": pa.Column(object, nullable=True),
        "label_.*": pa.Column(None, nullable=True, required=False, regex=True),
    },
    strict=True,
    name="structures",
)


def _absent(value: Any) -> bool:
    """Is a scalar cell of a table empty (null, NA or NaN)? Arrays never are."""
    return (
        value is None
        or value is pd.NA
        or (isinstance(value, (float, np.floating)) and value != value)
    )


def structure_to_row(structure: Structure, *, coordinates: bool = True) -> dict[str, Any]:
    """Turn a structure into a row of the structures table (without provenance columns).

    With ``coordinates=False`` the geometry columns are null: the source's terms do not let the
    atlas pass them on.
    """

    def flat(values: np.ndarray | None) -> list[float] | None:
        if values is None or not coordinates:
            return None
        return [float(v) for v in np.asarray(values, dtype=float).ravel()]

    return {
        "id": structure.id,
        "set": structure.set,
        "source_id": structure.source_id,
        "stratum": structure.stratum,
        "kind": structure.kind,
        "name": structure.name,
        "formula": structure.formula,
        "elements": list(structure.elements),
        "n_atoms": len(structure),
        "periodicity": structure.periodicity,
        "pbc": [bool(p) for p in structure.pbc],
        "charge": structure.charge,
        "multiplicity": structure.multiplicity,
        "smiles": structure.smiles,
        "sequence": structure.sequence,
        "numbers": [int(z) for z in structure.numbers] if coordinates else None,
        "positions": flat(structure.positions),
        "cell": flat(structure.cell) if structure.periodicity else None,
        "backbone": flat(structure.backbone),
        **{f"{LABEL_PREFIX}{k}": v for k, v in structure.labels.items()},
    }


def structure_from_row(row: Mapping[str, Any]) -> Structure:
    """Rebuild a structure from its row; the inverse of :func:`structure_to_row`.

    Raises
    ------
    StructureError
        If the row carries no coordinates (its source does not allow passing them on).
    """
    if row["positions"] is None:
        raise StructureError(
            f"structure '{row['source_id']}' has no coordinates in this atlas "
            "(its source does not allow passing them on); load the set from its source"
        )
    cell, backbone = row["cell"], row["backbone"]
    multiplicity = row["multiplicity"]
    return Structure(
        id=row["id"],
        set=row["set"],
        source_id=row["source_id"],
        kind=row["kind"],
        stratum=row["stratum"],
        name=None if _absent(row["name"]) else row["name"],
        numbers=np.asarray(row["numbers"], dtype=np.int64),
        positions=np.asarray(row["positions"], dtype=float).reshape(-1, 3),
        cell=np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=float).reshape(3, 3),
        pbc=tuple(bool(p) for p in row["pbc"]),  # type: ignore[arg-type]
        smiles=None if _absent(row["smiles"]) else row["smiles"],
        sequence=None if _absent(row["sequence"]) else row["sequence"],
        backbone=None if backbone is None else np.asarray(backbone, float).reshape(-1, 4, 3),
        charge=int(row["charge"]),
        multiplicity=None if _absent(multiplicity) else int(multiplicity),
        labels={
            k.removeprefix(LABEL_PREFIX): v
            for k, v in row.items()
            if k.startswith(LABEL_PREFIX) and not _absent(v)
        },
    )
