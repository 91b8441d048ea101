# SPDX-License-Identifier: Apache-2.0
"""Structure ids: a content hash of a documented canonical form.

The form, its invariances and its limits are specified in ``docs/reference/structure-ids.md``. In
short: positions are put on a grid of 0.001 Å whose boundaries are shifted by an irrational
fraction, so that decimals and simple fractions never sit on one, and the atoms are sorted. Labels,
names, the set and the stratum take no part.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from math import sqrt

import numpy as np

from ...schemas.errors import StructureError
from ...schemas.structures import Structure

#: Version of the canonical form; opens every id. A new form needs a new prefix.
PREFIX = "ma1-"
#: Edge of a grid cell: ångström for lengths and positions, degrees for angles.
GRID = 1e-3
ANGLE_GRID = 1e-2
#: Where in a grid cell a value of 0 sits. √2 - 1 = [0; 2, 2, 2, ...] is as badly approximable by
#: fractions as a number can be (but for the golden ratio, whose decimals come closer).
OFFSET = sqrt(2.0) - 1.0
#: Base32 characters kept of the SHA-256: 130 bits.
LENGTH = 26


def structure_id(structure: Structure) -> str:
    """Content hash of a structure's canonical form.

    Returns
    -------
    str
        ``ma1-`` and 26 lower-case base32 characters (130 bits of SHA-256).

    Raises
    ------
    StructureError
        The structure has no atoms, a position or cell that is not finite, or a periodic direction
        without a lattice vector.
    """
    digest = hashlib.sha256(canonical_form(structure).encode("ascii")).digest()
    return PREFIX + base64.b32encode(digest).decode("ascii").lower()[:LENGTH]


def canonical_form(structure: Structure) -> str:
    """The ASCII text that :func:`structure_id` hashes: one fact a line, every line ended.

    Invariant to atom order; to translation (molecules, proteins, and the non-periodic directions
    of slabs and chains); for crystals to the orientation of the lattice frame and to which
    periodic image of an atom is given.
    """
    who = f"structure '{structure.source_id}'"
    numbers = np.asarray(structure.numbers, dtype=np.int64)
    positions = np.asarray(structure.positions, dtype=np.float64)
    if numbers.size == 0 or positions.shape != (numbers.size, 3):
        raise StructureError(
            f"{who} has {numbers.size} atoms and positions of shape {positions.shape}; "
            "an id needs one position an atom"
        )
    if not (np.isfinite(positions).all() and np.isfinite(structure.cell).all()):
        raise StructureError(f"{who} has a position or cell that is not finite; mend it")
    return "".join(f"{line}\n" for line in _lines(structure, numbers, positions))


def _lines(structure: Structure, numbers: np.ndarray, positions: np.ndarray) -> Iterator[str]:
    spin = structure.multiplicity
    yield f"kind {structure.kind}"
    yield f"charge {int(structure.charge)}"
    yield f"multiplicity {'-' if spin is None else int(spin)}"
    yield f"pbc {''.join('1' if p else '0' for p in structure.pbc)}"
    if structure.periodicity:
        frame, steps, cell_line = _lattice(structure)
        yield cell_line
    else:
        frame, steps = np.eye(3), np.full(3, 0, dtype=np.int64)
    coordinates = positions @ np.linalg.inv(frame)
    free = steps == 0
    # The lowest coordinate, unlike the centroid, keeps decimals decimal.
    origin = np.where(free, coordinates.min(axis=0), 0.0)
    for z, i, j, k in sorted(
        zip(numbers.tolist(), *_grid(coordinates - origin, steps).T.tolist(), strict=True)
    ):
        yield f"atom {z} {i} {j} {k}"
    if structure.sequence is not None and structure.kind == "protein":
        yield f"sequence {structure.sequence}"
    if structure.backbone is not None:
        backbone = np.asarray(structure.backbone, dtype=np.float64).reshape(-1, 3)
        if not np.isfinite(backbone).all():
            raise StructureError(
                f"structure '{structure.source_id}' has a backbone that is not finite; mend it"
            )
        for i, j, k in _grid(backbone @ np.linalg.inv(frame) - origin, steps).tolist():
            yield f"backbone {i} {j} {k}"


def _quantise(values: np.ndarray, edge: float) -> np.ndarray:
    return np.floor(np.asarray(values) / edge + OFFSET).astype(np.int64)


def _grid(coordinates: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Grid cells of (n, 3) coordinates: ångström where ``steps`` is 0, else fractions of a vector.

    A fraction is cut into as many steps as the vector is long; counting modulo that number wraps
    images onto one another and makes 0.0 and 1.0 neighbours.
    """
    out = np.empty(coordinates.shape, dtype=np.int64)
    for axis, n in enumerate(steps):
        column = coordinates[:, axis]
        if n == 0:
            out[:, axis] = _quantise(column, GRID)
        else:
            out[:, axis] = np.floor(column * n + OFFSET).astype(np.int64) % n
    return out


def _lattice(structure: Structure) -> tuple[np.ndarray, np.ndarray, str]:
    """Frame (rows) in which to express positions, steps a vector (0: not periodic), cell line."""
    cell = np.asarray(structure.cell, dtype=np.float64)
    pbc = np.asarray(structure.pbc, dtype=bool)
    lengths = np.linalg.norm(cell, axis=1)
    frame = np.where(pbc[:, None], cell, 0.0)
    # Directions that do not repeat get unit vectors at right angles to those that do: from the
    # cell where it has them, so that they turn with it, else from the Cartesian axes.
    for axis in np.flatnonzero(~pbc).tolist():
        frame[axis] = _normal(frame, axis, cell[axis])
    if (lengths[pbc] < GRID).any() or abs(np.linalg.det(frame)) < 1e-6:
        raise StructureError(
            f"structure '{structure.source_id}' has a periodic direction without a lattice "
            "vector of its own; give the cell in Å"
        )
    steps = np.where(pbc, _quantise(lengths, GRID), 0)
    # Angles opposite to a, b and c, where both their vectors repeat.
    angles = []
    for first, second in ((1, 2), (0, 2), (0, 1)):
        if pbc[first] and pbc[second]:
            cosine = cell[first] @ cell[second] / (lengths[first] * lengths[second])
            angle = np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
            angles.append(str(int(_quantise(angle, ANGLE_GRID))))
        else:
            angles.append("-")
    hand = "right" if np.linalg.det(frame) > 0 else "left"
    sizes = " ".join(str(int(n)) if p else "-" for n, p in zip(steps, pbc, strict=True))
    return frame, steps, f"cell {sizes} {' '.join(angles)} {hand}"


def _normal(frame: np.ndarray, axis: int, hint: np.ndarray) -> np.ndarray:
    """Unit vector at right angles to the filled rows of ``frame``, towards ``hint`` if it can."""
    rows = [r for i, r in enumerate(frame) if i != axis and r.any()]
    if len(rows) == 2:
        others = [i for i in range(3) if i != axis]
        normal = np.cross(frame[others[0]], frame[others[1]]) * (-1.0 if axis == 1 else 1.0)
        # A cell's own third vector decides the side, so that a left-handed cell stays so.
        sign = -1.0 if hint @ normal < 0 else 1.0
        return sign * normal / np.linalg.norm(normal)
    for candidate in (hint, *np.eye(3)):
        rest = candidate.copy()
        for row in rows:
            rest -= (rest @ row) / (row @ row) * row
        if np.linalg.norm(rest) > 1e-6:
            return rest / np.linalg.norm(rest)
    raise StructureError("a lattice cannot be completed; give three independent vectors in Å")
