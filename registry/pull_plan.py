# SPDX-License-Identifier: Apache-2.0
"""What a pull needs: files with size and hash, and the documents of a part of an atlas.

A release pulled without a selection is the release itself, file by file as its manifest lists them.
A selection is an atlas of its own: units as they are in the release (or, of some layers only, with
commit records that say so), the structures of their sets, the cards of what is held, and an index
that names the release it is a part of.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..schemas.archive import (
    ATLAS_FILE,
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    PARQUET,
    STORE,
    SUBSET_OF,
    UNRELEASED,
    FileRecord,
    UnitRecord,
    nodes_name,
)
from ..schemas.errors import ArchiveError
from ..schemas.manifest import place_of
from .digest import mapping_digest
from .files import Files
from .hub_names import near
from .index import PENDING, SEAL, canonical, model_document, model_entry_of, read_index, seal
from .manifest import parse_manifest
from .parquet import UNREADABLE, read_arrow
from .tables import LAYOUT, MODELS, SETS
from .unit import Documents, Unit, grouped_documents

#: Means each model's default layer where layers are named.
DEFAULT = "default"
#: Reads of metadata at a time.
THREADS = 8

#: Layers of a unit that are wanted; None is all, with the Parquet twin.
Layers = frozenset[str] | None


@dataclass(frozen=True)
class Selection:
    """Models, sets and layers asked for; None is all of them."""

    models: tuple[str, ...] | None = None
    sets: tuple[str, ...] | None = None
    layers: tuple[str, ...] | None = None

    @property
    def everything(self) -> bool:
        """Nothing is left out."""
        return self == Selection()


@dataclass
class Plan:
    """What a pull needs.

    Attributes
    ----------
    version, sha256 :
        Of the atlas it comes from; the hash is its index's seal.
    whole :
        A release as it is, not a part.
    files :
        To be had from the source.
    made :
        Contents that follow from what was read already, by path; placed last, in this order.
    units :
        (model, set) and their bytes.
    read :
        Bytes moved to make the plan.
    """

    version: str
    sha256: str
    whole: bool
    files: list[FileRecord] = field(default_factory=list)
    made: dict[str, bytes] = field(default_factory=dict)
    units: dict[tuple[str, str], int] = field(default_factory=dict)
    read: int = 0

    @property
    def bytes(self) -> int:
        """Of everything that the folder will hold."""
        return sum(f.bytes for f in self.files) + sum(map(len, self.made.values()))


def make_plan(
    source: Files,
    selection: Selection,
    *,
    location: str,
    held: Mapping[str, Any] | None = None,
) -> Plan:
    """Read the index, the metadata of the models chosen, and list what there is to fetch.

    Parameters
    ----------
    location :
        What the part will name as its origin.
    held :
        Index of a part of the same atlas that is there already: it stays.

    Raises
    ------
    ArchiveError
        Not an atlas, or not one that holds what is asked for; naming what it does hold.
    """
    index = _index(source)
    counted = _Counted(source, len(canonical(index)))
    try:
        if selection.everything and index["version"] != UNRELEASED:
            return _whole(counted, index)
        return _part(counted, index, selection, location, held or {})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise ArchiveError(
            f"{source.location}: its index is not as the format says ({text}); tell its publisher"
        ) from error


def _index(source: Files) -> dict[str, Any]:
    try:
        index = read_index(source)
    except ArchiveError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise ArchiveError(
                f"{source.location}: no {ATLAS_FILE} there, so no atlas; check the name"
            ) from None
        raise
    if index.get(PENDING):
        raise ArchiveError(
            f"{source.location}: a build is moving files there; pull it when that is done"
        )
    return index


class _Counted:
    """Reads whole files and counts their bytes."""

    def __init__(self, files: Files, read: int) -> None:
        self.files, self.location = files, files.location
        self.read = read

    def get(self, path: str, *, sha256: str | None = None) -> bytes:
        data = self.files.read(path, sha256=sha256)
        self.read += len(data)
        return data


# --- a release as it is --------------------------------------------------------------------------


def _whole(source: _Counted, index: dict[str, Any]) -> Plan:
    data = source.get(MANIFEST)
    manifest = parse_manifest(data, where=f"{source.location}/{MANIFEST}")
    own = canonical(index)
    plan = Plan(str(index["version"]), index[SEAL], whole=True)
    for path, size, sha256 in zip(
        manifest.files["path"], manifest.files["bytes"], manifest.files["sha256"], strict=True
    ):
        if path == ATLAS_FILE:
            if hashlib.sha256(own).hexdigest() != sha256:
                raise ArchiveError(
                    f"{source.location}: {ATLAS_FILE} and {MANIFEST} are of different releases; "
                    "pull a tag, or wait until a push is done"
                )
            continue
        plan.files.append(_checked(path, int(size), str(sha256), source.location))
    for model, entry in index["models"].items():
        for set_id in entry["units"]:
            own_files = (f"{STORE}/{model}/{set_id}/", f"{PARQUET}/{model}/{set_id}.parquet")
            sizes = [f.bytes for f in plan.files if f.path.startswith(own_files)]
            plan.units[model, set_id] = sum(sizes)
    plan.made = {MANIFEST: data, ATLAS_FILE: own}
    plan.read = source.read
    return plan


# --- a part --------------------------------------------------------------------------------------


def _part(
    source: _Counted,
    index: dict[str, Any],
    selection: Selection,
    location: str,
    held: Mapping[str, Any],
) -> Plan:
    where = source.location
    wanted = _units(index, selection, where)
    for model, entry in held.get("models", {}).items():
        for set_id in entry["units"]:
            there = frozenset(entry["layers"])
            _add(wanted, model, set_id, None if there == set(_layers(index, model)) else there)
    for units in wanted.values():  # a model has the same layers in all its sets
        every = list(units.values())
        same: Layers = None if None in every else frozenset().union(*(one or () for one in every))
        units.update(dict.fromkeys(units, same))
    documents = _documents(source, index, wanted)
    origin = index.get(SUBSET_OF) or {
        "location": location, "version": index["version"], "sha256": index[SEAL],
    }  # fmt: skip
    plan = Plan(str(origin["version"]), index[SEAL], whole=False)
    models: dict[str, Any] = {}
    groups: dict[str, bytes] = {}
    for model in wanted:
        parts: dict[str, Documents] = {}
        for set_id, layers in sorted(wanted[model].items()):
            path = f"{STORE}/{model}/{set_id}"
            unit = Unit(source.files, path, documents[model][set_id])
            parts[set_id], files = _of_layers(unit, documents[model][set_id], layers)
            plan.files += [_checked(f.path, f.bytes, f.sha256, where, path) for f in files]
            groups[f"{path}/zarr.json"] = canonical(parts[set_id][""])
            size = sum(f.bytes for f in files) + len(groups[f"{path}/zarr.json"])
            plan.units[model, set_id] = size
        data = model_document(model, parts)
        groups[f"{STORE}/{model}/zarr.json"] = data
        models[model] = model_entry_of(parts, hashlib.sha256(data).hexdigest())
    sets = sorted({set_id for units in wanted.values() for set_id in units})
    tables = {}
    for path, kept in ((MODELS, list(wanted)), (SETS, sets)):
        whole = source.get(path, sha256=index["files"][path]["sha256"])
        groups[path] = _rows(whole, kept, where=f"{where}/{path}")
        tables[path] = {
            "bytes": len(groups[path]),
            "sha256": hashlib.sha256(groups[path]).hexdigest(),
        }
    for set_id in sets:
        path = f"structures/{set_id}.parquet"
        entry = index["files"][path]
        plan.files.append(_checked(path, int(entry["bytes"]), str(entry["sha256"]), where))
        tables[path] = {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])}
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": UNRELEASED,
        "models": models,
        "files": dict(sorted(tables.items())),
        SUBSET_OF: dict(origin),
    }
    plan.made = {path: groups[path] for path in sorted(groups, key=lambda p: -p.count("/"))}
    plan.made[ATLAS_FILE] = canonical(seal(content))
    for path in plan.made:
        _check_path(path, where)
    plan.read = source.read
    return plan


def _layers(index: Mapping[str, Any], model: str) -> list[str]:
    return list(index["models"][model]["layers"])


def _add(wanted: dict[str, dict[str, Layers]], model: str, set_id: str, layers: Layers) -> None:
    """Want these layers too."""
    units = wanted.setdefault(model, {})
    known: Layers = units.get(set_id, frozenset())
    units[set_id] = None if layers is None or known is None else known | layers


def _units(
    index: Mapping[str, Any], selection: Selection, where: str
) -> dict[str, dict[str, Layers]]:
    """Units that a selection means, and the layers of each."""
    held = index["models"]
    every = sorted({s for entry in held.values() for s in entry["units"]})
    for kind, names, known in (
        ("model", selection.models, list(held)), ("set", selection.sets, every),
    ):  # fmt: skip
        for name in names or ():
            if name not in known:
                raise ArchiveError(f"{where}: no {kind} '{name}'; like it: {near(name, known)}")
    wanted: dict[str, dict[str, Layers]] = {}
    for model in selection.models or held:
        units = held[model]["units"]
        chosen = [s for s in units if selection.sets is None or s in selection.sets]
        if selection.models and not chosen:
            raise ArchiveError(
                f"{where}: model '{model}' has none of the sets asked for; it has "
                f"{', '.join(units)}"
            )
        layers = _chosen_layers(held[model], selection.layers, f"{where}: model '{model}'")
        for set_id in chosen:
            _add(wanted, model, set_id, layers)
    if not wanted:
        raise ArchiveError(f"{where}: holds nothing of what is asked for; it has no embeddings")
    return wanted


def _chosen_layers(entry: Mapping[str, Any], wanted: Sequence[str] | None, where: str) -> Layers:
    if wanted is None:
        return None
    known = set(entry["layers"])
    names = {entry["default_layer"] if name == DEFAULT else name for name in wanted}
    if not names & known:
        raise ArchiveError(f"{where} has no layer '{wanted[0]}'; it has {', '.join(sorted(known))}")
    return None if names >= known else frozenset(names & known)


def _documents(
    source: _Counted, index: Mapping[str, Any], wanted: Mapping[str, Mapping[str, Layers]]
) -> dict[str, dict[str, Documents]]:
    """Metadata of every model chosen, checked by the index."""

    def one(model: str) -> dict[str, Documents]:
        path = f"{STORE}/{model}/zarr.json"
        _check_path(path, source.location)
        data = source.get(path, sha256=str(index["models"][model]["metadata_sha256"]))
        grouped = grouped_documents(json.loads(data), where=f"{source.location}/{path}")
        absent = sorted(set(wanted[model]) - set(grouped))
        if absent:
            raise ArchiveError(
                f"{source.location}/{path}: no set '{absent[0]}', which {ATLAS_FILE} lists; "
                "tell its publisher"
            )
        return grouped

    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(wanted, pool.map(one, wanted), strict=True))


def _of_layers(
    unit: Unit, documents: Documents, layers: Layers
) -> tuple[Documents, list[FileRecord]]:
    """A unit's metadata and files, without the layers that are not wanted."""
    record = unit.record
    if layers is None:
        return documents, record.files
    kept = {name: dim for name, dim in record.layers.items() if name in layers}
    if set(kept) == set(record.layers):
        return documents, record.files
    gone = {n for name in record.layers if name not in kept for n in (name, nodes_name(name))}
    if not any(nodes_name(name) in record.content for name in kept):
        gone.add("row_size")  # it counts nodes, of which none are left
    content = {name: digest for name, digest in record.content.items() if name not in gone}
    own = f"{unit.path}/"
    files = [
        f
        for f in record.files
        # The Parquet twin has columns of all layers: it does not come along.
        if f.path.startswith(own) and f.path.removeprefix(own).split("/")[0] not in gone
    ]
    # A build must not take such a unit for a finished one: its fingerprints are others.
    mark = ",".join(sorted(kept))
    changed: dict[str, Any] = {
        "layers": kept,
        "default_layer": record.default_layer if record.default_layer in kept else next(iter(kept)),
        "content": content,
        "content_sha256": mapping_digest(content),
        "files": files,
        "fingerprint": _marked(record.fingerprint, mark),
        "model_fingerprint": _marked(record.model_fingerprint, mark),
    }
    group = documents[""]
    reduced = UnitRecord.model_validate({**record.model_dump(), **changed}).model_dump()
    attributes = {**group["attributes"], "matemb": reduced}
    rest = {name: document for name, document in documents.items() if name not in gone}
    return {**rest, "": {**group, "attributes": attributes}}, files


