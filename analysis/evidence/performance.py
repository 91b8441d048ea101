# SPDX-License-Identifier: Apache-2.0
"""Performance: how far each model's energies, or those read off its embeddings, are from real ones.

Composition-corrected as in arXiv:2512.03750, Eqs 1-4, so that levels of theory and zeros of energy
do not matter. ``docs/explanation/performance-and-alignment.md`` says what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...schemas.performance import PERFORMANCE
from ..gaps import count
from ..selections import CORE_SHARE
from ..tables import typed
from .context import Evidence, Findings
from .energies import (
    Floats,
    Labelled,
    Part,
    deviations,
    energy_errors,
    fit_parameters,
    jackknife_error,
    labelled_regions,
    model_energies,
)
from .energy_probe import enough_groups, probe_predictions

TABLE = "scores/performance.parquet"


@dataclass(frozen=True)
class _Region:
    """A region's rows for each model: core models share one part, others have parts of it."""

    labelled: Labelled
    core: Part
    parts: dict[str, Part]
    few: list[str]

    def role(self, model: str) -> str:
        return "core" if self.parts[model] is self.core else "partial"


def performance_stage(evidence: Evidence) -> Findings:
    """Energy errors of all models on every set, and stratum, that holds real energies.

    Rows are those that every core model (one with a vector, and an energy if it gives energies, for
    90 % of them) has; other models are read on the rows of these that they have. Methods:

    ``own_energy``
        The model's own energies.
    ``probe``
        Deviations read off its frozen embeddings: ridge regression of the reference deviation an
        atom, cross-validated by formula, times the number of atoms. Not where one formula holds
        more than half of the rows: too few are left to learn from without it.
    ``baseline``
        Composition alone: the mean absolute deviation of the reference.

    Returns
    -------
    Findings
        ``scores/performance.parquet``; a note for what had too few rows.
    """
    found = Findings()
    regions = labelled_regions(evidence)
    if not regions:
        found.notes.append("performance: no structure of this atlas has a reference energy")
    energies = {m: model_energies(evidence, m) for m in evidence.charts} if regions else {}
    rows: list[dict[str, Any]] = []
    for labelled in regions:
        region = _region(evidence, labelled, energies, found.notes)
        if region is not None:
            rows += _rows(evidence, region, energies, found.notes)
    table = pd.DataFrame(rows, columns=list(PERFORMANCE.columns))
    found.tables[TABLE] = typed(table, PERFORMANCE).astype({"learned": bool})
    return found


def _region(
    evidence: Evidence, labelled: Labelled, energies: Mapping[str, pd.Series], notes: list[str]
) -> _Region | None:
    """Who is read on which rows; None where there are too few."""
    ids = labelled.rows.index
    usable = evidence.reader.presence.loc[ids, list(evidence.charts)].copy()
    for model, own in energies.items():
        given = ids.isin(own.index)
        if given.any():
            usable[model] &= given
    core = [str(m) for m, share in usable.mean().items() if share >= CORE_SHARE]
    shared = ids[usable[core].all(axis=1).to_numpy()] if core else ids[:0]
    part = labelled.part(list(shared))
    lack = part.lack(evidence.min_rows) if core else "no model embedded nine tenths of its rows"
    if lack:
        notes.append(f"performance on {labelled.name}: {lack}")
        return None
    parts, few = dict.fromkeys(core, part), []
    for model in map(str, usable):
        if model in parts:
            continue
        own = part.rows.index[usable.loc[part.rows.index, model].to_numpy()]
        other = labelled.part(list(own))
        if not other.lack(evidence.min_rows):
            parts[model] = other
        elif len(own):
            few.append(model)
    return _Region(labelled, part, parts, few)


def _rows(
    evidence: Evidence, region: _Region, energies: Mapping[str, pd.Series], notes: list[str]
) -> list[dict[str, Any]]:
    labelled, core = region.labelled, region.core
    rows = [_row(evidence, labelled, core, -deviations(core.energy, core.counts), "baseline")]
    unread = 0
    for model in evidence.charts:
        part = region.parts.get(model)
        if part is None:
            continue
        role = region.role(model)
        ids = part.rows.index
        own = energies[model]
        if ids.isin(own.index).all():
            errors = energy_errors(part.energy, own.loc[ids].to_numpy(), part.counts)
            rows.append(_row(evidence, labelled, part, errors, "own_energy", model, role))
        if not enough_groups(part.groups):
            unread += 1
            continue
        wanted = deviations(part.energy, part.counts) / part.atoms
        vectors = evidence.reader.rows(model, list(ids))
        read = probe_predictions(vectors, wanted, part.groups) * part.atoms
        errors = energy_errors(part.energy, read, part.counts)
        rows.append(_row(evidence, labelled, part, errors, "probe", model, role))
    if region.few:
        notes.append(f"performance on {labelled.name}: too few rows for {', '.join(region.few)}")
    if unread:
        notes.append(
            f"performance on {labelled.name}: no probe of {count(unread, 'model')}: one formula "
            "holds more than half of the rows, or there are fewer than five formulas"
        )
    return rows


def _row(
    evidence: Evidence,
    labelled: Labelled,
    part: Part,
    errors: Floats,
    method: str,
    model: str | None = None,
    role: str = "core",
) -> dict[str, Any]:
    card = evidence.charts[model].card if model is not None else None
    relations = evidence.relations
    inside = None
    if model in relations.columns:
        inside = int((relations.loc[part.rows.index, model] == "in").sum())
    size = np.abs(errors)
    alone = np.abs(deviations(part.energy, part.counts))
    return {
        "release": evidence.release,
        "set": labelled.set_id,
        "stratum": labelled.stratum,
        "label": labelled.label,
        "level_of_theory": labelled.level_of_theory,
        "method": method,
        "model": model,
        "version": card.version if card else None,
        "family": card.family if card else None,
        "layer": card.default_layer if card and method == "probe" else None,
        "learned": card.learned if card else False,
        "role": role,
        "n": len(size),
        "rows_sha256": part.sha256,
        "groups": len(np.unique(part.groups)),
        "parameters": fit_parameters(part.counts),
        "in_distribution": inside,
        "mae": float(size.mean()),
        "standard_error": jackknife_error(size, part.groups),
        "mae_per_atom": float((size / part.atoms).mean()),
        "standard_error_per_atom": jackknife_error(size / part.atoms, part.groups),
        "baseline": float(alone.mean()),
        "baseline_per_atom": float((alone / part.atoms).mean()),
        "seed": evidence.seed,
    }
