# SPDX-License-Identifier: Apache-2.0
"""Grow an atlas by structures picked from a pool: what ``matteratlas expand`` does.

The picks become a brought set, or its next version: rows that were there keep their place, so that
only new ones are embedded. Each step leaves the atlas whole, and running the same again goes on
where it stopped: the set is written last of all its files, units are embedded whole or not at all,
and the gaps as they were are kept beside the set until the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from .analysis.acquire.locate import in_region, of_atlas
from .analysis.analyze import analyze
from .builders.build import build
from .builders.embed import Storage, model_fingerprint
from .builders.pool import Pick, take
from .builders.structures.brought import Row, read_rows, write_set
from .registry import catalog
from .registry.archive import Atlas, open_atlas
from .registry.brought import first_folder
from .registry.index import unseal
from .registry.tables import write_table
from .schemas.archive import UNRELEASED, Precision
from .schemas.cards import StructureSetCard, read_card
from .schemas.errors import ArchiveError, AtlasError, SourceError
from .schemas.progress import Reporter, Silent
from .schemas.scores import ANALYSIS

#: Set that picks go into by default.
NAME = "expansion"
GAPS = "scores/gaps.parquet"
#: Parameters of an analysis that an expansion takes over from the last one.
PARAMETERS = ("k", "permutations", "seed", "max_rows", "min_rows", "metrics", "layers")
#: What makes a gap the same before and after.
_KEYS = ["kind", "region", "model", "selection", "statistic"]
_SHOWN = ["n", "value", "severity", "rank"]


@dataclass
class Expansion:
    """What an expansion did.

    Attributes
    ----------
    added, known : list of str
        Ids of the picks that are new to the atlas, and of those another of its sets holds.
    embedded, carried : int
        Rows of vectors that models made anew, and that were carried over.
    failed : dict of str to str
        Models that could not be run, and why; their other units are complete.
    gaps : DataFrame
        Gaps that the picks were for, before and after.
    """

    root: Path
    card: StructureSetCard
    outcome: str
    added: list[str]
    known: list[str]
    embedded: int = 0
    carried: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    gaps: pd.DataFrame = field(default_factory=pd.DataFrame)

    def summary(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        import json

        return {
            "path": str(self.root),
            "set": self.card.id,
            "version": self.card.version,
            "outcome": self.outcome,
            "rows": self.card.count,
            "added": self.added,
            "known": self.known,
            "embedded": self.embedded,
            "carried": self.carried,
            "failed": self.failed,
            "gaps": json.loads(self.gaps.to_json(orient="records", double_precision=10)),
        }


def expand(
    root: str | Path,
    *,
    suggestions: str | Path | None = None,
    pool: str | None = None,
    ids: Sequence[str] | None = None,
    top: int | None = None,
    name: str = NAME,
    models: Sequence[str] | None = None,
    workers: int = 0,
    parameters: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> Expansion:
    """Add picked structures to an atlas, embed the new ones, analyse again, compare the gaps.

    Parameters
    ----------
    root:
        Atlas folder, not a release.
    suggestions:
        Parquet or CSV: ``id`` a row; ``rank`` orders; ``pool`` or ``set`` says where each is to be
        had, unless ``pool`` does; ``region``, where given, names the gap it is for.
    pool:
        Where the picks are to be had (:func:`.builders.pool.take`).
    ids:
        Picks; with ``suggestions`` those of its rows, else of ``pool``.
    top:
        First so many of the suggestions.
    name:
        Set that takes them: a brought one, which gets its next version, or a new one.
    models:
        Models to embed with; by default all of the atlas.
    workers:
        Local processes; 0 is this one.
    parameters:
        Of the analysis; by default those of the last.

    Raises
    ------
    ArchiveError
        Not an atlas, or a release.
    SourceError
        A pick is not in its pool, or nothing was picked.
    CardError
        The set's name is taken by one of the registry, or a model is not known.
    """
    said = reporter or Silent()
    root = Path(root)
    atlas = open_atlas(root)
    if atlas.version != UNRELEASED:
        raise ArchiveError(
            f"{root}: is release {atlas.version}, and releases never change; expand the atlas it "
            "was made from"
        )
    names = list(models) if models else list(atlas.index["models"])
    for model in names:
        catalog.model(model)
    options = {**_last_parameters(root), **(parameters or {}), "workers": workers}
    picks, regions = _picks(Path(suggestions) if suggestions else None, pool, ids, top)
    analyze(root, **options, reporter=reporter)  # kept where nothing changed
    made, added, known = _write(atlas, name, picks)
    report = Expansion(root, made.card, made.outcome, added, known)
    kept = made.folder / f"{name}-{made.card.version}.before.parquet"
    if not kept.exists():
        write_table(open_atlas(root).table(GAPS), kept)
    for group, storage in _storages(atlas, names):
        built = build(
            root,
            models=group,
            sets=[name],
            workers=workers,
            keep_nodes=storage.keep_nodes,
            precision=str(storage.precision),
            reporter=reporter,
        )
        for unit in built.units:
            report.carried += unit.carried
            if unit.outcome == "built":
                report.embedded += unit.embedded - unit.carried
        report.failed |= {u.model: str(u.error) for u in built.failed}
    analyze(root, **options, reporter=reporter)
    said.stage("gaps", 1)
    report.gaps = compare_gaps(
        pd.read_parquet(kept),
        open_atlas(root).table(GAPS),
        picks,
        name=name,
        regions=regions,
    )
    said.advance("compared", 1)
    return report


def _last_parameters(root: Path) -> dict[str, Any]:
    """Parameters of the last analysis; none where there was none, or its record is damaged."""
    try:
        record = unseal((root / ANALYSIS).read_bytes(), where=str(root / ANALYSIS))
    except (FileNotFoundError, ArchiveError):
        return {}
    return {k: v for k, v in record.get("parameters", {}).items() if k in PARAMETERS}


def _picks(
    suggestions: Path | None, pool: str | None, ids: Sequence[str] | None, top: int | None
) -> tuple[list[Pick], set[str]]:
    """Structures, and the regions of the gaps they are for."""
    if suggestions is None:
        if pool is None or not ids:
            raise AtlasError("--suggestions is missing: give it, or both --pool and --ids")
        return take(pool, ids), set()
    table = read_suggestions(suggestions)
    if ids:
        strange = [i for i in ids if i not in set(table["id"])]
        if strange:
            raise SourceError(f"{suggestions}: has no id '{strange[0]}'; check --ids")
        table = table[table["id"].isin(list(ids))]
    table = table.head(top) if top else table
    if table.empty:
        raise SourceError(f"{suggestions}: nothing is suggested")
    owners = [pool] * len(table) if pool is not None else _owners(table, suggestions)
    found: dict[str, Pick] = {}
    for owner in dict.fromkeys(owners):
        own = [i for i, o in zip(table["id"], owners, strict=True) if o == owner]
        found |= {p.structure.id: p for p in take(owner, own)}
    regions = set(table["region"].dropna().astype(str)) if "region" in table else set()
    return [found[i] for i in dict.fromkeys(table["id"])], regions


def _owners(table: pd.DataFrame, path: Path) -> list[str]:
    """Where each suggestion is to be had: its pool, or its set where the pool is not here."""
    owners = []
    for row in table.to_dict("records"):
        named = [str(row[c]) for c in ("pool", "set") if isinstance(row.get(c), str) and row[c]]
        here = [n for n in named if n in catalog.structure_sets() or Path(n).exists()]
        if not here:
            raise SourceError(
                f"{path}: says of '{row['id']}' no pool or set that is here; give --pool"
            )
        owners.append(here[0])
    return owners


def read_suggestions(path: Path) -> pd.DataFrame:
    """A table of suggestions, by rank.

    Raises
    ------
    SourceError
        Not a table, or one without ids.
    """
    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: not a table of suggestions ({error})") from error
    if "id" not in table or table["id"].isna().any():
        raise SourceError(f"{path}: a suggestion needs an id; its columns are {list(table)}")
    if "rank" in table:
        table = table.sort_values("rank", kind="stable")
    return table.astype({"id": str}).reset_index(drop=True)


def _write(atlas: Atlas, name: str, picks: Sequence[Pick]) -> tuple[Any, list[str], list[str]]:
    """The set with the picks in it, ids that are new to the atlas, and ids that are not."""
    home = first_folder() / name
    path = home / f"{name}.yaml"
    before = read_card(path, StructureSetCard) if path.exists() else None
    rows = read_rows(home, before) if before else []
    strata = {n: list(s.domains) for n, s in before.strata.items()} if before else {}
    own = {r.structure.id for r in rows}
    others = set(atlas.structures.loc[atlas.structures["set"] != name, "id"])
    taken = {r.structure.source_id for r in rows}
    added: list[str] = []
    known: list[str] = []
    for pick in picks:
        structure = pick.structure
        if structure.id in others:
            known.append(structure.id)
            continue
        added.append(structure.id)
        if structure.id in own:  # of a run that was interrupted, or asked again
            continue
        source_id = f"{pick.pool}/{structure.source_id}"
        if source_id in taken:
            source_id += f"#{structure.id[-8:]}"
        taken.add(source_id)
        stratum = structure.stratum
        if strata.get(stratum, list(pick.domains)) != list(pick.domains):
            stratum = f"{pick.pool}_{stratum}"[:64]
        strata.setdefault(stratum, list(pick.domains))
        placed = replace(structure, source_id=source_id, stratum=stratum, labels={})
        rows.append(Row(placed, pick.pool, pick.sha256, pick.licence))
    if not rows:
        raise SourceError(f"{atlas.location}: holds all {len(picks)} picks already; pick others")
    open_to_all = all(p.redistribute for p in picks)
    made = write_set(
        name,
        rows,
        [],
        strata,
        description=before.description
        if before
        else "Structures that were picked to close gaps of an atlas.",
        selection=before.selection if before else "Picked one by one from pools; see 'source_id'.",
        citation=before.citation if before else "The sets named in 'source_id', where they are.",
        redistribute=open_to_all and (before.redistribute_coordinates if before else True),
    )
    return made, added, known


def _storages(atlas: Atlas, models: Sequence[str]) -> list[tuple[list[str], Storage]]:
    """Models by how the atlas stores them, so that grown sets carry their rows over."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for model in models:
        nodes, precision = True, "float32"
        entry = atlas.index["models"].get(model)
        if entry is not None:
            unit = atlas.unit(model, next(iter(entry["units"])))
            precision = str(unit.record.precision)
            bare = Storage(keep_nodes=False, precision=Precision.parse(precision))
            wanted = model_fingerprint(catalog.model(model), bare)
            nodes = unit.record.model_fingerprint != wanted
        groups.setdefault((nodes, precision), []).append(model)
    return [
        (group, Storage(keep_nodes=nodes, precision=Precision.parse(precision)))
        for (nodes, precision), group in groups.items()
    ]


