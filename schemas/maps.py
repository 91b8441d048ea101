# SPDX-License-Identifier: Apache-2.0
"""Tables of projections and of nearest structures, for those who look rather than compute."""

from __future__ import annotations

import pandera.pandas as pa

_ID = pa.Check.str_matches(r"^ma1-[a-z2-7]{26}$")

#: Two-dimensional projection of a sample of each kind of matter, in the spaces of several models.
MAP = pa.DataFrameSchema(
    {
        "release": pa.Column(str),
        "kind": pa.Column(str, pa.Check.isin(["molecule", "crystal", "protein"])),
        "model": pa.Column(str),
        "layer": pa.Column(str),
        "method": pa.Column(str, pa.Check.isin(["t-sne"])),
        "id": pa.Column(str, _ID),
        "x": pa.Column("float64"),
        "y": pa.Column("float64"),
        "n": pa.Column("int64", pa.Check.ge(4)),
        "available": pa.Column("int64", pa.Check.ge(4)),
        "seed": pa.Column("int64"),
    },
    checks=pa.Check(lambda t: t["n"] <= t["available"], error="more rows shown than there are"),
    strict=True,
    unique=["kind", "model", "id"],
    name="map",
)

#: Nearest structures of each structure of the sample, among the sample, by model.
NEAREST = pa.DataFrameSchema(
    {
        "release": pa.Column(str),
        "kind": pa.Column(str, pa.Check.isin(["molecule", "crystal", "protein"])),
        "model": pa.Column(str),
        "layer": pa.Column(str),
        "id": pa.Column(str, _ID),
        "rank": pa.Column("int64", pa.Check.ge(1)),
        "neighbour": pa.Column(str, _ID),
        "distance": pa.Column("float64", pa.Check.ge(0)),
        "n": pa.Column("int64", pa.Check.ge(4)),
    },
    checks=pa.Check(lambda t: t["id"] != t["neighbour"], error="its own neighbour"),
    strict=True,
    unique=["kind", "model", "id", "rank"],
    name="nearest structures",
)
