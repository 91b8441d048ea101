# SPDX-License-Identifier: Apache-2.0
"""The record of an analysis: what went in, by which versions, and whether anything has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from ..registry import catalog
from ..registry.archive import Atlas
from ..registry.hub import sha256_of
from ..registry.index import seal, unseal, write_json
from ..schemas.cards import StructureSetCard
from ..schemas.errors import ArchiveError, MetricError
from ..schemas.scores import ANALYSIS, SCORE_TABLES
from . import coverage, density, gaps, local, selections
from .evidence import (
    alignment,
    cells,
    chemistry,
    collapse,
    cues,
    energies,
    energy_probe,
    maps,
    reach,
    readout,
    regions,
    retention,
    rows,
    scorecard_measures,
    transfer,
    universe,
)
from .metrics import METRICS, VERSIONS
from .scoring import EXCHANGED, MODEL_VERSIONS, SPLIT_ABOVE

#: Keys of a model card that no score depends on.
PROSE = {"notes", "performance", "authors", "paper", "name", "lifecycle", "licence"}

#: Rises whenever the same inputs would give other tables for a reason no other version tells.
ANALYSIS_VERSION = "1"


@dataclass
class AnalysisReport:
    """What an analysis found, or that nothing had changed.

    Attributes
    ----------
    kept : bool
        Inputs equal those of the last analysis; nothing was computed.
    tables : dict
        Rows of each score table by its path.
    skipped : list of dict
        ``selection`` and ``reason`` of what could not be scored.
    top : list of str
        Evidence of the first gap of each kind that has a severity above 0.
    """

    root: Path
    fingerprint: str
    kept: bool
    selections: int
    tables: dict[str, int]
    skipped: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    top: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return {**asdict(self), "root": str(self.root)}

    def text(self) -> str:
        """A few lines for a reader."""
        head = f"{self.root}: " + (
            "inputs are those of the last analysis; scores kept, nothing computed"
            if self.kept
            else "analysed"
        )
        sizes = ", ".join(f"{rows} {Path(name).stem}" for name, rows in self.tables.items())
        lines = [head, f"  {sizes}"]
        if self.skipped:
            lines.append(f"  {len(self.skipped)} selections left out; reasons in {ANALYSIS}")
        if self.notes:
            lines.append(f"  {len(self.notes)} notes in {ANALYSIS}; the first: {self.notes[0]}")
        lines += [f"  {line}" for line in self.top]
        return "\n".join(lines)


def check_parameters(
    k: int,
    permutations: int,
    seed: int,
    min_rows: int,
    max_rows: int,
    metrics: Sequence[str],
    layers: str,
) -> dict[str, Any]:
    """Checked parameters, as the record keeps them."""
    unknown = [m for m in metrics if m not in METRICS]
    if unknown or not metrics:
        raise MetricError(
            f"metrics: {unknown[0] if unknown else 'none given'}; choose from {', '.join(METRICS)}"
        )
    if layers not in ("default", "all"):
        raise MetricError(f"layers={layers!r} is not one of default, all")
    for name, value, low in (
        ("k", k, 2),
        ("permutations", permutations, 0),
        ("min_rows", min_rows, 4),
        ("max_rows", max_rows, max(min_rows, k + 2)),
    ):
        if value < low:
            raise MetricError(f"{name}={value} is too small; give at least {low}")
    return {
        "k": k,
        "permutations": permutations,
        "seed": seed,
        "max_rows": max_rows,
        "min_rows": min_rows,
        "metrics": list(metrics),
        "layers": layers,
    }


def constants() -> dict[str, float]:
    """Choices that are not parameters but decide numbers."""
    return {
        "core_share": selections.CORE_SHARE,
        "contrast_rows": selections.CONTRAST_ROWS,
        "contrast_draws": selections.CONTRAST_DRAWS,
        "covered_structures": coverage.ENOUGH,
        "refused_excess": coverage.EXCESS,
        "relabelings": local.RELABELINGS,
        "local_stratum_rows": local.STRATUM_ROWS,
        "density_stratum_rows": density.STRATUM_ROWS,
        "density_resamples": density.RESAMPLES,
        "false_discovery_rate": gaps.LEVEL,
        "split_above": SPLIT_ABOVE,
        "exchanged_share": EXCHANGED,
        "reach_least_expected": reach.LEAST_EXPECTED,
        "reach_least_rows": reach.LEAST_ROWS,
        "prototype_tolerance": chemistry.SYMPREC,
        "prototype_atoms": chemistry.SYMMETRY_ATOMS,
        "cell_rows": cells.ROWS_PER_CELL,
        "cells_at_most": cells.MOST_CELLS,
        "cell_iterations": cells.ITERATIONS,
        "cell_starts": cells.STARTS,
        "cell_chart_nearly": cells.NEARLY,
        "row_null_draws": rows.NULL_DRAWS,
        "row_agreement_rows": rows.AGREEMENT_ROWS,
        "energy_rows_per_parameter": energies.ROWS_PER_PARAMETER,
        "energy_probe_folds": energy_probe.FOLDS,
        "energy_probe_largest_group": energy_probe.LARGEST_GROUP,
        "energy_probe_least_penalty": min(energy_probe.PENALTIES),
        "energy_probe_largest_penalty": max(energy_probe.PENALTIES),
        "performance_resamples": alignment.RESAMPLES,
        "performance_points": alignment.POINTS,
        "performance_confidence": alignment.CONFIDENCE,
        "map_components": maps.COMPONENTS,
        "map_local_rows": maps.LOCAL_ROWS,
        "map_local_strength": maps.LOCAL_STRENGTH,
        "map_anchors": maps.ANCHORS,
        "cue_element_rows": cues.ELEMENT_ROWS,
        "cue_elements": cues.ELEMENTS,
        "cue_bond_factor": cues.BOND_FACTOR,
        "cue_most_atoms": cues.MAX_ATOMS,
        "cue_rows": regions.ROWS,
        "cue_formulas": regions.FORMULAS,
        "cue_class_formulas": regions.CLASS_FORMULAS,
        "readout_folds": readout.FOLDS,
        "readout_steps": readout.STEPS,
        "readout_reach": readout.REACH,
        "readout_draws": readout.DRAWS,
        "readout_least_penalty": min(readout.RIDGE),
        "readout_largest_penalty": max(readout.RIDGE),
        "readout_least_logistic_penalty": min(readout.LOGISTIC),
        "readout_largest_logistic_penalty": max(readout.LOGISTIC),
        "retention_least_rows": retention.LEAST,
        "retention_least_bound": retention.BOUND,
        "retention_margin": retention.MARGIN,
        "retention_control_rows": retention.SHARED_ROWS,
        "collapse_draws": collapse.DRAWS,
        "collapse_fewer_draws": collapse.FEWER_DRAWS,
        "collapse_least_rows": min(collapse.SIZES),
        "collapse_most_rows": max(collapse.SIZES),
        "collapse_neighbours": collapse.NEIGHBOURS,
        "transfer_rows": transfer.ROWS,
        "transfer_map_share": transfer.SHARES[0],
        "transfer_test_share": transfer.SHARES[2],
        "transfer_least_rows": transfer.LEAST_ROWS,
        "transfer_least_labelled": transfer.LEAST_LABELLED,
        "transfer_most_pairs": transfer.MOST_PAIRS,
        "transfer_relative_strength": transfer.RELATIVE_STRENGTH,
        "scorecard_native_r2": scorecard_measures.NATIVE,
    }


def versions() -> dict[str, str]:
    """Packages and metrics that decide numbers."""
    numeric = ("matteratlas", "numpy", "scipy", "scikit-learn")
    packages = (*numeric, "spglib", "rdkit", "faiss-cpu", "faiss-gpu")
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    scores = {str(name): version for name, version in VERSIONS.items()} | MODEL_VERSIONS
    return {"analysis": ANALYSIS_VERSION, **found, **scores}


def inputs_of(root: Path, atlas: Atlas) -> dict[str, Any]:
    """Hashes of all that scores depend on: units, structures, the cards of both, universes."""
    units = atlas.units.sort_values(["model", "set"])
    return {
        "units": [
            f"{model}/{set_id}:{content}"
            for model, set_id, content in zip(
                units["model"], units["set"], units["content_sha256"], strict=True
            )
        ],
        "structures": {s: sha256_of(root / "structures" / f"{s}.parquet") for s in atlas.set_ids},
        "cards": digest(
            [
                catalog.model(m).model_dump(mode="json", exclude=PROSE)
                for m in sorted(set(units["model"]))
            ]
            + [
                card.model_dump(mode="json", include={"id", "version", "strata"})
                for card in _set_cards(atlas)
            ]
        ),
        "universes": {
            name: digest([found.card.model_dump(), found.counts["count"].to_dict()])
            for name, found in universe.shipped_universes().items()
        },
    }


def _set_cards(atlas: Atlas) -> list[StructureSetCard]:
    """Cards of the atlas's sets that this registry knows."""
    known = catalog.structure_sets()
    return [known[s] for s in atlas.set_ids if s in known]


