# SPDX-License-Identifier: Apache-2.0
"""Choosing a batch: ranked, diverse, deterministic picks among candidate vectors.

Four methods behind :func:`acquire`. ``random`` is the floor. ``k_centre`` takes, again and again,
the candidate farthest from all that is known or taken (Gonzalez 1985; core-sets: Sener and Savarese
2018). ``facility`` takes the one that brings all candidates nearest to something known or taken
(facility location; k-medoids). ``gap_driven`` is the same with every candidate that lies in a gap
as a demand of that gap's severity. Gains never grow as picks are added, so bounds may be stale and
few are renewed a step (lazy greedy: Minoux 1978). Nothing is ever of the size candidates x
candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...schemas.errors import MetricError
from ..blocks import Normalise, normalise_rows
from ..indexes import load_faiss

Method = Literal["random", "k_centre", "facility", "gap_driven"]
METHODS: tuple[Method, ...] = get_args(Method)

#: Points that stand for the demand; with more candidates in gaps, centres of cells of them.
DEMAND_POINTS = 2048

#: Rows a cell centre is fitted on, and rounds of k-means.
ROWS_PER_CENTRE = 64
ROUNDS = 8

#: Bytes of a tile of distances.
TILE_BYTES = 2**26

#: Candidates whose bounds are looked at between two passes over all, and renewed at once.
SHORTLIST = 32768
RENEWED = 256

#: A gain below this share of the first is rounding of float32, not a gain.
NEGLIGIBLE = 1e-5

SEED = 1234


@dataclass(frozen=True)
class Picks:
    """A batch in the order in which it was chosen.

    Attributes
    ----------
    rows : int64 array, shape (b,)
        Rows of the candidates, no row and no vector twice.
    scores : float64 array, shape (b,)
        What decided, per unit of cost: how much nearer the demand came on average (``gap_driven``,
        ``facility``), or the distance to the nearest known or earlier pick (``k_centre``); 1 for
        ``random``. Never growing within one value of ``by``.
    by : tuple of str
        What chose each pick: the method, or ``facility`` once no gap was left to close, or
        ``k_centre`` once no candidate could come nearer.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    by: tuple[Method, ...]