def _marked(fingerprint: str, layers: str) -> str:
    return hashlib.sha256(f"{fingerprint} only {layers}".encode()).hexdigest()


def _rows(data: bytes, held: Sequence[str], *, where: str) -> bytes:
    """A table of cards with the rows of what is held."""
    try:
        table = read_arrow(data)
        table = table.filter(pc.is_in(table["id"], pa.array(list(held), pa.string())))
    except (*UNREADABLE, KeyError) as error:
        text = " ".join(str(error).split())[:160]
        raise ArchiveError(f"{where}: damaged ({text}); tell its publisher") from error
    handle = io.BytesIO()
    pq.write_table(table, handle, **LAYOUT)
    return handle.getvalue()


def _checked(path: str, size: int, sha256: str, where: str, unit: str | None = None) -> FileRecord:
    """A file to be written, if it is one that an atlas has; see :func:`_check_path`."""
    _check_path(path, where, unit)
    return FileRecord(path=path, bytes=size, sha256=sha256)


def _check_path(path: str, where: str, unit: str | None = None) -> None:
    """Refuse a path that leads anywhere but to a file of an atlas, or of the unit named.

    Raises
    ------
    ArchiveError
        It does.
    """
    place = place_of(path)
    odd = "\\" in path or "//" in path or path.endswith("/") or not path.isprintable()
    if place is None or odd or (unit and f"{STORE}/{place.model}/{place.set}" != unit):
        raise ArchiveError(
            f"{where}: lists {path[:120]!r}, no file of an atlas; do not trust it, tell its "
            "publisher"
        )


def same_atlas(local: Mapping[str, Any], plan_sha256: str) -> bool:
    """Whether a folder's index is that of an atlas, or of a part of it."""
    return plan_sha256 in (local.get(SEAL), (local.get(SUBSET_OF) or {}).get("sha256"))