def compare_gaps(
    before: pd.DataFrame,
    after: pd.DataFrame,
    picks: Sequence[Pick],
    *,
    name: str,
    regions: set[str],
) -> pd.DataFrame:
    """Gaps of the atlas that the picks were for, or fall into; those that moved most first.

    Columns ``n``, ``value``, ``severity`` and ``rank`` come with ``_before`` and ``_after``; a gap
    that was not there, or is no more, has nulls on that side.
    """
    sides = [
        table[of_atlas(table)].fillna({"model": "", "selection": ""})[[*_KEYS, *_SHOWN]]
        for table in (before, after)
    ]
    both = sides[0].merge(sides[1], on=_KEYS, how="outer", suffixes=("_before", "_after"))
    aimed = [r in regions if regions else _holds(r, picks, name) for r in both["region"]]
    found = both[aimed].copy()
    lost = found["severity_before"].fillna(0.0) - found["severity_after"].fillna(0.0)
    found["closed"] = lost
    order = found.assign(size=lost.abs()).sort_values(
        ["size", "kind", "region", "model"], ascending=[False, True, True, True], kind="stable"
    )
    return order[[*_KEYS, *(f"{c}_{s}" for c in _SHOWN for s in ("before", "after")), "closed"]]


def _holds(region: str, picks: Sequence[Pick], name: str) -> bool:
    return any(
        in_region(
            region,
            kind=p.structure.kind,
            elements=p.structure.elements,
            n_atoms=len(p.structure),
            place=f"{owner}:{p.structure.stratum}",
        )
        for p in picks
        for owner in (p.pool, name)
    )
