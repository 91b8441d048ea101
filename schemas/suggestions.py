# SPDX-License-Identifier: Apache-2.0
"""Suggestions: which structures of a pool to add next, each with the gap it would help to close."""

from __future__ import annotations

import pandera.pandas as pa

#: One row a pick, in order of rank. ``region`` and what belongs to it are null where no gap of the
#: atlas holds the structure. Kept outside of atlases: it says what is not in one.
SUGGESTIONS = pa.DataFrameSchema(
    {
        "release": pa.Column(str),
        "rank": pa.Column("int64", pa.Check.ge(1), unique=True),
        "id": pa.Column(str, pa.Check.str_matches(r"^ma1-[a-z2-7]{26}$"), unique=True),
        "pool": pa.Column(str, pa.Check.str_length(min_value=1)),
        "set": pa.Column(str),
        "stratum": pa.Column(str),
        "source_id": pa.Column(str),
        "name": pa.Column(object, nullable=True),
        "formula": pa.Column(str),
        "kind": pa.Column(str, pa.Check.isin(["molecule", "crystal", "protein"])),
        "n_atoms": pa.Column("int64", pa.Check.ge(1)),
        "model": pa.Column(str),
        "known": pa.Column("int64", pa.Check.ge(2)),
        "candidates": pa.Column("int64", pa.Check.ge(1)),
        "method": pa.Column(str),
        "cost": pa.Column("float64", pa.Check.gt(0)),
        "cost_unit": pa.Column(str, pa.Check.isin(["atoms", "seconds", "structures"])),
        "score": pa.Column("float64", pa.Check.ge(0)),
        "gap_kind": pa.Column(object, nullable=True),
        "region": pa.Column(object, nullable=True),
        "gap_model": pa.Column(object, nullable=True),
        "gap_statistic": pa.Column(object, nullable=True),
        "gap_rank": pa.Column("Int64", pa.Check.ge(1), nullable=True),
        "gap_severity": pa.Column("float64", pa.Check.in_range(0, 1), nullable=True),
        "nearest_id": pa.Column(str),
        "nearest_name": pa.Column(str),
        "nearest_region": pa.Column(str),
        "distance": pa.Column("float64", pa.Check.ge(0)),
        "distance_ratio": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "reason": pa.Column(str, pa.Check.str_length(min_value=1)),
        "seed": pa.Column("int64"),
    },
    checks=pa.Check(
        lambda t: t["region"].notna() == t["gap_rank"].notna(), error="a gap without its rank"
    ),
    strict=True,
    name="suggestions",
)
