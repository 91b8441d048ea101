# SPDX-License-Identifier: Apache-2.0
"""Tables of energy errors, and of errors against alignment."""

from __future__ import annotations

import pandera.pandas as pa

#: What an error is of: a region's rows and label.
_REGION = {
    "release": pa.Column(str),
    "set": pa.Column(str),
    "stratum": pa.Column(str, nullable=True),
    "label": pa.Column(str),
}
_METHODS = ["baseline", "own_energy", "probe"]

#: Composition-corrected energy error of each model on each set, and stratum, with real energies.
PERFORMANCE = pa.DataFrameSchema(
    {
        **_REGION,
        "level_of_theory": pa.Column(str, nullable=True),
        "method": pa.Column(str, pa.Check.isin(_METHODS)),
        "model": pa.Column(str, nullable=True),
        "version": pa.Column(str, nullable=True),
        "family": pa.Column(str, nullable=True),
        "layer": pa.Column(str, nullable=True),
        "learned": pa.Column(bool),
        "role": pa.Column(str, pa.Check.isin(["core", "partial"])),
        "n": pa.Column("int64", pa.Check.ge(1)),
        "rows_sha256": pa.Column(str, pa.Check.str_matches(r"^[0-9a-f]{64}$")),
        "groups": pa.Column("int64", pa.Check.ge(1)),
        "parameters": pa.Column("int64", pa.Check.ge(1)),
        "in_distribution": pa.Column("Int64", pa.Check.ge(0), nullable=True, coerce=True),
        "mae": pa.Column("float64", pa.Check.ge(0)),
        "standard_error": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "mae_per_atom": pa.Column("float64", pa.Check.ge(0)),
        "standard_error_per_atom": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "baseline": pa.Column("float64", pa.Check.ge(0)),
        "baseline_per_atom": pa.Column("float64", pa.Check.ge(0)),
        "seed": pa.Column("int64"),
    },
    strict=True,
    unique=["set", "stratum", "label", "method", "model"],
    name="performance",
)

#: What performance and alignment are joined on.
_JOINED = {
    **_REGION,
    "method": pa.Column(str, pa.Check.isin(_METHODS[1:])),
    "metric": pa.Column(str),
    "selection": pa.Column(str),
    "reference": pa.Column(str),
}

#: Each model's error beside its calibrated alignment to one reference.
PERFORMANCE_ALIGNMENT = pa.DataFrameSchema(
    {
        **_JOINED,
        "reference_family": pa.Column(str),
        "reference_rule": pa.Column(str, pa.Check.isin(["best_performer", "named"])),
        "model": pa.Column(str),
        "family": pa.Column(str),
        "counted": pa.Column(bool),
        "mae": pa.Column("float64", pa.Check.ge(0)),
        "mae_standard_error": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "baseline": pa.Column("float64", pa.Check.ge(0)),
        "n_errors": pa.Column("int64", pa.Check.ge(1)),
        "alignment": pa.Column("float64"),
        "alignment_standard_error": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "value": pa.Column("float64"),
        "n": pa.Column("int64", pa.Check.ge(1)),
        "k": pa.Column("Int64", pa.Check.ge(1), nullable=True, coerce=True),
        "permutations": pa.Column("int64", pa.Check.ge(0)),
        "seed": pa.Column("int64"),
    },
    strict=True,
    unique=["set", "stratum", "label", "method", "metric", "model"],
    name="performance against alignment",
)

#: Does the error fall as alignment rises: over all models, across families, within families.
PERFORMANCE_CORRELATION = pa.DataFrameSchema(
    {
        **_JOINED,
        "scope": pa.Column(str, pa.Check.isin(["all", "across", "within"])),
        "statistic": pa.Column(str, pa.Check.isin(["spearman", "pearson"])),
        "value": pa.Column("float64", pa.Check.in_range(-1, 1)),
        "low": pa.Column("float64", pa.Check.in_range(-1, 1), nullable=True),
        "high": pa.Column("float64", pa.Check.in_range(-1, 1), nullable=True),
        "p_value": pa.Column("float64", pa.Check.in_range(0, 1), nullable=True),
        "n": pa.Column("int64", pa.Check.ge(3)),
        "models": pa.Column("int64", pa.Check.ge(3)),
        "families": pa.Column("int64", pa.Check.ge(1)),
        "resamples": pa.Column("int64", pa.Check.ge(0)),
        "seed": pa.Column("int64"),
    },
    strict=True,
    unique=["set", "stratum", "label", "method", "metric", "scope", "statistic"],
    name="correlation of performance with alignment",
)
