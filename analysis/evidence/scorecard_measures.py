# SPDX-License-Identifier: Apache-2.0
"""The measures of a scorecard, each from the score tables that other stages wrote.

Errors of one model's scores with its partners are taken as fully correlated, for they share the
model and its rows: the error of a mean, or median, over partners is the mean of their errors. This
is an upper bound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...schemas.cards import elements_of
from ...schemas.structures import ATOMIC_NUMBERS, KINDS
from ..charts import Chart
from ..gaps import distribution_gaps
from ..selections import PLURAL
from .context import Evidence

#: Standard errors to either side of a value that an interval spans (95 % of a normal's mass).
WIDTH = 1.959963984540054
#: Metrics behind ``_local`` and ``_global``, the first that was scored: those of arXiv:2512.03750.
METRICS = {
    "local": ("cknna", "mutual_knn"),
    "global": ("distance_correlation", "linear_cka"),
}
#: A native probe must explain this much before a share of it is worth telling.
NATIVE = 0.1


@dataclass(frozen=True)
class Entry:
    """One number of one model. Only entries with equal ``peers`` are ranked among each other."""

    model: str
    measure: str
    region: str
    value: float
    low: float
    high: float
    n: int | None
    peers: str | None = None
    note: str | None = None


def around(
    model: str,
    measure: str,
    region: str,
    value: float,
    error: float,
    *,
    n: int | None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    peers: str | None = None,
    note: str | None = None,
) -> Entry:
    """An entry from a value and its standard error; without an error there are no bounds."""
    reach = WIDTH * error
    low, high = max(value - reach, min(value, bounds[0])), min(value + reach, max(value, bounds[1]))
    if not np.isfinite(error):
        low = high = float("nan")
    return Entry(model, measure, region, value, low, high, n, peers, note)


def contextual(chart: Chart) -> bool:
    """Learned, and sees more than elements: what a scorecard ranks and a consensus is made of."""
    return chart.card.learned and not chart.card.context_free


def over_families(rows: pd.DataFrame, *, median: bool = False) -> tuple[float, float]:
    """``score`` and ``error`` over the partners' ``family``: each family once, all weighing alike.

    Means, of errors too; or medians, within families and over them.
    """
    groups = rows.groupby("family", sort=True)[["score", "error"]]
    found = groups.median().median() if median else groups.mean().mean()
    return float(found["score"]), float(found["error"])


def _partners(rows: pd.DataFrame, charts: Mapping[str, Chart]) -> pd.DataFrame:
    """Rows (``model``, ``partner``) whose partner is a learned model of another family."""
    family = {key: chart.card.family for key, chart in charts.items()}
    fit = {key for key, chart in charts.items() if contextual(chart)}
    rows = rows[rows["model"].isin(set(charts)) & rows["partner"].isin(fit)]
    rows = rows.assign(family=rows["partner"].map(family))
    return rows[rows["family"] != rows["model"].map(family)]


def _kind_rows(evidence: Evidence) -> pd.DataFrame:
    """Selections by kind and their partial ones: ``region`` is the kind's name."""
    table = evidence.tables["scores/selections.parquet"]
    kinds = set(table.loc[table["role"] == "kind", "selection"])
    table = table[table["selection"].isin(kinds) | table["parent"].isin(kinds)]
    return table.assign(
        region=table["parent"].where(table["role"] == "partial", table["selection"])
    )


def alignment(evidence: Evidence) -> Iterable[Entry]:
    """Calibrated alignment with the other families, by kind of matter: the consensus."""
    pairs = evidence.tables["scores/pairs.parquet"]
    layers = {key: chart.layer.name for key, chart in evidence.charts.items()}
    for side in ("a", "b"):
        pairs = pairs[pairs[f"layer_{side}"] == pairs[f"model_{side}"].map(layers)]
    chosen = _kind_rows(evidence)[["selection", "role", "region"]]
    pairs = pairs.merge(chosen, on="selection")
    tested = pairs["null_quantile"].notna()
    pairs = pairs.assign(
        score=pairs["calibrated"].where(tested, pairs["value"]),
        error=pairs["standard_error"] / (1.0 - pairs["null_quantile"]).where(tested, 1.0),
    )
    there = pairs.rename(columns={"model_a": "model", "model_b": "partner"})
    back = pairs.rename(columns={"model_b": "model", "model_a": "partner"})
    rows = _partners(pd.concat([there, back], ignore_index=True), evidence.charts)
    for scale, names in METRICS.items():
        metric = next((m for m in names if (rows["metric"] == m).any()), None)
        if metric is None:
            continue
        own = rows[(rows["metric"] == metric) & rows["score"].notna()]
        for (model, region, selection), part in own.groupby(
            ["model", "region", "selection"], sort=False
        ):
            if (part["role"] == "partial").any() and not str(selection).endswith(f"|{model}"):
                continue  # a core model's rows that another lacks some of
            value, error = over_families(part)
            n = int(part["n"].iloc[0])
            yield around(
                str(model),
                f"alignment_{scale}",
                str(region),
                value,
                error,
                n=n,
                bounds=(0.0, 1.0),
                peers=str(selection),
                note=_told(metric, part["family"].nunique(), str(selection), n),
            )


