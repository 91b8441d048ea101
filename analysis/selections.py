# SPDX-License-Identifier: Apache-2.0
"""Which rows are compared: named lists of structure ids, one row count for all their models.

Values at different n are not comparable, so a selection has one set of rows and every model in it
embedded all of them. Subsamples are by rank of a hash of (seed, selection, id): whether a row is
taken hangs on nothing but itself and how many others there are, and a set that grows keeps most of
its sample.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd

from ..schemas.structures import KINDS

Role = Literal["kind", "stratum", "partial", "contrast"]
Side = Literal["in", "out"]

#: A model belongs to a selection's core when it embedded this share of its rows.
CORE_SHARE = 0.9
#: Rows of one side of an in- against out-of-distribution contrast, at most.
CONTRAST_ROWS = 300
#: Subsamples of the side that has rows to spare.
CONTRAST_DRAWS = 5

#: Kind -> name of its selection.
PLURAL = {kind: f"{kind}s" for kind in KINDS}


@dataclass(frozen=True)
class Selection:
    """Rows and the models to compare on them.

    Attributes
    ----------
    name : str
        ``crystals``; ``minerals:oxides``; ``crystals|so3lr`` (rows that so3lr embedded too);
        ``in:crystal~out:molecule|3fa1c2|in.0`` (contrast, group of pairs, side and draw).
    role : {"kind", "stratum", "partial", "contrast"}
    ids : tuple of str
        Structure ids, sorted. Every model embedded every one.
    models : tuple of str
        Chart keys, in registry order.
    available : int
        Rows there were before the subsample.
    pairs : tuple of (str, str) or None
        The only pairs to compare; None means all.
    parent : str or None
        Of a partial selection: the selection it completes.
    contrast, group, side, draw
        Of a contrast: both sides' names, the hash of both sides' rows before the subsample (pairs
        of models that share them share the group), the side, and the number of the subsample.
    """

    name: str
    role: Role
    ids: tuple[str, ...]
    models: tuple[str, ...]
    available: int
    pairs: tuple[tuple[str, str], ...] | None = None
    parent: str | None = None
    contrast: str | None = None
    group: str | None = None
    side: Side | None = None
    draw: int | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.ids)

    @property
    def sha256(self) -> str:
        """SHA-256 over the sorted ids, joined by newlines."""
        return ids_sha256(self.ids)


@dataclass
class Plan:
    """All selections of an analysis, and what could not be selected and why."""

    selections: list[Selection] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def skip(self, name: str, reason: str) -> None:
        """Record that a selection is left out."""
        self.skipped.append({"selection": name, "reason": reason})


def ids_sha256(ids: Iterable[str]) -> str:
    """SHA-256 over sorted ids, joined by newlines."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def subsample(ids: Sequence[str], size: int, *, seed: int, label: str) -> tuple[str, ...]:
    """The ``size`` ids with the smallest hashes of (seed, label, id), sorted; all if fewer."""
    if len(ids) <= size:
        return tuple(sorted(ids))
    prefix = hashlib.sha256(f"{seed}:{label}:".encode())

    def rank(structure_id: str) -> bytes:
        digest = prefix.copy()
        digest.update(structure_id.encode())
        return digest.digest()

    return tuple(sorted(sorted(ids, key=rank)[:size]))


def make_plan(
    structures: pd.DataFrame,
    presence: pd.DataFrame,
    relations: pd.DataFrame,
    *,
    k: int,
    seed: int = 0,
    max_rows: int = 2000,
    min_rows: int = 30,
) -> Plan:
    """Select rows by kind, by stratum, for models that lack some, and in against out.

    Parameters
    ----------
    structures : DataFrame
        One row a structure (``id`` unique) with ``set``, ``stratum`` and ``kind``.
    presence : DataFrame of bool
        Structures (index: ids, in the order of ``structures``) x charts: is there a vector.
    relations : DataFrame of str
        Structures x those charts of learned models whose training domains are known: ``in``,
        ``out`` or ``unknown``.
    k : int
        Neighbours the metrics will ask for; a selection needs more than k + 1 rows.
    seed, max_rows, min_rows : int
        Of the subsample; its size; the fewest rows worth a score.
    """
    plan = Plan()
    least = max(min_rows, k + 2)
    for name, role, ids in _regions(structures):
        base = _base(plan, presence, name, role, ids, least=least, seed=seed, max_rows=max_rows)
        if base is None:
            continue
        selection, rows = base
        plan.selections.append(selection)
        _add_partials(plan, presence, selection, rows, least=least, seed=seed, max_rows=max_rows)
    _add_contrasts(plan, structures, presence, relations, least=least, seed=seed)
    return plan


def _regions(structures: pd.DataFrame) -> Iterator[tuple[str, Role, pd.Index]]:
    """Kinds in the order of the schema, then strata in the order of the table."""
    for kind in KINDS:
        ids = structures.loc[structures["kind"] == kind, "id"]
        if len(ids):
            yield PLURAL[kind], "kind", pd.Index(ids)
    for (set_id, stratum), part in structures.groupby(["set", "stratum"], sort=False):
        yield f"{set_id}:{stratum}", "stratum", pd.Index(part["id"])