def digest(content: Any) -> str:
    """SHA-256 of JSON-able content, keys sorted."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def unchanged(root: Path, fingerprint: str) -> AnalysisReport | None:
    """The last analysis, if it had this fingerprint and its tables are as it left them."""
    try:
        record = unseal((root / ANALYSIS).read_bytes(), where=str(root / ANALYSIS))
    except (FileNotFoundError, ArchiveError):
        return None
    if record.get("fingerprint") != fingerprint:
        return None
    tables = record.get("tables", {})
    for name in SCORE_TABLES:
        file = root / name
        if not file.is_file() or sha256_of(file) != tables.get(name, {}).get("sha256"):
            return None
    return report_of(root, record, kept=True)


def report_of(root: Path, record: dict[str, Any], *, kept: bool) -> AnalysisReport:
    """The report a record stands for."""
    return AnalysisReport(
        root=root,
        fingerprint=record["fingerprint"],
        kept=kept,
        selections=len(record["selections"]),
        tables={name: record["tables"][name]["rows"] for name in SCORE_TABLES},
        skipped=record["skipped"],
        notes=record["notes"],
        top=record["top"],
    )


def write_record(root: Path, record: dict[str, Any]) -> None:
    """Write ``scores/analysis.json``, sealed, whole or not at all."""
    write_json(seal(record), root / ANALYSIS)
