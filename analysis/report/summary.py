# SPDX-License-Identifier: Apache-2.0
"""The headline: what the scores say in a few numbers, each with its n, k and p-value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from .data import MAIN, METRICS, MODALITIES, Model, Scores, metric_of, number, records

#: Training domains that make a model a crystal model.
CRYSTAL_DOMAINS = frozenset({"inorganic_crystal", "element_bulk", "framework", "molecular_crystal"})

#: Metrics the headline speaks of, in order.
HEADLINE = ("mutual_knn", "cknna")

#: With fewer rows than this many times k, the headline warns.
ROUGH = 10

#: Level of the false discovery rate the page speaks of.
LEVEL = 0.05


def among(pairs: pd.DataFrame, models: Iterable[Model], *, selection: str) -> pd.DataFrame:
    """Pair rows of one selection whose two models are both in ``models``."""
    ids = [m.key for m in models]
    return pairs[
        (pairs["selection"] == selection)
        & pairs["a"].isin(ids)
        & pairs["b"].isin(ids)
        & (pairs["a"] != pairs["b"])
    ]


def scale(scores: Scores) -> str:
    """Column the headline speaks of: ``calibrated``, or ``value`` where no null was drawn."""
    return "calibrated" if scores.pairs["calibrated"].notna().any() else "value"


def spread(rows: pd.DataFrame, column: str) -> dict[str, Any] | None:
    """Mean, range, n, k and p-values of pair rows of one selection and metric; None when empty."""
    rows = rows[rows[column].notna()]
    if rows.empty:
        return None
    n = rows["n"].mode().iloc[0]  # one n: others are not comparable with it
    rows = rows[rows["n"] == n]
    ordered = records(rows.sort_values(column, kind="stable"))
    low, high = ordered[0], ordered[-1]
    return {
        "mean": number(rows[column].mean()),
        "min": number(low[column]),
        "max": number(high[column]),
        "lowest": [low["a"], low["b"]],
        "highest": [high["a"], high["b"]],
        "pairs": len(rows),
        "n": int(n),
        "k": None if pd.isna(rows["k"].iloc[0]) else int(rows["k"].iloc[0]),
        "permutations": int(rows["permutations"].max()),
        "worst_p": number(rows["p_value"].max()),
        "significant": int((rows["q_value"] <= LEVEL).sum()),
    }


def crystal_agreement(scores: Scores, models: Sequence[Model]) -> dict[str, Any] | None:
    """How far learned 3D models trained on crystals agree on crystals.

    Falls back on all learned 3D models where fewer than two were trained on crystals; None where
    no such pair was scored. ``composition`` is their agreement with context-free element tables,
    which know nothing but the composition: the yardstick of how much structure adds.
    """
    column = scale(scores)
    three_d = [m for m in models if m.three_d and m.default]
    trained = [m for m in three_d if m.domains & CRYSTAL_DOMAINS]
    apart = scores.selections.loc[scores.selections["parent"] == "crystals", "selection"]
    partial = {str(name).partition("|")[2] for name in apart}
    for chosen, label in ((trained, "trained on crystals"), (three_d, "")):
        rows = among(scores.pairs, chosen, selection="crystals")
        found = {m: spread(rows[rows["metric"] == m], column) for m in HEADLINE}
        if found["mutual_knn"] is not None:
            involved = {*rows["a"], *rows["b"]}
            tables = [m for m in models if m.learned and m.default and not m.contextual]
            mixed = among(scores.pairs, [*chosen, *tables], selection="crystals")
            known = {m.key for m in tables}
            mixed = mixed[mixed["a"].isin(known) != mixed["b"].isin(known)]
            return {
                "tables": sorted(known & {*mixed["a"], *mixed["b"]}),
                "composition": spread(mixed[mixed["metric"] == "mutual_knn"], column),
                "models": len(involved),
                "members": sorted(involved),
                "apart": sum(m.key in partial for m in chosen),
                "which": label,
                "metrics": [
                    {"metric": m, "label": metric_of(m).label, **s} for m, s in found.items() if s
                ],
            }
    return None


def modality_tables(scores: Scores, models: Sequence[Model]) -> list[dict[str, Any]]:
    """Mean mutual k-NN by pair of modalities, one table a kind of matter.

    Learned models only. A table's rows and columns are modalities; a cell is :func:`spread` of the
    pairs between the two (within one modality on the diagonal), or None.
    """
    column = scale(scores)
    learned = [m for m in models if m.learned and m.default]
    modality = {m.key: m.modality for m in learned}
    tables = []
    for selection in MAIN:
        rows = among(scores.pairs, learned, selection=selection)
        rows = rows[(rows["metric"] == "mutual_knn") & rows[column].notna()]
        if rows.empty:
            continue
        n = rows["n"].mode().iloc[0]
        rows = rows[rows["n"] == n]
        a, b = rows["a"].map(modality), rows["b"].map(modality)
        present = [m for m in MODALITIES if m in {*a, *b}]
        cells = {
            (x, y): spread(rows[((a == x) & (b == y)) | ((a == y) & (b == x))], column)
            for i, x in enumerate(present)
            for y in present[: i + 1]
        }
        tables.append(
            {
                "selection": selection,
                "n": int(n),
                "k": None if pd.isna(rows["k"].iloc[0]) else int(rows["k"].iloc[0]),
                "modalities": [{"id": m, "label": MODALITIES[m]} for m in present],
                "cells": [[cells[(x, y)] for y in present[: i + 1]] for i, x in enumerate(present)],
                "partials": _partials(scores, learned, selection, column),
                "across": spread(rows[a != b], column),
                "within": spread(rows[a == b], column),
            }
        )
    return tables


def _partials(
    scores: Scores, learned: Sequence[Model], selection: str, column: str
) -> list[dict[str, Any]]:
    """Learned models that lack some rows of a selection: each against the rest, at its own n."""
    modality = {m.key: m.modality for m in learned}
    names = scores.selections.loc[scores.selections["parent"] == selection, "selection"]
    found = []
    for name in names:
        own = str(name).partition("|")[2]
        rows = among(scores.pairs, learned, selection=str(name))
        rows = rows[(rows["metric"] == "mutual_knn") & rows[column].notna()]
        rows = rows[(rows["a"] == own) | (rows["b"] == own)]
        if rows.empty:
            continue
        partner = rows["b"].where(rows["a"] == own, rows["a"]).map(modality)
        found.append(
            {
                "model": own,
                "modality": MODALITIES[modality[own]],
                "n": int(rows["n"].iloc[0]),
                "cells": {m: spread(rows[partner == m], column) for m in sorted(set(partner))},
            }
        )
    return found


def largest_gaps(scores: Scores) -> list[dict[str, str]]:
    """The most severe gap of each kind, where there is one."""
    first = scores.gaps[(scores.gaps["rank"] == 1) & (scores.gaps["severity"] > 0)]
    return [
        {"kind": row["kind"], "region": row["region"], "evidence": row["evidence"]}
        for row in records(first)
    ]


def lead_sources(
    crystals: Mapping[str, Any] | None,
    contrasted: Sequence[Mapping[str, Any]],
    modalities: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The score rows each sentence of the headline is the mean of."""
    found: list[dict[str, Any]] = []
    if crystals:
        names = [m["metric"] for m in crystals["metrics"]]
        found.append(
            {
                "what": "On crystals",
                "query": f"selection == 'crystals' and metric in {names}",
                "models": crystals["members"],
            }
        )
        if crystals["composition"]:
            found.append(
                {
                    "what": "Element tables against them",
                    "query": "selection == 'crystals' and metric == 'mutual_knn'",
                    "models": [*crystals["members"], *crystals["tables"]],
                }
            )
    for contrast in contrasted:
        start = f"{contrast['contrast']}|"
        found.append(
            {
                "what": f"In against out, {contrast['on']}",
                "query": f"selection.str.startswith('{start}') and metric == 'mutual_knn'",
                "models": contrast["members"],
            }
        )
    if modalities:
        names = [t["selection"] for t in modalities]
        found.append(
            {
                "what": "Across modalities",
                "query": f"selection in {names} and metric == 'mutual_knn'",
                "models": [],
            }
        )
    return found


