# SPDX-License-Identifier: Apache-2.0
"""Reach: regions a set holds fewer structures of than a random sample of its universe would.

The null is exact: if the n structures are a random sample of the N of the universe, K of which lie
in a region, the number observed there is hypergeometric, and p is its lower tail. False discoveries
are held over two levels, comparisons (a scope and its universe) and their regions, after Benjamini
and Bogomolov, J. R. Stat. Soc. B 76, 297 (2014): with nothing missing, the whole report names
nothing in 95 % of all atlases.

Where lithium is missing, so are its pairs and prototypes. Missing regions are taken in the order of
their p-values, and one whose shortfall vanishes once the structures of those before it are set
aside is *explained* by them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ...schemas.reach import REACH, SET_OVERLAP
from ..gaps import LEVEL, Gap, count
from ..tables import typed
from . import universe as universes
from .chemistry import TYPES, Regions, find_regions
from .context import Evidence, Findings
from .universe import ATLAS, Drawn, beside_pool, beside_universe

#: Structures that a sample would hold of a region, from which on it is tested.
LEAST_EXPECTED = 5.0

#: Structures of a kind from which on a scope is tested.
LEAST_ROWS = 20

REACH_TABLE = "scores/reach.parquet"
OVERLAP_TABLE = "scores/set_overlap.parquet"


def reach_stage(evidence: Evidence) -> Findings:
    """The atlas against shipped universes, its sets against the atlas, and sets in pairs."""
    notes: list[str] = []
    structures = evidence.structures.reset_index(drop=True)
    regions = find_regions(structures, evidence.geometries, notes=notes)
    drawn = []
    for universe in universes.shipped_universes().values():
        drawn.append(beside_universe(regions, structures["set"].to_numpy(dtype=object), universe))
    pool = np.ones(len(structures), dtype=bool)
    members = evidence.atlas.structures.groupby("set", sort=False)["id"]
    held = {str(s): structures["id"].isin(ids).to_numpy() for s, ids in members}
    within = regions.kept((regions.table["type"] != "stratum").to_numpy())  # strata are of one set
    if len(held) > 1:
        drawn += [beside_pool(within, rows, pool, scope=s) for s, rows in held.items()]
    table = reach_table(drawn, release=evidence.release)
    overlap = overlap_table(within, held, release=evidence.release)
    return Findings({REACH_TABLE: table, OVERLAP_TABLE: overlap}, reach_gaps(table), notes)


def shortfall_p(
    observed: ArrayLike, n: ArrayLike, in_universe: ArrayLike, universe_n: ArrayLike
) -> NDArray[np.float64]:
    """Chance that a random sample of n of the universe holds as few, or fewer, of the region."""
    from scipy.stats import hypergeom

    return np.asarray(hypergeom.cdf(observed, universe_n, in_universe, n), dtype=np.float64)


def reach_table(drawn: Iterable[Drawn], *, release: str) -> pd.DataFrame:
    """Rows of ``scores/reach.parquet``: every region tested, ranked within its comparison.

    Ranks put what is proven and explained by nothing else first, by severity and then by the
    structures missing; then what is explained; then the rest. ``p_value`` is null where nothing
    can be tested: the scope is its whole universe.
    """
    parts = []
    for one in drawn:
        table = one.table
        expected = table["n"] * table["in_universe"] / table["universe_n"].clip(lower=1)
        told = (expected >= LEAST_EXPECTED) & (table["n"] >= LEAST_ROWS)
        # What nearly all structures are is told by what they are not.
        told &= table["in_universe"] < table["universe_n"]
        part = table.loc[told].assign(
            scope=one.scope, universe=one.universe, expected=expected[told], place=table.index[told]
        )
        if not part.empty:
            parts.append((one, part))
    if not parts:
        return typed(pd.DataFrame(columns=list(REACH.columns)), REACH)
    for _, part in parts:
        p = shortfall_p(part["observed"], part["n"], part["in_universe"], part["universe_n"])
        part["p_value"] = np.where(part["n"] < part["universe_n"], np.minimum(p, 1.0), np.nan)
        part["lost"] = 1.0 - part["observed"] / part["expected"]
    for (_, part), q in zip(parts, family_q([x["p_value"] for _, x in parts]), strict=True):
        part["q_value"] = q
        part["severity"] = part["lost"].clip(0.0, 1.0).where(part["q_value"] < LEVEL, 0.0)
    found = []
    for one, part in parts:
        part["explained_by"] = _explained(one, part)
        part["state"] = np.where(
            part["severity"] == 0, 2, np.where(part["explained_by"].isna(), 0, 1)
        )
        part["missing"] = part["expected"] - part["observed"]
        part["order"] = part["type"].map({t: i for i, t in enumerate(TYPES)})
        keys = {"state": True, "severity": False, "missing": False, "order": True, "region": True}
        part = part.sort_values(list(keys), ascending=list(keys.values()), kind="stable")
        found.append(part.assign(rank=np.arange(1, len(part) + 1)))
    table = pd.concat(found, ignore_index=True).assign(release=release)
    return typed(table[list(REACH.columns)].copy(), REACH)


def family_q(families: Iterable[pd.Series]) -> list[pd.Series]:
    """q-values of tests in families, selecting families first (Benjamini and Bogomolov, 2014).

    A family's own p-value is that of Simes. Families are selected by Benjamini-Hochberg at
    :data:`..gaps.LEVEL`; of m families with R selected, a test's q-value is m / R times that within
    its family, and 1 in the others. Null where there is no p-value.
    """
    from scipy.stats import false_discovery_control

    groups = list(families)
    inner = [p.dropna() for p in groups]
    simes = np.array(
        [
            float(np.min(np.sort(p) * len(p) / np.arange(1, len(p) + 1))) if len(p) else np.nan
            for p in inner
        ]
    )
    tested = ~np.isnan(simes)
    selected = np.zeros(len(groups), dtype=bool)
    if tested.any():
        selected[tested] = false_discovery_control(np.minimum(simes[tested], 1.0)) < LEVEL
    widen = tested.sum() / max(selected.sum(), 1)
    out = []
    for whole, p, chosen in zip(groups, inner, selected, strict=True):
        q = pd.Series(np.nan, index=whole.index, dtype="float64")
        if len(p):
            own = false_discovery_control(p.to_numpy(float)) * widen
            q.loc[p.index] = np.minimum(own, 1.0) if chosen else 1.0
        out.append(q)
    return out


def _explained(one: Drawn, part: pd.DataFrame) -> NDArray[np.object_]:
    """For each row of ``part``: the region that explains its shortfall, or None."""
    out = np.full(len(part), None, dtype=object)
    proven = np.flatnonzero(part["severity"] > 0)
    if not len(proven):
        return out
    p = part["p_value"].to_numpy()
    cut = float(p[proven].max())
    order = part["type"].map({t: i for i, t in enumerate(TYPES)}).to_numpy()
    log_p = np.log(np.maximum(p, 1e-300))
    low = p < 1e-290  # beyond what a double holds: in logarithms, which take longer
    if low.any():
        from scipy.stats import hypergeom

        cells = (part[c].to_numpy()[low] for c in ("observed", "universe_n", "in_universe", "n"))
        log_p[low] = hypergeom.logcdf(*cells)
    queue = sorted(map(int, proven), key=lambda i: (log_p[i], order[i], part["region"].iloc[i]))
    if one.regions is None:
        return _explained_by_names(part, queue, cut, out)
    columns = part["place"].to_numpy()
    regions = one.regions.kept(np.isin(np.arange(len(one.table)), columns))
    back = {int(c): i for i, c in enumerate(np.sort(columns))}
    places = np.array([back[int(c)] for c in columns])
    assert one.rows is not None and one.pool is not None
    rows, pool = one.rows.copy(), one.pool.copy()
    while queue:
        root, *queue = queue
        aside = regions.member[:, places[root]].toarray().ravel() > 0
        rows, pool = rows & ~aside, pool & ~aside
        if not queue:
            break
        at = places[queue]
        left = shortfall_p(
            regions.counts(rows)[at],
            regions.totals(rows)[at],
            regions.counts(pool)[at],
            regions.totals(pool)[at],
        )
        # An empty remainder of the universe has nothing to fall short of.
        gone = (left > cut) | np.isnan(left)
        out[np.array(queue)[gone]] = part["region"].iloc[root]
        queue = [i for i, done in zip(queue, gone, strict=True) if not done]
    return out


def _explained_by_names(
    part: pd.DataFrame, queue: list[int], cut: float, out: NDArray[np.object_]
) -> NDArray[np.object_]:
    """Of a universe known by its counts, where one region's name says it is a part of another.

    A pair is a part of its elements, a prototype of its stoichiometry, a scaffold of what has
    rings. A part is explained by a whole with a smaller p-value if, among the structures of the
    whole that there are, it is not short; a whole by a part if the rest of the whole is not.
    """
    names = part["region"].to_numpy(dtype=object)
    cells = part[["observed", "n", "in_universe", "universe_n"]].to_numpy(dtype=np.int64)
    roots: dict[str, int] = {}
    for i in queue:
        k, n, held, total = cells[i]
        region = str(names[i])
        for name, root in roots.items():
            k_root, _, held_root, _ = cells[root]
            if name in _parents(region):
                left = shortfall_p(k, k_root, held, held_root)
            elif region in _parents(name):
                left = shortfall_p(k - k_root, n - k_root, held - held_root, total - held_root)
            else:
                continue
            if float(left) > cut:
                out[i] = name
                break
        else:
            roots[region] = i
    return out


def _parents(region: str) -> list[str]:
    """Regions that hold all of this one's structures, by their names."""
    name, _, kind = region.partition("|")
    kind_of, _, value = name.partition(":")
    if kind_of == "pair":
        return [f"element:{e}|{kind}" for e in value.split("-")]
    if kind_of == "prototype":
        return [f"stoichiometry:{value.rpartition(':')[0]}|{kind}"]
    return [f"rings:some|{kind}"] if kind_of == "scaffold" else []


