# SPDX-License-Identifier: Apache-2.0
"""``atlas.json``: marker and index of an atlas, derived from what the folder holds.

The index hashes the metadata of every model and every table, and is sealed by a hash of itself, so
that each byte a reader gets is covered, from one small file on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ..schemas.archive import (
    ATLAS_FILE,
    FORMAT,
    FORMAT_VERSION,
    RUNS,
    STORE,
    UNRELEASED,
    UnitRecord,
    check_format,
)
from ..schemas.errors import ArchiveError
from . import catalog
from .files import Files
from .hub import sha256_of
from .tables import MODELS, SETS, table_version, write_table
from .unit import open_unit, open_units

#: Key that holds the hash of all the other keys.
SEAL = "sha256"


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """``content`` with the SHA-256 of its canonical JSON (sorted keys, no blanks) as ``sha256``."""
    body = {k: v for k, v in content.items() if k != SEAL}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {**body, SEAL: hashlib.sha256(text.encode()).hexdigest()}


def unseal(data: bytes, *, where: str, mend: str = "restore the file") -> dict[str, Any]:
    """A sealed JSON document; ``mend`` is what an error tells its reader to do.

    Raises
    ------
    ArchiveError
        It is not JSON, or its content is not the one that was sealed.
    """
    try:
        content = json.loads(data)
    except ValueError as error:
        raise ArchiveError(f"{where}: not JSON ({error}); {mend}") from error
    if not isinstance(content, dict) or content.get(SEAL) != seal(content)[SEAL]:
        raise ArchiveError(f"{where}: altered since it was written; {mend}")
    return content


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a document whole or not at all; equal contents are equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        scratch.write_text(text + "\n", encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def read_index(files: Files) -> dict[str, Any]:
    """The index of an atlas, checked.

    Raises
    ------
    ArchiveError
        Nothing there, not an atlas, damaged, or of another format major.
    """
    where = f"{files.location}/{ATLAS_FILE}"
    if files.local is not None and not (files.local / ATLAS_FILE).exists():
        raise ArchiveError(
            f"{files.location}: no {ATLAS_FILE} there; give the folder that "
            "'matteratlas build' made"
        )
    data = files.read(ATLAS_FILE)
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ArchiveError(f"{where}: not JSON ({error}); restore the file") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ArchiveError(f"{where}: not a {FORMAT} archive; give another folder")
    check_format(str(found.get("format_version")), where=where)
    return unseal(data, where=where)


def start_index(root: Path, *, version: str = UNRELEASED) -> None:
    """Mark a folder as an atlas that holds nothing yet."""
    write_json(_sealed({}, {}, version), root / ATLAS_FILE)


def _sealed(models: dict[str, Any], files: dict[str, Any], version: str) -> dict[str, Any]:
    return seal(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "version": version,
            "models": models,
            "files": files,
        }
    )


def unit_names(root: Path) -> list[tuple[str, str]]:
    """(model, set) of every complete unit on disk, sorted."""
    found = (root / STORE).glob("*/*/zarr.json")
    return sorted((p.parent.parent.name, p.parent.name) for p in found)


def unit_records(root: Path) -> list[UnitRecord]:
    """Commit records of every complete unit, sorted by model and set."""
    files = Files(str(root))
    return [open_unit(files, model, set_id).record for model, set_id in unit_names(root)]


def consolidate(root: Path, model_id: str) -> None:
    """(Re)write a model's group with the metadata of all its units, so that one read opens it."""
    folder = root / STORE / model_id
    entries = {}
    for path in sorted(folder.glob("*/zarr.json")) + sorted(folder.glob("*/*/zarr.json")):
        name = path.parent.relative_to(folder).as_posix()
        entries[name] = json.loads(path.read_text(encoding="utf-8"))
    write_json(
        {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"model": model_id},
            # As zarr-python writes it; not yet in the specification, so readers may ignore it.
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": dict(sorted(entries.items())),
            },
        },
        folder / "zarr.json",
    )


