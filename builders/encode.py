# SPDX-License-Identifier: Apache-2.0
"""Turn spooled rows into files: a sharded Zarr v3 group and its Parquet twin, verified."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from ..registry.digest import ColumnDigest
from ..registry.shards import checksums
from ..schemas.archive import (
    CHECKSUMS,
    COLUMN_CHUNK_ROWS,
    COLUMN_SHARD_ROWS,
    Precision,
    chunk_rows,
    nodes_name,
    shard_rows,
)
from ..schemas.errors import ArchiveError
from .spool import Rows, Spool

#: Chunks that equal the fill value are written too: an absent chunk is then always a fault.
_KEEP_ALL: Any = {"write_empty_chunks": True}
#: Rows a Parquet row group holds.
_ROW_GROUP = 4096

_LONG_NAMES = {
    "structure_id": "structure id",
    "reason": "why the row is missing: index into the unit's reasons",
    "energy": "model output, see the unit's energy",
    "row_size": "nodes of each structure",
}


def stored(values: np.ndarray, precision: Precision, *, where: str, first: int = 0) -> np.ndarray:
    """float32 rows as they are stored.

    Parameters
    ----------
    values :
        float32, (rows, feature).
    where, first :
        What to call the array in an error, and the number of its first row.

    Raises
    ------
    ArchiveError
        A finite value does not fit the precision.
    """
    if precision.quantization == "bitround":
        rounder = numcodecs.BitRound(keepbits=precision.quantization_nsb)
        out = rounder.encode(values.copy()).view(np.float32).reshape(values.shape)
        out[np.isnan(values)] = np.nan  # rounding must not touch NaN's payload
    else:
        with np.errstate(over="ignore"):
            out = values.astype(precision.data_type)
    lost = np.isinf(out) & np.isfinite(values)
    if lost.any():
        row, column = (int(i[0]) for i in np.nonzero(lost))
        raise ArchiveError(
            f"{where}, row {first + row}: {values[row, column]:.4g} does not fit {precision}; "
            "build with --precision float32 or bitround-10"
        )
    return np.ascontiguousarray(out)


def write_group(
    path: Path,
    *,
    name: str,
    rows: Rows,
    pooled: Mapping[str, Spool],
    nodes: Mapping[str, Spool],
    matemb: Mapping[str, dict[str, Any]],
    precision: Precision,
) -> dict[str, str]:
    """Write the arrays of a unit into a new Zarr group.

    Parameters
    ----------
    name :
        ``model/set``, for errors.
    pooled, nodes :
        Spooled float32 matrices by layer; empty where nothing is embedded.
    matemb :
        Attribute of each layer's arrays.

    Returns
    -------
    dict
        Content digest of each array, independent of its chunks.

    Raises
    ------
    ArchiveError
        Bytes read back differ, or a value does not fit the precision.
    """
    unit = zarr.create_group(store=path, zarr_format=3)
    digests = {}
    for column, kind in rows.columns().items():
        digests[column] = _write_column(unit, path, column, kind, rows)
    for layer, attributes in matemb.items():
        spools = {layer: pooled[layer]} if layer in pooled else {}
        spools |= {nodes_name(layer): nodes[layer]} if layer in nodes else {}
        for array, spool in spools.items():
            along = "structure" if array == layer else "node"
            digests[array] = _write_matrix(
                unit,
                path,
                array,
                spool,
                dims=(along, f"{layer}_feature"),
                attributes=attributes,
                precision=precision,
                where=f"{name}/{array}",
            )
    return digests


def _write_column(unit: zarr.Group, path: Path, name: str, kind: np.dtype, rows: Rows) -> str:
    text = kind.hasobject
    n = len(rows)
    chunk = max(1, min(n, COLUMN_CHUNK_ROWS))
    shard = chunk * max(1, min(COLUMN_SHARD_ROWS // chunk, -(-n // chunk)))
    fill: Any = "" if text else (np.nan if kind.kind == "f" else 0)
    packed = (
        ZstdCodec(level=3)
        if text
        else BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=kind.itemsize)
    )
    array = unit.create_array(
        name,
        shape=(n,),
        dtype="string" if text else kind,
        chunks=(chunk,),
        shards=(shard,),
        compressors=[packed, Crc32cCodec()],
        fill_value=fill,
        config=_KEEP_ALL,
        dimension_names=("structure",),
        attributes={
            "long_name": _LONG_NAMES[name],
            **({"sample_dimension": "node"} if name == "row_size" else {}),
        },
    )
    digest = ColumnDigest("string" if text else kind, (n,))
    for part in blocks(n, shard):
        values = rows.column(name, part)
        array[part] = values
        digest.update(values)
        found = np.asarray(array[part])
        same = (found.astype(object) == values).all() if text else np.array_equal(
            found, values, equal_nan=kind.kind == "f"
        )  # fmt: skip
        if not same:
            raise _differs(f"{path.name}/{name}")
    _seal_array(path / name, shard // chunk)
    return digest.hexdigest()


def _write_matrix(
    unit: zarr.Group,
    path: Path,
    name: str,
    spool: Spool,
    *,
    dims: tuple[str, str],
    attributes: dict[str, Any],
    precision: Precision,
    where: str,
) -> str:
    n, dim = spool.rows, spool.dim
    chunk, shard = chunk_rows(dim, n), shard_rows(dim, n)
    matrix = unit.create_array(
        name,
        shape=(n, dim),
        dtype=precision.data_type,
        chunks=(chunk, dim),
        shards=(shard, dim),
        compressors=[
            BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
            Crc32cCodec(),
        ],
        fill_value=np.nan,
        config=_KEEP_ALL,
        dimension_names=dims,
        attributes={"long_name": "embedding", "units": "1", "matemb": attributes},
    )
    digest = ColumnDigest(np.dtype(precision.data_type), (n, dim))
    for part in blocks(n, shard):
        values = stored(spool[part], precision, where=where, first=part.start)
        matrix[part] = values
        digest.update(values)
        for piece in blocks(len(values), chunk):
            rows = slice(part.start + piece.start, part.start + piece.stop)
            if not np.array_equal(np.asarray(matrix[rows]), values[piece], equal_nan=True):
                raise _differs(where)
    _seal_array(path / name, shard // chunk)
    return digest.hexdigest()


def _differs(where: str) -> ArchiveError:
    return ArchiveError(
        f"{where}: bytes read back differ from the model's output; check the disk and build again"
    )


def _seal_array(folder: Path, slots: int) -> None:
    """Add the checksums of the written shards to the array's metadata, in shard order."""
    shards = sorted((p for p in folder.rglob("c/**/*") if p.is_file()), key=_shard_number)
    document = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    document["attributes"][CHECKSUMS] = [checksums(p, slots) for p in shards]
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    (folder / "zarr.json").write_text(text + "\n", encoding="utf-8")


