# SPDX-License-Identifier: Apache-2.0
"""Sets that users bring: their files become a card and a table, and from there a set like any.

``<folder>/<id>/<id>.yaml`` is the card, ``<id>-<version>.parquet`` beside it the structures: a row
each, with the file it came from and that file's SHA-256; rows left out are kept in the table's
metadata. The card names the table's SHA-256. A new version is written beside the old one and the
card replaced last, so that a killed run leaves the old version or the new one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ...registry import catalog
from ...registry.brought import LOADER, brought_home, first_folder
from ...registry.hub import sha256_of
from ...registry.parquet import check_size
from ...schemas.cards import MAX_BYTES, StructureSetCard, read_card
from ...schemas.errors import CardError, SourceError, StructureError
from ...schemas.structures import (
    DOMAINS,
    KINDS,
    SYMBOLS,
    Structure,
    check_geometry,
    structure_from_row,
    structure_to_row,
)
from .canonical import structure_id
from .domains import domain_of
from .files import read_files
from .sets import LeftOut

#: Rows of a stratum that a starter atlas takes at most.
STARTER = 64
#: Strata of a brought set at most: a card is a page of text.
MAX_STRATA = 64

_FLOATS = pa.list_(pa.float64())
#: Columns of the table; from ``file`` on, where the row is from.
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("source_id", "stratum", "kind", "name")),
        ("numbers", pa.list_(pa.int64())), ("positions", _FLOATS), ("cell", _FLOATS),
        ("pbc", pa.list_(pa.bool_())), ("charge", pa.int64()), ("multiplicity", pa.int64()),
        ("smiles", pa.string()), ("sequence", pa.string()), ("backbone", _FLOATS),
        ("id", pa.string()), ("file", pa.string()), ("file_sha256", pa.string()),
        ("licence", pa.string()),
    ]
)  # fmt: skip
_NOTES = b"matteratlas_left_out"


@dataclass(frozen=True)
class Row:
    """A structure (with id and stratum) and where it is from."""

    structure: Structure
    file: str
    file_sha256: str
    licence: str | None = None


@dataclass
class Brought:
    """What became of a user's files.

    Attributes
    ----------
    outcome : str
        ``new``, ``grown`` (rows added), ``changed`` (rows gone too), ``described anew`` (same rows,
        other strata, licence or rows left out), or ``unchanged``.
    rejected, duplicates : dict of str to str
        Source row -> the reason; source row -> the row that was kept.
    passed_over : list of str
        Files of formats that are not read.
    """

    card: StructureSetCard
    folder: Path
    outcome: str
    rejected: dict[str, str] = field(default_factory=dict)
    duplicates: dict[str, str] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)


def bring(
    path: Path,
    *,
    name: str,
    stratum: str | None = None,
    domains: Sequence[str] | None = None,
    licence: str | None = None,
    column: str | None = None,
    out: Path | None = None,
) -> Brought:
    """Make a set of a folder of structure files, one such file, or a list of SMILES.

    Parameters
    ----------
    path:
        What :func:`.files.read_files` reads.
    name:
        Id of the set. Where a brought set has it already, this is its next version.
    stratum:
        Of all rows; by default the first folder below ``path``, and the domain for what lies in
        ``path`` itself. Rows of one stratum but several inferred domains are parted by domain.
    domains:
        Of all rows; by default :func:`.domains.domain_of` each.
    licence:
        SPDX expression of the structures. Without one, atlases keep the coordinates back.
    column:
        Column of SMILES in a table.
    out:
        Folder of brought sets; default the first of :func:`...registry.brought.brought_folders`.

    Raises
    ------
    SourceError
        Nothing there, or no file holds a structure that can be read.
    CardError
        The name is not one, or is taken by a set of the registry; or too many strata.
    """
    unknown = [d for d in domains or () if d not in DOMAINS]
    if unknown:
        raise CardError(f"domain '{unknown[0]}' is not known; choose from {', '.join(DOMAINS)}")
    found = read_files(path, column=column)
    rows: list[Row] = []
    left: list[LeftOut] = []
    kept: dict[str, str] = {}
    for file, item in found:
        structure = _sound(item)
        if isinstance(structure, LeftOut):
            left.append(structure)
        elif structure.id in kept:
            left.append(LeftOut(structure.source_id, "a repeat", kept[structure.id]))
        else:
            kept[structure.id] = structure.source_id
            place = stratum or _stratum_of(file)
            rows.append(Row(replace(structure, stratum=place), file, found.files[file], licence))
    if not rows:
        first = f"; the first reason: {left[0].reason}" if left else ""
        raise SourceError(f"{path}: no structure could be read from it{first}")
    whole = sorted(domains) if domains else None
    rows, strata = _parted(rows, whole)
    described = f"Structures of {len({r.file for r in rows})} files that a user brought."
    selection = (
        "All structures of the files that could be read; repeats once. SMILES without coordinates "
        "got one ETKDG conformer each from a fixed seed, relaxed with MMFF94 or UFF. Domains "
        + ("as given." if domains else "inferred from kind and elements.")
    )
    made = write_set(
        name, rows, left, strata, description=described, selection=selection, out=out
    )  # fmt: skip
    made.passed_over = found.passed_over
    return made


def _sound(item: Structure | LeftOut) -> Structure | LeftOut:
    """The structure with its id, or why it is no good."""
    if isinstance(item, LeftOut):
        return item
    try:
        check_geometry(item)
        return replace(item, id=structure_id(item))
    except StructureError as error:
        return LeftOut(item.source_id, str(error))


def _stratum_of(file: str) -> str:
    """The first folder of a file's path as a stratum's name; empty for none."""
    first, slash, _ = file.partition("/")
    if not slash:
        return ""
    plain = re.sub(r"[^a-z0-9]+", "_", first.lower()).strip("_")[:40]
    return plain if plain[:1].isalpha() else f"folder_{plain or 'x'}"


def _parted(rows: list[Row], domains: list[str] | None) -> tuple[list[Row], dict[str, list[str]]]:
    """Rows with their strata, one domain each unless domains were given; strata in order."""
    own = [domains or [domain_of(r.structure)] for r in rows]
    several: dict[str, set[str]] = {}
    for row, found in zip(rows, own, strict=True):
        several.setdefault(row.structure.stratum, set()).add("+".join(found))
    strata: dict[str, list[str]] = {}
    placed = []
    for row, found in zip(rows, own, strict=True):
        name = row.structure.stratum
        if not name:
            name = found[0] if domains is None else "all"
        elif len(several[name]) > 1:
            name = f"{name}_{found[0]}"[:64]
        strata.setdefault(name, found)
        placed.append(replace(row, structure=replace(row.structure, stratum=name)))
    return placed, strata


def write_set(
    name: str,
    rows: Sequence[Row],
    left: Sequence[LeftOut],
    strata: Mapping[str, list[str]],
    *,
    description: str,
    selection: str,
    citation: str = "As the files say; give it with what is published.",
    redistribute: bool = True,
    out: Path | None = None,
) -> Brought:
    """Write a brought set, or its next version: same rows, same version, nothing written.

    A version that keeps every row before it counts up by a minor step, one that drops some by a
    major, one that only says something else of the same rows by a patch. Rows that were there come
    first, in their old order.

    Parameters
    ----------
    rows, left:
        Structures with ids and strata, and what was left out.
    strata:
        Domains by stratum.
    redistribute:
        Whether coordinates may be passed on; they never are without a licence.
    """
    home = (out or first_folder()) / name
    path = home / f"{name}.yaml"
    before = read_card(path, StructureSetCard) if path.exists() else None
    if before is None and name in catalog.structure_sets():
        raise CardError(f"set '{name}' is there already, elsewhere; choose another name")
    earlier = _read(home, before) if before else None
    held = earlier["id"].to_pylist() if earlier is not None else []
    order = {structure: i for i, structure in enumerate(held)}
    ordered = sorted(rows, key=lambda r: order.get(r.structure.id, len(order)))
    arrow = _table(ordered, left)
    same = earlier is not None and earlier.equals(arrow) and _notes(earlier) == _notes(arrow)
    version, outcome = _next_version(before, held, ordered, same=same)
    licences = sorted({r.licence for r in ordered if r.licence})
    open_to_all = all(r.licence for r in ordered)
    table = f"{name}-{version}.parquet"
    content: dict[str, Any] = {
        "id": name,
        "name": name.replace("_", " ").capitalize(),
        "version": version,
        "kinds": [k for k in KINDS if any(r.structure.kind == k for r in ordered)],
        "description": description,
        "loader": LOADER,
        "sources": [
            {"package": f"{name}=={version}", "kind": "brought", "path": table, "sha256": "0" * 64}
        ],
        "selection": selection,
        "strata": _strata(ordered, strata),
        "elements": _elements(ordered),
        "labels": {},
        "licence": " AND ".join(licences) if open_to_all else None,
        "licence_note": "As given by who brought the structures."
        if open_to_all
        else "None was given for some or all rows; coordinates are not passed on.",
        "redistribute_coordinates": redistribute and open_to_all,
        "citation": citation,
    }
    _check_card(content, path)
    home.mkdir(parents=True, exist_ok=True)
    if outcome != "unchanged":
        scratch = home / f".{table}.part"
        pq.write_table(arrow, scratch, compression="zstd")
        scratch.replace(home / table)
    content["sources"][0]["sha256"] = sha256_of(home / table)
    card = _check_card(content, path)
    if card != before:
        scratch = home / f".{path.name}.part"
        scratch.write_text(
            yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        scratch.replace(path)
    return Brought(
        card=card,
        folder=home,
        outcome=outcome,
        rejected={x.source_id: x.reason for x in left if x.kept is None},
        duplicates={x.source_id: x.kept for x in left if x.kept is not None},
    )


def _next_version(
    before: StructureSetCard | None, held: list[str], rows: Sequence[Row], *, same: bool
) -> tuple[str, str]:
    ids = [r.structure.id for r in rows]
    if before is None:
        return "1.0.0", "new"
    if same:
        return before.version, "unchanged"
    major, minor, patch = (int(part) for part in before.version.split("."))
    if not set(held) <= set(ids):
        return f"{major + 1}.0.0", "changed"
    if len(ids) > len(held):
        return f"{major}.{minor + 1}.0", "grown"
    return f"{major}.{minor}.{patch + 1}", "described anew"


def _strata(rows: Sequence[Row], domains: Mapping[str, list[str]]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.structure.stratum] = counts.get(row.structure.stratum, 0) + 1
    if len(counts) > MAX_STRATA:
        raise CardError(f"{len(counts)} strata; at most {MAX_STRATA}, name one for all rows")
    return {
        name: {
            "description": f"Brought as {name.replace('_', ' ')}",
            "domains": list(domains[name]),
            "count": count,
            "starter": min(count, STARTER),
        }
        for name, count in counts.items()
    }


def _elements(rows: Iterable[Row]) -> list[str]:
    return [SYMBOLS[z] for z in sorted({int(z) for r in rows for z in r.structure.numbers})]


def _check_card(content: Mapping[str, Any], path: Path) -> StructureSetCard:
    try:
        card = StructureSetCard.model_validate(content)
    except ValueError as error:
        line = str(error).splitlines()
        raise CardError(f"{path}: {' '.join(line[1:3])}") from error
    if len(card.model_dump_json()) > MAX_BYTES // 2:
        raise CardError(f"{path}: the card would be too long; name one stratum for all rows")
    return card


def _table(rows: Sequence[Row], left: Sequence[LeftOut]) -> pa.Table:
    columns = {*SCHEMA.names}
    content = [
        {k: v for k, v in structure_to_row(r.structure).items() if k in columns}
        | {"file": r.file, "file_sha256": r.file_sha256, "licence": r.licence}
        for r in rows
    ]
    notes = json.dumps([[x.source_id, x.reason, x.kept] for x in left]).encode()
    return pa.Table.from_pylist(content, schema=SCHEMA).replace_schema_metadata({_NOTES: notes})


def read_rows(home: Path, card: StructureSetCard) -> list[Row]:
    """Rows of a version of a brought set, in order; with their ids.

    Raises
    ------
    SourceError
        The table is gone, damaged or not as the card says.
    """
    return [
        Row(_structure(row), row["file"], row["file_sha256"], row["licence"])
        for row in _read(home, card).to_pylist()
    ]


def load(card: StructureSetCard) -> Iterator[Structure | LeftOut]:
    """The rows of a brought set, then what was left out of it."""
    table = _read(brought_home(card.id), card)
    for batch in table.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            yield replace(_structure(row), id="")
    for source_id, reason, kept in json.loads(_notes(table)):
        yield LeftOut(str(source_id), str(reason), None if kept is None else str(kept))


def _notes(table: pa.Table) -> bytes:
    return bytes((table.schema.metadata or {}).get(_NOTES, b"[]"))


def _structure(row: dict[str, Any]) -> Structure:
    return structure_from_row({**row, "set": ""})


def _read(home: Path, card: StructureSetCard) -> pa.Table:
    source = card.sources[0]
    path = home / source.path
    if source.kind != "brought" or Path(source.path).name != source.path:
        raise SourceError(f"{path}: no table beside the card; bring the set again")
    try:
        if sha256_of(path) != source.sha256:
            raise SourceError(f"{path}: not the table its card names; bring the set again")
        with pq.ParquetFile(path) as file:
            check_size(file.metadata, size=path.stat().st_size)
            table = file.read()
    except (OSError, pa.ArrowException, ValueError) as error:
        raise SourceError(f"{path}: cannot be read ({error}); bring the set again") from error
    if not table.schema.equals(SCHEMA):
        raise SourceError(f"{path}: not a table of brought structures; bring the set again")
    return table
