# SPDX-License-Identifier: Apache-2.0
"""Suggestions: of a pool of candidates, the batch that closes most of an atlas's gaps.

The candidates and what is known are rows of one model's chart. Each candidate weighs as much as the
most severe open gap that it would help to close, shared with the others of that gap, and
:func:`.acquisition.acquire` chooses a batch that is near to much of that weight, cheap and diverse.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...registry.archive import Atlas
from ...schemas.errors import ArchiveError, AtlasError, StructureError
from ...schemas.structures import Structure, structure_from_row
from ...schemas.suggestions import SUGGESTIONS
from ..blocks import Space, normalise_rows
from ..neighbours import nearest
from .acquisition import Method, acquire, nearest_known
from .locate import choose_models
from .reasons import matches, open_gaps, sentence, shared_weights

Cost = Literal["none", "atoms", "time"]
COSTS: tuple[Cost, ...] = get_args(Cost)
UNITS: dict[str, str] = {"none": "structures", "atoms": "atoms", "time": "seconds"}


@dataclass(frozen=True)
class Rows:
    """Structures with their vectors in one model's chart.

    Attributes
    ----------
    name : str
        Where they are from: a set, or the location of an atlas or of files.
    structures : DataFrame
        One row a structure, columns of structures tables.
    vectors : float32 array, shape (n, d)
        Finite, in the same order.
    geometries : mapping of id to Structure
        Of those whose coordinates are at hand.
    notes : list of str
        What was left out, and why.
    """

    name: str
    structures: pd.DataFrame
    vectors: NDArray[np.float32]
    geometries: Mapping[str, Structure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def kept(self, keep: NDArray[np.bool_]) -> Rows:
        """Only some of them."""
        table = self.structures[keep].reset_index(drop=True)
        return Rows(self.name, table, self.vectors[keep], self.geometries, self.notes)


def rows_of(
    atlas: Atlas,
    model: str,
    *,
    name: str,
    sets: Collection[str] | None = None,
    geometries: bool = False,
) -> Rows:
    """Rows of an atlas, or of some of its sets, that a model embedded; each structure once.

    Raises
    ------
    ArchiveError
        The atlas does not hold the model, or it embedded none of them.
    """
    table = atlas.structures
    if sets is not None:
        table = table[table["set"].isin(list(sets))]
    table = table.drop_duplicates("id")
    array = atlas.embeddings(model, missing="drop")
    places = pd.Series(np.arange(array.shape[0]), index=array["structure"].to_numpy())
    places = places[~places.index.duplicated()]
    held = table[table["id"].isin(places.index)].sort_values("id").reset_index(drop=True)
    order = places.loc[held["id"]].to_numpy()
    sorted_rows = np.argsort(order)
    vectors = np.empty((len(held), array.shape[1]), np.float32)
    if len(held):
        vectors[sorted_rows] = np.asarray(array.isel(structure=order[sorted_rows]))
    finite = np.asarray(np.isfinite(vectors).all(axis=1))
    if not finite.any():
        raise ArchiveError(f"{name}: '{model}' embedded none of its {len(table)} structures")
    gone = len(table) - int(finite.sum())
    notes = [f"{name}: {gone} of {len(table)} structures have no vector of {model}"] if gone else []
    shapes: dict[str, Structure] = {}
    if geometries:
        for set_id in sorted(set(held["set"])):
            for row in atlas.table(f"structures/{set_id}.parquet").to_dict("records"):
                try:
                    shapes[row["id"]] = structure_from_row({str(k): v for k, v in row.items()})
                except StructureError:  # its coordinates may not be passed on
                    continue
    return Rows(name, held, vectors, shapes, notes).kept(finite)


def choose_model(atlas: Atlas, kinds: Collection[str], *, among: Collection[str]) -> str:
    """The model to choose with: of those at hand the one that takes most of the kinds.

    Raises
    ------
    AtlasError
        None of ``among`` is fit.
    """
    fit = [m for m in choose_models(atlas, kinds).values() if m in among]
    if fit:
        return max(dict.fromkeys(fit), key=fit.count)
    counts = {m: int((atlas.rows(m)["reason"] == "").sum()) for m in sorted(among)}
    if not counts:
        raise AtlasError(f"{atlas.location}: no model is in the atlas and in the pool; embed both")
    return max(counts, key=lambda m: counts[m])


def costs(
    structures: pd.DataFrame, cost: Cost, *, run: Mapping[str, object] | None = None
) -> NDArray[np.float64]:
    """Cost of adding each structure: 1, its atoms, or the model's seconds, shape (n,).

    Seconds are a + b n_atoms with a and b not below 0, fitted by least squares to the sets of a
    run's record (``runs/<model>.json``), a row a set: mean seconds against mean atoms.

    Raises
    ------
    AtlasError
        The cost is unknown, or there is no record to tell seconds from.
    """
    atoms = structures["n_atoms"].to_numpy(dtype=float)
    if cost == "none":
        return np.ones(len(atoms))
    if cost == "atoms":
        return atoms
    if cost != "time":
        raise AtlasError(f"cost '{cost}' is not known; use {', '.join(COSTS)}")
    from scipy.optimize import nnls

    points = (run or {}).get("points")
    if not isinstance(points, list) or not points:
        raise AtlasError(
            "no run of the model is recorded in the atlas, so seconds are not known; "
            "use --cost atoms"
        )
    size, seconds, weight = (np.array(c, dtype=float) for c in zip(*points, strict=True))
    root = np.sqrt(weight)
    fitted, _ = nnls(np.stack([root, root * size], axis=1), root * seconds)
    return np.maximum(fitted[0] + fitted[1] * atoms, 1e-9)


def run_record(atlas: Atlas, model: str) -> dict[str, object]:
    """Mean atoms, mean seconds and rows of each set a run embedded, under ``points``."""
    root = atlas.files.local
    path = None if root is None else root / "runs" / f"{model}.json"
    if path is None or not path.is_file():
        return {}
    record = json.loads(path.read_text("utf-8"))
    means = atlas.structures.groupby("set")["n_atoms"].mean()
    return {
        "points": [
            (float(means[s]), run["model_seconds"] / run["embedded"], run["embedded"])
            for s, run in record["sets"].items()
            if s in means and run.get("embedded") and run.get("model_seconds")
        ]
    }


def suggest(
    known: Rows,
    pool: Rows,
    gaps: pd.DataFrame,
    *,
    model: str,
    release: str,
    top: int = 20,
    kind: str | None = None,
    region: str | None = None,
    cost: Cost = "none",
    run: Mapping[str, object] | None = None,
    method: Method = "gap_driven",
    seed: int = 0,
) -> pd.DataFrame:
    """Rank up to ``top`` structures of a pool, each with its reason.

    Parameters
    ----------
    known, pool : Rows
        In the chart of ``model``. What is known is never suggested.
    gaps : DataFrame
        ``scores/gaps.parquet`` of the atlas.
    kind, region : str, optional
        Close only gaps of this kind, or of this region.
    cost, run
        As :func:`costs` takes them.
    method : {"gap_driven", "facility", "k_centre", "random"}
    seed : int
        Of ``random``; the others leave nothing to chance.

    Returns
    -------
    DataFrame
        As ``schemas.suggestions.SUGGESTIONS``; fewer than ``top`` rows, or none, where the pool
        holds no more that is new.

    Raises
    ------
    AtlasError
        Fewer than two known rows, an unknown kind, region, cost or method, or ``top`` below 1.
    """
    if top < 1:
        raise AtlasError(f"--top {top}: at least 1 is needed")
    if len(known.structures) < 2:
        raise AtlasError(f"{known.name}: {len(known.structures)} rows are known, 2 are needed")
    held = open_gaps(gaps, model, kind=kind, region=region)
    new = ~pool.structures["id"].isin(set(known.structures["id"])).to_numpy()
    pool = pool.kept(new)
    candidates = pool.structures
    base = _unit(known.vectors)
    points = _unit(pool.vectors)
    distance, near = nearest_known(points, base)
    owners = known.structures.iloc[near].reset_index(drop=True)
    places = owners["set"] + ":" + owners["stratum"]
    alike = owners["kind"].astype(str) == candidates["kind"].astype(str)
    best = matches(held, candidates, places.where(alike, ""), pool.geometries)
    price = costs(candidates, cost, run=run)
    picks = acquire(
        pool.vectors,
        known.vectors,
        top,
        method=method,
        ids=list(candidates["id"]),
        weights=shared_weights(best, held["severity"].to_numpy(dtype=float)),
        costs=price,
        seed=seed,
    )
    scale = _spacing(base, known.structures["kind"])
    rows = []
    for rank, (row, score, by) in enumerate(zip(picks.rows, picks.scores, picks.by, strict=True)):
        candidate = candidates.iloc[row]
        owner = owners.iloc[row]
        middle = scale.get(str(candidate["kind"]), np.nan)
        found = {
            "rank": rank + 1,
            **{c: candidate[c] for c in ("id", "set", "stratum", "source_id", "formula", "kind")},
            "name": candidate["name"] if isinstance(candidate["name"], str) else None,
            "n_atoms": int(candidate["n_atoms"]),
            "method": by,
            "cost": price[row],
            "score": score,
            "nearest_id": owner["id"],
            "nearest_name": owner["name"] if isinstance(owner["name"], str) else owner["formula"],
            "nearest_region": places.iloc[row],
            "distance": distance[row],
            "distance_ratio": float(distance[row] / middle) if middle > 0 else np.nan,
        }
        gap = held.iloc[best[row]] if best[row] >= 0 else None
        if gap is not None:
            found |= {
                "gap_kind": gap["kind"],
                "region": gap["region"],
                "gap_model": gap["model"] if isinstance(gap["model"], str) else None,
                "gap_statistic": gap["statistic"],
                "gap_rank": int(gap["rank"]),
                "gap_severity": float(gap["severity"]),
            }
        told = None if gap is None else {str(k): v for k, v in gap.to_dict().items()}
        same = int((best == best[row]).sum())
        rows.append(found | {"reason": sentence(found, told, in_gap=same, chosen_by=by)})
    table = pd.DataFrame(rows).reindex(columns=list(SUGGESTIONS.columns))
    return SUGGESTIONS.validate(
        table.assign(
            release=release,
            pool=pool.name,
            model=model,
            known=len(known.structures),
            candidates=len(candidates),
            cost_unit=UNITS[cost],
            seed=seed,
        ).astype(_types())
    )


def _types() -> dict[str, str]:
    """Types of the columns that an empty table, or one with nulls, would lose."""
    kinds = {"rank": "int64", "n_atoms": "int64", "known": "int64", "candidates": "int64"}
    kinds |= {"seed": "int64", "gap_rank": "Int64"}
    kinds |= dict.fromkeys(
        ("cost", "score", "gap_severity", "distance", "distance_ratio"), "float64"
    )
    text = [c for c in SUGGESTIONS.columns if c not in kinds]
    return kinds | dict.fromkeys(text, "object")


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), 2**16):
        block = np.ascontiguousarray(vectors[start : start + 2**16], dtype=np.float64)
        out[start : start + 2**16] = normalise_rows(block, "l2")
    return out


def _spacing(base: NDArray[np.float32], kinds: pd.Series) -> dict[str, float]:
    """Median distance of known rows of each kind to the nearest other of any."""
    alone = np.sqrt(np.maximum(nearest(Space(base.astype(np.float64)), 1).scores[:, 0], 0.0))
    table = pd.Series(alone).groupby(kinds.astype(str).to_numpy()).median()
    return {str(k): float(v) for k, v in table.items()}
