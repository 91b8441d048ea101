# SPDX-License-Identifier: Apache-2.0
"""Performance, scorecards and trees of models, as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...registry.archive import Atlas
from ...schemas.errors import ArchiveError
from ..trees import layout, neighbour_joining, profile_distances
from .data import Model, Scores, number, records, text
from .matrices import unpack

ALIGNMENT = "scores/performance_alignment.parquet"
CORRELATION = "scores/performance_correlation.parquet"
SCORECARD = "scores/scorecard.parquet"

#: Measure of a scorecard -> how the page calls it.
MEASURES: dict[str, str] = {
    "alignment_local": "alignment with other families, local",
    "alignment_global": "alignment with other families, global",
    "best_performer_local": "alignment with the best performer, local",
    "best_performer_global": "alignment with the best performer, global",
    "distribution_local": "kept out of distribution, local",
    "distribution_global": "kept out of distribution, global",
    "cue_gain": "cues beyond composition",
    "cue_retention": "cues kept out of distribution",
    "transfer_from": "transfer from it",
    "transfer_to": "transfer to it",
    "transfer_across": "transfer across modalities",
    "probe_transfer": "probes read on others",
    "elements": "elements embedded",
    "embedded": "structures embedded",
    "mean_rank_share": "mean rank",
}

#: Metrics whose values are similarities of a profile, and that trees are drawn of.
TREES = ("cknna", "mutual_knn")


def optional(atlas: Atlas, path: str) -> pd.DataFrame | None:
    """A score table, or None where the analysis was of a version without it, or it is empty."""
    try:
        found = atlas.table(path)
    except ArchiveError:
        return None
    return found if len(found) else None


def performance(scores: Scores, models: Sequence[Model]) -> dict[str, Any] | None:
    """Errors beside alignment, a point a model, and their correlations by set, method and metric.

    ``points`` hold the set, label, method, metric, model index, error ``e`` and its standard error
    ``es`` (eV), calibrated alignment ``a`` and its error ``as``, reference and n; ``correlations``
    Spearman's, with its interval.
    """
    table = optional(scores.atlas, ALIGNMENT)
    if table is None:
        return None
    index = {m.key: m.index for m in models}
    table = table[table["model"].isin(list(index)) & table["stratum"].isna()]
    points = [
        {
            "set": row["set"],
            "label": row["label"],
            "method": row["method"],
            "metric": row["metric"],
            "i": index[row["model"]],
            "r": index.get(row["reference"]),
            "e": number(row["mae"], 5),
            "es": number(row["mae_standard_error"], 3),
            "a": number(row["alignment"], 5),
            "as": number(row["alignment_standard_error"], 3),
            "b": number(row["baseline"], 5),
            "n": int(row["n"]),
            "counted": bool(row["counted"]),
        }
        for row in records(table)
    ]
    found = optional(scores.atlas, CORRELATION)
    rows = [] if found is None else records(found[found["stratum"].isna()])
    return {
        "points": points,
        "correlations": [
            {
                "set": row["set"],
                "label": row["label"],
                "method": row["method"],
                "metric": row["metric"],
                "scope": row["scope"],
                "v": number(row["value"], 4),
                "low": number(row["low"], 4),
                "high": number(row["high"], 4),
                "p": number(row["p_value"], 3),
                "models": int(row["models"]),
                "families": int(row["families"]),
            }
            for row in rows
            if row["statistic"] == "spearman"
        ],
    }


def scorecards(scores: Scores) -> dict[str, dict[str, Any]]:
    """By model: the verdict, and one row a measure and region with its interval and rank."""
    table = optional(scores.atlas, SCORECARD)
    if table is None:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for model, rows in table.groupby("model", sort=False):
        said = rows.loc[rows["measure"] == "verdict", "note"]
        found[str(model)] = {
            "verdict": text(said.iloc[0]) if len(said) else None,
            "rows": [
                {
                    "measure": MEASURES.get(row["measure"], row["measure"].replace("_", " ")),
                    "region": row["region"],
                    "value": number(row["value"], 3),
                    "low": number(row["low"], 3),
                    "high": number(row["high"], 3),
                    "n": None if pd.isna(row["n"]) else int(row["n"]),
                    "rank": None if pd.isna(row["rank"]) else int(row["rank"]),
                    "of": None if pd.isna(row["of"]) else int(row["of"]),
                    "note": text(row["note"]),
                }
                for row in records(rows)
                if row["measure"] != "verdict"
            ],
        }
    return found


def trees(
    blocks: Sequence[Mapping[str, Any]], models: Sequence[Model], kinds: Sequence[str]
) -> list[dict[str, Any]]:
    """Trees of the models on each whole kind of matter: segments, and the leaf each ends in.

    Branches are square roots of Jensen-Shannon divergences of alignment profiles, joined by
    neighbour joining (arXiv:2512.03750, A.1.3).
    """
    found = []
    for block in blocks:
        if block["metric"] not in TREES or block["selection"] not in kinds:
            continue
        matrix = unpack(dict(block), "v")
        np.fill_diagonal(matrix, 1.0)
        keys = [models[i].key for i in block["models"]]
        if len(keys) < 4 or not np.isfinite(matrix).all():
            continue
        index = {models[i].key: i for i in block["models"]}
        segments = layout(neighbour_joining(profile_distances(matrix), keys))
        found.append(
            {
                "selection": block["selection"],
                "metric": block["metric"],
                "n": block["n"],
                "k": block["k"],
                "leaves": len(keys),
                "segments": [
                    [
                        number(s["x"], 4),
                        number(s["y"], 4),
                        number(s["x2"], 4),
                        number(s["y2"], 4),
                        index.get(str(s["name"])),
                    ]
                    for s in segments
                ],
            }
        )
    return found
