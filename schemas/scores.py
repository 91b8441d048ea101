# SPDX-License-Identifier: Apache-2.0
"""Score tables: one metric value with all that is needed to reproduce or to refuse comparing it."""

from __future__ import annotations

import pandera.pandas as pa

from .maps import MAP, NEAREST
from .performance import PERFORMANCE, PERFORMANCE_ALIGNMENT, PERFORMANCE_CORRELATION
from .reach import CELLS, REACH, SET_OVERLAP, STRUCTURE_SCORES
from .retention import COLLAPSE, CONTRASTS, CUES
from .scorecard import SCORECARD
from .transfer import TRANSFER

#: The record of the last analysis, written last.
ANALYSIS = "scores/analysis.json"

#: Columns shared by every score: which rows, which spaces, which estimator.
_PROVENANCE = {
    "release": pa.Column(str),
    "selection": pa.Column(str),
    "selection_sha256": pa.Column(str, pa.Check.str_matches(r"^[0-9a-f]{64}$")),
    "n": pa.Column("int64", pa.Check.ge(1)),
    "k": pa.Column("Int64", pa.Check.ge(1), nullable=True, coerce=True),
    "metric": pa.Column(str),
    "metric_version": pa.Column(str),
    "normalise": pa.Column(str),
    "value": pa.Column("float64", nullable=True),
    "standard_error": pa.Column("float64", pa.Check.ge(0), nullable=True),
}

#: Alignment of two models on the rows both embed.
PAIR_SCORES = pa.DataFrameSchema(
    {
        **_PROVENANCE,
        "model_a": pa.Column(str),
        "version_a": pa.Column(str),
        "layer_a": pa.Column(str),
        "pooling_a": pa.Column(str),
        "model_b": pa.Column(str),
        "version_b": pa.Column(str),
        "layer_b": pa.Column(str),
        "pooling_b": pa.Column(str),
        "permutations": pa.Column("int64", pa.Check.ge(0)),
        "null_within": pa.Column(str, nullable=True),
        "null_mean": pa.Column("float64", nullable=True),
        "null_quantile": pa.Column("float64", nullable=True),
        "p_value": pa.Column("float64", pa.Check.in_range(0, 1), nullable=True),
        "q_value": pa.Column("float64", pa.Check.in_range(0, 1), nullable=True),
        "calibrated": pa.Column("float64", pa.Check.in_range(0, 1), nullable=True),
        "seed": pa.Column("int64"),
    },
    strict=True,
    unique=["selection", "model_a", "layer_a", "model_b", "layer_b", "metric", "k"],
    name="pair scores",
)

#: One model on one selection.
MODEL_SCORES = pa.DataFrameSchema(
    {
        **_PROVENANCE,
        "model": pa.Column(str),
        "version": pa.Column(str),
        "layer": pa.Column(str),
        "pooling": pa.Column(str),
        "seed": pa.Column("int64"),
    },
    strict=True,
    unique=["selection", "model", "layer", "metric", "k"],
    name="model scores",
)

#: Which models embedded how much of each stratum, and why not the rest.
COVERAGE = pa.DataFrameSchema(
    {
        "release": pa.Column(str),
        "model": pa.Column(str),
        "set": pa.Column(str),
        "stratum": pa.Column(str),
        "structures": pa.Column("int64", pa.Check.ge(0)),
        "embedded": pa.Column("int64", pa.Check.ge(0)),
        "in_distribution": pa.Column("int64", pa.Check.ge(0)),
        "out_of_distribution": pa.Column("int64", pa.Check.ge(0)),
        "unknown_distribution": pa.Column("int64", pa.Check.ge(0)),
        "reasons": pa.Column(str),
    },
    checks=pa.Check(
        lambda t: t["embedded"] <= t["structures"], error="more rows embedded than structures"
    ),
    strict=True,
    unique=["model", "set", "stratum"],
    name="coverage",
)

