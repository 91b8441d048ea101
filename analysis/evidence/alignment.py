# SPDX-License-Identifier: Apache-2.0
"""Performance against alignment: do models that err less lie nearer to the best one?

As Figs 1B and 3 of arXiv:2512.03750, with intervals, and with families told apart.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.performance import PERFORMANCE_ALIGNMENT, PERFORMANCE_CORRELATION
from ..selections import PLURAL
from ..tables import typed
from .context import Evidence, Findings
from .energies import Floats
from .performance import TABLE as PERFORMANCE_TABLE

TABLE = "scores/performance_alignment.parquet"
CORRELATIONS = "scores/performance_correlation.parquet"

#: Metrics of alignment set against errors: local, local, global, global. Best score 1.
METRICS = ("mutual_knn", "cknna", "distance_correlation", "linear_cka")

#: Models whose embeddings are the reference wherever present, by the start of their id; the best
#: performer else. UMA Medium is the study's reference.
NAMED_REFERENCE = "uma-m"

#: Bootstrap resamples of an interval, and permutations of a p-value.
RESAMPLES = 2000

#: Fewest points of a correlation, and fewest families of a bootstrap over families.
POINTS = 5

#: Confidence of the intervals.
CONFIDENCE = 0.95

Scope = Literal["all", "across", "within"]

_REGION = ["set", "stratum", "label"]


def alignment_stage(evidence: Evidence) -> Findings:
    """Errors beside calibrated alignment to one reference, and how they correlate.

    One reference a region: the model called :data:`NAMED_REFERENCE` if the selection holds it,
    else the learned model with the smallest error of its own energies (of the probe, where none
    has energies). Alignment is taken from the selection of the region's stratum, or for a whole
    set from that of its kind of matter. Needs ``scores/performance.parquet`` of an earlier stage.

    Returns
    -------
    Findings
        ``scores/performance_alignment.parquet``, ``scores/performance_correlation.parquet``.
    """
    found = Findings()
    pairs = _default_pairs(evidence)
    rows: list[dict[str, Any]] = []
    errors = evidence.tables[PERFORMANCE_TABLE]
    errors = errors[errors["method"] != "baseline"]
    for _, own in errors.groupby(_REGION, sort=False, dropna=False):
        set_id, stratum, label = own.iloc[0][_REGION]
        stratum = None if pd.isna(stratum) else str(stratum)
        where = {"set": set_id, "stratum": stratum, "label": label}
        selection = f"{set_id}:{stratum}" if stratum else _of_kind(evidence, str(set_id))
        joined = _joined(evidence, own, pairs, selection)
        if not joined:
            name = set_id if stratum is None else f"{set_id}:{stratum}"
            found.notes.append(
                f"performance against alignment on {name}: no reference with alignment scores on "
                f"the selection {selection}"
            )
        rows += [{**where, "release": evidence.release, **row} for row in joined]
    table = pd.DataFrame(rows, columns=list(PERFORMANCE_ALIGNMENT.columns))
    table = typed(table, PERFORMANCE_ALIGNMENT).astype({"counted": bool})
    summary = correlation_table(table, seed=evidence.seed)
    found.tables = {TABLE: table, CORRELATIONS: summary}
    most = 0 if summary.empty else int(summary["families"].max())
    found.notes.append(
        f"performance against alignment: {len(summary)} correlations, of {most} families at most; "
        "families share data and design, so that few families prove little"
    )
    return found


def _of_kind(evidence: Evidence, set_id: str) -> str:
    table = evidence.reader.structures
    return PLURAL[str(table.loc[table["set"] == set_id, "kind"].mode().iloc[0])]


def _default_pairs(evidence: Evidence) -> pd.DataFrame:
    """Pair scores between default layers, both ways round, on the scale 0 = null, 1 = best."""
    pairs = evidence.tables["scores/pairs.parquet"]
    pairs = pairs[pairs["metric"].isin(METRICS)]
    layers = {m: c.layer.name for m, c in evidence.charts.items()}
    for side in ("a", "b"):
        pairs = pairs[pairs[f"layer_{side}"] == pairs[f"model_{side}"].map(layers)]
    tested = pairs["null_quantile"].notna()
    width = (1.0 - pairs["null_quantile"]).where(tested, 1.0)
    pairs = pairs.assign(
        alignment=pairs["calibrated"].where(tested, pairs["value"]),
        alignment_standard_error=pairs["standard_error"] / width,
    ).dropna(subset=["alignment"])
    kept = ["selection", "metric", "value", "alignment", "alignment_standard_error", "n", "k"]
    kept += ["permutations", "seed"]
    ways = [
        pairs[[*kept, f"model_{a}", f"model_{b}"]].rename(
            columns={f"model_{a}": "reference", f"model_{b}": "model"}
        )
        for a, b in (("a", "b"), ("b", "a"))
    ]
    return pd.concat(ways, ignore_index=True)


def _joined(
    evidence: Evidence, errors: pd.DataFrame, pairs: pd.DataFrame, selection: str
) -> list[dict[str, Any]]:
    """Rows of one region."""
    core = pairs[pairs["selection"] == selection]
    chosen = _reference(evidence, errors, set(core["reference"]))
    if chosen is None:
        return []
    reference, rule = chosen
    part = pairs["selection"] == (selection + "|" + pairs["model"])
    near = pairs[(pairs["selection"].eq(selection) | part) & (pairs["reference"] == reference)]
    rows = errors.drop(columns=["release", *_REGION, "seed"]).rename(
        columns={"n": "n_errors", "standard_error": "mae_standard_error"}
    )
    both = rows.merge(near, on="model")
    cards = {m: c.card for m, c in evidence.charts.items()}
    both["counted"] = (
        both["learned"]
        & ~both["model"].map(lambda m: cards[m].context_free).astype(bool)
        & (both["role"] == "core")
        & (both["selection"] == selection)
    )
    both = both.assign(reference_rule=rule, reference_family=evidence.charts[reference].card.family)
    order = {m: i for i, m in enumerate(METRICS)}
    both = both.sort_values(
        ["method", "metric", "mae", "model"],
        key=lambda c: c.map(order) if c.name == "metric" else c,
        kind="stable",
    )
    names = [c for c in PERFORMANCE_ALIGNMENT.columns if c not in (*_REGION, "release")]
    return [{str(k): v for k, v in row.items()} for row in both[names].to_dict("records")]


def _reference(
    evidence: Evidence, errors: pd.DataFrame, scored: set[str]
) -> tuple[str, str] | None:
    """The model that alignment is measured to, and why it."""
    named = sorted(m for m in scored if m.startswith(NAMED_REFERENCE))
    if named:
        return named[0], "named"
    able = errors[
        errors["learned"] & (errors["role"] == "core") & errors["model"].isin(list(scored))
    ]
    able = able[~able["model"].map(lambda m: evidence.charts[m].card.context_free).astype(bool)]
    for method in ("own_energy", "probe"):
        ranked = able[able["method"] == method].sort_values(["mae", "model"])
        if len(ranked):
            return str(ranked["model"].iloc[0]), "best_performer"
    return None


@dataclass(frozen=True)
class Correlation:
    """A correlation, its 95 % interval and two-sided permutation p-value; NaN where undefined."""

    value: float
    low: float
    high: float
    p_value: float


def correlation_table(table: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Correlations of log10(error) with alignment for every region, method and metric.

    Only rows that count are used. Scopes:

    ``all``
        Every model a point. The interval resamples families with all their models; there is no
        p-value, for models of one family are not exchangeable with others.
    ``across``
        Every family a point (means over its models), the reference's own left out. Interval by
        Fisher's z (for Spearman with Fieller's factor), p-value by permutation.
    ``within``
        Every model of a family of two or more, less the mean of its family: the correlation given
        the family. Interval by Fisher's z, permutations inside families.

    Below :data:`POINTS` points (within: that many more than families) there is no row.
    """
    rows: list[dict[str, Any]] = []
    keys = [*_REGION, "method", "metric"]
    shared = ["release", *keys, "selection", "reference"]
    for _, part in table[table["counted"] & (table["mae"] > 0)].groupby(
        keys, sort=False, dropna=False
    ):
        first = part.iloc[0]
        about = {name: first[name] for name in shared}
        for scope, points in _scopes(part, str(first["reference_family"])).items():
            for statistic in ("spearman", "pearson"):
                found = correlate(
                    points["alignment"].to_numpy(),
                    points["error"].to_numpy(),
                    pd.factorize(points["family"])[0],
                    scope=scope,
                    ranked=statistic == "spearman",
                    seed=seed,
                )
                rows.append(
                    {
                        **about,
                        "scope": scope,
                        "statistic": statistic,
                        **asdict(found),
                        "n": len(points),
                        "models": int(points["models"].sum()),
                        "families": points["family"].nunique(),
                        "resamples": RESAMPLES,
                        "seed": seed,
                    }
                )
    frame = pd.DataFrame(rows, columns=list(PERFORMANCE_CORRELATION.columns))
    frame = typed(frame, PERFORMANCE_CORRELATION)
    return frame[frame["value"].notna()].reset_index(drop=True)