def _base(
    plan: Plan,
    presence: pd.DataFrame,
    name: str,
    role: Role,
    ids: pd.Index,
    *,
    least: int,
    seed: int,
    max_rows: int,
) -> tuple[Selection, pd.Index] | None:
    """The selection of a region on its core models, and all rows these share."""
    if len(ids) < least:
        plan.skip(name, f"{len(ids)} structures, {least} needed")
        return None
    table = presence.loc[ids]
    core = [m for m, share in table.mean().items() if share >= CORE_SHARE]
    if len(core) < 2:
        plan.skip(name, f"{len(core)} models embedded {CORE_SHARE:.0%} of its rows, 2 needed")
        return None
    rows = ids[table[core].all(axis=1).to_numpy()]
    if len(rows) < least:
        plan.skip(name, f"{len(rows)} rows embedded by all its {len(core)} models, {least} needed")
        return None
    taken = subsample(list(rows), max_rows, seed=seed, label=name)
    return Selection(name, role, taken, tuple(map(str, core)), len(rows)), rows


def _add_partials(
    plan: Plan,
    presence: pd.DataFrame,
    base: Selection,
    rows: pd.Index,
    *,
    least: int,
    seed: int,
    max_rows: int,
) -> None:
    """Models outside the core, each against the core on the rows it has."""
    table = presence.loc[rows]
    for model in presence.columns.difference(list(base.models), sort=False):
        own = rows[table[model].to_numpy()]
        name = f"{base.name}|{model}"
        if len(own) < least:
            if len(own):
                plan.skip(name, f"{len(own)} rows in common with the core, {least} needed")
            continue
        taken = subsample(list(own), max_rows, seed=seed, label=base.name)
        plan.selections.append(
            Selection(
                name,
                "partial",
                taken,
                (*base.models, str(model)),
                len(own),
                pairs=tuple((core, str(model)) for core in base.models),
                parent=base.name,
            )
        )


def _add_contrasts(
    plan: Plan,
    structures: pd.DataFrame,
    presence: pd.DataFrame,
    relations: pd.DataFrame,
    *,
    least: int,
    seed: int,
) -> None:
    """Rows inside both models' training domains against rows outside both, at one n.

    Sides are of one kind each. Pairs with the same rows on both sides form a group and are compared
    together. The side with rows to spare is drawn several times, the other once.
    """
    ids = structures["id"].to_numpy(dtype=object)
    masks = {
        (side, kind): {
            m: (
                presence[m].to_numpy()
                & (relations[m] == side).to_numpy()
                & (structures["kind"] == kind).to_numpy()
            )
            for m in relations.columns
        }
        for side in ("in", "out")
        for kind in KINDS
    }
    for inner in KINDS:
        for outer in KINDS:
            contrast = f"in:{inner}~out:{outer}"
            groups: Mapping[tuple[bytes, bytes], list[tuple[str, str]]] = defaultdict(list)
            few: list[str] = []
            for a, b in combinations(map(str, relations.columns), 2):
                rows = masks["in", inner][a] & masks["in", inner][b]
                far = masks["out", outer][a] & masks["out", outer][b]
                if min(rows.sum(), far.sum()) >= least:
                    groups[rows.tobytes(), far.tobytes()].append((a, b))
                elif rows.any() and far.any():
                    few.append(f"{a} and {b} ({int(rows.sum())} in, {int(far.sum())} out)")
            if few:
                reason = f"fewer than {least} rows on a side for {len(few)} pairs: "
                plan.skip(contrast, reason + "; ".join(few))
            for (near, away), pairs in groups.items():
                pools = {
                    "in": ids[np.frombuffer(near, dtype=bool)],
                    "out": ids[np.frombuffer(away, dtype=bool)],
                }
                plan.selections += _sides(contrast, pools, tuple(pairs), relations.columns, seed)


def _sides(
    contrast: str,
    pools: Mapping[str, np.ndarray],
    pairs: tuple[tuple[str, str], ...],
    columns: pd.Index,
    seed: int,
) -> Iterator[Selection]:
    n = min(len(pools["in"]), len(pools["out"]), CONTRAST_ROWS)
    group = ids_sha256([*(f"in {i}" for i in pools["in"]), *(f"out {i}" for i in pools["out"])])[:8]
    members = {m for pair in pairs for m in pair}
    models = tuple(str(m) for m in columns if m in members)
    sides: tuple[Side, Side] = ("in", "out")
    for side in sides:
        pool = list(pools[side])
        for draw in range(CONTRAST_DRAWS if len(pool) > n else 1):
            name = f"{contrast}|{group}|{side}.{draw}"
            yield Selection(
                name,
                "contrast",
                subsample(pool, n, seed=seed, label=name),
                models,
                len(pool),
                pairs=pairs,
                contrast=contrast,
                group=group,
                side=side,
                draw=draw,
            )