def _shard_number(path: Path) -> int:
    return int(path.parts[len(path.parts) - 1 - path.parts[::-1].index("c") + 1])


def write_twin(
    path: Path,
    *,
    name: str,
    rows: Rows,
    pooled: Mapping[str, Spool],
    dims: Mapping[str, int],
    default: str,
    precision: Precision,
) -> None:
    """Write the pooled vectors and columns as Parquet, bit-equal with the Zarr arrays.

    Raises
    ------
    ArchiveError
        Bytes read back differ, or a value does not fit the precision.
    """
    kind = pa.float16() if precision.data_type == "float16" else pa.float32()
    columns = {("embedding" if layer == default else f"embedding.{layer}"): layer for layer in dims}
    schema = pa.schema(
        [
            pa.field("structure_id", pa.string()),
            pa.field("missing_reason", pa.string()),
            pa.field("energy", pa.float64()),
            *(pa.field(c, pa.list_(kind, dims[layer])) for c, layer in columns.items()),
        ]
    )

    def table(part: slice) -> pa.Table:
        absent = rows.reasons(part) != ""
        arrays = [
            pa.array(rows.column("structure_id", part), pa.string()),
            pa.array(rows.reasons(part), pa.string(), mask=~absent),
            pa.array(rows.energy(part), mask=np.isnan(rows.energy(part))),
        ]
        for column, layer in columns.items():
            where = f"{name}/{column}"
            if layer in pooled:
                values = stored(pooled[layer][part], precision, where=where, first=part.start)
            else:
                values = np.full((len(absent), dims[layer]), np.nan, precision.data_type)
            arrays.append(_fixed_size_list(values, absent))
        return pa.table(arrays, schema=schema)

    # A dictionary of floats only costs (5.5 bytes a number instead of 3.4), and the bytes of one
    # pack better apart. Half floats do not gain, and fewer readers know them that way.
    split = [f"{c}.list.element" for c in columns] if precision.data_type == "float32" else False
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=["missing_reason"],
        use_byte_stream_split=split,
        write_page_index=True,
        write_page_checksum=True,
        use_content_defined_chunking=True,
    ) as writer:
        for part in blocks(len(rows), _ROW_GROUP):
            writer.write_table(table(part))
    with pq.ParquetFile(path, page_checksum_verification=True) as twin:
        parts = blocks(len(rows), _ROW_GROUP)
        for group, part in zip(range(twin.num_row_groups), parts, strict=True):
            for column, found, given in zip(
                schema.names, twin.read_row_group(group).columns, table(part).columns, strict=True
            ):
                if not _same(found.combine_chunks(), given.combine_chunks()):
                    raise _differs(f"{name}/{column}")


def _fixed_size_list(values: np.ndarray, absent: np.ndarray) -> pa.Array:
    """(n, d) -> FixedSizeList[d], null where absent."""
    flat = pa.array(np.ascontiguousarray(values).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=pa.array(absent))


def _same(found: pa.Array, given: pa.Array) -> bool:
    """Equal to the bit; of lists, where they are present."""
    if not pa.types.is_fixed_size_list(given.type):
        return bool(found.equals(given))
    found_bits, given_bits = (
        np.ascontiguousarray(a.flatten().to_numpy(zero_copy_only=False)).view(np.uint8)
        for a in (found, given)
    )
    same = bool(found.is_valid().equals(given.is_valid()))
    return same and np.array_equal(found_bits, given_bits)


def blocks(n: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` rows, in order."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def all_files(folder: Path) -> Iterable[Path]:
    """Every file below a folder, sorted."""
    return sorted(p for p in folder.rglob("*") if p.is_file())
