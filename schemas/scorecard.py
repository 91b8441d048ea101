# SPDX-License-Identifier: Apache-2.0
"""``scores/scorecard.parquet``: what the atlas says of each model, in one long table."""

from __future__ import annotations

import pandera.pandas as pa

#: In the order in which a card tells them.
MEASURES = (
    "verdict",
    "alignment_local",
    "alignment_global",
    "best_performer_local",
    "best_performer_global",
    "distribution_local",
    "distribution_global",
    "cue_gain",
    "cue_retention",
    "transfer_from",
    "transfer_to",
    "transfer_across",
    "probe_transfer",
    "elements",
    "embedded",
    "mean_rank_share",
)

#: One measure of one model in one region; without a value the note says why there is none.
SCORECARD = pa.DataFrameSchema(
    {
        "release": pa.Column(str),
        "model": pa.Column(str),
        "family": pa.Column(str),
        "ranked": pa.Column(bool),
        "measure": pa.Column(str, pa.Check.isin(MEASURES)),
        "region": pa.Column(str),
        "value": pa.Column("float64", nullable=True),
        "low": pa.Column("float64", nullable=True),
        "high": pa.Column("float64", nullable=True),
        "n": pa.Column("Int64", pa.Check.ge(0), nullable=True, coerce=True),
        "rank": pa.Column("Int64", pa.Check.ge(1), nullable=True, coerce=True),
        "of": pa.Column("Int64", pa.Check.ge(1), nullable=True, coerce=True),
        "note": pa.Column(str, nullable=True),
    },
    checks=[
        pa.Check(
            lambda t: t["value"].isna() | ~(t["value"] < t["low"]) & ~(t["value"] > t["high"]),
            error="a value outside its interval",
        ),
        pa.Check(
            lambda t: t["value"].notna() | t["note"].notna(),
            error="neither a value nor a note why not",
        ),
        pa.Check(
            lambda t: t["rank"].isna() | (t["rank"] <= t["of"]).fillna(False),
            error="a rank beyond the models ranked",
        ),
    ],
    strict=True,
    unique=["model", "measure", "region"],
    name="scorecard",
)
