# SPDX-License-Identifier: Apache-2.0
"""Validate an atlas folder in two tiers: structure always, values blockwise when asked.

Structure: marker, tables, unit records, file hashes, group schemas, ids against the structures
tables, dims against the cards. Values: every vector read once, in blocks, and reduced to one row a
structure before pandera sees it, so that a fault names its row and memory stays small.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from pandera.errors import SchemaErrors

from ..schemas.archive import (
    ATLAS_FILE,
    CHUNK_ROWS,
    FORMAT,
    RECORDS,
    STORE,
    UnitRecord,
    check_dataset,
    check_format,
    layer_schema,
    record_path,
    unit_rows_schema,
    unit_schema,
)
from ..schemas.errors import ArchiveError
from ..schemas.scores import SCORE_TABLES
from ..schemas.structures import STRUCTURE_TABLE
from . import store
from .hub import sha256_of
from .tables import MODELS, SETS, UNITS, read_structures_table


@dataclass
class Validation:
    """What was checked and what is wrong; empty ``faults`` means valid."""

    units: int = 0
    files: int = 0
    rows: int = 0
    tables: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """No fault found."""
        return not self.faults


def validate(
    path: str | Path, *, deep: bool = False, progress: Callable[[str], None] | None = None
) -> Validation:
    """Check an atlas folder; collects every fault instead of stopping at the first.

    Parameters
    ----------
    path:
        Atlas folder.
    deep:
        Also read every vector (finite, non-zero, missing exactly where a reason says so).
    progress:
        Called with the name of each thing about to be checked.

    Returns
    -------
    Validation
        Counts and one line a fault, naming the file and the mend.

    Raises
    ------
    ArchiveError
        The folder is no atlas at all.
    """
    root = Path(path)
    result = Validation()
    _check_marker(root)
    structures, learned = _check_tables(root, result, progress)
    expected = _unit_index(root, result)
    for folder in _unit_folders(root, result):
        name = f"{folder.parent.name}/{folder.name}"
        if progress:
            progress(name)
        record = _record(folder, root, result)
        if record is None:
            continue
        expected.discard(name)
        result.units += 1
        before = len(result.faults)
        _check_files(root, folder, record, result)
        if len(result.faults) > before:
            continue  # damaged files are not worth opening
        try:
            _check_unit(folder, record, structures, learned, result, deep=deep)
        except ArchiveError as error:
            result.faults.append(str(error))
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            result.faults.append(f"{STORE}/{name}: unreadable ({text}); rebuild the unit")
    result.faults += [
        f"{STORE}/{name}: listed in {UNITS} but absent; run matteratlas build again"
        for name in sorted(expected)
    ]
    return result


def _check_marker(root: Path) -> None:
    marker = root / ATLAS_FILE
    if not marker.exists():
        raise ArchiveError(
            f"{root}: no {ATLAS_FILE} there; give the folder that 'matteratlas build' made"
        )
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ArchiveError(f"{marker}: format is '{content['format']}', not '{FORMAT}'")
        check_format(str(content["format_version"]), where=str(marker))
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"{marker}: damaged ({error}); restore the file") from error


def _read(root: Path, name: str, result: Validation) -> pd.DataFrame | None:
    try:
        if name.startswith("structures/"):
            return read_structures_table(root / name)
        return pd.read_parquet(root / name)
    except FileNotFoundError:
        result.faults.append(f"{name}: missing; run matteratlas build again")
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        result.faults.append(f"{name}: unreadable ({text}); run matteratlas build again")
    return None


def _check_tables(
    root: Path, result: Validation, progress: Callable[[str], None] | None
) -> tuple[dict[str, list[str]], set[str]]:
    """Structures and score tables against their schemas; returns ids by set, learned models."""
    ids: dict[str, list[str]] = {}
    learned: set[str] = set()
    for path in sorted((root / "structures").glob("*.parquet")):
        if progress:
            progress(f"structures/{path.name}")
        table = _read(root, f"structures/{path.name}", result)
        if table is None:
            continue
        result.tables += 1
        _check_schema(table, STRUCTURE_TABLE, f"structures/{path.name}", result)
        if "id" in table and set(table.get("set", [path.stem])) != {path.stem}:
            result.faults.append(f"structures/{path.name}: column 'set' names another set")
        ids[path.stem] = list(table["id"]) if "id" in table else []
    for name in (MODELS, SETS):
        table = _read(root, name, result)
        result.tables += table is not None
        if name == MODELS and table is not None:
            learned = set(table.loc[table["learned"], "id"])
    for name, schema in SCORE_TABLES.items():
        if (root / name).exists() and (table := _read(root, name, result)) is not None:
            result.tables += 1
            _check_schema(table, schema, name, result)
    return ids, learned


def _check_schema(table: pd.DataFrame, schema: object, name: str, result: Validation) -> None:
    try:
        schema.validate(table, lazy=True)  # type: ignore[attr-defined]
    except SchemaErrors as error:
        cases = error.failure_cases.drop_duplicates(["check", "index"])
        for case in cases.head(5).itertuples():
            row = "" if pd.isna(case.index) else f", row {case.index}"
            if case.schema_context == "DataFrameSchema" and row:  # a fault of the whole row
                result.faults.append(f"{name}{row}: {case.check}")
                continue
            result.faults.append(
                f"{name}{row}: column '{case.column}' fails {case.check} "
                f"(value {str(case.failure_case)[:60]!r})"
            )


def _unit_index(root: Path, result: Validation) -> set[str]:
    table = _read(root, UNITS, result)
    if table is None:
        return set()
    result.tables += 1
    return {f"{m}/{s}" for m, s in zip(table["model"], table["set"], strict=True)}


def _unit_folders(root: Path, result: Validation) -> Iterator[Path]:
    """Folders of every unit; a record without its folder is a fault."""
    for model in sorted(p for p in (root / STORE).glob("*") if p.is_dir()):
        yield from sorted(p for p in model.iterdir() if p.is_dir())
    for path in sorted((root / RECORDS).glob("*/*.json")):
        if not (root / STORE / path.parent.name / path.stem).is_dir():
            name = path.relative_to(root).as_posix()
            result.faults.append(f"{name}: its unit is missing; run matteratlas build again")


def _record(folder: Path, root: Path, result: Validation) -> UnitRecord | None:
    name = folder.relative_to(root)
    path = record_path(root, folder.parent.name, folder.name)
    where = path.relative_to(root).as_posix()
    if not path.exists():
        result.faults.append(f"{name}: no {where}; the unit is incomplete: build it again")
        return None
    try:
        record = UnitRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        result.faults.append(f"{where}: damaged ({str(error).splitlines()[0]})")
        return None
    check_format(record.format_version, where=str(path))
    if (record.model, record.structure_set) != (folder.parent.name, folder.name):
        result.faults.append(
            f"{name}: folder holds the unit '{record.model}/{record.structure_set}'; rename it back"
        )
        return None
    return record


def _check_files(root: Path, folder: Path, record: UnitRecord, result: Validation) -> None:
    """Every declared file present with its size and hash, and no file undeclared."""
    declared = {f.path for f in record.files}
    for file in record.files:
        path = root / file.path
        if ".." in Path(file.path).parts or Path(file.path).is_absolute():
            result.faults.append(f"{file.path}: leaves the atlas; its record is not to be trusted")
            continue
        result.files += 1
        if not path.is_file():
            result.faults.append(f"{file.path}: missing; build the unit again")
        elif path.stat().st_size != file.bytes:
            result.faults.append(
                f"{file.path}: {path.stat().st_size} bytes, {file.bytes} declared; "
                "build the unit again"
            )
        elif sha256_of(path) != file.sha256:
            result.faults.append(f"{file.path}: sha256 differs from the declared; build it again")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(root).as_posix()
        if name not in declared:
            result.faults.append(f"{name}: not in the unit's record; remove the foreign file")


def _check_unit(
    folder: Path,
    record: UnitRecord,
    structures: dict[str, list[str]],
    learned: set[str],
    result: Validation,
    *,
    deep: bool,
) -> None:
    name = f"{STORE}/{record.model}/{record.structure_set}"
    group = zarr.open_group(folder, mode="r")
    unit = xr.open_zarr(folder, consolidated=False, zarr_format=3)
    check_dataset(unit, unit_schema(rows=record.rows), where=name)
    ids = store.read(group, "structure_id")
    reasons = store.read(group, "reason")
    sizes = store.read(group, "row_size")
    known = structures.get(record.structure_set)
    if known is None:
        result.faults.append(f"{name}: set '{record.structure_set}' has no structures table")
    elif not set(ids) <= set(known):
        strange = sorted(set(ids) - set(known))[0]
        result.faults.append(f"{name}: row '{strange}' is not in the structures table; rebuild it")
    embedded = int((reasons == "").sum())
    if embedded != record.embedded:
        result.faults.append(
            f"{name}: {embedded} rows embedded, its record says {record.embedded}; rebuild it"
        )
    row_schema = unit_rows_schema(learned=record.model in learned)
    for layer, dim in record.layers.items():
        nodes = int(sizes.sum()) if "node_embedding" in store.group(group, layer) else None
        data = xr.open_zarr(folder / layer, consolidated=False, zarr_format=3)
        check_dataset(
            data, layer_schema(rows=record.rows, dim=dim, nodes=nodes), where=f"{name}/{layer}"
        )
        if deep:
            rows = _summarise(store.group(group, layer), ids, reasons, sizes)
            _check_schema(rows, row_schema, f"{name}/{layer}", result)
    result.rows += record.rows


def _summarise(
    layer: zarr.Group, ids: np.ndarray, reasons: np.ndarray, sizes: np.ndarray
) -> pd.DataFrame:
    """One row a structure from one pass over the vectors, block by block."""
    n = len(ids)
    finite, norm, present = np.zeros(n, bool), np.full(n, np.nan), np.zeros(n, bool)
    for start in range(0, n, CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        block = store.read(layer, "embedding", part).astype(np.float64)
        rows = slice(start, start + len(block))
        finite[rows] = np.isfinite(block).all(axis=1)
        present[rows] = ~np.isnan(block).all(axis=1)
        norm[rows] = np.linalg.norm(block, axis=1)
    nodes_finite = np.ones(n, bool)
    if "node_embedding" in layer:
        owner = np.repeat(np.arange(n), sizes)
        for start in range(0, len(owner), CHUNK_ROWS):
            block = store.read(layer, "node_embedding", slice(start, start + CHUNK_ROWS))
            bad = ~np.isfinite(block).all(axis=1)
            nodes_finite[owner[start : start + len(block)][bad]] = False
    return pd.DataFrame(
        {
            "structure_id": ids.astype(object),
            "reason": reasons.astype(object),
            "embedded": present,
            "finite": finite,
            "norm": norm,
            "nodes_finite": nodes_finite,
        }
    )
