# SPDX-License-Identifier: Apache-2.0
"""Alignment in against out of distribution, local and global: one tidy row a pair and metric.

As Fig. 2C of arXiv 2512.03750: pairs of models on rows inside both models' training domains
against rows outside both, at one number of rows.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...schemas.retention import CONTRASTS
from .context import Evidence, Findings

PATH = "scores/contrasts.parquet"

#: Metric -> whether it sees neighbourhoods or the whole space.
SCALES = {
    "mutual_knn": "local",
    "cknna": "local",
    "linear_cka": "global",
    "distance_correlation": "global",
    "information_imbalance": "global",
}
_PAIR = ["contrast", "group", "model_a", "layer_a", "model_b", "layer_b", "metric"]
_SIDES = {"in": "inside", "out": "outside"}


def contrast_stage(evidence: Evidence) -> Findings:
    """Contrasts of the pairs' scores; writes ``scores/contrasts.parquet``.

    Draws of a side are averaged first. The standard error of the difference takes both sides as
    independent (they share no row) and the draws of one side as fully correlated, which they are
    where they overlap: an upper bound.
    """
    pairs, selections = (evidence.tables[f"scores/{t}.parquet"] for t in ("pairs", "selections"))
    table = contrasts(pairs, selections, release=evidence.release)
    notes = []
    if table.empty:
        notes.append("contrasts: no two models have enough rows both inside and outside")
    return Findings({PATH: table}, [], notes)


def contrasts(pairs: pd.DataFrame, selections: pd.DataFrame, *, release: str) -> pd.DataFrame:
    """Inside, outside and their difference for every pair, metric and contrast.

    Parameters
    ----------
    pairs, selections : DataFrame
        The score tables ``scores/pairs.parquet`` and ``scores/selections.parquet``.

    Returns
    -------
    DataFrame
        As ``schemas.retention.CONTRASTS``. Values are as the metric gives them: the information
        imbalance (from a to b; the pair stands there both ways round) is 0 at best, all others 1;
        calibrated ones are 1 at best throughout.
    """
    columns = ["selection", "contrast", "group", "side"]
    sides = selections.loc[selections["role"] == "contrast", columns]
    scores = pairs[pairs["metric"].isin(SCALES)].merge(sides, on="selection")
    scores = scores.dropna(subset=["value"])
    grouped = scores.groupby([*_PAIR, "side"], sort=False)
    means = grouped[["value", "standard_error", "calibrated"]].mean()
    means["draws"], means["n"] = grouped.size(), grouped["n"].first()
    means["k"] = grouped["k"].first()
    parts = {
        name: means.xs(side, level="side").add_suffix(f"_{name}")
        if side in means.index.get_level_values("side")
        else means.iloc[:0].droplevel("side").add_suffix(f"_{name}")
        for side, name in _SIDES.items()
    }
    both = parts["inside"].join(parts["outside"], how="inner").reset_index()
    table = pd.DataFrame(
        {
            "release": release,
            **{name: both[name] for name in _PAIR},
            "scale": both["metric"].map(SCALES),
            "n": both["n_inside"],
            "k": both["k_inside"],
            "draws_inside": both["draws_inside"],
            "draws_outside": both["draws_outside"],
            "inside": both["value_inside"],
            "outside": both["value_outside"],
            "difference": both["value_inside"] - both["value_outside"],
            "standard_error": np.hypot(
                both["standard_error_inside"].astype(float),
                both["standard_error_outside"].astype(float),
            ),
            "calibrated_inside": both["calibrated_inside"],
            "calibrated_outside": both["calibrated_outside"],
        }
    )[list(CONTRASTS.columns)]
    for name, column in CONTRASTS.columns.items():
        kind = str(column.dtype)
        known = kind in ("float64", "int64", "Int64")
        table[name] = table[name].astype(kind if known else object)
    return table.reset_index(drop=True)
