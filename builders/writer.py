# SPDX-License-Identifier: Apache-2.0
"""Write one unit: spooled, verified, hashed, then moved into place whole.

Rows go to raw spool files as they come, so memory holds one window of structures whatever the
set's size. ``finish`` turns the spools into the Zarr group and its Parquet twin inside a staging
folder, reads them back against the spools, hashes every file, and renames the twin and then the
group into the atlas. The group carries the commit record: a killed build leaves either a complete
unit or nothing that a reader would see.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..registry.commit import place_unit
from ..registry.digest import array_digest, mapping_digest
from ..registry.hub import sha256_of
from ..schemas.archive import (
    ATLAS_FILE,
    COLUMNS,
    FORMAT_VERSION,
    PARQUET,
    STAGING,
    STORE,
    FileRecord,
    MatEmb,
    Precision,
    UnitRecord,
)
from ..schemas.cards import ModelCard, StructureSetCard
from ..schemas.errors import ArchiveError
from .adapters.base import Embedded, Missing
from .encode import all_files, write_group, write_twin
from .locking import root_lock
from .spool import Rows, Spool


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
    precision:
        How vectors are stored.
    workspace:
        Folder on the atlas's own file system to work in.
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
        precision: Precision | None = None,
        workspace: Path | None = None,
    ) -> None:
        self.root, self.card, self.set_card = root, card, set_card
        self.fingerprint, self.model_fingerprint = fingerprint, model_fingerprint
        self.build_version, self.precision = build_version, precision or Precision()
        taken = [layer.name for layer in card.layers if layer.name in COLUMNS]
        if taken:
            raise ArchiveError(f"model '{card.id}': a layer may not be called '{taken[0]}'")
        self.stage = (
            workspace or root / STAGING
        ) / f"{card.id}.{set_card.id}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        self.stage.mkdir(parents=True)
        self._rows = Rows()
        self._pooled = {
            layer.name: Spool(self.stage / f"{layer.name}.pooled", layer.dim)
            for layer in card.layers
        }
        self._nodes = {
            layer.name: Spool(self.stage / f"{layer.name}.spooled_nodes", layer.dim)
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
            with suppress(OSError):  # a full disk says so again; what was spooled goes anyway
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
            The bytes read back differ from what the model gave, or do not fit the precision.
        """
        for spool in [*self._pooled.values(), *self._nodes.values()]:
            spool.close()
        group, twin = self.stage / "unit", self.stage / "unit.parquet"
        name = f"{self.card.id}/{self.set_card.id}"
        missing = self._rows.missing()
        embedded = len(self._rows) - sum(missing.values())
        pooled = self._pooled if embedded else {}
        content = write_group(
            group,
            name=name,
            rows=self._rows,
            pooled=pooled,
            nodes=self._nodes if embedded else {},
            matemb={layer.name: self._matemb(layer.name) for layer in self.card.layers},
            precision=self.precision,
        )
        write_twin(
            twin,
            name=name,
            rows=self._rows,
            pooled=pooled,
            dims={layer.name: layer.dim for layer in self.card.layers},
            default=self.card.default_layer,
            precision=self.precision,
        )
        reasons = self._rows.distinct_reasons()
        content["reasons"] = array_digest("string", (len(reasons),), [np.array(reasons, object)])
        group_target = self.root / STORE / self.card.id / self.set_card.id
        twin_target = self.root / PARQUET / self.card.id / f"{self.set_card.id}.parquet"
        record = UnitRecord(
            format_version=FORMAT_VERSION,
            model=self.card.id,
            model_version=self.card.version,
            structure_set=self.set_card.id,
            structure_set_version=self.set_card.version,
            build_version=self.build_version,
            fingerprint=self.fingerprint,
            model_fingerprint=self.model_fingerprint,
            precision=self.precision,
            rows=len(self._rows),
            embedded=embedded,
            missing=missing,
            reasons=reasons,
            layers={layer.name: layer.dim for layer in self.card.layers},
            default_layer=self.card.default_layer,
            energy=self.card.energy.model_dump() if self.card.energy else None,
            content=content,
            content_sha256=mapping_digest(content),
            files=[
                *_records(group, group_target.relative_to(self.root)),
                _record(twin, twin_target.relative_to(self.root)),
            ],
        )
        _write_record(group / "zarr.json", record)
        self._commit(group, group_target, twin, twin_target)
        return record

    def _commit(self, group: Path, group_target: Path, twin: Path, twin_target: Path) -> None:
        """Move the unit into place and index it; at every instant readers find it whole or not."""
        with root_lock(self.root):
            if (self.root / ATLAS_FILE).exists():
                place_unit(
                    self.root,
                    self.card.id,
                    self.set_card.id,
                    group=group,
                    twin=twin,
                    scratch=self.stage,
                )
                return
            # A folder that is no atlas yet: nothing lists the unit, so nobody reads it.
            for path in (group_target, twin_target):
                path.parent.mkdir(parents=True, exist_ok=True)
            if group_target.exists():
                group_target.replace(self.stage / "stale")
            twin.replace(twin_target)
            group.replace(group_target)

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
            data_type=self.precision.data_type,
            quantization=self.precision.quantization,
            quantization_nsb=self.precision.quantization_nsb,
            checkpoint_sha256=self.card.checkpoint.sha256,
            structure_set=self.set_card.id,
            structure_set_version=self.set_card.version,
            build_version=self.build_version,
        ).model_dump()


def _write_record(path: Path, record: UnitRecord) -> None:
    """Write the group's metadata anew, the commit record among its attributes."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document["attributes"] = {"Conventions": "CF-1.11", "matemb": record.model_dump()}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _record(path: Path, name: Path) -> FileRecord:
    return FileRecord(path=name.as_posix(), bytes=path.stat().st_size, sha256=sha256_of(path))


def _records(folder: Path, name: Path) -> list[FileRecord]:
    own = folder / "zarr.json"  # holds the record itself
    return [_record(p, name / p.relative_to(folder)) for p in all_files(folder) if p != own]