def _scopes(part: pd.DataFrame, reference_family: str) -> dict[Scope, pd.DataFrame]:
    """Points of each scope with enough of them: family, alignment, log10 error, models."""
    points = part[["family", "alignment"]].assign(error=np.log10(part["mae"]), models=1)
    found: dict[Scope, pd.DataFrame] = {}
    if len(points) >= POINTS and points["family"].nunique() > 2:
        found["all"] = points
    others = points[points["family"] != reference_family]
    means = others.groupby("family", as_index=False).agg(
        {"alignment": "mean", "error": "mean", "models": "sum"}
    )
    if len(means) >= POINTS:
        found["across"] = means
    kin = points[points.groupby("family")["family"].transform("size") > 1]
    families = kin["family"].nunique()
    if families > 1 and len(kin) >= POINTS + families:
        centre = kin.groupby("family")[["alignment", "error"]].transform("mean")
        found["within"] = kin.assign(
            alignment=kin["alignment"] - centre["alignment"], error=kin["error"] - centre["error"]
        )
    return found


def correlate(
    x: Floats,
    y: Floats,
    families: NDArray[np.intp],
    *,
    scope: Scope,
    ranked: bool,
    seed: int = 0,
) -> Correlation:
    """Pearson's correlation, or Spearman's where ``ranked``, of points that come in families.

    Parameters
    ----------
    x, y : float64 arrays, shape (n,)
        Within families: less their families' means.
    families : int array, shape (n,)
        Codes 0..f-1.
    scope : {"all", "across", "within"}
        How the points hang together, see :func:`correlation_table`.
    """
    random = np.random.default_rng(seed)
    once = np.ones((1, len(x)))
    value = float(_weighted(x, y, once, ranked)[0])
    if not np.isfinite(value):
        return Correlation(value, np.nan, np.nan, np.nan)
    count = int(families.max()) + 1
    if scope == "all":
        low, high = _family_interval(x, y, families, random, ranked) if count >= POINTS else _NONE
        return Correlation(value, low, high, np.nan)
    fixed = count - 1 if scope == "within" else 0
    low, high = _fisher_interval(value, len(x) - fixed, ranked)
    if ranked:
        x, y = (_ranks(v, once)[0] for v in (x, y))
    blocks = families if scope == "within" else np.zeros_like(families)
    order = np.argsort(blocks, kind="stable")
    places = np.argsort(blocks + random.random((RESAMPLES, len(x))), axis=1)
    a, b = x[order] - x.mean(), y - y.mean()
    null = (b[places] @ a) / np.sqrt(np.square(a).sum() * np.square(b).sum())
    p_value = float((1 + (np.abs(null) >= abs(value) - 1e-12).sum()) / (RESAMPLES + 1))
    return Correlation(value, low, high, p_value)