def acquire(
    candidates: ArrayLike,
    known: ArrayLike,
    n: int,
    *,
    method: Method = "gap_driven",
    ids: Sequence[str] | None = None,
    weights: ArrayLike | None = None,
    costs: ArrayLike | None = None,
    seed: int = 0,
    normalise: Normalise = "l2",
) -> Picks:
    """Choose up to ``n`` candidates.

    Parameters
    ----------
    candidates, known : array_like, shapes (m, d) and (k, d)
        Vectors of one model; ``known`` may have no rows. Equal candidates, and those equal to a
        known row, count once or not at all.
    n : int
        Picks wanted; fewer come back where there are fewer distinct new candidates.
    method : {"gap_driven", "facility", "k_centre", "random"}
    ids : sequence of str, optional
        Names, by which ties are broken: with them the picks do not depend on the order of rows.
    weights : array_like, shape (m,), optional
        Severity of the gap each candidate lies in, >= 0; none by default. ``gap_driven`` takes
        those without any only when nothing is left to gain from the others; the other methods do
        not look at them.
    costs : array_like, shape (m,), optional
        Above 0; gains are divided by them. ``random`` does not look at them.
    seed : int
        Of ``random``.
    normalise : {"l2", "max", "none"}
        Row scaling before distances, as for neighbours.

    Raises
    ------
    MetricError
        Unknown method, shapes that do not fit, values not finite, a weight below 0, a cost not
        above 0, or n below 1.
    """
    x, base = _rows(candidates, "candidates", normalise), _rows(known, "known", normalise)
    if method not in METHODS:
        raise MetricError(f"acquisition method '{method}' is not known; use {', '.join(METHODS)}")
    if n < 1:
        raise MetricError(f"{n} picks asked for; at least 1 is needed")
    if len(base) and base.shape[1] != x.shape[1]:
        raise MetricError(
            f"candidates have {x.shape[1]} dimensions, known rows {base.shape[1]}; take vectors of "
            "one model"
        )
    m = len(x)
    weight = np.zeros(m) if weights is None else _column(weights, m, "weights")
    cost = _column(costs, m, "costs")
    if (weight < 0).any():
        raise MetricError("a weight is below 0; severities are 0 or more")
    if (cost <= 0).any():
        raise MetricError("a cost is not above 0; give atoms or seconds")
    if ids is not None and len(ids) != m:
        raise MetricError(f"{len(ids)} ids for {m} candidates; give one a row")
    names = np.arange(m) if ids is None else np.asarray(ids, dtype=str)
    order = np.argsort(names, kind="stable")
    order = order[_distinct(x, order, names, base)]
    if order.size == 0:
        return Picks(np.empty(0, np.int64), np.empty(0), ())
    wanted = min(n, order.size)
    if method == "random":
        taken = np.random.default_rng(seed).permutation(order.size)[:wanted]
        return Picks(order[taken], np.ones(wanted), (method,) * wanted)
    if order.size < m or (np.diff(order) != 1).any():
        x = x[order]
    # Distances do not change with the origin, and float32 is exact near it.
    centre = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    x = x - centre
    base = _sorted_rows(base) - centre if len(base) else base
    rows: list[int] = []
    scores: list[float] = []
    by: list[Method] = []
    cost = cost[order]
    for phase in METHODS[:0:-1]:  # gap_driven, facility, k_centre
        if METHODS.index(phase) > METHODS.index(method) or len(rows) == wanted:
            continue
        if phase == "k_centre":
            more = _k_centre(x, base, wanted - len(rows), cost, taken=rows)
        else:
            mass = weight[order] if phase == "gap_driven" else np.ones(len(x))
            more = _facility(x, base, wanted - len(rows), mass, cost, taken=rows)
        rows, scores = rows + more[0], scores + more[1]
        by += [phase for _ in more[0]]
    return Picks(order[rows].astype(np.int64), np.array(scores), tuple(by))