def null_check(scores: Scores, models: Sequence[Model]) -> dict[str, Any] | None:
    """What random vectors score: the proof that calibration leaves nothing where nothing is."""
    random = {m.key for m in models if m.card["family"] == "random"}
    rows = scores.pairs[
        (scores.pairs["metric"] == "mutual_knn")
        & scores.pairs["selection"].isin(list(MAIN))
        & (scores.pairs["a"].isin(random) ^ scores.pairs["b"].isin(random))
        & scores.pairs["calibrated"].notna()
    ]
    if rows.empty:
        return None
    return {
        "models": sorted(random),
        "pairs": len(rows),
        "mean": number(rows["calibrated"].mean()),
        "max": number(rows["calibrated"].max()),
        "significant": int((rows["q_value"] <= LEVEL).sum()),
    }


def lead_contrasts(summaries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The contrasts the headline speaks of: those of like kinds, or all where there is none."""
    return [
        {
            **s,
            "on": f"{s['inner']}s" if s["like"] else f"{s['inner']}s in, {s['outer']}s out",
            "who": "learned 3D models" if s["spatial"] else "learned models",
            "n_text": f"{s['n_min']}"
            if s["n_min"] == s["n_max"]
            else f"{s['n_min']} to {s['n_max']}, one n a pair",
            # So few rows that a tenth of them or more are neighbours of each.
            "rough": s["k"] is not None and s["n_min"] < ROUGH * s["k"],
        }
        for s in [s for s in summaries if s["like"]] or summaries
    ]


def facts(scores: Scores) -> list[tuple[str, str]]:
    """What decides the numbers: version, date, parameters and tool versions, as key and value."""
    record = scores.analysis
    found = [("atlas version", scores.atlas.version)]
    if scores.analysed is not None:
        found.append(("analysed", scores.analysed))
    if "fingerprint" in record:
        found.append(("fingerprint", str(record["fingerprint"])))

    parameters = {k: v for k, v in (record.get("parameters") or {}).items() if k != "constants"}
    found += _pairs(parameters)
    versions = {k: v for k, v in (record.get("versions") or {}).items() if k not in METRICS}
    found.append(("made with", ", ".join(f"{k} {v}" for k, v in versions.items())))
    return found


def constants(scores: Scores) -> list[tuple[str, str]]:
    """Choices that are not parameters but decide numbers, as key and value."""
    return _pairs((scores.analysis.get("parameters") or {}).get("constants") or {})


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name.replace("_", " "), ", ".join(map(str, v)) if isinstance(v, list) else str(v))
        for name, v in values.items()
    ]


def left_out(scores: Scores) -> list[dict[str, str]]:
    """Selections, and models of a selection, that the analysis left out, and why."""
    record = scores.analysis
    found = [(s["selection"], s["reason"]) for s in record.get("skipped") or []]
    for entry in record.get("selections") or []:
        excluded = entry.get("excluded") or {}
        found += [(f"{entry['name']}: {model}", reason) for model, reason in excluded.items()]
    found += [("note", note) for note in record.get("notes") or []]
    return [{"selection": str(name), "reason": str(reason)} for name, reason in found]


def metrics(scores: Scores) -> list[dict[str, Any]]:
    """The metrics of this atlas, each with the version that scored it."""
    tables = (scores.pairs, scores.models)
    versions = {
        str(name): ", ".join(sorted(set(part["metric_version"])))
        for table in tables
        for name, part in table.groupby("metric", sort=False)
    }
    return [{**vars(metric_of(name)), "version": v} for name, v in versions.items()]
