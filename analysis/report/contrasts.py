# SPDX-License-Identifier: Apache-2.0
"""Selections by name, and pairs of models in distribution against out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .data import Model, Scores, metric_of, number, records


def label(selection: str) -> str:
    """A selection's name as words: ``exotic:f_block`` is ``Exotic: f block``."""
    base, _, model = selection.partition("|")
    words = base.replace("_", " ").replace(":", ": ")
    words = words[:1].upper() + words[1:]
    return f"{words}, rows of {model}" if model else words


def contrast_label(contrast: str) -> str:
    """``in:crystal~out:molecule`` as words."""
    inside, outside = kinds_of(contrast)
    return f"in: {inside}s, out: {outside}s"


def kinds_of(contrast: str) -> tuple[str, str]:
    """Kind of matter inside and outside, of ``in:crystal~out:molecule``."""
    inner, _, outer = contrast.partition("~")
    return inner.removeprefix("in:"), outer.removeprefix("out:")


def relation(a: Model, b: Model) -> str:
    """How two models are related: by family, else by a training set both name."""
    if a.card["family"] == b.card["family"]:
        return "same family"
    return "shared training set" if a.training_sets & b.training_sets else "other family and data"


def points(scores: Scores, models: Sequence[Model]) -> list[dict[str, Any]]:
    """One entry a contrast, pair, metric and k: the mean over the draws of either side.

    ``in`` and ``out`` hold value ``v``, calibrated ``c``, the standard errors ``s`` and ``e`` of
    either (root mean square of the draws'), largest p-value ``p``, and the number of draws;
    ``n`` is the same for all of them.
    """
    index = {m.key: m for m in models}
    sides = scores.selections.loc[
        scores.selections["role"] == "contrast", ["selection", "contrast", "group", "side"]
    ]
    rows = scores.pairs.merge(sides, on="selection")
    rows = rows[rows["a"].isin(list(index)) & rows["b"].isin(list(index))]
    keys = ["contrast", "group", "metric", "k", "n", "a", "b"]
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in records(_side_means(rows, [*keys, "side"])):
        key = tuple(None if pd.isna(row[name]) else row[name] for name in keys)
        contrast, group, metric, k, n, a, b = (row[name] for name in keys)
        entry = found.setdefault(
            key,
            {
                "contrast": contrast,
                "group": group,
                "metric": metric,
                "k": None if pd.isna(k) else int(k),
                "n": int(n),
                "a": index[a].index,
                "b": index[b].index,
                "relation": relation(index[a], index[b]),
                "permutations": int(row["permutations"]),
            },
        )
        if pd.notna(row["v"]):
            entry[row["side"]] = {
                "v": number(row["v"], 5),
                "c": number(row["c"], 5),
                "s": number(row["s"], 4),
                "e": number(row["e"], 4),
                "p": number(row["p"], 4),
                "draws": int(row["draws"]),
            }
    return [entry for entry in found.values() if "in" in entry and "out" in entry]


def _side_means(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Means over the draws of a side; errors on the raw and the calibrated scale."""
    settings = rows[["metric", "n", "k"]].drop_duplicates()
    settings["best"] = [
        metric_of(row["metric"]).best(row["n"], row["k"]) for row in records(settings)
    ]
    rows = rows.merge(settings, on=["metric", "n", "k"])
    # The calibrated value is the raw one, shifted and divided by this width.
    width = (rows["best"] - rows["null_quantile"]).abs()
    rows["s"] = rows["standard_error"] ** 2
    rows["e"] = (rows["standard_error"] / width.where(width > 0)) ** 2
    means = (
        rows.groupby(keys, sort=False, dropna=False)
        .agg(
            v=("value", "mean"),
            c=("calibrated", "mean"),
            s=("s", "mean"),
            e=("e", "mean"),
            p=("p_value", "max"),
            draws=("value", "size"),
            permutations=("permutations", "max"),
        )
        .reset_index()
    )
    means[["s", "e"]] = np.sqrt(means[["s", "e"]])
    return means


def contrast_summaries(
    found: Sequence[Mapping[str, Any]], models: Sequence[Model], *, metric: str = "mutual_knn"
) -> list[dict[str, Any]]:
    """Each contrast in a few numbers; of learned 3D models only, where there are any.

    Contrasts of like kinds come first: between kinds, how much the structures differ among
    themselves changes as well. A pair is compared with itself only, at one n for both sides; the n
    of different pairs may differ and is given as a range. Calibrated values, or raw ones
    (``scale``) where no null was drawn.
    """
    default = {m.index for m in models if m.default}
    three_d = {m.index for m in models if m.three_d and m.default}
    summaries = []
    for contrast in dict.fromkeys(p["contrast"] for p in found):
        own = [p for p in found if p["contrast"] == contrast and p["metric"] == metric]
        own = [p for p in own if {p["a"], p["b"]} <= default]
        spatial = [p for p in own if {p["a"], p["b"]} <= three_d]
        tested = [p for p in spatial or own if _both(p, "c")]
        chosen, key = (tested, "c") if tested else (spatial or own, "v")
        if not chosen:
            continue
        inside = np.array([p["in"][key] for p in chosen])
        outside = np.array([p["out"][key] for p in chosen])
        sizes = [p["n"] for p in chosen]
        summaries.append(
            {
                "contrast": contrast,
                "inner": kinds_of(contrast)[0],
                "outer": kinds_of(contrast)[1],
                "like": len(set(kinds_of(contrast))) == 1,
                "metric": metric,
                "scale": "calibrated" if key == "c" else "raw",
                "k": chosen[0]["k"],
                "spatial": bool(spatial),
                "members": [models[i].key for i in sorted({p[x] for p in chosen for x in "ab"})],
                "pairs": len(chosen),
                "inside": number(inside.mean()),
                "outside": number(outside.mean()),
                "change": number((outside - inside).mean()),
                "fell": int((outside < inside).sum()),
                "n_min": min(sizes),
                "n_max": max(sizes),
            }
        )
    return sorted(summaries, key=lambda s: (not s["like"], -s["pairs"]))


def _both(point: Mapping[str, Any], key: str) -> bool:
    return point["in"][key] is not None and point["out"][key] is not None
