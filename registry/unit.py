# SPDX-License-Identifier: Apache-2.0
"""One unit of an atlas, opened from Zarr metadata: its columns and its vectors, all lazy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..schemas.archive import (
    STORE,
    UnitRecord,
    check_format,
    chunk_rows,
    nodes_name,
    shard_rows,
)
from ..schemas.documents import parse_json
from ..schemas.errors import ArchiveError
from ..schemas.names import is_portable_path
from .files import Files
from .shards import ShardedArray

#: Zarr metadata of a unit by array, "" for its group.
Documents = dict[str, dict[str, Any]]


class Unit:
    """Everything one model says of one structure set.

    Attributes
    ----------
    record : UnitRecord
        The commit record.
    arrays : dict
        The stored arrays by name.
    """

    def __init__(self, files: Files, path: str, documents: Mapping[str, Any]) -> None:
        """Take the unit at ``path``; ``documents`` are metadata by name, "" for the group."""
        self.path = path
        where = f"{files.location}/{path}/zarr.json"
        self.record = unit_record(documents, where=where)
        check_format(self.record.format_version, where=where)
        own = f"{self.record.model}/{self.record.structure_set}"
        if path != f"{STORE}/{own}":
            raise ArchiveError(f"{where}: holds the unit '{own}'; rename its folder back")
        strangers = self.record.strangers()
        if strangers:
            raise ArchiveError(
                f"{where}: file {strangers[0]}: leaves the atlas, or is none of this unit; its "
                "record is not to be trusted, build the unit again"
            )
        if self.record.default_layer not in self.record.layers:
            raise ArchiveError(f"{where}: its default layer is none; build the unit again")
        # What a record gives digests of is what was written: not an array more or less.
        wanted, found = set(self.record.content) - {"reasons"}, {n for n in documents if n}
        if wanted != found:
            odd = sorted(wanted ^ found)[0]
            verb = "no" if odd in wanted else "a foreign"
            raise ArchiveError(f"{where}: {verb} array '{odd}'; build the unit again")
        declared = {f.path: (f.bytes, f.sha256) for f in self.record.files}
        self.arrays = {
            name: ShardedArray(files, f"{path}/{name}", document, declared)
            for name, document in documents.items()
            if name
        }
        self._check_arrays(where)

    def _check_arrays(self, where: str) -> None:
        """Every array is one that a unit may have, of the type and size its record implies."""
        rows, kind = self.record.rows, self.record.precision.data_type
        wanted: dict[str, tuple[tuple[int | None, ...], str]] = {
            "structure_id": ((rows,), "object"),
            "reason": ((rows,), "uint16"),
            "energy": ((rows,), "float64"),
            "row_size": ((rows,), "int64"),
        }
        for layer, dim in self.record.layers.items() if self.record.embedded else ():
            wanted[layer] = ((rows, dim), kind)
            wanted[nodes_name(layer)] = ((None, dim), kind)
        needed = {"structure_id", *(self.record.layers if self.record.embedded else ())}
        odd = sorted((set(self.arrays) - set(wanted)) | (needed - set(self.arrays)))
        for name, array in self.arrays.items():
            shape, dtype = wanted.get(name, (array.shape, str(array.dtype)))
            fits = len(shape) == array.ndim and all(
                n in (None, m) for n, m in zip(shape, array.shape, strict=True)
            )
            if not fits or str(array.dtype) != dtype:
                odd.append(name)
        if odd:
            raise ArchiveError(
                f"{where}: array '{odd[0]}' is absent, foreign, or not of the shape and type its "
                f"record of {rows} structures says; build the unit again"
            )

    def __len__(self) -> int:
        return self.record.rows

    def ids(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Structure ids, object array."""
        return self.arrays["structure_id"].read(start, stop)

    def reasons(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Why each row is missing, object array; "" when embedded."""
        texts = np.array(self.record.reasons or [""], dtype=object)
        if "reason" in self.arrays:
            codes = self.arrays["reason"].read(start, stop)
            if codes.size and codes.max() >= len(texts):
                raise ArchiveError(
                    f"{self.path}/reason: code {codes.max()} of {len(texts)} reasons; "
                    "build the unit again"
                )
            found = texts[codes]
        else:
            count = len(range(*slice(start, stop).indices(len(self))))
            found = np.full(count, texts[0], dtype=object)
        held = int((found == "").sum())
        if start == 0 and stop is None and held != self.record.embedded:
            raise ArchiveError(
                f"{self.path}/zarr.json: {held} rows embedded, its record says "
                f"{self.record.embedded}; build the unit again"
            )
        return found

    def energy(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Model energies, float64, NaN where there is none; unit: see ``record.energy``."""
        return self._column("energy", np.nan, np.float64, start, stop)

    def row_size(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Nodes of each structure, int64; 0 where no node vectors are kept."""
        sizes: np.ndarray = self._column("row_size", 0, np.int64, start, stop)
        # As many nodes as the arrays hold, were they all one row's.
        held = max((len(a) for n, a in self.arrays.items() if n.endswith(".nodes")), default=0)
        if sizes.size and not (sizes.min() >= 0 and sizes.max() <= held):
            raise ArchiveError(
                f"{self.path}/row_size: counts that are none, or more nodes than there are; "
                "build the unit again"
            )
        return sizes

    def _column(self, name: str, absent: Any, dtype: Any, start: int, stop: int | None) -> Any:
        if name in self.arrays:
            return self.arrays[name].read(start, stop)
        n = len(range(*slice(start, stop).indices(len(self))))
        return np.full(n, absent, dtype=dtype)

    def vectors(self, layer: str) -> ShardedArray | Nothing:
        """Pooled vectors, (structure, feature), in the stored dtype; NaN where missing."""
        if layer in self.arrays:
            return self.arrays[layer]
        return Nothing((len(self), self.record.layers[layer]))

    def nodes(self, layer: str) -> ShardedArray | None:
        """Node vectors of all embedded structures in row order, or None where not kept."""
        return self.arrays.get(nodes_name(layer))

    def matemb(self, layer: str) -> dict[str, Any]:
        """The layer's ``matemb`` attribute; empty where nothing is embedded."""
        if layer not in self.arrays:
            return {}
        found = self.arrays[layer].attributes.get("matemb")
        if not isinstance(found, dict):
            raise ArchiveError(
                f"{self.path}/{layer}: says nothing of its numbers; build the unit again"
            )
        return dict(found)


def unit_record(documents: Mapping[str, Any], *, where: str) -> UnitRecord:
    """The commit record among a unit's metadata documents.

    Raises
    ------
    ArchiveError
        There is none, or it says what no record says.
    """
    try:
        return UnitRecord.model_validate(documents[""]["attributes"]["matemb"])
    except (KeyError, TypeError, ValidationError) as error:
        text = " ".join(str(error).split())[:160]
        raise ArchiveError(
            f"{where}: no readable commit record ({text}); build the unit again"
        ) from error


class Nothing:
    """Vectors of a unit in which no row is embedded: NaN, and nothing stored."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape, self.ndim, self.dtype = shape, 2, np.dtype(np.float32)
        self.shard_rows = shard_rows(shape[1], shape[0])
        self.chunk_rows = chunk_rows(shape[1], shape[0])

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """NaN, (rows, feature)."""
        n = len(range(*slice(start, stop).indices(self.shape[0])))
        return np.full((n, self.shape[1]), np.nan, dtype=self.dtype)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """NaN, (rows, feature)."""
        return np.full((len(rows), self.shape[1]), np.nan, dtype=self.dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.broadcast_to(np.float32(np.nan), self.shape)[key]


def open_unit(files: Files, model: str, set_id: str) -> Unit:
    """A unit from its own metadata files (a folder that is being built or checked)."""
    path = f"{STORE}/{model}/{set_id}"
    return Unit(files, path, unit_documents(_local(files) / path))


def unit_documents(folder: Path) -> Documents:
    """Metadata of a unit by array, "" for its group, from its own files."""
    if not folder.is_dir():
        raise ArchiveError(f"{folder}: missing; build the unit again")
    files = Files(str(folder))
    names = sorted(p.parent.name for p in folder.glob("*/zarr.json"))
    return {name: _document(files, name) for name in ("", *names)}


def open_units(files: Files, model: str, *, sha256: str | None = None) -> dict[str, Unit]:
    """All units of a model by set, from its consolidated metadata: one read.

    Raises
    ------
    ArchiveError
        The metadata is absent, damaged, or not the one the atlas's index declares.
    """
    path = f"{STORE}/{model}"
    document = _document(files, path, sha256=sha256)
    grouped = grouped_documents(document, where=f"{files.location}/{path}/zarr.json")
    return {s: Unit(files, f"{path}/{s}", documents) for s, documents in grouped.items()}


def grouped_documents(document: dict[str, Any], *, where: str) -> dict[str, Documents]:
    """Metadata of each unit in a model's consolidated metadata, by set.

    Raises
    ------
    ArchiveError
        There are none.
    """
    try:
        flat = document["consolidated_metadata"]["metadata"]
        grouped: dict[str, Documents] = {}
        for name, entry in flat.items():
            set_id, _, array = name.partition("/")
            if not (is_portable_path(name) and isinstance(entry, dict)):
                raise ArchiveError(f"{where}: '{_shown(name)}' is no unit; run matteratlas build")
            grouped.setdefault(set_id, {})[array] = entry
    except (KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(f"{where}: no consolidated metadata; run matteratlas build") from error
    return grouped


def _shown(text: str) -> str:
    return text[:80].encode("ascii", "backslashreplace").decode()


def read_document(path: Path) -> dict[str, Any]:
    """A metadata document on this disk; ArchiveError where it is none."""
    return _document(Files(str(path.parent)), "")


def _document(files: Files, path: str, *, sha256: str | None = None) -> dict[str, Any]:
    name = f"{path}/zarr.json" if path else "zarr.json"
    data = files.read(name, sha256=sha256)
    try:
        found = parse_json(data)
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise ArchiveError(
            f"{files.location}/{name}: not JSON ({error}); build the unit again"
        ) from error
    return found


def _local(files: Files) -> Any:
    if files.local is None:
        raise ArchiveError(f"{files.location}: this needs a local folder; pull the atlas first")
    return files.local
