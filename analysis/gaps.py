# SPDX-License-Identifier: Apache-2.0
"""Gaps: regions where coverage or agreement fails, each with its evidence, ranked within its kind.

The kinds share one idea of severity, the *share lost* of what the reference region has, in
0..1; it is 0 where a test was made and does not pass a false discovery rate of 5 %. Gaps without a
p-value are counted: nothing was tested, and they rank after those that passed a test.
``docs/explanation/gaps.md`` defines every statistic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pandas as pd

from ..schemas.cards import ModelCard
from ..schemas.scores import GAPS

#: In the order in which a report tells them.
KINDS = ("coverage", "agreement", "distribution", "density", "retention", "collapse")
Kind = Literal["coverage", "agreement", "distribution", "density", "retention", "collapse"]

#: False discovery rate a tested gap must pass for a severity above 0.
LEVEL = 0.05

#: Metrics contrasted in against out of distribution: local, local, global, global. Best score 1.
CONTRASTED = ("mutual_knn", "cknna", "linear_cka", "distance_correlation")


@dataclass(frozen=True)
class Gap:
    """One region, one statistic.

    Attributes
    ----------
    region : str
        ``element:Po``, ``element:Po|crystal``, ``size:crystal:33-64``, ``set:stratum`` or
        ``in:crystal~out:molecule``.
    n, reference_n : int
        What ``value`` and ``reference`` were taken over.
    lost : float
        Share lost, before the test; below 0 where the region does better than the reference.
    q_value : float, optional
        Given where the tests of the gap's family are more than the rows handed over; else
        Benjamini-Hochberg over the rows with a p-value.
    part : bool
        Of one set of the atlas alone: ranked after gaps of the atlas as a whole.
    """

    kind: Kind
    region: str
    statistic: str
    n: int
    value: float
    reference: float
    lost: float
    evidence: str
    model: str | None = None
    selection: str | None = None
    reference_n: int | None = None
    standard_error: float | None = None
    p_value: float | None = None
    q_value: float | None = None
    part: bool = False


def gap_table(gaps: Iterable[Gap], *, release: str) -> pd.DataFrame:
    """The gaps table: q-values within (kind, statistic), severities, ranks within each kind."""
    table = pd.DataFrame([asdict(g) for g in gaps], columns=list(Gap.__dataclass_fields__))
    for column in ("value", "reference", "standard_error", "p_value", "q_value", "lost"):
        table[column] = table[column].astype("float64")
    for column in ("model", "selection"):
        table[column] = table[column].astype(object).where(table[column].notna(), None)
    table["reference_n"] = table["reference_n"].astype("Int64")
    table["n"] = table["n"].astype("int64")
    given = table["q_value"].notna()
    table.loc[~given, "q_value"] = false_discovery(table[~given], ["kind", "statistic"])
    shown = table["p_value"].isna() | (table["q_value"] < LEVEL)
    table["severity"] = table["lost"].clip(0.0, 1.0).where(shown, 0.0).fillna(0.0)
    order = {kind: i for i, kind in enumerate(KINDS)}
    table["order"] = table["kind"].map(order)
    # Proven, then counted, then tested and not proven.
    table["proof"] = np.where(table["q_value"] < LEVEL, 0, np.where(table["p_value"].isna(), 1, 2))
    table["part"] = table["part"].astype(bool)
    keys = {"order": True, "proof": True, "part": True, "severity": False, "q_value": True}
    keys |= {"lost": False, "n": False, "region": True, "model": True, "statistic": True}
    table = table.sort_values(list(keys), ascending=list(keys.values()), kind="stable")
    table["rank"] = (table.groupby("kind").cumcount() + 1).astype("int64")
    table["release"] = release
    return table[list(GAPS.columns)].reset_index(drop=True)


def false_discovery(table: pd.DataFrame, within: list[str]) -> pd.Series:
    """Benjamini-Hochberg q-values of ``p_value`` within groups; null where there is no p-value."""
    from scipy.stats import false_discovery_control

    q = pd.Series(np.nan, index=table.index, dtype="float64")
    tested = table[table["p_value"].notna()]
    for _, group in tested.groupby(within, sort=False):
        q.loc[group.index] = false_discovery_control(group["p_value"].to_numpy(float))
    return q


def distribution_gaps(
    pairs: pd.DataFrame, selections: pd.DataFrame, *, cards: Mapping[str, ModelCard]
) -> list[Gap]:
    """Alignment with its partners that each model loses outside its training domains.

    For every contrast and metric a model's calibrated alignment is averaged over draws, then over
    partners of other families (each family once; over its own variants only where there is no
    other), inside and outside both models' training domains, at equal n. Partners share the model
    and its rows, so their errors are not independent: they are taken as fully correlated, which
    makes the standard error of a mean the mean of the standard errors, an upper bound. The p-value
    is one-sided (less alignment outside) from the normal distribution.

    Parameters
    ----------
    pairs, selections : DataFrame
        The score tables ``scores/pairs.parquet`` and ``scores/selections.parquet``.
    cards : mapping of model to card
        Families; and default layers, others than which are named in the statistic.
    """
    columns = ["selection", "contrast", "group", "side"]
    contrasts = selections.loc[selections["role"] == "contrast", columns]
    scores = pairs[pairs["metric"].isin(CONTRASTED)].merge(contrasts, on="selection")
    if scores.empty:
        return []
    scores = _calibrated(scores)
    # Draws of one side first: what is left is one row a pair, side and metric.
    keys = ["contrast", "metric", "side", "group", "chart_a", "chart_b"]
    means = scores.groupby(keys, sort=False)[["score", "error", "n"]].mean().reset_index()
    swapped = means.rename(columns={"chart_a": "chart_b", "chart_b": "chart_a"})
    both = pd.concat([means, swapped], ignore_index=True)
    gaps = []
    of_model = both.groupby(["contrast", "metric", "chart_a"], sort=False)
    for (contrast, metric, chart), rows in of_model:
        wide = rows.pivot_table(
            index=["chart_b", "group"], columns="side", values=["score", "error", "n"]
        ).dropna()
        if wide.empty or set(wide["score"].columns) != {"in", "out"}:
            continue
        model, layer = str(chart).split("/", 1)
        default = cards[model].default_layer == layer
        statistic = str(metric) if default else f"{metric}[{layer}]"
        families = [cards[str(b).split("/", 1)[0]].family for b, _ in wide.index]
        others = np.array([f != cards[model].family for f in families])
        if others.any():
            wide = wide[others]
            families = [f for f, other in zip(families, others, strict=True) if other]
        gaps.append(_distribution_gap(str(contrast), statistic, model, wide, families))
    return gaps


def _calibrated(scores: pd.DataFrame) -> pd.DataFrame:
    """Score on the scale 0 = null quantile, 1 = best, its error, and the charts' names."""
    tested = scores["null_quantile"].notna()
    width = (1.0 - scores["null_quantile"]).where(tested, 1.0)
    return scores.assign(
        score=scores["calibrated"].where(tested, scores["value"]),
        error=scores["standard_error"] / width,
        chart_a=_chart_names(scores, "a"),
        chart_b=_chart_names(scores, "b"),
    ).dropna(subset=["score", "error"])


