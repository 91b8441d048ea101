# SPDX-License-Identifier: Apache-2.0
"""The archive format: names, versions, and what a unit must look like.

A *unit* is everything one model says of one structure set: a Zarr group
``embeddings.zarr/<model>/<set>`` and its Parquet twin ``parquet/<model>/<set>.parquet``. The
group's ``matemb`` attribute is the unit's commit record; the group is moved into place last and
whole, so a unit is there complete or not at all.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import numpy as np
import pandera.pandas as pa
import pandera.xarray as pax
import xarray as xr
from pandera.errors import SchemaError, SchemaErrors
from pydantic import BaseModel, ConfigDict, Field, field_validator

from .cards import Level, Sha256
from .errors import ArchiveError
from .names import Part, check_texts, is_portable_path

FORMAT = "matteratlas"
FORMAT_VERSION = "2.0"

ATLAS_FILE = "atlas.json"
STORE = "embeddings.zarr"
PARQUET = "parquet"
MANIFEST = "manifest.parquet"
STAGING = ".staging"
LOCK = ".lock"
RUNS = "runs"

#: ``version`` of an archive that is still being built.
UNRELEASED = "unreleased"

#: Key of the index of a part that was pulled: ``location``, ``version`` and ``sha256`` (the index's
#: own seal) of the atlas it is a part of. Readers need not know it; a build drops it.
SUBSET_OF = "subset_of"

#: Chunks of matrices: whole rows, a power of two of them between these bounds, about these bytes.
CHUNK_ROWS = (1024, 4096)
CHUNK_BYTES = 4 * 2**20
#: Raw bytes a shard of a matrix holds at most, in whole chunks.
SHARD_BYTES = 128 * 2**20
#: Rows a chunk and a shard of the one-dimensional columns hold.
COLUMN_CHUNK_ROWS = 16384
COLUMN_SHARD_ROWS = 2**20

#: Features a layer has at most: it bounds what a chunk can hold, whatever its metadata say.
MAX_DIM = 2**16

#: One-dimensional columns of a unit and its list of reasons; no layer may take their names.
COLUMNS: tuple[str, ...] = ("structure_id", "reason", "reasons", "energy", "row_size")

#: Array attribute: base64 of little-endian uint32, one string a shard: the CRC-32C of its index,
#: then CRC and length of each chunk. A reader knows by them where bytes are and that they belong.
CHECKSUMS = "shard_crc32c"

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


def nodes_name(layer: str) -> str:
    """Name of the array of atom, residue or token vectors beside ``layer``."""
    return f"{layer}.nodes"


def chunk_rows(dim: int, rows: int) -> int:
    """Rows a chunk of a matrix of this width (float32) holds."""
    least, most = CHUNK_ROWS
    fitting = 1 << max(0, (CHUNK_BYTES // (4 * max(1, dim))).bit_length() - 1)
    return max(1, min(max(least, min(most, fitting)), rows))


def shard_rows(dim: int, rows: int) -> int:
    """Rows a shard holds: whole chunks, at most :data:`SHARD_BYTES` unless one chunk is more."""
    chunk = chunk_rows(dim, rows)
    fitting = max(1, SHARD_BYTES // (4 * max(1, dim) * chunk))
    return chunk * min(fitting, max(1, -(-rows // chunk)))


#: Rows, bytes and the like: no atlas comes near the bound.
Count = Annotated[int, Field(ge=0, lt=2**48)]


class Precision(BaseModel):
    """How a release stores its vectors; in memory they are float32."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_type: Literal["float32", "float16"] = "float32"
    quantization: Literal["bitround"] | None = None
    quantization_nsb: int | None = None

    @classmethod
    def parse(cls, text: str) -> Precision:
        """``float32``, ``float16`` or ``bitround-N`` (N of float32's 23 mantissa bits are kept).

        Raises
        ------
        ArchiveError
            Any other text.
        """
        if text in ("float32", "float16"):
            return cls(data_type=text)  # type: ignore[arg-type]
        found = re.fullmatch(r"bitround-(\d+)", text)
        if found and 1 <= int(found[1]) <= 22:
            return cls(quantization="bitround", quantization_nsb=int(found[1]))
        raise ArchiveError(
            f"precision '{text}': give float32, float16 or bitround-N with N from 1 to 22"
        )

    def __str__(self) -> str:
        return f"bitround-{self.quantization_nsb}" if self.quantization else self.data_type


