# SPDX-License-Identifier: Apache-2.0
"""What probes read out in the study of transfer: scalars of structures, and compositions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.structures import ATOMIC_NUMBERS, LABEL_PREFIX
from .context import Evidence

Array = NDArray[np.floating[Any]]

#: Labels whose zero depends on the elements alone: what composition explains is taken off.
ENERGIES = ("energy", "enthalpy")


def composition(structures: pd.DataFrame) -> Array:
    """Shares of the elements (n, elements present), from the formulas; rows sum to 1."""
    counts = element_counts(structures)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def element_counts(structures: pd.DataFrame) -> Array:
    """Atoms of each element present, (n, elements)."""
    numbers = np.zeros((len(structures), len(ATOMIC_NUMBERS) + 1))
    for row, formula in enumerate(structures["formula"]):
        for symbol, count in re.findall(r"([A-Z][a-z]?)(\d*)", formula):
            numbers[row, ATOMIC_NUMBERS[symbol]] += int(count or 1)
    return np.asarray(numbers[:, numbers.any(axis=0)])


def read_outs(evidence: Evidence, ids: Sequence[str]) -> dict[str, Array]:
    """Scalars by name, each (n,), NaN where a row has none.

    ``n_atoms`` (logarithm), ``n_elements``, ``atomic_volume`` (logarithm of the cell's volume an
    atom, of what is periodic in all directions), and every scalar label as ``set.label``; energies
    an atom where given in whole.
    """
    rows = evidence.structures.loc[list(ids)]
    found: dict[str, Array] = {
        "n_atoms": np.log(rows["n_atoms"].to_numpy(float)),
        "n_elements": rows["elements"].map(len).to_numpy(float),
    }
    volume = np.full(len(rows), np.nan)
    whole = np.flatnonzero(rows["periodicity"].to_numpy() == 3)
    for i in whole:
        structure = evidence.geometries.get(str(rows.index[int(i)]))
        if structure is not None:
            volume[i] = abs(float(np.linalg.det(structure.cell))) / len(structure)
    found["atomic_volume"] = np.log(np.where(volume > 0, volume, np.nan))
    for column in (c for c in rows.columns if c.startswith(LABEL_PREFIX)):
        if f"{column}_per_atom" in rows.columns or not pd.api.types.is_numeric_dtype(rows[column]):
            continue
        values = rows[column].to_numpy(dtype=float, na_value=np.nan)
        name = column.removeprefix(LABEL_PREFIX)
        if is_energy(name) and not name.endswith("per_atom"):
            values = values / rows["n_atoms"].to_numpy(float)
        for set_id in dict.fromkeys(rows["set"][np.isfinite(values)]):
            own = np.where(rows["set"] == set_id, values, np.nan)
            found[f"{set_id}.{name}"] = own
    return found


def is_energy(name: str) -> bool:
    """Is a label (``label`` or ``set.label``) an energy?"""
    return any(word in name for word in ENERGIES)


def beyond_composition(values: Array, shares: Array, fitted: NDArray[np.bool_]) -> Array:
    """Values less what element shares explain linearly on the ``fitted`` rows.

    Rows with an element that no fitted row has are NaN: nothing says what that element adds.
    """
    known = fitted & np.isfinite(values)
    if not known.any():
        return np.full(len(values), np.nan)
    seen = shares[known].any(axis=0)
    weights = np.linalg.lstsq(shares[known][:, seen], values[known], rcond=1e-8)[0]
    left = values - shares[:, seen] @ weights
    return np.asarray(np.where(shares[:, ~seen].any(axis=1), np.nan, left))