def _chart_names(scores: pd.DataFrame, side: str) -> pd.Series:
    return scores[f"model_{side}"] + "/" + scores[f"layer_{side}"]


def count(number: int, noun: str) -> str:
    """``1 model``, ``2 models``, ``2 families``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith("y") else f"{number} {noun}s"


def _distribution_gap(
    contrast: str, statistic: str, model: str, wide: pd.DataFrame, families: Sequence[str]
) -> Gap:
    from scipy.stats import norm

    means = wide.groupby(list(families), sort=True).mean().mean()
    inside, outside = float(means["score", "in"]), float(means["score", "out"])
    error = float(np.hypot(means["error", "in"], means["error", "out"]))
    difference = inside - outside
    p = float(norm.sf(difference / error)) if error > 0 else float(difference <= 0)
    inner, outer = (part.split(":")[1] for part in contrast.split("~"))
    alike = "like kinds" if inner == outer else "kinds differ: not like for like"
    low, high = int(wide["n", "in"].min()), int(wide["n", "in"].max())
    n = f"{low}" if low == high else f"{low}-{high}"
    return Gap(
        kind="distribution",
        region=contrast,
        model=model,
        statistic=statistic,
        n=low,
        reference_n=low,
        value=outside,
        reference=inside,
        standard_error=error,
        p_value=p,
        lost=difference / inside if inside > 0 else 0.0,
        evidence=(
            f"mean calibrated {statistic} with {count(len(wide), 'model')} of "
            f"{count(len(set(families)), 'family')}: {inside:.3f} on {inner}s inside both models' "
            f"training domains, {outside:.3f} on {outer}s outside both (n = {n} each; {alike})"
        ),
    )
