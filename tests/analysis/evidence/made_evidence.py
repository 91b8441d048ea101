# SPDX-License-Identifier: Apache-2.0
"""Evidence of a made-up atlas, scored, without the stages of other modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from atlas_factory import use_made_up_registry, write_atlas

from matteratlas.analysis import analyze as analysis
from matteratlas.analysis.charts import ChartReader
from matteratlas.analysis.evidence.context import Evidence
from matteratlas.registry.archive import open_atlas

TABLES = ("selections", "pairs", "models")


def scored_atlas(root: Path, patch: pytest.MonkeyPatch, **options: Any) -> Path:
    """A made-up atlas with scores of all pairs; no stage of gap evidence has run."""
    use_made_up_registry(patch)
    patch.setattr(analysis, "STAGES", {})
    patch.setattr(analysis, "report_of", lambda *args, **options: None)  # it lists all tables
    write_atlas(root, **options)
    analysis.analyze(root, permutations=20, metrics=("cknna", "distance_correlation"))
    return root


def evidence_of(root: Path, **changes: Any) -> Evidence:
    """Evidence as a stage is given it; the catalogue must hold the made-up cards."""
    atlas = open_atlas(str(root))
    reader = ChartReader(atlas)
    tables = {f"scores/{n}.parquet": pd.read_parquet(root / f"scores/{n}.parquet") for n in TABLES}
    given = {"k": 5, "permutations": 50, "seed": 0, "max_rows": 2000, "min_rows": 30, **changes}
    return Evidence(atlas, reader, reader.relations(), tables, **given)


def bare_evidence(root: Path, **changes: Any) -> Evidence:
    """Evidence of an atlas that has not been analysed: no score tables."""
    atlas = open_atlas(str(root))
    reader = ChartReader(atlas)
    given = {"k": 5, "permutations": 50, "seed": 0, "max_rows": 2000, "min_rows": 30, **changes}
    return Evidence(atlas, reader, reader.relations(), {}, **given)
