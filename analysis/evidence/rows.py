# SPDX-License-Identifier: Apache-2.0
"""All that says of one structure that it lies in a gap, on one row.

``gap_score`` is the mean, over what is known of a structure, of its percentile within its kind by:
distance to what models were trained on, disagreement of models about its neighbours, share of able
models that have no vector of it, share of models outside whose training domains it lies, and rarity
of its rarest region. It ranks structures; it is no probability.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.reach import STRUCTURE_SCORES
from ...schemas.structures import KINDS
from ..blocks import Space, normalise_rows
from ..local import agreeing_charts
from ..neighbours import nearest
from ..selections import CORE_SHARE, subsample
from ..tables import typed
from .chemistry import find_regions
from .context import Evidence, Findings

#: Random neighbour lists for the null of a row's agreement.
NULL_DRAWS = 4999

#: Structures of a kind whose neighbours are compared; above, a subsample.
AGREEMENT_ROWS = 10_000

#: What a gap score is the mean percentile of, all with more meaning more of a gap.
COMPONENTS = ("distance_percentile", "disagreement", "lacking_share", "out_share", "rarity")

STRUCTURES_TABLE = "scores/structures.parquet"


def rows_stage(evidence: Evidence) -> Findings:
    """One row a structure of ``scores/structures.parquet``."""
    notes: list[str] = []
    base = evidence.structures
    table = pd.DataFrame(index=base.index)
    for name in ("set", "stratum", "kind"):
        table[name] = base[name].astype(object)
    for columns in (
        embedded_shares(evidence),
        out_shares(evidence),
        distances(evidence, notes),
        agreements(evidence, notes),
        rarities(evidence),
    ):
        table = table.join(columns)
    table["gap_score"] = gap_scores(table)
    order = np.lexsort((table.index.to_numpy(dtype=str), -table["gap_score"].to_numpy()))
    table["rank"] = np.argsort(order) + 1
    table = table.assign(release=evidence.release, k=evidence.k, seed=evidence.seed)
    table = table.rename_axis("id").reset_index()[list(STRUCTURE_SCORES.columns)]
    return Findings({STRUCTURES_TABLE: typed(table.copy(), STRUCTURE_SCORES)}, [], notes)


def gap_scores(table: pd.DataFrame) -> pd.Series:
    """Mean percentile of a row's known components within its kind, in [0, 1]; 0 where none is.

    A percentile is the share of the kind's known values below a row's own, equals counted half: a
    component that is the same for all says 0.5 of each.
    """
    told = table.assign(
        disagreement=1.0 - table["agreement"], lacking_share=1.0 - table["embedded_share"]
    )
    parts = []
    for name in COMPONENTS:
        values = told[name].astype("float64").groupby(told["kind"], sort=False)
        parts.append((values.rank(method="average") - 0.5) / values.transform("count"))
    return pd.concat(parts, axis=1).mean(axis=1).fillna(0.0).clip(0.0, 1.0)


def embedded_shares(evidence: Evidence) -> pd.DataFrame:
    """Of the learned models (beyond element tables) that take the kind: the share with a vector."""
    kinds = evidence.structures["kind"].to_numpy(dtype=object)
    presence = evidence.reader.presence
    learned = [c for c in evidence.charts.values() if c.card.learned and not c.card.context_free]
    models = np.zeros(len(kinds), dtype=np.int64)
    share = np.full(len(kinds), np.nan)
    for kind in KINDS:
        able = [c.key for c in learned if kind in c.card.supports.kinds]
        rows = kinds == kind
        models[rows] = len(able)
        if able and rows.any():
            share[rows] = presence.loc[rows, able].to_numpy().mean(axis=1)
    return pd.DataFrame(
        {"able_models": models, "embedded_share": share}, index=evidence.structures.index
    )


def out_shares(evidence: Evidence) -> pd.DataFrame:
    """Of the models whose training domains are known: the share that a structure is outside of."""
    columns = [c for c in evidence.relations.columns if c in evidence.charts]
    relations = evidence.relations[columns].to_numpy(dtype=object)
    judged = (relations != "unknown").sum(axis=1)
    out = (relations == "out").sum(axis=1)
    share = np.divide(out, judged, out=np.full(len(out), np.nan), where=judged > 0)
    return pd.DataFrame(
        {"judged_models": judged.astype(np.int64), "out_share": share},
        index=evidence.relations.index,
    )


def distances(evidence: Evidence, notes: list[str]) -> pd.DataFrame:
    """How far rows lie from what each model was trained on, as percentiles, averaged over models.

    In a model's space (rows of unit length): the distance to the nearest row inside its training
    domains, the row itself left out, and the share of rows inside that lie as near or nearer to
    their own nearest; equals count half. 0.5 is as near as training matter is to itself.
    """
    index = evidence.structures.index
    sums = {side: np.zeros(len(index)) for side in ("in", "out")}
    counts = {side: np.zeros(len(index), dtype=np.int64) for side in ("in", "out")}
    few = []
    for key in evidence.relations.columns:
        chart = evidence.charts.get(key)
        if chart is None or not chart.contextual_3d:
            continue
        held = evidence.reader.presence[key].to_numpy()
        relation = evidence.relations[key].to_numpy(dtype=object)
        inside = np.flatnonzero(held & (relation == "in"))
        asked = np.flatnonzero(held & (relation != "unknown"))
        if len(inside) < max(evidence.min_rows, 3):
            few.append(key)
            continue
        names = index[inside].tolist()
        base = subsample(names, evidence.max_rows, seed=evidence.seed, label=f"distance:{key}")
        ranks = distance_percentiles(
            evidence.reader.rows(key, index[asked].tolist()),
            index[asked].get_indexer(pd.Index(base)),
        )
        for side in ("in", "out"):
            rows = relation[asked] == side
            sums[side][asked[rows]] += ranks[rows]
            counts[side][asked[rows]] += 1
    if few:
        notes.append(
            f"distances of structures: fewer than {evidence.min_rows} rows in distribution of "
            f"{', '.join(few)}"
        )
    total = counts["in"] + counts["out"]

    def mean(of: NDArray[np.float64], n: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.divide(of, n, out=np.full(len(n), np.nan), where=n > 0)

    return pd.DataFrame(
        {
            "distance_models": total,
            "distance_percentile": mean(sums["in"] + sums["out"], total),
            "distance_inside": mean(sums["in"], counts["in"]),
            "distance_outside": mean(sums["out"], counts["out"]),
        },
        index=index,
    )


def distance_percentiles(rows: NDArray[np.float32], base: NDArray[np.intp]) -> NDArray[np.float64]:
    """Where each row's distance to the nearest base row falls among the base rows' own.

    Parameters
    ----------
    rows : float array, shape (n, d)
    base : int array, shape (b,)
        Which of the rows are the base, b >= 2.

    Returns
    -------
    float64 array, shape (n,)
        In [0, 1].
    """
    import faiss

    points = np.ascontiguousarray(normalise_rows(np.asarray(rows, np.float64), "l2"), np.float32)
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points[base])
    near, which = index.search(points, 2)
    place = np.full(len(points), -1, dtype=np.int64)
    place[base] = np.arange(len(base))
    own = which[:, 0] == place
    # An equal row may come first: then the row itself is second, and the distance is the first's.
    distance = np.where(own, near[:, 1], near[:, 0]).astype(np.float64)
    among = np.sort(distance[base])
    below = np.searchsorted(among, distance, side="left")
    return (below + np.searchsorted(among, distance, side="right")) / (2.0 * len(among))


def agreements(evidence: Evidence, notes: list[str]) -> pd.DataFrame:
    """Local agreement of every structure among its kind, and its p-value against unrelated models.

    Charts and their weights are those of :func:`..local.local_agreement`, on the rows that all of
    them hold. Under the null every model's neighbours are a random k of the other rows; p is the
    chance of as much agreement. A row that fails it (p > 0.05) has neighbours no two families of
    models need share.
    """
    base = evidence.structures
    out = pd.DataFrame(
        {
            "agreement_models": 0,
            "agreement_n": 0,
            "agreement": np.nan,
            "agreement_null": np.nan,
            "agreement_p": np.nan,
        },
        index=base.index,
    )
    presence = evidence.reader.presence
    for kind in KINDS:
        ids = base.index[(base["kind"] == kind).to_numpy()]
        shares = presence.loc[ids].mean()
        core = [k for k in shares.index[shares >= CORE_SHARE] if k in evidence.charts]
        keys = agreeing_charts(core, evidence.charts) if len(ids) else []
        families = [evidence.charts[k].card.family for k in keys]
        rows = ids[presence.loc[ids, keys].all(axis=1).to_numpy()] if keys else ids[:0]
        if len(set(families)) < 2 or len(rows) < max(evidence.min_rows, evidence.k + 2):
            if len(ids):
                notes.append(f"agreement of structures: too few models or rows of {kind}s")
            continue
        names = subsample(rows.tolist(), AGREEMENT_ROWS, seed=evidence.seed, label=f"rows:{kind}")
        lists = []
        for key in keys:
            points = np.asarray(evidence.reader.rows(key, names), np.float64)
            lists.append(nearest(Space(normalise_rows(points, "l2")), evidence.k).indices)
        values = family_agreement(lists, families)
        null = null_agreement(families, n=len(names), k=evidence.k, seed=evidence.seed)
        reached = len(null) - np.searchsorted(null, values - 1e-12, side="left")
        where = list(names)
        out.loc[where, "agreement_models"] = len(keys)
        out.loc[where, "agreement_n"] = len(names)
        out.loc[where, "agreement"] = np.clip(values, 0.0, 1.0)
        out.loc[where, "agreement_null"] = evidence.k / (len(names) - 1)
        out.loc[where, "agreement_p"] = (1.0 + reached) / (len(null) + 1.0)
    return out


def family_agreement(
    lists: Sequence[NDArray[np.integer]], families: Sequence[str]
) -> NDArray[np.float64]:
    """Overlap of neighbour lists around each row, averaged over pairs of families.

    With u_A(j) the share of family A's models that hold j among a row's neighbours, the overlap of
    two families is the sum over j of u_A(j) u_B(j) / k, and that over all pairs follows from sums
    over families: no loop over pairs.

    Parameters
    ----------
    lists : sequence of int arrays, shape (n, k)
        One a model.
    families : sequence of str
        One a model, at least two different ones.

    Returns
    -------
    float64 array, shape (n,)
    """
    n, k = lists[0].shape
    names = sorted(set(families))
    sizes = {f: families.count(f) for f in names}
    code = np.repeat([names.index(f) for f in families], k)
    weight = np.repeat([1.0 / sizes[f] for f in families], k)
    pairs = len(names) * (len(names) - 1) / 2
    out = np.empty(n)
    for row in range(n):
        held = np.concatenate([x[row] for x in lists])
        _, place = np.unique(held, return_inverse=True)
        width = int(place.max()) + 1
        shares = np.bincount(code * width + place, weight, len(names) * width)
        shares = shares.reshape(len(names), width)
        whole = shares.sum(axis=0)
        out[row] = (whole @ whole - np.einsum("fj,fj->", shares, shares)) / (2 * pairs * k)
    return out


def null_agreement(families: Sequence[str], *, n: int, k: int, seed: int) -> NDArray[np.float64]:
    """Agreement of models whose neighbours are random, :data:`NULL_DRAWS` values, sorted."""
    random = np.random.default_rng(seed)
    lists = [_random_lists(random, NULL_DRAWS, n - 1, k) for _ in families]
    return np.sort(family_agreement(lists, families))


def _random_lists(random: np.random.Generator, draws: int, n: int, k: int) -> NDArray[np.int64]:
    """Each row k different numbers below n."""
    out = np.empty((draws, k), dtype=np.int64)
    for i in range(k):  # Floyd: a number drawn before is replaced by the newest there is
        top = n - k + i
        drawn = random.integers(0, top + 1, draws)
        again = (out[:, :i] == drawn[:, None]).any(axis=1)
        out[:, i] = np.where(again, top, drawn)
    return out


def rarities(evidence: Evidence) -> pd.DataFrame:
    """The region of each structure that fewest of its kind share, and how rare it is.

    Rarity is 1 minus the share of the structures of the kind, whose type of region is known, that
    lie in it. Elements, sizes, charges, periodicity, pairs and stoichiometries: what is known of
    all.
    """
    types = ("element", "size", "charge", "periodicity", "pair", "stoichiometry")
    structures = evidence.structures.reset_index(drop=True)
    regions = find_regions(structures, {}, types=types)
    everything = np.ones(len(structures), dtype=bool)
    counts, totals = regions.counts(everything), regions.totals(everything)
    share = counts / totals
    order = np.lexsort((np.arange(len(share)), share))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    member = regions.member
    rarest = np.array(
        [
            min(member.indices[a:b], key=place.__getitem__)
            for a, b in zip(member.indptr[:-1], member.indptr[1:], strict=True)
        ],
        dtype=np.int64,
    )
    return pd.DataFrame(
        {
            "rarest_region": regions.table["region"].to_numpy(dtype=object)[rarest],
            "rarest_count": counts[rarest],
            "rarity": 1.0 - share[rarest],
        },
        index=evidence.structures.index,
    )
