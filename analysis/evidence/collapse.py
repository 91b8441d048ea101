# SPDX-License-Identifier: Apache-2.0
"""Collapse: do a model's rows outside its training domains fill fewer dimensions than inside?

Each statistic of a stratum's rows (of unit length) is held against random subsets of the same size
of rows inside the model's training domains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...schemas.retention import COLLAPSE
from ..blocks import normalise_rows
from ..charts import Chart
from ..effective_rank import participation_ratio
from ..gaps import Gap
from ..metrics.intrinsic_dimension import intrinsic_dimension
from ..selections import ids_sha256, subsample
from .context import Evidence, Findings
from .cues import composition_features
from .readout import Array

PATH = "scores/collapse.parquet"

#: Random subsets a statistic is held against; fewer for those that need neighbours or eigenvalues.
DRAWS, FEWER_DRAWS = 249, 99
#: Rows of a sample: strata are cut to the next of these sizes below theirs.
SIZES = (20, 30, 40, 60, 80, 100, 150, 200)
#: Least p-value: normal tails are not to be trusted further.
FLOOR = 1e-6
#: Neighbours a row of the maximum-likelihood dimension.
NEIGHBOURS = 10

Statistic = Callable[[Array], float]


def isotropy(x: Array) -> float:
    """1 - mean cosine between rows of unit length: 1 without a preferred direction, 0 if all equal.

    Ethayarajh 2019 (arXiv:1909.00512) measures anisotropy by the mean cosine.
    """
    n, total = len(x), x.sum(axis=0)
    return float(1.0 - (total @ total - n) / (n * (n - 1)))


def minor_share(x: Array) -> float:
    """Share of the variance that is not along the one direction that has most; 0 for a line."""
    from scipy.linalg import eigh

    centred = x - x.mean(axis=0)
    product = centred @ centred.T if len(x) < x.shape[1] else centred.T @ centred
    last = len(product) - 1
    top = eigh(product, eigvals_only=True, subset_by_index=(last, last))[0]
    return float(1.0 - top / np.trace(product))


def _twonn(x: Array) -> float:
    return intrinsic_dimension(x, method="twonn")


def _likelihood(x: Array) -> float:
    if len(np.unique(x, axis=0)) <= NEIGHBOURS + 1:
        return float(np.nan)
    return intrinsic_dimension(x, method="mle", k=NEIGHBOURS)


#: Statistic -> function of unit rows and draws. All are smaller where an embedding has collapsed.
STATISTICS: dict[str, tuple[Statistic, int]] = {
    "effective_rank": (participation_ratio, DRAWS),
    "isotropy": (isotropy, DRAWS),
    "minor_share": (minor_share, FEWER_DRAWS),
    "dimension_twonn": (_twonn, FEWER_DRAWS),
    "dimension_mle": (_likelihood, FEWER_DRAWS),
}


def collapse_stage(evidence: Evidence) -> Findings:
    """Dimensions of every stratum outside a model's training domains; ``scores/collapse.parquet``.

    Every statistic is held against random subsets of the same size inside. A stratum is less
    varied than a mixture of strata to begin with: how much less is taken from the same statistic
    of what the formulas say, and the subsets' values are scaled down by it before the test.
    """
    notes: list[str] = []
    formulas: Array | None = None
    try:
        formulas = unit_rows(composition_features(evidence.structures))
    except ModuleNotFoundError as error:
        notes.append(
            f"collapse is not held against what formulas say: {error.name} is not installed; "
            "run: pip install 'matteratlas[sources]'"
        )
    rows: list[dict[str, Any]] = []
    held: dict[tuple[str, int], dict[str, Array]] = {}
    for key in evidence.relations.columns:
        chart = evidence.charts.get(str(key))
        if chart is None:
            continue
        found = list(_model_rows(evidence, chart, formulas, held))
        if not found:
            notes.append(
                f"collapse of {key}: fewer than {SIZES[0]} rows in a stratum out of distribution "
                f"or {2 * SIZES[0]} in distribution"
            )
        rows += found
    table = pd.DataFrame(rows, columns=list(COLLAPSE.columns))
    for name, column in COLLAPSE.columns.items():
        known = str(column.dtype) in ("float64", "int64")
        table[name] = table[name].astype(str(column.dtype) if known else object)
    return Findings({PATH: table}, list(_gaps(table)), notes)


def unit_rows(x: Array) -> Array:
    """Rows of unit length, as for neighbours."""
    return normalise_rows(np.ascontiguousarray(x, dtype=np.float64), "l2")


def _model_rows(
    evidence: Evidence,
    chart: Chart,
    formulas: Array | None,
    held: dict[tuple[str, int], dict[str, Array]],
) -> Iterator[dict[str, Any]]:
    key, seed = chart.key, evidence.seed
    structures = evidence.structures
    own = evidence.reader.presence[key].to_numpy()
    relation = evidence.relations[key].to_numpy()
    ids = evidence.reader.presence.index
    inside, outside = ids[own & (relation == "in")], ids[own & (relation == "out")]
    if len(inside) < 2 * SIZES[0]:
        return
    pool = subsample(list(inside), evidence.max_rows, seed=seed, label="collapse:inside")
    place = pd.Series(np.arange(len(structures)), index=structures.index)
    base = unit_rows(evidence.reader.rows(key, pool))
    said = None if formulas is None else formulas[place.loc[list(pool)].to_numpy()]
    name_of_pool = ids_sha256(pool)
    own_draws: dict[int, dict[str, Array]] = {}
    region = (structures["set"] + ":" + structures["stratum"]).loc[outside]
    for name, part in region.groupby(region, sort=True):
        size = max((s for s in SIZES if s <= min(len(part), len(base) // 2)), default=0)
        if not size:
            continue
        taken = subsample(list(part.index), size, seed=seed, label=f"collapse:{name}")
        here = unit_rows(evidence.reader.rows(key, taken))
        if size not in own_draws:
            own_draws[size] = draw_statistics(base, size, seed=seed)
        allowed: dict[str, float] = {}
        if formulas is not None and said is not None:
            if (name_of_pool, size) not in held:
                held[name_of_pool, size] = draw_statistics(said, size, seed=seed)
            there = formulas[place.loc[list(taken)].to_numpy()]
            allowed = allowances(there, held[name_of_pool, size])
        for statistic, (measure, _) in STATISTICS.items():
            value, drawn = _value(measure, here), own_draws[size][statistic]
            drawn = widened(drawn[np.isfinite(drawn)], size / len(base))
            if not np.isfinite(value) or not len(drawn):
                continue
            variety = allowed.get(statistic, 1.0)
            low, reference, high = np.quantile(drawn * variety, [0.025, 0.5, 0.975])
            yield {
                "release": evidence.release,
                "model": chart.card.id,
                "version": chart.card.version,
                "layer": chart.layer.name,
                "region": str(name),
                "statistic": statistic,
                "n": size,
                "reference_n": len(base),
                "value": value,
                "inside": float(np.median(drawn)),
                "variety": variety,
                "reference": float(reference),
                "low": float(low),
                "high": float(high),
                "draws": len(drawn),
                "p_value": tail(value, drawn * variety),
                "seed": seed,
            }


def draw_statistics(base: Array, size: int, *, seed: int) -> dict[str, Array]:
    """Every statistic on random subsets of ``size`` rows without replacement, shape (draws,)."""
    random = np.random.default_rng([seed, size])
    subsets = [np.sort(random.choice(len(base), size, replace=False)) for _ in range(DRAWS)]
    return {
        name: np.array([_value(measure, base[rows]) for rows in subsets[:draws]])
        for name, (measure, draws) in STATISTICS.items()
    }


def widened(drawn: Array, share: float) -> Array:
    """Draws as far from their median as samples of other matter would be.

    Subsets that take a share f of all rows overlap: they vary by 1 - f of what independent samples
    do, and all rows inside are a sample themselves, which adds f.
    """
    logs = np.log(np.maximum(drawn, 1e-300))
    middle = np.median(logs) if len(logs) else 0.0
    return np.exp(middle + (logs - middle) * np.sqrt((1.0 + share) / (1.0 - share)))


def allowances(here: Array, drawn: dict[str, Array]) -> dict[str, float]:
    """By statistic: how varied a stratum's formulas are against subsets inside; 1 at most."""
    out = {}
    for name, (measure, _) in STATISTICS.items():
        kept = drawn[name][np.isfinite(drawn[name])]
        value = _value(measure, here)
        usual = float(np.median(kept)) if len(kept) else 0.0
        # Formulas that are all the same say nothing of how varied the arrangements are.
        if np.isfinite(value) and usual > 0:
            out[name] = min(1.0, value / usual)
    return out