#: A region where coverage or agreement fails, with its evidence.
GAPS = pa.DataFrameSchema(
    {
        "release": pa.Column(str),
        "kind": pa.Column(
            str,
            pa.Check.isin(
                ["coverage", "agreement", "distribution", "density", "retention", "collapse"]
            ),
        ),
        "rank": pa.Column("int64", pa.Check.ge(1)),
        "region": pa.Column(str),
        "model": pa.Column(str, nullable=True),
        "selection": pa.Column(str, nullable=True),
        "n": pa.Column("int64", pa.Check.ge(0)),
        "reference_n": pa.Column("Int64", nullable=True, coerce=True),
        "statistic": pa.Column(str),
        "value": pa.Column("float64", nullable=True),
        "reference": pa.Column("float64", nullable=True),
        "standard_error": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "p_value": pa.Column("float64", pa.Check.in_range(0, 1), nullable=True),
        "q_value": pa.Column("float64", pa.Check.in_range(0, 1), nullable=True),
        "severity": pa.Column("float64", pa.Check.in_range(0, 1)),
        "evidence": pa.Column(str, pa.Check.str_length(min_value=1)),
    },
    strict=True,
    unique=["kind", "region", "model", "statistic", "selection"],
    name="gaps",
)

#: How far the models keep the same neighbours around each structure.
LOCAL = pa.DataFrameSchema(
    {
        "release": pa.Column(str),
        "id": pa.Column(str, pa.Check.str_matches(r"^ma1-[a-z2-7]{26}$")),
        "set": pa.Column(str),
        "stratum": pa.Column(str),
        "selection": pa.Column(str),
        "selection_sha256": pa.Column(str, pa.Check.str_matches(r"^[0-9a-f]{64}$")),
        "n": pa.Column("int64", pa.Check.ge(3)),
        "k": pa.Column("int64", pa.Check.ge(1)),
        "pairs": pa.Column("int64", pa.Check.ge(1)),
        "agreement": pa.Column("float64", pa.Check.in_range(0, 1)),
        "null": pa.Column("float64", pa.Check.in_range(0, 1)),
    },
    strict=True,
    unique=["selection", "id"],
    name="local agreement",
)

#: Which rows and models each selection name stands for.
SELECTIONS = pa.DataFrameSchema(
    {
        "selection": pa.Column(str, unique=True),
        "selection_sha256": pa.Column(str, pa.Check.str_matches(r"^[0-9a-f]{64}$")),
        "role": pa.Column(str, pa.Check.isin(["kind", "stratum", "partial", "contrast"])),
        "parent": pa.Column(str, nullable=True),
        "contrast": pa.Column(str, nullable=True),
        "group": pa.Column(str, nullable=True),
        "side": pa.Column(str, pa.Check.isin(["in", "out"]), nullable=True),
        "draw": pa.Column("Int64", pa.Check.ge(0), nullable=True, coerce=True),
        "n": pa.Column("int64", pa.Check.ge(1)),
        "available": pa.Column("int64", pa.Check.ge(1)),
        "models": pa.Column(object),
        "ids": pa.Column(object),
    },
    checks=pa.Check(lambda t: t["n"] <= t["available"], error="more rows taken than there are"),
    strict=True,
    name="selections",
)

#: Score tables of an atlas by their path in it.
SCORE_TABLES: dict[str, pa.DataFrameSchema] = {
    "scores/selections.parquet": SELECTIONS,
    "scores/pairs.parquet": PAIR_SCORES,
    "scores/models.parquet": MODEL_SCORES,
    "scores/local.parquet": LOCAL,
    "scores/coverage.parquet": COVERAGE,
    "scores/gaps.parquet": GAPS,
    "scores/reach.parquet": REACH,
    "scores/set_overlap.parquet": SET_OVERLAP,
    "scores/cells.parquet": CELLS,
    "scores/structures.parquet": STRUCTURE_SCORES,
    "scores/performance.parquet": PERFORMANCE,
    "scores/performance_alignment.parquet": PERFORMANCE_ALIGNMENT,
    "scores/performance_correlation.parquet": PERFORMANCE_CORRELATION,
    "scores/map.parquet": MAP,
    "scores/nearest.parquet": NEAREST,
    "scores/transfer.parquet": TRANSFER,
    "scores/cues.parquet": CUES,
    "scores/collapse.parquet": COLLAPSE,
    "scores/contrasts.parquet": CONTRASTS,
    "scores/scorecard.parquet": SCORECARD,
}
