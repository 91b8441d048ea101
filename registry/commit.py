# SPDX-License-Identifier: Apache-2.0
"""Move tables and units into an atlas so that each instant, and so each crash, is a valid state.

A change of several files takes three steps under the atlas's lock. The index is first written with
what stays true throughout, and under ``pending`` with the states each moving file may be in; then
files move; then the index is written as it will be. Whoever comes after a crash settles the pending
files by what is there. Nothing becomes listed because it lies in the folder: only what is moved
in here, and what a complete commit record vouches for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..schemas.archive import ATLAS_FILE, PARQUET, STORE, UnitRecord
from ..schemas.errors import ArchiveError
from . import catalog
from .digest import mapping_digest
from .files import Files
from .index import (
    PENDING,
    canonical,
    current_state,
    file_entry,
    merged_cards,
    model_document,
    model_entry_of,
    read_index,
    sealed_index,
    unit_names,
    write_json,
)
from .tables import MODELS, SETS, table_version, write_table
from .unit import (
    Documents,
    Unit,
    grouped_documents,
    read_document,
    unit_documents,
    unit_record,
)


@dataclass
class _Change:
    """What moves, and what the atlas holds afterwards.

    Attributes
    ----------
    tables :
        Tables held afterwards, by path.
    units :
        Metadata of each model's units held afterwards; models left out stay as they are.
    moves :
        Staged file of each path to write; None removes the file.
    groups :
        Staged folder of each unit to move in, and where to put the one it replaces.
    known :
        Size and hash of staged files, where they need not be taken again.
    """

    index: dict[str, Any]
    tables: dict[str, dict[str, Any]]
    units: dict[str, dict[str, Documents]] = field(default_factory=dict)
    moves: dict[str, Path | None] = field(default_factory=dict)
    groups: dict[str, tuple[Path, Path]] = field(default_factory=dict)
    known: dict[str, dict[str, Any]] = field(default_factory=dict)

    def state(self, path: str) -> dict[str, Any] | None:
        """Size and hash of what moves to ``path``; None when it is removed."""
        staged = self.moves[path]
        return self.known.get(path) or (file_entry(staged) if staged is not None else None)


def settle(root: Path, *, scratch: Path) -> None:
    """Finish or undo what interrupted builds began, and list units they completed; hold the lock.

    Parameters
    ----------
    scratch:
        A folder of the caller's on the atlas's file system.

    Raises
    ------
    ArchiveError
        The index is damaged or absent.
    """
    for part in [p for g in ("", "registry/", "structures/", "runs/", f"{STORE}/*/")
                 for p in root.glob(f"{g}.*.part")]:  # fmt: skip
        part.unlink()  # writes under the lock that a kill cut short
    index = read_index(Files(str(root)))
    change = _Change(index, dict(index["files"]))
    for path, states in index.get(PENDING, {}).items():
        model, _, set_id = path.removeprefix(f"{PARQUET}/").removesuffix(".parquet").partition("/")
        if path.startswith(f"{PARQUET}/"):
            if not (root / STORE / model / set_id).exists():
                change.moves[path] = None  # a twin without its unit
        elif not path.startswith(f"{STORE}/"):
            state = current_state(Files(str(root)), index, path)
            if state is None and None not in states:
                state = states[-1]  # neither the old nor the new file: damage, to be told
            change.tables.pop(path, None)
            change.tables |= {path: state} if state else {}
    models = set(index["models"]) | {m for m, _ in unit_names(root)}
    models |= {p.split("/")[1] for p in index.get(PENDING, {}) if p.startswith(f"{STORE}/")}
    for model in models:
        change.units[model] = vouched_units(root, index, model, adopt=True)
    _apply(root, change, scratch)


def place_tables(root: Path, staged: Mapping[str, Path], *, scratch: Path) -> None:
    """Move tables into place by their path in the atlas and list them; hold the lock."""
    change = _started(root, scratch)
    change.moves |= staged
    _apply(root, change, scratch)


def place_unit(
    root: Path,
    model: str,
    set_id: str,
    *,
    group: Path,
    twin: Path,
    scratch: Path,
    cards: Path | None = None,
) -> None:
    """Move a staged unit into place, in place of the one there is, and list it; hold the lock.

    Parameters
    ----------
    group, twin:
        The staged Zarr group and Parquet twin.
    scratch:
        A folder of the caller's on the atlas's file system.
    cards:
        A table with the model's card, should the catalogue not know it.
    """
    change = _started(root, scratch)
    if cards is not None:
        change.moves[MODELS] = cards
    held = vouched_units(root, change.index, model)
    documents = unit_documents(group)
    record = unit_record(documents, where=f"{model}/{set_id}")
    change.units[model] = {**held, set_id: documents}
    change.known = {f.path: f.model_dump(exclude={"path"}) for f in record.files}
    change.moves[f"{PARQUET}/{model}/{set_id}.parquet"] = twin
    change.groups[f"{STORE}/{model}/{set_id}"] = (group, scratch / f"{model}.{set_id}.stale")
    _apply(root, change, scratch)


def _started(root: Path, scratch: Path) -> _Change:
    index = read_index(Files(str(root)))
    if PENDING in index:
        settle(root, scratch=scratch)
        index = read_index(Files(str(root)))
    return _Change(index, dict(index["files"]))


def vouched_units(
    root: Path, index: Mapping[str, Any], model: str, *, adopt: bool = False
) -> dict[str, Documents]:
    """Metadata documents of a model's units by set, as the index vouches for them.

    Those the index lists come from the model's own metadata, never from the unit's folder, unless
    the folder's say the same. With ``adopt``, complete units that the index does not list come too.
    """
    listed = set(index["models"].get(model, {}).get("units", ()))
    found: dict[str, Documents] = {}
    if listed:
        path = f"{STORE}/{model}/zarr.json"
        state = current_state(Files(str(root)), index, path)
        if state is not None:
            document = read_document(root / path)
            units = grouped_documents(document, where=f"{root}/{path}")
            found = {s: d for s, d in units.items() if s in listed}
        else:  # damaged: the units' own metadata will do if they give the very file back
            try:
                units = {s: unit_documents(root / STORE / model / s) for s in listed}
            except ArchiveError:
                units = {}
            if index["models"][model]["metadata_sha256"] == _sha256(model_document(model, units)):
                found = units
    if adopt:
        for m, set_id in unit_names(root):
            if m == model and set_id not in found:
                documents = complete_unit(root, model, set_id)
                found |= {set_id: documents} if documents else {}
    return found


def sound_unit(root: Path, index: Mapping[str, Any], model: str, set_id: str) -> UnitRecord | None:
    """Commit record of a unit that the index lists and whose every byte is as written, or None."""
    documents = vouched_units(root, index, model).get(set_id)
    if documents is None or documents != complete_unit(root, model, set_id):
        return None
    return unit_record(documents, where=f"{model}/{set_id}")


def complete_unit(root: Path, model: str, set_id: str) -> Documents | None:
    """Metadata of a unit on disk whose files are those its commit record names, else None."""
    folder = root / STORE / model / set_id
    try:
        documents = unit_documents(folder)
        record = Unit(Files(str(root)), f"{STORE}/{model}/{set_id}", documents).record
    except ArchiveError:
        return None
    own = {p.relative_to(root).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    named = {f.path for f in record.files} | {f"{STORE}/{model}/{set_id}/zarr.json"}
    sound = (
        (record.model, record.structure_set) == (model, set_id)
        and own <= named
        and mapping_digest(record.content) == record.content_sha256
        and (folder / "zarr.json").read_bytes() == canonical(documents[""])
        and all(file_entry(root / f.path) == f.model_dump(exclude={"path"}) for f in record.files)
    )
    return documents if sound else None


def _apply(root: Path, change: _Change, scratch: Path) -> None:
    """Write the interim index, move, write the index."""
    scratch.mkdir(parents=True, exist_ok=True)
    before = change.index
    models = dict(before["models"])
    for model, units in change.units.items():
        path = f"{STORE}/{model}/zarr.json"
        lost = {s: u for s, u in models.pop(model, {"units": {}})["units"].items()
                if s not in units}  # fmt: skip
        if units:
            data = model_document(model, units)
            if _read(root / path) != data:
                change.moves[path] = _staged(scratch / f"{model}.json", data)
            models[model] = model_entry_of(units, _sha256(data))
            models[model]["units"] |= lost  # listed, so that their loss shows
        elif lost:
            models[model] = before["models"][model]
        elif (root / path).exists():
            change.moves[path] = None
    _stage_cards(root, change, models, scratch)
    states = {path: change.state(path) for path in change.moves}
    for path, state in states.items():
        if not path.startswith((f"{STORE}/", f"{PARQUET}/")):
            change.tables[path] = state or {}
    after = sealed_index(models, change.tables, before["version"])
    if change.moves or change.groups:
        write_json(_interim(root, before, change, models, states), root / ATLAS_FILE)
        _move(root, change)
    elif after == before:
        return
    write_json(after, root / ATLAS_FILE)


def _interim(
    root: Path,
    before: dict[str, Any],
    change: _Change,
    models: dict[str, Any],
    states: Mapping[str, dict[str, Any] | None],
) -> dict[str, Any]:
    """The index while files move: what it lists is so before and after."""
    pending = dict(before.get(PENDING, {}))
    for path, state in states.items():
        known = [*pending.get(path, [file_entry(root / path)]), state]
        pending[path] = [s for i, s in enumerate(known) if s not in known[:i]]
    staying = {}
    for model, entry in before["models"].items():
        kept = {
            s: u
            for s, u in entry["units"].items()
            if models.get(model, {"units": {}})["units"].get(s) == u
            and f"{STORE}/{model}/{s}" not in change.groups
        }
        if kept:
            staying[model] = {**entry, "units": kept}
    for model in set(change.units) - set(staying):  # its metadata may stay as they are
        path = f"{STORE}/{model}/zarr.json"
        if path not in pending and (found := file_entry(root / path)):
            pending[path] = [found]
    files = {p: e for p, e in before["files"].items() if p not in states}
    return sealed_index(staying, files, before["version"], pending=pending)


def _move(root: Path, change: _Change) -> None:
    for path in [*change.moves, *change.groups]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    for path, (_, stale) in change.groups.items():
        if (root / path).exists():
            (root / path).replace(stale)
    # Twins before groups: a group that is there is complete.
    for path in sorted(change.moves, key=lambda p: not p.startswith(f"{PARQUET}/")):
        if path.startswith(f"{PARQUET}/"):
            _move_file(change.moves[path], root / path)
    for path, (group, _) in change.groups.items():
        group.replace(root / path)
    for path, staged in change.moves.items():
        if not path.startswith(f"{PARQUET}/"):
            _move_file(staged, root / path)


def _move_file(staged: Path | None, target: Path) -> None:
    if staged is not None:
        staged.replace(target)
        return
    target.unlink(missing_ok=True)
    if not any(target.parent.iterdir()):
        target.parent.rmdir()


def _stage_cards(root: Path, change: _Change, models: dict[str, Any], scratch: Path) -> None:
    """Tables of the cards of what the atlas holds afterwards, where they differ."""
    files = Files(str(root))
    tables = {**dict.fromkeys(change.tables), **change.moves}
    sets = {
        Path(path).stem: _version(staged or root / path)
        for path, staged in tables.items()
        if path.startswith("structures/")
    }
    versions = {m: e["version"] for m, e in models.items()}
    known = [c for m, c in catalog.models().items() if m in models]
    known_sets = [c for s, c in catalog.structure_sets().items() if s in sets]
    for path, table, held in (
        (MODELS, catalog.models_table(known), versions),
        (SETS, catalog.sets_table(known_sets), sets),
    ):
        staged = scratch / Path(path).name
        given = change.moves.get(path)
        earlier = [given] if given is not None else []
        earlier += [root / path] if current_state(files, change.index, path) else []
        write_table(merged_cards(table, earlier, held), staged)
        if file_entry(staged) != file_entry(root / path) or path not in change.tables:
            change.moves[path] = staged
        else:
            change.moves.pop(path, None)
            change.tables[path] = file_entry(staged) or {}


def _version(path: Path) -> str | None:
    try:
        return table_version(path)
    except (OSError, pa.ArrowException):
        return None  # damaged or gone; validate says so


def _staged(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
