# SPDX-License-Identifier: Apache-2.0
"""``atlas.json``: marker and index of an atlas, derived from what the folder holds.

The index hashes the metadata of every model and every table, and is sealed by a hash of itself, so
that each byte a reader gets is covered, from one small file on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
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
from ..schemas.documents import parse_json
from ..schemas.errors import ArchiveError
from ..schemas.index import check_index
from . import catalog
from .files import Files
from .hub import sha256_of
from .parquet import read_frame
from .tables import MODELS, SETS, table_version, write_table
from .unit import Documents, open_unit, unit_documents, unit_record

#: Key that holds the hash of all the other keys.
SEAL = "sha256"
#: Key that holds, while files move into place, the states each of them may be in.
PENDING = "pending"


def canonical(content: Any) -> bytes:
    """A JSON document as the atlas writes it: keys sorted, no blanks, one line."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode() + b"\n"


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """``content`` with the SHA-256 of its canonical JSON (sorted keys, no blanks) as ``sha256``."""
    body = {k: v for k, v in content.items() if k != SEAL}
    return {**body, SEAL: hashlib.sha256(canonical(body)[:-1]).hexdigest()}


def unseal(data: bytes, *, where: str, mend: str = "restore the file") -> dict[str, Any]:
    """A sealed JSON document; ``mend`` is what an error tells its reader to do.

    Raises
    ------
    ArchiveError
        It is not JSON, or its content is not the one that was sealed.
    """
    try:
        content = parse_json(data)
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
        scratch.write_bytes(canonical(content))
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
        found = parse_json(data)
    except ValueError as error:
        raise ArchiveError(f"{where}: not JSON ({error}); restore the file") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ArchiveError(f"{where}: not a {FORMAT} archive; give another folder")
    check_format(str(found.get("format_version")), where=where)
    if found.get(SEAL) != seal(found)[SEAL]:
        raise ArchiveError(f"{where}: altered since it was written; restore the file")
    check_index(found, where=where)
    return found


def start_index(root: Path, *, version: str = UNRELEASED) -> None:
    """Mark a folder as an atlas that holds nothing yet."""
    write_json(sealed_index({}, {}, version), root / ATLAS_FILE)


def sealed_index(
    models: dict[str, Any],
    files: dict[str, Any],
    version: str,
    *,
    pending: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of ``atlas.json``; ``pending`` only while files move into place."""
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": version,
        "models": models,
        "files": files,
    }
    return seal({**content, PENDING: pending} if pending else content)


def file_entry(path: Path) -> dict[str, Any] | None:
    """Size and hash of a plain file, None where there is none."""
    if path.is_symlink() or not path.is_file():
        return None
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def current_state(files: Files, index: Mapping[str, Any], path: str) -> dict[str, Any] | None:
    """Size and hash of a table or of a model's metadata, None unless the index allows them.

    While a file moves into place, and after a crash in that moment, the index allows several.
    """
    states = list(index.get(PENDING, {}).get(path, ()))
    if not states and path in index["files"]:
        states = [index["files"][path]]
    model = path.removeprefix(f"{STORE}/").removesuffix("/zarr.json")
    if not states and path.startswith(f"{STORE}/") and model in index["models"]:
        states = [{"sha256": index["models"][model]["metadata_sha256"]}]
    if files.local is not None:
        found = file_entry(files.local / path)
    else:
        data = files.read(path)
        found = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    allowed = {s["sha256"] for s in states if s is not None}
    return found if found is not None and found["sha256"] in allowed else None


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
    units = {p.parent.name: unit_documents(p.parent) for p in folder.glob("*/zarr.json")}
    write_json(json.loads(model_document(model_id, units)), folder / "zarr.json")


def model_document(model_id: str, units: Mapping[str, Documents]) -> bytes:
    """The metadata file of a model: a Zarr group with the metadata of all its units inside."""
    entries = {
        f"{set_id}/{array}" if array else set_id: document
        for set_id, documents in units.items()
        for array, document in documents.items()
    }
    return canonical(
        {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"model": model_id},
            # As zarr-python writes it; not yet in the specification, so readers may ignore it.
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": entries,
            },
        }
    )


def model_entry(root: Path, model_id: str) -> dict[str, Any] | None:
    """What the index says of one model as it lies in the folder; None when it has no unit."""
    path = root / STORE / model_id / "zarr.json"
    folders = [p.parent for p in path.parent.glob("*/zarr.json")]
    units = {p.name: unit_documents(p) for p in folders}
    return model_entry_of(units, sha256_of(path)) if units else None


def model_entry_of(units: Mapping[str, Documents], metadata_sha256: str) -> dict[str, Any]:
    """What the index says of a model with these units."""
    records = {s: unit_record(d, where=s) for s, d in units.items()}
    first = records[min(records)]
    return {
        "version": first.model_version,
        "layers": first.layers,
        "default_layer": first.default_layer,
        "metadata_sha256": metadata_sha256,
        "units": {
            s: {
                "set_version": record.structure_set_version,
                "rows": record.rows,
                "embedded": record.embedded,
                "missing": record.missing,
                "precision": str(record.precision),
                "content_sha256": record.content_sha256,
            }
            for s, record in sorted(records.items())
        },
    }


def write_index(root: Path, *, version: str = UNRELEASED) -> None:
    """Write tables of cards, every model's metadata and the index from what the folder holds.

    It takes the folder's word for everything: for a folder put together by hand. Builds and merges
    go through :mod:`matteratlas.registry.commit`, which does not.
    """
    held = sorted({model for model, _ in unit_names(root)})
    models: dict[str, Any] = {}
    for model_id in held:
        consolidate(root, model_id)
        models[model_id] = model_entry(root, model_id)
    tables = {p.stem: table_version(p) for p in (root / "structures").glob("*.parquet")}
    known = {m: c for m, c in catalog.models().items() if m in models}
    sets = {s: c for s, c in catalog.structure_sets().items() if s in tables}
    for path, table, versions in (
        (root / MODELS, catalog.models_table(known.values()), _versions(models)),
        (root / SETS, catalog.sets_table(sets.values()), tables),
    ):
        write_table(merged_cards(table, [path] if path.exists() else [], versions), path)
    listed = [*root.glob("structures/*.parquet"), *root.glob("registry/*.parquet")]
    write_json(sealed_index(models, file_entries(root, listed), version), root / ATLAS_FILE)


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


def merged_cards(
    table: pd.DataFrame, earlier: Iterable[Path], held: Mapping[str, str | None]
) -> pd.DataFrame:
    """Cards of what is held; of another version than the data, the row of an earlier table."""
    if table.empty:
        table = pd.DataFrame(columns=["id", "version"], dtype=object)
    current = [held[i] in (None, v) for i, v in zip(table["id"], table["version"], strict=True)]
    wanted = set(held) - set(table.loc[current, "id"])
    tables = [read_frame(path) for path in (earlier if wanted else ())]
    # Rows of the very version first, then of any: better an older card than none.
    tables = [t[t["version"] == t["id"].map(held)] for t in tables] + tables
    for kept in tables:
        kept = kept[kept["id"].isin(wanted)]
        if len(kept):
            table = table[~table["id"].isin(set(kept["id"]))]
            table = pd.concat([table, kept], ignore_index=True)
            wanted -= set(kept["id"])
    return table
