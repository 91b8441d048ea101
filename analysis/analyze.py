# SPDX-License-Identifier: Apache-2.0
"""Analyse an atlas: every pair of models on every selection, coverage, local agreement and gaps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..registry.archive import open_atlas
from ..registry.index import file_entries
from ..registry.tables import write_table
from ..registry.workers import cluster, scheduler_address
from ..schemas.archive import UNRELEASED
from ..schemas.errors import ArchiveError, MetricError
from ..schemas.progress import Reporter, Silent
from ..schemas.scores import ANALYSIS, LOCAL, MODEL_SCORES, PAIR_SCORES
from . import density, gaps, local
from .charts import ChartReader, Layers
from .coverage import coverage_gaps, coverage_table
from .evidence.context import Evidence
from .evidence.stages import STAGES
from .metrics import METRICS
from .record import (
    ANALYSIS_VERSION,
    AnalysisReport,
    check_parameters,
    constants,
    digest,
    inputs_of,
    report_of,
    unchanged,
    versions,
    write_record,
)
from .running import Place, run_tasks
from .scoring import Scored, Settings, make_tasks
from .selections import Plan, make_plan
from .tables import checked, score_table, selection_list, selection_table, typed

if TYPE_CHECKING:
    from dask.distributed import Client


def analyze(
    path: str | Path,
    *,
    k: int = 10,
    permutations: int = 200,
    seed: int = 0,
    max_rows: int = 2000,
    min_rows: int = 30,
    metrics: Sequence[str] = METRICS,
    layers: Layers = "default",
    within: str | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    reporter: Reporter | None = None,
    resume: bool = True,
) -> AnalysisReport:
    """Score an atlas folder and find its gaps; writes ``scores/``.

    Parameters
    ----------
    path :
        Atlas folder, as ``matteratlas build`` makes it.
    k, permutations :
        Neighbours a row, and null draws (0 leaves p-values and calibrated scores null).
    seed :
        Of subsamples, null draws and jackknife blocks.
    max_rows, min_rows :
        Rows of a selection at most (above, a subsample), and fewest worth a score.
    metrics :
        Of ``matteratlas.analysis.metrics.METRICS``.
    layers :
        ``default``: one chart a model, its card's default layer; ``all``: one a layer.
    within :
        A column of the structures table, such as ``formula``: null draws relabel structures among
        those with the same value, where at least half of a selection's rows have a partner. What
        then passes is agreement beyond what that column explains. By default all rows are
        exchanged.
    workers, scheduler :
        Processes of this machine, or the address (or scheduler file) of a Dask scheduler whose
        workers see the atlas under the same path; ``DASK_SCHEDULER_ADDRESS`` by default. Scores do
        not depend on them.
    resume :
        Keep the scores of an earlier analysis with equal inputs and parameters, and the parts that
        a killed one finished.

    Returns
    -------
    AnalysisReport

    Raises
    ------
    ArchiveError
        Not an atlas folder, one without structures or models, or a release whose scores these
        inputs and parameters would change.
    MetricError
        A metric or layer choice that does not exist, or a parameter out of range.
    """
    root, said = Path(path), reporter or Silent()
    settings = check_parameters(k, permutations, seed, min_rows, max_rows, metrics, layers)
    atlas = open_atlas(str(root))
    if atlas.units.empty or atlas.structures.empty:
        raise ArchiveError(f"{root}: no model has embedded anything; run: matteratlas build")
    inputs = inputs_of(root, atlas)
    if within is not None and within not in atlas.structures:
        known = ", ".join(map(str, atlas.structures.columns))
        raise MetricError(f"within={within!r} is no column of the structures; they have {known}")
    parameters = {**settings, "within": within, "alpha": 0.05, "constants": constants()}
    fingerprint = digest({"inputs": inputs, "parameters": parameters, "versions": versions()})
    if resume and (report := unchanged(root, fingerprint)) is not None:
        said.note(report.text().splitlines()[0])
        return report
    if atlas.version != UNRELEASED:
        raise ArchiveError(
            f"{root}: is release {atlas.version}, and releases never change; analyze the atlas it "
            "was made from, or a copy of it built anew"
        )
    said.stage("reading charts", 1)
    reader = ChartReader(atlas, layers=layers)
    relations = reader.relations()
    said.advance(f"{len(reader.charts)} charts of {len(reader.structures)} structures", 1)
    plan = make_plan(
        reader.structures,
        reader.presence,
        relations,
        k=k,
        seed=seed,
        max_rows=max_rows,
        min_rows=min_rows,
    )
    shared = Settings(tuple(metrics), k, permutations, seed, atlas.version, within)
    place = Place(str(root.absolute()), layers, fingerprint)
    place.clear(others=True)
    if not resume:
        place.clear()
    own, there = (workers if workers > 1 else 0), scheduler_address(scheduler)
    with cluster(workers=own, scheduler=there, failures=3) as client:
        pairs, models, excluded = _score(plan, reader, shared, place, client, said)

    said.stage("gaps", 5 + len(STAGES))
    tables: dict[str, pd.DataFrame] = {
        "scores/selections.parquet": selection_table(plan, excluded),
        "scores/pairs.parquet": pairs,
        "scores/models.parquet": models,
    }
    tables["scores/coverage.parquet"] = coverage_table(atlas, reader)
    said.advance("coverage", 1)
    near = _local(plan, reader, k, atlas.version)
    tables["scores/local.parquet"] = near
    said.advance("local agreement", 1)
    found = coverage_gaps(reader) + local.agreement_gaps(near, seed=seed)
    cards = {c.card.id: c.card for c in reader.charts.values()}
    found += gaps.distribution_gaps(pairs, tables["scores/selections.parquet"], cards=cards)
    said.advance("in against out of distribution", 1)
    found += density.density_gaps(
        reader,
        relations,
        least=max(min_rows, k + 2),
        max_rows=max_rows,
        seed=seed,
        notes=reader.notes,
    )
    said.advance("density", 1)
    evidence = Evidence(
        atlas, reader, relations, dict(tables), k, permutations, seed, max_rows, min_rows
    )
    for name, stage in STAGES.items():
        findings = stage(evidence)
        evidence.tables |= findings.tables
        tables |= findings.tables
        found += findings.gaps
        reader.notes += findings.notes
        said.advance(name, 1)
    tables["scores/gaps.parquet"] = gaps.gap_table(found, release=atlas.version)
    (root / ANALYSIS).unlink(missing_ok=True)  # until all tables are there, none is vouched for
    for name, table in tables.items():
        write_table(checked(table, name), root / name)
    said.advance("written", 1)
    if reader.notes:
        said.note(f"{len(reader.notes)} notes; see {ANALYSIS}")
    record = {
        "analysis_version": ANALYSIS_VERSION,
        "fingerprint": fingerprint,
        "release": atlas.version,
        "parameters": parameters,
        "versions": versions(),
        "inputs": inputs,
        "selections": selection_list(plan, excluded),
        "skipped": plan.skipped,
        "notes": reader.notes,
        "top": _top(tables["scores/gaps.parquet"]),
        "tables": {
            name: {"rows": len(table), **file_entries(root, [root / name])[name]}
            for name, table in tables.items()
        },
    }
    write_record(root, record)
    place.clear()
    return report_of(root, record, kept=False)


def _score(
    plan: Plan,
    reader: ChartReader,
    settings: Settings,
    place: Place,
    client: Client | None,
    said: Reporter,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, dict[str, str]]]:
    """Pair scores with q-values, model scores, and charts left out by selection."""
    tasks = make_tasks(plan.selections, settings.metrics)
    said.stage("scores", sum(task.cost * len(task.metrics) for task in tasks))
    scored = Scored()
    for part in run_tasks(
        tasks,
        place,
        settings,
        client=client,
        said=said,
        done=lambda t: said.advance(t.selections[0].name, t.cost * len(t.metrics)),
    ):
        scored.pairs += part.pairs
        scored.models += part.models
        scored.excluded |= part.excluded
    pairs = score_table(scored.pairs, PAIR_SCORES, plan, reader.charts, settings)
    pairs["q_value"] = gaps.false_discovery(pairs, ["selection", "metric"])
    models = score_table(scored.models, MODEL_SCORES, plan, reader.charts, settings)
    return pairs, models, scored.excluded


def _local(plan: Plan, reader: ChartReader, k: int, release: str) -> pd.DataFrame:
    """Local agreement on the selections by kind."""
    structures = reader.structures.set_index("id")
    parts = []
    for selection in plan.selections:
        if selection.role != "kind":
            continue
        keys = local.agreeing_charts(selection.models, reader.charts)
        data = {key: reader.rows(key, selection.ids) for key in keys}
        data = {key: x for key, x in data.items() if len(np.unique(x, axis=0)) >= k + 2}
        if len(data) < 2:
            reader.notes.append(
                f"local agreement on {selection.name}: {len(data)} learned models that see more "
                "than elements embedded its rows, 2 needed"
            )
            continue
        families = {key: reader.charts[key].card.family for key in data}
        agreement, count = local.local_agreement(data, k=k, families=families)
        parts.append(
            local.local_rows(agreement, count, selection, structures, k=k, release=release)
        )
    if not parts:
        return typed(pd.DataFrame(columns=list(LOCAL.columns)), LOCAL)
    return pd.concat(parts, ignore_index=True)


def _top(table: pd.DataFrame) -> list[str]:
    first = table[(table["rank"] == 1) & (table["severity"] > 0)]
    return [f"{g.kind} gap {g.region}: {g.evidence}" for g in first.itertuples(index=False)]
