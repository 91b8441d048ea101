# SPDX-License-Identifier: Apache-2.0
"""Write one unit: spooled, verified, hashed, then moved into place whole.

Rows go to raw spool files as they come, so memory holds one window of structures whatever the
set's size. ``finish`` turns the spools into the sharded Zarr group and its Parquet twin inside a
staging folder, reads them back against the spools, hashes every file, renames both into the atlas
and writes the commit record last. A killed build leaves nothing that a reader would see.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from zarr.codecs import BloscCodec

from ..registry.hub import sha256_of
from ..schemas.archive import (
    CHUNK_ROWS,
    FORMAT_VERSION,
    PARQUET,
    SHARD_ROWS,
    STORE,
    FileRecord,
    MatEmb,
    UnitRecord,
    record_path,
)
from ..schemas.cards import ModelCard, StructureSetCard
from ..schemas.errors import ArchiveError
from .adapters.base import Embedded, Missing
from .spool import Rows, Spool

STAGING = ".staging"


class UnitWriter:
    """Collects rows of one (model, set) and commits them as a unit.

    Parameters
    ----------
    root:
        The atlas folder.
    card, set_card:
        Model and structure set.
    fingerprint:
        Hash of everything the rows depend on; a later build with the same one is a no-op.
    model_fingerprint:
        Hash of what the vectors of one structure depend on; rows with the same one carry over.
    keep_nodes:
        Store atom, residue or token vectors beside the pooled ones.
    """

    def __init__(
        self,
        root: Path,
        card: ModelCard,
        set_card: StructureSetCard,
        *,
        fingerprint: str,
        model_fingerprint: str,
        build_version: str,
        keep_nodes: bool = True,
    ) -> None:
        self.root, self.card, self.set_card = root, card, set_card
        self.fingerprint, self.model_fingerprint = fingerprint, model_fingerprint
        self.build_version = build_version
        self.stage = (
            root / STAGING / f"{card.id}.{set_card.id}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        )
        self.stage.mkdir(parents=True)
        self._rows = Rows()
        self._pooled = {
            layer.name: Spool(self.stage / f"{layer.name}.pooled", layer.dim)
            for layer in card.layers
        }
        self._nodes = {
            layer.name: Spool(self.stage / f"{layer.name}.nodes", layer.dim)
            for layer in card.layers
            if keep_nodes and layer.level != "structure"
        }

    def __enter__(self) -> UnitWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for spool in [*self._pooled.values(), *self._nodes.values()]:
            spool.close()
        shutil.rmtree(self.stage, ignore_errors=True)

    def append(self, structure_id: str, result: Embedded | Missing) -> None:
        """Add the next row; missing rows are NaN with their reason."""
        if isinstance(result, Missing):
            self._rows.append(structure_id, result.reason, np.nan, 0)
            for spool in self._pooled.values():
                spool.append(np.full((1, spool.dim), np.nan, dtype=np.float32))
            return
        sizes = {len(result.nodes[name]) for name in self._nodes}
        if len(sizes) > 1:
            raise ArchiveError(
                f"model '{self.card.id}', structure '{structure_id}': layers disagree on the "
                f"number of nodes {sorted(sizes)}; mend the adapter"
            )
        energy = np.nan if result.energy is None else float(result.energy)
        self._rows.append(structure_id, "", energy, sizes.pop() if sizes else 0)
        for name, spool in self._pooled.items():
            spool.append(result.pooled[name][None, :])
        for name, spool in self._nodes.items():
            spool.append(result.nodes[name])

    def finish(self) -> UnitRecord:
        """Write, verify, hash and commit; returns the commit record.

        Raises
        ------
        ArchiveError
            The bytes read back differ from what the model gave.
        """
        for spool in [*self._pooled.values(), *self._nodes.values()]:
            spool.close()
        group_path = self.stage / "unit"
        parquet_path = self.stage / "unit.parquet"
        digest = self._write_zarr(group_path)
        self._write_parquet(parquet_path)
        group_target = self.root / STORE / self.card.id / self.set_card.id
        parquet_target = self.root / PARQUET / self.card.id / f"{self.set_card.id}.parquet"
        missing = self._rows.missing()
        record = UnitRecord(
            format_version=FORMAT_VERSION,
            model=self.card.id,
            structure_set=self.set_card.id,
            structure_set_version=self.set_card.version,
            fingerprint=self.fingerprint,
            model_fingerprint=self.model_fingerprint,
            rows=len(self._rows),
            embedded=len(self._rows) - sum(missing.values()),
            missing=missing,
            layers={layer.name: layer.dim for layer in self.card.layers},
            content_sha256=digest,
            files=[
                *_records(group_path, group_target.relative_to(self.root)),
                _record(parquet_path, parquet_target.relative_to(self.root)),
            ],
        )
        self._commit(record, group_path, group_target, parquet_path, parquet_target)
        return record

    def _commit(
        self,
        record: UnitRecord,
        group: Path,
        group_target: Path,
        parquet: Path,
        parquet_target: Path,
    ) -> None:
        """Out with a stale record first and in with the new one last: never a mixture."""
        target = record_path(self.root, self.card.id, self.set_card.id)
        for path in (target, group_target, parquet_target):
            path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.stage / "record.json"
        text = json.dumps(record.model_dump(), indent=1, sort_keys=True) + "\n"
        scratch.write_text(text, encoding="utf-8")
        target.unlink(missing_ok=True)
        if group_target.exists():
            group_target.replace(self.stage / "stale")
        parquet.replace(parquet_target)
        group.replace(group_target)
        scratch.replace(target)

    def _write_zarr(self, path: Path) -> str:
        unit = zarr.create_group(store=path, zarr_format=3)
        rows = len(self._rows)
        digest = hashlib.sha256()
        for name, attributes in _COLUMNS.items():
            kind = self._rows.block(slice(0, 0))[name].dtype
            text = kind.hasobject
            column = unit.create_array(
                name,
                shape=(rows,),
                dtype="string" if text else kind,
                chunks=(max(1, min(rows, SHARD_ROWS)),),
                fill_value="" if text else (np.nan if kind.kind == "f" else 0),
                config=_KEEP_ALL,
                dimension_names=("structure",),
                attributes=attributes,
            )
            for part in _blocks(rows, SHARD_ROWS):
                values = self._rows.block(part)[name]
                column[part] = values
                digest.update("".join(f"{v}\n" for v in values).encode() if text else values.data)
        unit.attrs.update(
            {
                "Conventions": "CF-1.11",
                "model": self.card.id,
                "structure_set": self.set_card.id,
                "structure_set_version": self.set_card.version,
                "energy": self.card.energy.model_dump() if self.card.energy else None,
            }
        )
        for layer in self.card.layers:
            group = unit.create_group(layer.name, attributes={"matemb": self._matemb(layer.name)})
            spools = {"embedding": self._pooled[layer.name]}
            if layer.name in self._nodes:
                spools["node_embedding"] = self._nodes[layer.name]
            for name, spool in spools.items():
                dims = ("structure" if name == "embedding" else "node", "feature")
                matrix = _create_matrix(group, name, (spool.rows, spool.dim), dims)
                for part in _blocks(spool.rows, SHARD_ROWS):
                    values = spool[part]
                    matrix[part] = values
                    digest.update(values.data)
                    self._verify(matrix, part, values, f"{layer.name}/{name}")
        return digest.hexdigest()

    def _verify(self, matrix: zarr.Array, rows: slice, values: np.ndarray, name: str) -> None:
        if not np.array_equal(np.asarray(matrix[rows]), values, equal_nan=True):
            raise ArchiveError(
                f"{self.card.id}/{self.set_card.id}/{name}: bytes read back differ from the "
                "model's output; check the disk and build again"
            )

    def _matemb(self, layer_name: str) -> dict[str, Any]:
        layer = self.card.layer(layer_name)
        return MatEmb(
            format_version=FORMAT_VERSION,
            model=self.card.id,
            model_version=self.card.version,
            layer=layer.name,
            level=layer.level,
            dim=layer.dim,
            irreps=layer.irreps,
            pooling=self.card.pooling if layer.level != "structure" else "none",
            where=layer.where,
            data_type="float32",
            quantization=None,
            checkpoint_sha256=self.card.checkpoint.sha256,
            structure_set=self.set_card.id,
            structure_set_version=self.set_card.version,
            build_version=self.build_version,
        ).model_dump()

    def _write_parquet(self, path: Path) -> None:
        matrices = {
            "embedding" if name == self.card.default_layer else f"embedding.{name}": spool
            for name, spool in self._pooled.items()
        }
        fields = [
            pa.field("structure_id", pa.string()),
            pa.field("missing_reason", pa.string()),
            pa.field("energy", pa.float64()),
            *(pa.field(k, pa.list_(pa.float32(), m.dim)) for k, m in matrices.items()),
        ]
        with pq.ParquetWriter(
            path,
            pa.schema(fields),
            compression="zstd",
            write_page_index=True,
            use_content_defined_chunking=True,
        ) as writer:
            for rows in _blocks(len(self._rows), CHUNK_ROWS):
                block = self._rows.block(rows)
                absent = block["reason"] != ""
                columns = [
                    pa.array(block["structure_id"]),
                    pa.array(block["reason"], pa.string(), mask=~absent),
                    pa.array(block["energy"], mask=np.isnan(block["energy"])),
                    *(_fixed_size_list(m[rows], absent) for m in matrices.values()),
                ]
                writer.write_table(pa.table(columns, schema=pa.schema(fields)))


#: Chunks that equal the fill value are written too: an absent file is then always a fault.
_KEEP_ALL: Any = {"write_empty_chunks": True}

_COLUMNS: dict[str, dict[str, Any]] = {
    "structure_id": {"long_name": "structure id"},
    "reason": {"long_name": "why the row is missing; empty when embedded"},
    "energy": {"long_name": "model output, see the group's energy attribute"},
    "row_size": {"long_name": "nodes of each structure", "sample_dimension": "node"},
}


def _create_matrix(
    group: zarr.Group, name: str, shape: tuple[int, ...], dims: tuple[str, str]
) -> zarr.Array:
    """A sharded float32 matrix: chunks hold whole rows, absent chunks read as NaN."""
    chunk = max(1, min(shape[0], CHUNK_ROWS))
    shard = min(SHARD_ROWS, -(-max(1, shape[0]) // chunk) * chunk)
    return group.create_array(
        name,
        shape=shape,
        dtype="float32",
        chunks=(chunk, shape[1]),
        shards=(shard, shape[1]),
        compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
        fill_value=np.nan,
        config=_KEEP_ALL,
        dimension_names=dims,
        attributes={"long_name": "embedding", "units": "1"},
    )


def _fixed_size_list(values: np.ndarray, absent: np.ndarray) -> pa.Array:
    """(n, d) float32 -> FixedSizeList<float32>[d], null where absent."""
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=pa.array(absent))


def _blocks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _record(path: Path, name: Path) -> FileRecord:
    return FileRecord(path=name.as_posix(), bytes=path.stat().st_size, sha256=sha256_of(path))


def _records(folder: Path, name: Path) -> list[FileRecord]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return [_record(p, name / p.relative_to(folder)) for p in files]


def consolidate(root: Path, model_id: str) -> None:
    """(Re)write the model group's own consolidated metadata, so that it opens with one read."""
    path = root / STORE / model_id
    with warnings.catch_warnings():
        # Consolidated metadata is not yet in the v3 specification; readers fall back without it.
        warnings.simplefilter("ignore", category=UserWarning)
        if not (path / "zarr.json").exists():
            zarr.create_group(store=path, zarr_format=3, attributes={"model": model_id})
        zarr.consolidate_metadata(path)
