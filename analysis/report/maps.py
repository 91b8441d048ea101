# SPDX-License-Identifier: Apache-2.0
"""The maps of matter on the page: places, nearest structures and coordinates of the sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...registry.archive import Atlas
from ...schemas.structures import SYMBOLS
from .data import MAIN, Model, Scores, number, text
from .evidence import optional

MAP = "scores/map.parquet"
NEAREST = "scores/nearest.parquet"

#: Structures of more atoms are listed but not drawn in space.
SHOWN_ATOMS = 400
#: Atoms drawn over all structures of the page at most; the smallest structures come first.
ALL_ATOMS = 60_000


def maps(scores: Scores, models: Sequence[Model]) -> list[dict[str, Any]]:
    """One entry a kind of matter, in page order.

    An entry holds ``structures`` (id, name, formula, set, stratum, agreement, gap score, and
    coordinates where they may be shown), ``models`` (index, places ``x`` and ``y`` from 0 to 1000,
    ``nearest`` as indices into ``structures``, ``distance``), ``n`` and ``available``.
    """
    places, near = optional(scores.atlas, MAP), optional(scores.atlas, NEAREST)
    index = {m.key: m.index for m in models}
    if places is None or near is None:
        return []
    local, gap = _local(scores.atlas), _gap_scores(scores.atlas)
    known = scores.atlas.structures.drop_duplicates("id").set_index("id")
    drawn = _geometry(scores.atlas, known.loc[list(dict.fromkeys(places["id"]))])
    entries = []
    for selection, kind in MAIN.items():
        of_kind = places[(places["kind"] == kind) & places["model"].isin(list(index))]
        if of_kind.empty:
            continue
        ids = list(dict.fromkeys(of_kind["id"]))
        position = {name: i for i, name in enumerate(ids)}
        entries.append(
            {
                "kind": kind,
                "label": selection,
                "n": len(ids),
                "available": int(of_kind["available"].iloc[0]),
                "structures": [
                    _structure(i, known.loc[i], drawn.get(i), local.get(i), gap.get(i)) for i in ids
                ],
                "models": [
                    {
                        "i": index[str(model)],
                        **_places(part.set_index("id").loc[ids]),
                        **_neighbours(near, kind, str(model), position),
                    }
                    for model, part in of_kind.groupby("model", sort=False)
                ],
            }
        )
    return entries


def _local(atlas: Atlas) -> dict[str, Any]:
    table = optional(atlas, "scores/local.parquet")
    if table is None:
        return {}
    return dict(zip(table["id"], table["agreement"], strict=True))


def _gap_scores(atlas: Atlas) -> dict[str, Any]:
    table = optional(atlas, "scores/structures.parquet")
    if table is None or "gap_score" not in table:
        return {}
    return dict(zip(table["id"], table["gap_score"], strict=True))


def _structure(
    structure_id: str, row: pd.Series, drawn: dict[str, Any] | None, agreement: Any, gap: Any
) -> dict[str, Any]:
    return {
        "id": structure_id,
        "name": text(row["name"]) or str(row["source_id"]),
        "formula": str(row["formula"]),
        "set": str(row["set"]),
        "stratum": str(row["stratum"]),
        "agreement": number(agreement, 3),
        "gap": number(gap, 3),
        "atoms": int(row["n_atoms"]),
        **({"xyz": drawn} if drawn else {}),
    }


def _places(part: pd.DataFrame) -> dict[str, list[int]]:
    flat = part[["x", "y"]].to_numpy(dtype=np.float64)
    low, wide = flat.min(axis=0), max(float(np.ptp(flat, axis=0).max()), 1e-9)
    whole = np.rint((flat - low) / wide * 1000).astype(int)
    return {"x": whole[:, 0].tolist(), "y": whole[:, 1].tolist()}


def _neighbours(
    near: pd.DataFrame, kind: str, model: str, position: dict[str, int]
) -> dict[str, list[Any]]:
    part = near[(near["kind"] == kind) & (near["model"] == model)]
    part = part.assign(at=part["id"].map(position)).sort_values(["at", "rank"], kind="stable")
    width = int(part["rank"].max())
    return {
        "nearest": part["neighbour"].map(position).to_numpy().reshape(-1, width).tolist(),
        "distance": part["distance"].round(3).to_numpy().reshape(-1, width).tolist(),
    }


def _geometry(atlas: Atlas, rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Coordinates by id, in hundredths of an ångström, as far as they may be passed on and fit."""
    order = rows[rows["n_atoms"] <= SHOWN_ATOMS].sort_values("n_atoms", kind="stable")
    wanted = order.index[order["n_atoms"].cumsum() <= ALL_ATOMS]
    found: dict[str, dict[str, Any]] = {}
    for set_id in dict.fromkeys(rows.loc[wanted, "set"]):
        table = atlas.table(f"structures/{set_id}.parquet").set_index("id")
        for structure_id in wanted.intersection(table.index):
            row = table.loc[structure_id]
            if row["positions"] is None:
                continue
            numbers = [int(z) for z in row["numbers"]]
            positions = np.asarray(row["positions"], dtype=np.float64).reshape(-1, 3)
            periodic = any(row["pbc"])
            if not periodic:
                positions = positions - positions.mean(axis=0)
            entry: dict[str, Any] = {
                "e": [SYMBOLS[z] for z in numbers],
                "p": np.rint(positions * 100).astype(int).ravel().tolist(),
            }
            if periodic:
                cell = np.asarray(row["cell"], dtype=np.float64).reshape(-1)
                entry["c"] = np.rint(cell * 100).astype(int).tolist()
            found[str(structure_id)] = entry
    return found