def tail(value: float, drawn: Array) -> float:
    """One-sided p-value of a value as small among draws.

    The share of draws at least as small, itself counted. Below all draws: that share at most, and
    less where the normal distribution of their logarithms says so, for draws are few.
    """
    share = float((1 + (drawn <= value).sum()) / (1 + len(drawn)))
    logs = np.log(drawn[drawn > 0])
    if share > 1.0 / (1 + len(drawn)) or len(logs) < 3 or value <= 0 or not logs.std() > 0:
        return share
    from scipy.stats import norm

    z = (np.log(value) - logs.mean()) / logs.std(ddof=1)
    return min(share, max(FLOOR, float(norm.cdf(z))))


def _value(measure: Statistic, x: Array) -> float:
    """A statistic, NaN where rows are all equal."""
    return measure(x) if (x != x[0]).any() else float(np.nan)


def _gaps(table: pd.DataFrame) -> Iterator[Gap]:
    for row in table.to_dict("records"):
        yield Gap(
            kind="collapse",
            region=row["region"],
            model=row["model"],
            statistic=row["statistic"],
            n=row["n"],
            reference_n=row["reference_n"],
            value=row["value"],
            reference=row["reference"],
            p_value=row["p_value"],
            lost=1.0 - row["value"] / row["reference"] if row["reference"] > 0 else 0.0,
            evidence=(
                f"{row['statistic'].replace('_', ' ')} of {row['n']} structures outside the "
                f"training domains of {row['model']}: {row['value']:.3g}; as many random ones "
                f"inside have {row['inside']:.3g}, and {row['reference']:.3g} if they were no "
                f"more varied than these formulas ({row['low']:.3g} to {row['high']:.3g})"
            ),
        )