def _told(what: str, families: int, selection: str, n: int) -> str:
    told = f"{what}, mean over {families} other families"
    return told + (f"; on the {n} rows it embedded: not ranked" if "|" in selection else "")


def best_performer(evidence: Evidence) -> Iterable[Entry]:
    """Calibrated alignment with the model that errs least, where energies say which."""
    table = evidence.tables.get("scores/performance_alignment.parquet")
    if table is None or table.empty:
        return
    table = table[table["stratum"].isna() & (table["reference"] != table["model"])]
    for scale, names in METRICS.items():
        own = table[table["metric"].isin(names[:1])]
        # Of methods the reference's own energies, where it has them.
        own = own.sort_values("method", kind="stable").drop_duplicates(["set", "label", "model"])
        rows: list[Any] = list(own.itertuples(index=False))
        for row in rows:
            yield around(
                row.model,
                f"best_performer_{scale}",
                f"{row.set}.{row.label}",
                float(row.alignment),
                float(row.alignment_standard_error),
                n=int(row.n),
                bounds=(0.0, 1.0),
                peers=f"{row.selection}|{row.n}",
                note=f"{row.metric} with {row.reference}",
            )


def distribution(evidence: Evidence) -> Iterable[Entry]:
    """Share of its alignment inside training domains that a model has outside them."""
    gaps = distribution_gaps(
        evidence.tables["scores/pairs.parquet"],
        evidence.tables["scores/selections.parquet"],
        cards={chart.card.id: chart.card for chart in evidence.charts.values()},
    )
    statistics = {g.statistic for g in gaps}
    sides = {str(key): _sides(evidence, str(key)) for key in evidence.relations}
    for scale, names in METRICS.items():
        metric = next((m for m in names if m in statistics), None)
        for gap in (g for g in gaps if g.statistic == metric):
            inner, outer = (part.split(":")[1] for part in gap.region.split("~"))
            if gap.model is None or gap.reference <= 0 or inner != outer:
                continue  # of different kinds: not like for like
            ratio = gap.value / gap.reference
            # d(v/r) <= (dv + ratio dr) / r, and both errors add to that of the difference.
            error = (gap.standard_error or 0.0) / gap.reference * max(1.0, ratio)
            yield around(
                gap.model,
                f"distribution_{scale}",
                PLURAL[inner],
                ratio,
                error,
                n=gap.n,
                bounds=(0.0, np.inf),
                peers=f"{gap.region}:{sides[gap.model]}",
                note=f"{metric}: {gap.value:.3f} outside, {gap.reference:.3f} inside",
            )


def _sides(evidence: Evidence, key: str) -> str:
    """Hash of which rows are inside and outside a model's domains: equal for comparable models."""
    relation = evidence.relations[key].where(evidence.reader.presence[key], "absent")
    return hashlib.sha256("\n".join(relation.astype(str)).encode()).hexdigest()[:8]


def cues(evidence: Evidence) -> Iterable[Entry]:
    """What linear readouts find beyond composition, and what of it is left outside training."""
    table = evidence.tables.get("scores/cues.parquet")
    if table is None or table.empty:
        return
    # What the formula decides anyway says nothing of a model.
    whole = table[(table["side"] == "all") & table["gain"].notna() & ~table["determined"]]
    for (model, region), rows in whole.groupby(["model", "region"], sort=False):
        yield around(
            str(model),
            "cue_gain",
            str(region),
            float(rows["gain"].mean()),
            float(rows["gain_error"].mean()),
            n=int(rows["n"].min()),
            peers=str(region),
            note=f"mean over {len(rows)} cues of the score beyond composition's",
        )
    outside = table[(table["side"] == "outside") & table["retention"].notna()]
    for (model, region), rows in outside.groupby(["model", "region"], sort=False):
        value, low, high = (
            float(rows[c].mean()) for c in ("retention", "retention_low", "retention_high")
        )
        yield Entry(
            str(model),
            "cue_retention",
            str(region),
            value,
            min(low, value),
            max(high, value),
            int(rows["n"].min()),
            str(region),
            f"mean over {len(rows)} cues of the score outside over the bound there",
        )