class MatEmb(BaseModel):
    """The ``matemb`` attribute of a layer's arrays: how to read their numbers.

    ``quantization`` and ``quantization_nsb`` (significant bits) follow CF 1.12, section 8.4.
    """

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
    data_type: Literal["float32", "float16"]
    quantization: Literal["bitround"] | None
    quantization_nsb: int | None
    checkpoint_sha256: str | None
    structure_set: str
    structure_set_version: str
    build_version: str


class FileRecord(BaseModel):
    """One file, path relative to the atlas root."""

    model_config = ConfigDict(extra="forbid", strict=True)

    path: str
    bytes: Count
    sha256: Sha256


class UnitRecord(BaseModel):
    """The ``matemb`` attribute of a unit's group: its commit record.

    Attributes
    ----------
    reasons :
        Distinct missing reasons ("" is embedded); array ``reason`` holds indices into it and is
        left out when all rows share the only one.
    content :
        SHA-256 of each column's values in row order, whatever the chunks; keys are array names.
    content_sha256 :
        SHA-256 of ``content``: equal units hold equal values.
    files :
        Every file of the unit but the group's own ``zarr.json``.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    format_version: str
    model: Part
    model_version: str
    structure_set: Part
    structure_set_version: str
    build_version: str
    fingerprint: str
    model_fingerprint: str
    precision: Precision
    rows: Count
    embedded: Count
    missing: dict[str, Count]
    reasons: list[str]
    layers: Annotated[dict[Part, Annotated[int, Field(ge=1, le=MAX_DIM)]], Field(min_length=1)]
    default_layer: str
    energy: dict[str, Any] | None
    content: dict[str, str]
    content_sha256: Sha256
    files: list[FileRecord]

    def strangers(self) -> list[str]:
        """Files it lists that cannot be this unit's: elsewhere, or not portable."""
        own, twin = f"{STORE}/{self.model}/{self.structure_set}/", f"{PARQUET}/{self.model}/"
        return [
            file.path[:80].encode("ascii", "backslashreplace").decode()
            for file in self.files
            if not is_portable_path(file.path)
            or not (file.path.startswith(own) or file.path == f"{twin}{self.structure_set}.parquet")
        ]

    @field_validator("reasons", "missing", "model_version")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        check_texts(value)
        return value


def check_format(version: str, *, where: str) -> None:
    """Refuse an archive whose format major is not this reader's.

    Raises
    ------
    ArchiveError
        Naming the archive, both versions and the mend.
    """
    found = re.fullmatch(r"(\d{1,4})\.\d{1,4}", version)
    if found is None:
        shown = version[:40].encode("ascii", "backslashreplace").decode()
        raise ArchiveError(f"{where}: format version '{shown}' is not a number; restore the file")
    major = int(found[1])
    own = int(FORMAT_VERSION.split(".")[0])
    if major > own:
        raise ArchiveError(
            f"{where}: format version {version} is newer than this reader's {FORMAT_VERSION}; "
            "run: pip install --upgrade matteratlas"
        )
    if major < own:
        raise ArchiveError(
            f"{where}: format version {version} was never released and is no longer read; "
            "build the atlas again"
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


def unit_schema(record: UnitRecord, *, nodes: dict[str, int]) -> pax.DatasetSchema:
    """Schema of a unit group: dims, dtypes and sizes of every array, values unread.

    Parameters
    ----------
    record :
        The unit's commit record.
    nodes :
        Node rows of each layer that keeps them.
    """
    rows: dict[str, int | None] = {"structure": record.rows}
    variables: dict[str, Any] = {
        "structure_id": pax.DataVar(dims=("structure",), sizes=rows),
        "reason": pax.DataVar(dtype=np.uint16, dims=("structure",), sizes=rows, required=False),
        "energy": pax.DataVar(dtype=np.float64, dims=("structure",), sizes=rows, required=False),
        "row_size": pax.DataVar(dtype=np.int64, dims=("structure",), sizes=rows, required=False),
    }
    kind = np.dtype(record.precision.data_type)
    for layer, dim in record.layers.items() if record.embedded else ():
        feature = f"{layer}_feature"
        variables[layer] = pax.DataVar(
            dtype=kind, dims=("structure", feature), sizes={**rows, feature: dim}
        )
        if layer in nodes:
            variables[nodes_name(layer)] = pax.DataVar(
                dtype=kind, dims=("node", feature), sizes={"node": nodes[layer], feature: dim}
            )
    return pax.DatasetSchema(data_vars=variables, name="unit")


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
