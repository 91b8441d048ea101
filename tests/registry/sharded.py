# SPDX-License-Identifier: Apache-2.0
"""Arrays as units hold them, written by zarr-python with any shape, chunk, shard and dtype."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from matteratlas.registry.files import Files
from matteratlas.registry.shards import ShardedArray, checksums
from matteratlas.schemas.archive import CHECKSUMS


def write_array(
    root: Path,
    values: np.ndarray,
    *,
    chunk: int,
    slots: int,
    name: str = "x",
    keep_empty: bool = True,
) -> None:
    """Write ``values`` in chunks of ``chunk`` rows, ``slots`` of them a shard, and seal them."""
    text = values.dtype.hasobject
    matrix = values.ndim == 2
    width = values.shape[1:]
    packed: Any = ZstdCodec(level=1)
    if not text:
        shuffle = "bitshuffle" if matrix else "shuffle"
        size = {} if matrix else {"typesize": values.dtype.itemsize}
        packed = BloscCodec(cname="zstd", clevel=1, shuffle=shuffle, **size)
    array = zarr.create_array(
        store=root / name,
        shape=values.shape,
        dtype="string" if text else values.dtype,
        chunks=(chunk, *width),
        shards=(chunk * slots, *width),
        compressors=[packed, Crc32cCodec()],
        fill_value="" if text else 0,
        config={"write_empty_chunks": keep_empty},
    )
    array[:] = values
    metadata = read_metadata(root, name)
    metadata["attributes"][CHECKSUMS] = [checksums(p, slots) for p in shards_of(root, name)]
    (root / name / "zarr.json").write_text(json.dumps(metadata))


def read_metadata(root: Path, name: str = "x") -> dict[str, Any]:
    """The array's Zarr metadata document."""
    return dict(json.loads((root / name / "zarr.json").read_text()))


def shards_of(root: Path, name: str = "x") -> list[Path]:
    """The array's files, in row order."""
    files = [p for p in (root / name / "c").rglob("*") if p.is_file()]
    return sorted(files, key=lambda p: int(p.relative_to(root / name / "c").parts[0]))


def declared_files(root: Path, name: str = "x") -> dict[str, tuple[int, str]]:
    """(bytes, sha256) of the array's files, as a commit record lists them."""
    return {
        p.relative_to(root).as_posix(): (
            p.stat().st_size,
            hashlib.sha256(p.read_bytes()).hexdigest(),
        )
        for p in shards_of(root, name)
    }


def open_array(
    root: Path, name: str = "x", *, declared: dict[str, tuple[int, str]] | None = None
) -> ShardedArray:
    """The array through the atlas's own reader; ``declared`` before any damage."""
    files = declared_files(root, name) if declared is None else declared
    return ShardedArray(Files(str(root)), name, read_metadata(root, name), files)
