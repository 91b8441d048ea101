# SPDX-License-Identifier: Apache-2.0
"""Score tables of what embeddings keep: chemical cues, dimensions, and alignment in and out."""

from __future__ import annotations

import pandera.pandas as pa

_SHARE = pa.Check.in_range(0, 1)
_ERROR = pa.Check.ge(0)

#: What a linear readout of one model's frozen embedding says of one cue in one region.
CUES = pa.DataFrameSchema(
    {
        "release": pa.Column(str),
        "model": pa.Column(str),
        "version": pa.Column(str),
        "layer": pa.Column(str),
        "region": pa.Column(str),
        "side": pa.Column(str, pa.Check.isin(["all", "inside", "outside", "bound"])),
        "cue": pa.Column(str),
        "task": pa.Column(str, pa.Check.isin(["regression", "classification"])),
        "determined": pa.Column(bool),
        "n": pa.Column("int64", pa.Check.ge(1)),
        "formulas": pa.Column("int64", pa.Check.ge(1)),
        "rows_sha256": pa.Column(str, pa.Check.str_matches(r"^[0-9a-f]{64}$")),
        "score": pa.Column("float64", _SHARE),
        "standard_error": pa.Column("float64", _ERROR, nullable=True),
        "r2": pa.Column("float64", _SHARE, nullable=True),
        "composition": pa.Column("float64", _SHARE),
        "gain": pa.Column("float64", pa.Check.in_range(-1, 1)),
        "gain_error": pa.Column("float64", _ERROR, nullable=True),
        "gain_p_value": pa.Column("float64", _SHARE, nullable=True),
        "gain_q_value": pa.Column("float64", _SHARE, nullable=True),
        "control": pa.Column(str, nullable=True),
        "control_score": pa.Column("float64", _SHARE, nullable=True),
        "added": pa.Column("float64", pa.Check.in_range(-1, 1), nullable=True),
        "added_error": pa.Column("float64", _ERROR, nullable=True),
        "added_p_value": pa.Column("float64", _SHARE, nullable=True),
        "added_q_value": pa.Column("float64", _SHARE, nullable=True),
        "informative": pa.Column("boolean", nullable=True, coerce=True),
        "retention": pa.Column("float64", _ERROR, nullable=True),
        "retention_low": pa.Column("float64", nullable=True),
        "retention_high": pa.Column("float64", nullable=True),
        "p_value": pa.Column("float64", _SHARE, nullable=True),
        "seed": pa.Column("int64"),
    },
    strict=True,
    unique=["model", "region", "side", "cue"],
    name="cues",
)

#: Dimensions a model's embedding fills outside its training domains, against subsets inside.
COLLAPSE = pa.DataFrameSchema(
    {
        "release": pa.Column(str),
        "model": pa.Column(str),
        "version": pa.Column(str),
        "layer": pa.Column(str),
        "region": pa.Column(str),
        "statistic": pa.Column(str),
        "n": pa.Column("int64", pa.Check.ge(1)),
        "reference_n": pa.Column("int64", pa.Check.ge(1)),
        "value": pa.Column("float64"),
        "inside": pa.Column("float64"),
        "variety": pa.Column("float64", _SHARE),
        "reference": pa.Column("float64"),
        "low": pa.Column("float64"),
        "high": pa.Column("float64"),
        "draws": pa.Column("int64", pa.Check.ge(1)),
        "p_value": pa.Column("float64", _SHARE, nullable=True),
        "seed": pa.Column("int64"),
    },
    strict=True,
    unique=["model", "region", "statistic"],
    name="collapse",
)

#: Alignment of a pair of models inside against outside both models' training domains.
CONTRASTS = pa.DataFrameSchema(
    {
        "release": pa.Column(str),
        "contrast": pa.Column(str),
        "group": pa.Column(str),
        "model_a": pa.Column(str),
        "layer_a": pa.Column(str),
        "model_b": pa.Column(str),
        "layer_b": pa.Column(str),
        "metric": pa.Column(str),
        "scale": pa.Column(str, pa.Check.isin(["local", "global"])),
        "n": pa.Column("int64", pa.Check.ge(1)),
        "k": pa.Column("Int64", nullable=True, coerce=True),
        "draws_inside": pa.Column("int64", pa.Check.ge(1)),
        "draws_outside": pa.Column("int64", pa.Check.ge(1)),
        "inside": pa.Column("float64"),
        "outside": pa.Column("float64"),
        "difference": pa.Column("float64"),
        "standard_error": pa.Column("float64", _ERROR, nullable=True),
        "calibrated_inside": pa.Column("float64", nullable=True),
        "calibrated_outside": pa.Column("float64", nullable=True),
    },
    strict=True,
    unique=["contrast", "group", "model_a", "layer_a", "model_b", "layer_b", "metric"],
    name="contrasts",
)