def transfer(evidence: Evidence) -> Iterable[Entry]:
    """First-hit retrieval by linear maps to and from other families, and probes read across."""
    table = evidence.tables.get("scores/transfer.parquet")
    if table is None or table.empty:
        return
    regions = _kind_rows(evidence).set_index("selection")["region"]
    table = table.assign(
        region=table["selection"].map(regions), score=table["value"], error=table["standard_error"]
    )
    linear = table[(table["map"] == "linear") & table["value"].notna()]
    hits = linear[linear["statistic"] == "recall_at_1"]
    there = hits.rename(columns={"model_a": "model", "model_b": "partner"})
    back = hits.rename(columns={"model_b": "model", "model_a": "partner"})
    across = pd.concat([there, back])
    across = across[across["modality_a"] != across["modality_b"]]
    for measure, rows in (
        ("transfer_from", there),
        ("transfer_to", back),
        ("transfer_across", across),
    ):
        rows = _partners(rows, evidence.charts)
        for model, region, selection, part in _own(rows):
            value, error = over_families(part, median=True)
            told = f"median first hit, {part['family'].nunique()} other families, chance "
            yield around(
                model,
                measure,
                region,
                value,
                error,
                n=int(part["n_test"].iloc[0]),
                bounds=(0.0, 1.0),
                peers=selection,
                note=told + f"{1.0 / part['n_test'].iloc[0]:.3f}",
            )
    probes = linear[linear["statistic"] == "probe_r2"]
    probes = probes.rename(columns={"model_b": "model", "model_a": "partner"})
    native = table[(table["map"] == "identity") & (table["value"] > NATIVE)]
    native = native[["selection", "model_b", "read_out", "value"]].rename(
        columns={"model_b": "model", "value": "native"}
    )
    probes = _partners(probes, evidence.charts).merge(native, on=["selection", "model", "read_out"])
    probes["score"] = probes["score"].clip(lower=0.0) / probes["native"]
    probes["error"] /= probes["native"]
    for model, region, selection, part in _own(probes):
        value, error = over_families(part, median=True)
        yield around(
            model,
            "probe_transfer",
            region,
            value,
            error,
            n=int(part["n_test"].min()),
            bounds=(0.0, np.inf),
            peers=selection,
            note="median share of its own probe's R2 left on rows mapped from other families: "
            + ", ".join(sorted(set(part["read_out"]))),
        )


def _own(rows: pd.DataFrame) -> Iterable[tuple[str, str, str, pd.DataFrame]]:
    """By model, region and selection; of partial selections only the model's own."""
    for (model, region, selection), part in rows.groupby(
        ["model", "region", "selection"], sort=False
    ):
        if "|" not in str(selection) or str(selection).endswith(f"|{model}"):
            yield str(model), str(region), str(selection), part


def coverage(evidence: Evidence) -> Iterable[Entry]:
    """Elements with a vector, and structures with one: counted, so intervals have no width."""
    structures, presence = evidence.structures, evidence.reader.presence
    exploded = structures["elements"].explode()
    present = set(exploded)
    for key, chart in evidence.charts.items():
        has = presence[key].reindex(structures.index, fill_value=False)
        found = set(exploded[exploded.index.isin(has.index[has])])
        allowed = elements_of(chart.card.supports.elements)
        found = found if allowed is None else found & allowed
        for region, whole in (("atlas", len(present)), ("periodic_table", len(ATOMIC_NUMBERS))):
            share = len(found) / whole
            told = f"{len(found)} of {whole}"
            if allowed is None:
                told += "; its card does not say which it supports"
            yield Entry(key, "elements", region, share, share, share, whole, region, told)
        for kind in KINDS:
            own = has[structures["kind"] == kind]
            if len(own):
                share = float(own.mean())
                told = f"{int(own.sum())} of {len(own)}"
                yield Entry(
                    key, "embedded", PLURAL[kind], share, share, share, len(own), kind, told
                )
