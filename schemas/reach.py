# SPDX-License-Identifier: Apache-2.0
"""Reach: which regions of chemistry sets hold less of than a reference universe, by test."""

from __future__ import annotations

import pandera.pandas as pa
from pydantic import BaseModel, ConfigDict, Field

_KINDS = pa.Check.isin(["molecule", "crystal", "protein"])
_SHARE = pa.Check.in_range(0, 1)

#: Columns of every test of a count against what a random sample of the universe would hold.
_TEST = {
    "observed": pa.Column("int64", pa.Check.ge(0)),
    "expected": pa.Column("float64", pa.Check.ge(0)),
    "p_value": pa.Column("float64", _SHARE, nullable=True),
    "q_value": pa.Column("float64", _SHARE, nullable=True),
    "severity": pa.Column("float64", _SHARE),
}

#: One row a scope (the atlas, or a set), universe and region expected often enough to be tested.
REACH = pa.DataFrameSchema(
    {
        "release": pa.Column(str),
        "scope": pa.Column(str),
        "universe": pa.Column(str),
        "kind": pa.Column(str, _KINDS),
        "type": pa.Column(str),
        "region": pa.Column(str),
        "rank": pa.Column("int64", pa.Check.ge(1)),
        "n": pa.Column("int64", pa.Check.ge(1)),
        "universe_n": pa.Column("int64", pa.Check.ge(1)),
        "in_universe": pa.Column("int64", pa.Check.ge(1)),
        **_TEST,
        "explained_by": pa.Column(object, nullable=True),
    },
    strict=True,
    unique=["scope", "universe", "region"],
    name="reach",
)

#: One row an ordered pair of sets and type of region: how much of one's regions the other holds.
SET_OVERLAP = pa.DataFrameSchema(
    {
        "release": pa.Column(str),
        "set_a": pa.Column(str),
        "set_b": pa.Column(str),
        "type": pa.Column(str),
        "n_a": pa.Column("int64", pa.Check.ge(1)),
        "n_b": pa.Column("int64", pa.Check.ge(1)),
        "regions_a": pa.Column("int64", pa.Check.ge(1)),
        "regions_b": pa.Column("int64", pa.Check.ge(1)),
        "shared": pa.Column("int64", pa.Check.ge(0)),
        "jaccard": pa.Column("float64", _SHARE),
        "covered": pa.Column("float64", _SHARE),
    },
    strict=True,
    unique=["set_a", "set_b", "type"],
    name="set overlap",
)

#: One row a cell of a reference model's space and set.
CELLS = pa.DataFrameSchema(
    {
        "release": pa.Column(str),
        "kind": pa.Column(str, _KINDS),
        "model": pa.Column(str),
        "layer": pa.Column(str),
        "cells": pa.Column("int64", pa.Check.ge(2)),
        "seed": pa.Column("int64"),
        "cell": pa.Column("int64", pa.Check.ge(0)),
        "centre": pa.Column(str, pa.Check.str_matches(r"^ma1-[a-z2-7]{26}$")),
        "description": pa.Column(str, pa.Check.str_length(min_value=1)),
        "set": pa.Column(str),
        "n": pa.Column("int64", pa.Check.ge(1)),
        "universe_n": pa.Column("int64", pa.Check.ge(1)),
        "in_universe": pa.Column("int64", pa.Check.ge(1)),
        **_TEST,
    },
    strict=True,
    unique=["kind", "cell", "set"],
    name="cells",
)

#: One row a structure: all that says it lies in a gap.
STRUCTURE_SCORES = pa.DataFrameSchema(
    {
        "release": pa.Column(str),
        "id": pa.Column(str, pa.Check.str_matches(r"^ma1-[a-z2-7]{26}$"), unique=True),
        "set": pa.Column(str),
        "stratum": pa.Column(str),
        "kind": pa.Column(str, _KINDS),
        "able_models": pa.Column("int64", pa.Check.ge(0)),
        "embedded_share": pa.Column("float64", _SHARE, nullable=True),
        "judged_models": pa.Column("int64", pa.Check.ge(0)),
        "out_share": pa.Column("float64", _SHARE, nullable=True),
        "distance_models": pa.Column("int64", pa.Check.ge(0)),
        "distance_percentile": pa.Column("float64", _SHARE, nullable=True),
        "distance_inside": pa.Column("float64", _SHARE, nullable=True),
        "distance_outside": pa.Column("float64", _SHARE, nullable=True),
        "agreement_models": pa.Column("int64", pa.Check.ge(0)),
        "agreement_n": pa.Column("int64", pa.Check.ge(0)),
        "k": pa.Column("int64", pa.Check.ge(1)),
        "agreement": pa.Column("float64", _SHARE, nullable=True),
        "agreement_null": pa.Column("float64", _SHARE, nullable=True),
        "agreement_p": pa.Column("float64", _SHARE, nullable=True),
        "rarest_region": pa.Column(object, nullable=True),
        "rarest_count": pa.Column("Int64", pa.Check.ge(1), nullable=True, coerce=True),
        "rarity": pa.Column("float64", _SHARE, nullable=True),
        "gap_score": pa.Column("float64", _SHARE),
        "rank": pa.Column("int64", pa.Check.ge(1)),
        "seed": pa.Column("int64"),
    },
    strict=True,
    name="structure scores",
)

#: Counts of a shipped universe, ``registry/universes/<id>.csv``.
UNIVERSE_COUNTS = pa.DataFrameSchema(
    {
        "region": pa.Column(str, unique=True),
        "type": pa.Column(str),
        "kind": pa.Column(str, _KINDS),
        "count": pa.Column("int64", pa.Check.ge(1)),
    },
    strict=True,
    name="universe counts",
)


class UniverseCard(BaseModel):
    """A shipped reference universe: where its counts come from, ``registry/universes/<id>.yaml``.

    Attributes
    ----------
    sets :
        Structure sets that were drawn from it: their structures are in it already.
    totals :
        Kind -> type of region -> structures of which the type is known.
    least :
        Regions of fewer structures are not in the counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    name: str
    description: str
    sources: list[str]
    licence: str
    sets: list[str]
    least: int = Field(ge=1)
    totals: dict[str, dict[str, int]]