def reach_gaps(table: pd.DataFrame) -> list[Gap]:
    """Gaps for the proven shortfalls that nothing else explains."""
    gaps = []
    proven = table[table["severity"] > 0]
    children = proven.groupby(["scope", "universe", "explained_by"])["region"].agg(list)
    for row in proven[proven["explained_by"].isna()].to_dict("records"):
        key = (row["scope"], row["universe"], row["region"])
        also = children.get(key, [])
        text = f"; with it {count(len(also), 'region')}: {', '.join(also[:3])}" if also else ""
        text += ", ..." if len(also) > 3 else ""
        whole = row["scope"] == ATLAS
        where = f"the {row['universe']} universe" if whole else "the atlas"
        gaps.append(
            Gap(
                kind="coverage",
                region=row["region"],
                selection=f"{row['scope']}~{row['universe']}",
                statistic="shortfall",
                n=row["n"],
                reference_n=row["universe_n"],
                value=float(row["observed"]),
                reference=row["expected"],
                p_value=row["p_value"],
                q_value=row["q_value"],
                lost=row["severity"],
                part=not whole,
                evidence=(
                    f"{row['observed']} of the {row['n']} {row['kind']}s of {row['scope']}; a "
                    f"random sample of {where} would hold {row['expected']:.0f} "
                    f"({row['in_universe']} of {row['universe_n']}){text}"
                ),
            )
        )
    return gaps


