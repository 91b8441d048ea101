# SPDX-License-Identifier: Apache-2.0
"""Load a structure set: run its loader, refuse bad geometry, give ids, drop repeats, check, cache.

A card's ``loader: "<module>:<function>"`` names a function of a sibling module, ``load(card) ->
Iterator[Structure]``, which yields structures in a deterministic order with ``id`` and ``set``
empty. All else happens here, once, for every set.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ...registry import catalog
from ...registry.hub import cache_dir
from ...schemas.cards import StructureSetCard
from ...schemas.errors import CardError, SourceError, StructureError, missing_extra
from ...schemas.structure_sets import (
    check_structure_table,
    label_columns,
    structure_arrow_schema,
)
from ...schemas.structures import (
    LABEL_PREFIX,
    Structure,
    check_geometry,
    structure_from_row,
    structure_to_row,
)
from ..describe import describe
from .canonical import structure_id
from .fingerprint import set_fingerprint

Selection = Literal["full", "starter"]


@dataclass(frozen=True)
class LeftOut:
    """A row of the source that a loader leaves out by name.

    ``kept`` is the ``source_id`` of the equal row before it; None where the row is bad.
    """

    source_id: str
    reason: str
    kept: str | None = None


Loader = Callable[[StructureSetCard], Iterable[Structure | LeftOut]]

#: The starter selection prefers structures of at most this many atoms.
STARTER_ATOMS = 64

_REJECTED = ("source_id", "reason")
_DUPLICATES = ("source_id", "kept")
#: Cached tables kept of a set: other checkouts and card versions may be in use beside this one.
_KEPT = 4


@dataclass(frozen=True)
class StructureSet:
    """A loaded structure set.

    Attributes
    ----------
    card:
        The set's card.
    selection:
        ``full`` or ``starter``.
    table:
        One row a structure, coordinates and provenance included (``STRUCTURE_TABLE``); array
        labels are flat lists.
    rejected:
        ``source_id``, ``reason``: rows of the source that no model could read (bad geometry).
    duplicates:
        ``source_id``, ``kept``: rows left out because an earlier row of the set has the same id.
    """

    card: StructureSetCard
    selection: Selection
    table: pd.DataFrame
    rejected: pd.DataFrame
    duplicates: pd.DataFrame

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Structure]:
        for block in iter_structures(self.table, card=self.card):
            yield from block

    @cached_property
    def structures(self) -> list[Structure]:
        """All structures, in table order; made on first use."""
        return list(self)


def load_set(
    card: StructureSetCard, *, selection: Selection = "full", refresh: bool = False
) -> StructureSet:
    """Load a structure set, from the cache where this very card and loader filled it before.

    Parameters
    ----------
    card:
        Of ``registry.catalog.structure_sets()``.
    selection:
        ``full``, or ``starter``: per stratum the card's number of rows with the smallest hashes
        of their ids, small structures first (:func:`starter_rows`).
    refresh:
        Run the loader even where a cached table exists.

    Raises
    ------
    SourceError
        The source cannot be had, or does not hold what the card says (strata, counts, labels,
        elements).
    CardError
        The card names no loader of this package.
    """
    if selection not in ("full", "starter"):
        raise CardError(f"selection '{selection}' is not known; use full or starter")
    path = cache_dir() / "sets" / f"{card.id}-{card.version}-{set_fingerprint(card)}.parquet"
    arrow = None if refresh else _read(path)
    if arrow is None:
        arrow = _build(card)
        _write(arrow, path)
    notes = json.loads(arrow.schema.metadata[b"matteratlas"])
    table = _to_pandas(arrow)
    if selection == "starter":
        table = table[starter_rows(table, card)].reset_index(drop=True)
    return StructureSet(
        card=card,
        selection=selection,
        table=table,
        rejected=pd.DataFrame(notes["rejected"], columns=list(_REJECTED), dtype=object),
        duplicates=pd.DataFrame(notes["duplicates"], columns=list(_DUPLICATES), dtype=object),
    )


def starter_rows(table: pd.DataFrame, card: StructureSetCard) -> pd.Series:
    """Which rows of a full table belong to the starter selection (bool, index kept).

    Structures of more than :data:`STARTER_ATOMS` atoms (proteins apart, which no 3D model here
    reads) come last in their stratum: a first atlas should not take an hour.
    """
    large = (table["n_atoms"] > STARTER_ATOMS) & (table["kind"] != "protein")
    keys = large.map({False: "0:", True: "1:"}) + table["id"].map(
        lambda i: hashlib.sha256(f"starter:{i}".encode()).hexdigest()
    )
    rank = keys.groupby(table["stratum"]).rank(method="first")
    wanted = table["stratum"].map({name: s.starter for name, s in card.strata.items()})
    return rank <= wanted


def iter_structures(
    table: pd.DataFrame, batch: int = 256, *, card: StructureSetCard | None = None
) -> Iterator[list[Structure]]:
    """Rows of a structures table as structures, ``batch`` at a time, in order.

    Array labels get their shape back: (n_atoms, 3) for ``per_atom_vector``, (3, 3) for a
    ``tensor`` of nine. Cards come from the catalogue unless ``card`` is given.
    """
    for start in range(0, len(table), batch):
        rows = table.iloc[start : start + batch].to_dict(orient="records")
        yield [_with_shapes(structure_from_row(cast(dict[str, Any], r)), card) for r in rows]


def _with_shapes(structure: Structure, card: StructureSetCard | None) -> Structure:
    if not structure.labels:
        return structure
    declared = (card or catalog.structure_set(structure.set)).labels
    labels: dict[str, Any] = {}
    for name, value in structure.labels.items():
        shape = declared[name].shape
        if shape == "scalar":
            labels[name] = float(value)
            continue
        array = np.asarray(value, dtype=float)
        if shape == "per_atom_vector":
            array = array.reshape(len(structure), -1)
        elif array.size == 9:
            array = array.reshape(3, 3)
        labels[name] = array
    return replace(structure, labels=labels)


def _loader(card: StructureSetCard) -> Loader:
    module_name, _, function_name = card.loader.partition(":")
    try:
        module = importlib.import_module(f".{module_name}", __package__)
    except ModuleNotFoundError as error:
        if error.name and error.name.endswith(f"structures.{module_name}"):
            raise CardError(
                f"set '{card.id}': key 'loader': module '{module_name}' does not exist"
            ) from error
        raise missing_extra(str(error.name), "sources") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise CardError(f"set '{card.id}': key 'loader': '{card.loader}' is not a function")
    return function


def _build(card: StructureSetCard) -> pa.Table:
    """Run the loader and everything after it; the result carries its notes as metadata."""
    who = f"set '{card.id}'"
    rows: list[dict[str, Any]] = []
    rejected: list[tuple[str, str]] = []
    duplicates: list[tuple[str, str]] = []
    kept: dict[str, str] = {}
    seen: set[str] = set()
    for raw in _loader(card)(card):
        if raw.source_id in seen:
            raise SourceError(f"{who}: source_id '{raw.source_id}' is given twice; mend the loader")
        seen.add(raw.source_id)
        if isinstance(raw, LeftOut):
            if raw.kept is None:
                rejected.append((raw.source_id, raw.reason))
            else:
                duplicates.append((raw.source_id, raw.kept))
            continue
        if raw.stratum not in card.strata:
            raise SourceError(
                f"{who}: structure '{raw.source_id}' is in stratum '{raw.stratum}', which is not "
                "on the card; add it there"
            )
        try:
            check_geometry(raw)
        except StructureError as error:
            rejected.append((raw.source_id, str(error)))
            continue
        structure = replace(raw, set=card.id, id=structure_id(raw))
        if structure.id in kept:
            duplicates.append((structure.source_id, kept[structure.id]))
            continue
        kept[structure.id] = structure.source_id
        rows.append(_row(structure, card))
    missing = [c for c in label_columns(card) if all(r.get(c) is None for r in rows)]
    if missing:
        raise SourceError(
            f"{who}: no row has label '{missing[0].removeprefix(LABEL_PREFIX)}', which the card "
            "declares; mend the loader or the card"
        )
    schema = structure_arrow_schema(card)
    arrow = pa.Table.from_pylist(rows, schema=schema)
    check_structure_table(_to_pandas(arrow), card)
    notes = {"rejected": rejected, "duplicates": duplicates}
    return arrow.replace_schema_metadata({"matteratlas": json.dumps(notes)})


def _row(structure: Structure, card: StructureSetCard) -> dict[str, Any]:
    row = structure_to_row(structure)
    for name, value in structure.labels.items():
        who = f"set '{card.id}': structure '{structure.source_id}': label '{name}'"
        if name not in card.labels:
            raise SourceError(f"{who} is not on the card; declare it there or drop it")
        scalar = card.labels[name].shape == "scalar"
        if scalar != (np.ndim(value) == 0):
            raise SourceError(
                f"{who} has shape {np.shape(value)}, the card says {card.labels[name].shape}"
            )
        if card.labels[name].shape == "per_atom_vector" and len(value) != len(structure):
            raise SourceError(f"{who} has {len(value)} rows for {len(structure)} atoms")
        flat = np.asarray(value, dtype=float)
        row[f"{LABEL_PREFIX}{name}"] = float(flat) if scalar else flat.ravel().tolist()
    row["description"] = describe(structure)
    row["source"] = _source(structure, card)
    row["licence"] = card.licence
    return row


def _source(structure: Structure, card: StructureSetCard) -> str:
    """``package==version:path`` of a row.

    A set from several packages says which in the row's ``source_id`` (``<package>/...``); a row
    that does not has all of them, joined by ``"; "``.
    """
    names = {s.package.partition("==")[0].lower(): s for s in card.sources}
    owner = names.get(structure.source_id.partition("/")[0].lower())
    chosen = [owner] if owner else card.sources
    return "; ".join(f"{s.package}:{s.path}" for s in chosen)


def _to_pandas(arrow: pa.Table) -> pd.DataFrame:
    table = arrow.replace_schema_metadata(None).to_pandas()
    return table.astype({"multiplicity": "Int64"})


def _read(path: Path) -> pa.Table | None:
    """A cached table, or None where there is none or it cannot be read (it is then made anew)."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid):
        return None
    return table if b"matteratlas" in (table.schema.metadata or {}) else None


def _write(arrow: pa.Table, path: Path) -> None:
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            pq.write_table(arrow, scratch, compression="zstd")
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
        kin = path.name.rpartition("-")[0]
        stale = sorted(path.parent.glob(f"{kin}-*.parquet"), key=lambda p: -p.stat().st_mtime)
        for old in stale[_KEPT:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be written ({error.strerror}); "
            "set MATTERATLAS_CACHE to a folder that can"
        ) from error