def model_entry(root: Path, model_id: str) -> dict[str, Any] | None:
    """What the index says of one model; None when it has no unit."""
    sets = [s for m, s in unit_names(root) if m == model_id]
    if not sets:
        return None
    units = open_units(Files(str(root)), model_id)
    first = next(iter(units.values())).record
    return {
        "version": first.model_version,
        "layers": first.layers,
        "default_layer": first.default_layer,
        "metadata_sha256": sha256_of(root / STORE / model_id / "zarr.json"),
        "units": {
            s: {
                "set_version": u.record.structure_set_version,
                "rows": u.record.rows,
                "embedded": u.record.embedded,
                "missing": u.record.missing,
                "precision": str(u.record.precision),
                "content_sha256": u.record.content_sha256,
            }
            for s, u in sorted(units.items())
        },
    }


def index_model(root: Path, model_id: str) -> None:
    """Bring one model's metadata and its entry in the index up to date; hold the atlas's lock."""
    index = read_index(Files(str(root)))
    models = dict(index["models"])
    models.pop(model_id, None)
    if any(m == model_id for m, _ in unit_names(root)):
        consolidate(root, model_id)
        models[model_id] = model_entry(root, model_id)
    write_json(_sealed(models, index["files"], index["version"]), root / ATLAS_FILE)


def drop_unit(root: Path, model_id: str, set_id: str) -> None:
    """Take one unit out of the index before it is replaced; hold the atlas's lock."""
    index = read_index(Files(str(root)))
    entry = index["models"].get(model_id)
    if entry is not None and entry["units"].pop(set_id, None) is not None:
        if not entry["units"]:
            del index["models"][model_id]
        write_json(seal(index), root / ATLAS_FILE)


def write_index(root: Path, *, version: str = UNRELEASED) -> None:
    """(Re)write tables of cards, every model's metadata and the index; hold the atlas's lock."""
    held = sorted({model for model, _ in unit_names(root)})
    models: dict[str, Any] = {}
    for model_id in held:
        consolidate(root, model_id)
        models[model_id] = model_entry(root, model_id)
    tables = {p.stem: table_version(p) for p in (root / "structures").glob("*.parquet")}
    known = {m: c for m, c in catalog.models().items() if m in models}
    sets = {s: c for s, c in catalog.structure_sets().items() if s in tables}
    _write_cards(catalog.models_table(known.values()), root / MODELS, _versions(models))
    _write_cards(catalog.sets_table(sets.values()), root / SETS, tables)
    listed = [*root.glob("structures/*.parquet"), *root.glob("registry/*.parquet")]
    write_json(_sealed(models, file_entries(root, listed), version), root / ATLAS_FILE)


def read_runs(files: Files, model_id: str) -> dict[str, Any]:
    """What each unit of a model cost to build, by set; empty where it is not known."""
    path = f"{RUNS}/{model_id}.json"
    try:
        return dict(unseal(files.read(path), where=f"{files.location}/{path}")["sets"])
    except ArchiveError:
        return {}  # costs are beside the data: absent or damaged, they are unknown


def file_entries(root: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Size and hash of files by their path relative to ``root``."""
    return {
        p.relative_to(root).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256_of(p)}
        for p in sorted(paths)
    }


def _versions(models: dict[str, Any]) -> dict[str, str | None]:
    return {model: entry["version"] for model, entry in models.items()}


def _write_cards(table: pd.DataFrame, path: Path, held: dict[str, str | None]) -> None:
    """Write cards of what is held; one of another version than the data keeps its earlier row."""
    if table.empty:
        table = pd.DataFrame(columns=["id", "version"], dtype=object)
    if path.exists():
        earlier = pd.read_parquet(path)
        earlier = earlier[earlier["id"].isin(set(held))]
        current = [held[i] in (None, v) for i, v in zip(table["id"], table["version"], strict=True)]
        stale = set(table.loc[[not c for c in current], "id"])
        kept = earlier[earlier["id"].isin(stale | (set(held) - set(table.get("id", []))))]
        if len(kept):
            table = table[~table["id"].isin(set(kept["id"]))]
            table = pd.concat([table, kept], ignore_index=True)
    write_table(table, path)