def overlap_table(
    regions: Regions, sets: dict[str, NDArray[np.bool_]], *, release: str
) -> pd.DataFrame:
    """Rows of ``scores/set_overlap.parquet``: how much of set A's regions set B holds.

    ``covered`` is the share of A's regions that B holds too, ``jaccard`` that of both sets' regions
    that both hold; kinds are told apart, so a molecule's oxygen is not a crystal's.
    """
    held = {s: regions.counts(rows) > 0 for s, rows in sets.items()}
    types = regions.table["type"].to_numpy(dtype=object)
    rows = []
    for kind_of in TYPES:
        own = types == kind_of
        for a in held:
            for b in held:
                first, second = held[a] & own, held[b] & own
                if a == b or not first.any() or not second.any():
                    continue
                shared = int((first & second).sum())
                rows.append(
                    {
                        "release": release,
                        "set_a": a,
                        "set_b": b,
                        "type": kind_of,
                        "n_a": int(sets[a].sum()),
                        "n_b": int(sets[b].sum()),
                        "regions_a": int(first.sum()),
                        "regions_b": int(second.sum()),
                        "shared": shared,
                        "jaccard": shared / int((first | second).sum()),
                        "covered": shared / int(first.sum()),
                    }
                )
    return typed(pd.DataFrame(rows, columns=list(SET_OVERLAP.columns)), SET_OVERLAP)
