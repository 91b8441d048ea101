# SPDX-License-Identifier: Apache-2.0
"""Where structures fall in a model's chart of what is known: covered, gap or unknown.

The question asked of each structure is whether it could be one more of the rows the atlas holds.
Every known row's distance to the nearest *other* known row is what such a row shows; a structure's
own distance to the nearest known row is held against those of known rows of its kind. Rows are
scaled to unit length, distances are Euclidean, as in the density gaps. The share of known rows that
lie at least as lonely is a conformal p-value (Vovk, Gammerman and Shafer, Algorithmic Learning in a
Random World, 2005): a structure drawn like the known rows of its kind falls below :data:`ALPHA` no
more often than that, whatever the model and the distribution.

``covered``
    The model places it, its distance passes, every element of it is held by a known row of its
    kind, and no gap of the atlas is marked where it falls.
``gap``
    It can be placed, but one of these fails: the matter around it is thin, new or marked.
``unknown``
    It cannot be placed: the model gives no vector, fewer than :data:`LEAST` rows of its kind are
    known, or it lies farther from all of them than any known row from the rest, and more than
    :data:`FAR` times the distance that still passes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...registry import catalog
from ...registry.archive import Atlas
from ...schemas.cards import ModelCard
from ...schemas.errors import ArchiveError, MetricError
from ..blocks import Space, normalise_rows, row_blocks, rows_per_block
from ..coverage import ENOUGH
from ..neighbours import nearest

#: Share of structures like the known ones that may be called a gap by their distance.
ALPHA = 0.05
#: Kinds of gaps that say something of the matter around a structure.
MARKING = ("coverage", "agreement", "density")
#: Known rows of a kind from which on the distances of that kind say something.
LEAST = 30
#: Times the distance that still passes from which on a structure is beyond what is known.
FAR = 2.0
#: Severity from which on a gap of the atlas marks what falls into it: half of something is lost.
MARKED = 0.5
#: Share of the best-covered model's rows from which on another is covered as well.
NEARLY = 0.95
#: Known rows told with each structure.
NEAREST = 3

COLUMNS = (
    "model", "source_id", "id", "name", "formula", "kind", "status", "reason", "p_value",
    "quantile", "distance", "relative", "training", "nearest_id", "nearest_name", "nearest_set",
    "nearest_stratum", "nearest",
)  # fmt: skip


@dataclass(frozen=True)
class Known:
    """What an atlas knows in one model's chart.

    Attributes
    ----------
    structures : DataFrame
        A row each: ``id``, ``set``, ``stratum``, ``kind``, ``name``, ``formula``, ``elements``.
    vectors : float64 array, shape (n, d)
        Of unit length.
    alone : float64 array, shape (n,)
        Distance of each row to the nearest other.
    gaps : DataFrame
        Gaps of the atlas that mark what falls into them.
    """

    card: ModelCard
    structures: pd.DataFrame
    vectors: NDArray[np.float64]
    alone: NDArray[np.float64]
    gaps: pd.DataFrame


def known_rows(vectors: np.ndarray, structures: pd.DataFrame, card: ModelCard) -> Known:
    """Known rows from vectors, shape (n, d), and the structures they stand for, in one order.

    Raises
    ------
    MetricError
        Fewer than two rows.
    """
    points = normalise_rows(np.ascontiguousarray(vectors, dtype=np.float64), "l2")
    if len(points) < 2:
        raise MetricError(f"{card.id}: {len(points)} rows are known, 2 are needed; embed more")
    alone = np.sqrt(np.maximum(nearest(Space(points), 1).scores[:, 0], 0.0))
    empty = pd.DataFrame(columns=["kind", "region", "model", "severity", "evidence"])
    return Known(card, structures.reset_index(drop=True), points, alone, empty)


def known_of(atlas: Atlas, model: str) -> Known:
    """Known rows of an atlas in the chart of one of its models, with the gaps it has scores of.

    Raises
    ------
    ArchiveError
        The atlas does not hold the model, or too few rows of it.
    """
    array = atlas.embeddings(model, missing="drop")
    ids = array["structure"].to_numpy()
    first = ~pd.Index(ids).duplicated()
    values = np.asarray(array)[first]
    finite = np.isfinite(values).all(axis=1)
    if finite.sum() < 2:
        raise ArchiveError(f"{atlas.location}: '{model}' embedded {int(finite.sum())} structures")
    table = atlas.structures.drop_duplicates("id").set_index("id", drop=False)
    found = known_rows(values[finite], table.loc[ids[first][finite]], catalog.model(model))
    return replace(found, gaps=marked_gaps(atlas, model))


def marked_gaps(atlas: Atlas, model: str) -> pd.DataFrame:
    """Gaps that mark what falls into them; empty if the atlas is not analysed.

    Gaps of matter and of agreement (:data:`MARKING`), of the whole atlas, of this model or of none,
    with :data:`MARKED` or more lost; of what is scarcer than in a universe only what has fewer than
    ``coverage.ENOUGH`` structures. What a model loses outside its training says how shallow its
    vectors are there, not that the structure is unlike known ones.
    """
    columns = ["kind", "region", "model", "severity", "evidence"]
    try:
        table = atlas.table("scores/gaps.parquet")
    except ArchiveError:
        return pd.DataFrame(columns=columns)
    own = (table["model"].isna() | (table["model"] == model)) & of_atlas(table)
    # Less than a universe has is no gap for a structure, as long as enough are known.
    known = (table["statistic"] != "shortfall") | (table["value"] < ENOUGH)
    marking = table["kind"].isin(MARKING) & (table["severity"] >= MARKED)
    return table.loc[own & known & marking, columns].reset_index(drop=True)


def of_atlas(gaps: pd.DataFrame) -> pd.Series:
    """Which rows of a gaps table are gaps of the whole atlas, not of one of its sets (bool)."""
    text = gaps["selection"].fillna("").astype(str)
    return ~text.str.contains("~", regex=False) | text.str.startswith("atlas~")


def choose_models(atlas: Atlas, kinds: Iterable[str]) -> dict[str, str]:
    """For each kind the model to locate its structures with.

    Asked are learned models that see more than elements and take the kind; where there are any
    that read atoms in space, those only; and those whose weights are at hand. Of the models that
    know nearly as many rows of the kind as the best (:data:`NEARLY`) it takes the one for most
    kinds, then a starter model, then the smallest. Kinds that no model takes are absent.
    """
    held = [m for m in atlas.index["models"] if m in catalog.models()]
    cards = [c for c in map(catalog.model, held) if c.learned and not c.context_free]
    cards = [c for c in cards if c.training.domains is not None] or cards
    rows = {c.id: atlas.rows(c.id).drop_duplicates("id") for c in cards}
    chosen = {}
    for kind in kinds:
        able = [c for c in cards if kind in c.supports.kinds]
        able = [c for c in able if c.modality == "atoms3d"] or able
        counts = {
            c.id: int(((rows[c.id]["reason"] == "") & (rows[c.id]["kind"] == kind)).sum())
            for c in able
        }
        able = [c for c in able if catalog.at_hand(c) and c.isolation is None] or able
        most = max((counts[c.id] for c in able), default=0)
        able = [c for c in able if counts[c.id] >= max(1.0, NEARLY * most)]
        if able:
            best = min(
                able,
                key=lambda c: (-len(c.supports.kinds), not c.starter, c.parameters or 0, c.id),
            )
            chosen[kind] = best.id
    return chosen


def locate(
    known: Known,
    structures: pd.DataFrame,
    vectors: np.ndarray,
    *,
    count: int = NEAREST,
    relations: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Tell where structures fall.

    Parameters
    ----------
    known : Known
    structures : DataFrame
        A row each: ``source_id``, ``id``, ``name``, ``formula``, ``kind``, ``elements``,
        ``n_atoms``, and ``reason`` where the model gave no vector ("" else).
    vectors : array, shape (q, d)
        In the same order; not finite where there is none.
    count : int
        Nearest known rows told with each.
    relations : sequence of str, optional
        ``in``, ``out`` or ``unknown``: each structure against the model's training.

    Returns
    -------
    DataFrame
        A row a structure, in order, of :data:`COLUMNS`. ``p_value`` and ``quantile`` (share of
        known rows of the kind that lie less lonely) are null where there is no vector;
        ``relative`` is the distance over the kind's median; ``nearest`` is JSON.
    """
    queries = np.asarray(vectors, dtype=np.float64)
    placed = np.isfinite(queries).all(axis=1) & (structures["reason"] == "").to_numpy()
    near, far = _nearest(
        normalise_rows(np.where(placed[:, None], queries, 0.0), "l2"), known, count
    )
    kinds = known.structures["kind"].to_numpy()
    scales = {k: np.sort(known.alone[kinds == k]) for k in set(structures["kind"])}
    elements = {
        k: {e for held in known.structures.loc[kinds == k, "elements"] for e in held}
        for k in scales
    }
    rows = []
    for i, row in enumerate(structures.to_dict("records")):
        base = {
            "model": known.card.id,
            **{c: row[c] for c in ("source_id", "id", "name", "formula", "kind")},
            "training": relations[i] if relations is not None else "unknown",
        }
        if not placed[i]:
            why = row["reason"] or "failed: its vector is not finite"
            rows.append({**base, "status": "unknown", "reason": f"no vector: {why}"})
            continue
        rows.append(
            {
                **base,
                **_numbers(far[i, 0], scales[row["kind"]]),
                **_told(known, near[i], far[i]),
                **_status(known, row, near[i, 0], far[i, 0], scales, elements),
            }
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    numeric = ["p_value", "quantile", "distance", "relative"]
    return table.astype(dict.fromkeys(numeric, "float64"))


def _nearest(
    queries: NDArray[np.float64], known: Known, count: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Row numbers and distances of the nearest known rows, nearest first, shape (q, count)."""
    count = min(count, len(known.vectors))
    centre = known.vectors.mean(axis=0)
    points, around = known.vectors - centre, queries - centre
    squares, lengths = (np.einsum("id,id->i", x, x) for x in (points, around))
    places = np.empty((len(queries), count), dtype=np.intp)
    for rows in row_blocks(0, len(queries), rows_per_block(24 * len(points), len(queries))):
        tile = lengths[rows, None] + squares - 2.0 * (around[rows] @ points.T)
        found = np.argpartition(tile, count - 1, axis=1)[:, :count]
        order = np.lexsort((found, np.take_along_axis(tile, found, 1)), axis=1)
        places[rows] = np.take_along_axis(found, order, 1)
    # From differences: a structure that is known lies at 0, not at a rounding error.
    distances = np.linalg.norm(queries[:, None] - known.vectors[places], axis=2)
    order = np.argsort(distances, axis=1, kind="stable")
    return np.take_along_axis(places, order, 1), np.take_along_axis(distances, order, 1)


def _numbers(distance: float, scale: NDArray[np.float64]) -> dict[str, float]:
    """``scale``: sorted distances of the known rows of the kind."""
    if not len(scale):
        return {"distance": distance}
    below = int(np.searchsorted(scale, distance, side="left"))
    middle = float(np.median(scale))
    return {
        "distance": distance,
        "p_value": (1 + len(scale) - below) / (len(scale) + 1),
        "quantile": below / len(scale),
        "relative": distance / middle if middle > 0 else np.nan,
    }


def _told(known: Known, near: NDArray[np.intp], far: NDArray[np.float64]) -> dict[str, object]:
    found = known.structures.iloc[near]
    rows = [
        {"id": i, "name": name or formula, "set": s, "stratum": t, "distance": round(float(d), 6)}
        for i, name, formula, s, t, d in zip(
            found["id"], found["name"], found["formula"], found["set"], found["stratum"], far,
            strict=True,
        )
    ]  # fmt: skip
    first = rows[0]
    told = {f"nearest_{c}": first[c] for c in ("id", "name", "set", "stratum")}
    return {**told, "nearest": json.dumps(rows)}


def _status(
    known: Known,
    row: Mapping[Any, Any],
    near: int,
    distance: float,
    scales: dict[str, NDArray[np.float64]],
    elements: dict[str, set[str]],
) -> dict[str, str]:
    kind = str(row["kind"])
    scale, owner = scales[kind], known.structures.iloc[near]
    if len(scale) < LEAST:
        return _as("unknown", f"{len(scale)} {kind}s are known, {LEAST} are needed to tell")
    limit = float(np.quantile(scale, 1.0 - ALPHA))
    times = f"{distance / limit:.1f} times the distance that passes" if limit > 0 else "far"
    if distance > scale[-1] and distance > FAR * limit:
        return _as("unknown", f"beyond all {len(scale)} known {kind}s: {times}")
    own = list(row["elements"])
    new = [e for e in own if e not in elements[kind]]
    if new:
        return _as("gap", f"no known {kind} holds {', '.join(new)}")
    share = float(_numbers(distance, scale)["p_value"])
    if share <= ALPHA:
        return _as("gap", f"thin: p = {share:.3f}, {times}")
    n_atoms = int(row["n_atoms"])
    place = f"{owner['set']}:{owner['stratum']}"
    for gap in known.gaps.itertuples(index=False):
        if in_region(str(gap.region), kind=kind, elements=own, n_atoms=n_atoms, place=place):
            return _as("gap", f"{gap.kind} gap {gap.region}: {gap.evidence}")
    if owner["id"] == row["id"]:
        return _as("covered", f"it is in the atlas, in {place}")
    return _as("covered", f"p = {share:.3f} among {len(scale)} known {kind}s")


def _as(status: str, reason: str) -> dict[str, str]:
    return {"status": status, "reason": reason}


def in_region(region: str, *, kind: str, elements: Sequence[str], n_atoms: int, place: str) -> bool:
    """Whether a structure falls into a gap's region.

    Regions are ``element:X``, ``pair:X-Y``, ``size:kind:n`` and ``size:kind:low-high``, the first
    two also of one kind (``element:X|kind``); and ``set:stratum``, which holds what lies nearest to
    one of its rows (``place``). A structure is held against no other.
    """
    what, _, rest = region.partition(":")
    rest, _, of_kind = rest.partition("|")
    if what == "size":
        of_kind, _, rest = rest.partition(":")
        low, _, high = rest.partition("-")
        numbers = low.isdigit() and (high or low).isdigit()
        inside = numbers and int(low) <= n_atoms <= int(high or low)
    elif what in ("element", "pair"):
        inside = set(rest.split("-")) <= set(elements)
    else:
        inside = place == f"{what}:{rest}"
    return inside and of_kind in ("", kind)
