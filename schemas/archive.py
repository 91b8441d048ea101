# SPDX-License-Identifier: Apache-2.0
"""The archive format: names, versions, and what a unit must look like.

A *unit* is everything one model says of one structure set: a Zarr group
``embeddings.zarr/<model>/<set>``, its Parquet twin ``parquet/<model>/<set>.parquet`` and its commit
record ``units/<model>/<set>.json``. The record is written last; data without it do not exist for
readers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandera.pandas as pa
import pandera.xarray as pax
import xarray as xr
from pandera.errors import SchemaError, SchemaErrors
from pydantic import BaseModel, ConfigDict

from .cards import Level
from .errors import ArchiveError

FORMAT = "matteratlas"
FORMAT_VERSION = "1.0"

ATLAS_FILE = "atlas.json"
STORE = "embeddings.zarr"
PARQUET = "parquet"
RECORDS = "units"

#: Rows a chunk and a shard hold; writers fill whole shards.
CHUNK_ROWS = 4096
SHARD_ROWS = 65536

#: Leading words a missing reason may have.
REASONS: tuple[str, ...] = (
    "wrong_modality",
    "unsupported_element",
    "unsupported_periodicity",
    "too_large",
    "too_small",
    "invalid",
    "failed",
)


class MatEmb(BaseModel):
    """The ``matemb`` attribute of a layer group: how to read its numbers."""

    model_config = ConfigDict(extra="forbid")

    format_version: str
    model: str
    model_version: str
    layer: str
    level: Level
    dim: int
    irreps: str | None
    pooling: str
    where: str
    data_type: Literal["float32"]
    quantization: None
    checkpoint_sha256: str | None
    structure_set: str
    structure_set_version: str
    build_version: str


class FileRecord(BaseModel):
    """One file of a unit, path relative to the atlas root."""

    model_config = ConfigDict(extra="forbid")

    path: str
    bytes: int
    sha256: str


class UnitRecord(BaseModel):
    """``units/<model>/<set>.json``: the commit record of a unit."""

    model_config = ConfigDict(extra="forbid")

    format_version: str
    model: str
    structure_set: str
    structure_set_version: str
    fingerprint: str
    model_fingerprint: str
    rows: int
    embedded: int
    missing: dict[str, int]
    layers: dict[str, int]
    content_sha256: str
    files: list[FileRecord]


def record_path(root: Path, model: str, set_id: str) -> Path:
    """Where a unit's commit record lives."""
    return root / RECORDS / model / f"{set_id}.json"


def check_format(version: str, *, where: str) -> None:
    """Refuse an archive whose format major is newer than this reader's.

    Raises
    ------
    ArchiveError
        Naming the archive, both versions and the mend.
    """
    try:
        major = int(version.split(".")[0])
    except ValueError as error:
        raise ArchiveError(f"{where}: format version '{version}' is not a number") from error
    if major > int(FORMAT_VERSION.split(".")[0]):
        raise ArchiveError(
            f"{where}: format version {version} is newer than this reader's {FORMAT_VERSION}; "
            "run: pip install --upgrade matteratlas"
        )


def _reason_ok(reasons: Any) -> Any:
    heads = reasons.map(lambda r: r == "" or r.split(":")[0] in REASONS)
    return heads.astype(bool)


def unit_rows_schema(*, learned: bool) -> pa.DataFrameSchema:
    """Schema of the values tier: one row a structure, computed blockwise from the vectors.

    A descriptor may be zero (no key of a fingerprint matches); a trained network that answers
    zero everywhere is broken.
    """
    non_zero = pa.Check(
        lambda t: ~t["embedded"] | (t["norm"] > 0), name="non_zero", error="a vector is all zero"
    )
    return pa.DataFrameSchema(
        {
            "structure_id": pa.Column(
                str, pa.Check.str_matches(r"^ma1-[a-z2-7]{26}$"), unique=True
            ),
            "reason": pa.Column(str, pa.Check(_reason_ok, element_wise=False, name="known_reason")),
            "embedded": pa.Column(bool),
            "finite": pa.Column(bool),
            "norm": pa.Column("float64", nullable=True),
            "nodes_finite": pa.Column(bool),
        },
        checks=[
            pa.Check(
                lambda t: t["embedded"] == (t["reason"] == ""),
                name="missing_iff_reason",
                error="a row has both a vector and a missing reason, or neither",
            ),
            pa.Check(
                lambda t: ~t["embedded"] | t["finite"],
                name="finite",
                error="a vector is not finite",
            ),
            pa.Check(
                lambda t: t["nodes_finite"],
                name="nodes_finite",
                error="a node vector is not finite",
            ),
            *([non_zero] if learned else []),
        ],
        strict=True,
        name="unit rows",
    )


def layer_schema(*, rows: int, dim: int, nodes: int | None) -> pax.DatasetSchema:
    """Schema of a layer group: dims, dtypes and sizes, checked without reading values."""
    variables: dict[str, Any] = {
        "embedding": pax.DataVar(
            dtype=np.float32,
            dims=("structure", "feature"),
            sizes={"structure": rows, "feature": dim},
        )
    }
    if nodes is not None:
        variables["node_embedding"] = pax.DataVar(
            dtype=np.float32, dims=("node", "feature"), sizes={"node": nodes, "feature": dim}
        )
    return pax.DatasetSchema(data_vars=variables, name="layer")


def unit_schema(*, rows: int) -> pax.DatasetSchema:
    """Schema of a unit group: ids, reasons, energies and ragged row sizes."""
    along: dict[str, Any] = {"dims": ("structure",), "sizes": {"structure": rows}}
    return pax.DatasetSchema(
        data_vars={
            "structure_id": pax.DataVar(**along),
            "reason": pax.DataVar(**along),
            "energy": pax.DataVar(dtype=np.float64, **along),
            "row_size": pax.DataVar(dtype=np.int64, **along),
        },
        name="unit",
    )


def check_dataset(dataset: xr.Dataset, schema: pax.DatasetSchema, *, where: str) -> None:
    """Validate structure only (never the values) and turn the failure into one line.

    Raises
    ------
    ArchiveError
        Naming the group and what differs.
    """
    try:
        schema.validate(dataset)
    except (SchemaError, SchemaErrors) as error:
        raise ArchiveError(f"{where}: {str(error).splitlines()[0]}; rebuild the unit") from error
