# SPDX-License-Identifier: Apache-2.0
"""Real energies, models' energies, and the error between them that composition does not explain.

Source: arXiv:2512.03750, Eqs 1-4 and its Figs 1B and 3.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ...registry import catalog
from ...schemas.structures import LABEL_PREFIX
from ..selections import ids_sha256, subsample
from .context import Evidence

#: Scalar labels in eV a structure that are energies, and the sign that makes lower more stable.
ENERGY_LABELS: dict[str, float] = {
    "energy": 1.0,
    "gfn2_energy": 1.0,
    "atomization_energy": -1.0,
}

#: Rows a parameter of the linear fit needs: with n rows and p parameters residuals shrink by
#: about sqrt(1 - p/n).
ROWS_PER_PARAMETER = 4

#: Leverage of a row from which on the fit goes through it and its residual says nothing.
_FULL_LEVERAGE = 1.0 - 1e-6

Floats = NDArray[np.float64]


def composition_counts(formulas: Sequence[str]) -> tuple[Floats, list[str]]:
    """Element counts of Hill formulas.

    Returns
    -------
    float64 array, shape (n, elements), and the elements in alphabetical order.
    """
    parsed = [
        {e: float(c or 1) for e, c in re.findall(r"([A-Z][a-z]?)(\d*)", text)} for text in formulas
    ]
    elements = sorted({e for row in parsed for e in row})
    return np.array([[row.get(e, 0.0) for e in elements] for row in parsed]).reshape(
        len(parsed), len(elements)
    ), elements


def _design(counts: ArrayLike) -> Floats:
    """Element counts, each scaled to its largest, and a column of ones (Eq 1)."""
    c = np.asarray(counts, dtype=np.float64)
    c = c[:, c.any(axis=0)]
    return np.column_stack([c / c.max(axis=0, initial=1.0), np.ones(len(c))])


def fit_parameters(counts: ArrayLike) -> int:
    """Independent parameters of the linear fit on these element counts."""
    return int(np.linalg.matrix_rank(_design(counts)))


def deviations(energies: ArrayLike, counts: ArrayLike) -> Floats:
    """What a least-squares fit on element counts leaves of energies (Eqs 1 and 2).

    ``E_lin(x) = w . c(x) + b`` with w, b fitted on these very rows.

    Parameters
    ----------
    energies : array, shape (n,)
        Total energies in eV, on any scale.
    counts : array, shape (n, elements)
        Atoms of each element.

    Returns
    -------
    float64 array, shape (n,)
        E - E_lin, eV.
    """
    energy = np.asarray(energies, dtype=np.float64)
    design = _design(counts)
    energy = energy - energy.mean()
    # Twice: what rounding of large energies leaves of the fit is taken out too.
    for _ in range(2):
        energy = energy - design @ np.linalg.lstsq(design, energy, rcond=None)[0]
    return energy


def energy_errors(true: ArrayLike, predicted: ArrayLike, counts: ArrayLike) -> Floats:
    """Difference of deviations, model minus reference, per structure (Eqs 3 and 4).

    The mean of the absolute values is the error of Eq 4. Adding to ``predicted`` (or ``true``) a
    constant or any energy an atom of an element changes nothing.

    Returns
    -------
    float64 array, shape (n,)
        eV a structure.
    """
    return deviations(predicted, counts) - deviations(true, counts)


def informative_rows(counts: ArrayLike) -> NDArray[np.bool_]:
    """Rows whose deviation is not zero by construction.

    A row that alone holds an element is fitted exactly; leaving it out may leave another alone.

    Returns
    -------
    bool array, shape (n,)
    """
    c = np.asarray(counts, dtype=np.float64)
    kept = np.ones(len(c), dtype=bool)
    while kept.any():
        u, s, _ = np.linalg.svd(_design(c[kept]), full_matrices=False)
        u = u[:, s > s[0] * 1e-10]
        full = np.einsum("ij,ij->i", u, u) > _FULL_LEVERAGE
        if not full.any():
            break
        kept[np.flatnonzero(kept)[full]] = False
    return kept


def jackknife_error(values: ArrayLike, groups: ArrayLike) -> float:
    """Standard error of the mean of ``values`` by leaving out one group at a time; NaN for one."""
    v = np.asarray(values, dtype=np.float64)
    codes, names = pd.factorize(np.asarray(groups))
    count = len(names)
    if count < 2:
        return float("nan")
    sizes = np.bincount(codes, minlength=count)
    left = (v.sum() - np.bincount(codes, weights=v, minlength=count)) / (len(v) - sizes)
    return float(np.sqrt((count - 1) / count * np.square(left - left.mean()).sum()))


@dataclass(frozen=True)
class Labelled:
    """Rows of a set, or of one stratum, with real energies.

    Attributes
    ----------
    set_id, stratum, label : str
        ``stratum`` is None for the whole set.
    level_of_theory : str or None
        Of the label, where the registry knows the set.
    kind : str
        Of most rows.
    rows : DataFrame
        Index: sorted ids; ``formula``, ``n_atoms``, ``energy`` (eV a structure, lower is more
        stable).
    """

    set_id: str
    stratum: str | None
    label: str
    level_of_theory: str | None
    kind: str
    rows: pd.DataFrame

    @property
    def name(self) -> str:
        """``set`` or ``set:stratum``."""
        return self.set_id if self.stratum is None else f"{self.set_id}:{self.stratum}"

    def part(self, ids: Sequence[str]) -> Part:
        """These rows of it, less those that a fit on composition goes through."""
        rows = self.rows.loc[sorted(ids)]
        kept = informative_rows(composition_counts(rows["formula"].tolist())[0])
        rows = rows[kept]
        return Part(rows, composition_counts(rows["formula"].tolist())[0])


@dataclass(frozen=True)
class Part:
    """Rows on which errors are taken, and their element counts, shape (n, elements)."""

    rows: pd.DataFrame
    counts: Floats

    @property
    def energy(self) -> Floats:
        """Reference energies, eV a structure."""
        return self.rows["energy"].to_numpy(dtype=np.float64)

    @property
    def atoms(self) -> Floats:
        """Atoms a structure."""
        return self.rows["n_atoms"].to_numpy(dtype=np.float64)

    @property
    def groups(self) -> NDArray[np.intp]:
        """Codes of the formula: snapshots of one cell, and isomers, belong together."""
        return pd.factorize(self.rows["formula"], sort=True)[0].astype(np.intp)

    @property
    def sha256(self) -> str:
        """SHA-256 over the sorted ids, joined by newlines."""
        return ids_sha256(self.rows.index)

    def lack(self, least: int) -> str:
        """Why there are too few rows for a fit; empty if there are enough."""
        if len(self.rows) < least:
            return f"{len(self.rows)} rows, {least} needed"
        wanted = ROWS_PER_PARAMETER * fit_parameters(self.counts)
        if len(self.rows) < wanted:
            return f"{len(self.rows)} rows, {wanted} needed for its number of elements"
        return ""


def labelled_regions(evidence: Evidence) -> list[Labelled]:
    """Every set with an energy label, whole and by stratum, in the atlas's order.

    Above ``evidence.max_rows`` a set is taken as a subsample by hash; its strata are parts of it.
    """
    found = []
    known = catalog.structure_sets()
    for set_id in evidence.atlas.set_ids:
        table = evidence.atlas.table(f"structures/{set_id}.parquet").drop_duplicates("id")
        for label, sign in ENERGY_LABELS.items():
            column = f"{LABEL_PREFIX}{label}"
            if column not in table:
                continue
            rows = table[np.isfinite(table[column].to_numpy(dtype=np.float64))]
            taken = subsample(
                rows["id"].tolist(), evidence.max_rows, seed=evidence.seed, label=f"energy:{set_id}"
            )
            rows = rows.set_index("id").loc[list(taken)]
            rows = rows.assign(energy=sign * rows[column].astype("float64"))
            card = known.get(set_id)
            theory = card.labels[label].level_of_theory if card and label in card.labels else None
            strata: list[str | None] = [None]
            if rows["stratum"].nunique() > 1:
                strata += sorted(rows["stratum"].unique())
            for stratum in strata:
                part = rows if stratum is None else rows[rows["stratum"] == stratum]
                if part.empty:
                    continue
                kind = str(part["kind"].mode().iloc[0])
                kept = part[["formula", "n_atoms", "energy"]]
                found.append(Labelled(set_id, stratum, label, theory, kind, kept))
    return found


def model_energies(evidence: Evidence, model: str) -> pd.Series:
    """A model's own energies in eV a structure by structure id; without those it does not have.

    Energies an atom are multiplied by the number of atoms.
    """
    energy = evidence.charts[model].card.energy
    if energy is None:
        return pd.Series(dtype="float64")
    rows = evidence.atlas.rows(model)
    values = rows["energy"].astype("float64")
    if energy.unit == "eV/atom":
        values = values * rows["n_atoms"]
    values.index = pd.Index(rows["id"])
    values = values[np.isfinite(values.to_numpy())]
    return values[~values.index.duplicated()]
