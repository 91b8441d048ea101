# SPDX-License-Identifier: Apache-2.0
"""Scorecard: is this a foundation model of matter? What the atlas says, measure by measure.

No magic number: every measure has its interval and its rank among models measured on the same rows.
``docs/explanation/scorecard.md`` defines them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from ...schemas.scorecard import MEASURES, SCORECARD
from ...schemas.structures import KINDS
from ..selections import PLURAL
from ..tables import typed
from . import scorecard_measures as measures
from .context import Evidence, Findings
from .scorecard_measures import Entry, contextual

TABLE = "scores/scorecard.parquet"

#: Each yields entries of one or more measures; what no model has, and why.
SOURCES: tuple[tuple[Callable[[Evidence], Iterable[Entry]], dict[str, str]], ...] = (
    (
        measures.alignment,
        {
            "alignment_local": "no CKNNA or mutual kNN was scored with another family",
            "alignment_global": "no distance correlation or CKA was scored with another family",
        },
    ),
    (
        measures.best_performer,
        {
            "best_performer_local": "no energies say which model performs best",
            "best_performer_global": "no energies say which model performs best",
        },
    ),
    (
        measures.distribution,
        {
            "distribution_local": "no kind has rows inside and outside two models' domains",
            "distribution_global": "no kind has rows inside and outside two models' domains",
        },
    ),
    (
        measures.cues,
        {
            "cue_gain": "no cue was read",
            "cue_retention": "no cue was read inside and outside training domains",
        },
    ),
    (
        measures.transfer,
        {
            "transfer_from": "no maps between spaces of different families",
            "transfer_to": "no maps between spaces of different families",
            "transfer_across": "no maps between modalities",
            "probe_transfer": "no probe that explains anything was read across families",
        },
    ),
    (
        measures.coverage,
        {"elements": "no structures", "embedded": "no structures"},
    ),
)


def scorecard_stage(evidence: Evidence) -> Findings:
    """One row a model, measure and region, from the tables of the stages before it.

    Learned models that see more than elements are ranked, among those scored on the same rows.
    Baselines and element tables have their values beside them, unranked: what they reach takes no
    learning of structure. Where a model has no value, the note says why.
    """
    entries: list[Entry] = []
    why: dict[str, str] = {}
    for source, reasons in SOURCES:
        entries += source(evidence)
        why |= reasons
    table = pd.DataFrame([vars(e) for e in entries], columns=list(Entry.__dataclass_fields__))
    table = _complete(table, evidence, why)
    table = _ranked(table, evidence)
    more = mean_rank_shares(table, evidence) + verdicts(table, evidence)
    table = pd.DataFrame([*table.to_dict("records"), *more], columns=list(table.columns))
    family = {key: chart.card.family for key, chart in evidence.charts.items()}
    order = {name: i for i, name in enumerate(MEASURES)}
    places = {key: i for i, key in enumerate(evidence.charts)}
    table["family"] = table["model"].map(family)
    table["ranked"] = table["model"].map(lambda m: contextual(evidence.charts[m])).astype(bool)
    table["release"] = evidence.release
    table = _sorted(table, places, order)
    findings = Findings()
    typed_table = typed(table[list(SCORECARD.columns)].copy(), SCORECARD)
    findings.tables[TABLE] = typed_table.astype({"ranked": bool})
    return findings


def _sorted(
    table: pd.DataFrame, places: Mapping[str, int], order: Mapping[str, int]
) -> pd.DataFrame:
    keys = pd.DataFrame(
        {
            "model": table["model"].map(places),
            "measure": table["measure"].map(order),
            "region": table["region"],
        }
    )
    return table.loc[keys.sort_values(["model", "measure", "region"]).index].reset_index(drop=True)


def _complete(table: pd.DataFrame, evidence: Evidence, why: Mapping[str, str]) -> pd.DataFrame:
    """Add what is missing of every learned model, each with the reason."""
    have = set(zip(table["model"], table["measure"], table["region"], strict=True))
    missing = []
    for measure, reason in why.items():
        regions = list(dict.fromkeys(table.loc[table["measure"] == measure, "region"])) or ["all"]
        for key, chart in evidence.charts.items():
            if not chart.card.learned:
                continue
            for region in regions:
                if (key, measure, region) in have:
                    continue
                note = reason if regions == ["all"] else _lack(evidence, key, measure, region)
                nan = float("nan")
                missing.append(Entry(key, measure, region, nan, nan, nan, None, None, note))
    rows = [*table.to_dict("records"), *(vars(e) for e in missing)]
    return pd.DataFrame(rows, columns=list(table.columns))


def _lack(evidence: Evidence, key: str, measure: str, region: str) -> str:
    """Why one model lacks a measure that others have."""
    card = evidence.charts[key].card
    if measure.startswith("best_performer"):
        scored = evidence.tables["scores/performance_alignment.parquet"]
        names = scored["set"] + "." + scored["label"]
        if key in set(scored.loc[names == region, "reference"]):
            return "it is the best performer itself"
        return "too few energies, or rows shared with the best performer"
    kind = next((k for k in KINDS if region in (PLURAL[k], f"all:{k}", f"out:{k}")), None)
    structures = evidence.structures
    if kind is not None:
        own = structures.index[structures["kind"] == kind]
        count = int(evidence.reader.presence[key].reindex(own, fill_value=False).sum())
        if count == 0:
            return f"embedded no {kind}"
        if measure == "cue_gain":
            return f"embedded {count} of {len(own)} {PLURAL[kind]}: too few to read cues from"
        families = {c.card.family for c in evidence.charts.values() if contextual(c)}
        if not families - {card.family} and measure != "cue_retention":
            return "no learned model of another family that sees more than elements"
        if measure.startswith(("distribution", "cue_retention")):
            if card.training.domains is None:
                return "its card does not name its training domains"
            return "too few rows inside and outside its training domains, or nothing to lose there"
        if card.context_free and measure.startswith(("transfer", "probe")):
            return "element tables take no part: the composition stands in for them"
        return f"embedded {count} of {len(own)} {region}: too few shared rows or partners"
    return "too few rows of this region"


def _ranked(table: pd.DataFrame, evidence: Evidence) -> pd.DataFrame:
    """Ranks among learned contextual models with equal ``peers``; largest value first."""
    fit = {key for key, chart in evidence.charts.items() if contextual(chart)}
    table = table.copy()
    table["rank"] = pd.array([pd.NA] * len(table), dtype="Int64")
    table["of"] = pd.array([pd.NA] * len(table), dtype="Int64")
    counted = table[table["model"].isin(fit) & table["value"].notna() & table["peers"].notna()]
    for _, rows in counted.groupby(["measure", "region", "peers"], sort=False):
        if len(rows) < 2:
            continue
        table.loc[rows.index, "rank"] = (
            rows["value"].rank(ascending=False, method="min").astype("Int64")
        )
        table.loc[rows.index, "of"] = len(rows)
    return table


def mean_rank_shares(table: pd.DataFrame, evidence: Evidence) -> list[dict[str, object]]:
    """Of each model: share of the others ranked with it that it is ahead of, mean over ranks.

    Measures weigh alike, as do regions within one. ``low`` and ``high`` are one standard deviation
    over the measures to either side: how much the measures differ, not an error. A model ranked in
    fewer than half of the measures has none: it would be compared on what it happens to have.
    """
    rows = []
    ranks = table[table["rank"].notna()]
    least = -(-ranks["measure"].nunique() // 2)
    ranks = ranks.assign(ahead=((ranks["of"] - ranks["rank"]) / (ranks["of"] - 1)).astype(float))
    for key, chart in evidence.charts.items():
        own = ranks[ranks["model"] == key].groupby("measure")["ahead"].mean()
        if len(own) < least or own.empty:
            if chart.card.learned:
                told = f"ranked in {len(own)} measures, {max(least, 1)} needed"
                rows.append(_row(key, "mean_rank_share", note=told))
            continue
        value, spread = float(own.mean()), float(own.std(ddof=0))
        rows.append(
            _row(
                key,
                "mean_rank_share",
                value=value,
                low=value - spread,
                high=value + spread,
                n=len(own),
                note=f"share of ranked models it is ahead of, mean over {len(own)} measures; "
                "the interval is their standard deviation",
            )
        )
    return rows


def _row(model: str, measure: str, *, region: str = "all", **values: object) -> dict[str, object]:
    return {"model": model, "measure": measure, "region": region, **values}


def verdicts(table: pd.DataFrame, evidence: Evidence) -> list[dict[str, object]]:
    """A sentence a learned model, from its intervals: where it converges beyond composition."""
    free = {key for key, chart in evidence.charts.items() if chart.card.context_free}
    rows = []
    for key, chart in evidence.charts.items():
        if not contextual(chart):
            continue
        own = table[(table["model"] == key) & table["value"].notna()]
        rows.append(_row(key, "verdict", note=_sentence(own, table[table["model"].isin(free)])))
    return rows


def _sentence(own: pd.DataFrame, free: pd.DataFrame) -> str:
    parts, beyond = [], []
    for entry in own[own["measure"] == "alignment_local"].itertuples(index=False):
        bar = free[
            (free["measure"] == "alignment_local")
            & (free["region"] == entry.region)
            & (free["peers"] == entry.peers)
        ].sort_values("value")
        said = f"agrees with other families on {entry.region} by {_interval(entry)}"
        if len(bar):
            best = bar.iloc[-1]
            over = entry.low > best["high"]
            under = entry.high < best["low"]
            word = "above" if over else "below" if under else "not told apart from"
            said += f", {word} the best element table ({best['value']:.2f})"
            beyond += [str(entry.region)] if over else []
        parts.append(said)
    for measure, told in (
        ("distribution_local", "outside its training domains this is {} times that inside, on {}"),
        ("transfer_from", "linear maps from it find {} of rows in other families' {}"),
    ):
        for entry in own[own["measure"] == measure].itertuples(index=False):
            parts.append(told.format(_interval(entry), entry.region))
    for entry in own[(own["measure"] == "elements") & (own["region"] == "atlas")].itertuples():
        parts.append(f"embeds {str(entry.note).split(';')[0]} elements")
    where = f"on {' and '.join(beyond)}" if beyond else "nowhere shown"
    parts.insert(0, f"agreement beyond what elements alone give: {where}")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _interval(entry: object) -> str:
    value, low, high = (getattr(entry, c) for c in ("value", "low", "high"))
    if not np.isfinite(low):
        return f"{value:.2f}"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