_NONE = (float("nan"), float("nan"))


def _family_interval(
    x: Floats, y: Floats, families: NDArray[np.intp], random: np.random.Generator, ranked: bool
) -> tuple[float, float]:
    """Percentiles of the correlation when families are drawn with replacement."""
    count = int(families.max()) + 1
    drawn = random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)[:, families]
    found = _weighted(x, y, drawn.astype(np.float64), ranked)
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.nanquantile(found, (tail, 1.0 - tail))
    return float(low), float(high)


def _fisher_interval(value: float, n: int, ranked: bool) -> tuple[float, float]:
    """Interval of a correlation of n independent points; for ranks after Fieller (1957)."""
    from scipy.stats import norm

    if abs(value) > 1.0 - 1e-9:
        return _NONE
    width = float(norm.ppf(0.5 + CONFIDENCE / 2.0)) * np.sqrt((1.06 if ranked else 1.0) / (n - 3))
    centre = np.arctanh(value)
    return float(np.tanh(centre - width)), float(np.tanh(centre + width))


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Mean ranks in samples that hold value j ``weights[s, j]`` times, shape (s, n)."""
    below = (values[None, :] < values[:, None]).astype(np.float64)
    equal = (values[None, :] == values[:, None]).astype(np.float64)
    return weights @ (below + 0.5 * equal).T + 0.5


def _weighted(x: Floats, y: Floats, weights: Floats, ranked: bool) -> Floats:
    """Correlation in each sample, shape (s,); NaN where a side does not vary."""
    shares = weights / weights.sum(axis=1, keepdims=True)
    a, b = (_ranks(v, weights) if ranked else np.broadcast_to(v, weights.shape) for v in (x, y))
    scales = [max(float(np.abs(v).max()), 1e-300) for v in (a, b)]
    a, b = (v - (shares * v).sum(axis=1, keepdims=True) for v in (a, b))
    spreads = [(shares * v * v).sum(axis=1) for v in (a, b)]
    varies = (spreads[0] > (1e-9 * scales[0]) ** 2) & (spreads[1] > (1e-9 * scales[1]) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (shares * a * b).sum(axis=1) / np.sqrt(spreads[0] * spreads[1])
    return np.where(varies, np.clip(found, -1.0, 1.0), np.nan)
