# SPDX-License-Identifier: Apache-2.0
"""Pools of structures to place or to choose from: a set, an atlas, a folder of files, a list.

:func:`take` finds structures of a pool by their ids, with all that a new set needs to know of them.
:func:`embed_files` makes a small atlas of a user's files, kept by their content, so that a second
look at the same files costs no model.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from ..registry import catalog
from ..registry.archive import open_atlas
from ..registry.brought import brought_from
from ..registry.hub import cache_dir, sha256_of
from ..registry.tables import table_version
from ..schemas.archive import ATLAS_FILE
from ..schemas.cards import StructureSetCard
from ..schemas.errors import ArchiveError, SourceError
from ..schemas.progress import Reporter
from ..schemas.structures import Structure, check_geometry, structure_from_row
from .build import build
from .structures.brought import bring
from .structures.canonical import structure_id
from .structures.domains import domain_of
from .structures.files import read_files
from .structures.fingerprint import module_closure
from .structures.sets import LeftOut, iter_structures, load_set

#: Atlases of user's files that are kept, the newest.
KEPT = 8


@dataclass(frozen=True)
class Pick:
    """A structure of a pool, with id and stratum, and what is known of where it is from."""

    structure: Structure
    pool: str
    domains: tuple[str, ...]
    licence: str | None
    redistribute: bool
    sha256: str


def take(location: str, ids: Sequence[str]) -> list[Pick]:
    """Structures of a pool by id, in the order of ``ids``.

    Parameters
    ----------
    location:
        Id of a structure set; folder of an atlas; folder of structure files, or such a file; or a
        Parquet table with the columns of an atlas's ``structures/*.parquet``.

    Raises
    ------
    SourceError, CardError
        Nothing there, or it does not hold one of the ids.
    """
    wanted = list(dict.fromkeys(ids))
    path = Path(location)
    if location in catalog.structure_sets():
        found = _of_set(catalog.structure_set(location), set(wanted))
    elif (path / ATLAS_FILE).exists():
        found = _of_atlas(path, set(wanted))
    elif path.suffix == ".parquet" and path.is_file():
        found = _of_table(path, set(wanted))
    elif path.exists():
        found = _of_files(path, set(wanted))
    else:
        catalog.structure_set(location)  # raises, naming the nearest set
    missing = [i for i in wanted if i not in found]
    if missing:
        raise SourceError(f"{location}: holds no structure '{missing[0]}'; check ids and pool")
    return [found[i] for i in wanted]


def _of_set(card: StructureSetCard, ids: set[str]) -> dict[str, Pick]:
    table = load_set(card).table
    picked = table[table["id"].isin(ids)]
    return {
        s.id: Pick(
            structure=replace(s, labels={}),
            pool=card.id,
            domains=tuple(card.strata[s.stratum].domains),
            licence=licence,
            redistribute=card.redistribute_coordinates,
            sha256=card.sources[0].sha256 or hashlib.sha256(s.id.encode()).hexdigest(),
        )
        for block, licence in zip(
            iter_structures(picked, batch=1, card=card), picked["licence"], strict=True
        )
        for s in block
    }


def _of_atlas(root: Path, ids: set[str]) -> dict[str, Pick]:
    atlas = open_atlas(root)
    cards = catalog.structure_sets()
    found: dict[str, Pick] = {}
    for set_id in atlas.set_ids:
        path = root / "structures" / f"{set_id}.parquet"
        table = atlas.table(f"structures/{set_id}.parquet")
        rows = table[table["id"].isin(ids - set(found))]
        card = cards.get(set_id)
        same = card is not None and card.version == table_version(path)
        for row in rows.to_dict("records"):
            if row["positions"] is None:
                if card is None or not same:
                    raise SourceError(
                        f"{root}: coordinates of set '{set_id}' are kept back and its source is "
                        "not here; pick from a pool that has them"
                    )
                found |= _of_set(card, {row["id"]})
                continue
            plain = {str(k): v for k, v in row.items() if not str(k).startswith("label_")}
            structure = structure_from_row(plain)
            domains = (
                card.strata[structure.stratum].domains
                if card is not None and structure.stratum in card.strata
                else [domain_of(structure)]
            )
            found[structure.id] = Pick(
                structure, set_id, tuple(domains), row["licence"], True, sha256_of(path)
            )
    return found


def _of_table(path: Path, ids: set[str]) -> dict[str, Pick]:
    try:
        table = pq.read_table(path, filters=[("id", "in", sorted(ids))])
        rows = table.to_pylist()
        own = sha256_of(path)
        found = {}
        for row in rows:
            defaults = {"name": None, "smiles": None, "sequence": None, "backbone": None}
            plain = {k: v for k, v in row.items() if not k.startswith("label_")}
            given = {**defaults, "set": "", "stratum": "generated", **plain}
            structure = structure_from_row(given)
            check_geometry(structure)
            if structure_id(structure) != structure.id:
                raise SourceError(f"{path}: row '{structure.id}' is another structure's id")
            domains = (domain_of(structure),)
            licence = row.get("licence")
            found[structure.id] = Pick(structure, path.stem, domains, licence, True, own)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SourceError(f"{path}: not a table of structures ({error})") from error
    return found


def _of_files(path: Path, ids: set[str]) -> dict[str, Pick]:
    source = read_files(path)
    found: dict[str, Pick] = {}
    for name, item in source:
        if isinstance(item, LeftOut):
            continue
        structure = replace(item, id=structure_id(item))
        if structure.id in ids and structure.id not in found:
            domain = domain_of(structure)
            placed = replace(structure, stratum=domain)
            sha256 = source.files[name]
            found[structure.id] = Pick(placed, path.name, (domain,), None, True, sha256)
    return found


@dataclass(frozen=True)
class FilePool:
    """An atlas of a user's files.

    Attributes
    ----------
    root, set_id:
        The atlas, and its one set.
    structures : DataFrame
        The set's table, coordinates included.
    rejected, duplicates : DataFrame
        ``source_id`` and ``reason``, ``source_id`` and ``kept``.
    """

    root: Path
    card: StructureSetCard
    structures: pd.DataFrame
    rejected: pd.DataFrame
    duplicates: pd.DataFrame
    passed_over: list[str]

    @property
    def set_id(self) -> str:
        """Id of the set."""
        return self.card.id

    def embed(self, models: Iterable[str], *, reporter: Reporter | None = None) -> None:
        """Embed the structures with models; what is there is kept.

        Raises
        ------
        ArchiveError
            A model cannot be run, with the reason.
        """
        with brought_from(self.root.parent / "sets"):
            report = build(
                self.root,
                models=list(models),
                sets=[self.set_id],
                workers=0,
                keep_nodes=False,
                reporter=reporter,
            )
        if report.failed:
            first = report.failed[0]
            raise ArchiveError(f"{first.model} cannot be run here: {first.error}; choose another")


def pool_of_files(path: Path, *, column: str | None = None) -> FilePool:
    """A set of a user's files in the cache, by the content of the files and of what reads them.

    Raises
    ------
    SourceError
        Nothing there, or nothing of it can be read.
    """
    source = read_files(path, column=column)
    digest = _digest(source.contents())
    digest = hashlib.sha256(f"{digest} {column}".encode()).hexdigest()[:16]
    home = cache_dir() / "pools" / digest
    set_id = f"files_{digest}"
    with brought_from(home / "sets"):
        if set_id not in catalog.structure_sets():
            bring(path, name=set_id, column=column, out=home / "sets")
        loaded = load_set(catalog.structure_set(set_id))
    home.touch()
    kept = sorted(home.parent.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in kept[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return FilePool(
        home / "atlas",
        loaded.card,
        loaded.table,
        loaded.rejected,
        loaded.duplicates,
        source.passed_over,
    )


def _digest(contents: Iterable[tuple[str, str]]) -> str:
    """Of files and of the code that reads them."""
    lines = [f"{name} {sha256}" for name, sha256 in contents]
    code = module_closure([f"{__package__}.structures.brought"])
    lines += [f"{name} {sha256_of(path)}" for name, path in sorted(code.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
