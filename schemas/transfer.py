# SPDX-License-Identifier: Apache-2.0
"""``scores/transfer.parquet``: what carries over from one model's space into another's."""

from __future__ import annotations

import pandera.pandas as pa

#: ``identity``: a probe read in the space it was trained in.
MAPS = ("identity", "linear", "local", "rotation", "relative")
#: Measured of every map; ``probe_r2`` of every read-out too.
STATISTICS = (
    "reconstruction_r2",
    "reconstruction_error",
    "recall_at_1",
    "recall_at_k",
    "reciprocal_rank",
    "probe_r2",
)

#: One map from the space of ``model_a`` to that of ``model_b``, one statistic on held-out rows.
TRANSFER = pa.DataFrameSchema(
    {
        "release": pa.Column(str),
        "selection": pa.Column(str),
        "selection_sha256": pa.Column(str, pa.Check.str_matches(r"^[0-9a-f]{64}$")),
        "n": pa.Column("int64", pa.Check.ge(3)),
        "n_train": pa.Column("int64", pa.Check.ge(1)),
        "n_probe": pa.Column("Int64", pa.Check.ge(1), nullable=True, coerce=True),
        "n_test": pa.Column("int64", pa.Check.ge(1)),
        "k": pa.Column("Int64", pa.Check.ge(1), nullable=True, coerce=True),
        "model_a": pa.Column(str),
        "layer_a": pa.Column(str),
        "modality_a": pa.Column(str),
        "model_b": pa.Column(str),
        "layer_b": pa.Column(str),
        "modality_b": pa.Column(str),
        "map": pa.Column(str, pa.Check.isin(MAPS)),
        "statistic": pa.Column(str, pa.Check.isin(STATISTICS)),
        "read_out": pa.Column(str, nullable=True),
        "value": pa.Column("float64", nullable=True),
        "standard_error": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "permutations": pa.Column("int64", pa.Check.ge(0)),
        "null_mean": pa.Column("float64", nullable=True),
        "null_quantile": pa.Column("float64", nullable=True),
        "p_value": pa.Column("float64", pa.Check.in_range(0, 1), nullable=True),
        "seed": pa.Column("int64"),
    },
    checks=pa.Check(lambda t: t["n_train"] + t["n_test"] <= t["n"], error="parts exceed the rows"),
    strict=True,
    unique=["selection", "model_a", "model_b", "map", "statistic", "read_out"],
    name="transfer",
)