def nearest_known(
    rows: NDArray[np.float32], known: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distance of every row to its nearest known row, and which; infinite and -1 without any.

    Exact, by FAISS in blocks; distances are taken again in float64 from differences.
    """
    m = len(rows)
    if len(known) == 0:
        return np.full(m, np.inf), np.full(m, -1, dtype=np.int64)
    index = load_faiss().IndexFlatL2(known.shape[1])
    index.add(np.ascontiguousarray(known))
    distance, place = np.empty(m), np.empty(m, np.int64)
    step = max(1, TILE_BYTES // (8 * known.shape[1]))
    for start in range(0, m, step):
        block = slice(start, start + step)
        place[block] = index.search(np.ascontiguousarray(rows[block]), 1)[1][:, 0]
        delta = rows[block].astype(np.float64) - known[place[block]]
        distance[block] = np.sqrt(np.einsum("id,id->i", delta, delta))
    return distance, place


def _facility(
    x: NDArray[np.float32],
    base: NDArray[np.float32],
    n: int,
    weight: NDArray[np.float64],
    cost: NDArray[np.float64],
    *,
    taken: list[int],
) -> tuple[list[int], list[float]]:
    """Lazy greedy facility location on the demand of rows with weights."""
    inside = np.setdiff1d(np.flatnonzero(weight > 0), taken, assume_unique=True)
    if inside.size == 0:
        return [], []
    base = np.concatenate([base, x[taken]]) if taken else base
    points, mass = demand(x[inside] if inside.size < len(x) else x, weight[inside])
    mass = (mass / mass.sum()).astype(np.float32)
    if len(base):
        reach = nearest_known(points, base)[0].astype(np.float32)
    else:  # nothing known: as if the centre of all were
        reach = np.sqrt(np.einsum("id,id->i", points, points))
    squares = np.einsum("id,id->i", points, points)

    def gains(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        out = np.empty(rows.size)
        step = max(1, TILE_BYTES // (4 * len(points)))
        for start in range(0, rows.size, step):
            here = x[rows[start : start + step]]
            tile = here @ points.T
            tile *= -2.0
            tile += squares
            tile += np.einsum("id,id->i", here, here)[:, None]
            np.maximum(tile, 0.0, out=tile)
            np.sqrt(tile, out=tile)
            np.subtract(reach, tile, out=tile)
            np.maximum(tile, 0.0, out=tile)
            out[start : start + step] = tile @ mass
        return out / cost[rows]

    def take(row: int) -> None:
        delta = points - x[row]
        np.minimum(reach, np.sqrt(np.einsum("id,id->i", delta, delta)), out=reach)

    # Only picks from gaps: one beside a gap may serve it a little, but is not what is asked for.
    return _lazy_greedy(inside, gains(inside), gains, take, n)


def demand(
    x: NDArray[np.float32], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Points that stand for rows with weights, and the weight each stands for.

    The rows themselves up to ``DEMAND_POINTS``, else centres of k-means cells (FAISS, fitted on an
    even sample).
    """
    if len(x) <= DEMAND_POINTS:
        return np.ascontiguousarray(x), weight
    centres, cells = cluster(x, DEMAND_POINTS)
    mass = np.bincount(cells, weights=weight, minlength=len(centres))
    return centres[mass > 0], np.asarray(mass[mass > 0], dtype=np.float64)


def cluster(
    x: NDArray[np.float32], count: int, *, seed: int = SEED
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cut rows into ``count`` k-means cells: centres (count, d) and the cell of each row (m,)."""
    faiss = load_faiss()
    step = max(1, len(x) // (ROWS_PER_CENTRE * count))
    fitted = faiss.Kmeans(
        x.shape[1], count, niter=ROUNDS, seed=seed, min_points_per_centroid=1,
        max_points_per_centroid=2 * ROWS_PER_CENTRE,
    )  # fmt: skip
    fitted.train(np.ascontiguousarray(x[::step]))
    cells = np.empty(len(x), np.int64)
    for start in range(0, len(x), 2**16):
        block = np.ascontiguousarray(x[start : start + 2**16])
        cells[start : start + 2**16] = fitted.index.search(block, 1)[1][:, 0]
    return np.asarray(fitted.centroids), cells


def _k_centre(
    x: NDArray[np.float32],
    base: NDArray[np.float32],
    n: int,
    cost: NDArray[np.float64],
    *,
    taken: list[int],
) -> tuple[list[int], list[float]]:
    """Lazy greedy farthest-first, per cost, beyond the known rows and those taken already."""
    if len(base):
        distance = nearest_known(x, base)[0]
    else:
        distance = np.sqrt(np.einsum("id,id->i", x, x).astype(np.float64))
    chosen = list(taken)
    seen = np.zeros(len(x), np.int64)

    def gains(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        since = int(seen[rows].min()) if rows.size else 0
        if since < len(chosen):
            near = nearest_known(x[rows], x[chosen[since:]])[0]
            distance[rows] = np.minimum(distance[rows], near)
            seen[rows] = len(chosen)
        return distance[rows] / cost[rows]

    rows = np.setdiff1d(np.arange(len(x)), taken, assume_unique=True)
    if rows.size == 0:
        return [], []
    return _lazy_greedy(rows, distance[rows] / cost[rows], gains, chosen.append, n)


def _lazy_greedy(
    rows: NDArray[np.intp],
    bounds: NDArray[np.float64],
    gains: Callable[[NDArray[np.intp]], NDArray[np.float64]],
    take: Callable[[int], None],
    n: int,
) -> tuple[list[int], list[float]]:
    """Greedy picks where gains only fall: the same as renewing all gains after every pick.

    Parameters
    ----------
    rows, bounds
        Rows to choose from, ascending, and upper bounds of their gains.
    gains, take
        Present gains of some rows; and what to do with a pick.
    """
    bounds = bounds.copy()
    picks: list[int] = []
    scores: list[float] = []
    floor = NEGLIGIBLE * max(float(bounds.max()), 0.0)
    while len(picks) < n and bounds.max() > floor:
        short, outside = _shortlist(bounds)
        own = bounds[short]
        fresh = np.zeros(short.size, bool)
        while len(picks) < n:
            # Renew the best bounds until a renewed gain is above every bound that is not.
            while True:
                stale = np.where(fresh, -np.inf, own)
                best = np.where(fresh, own, -np.inf).max()
                if stale.max() < best or stale.max() == -np.inf:
                    break
                block = np.argpartition(-stale, min(RENEWED, short.size) - 1)[:RENEWED]
                block = np.sort(block[stale[block] > -np.inf])
                own[block] = np.minimum(own[block], gains(rows[short[block]]))
                fresh[block] = True
            if best <= max(floor, outside):
                break
            at = int(np.argmax(np.where(fresh, own, -np.inf)))
            picks.append(int(rows[short[at]]))
            scores.append(float(own[at]))
            take(picks[-1])
            own[at] = -np.inf
            fresh[:] = False
        bounds[short] = own
    return picks, scores


def _shortlist(bounds: NDArray[np.float64]) -> tuple[NDArray[np.intp], float]:
    """Places of the best bounds, ascending, and the best of those left out."""
    if bounds.size <= SHORTLIST:
        return np.arange(bounds.size), -np.inf
    cut = float(np.partition(bounds, bounds.size - SHORTLIST)[bounds.size - SHORTLIST])
    above = np.flatnonzero(bounds > cut)
    if above.size:
        return above, cut
    # That many are equal: none outside can be better, and lower places go first.
    return np.flatnonzero(bounds == cut)[:SHORTLIST], -np.inf


def _rows(values: ArrayLike, what: str, normalise: Normalise) -> NDArray[np.float32]:
    rows = np.asarray(values)
    if rows.ndim != 2:
        raise MetricError(f"{what} have shape {rows.shape}; (rows, dimensions) is needed")
    out = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), 2**16):  # in blocks, so that float64 is never held whole
        block = np.ascontiguousarray(rows[start : start + 2**16], dtype=np.float64)
        if not np.isfinite(block).all():
            bad = start + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            raise MetricError(f"{what}: row {bad} is not finite; leave it out")
        out[start : start + 2**16] = normalise_rows(block, normalise)
    return out


def _column(values: ArrayLike | None, m: int, what: str) -> NDArray[np.float64]:
    if values is None:
        return np.ones(m)
    column = np.asarray(values, dtype=np.float64)
    if column.shape != (m,):
        raise MetricError(f"{what} have shape {column.shape}; one value for each of {m} candidates")
    if not np.isfinite(column).all():
        raise MetricError(
            f"{what} must be finite; row {int(np.argmin(np.isfinite(column)))} is not"
        )
    return column


def _keys(x: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Hash of every row's bytes (multiply-add by fixed odd numbers); -0.0 counts as 0.0."""
    drawn = np.random.default_rng(SEED).integers(1, 2**63, x.shape[1], dtype=np.uint64)
    odd = np.asarray(drawn * np.uint64(2) + np.uint64(1))
    out = np.empty(len(x), np.uint64)
    for start in range(0, len(x), 2**15):
        bits = np.ascontiguousarray(x[start : start + 2**15] + np.float32(0)).view(np.uint32)
        mixed = bits.astype(np.uint64) * odd
        mixed ^= mixed >> np.uint64(29)
        out[start : start + 2**15] = (mixed * odd[::-1]).sum(axis=1, dtype=np.uint64)
    return out


def _distinct(
    x: NDArray[np.float32],
    order: NDArray[np.intp],
    names: NDArray[np.generic],
    base: NDArray[np.float32],
) -> NDArray[np.intp]:
    """Places in ``order`` of rows whose name and vector are new, the first of each."""
    keys = _keys(x)[order]
    keep = np.zeros(order.size, bool)
    keep[np.unique(keys, return_index=True)[1]] = True
    first = np.zeros(order.size, bool)
    first[np.unique(names[order], return_index=True)[1]] = True
    keep &= first
    if len(base):
        keep &= ~np.isin(keys, _keys(base))
    return np.flatnonzero(keep)


def _sorted_rows(base: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows in an order of their own, so that the order in which they are given is nothing."""
    return base[np.argsort(_keys(base), kind="stable")]
