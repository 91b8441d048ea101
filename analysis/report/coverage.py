# SPDX-License-Identifier: Apache-2.0
"""What the atlas holds and what it lacks: by element, by set and model, by reason, and the gaps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ...schemas.scores import COVERAGE
from ...schemas.structures import ATOMIC_NUMBERS, SYMBOLS
from .data import Model, Scores, listed, number, records, text

#: Atomic numbers of the noble gases: each ends a period.
_NOBLE = (2, 10, 18, 36, 54, 86, 118)

#: Kinds of gap -> heading and what it means.
GAP_KINDS: dict[str, tuple[str, str]] = {
    "coverage": ("Coverage", "chemistry that few models or few structures reach"),
    "agreement": ("Agreement", "regions where models keep different neighbours"),
    "distribution": ("Distribution", "what models lose outside their training domains"),
    "density": ("Density", "structures far from everything else the atlas holds"),
    "retention": ("Cue retention", "chemistry that can no longer be read out of domain"),
    "collapse": ("Collapse", "regions where an embedding spreads in fewer directions"),
}

#: Gaps of a kind on the page at most; the table has all.
SHOWN = 100


def place(z: int) -> tuple[int, int]:
    """Column (1-18) and row (1-7; 9 and 10 for the f block) in the periodic table."""
    if 57 <= z <= 70:
        return z - 57 + 3, 9
    if 89 <= z <= 102:
        return z - 89 + 3, 10
    period = next(i for i, end in enumerate(_NOBLE) if z <= end)
    start = _NOBLE[period - 1] if period else 0
    length = _NOBLE[period] - start
    step = z - start
    if step <= 2:
        return (18 if z == 2 else step), period + 1
    return 18 - (length - step), period + 1


def elements(scores: Scores, models: Sequence[Model]) -> list[dict[str, Any]]:
    """For each element: structures that hold it, and how much of them learned 3D models embed.

    Molecules and crystals only (proteins are of five elements). ``share`` is the embedded share of
    (model, structure) over the learned 3D models and structures of a kind they take; ``unable``
    names the models that were given some and embedded none.
    """
    table = scores.atlas.structures
    table = table[table["kind"].isin(["molecule", "crystal"])]
    holding = table[["id", "set", "elements"]].explode("elements").dropna()
    counts = holding.drop_duplicates(["id", "elements"]).groupby("elements").size()
    given: Counter[str] = Counter()
    embedded: Counter[str] = Counter()
    unable: dict[str, list[str]] = {}
    for model in models:
        if not (model.three_d and model.default):
            continue
        rows = scores.atlas.rows(model.key)[["id", "set", "kind", "reason"]]
        rows = rows[rows["kind"].isin(listed(model.card["supports.kinds"]))]
        rows = rows.assign(embedded=rows["reason"] == "").merge(holding, on=["id", "set"])
        by_element = rows.groupby("elements")["embedded"].agg(["size", "sum"])
        for row in records(by_element.reset_index()):
            given[row["elements"]] += row["size"]
            embedded[row["elements"]] += row["sum"]
            if not row["sum"]:
                unable.setdefault(row["elements"], []).append(model.key)
    return [
        {
            "z": ATOMIC_NUMBERS[symbol],
            "symbol": symbol,
            "column": place(z)[0],
            "row": place(z)[1],
            "structures": int(counts.get(symbol, 0)),
            "share": number(embedded[symbol] / given[symbol], 4) if given[symbol] else None,
            "unable": unable.get(symbol, []),
        }
        for z, symbol in enumerate(SYMBOLS)
        if z
    ]


def sets_by_models(scores: Scores, models: Sequence[Model]) -> dict[str, Any]:
    """Embedded rows, models x sets, with how many were in and out of distribution."""
    table = scores.coverage
    held = [s for s in scores.atlas.set_ids if s in set(table["set"])]
    counts = [c for c, column in COVERAGE.columns.items() if str(column.dtype) == "int64"]
    by_cell: dict[tuple[str, str], dict[str, Any]] = {}
    for row in records(table):
        cell = by_cell.setdefault(
            (row["model"], row["set"]), {**dict.fromkeys(counts, 0), "reasons": Counter()}
        )
        cell.update({c: cell[c] + row[c] for c in counts})
        cell["reasons"].update(parse_reasons(row["reasons"]))
    for cell in by_cell.values():
        cell["why"] = ", ".join(f"{count} {reason}" for reason, count in cell["reasons"].items())
        cell["run"] = set(cell["reasons"]) != {"not_embedded"} or cell["embedded"] > 0
    rows = [
        {
            "model": model.key,
            "name": model.card["name"],
            "cells": [by_cell.get((model.key, set_id)) for set_id in held],
        }
        for model in models
        if model.default
    ]
    sizes = table.groupby(["set", "stratum"])["structures"].max().groupby("set").sum()
    return {"sets": [{"id": s, "structures": int(sizes[s])} for s in held], "rows": rows}


def reasons(scores: Scores) -> list[dict[str, Any]]:
    """Why rows are missing: reason, rows, and the models most concerned, most rows first."""
    total: Counter[str] = Counter()
    by_model: dict[str, Counter[str]] = {}
    for row in records(scores.coverage):
        for reason, count in parse_reasons(row["reasons"]).items():
            total[reason] += count
            by_model.setdefault(reason, Counter())[row["model"]] += count
    return [
        {
            "reason": reason,
            "rows": count,
            "models": [{"model": m, "rows": c} for m, c in by_model[reason].most_common()],
        }
        for reason, count in total.most_common()
    ]


def parse_reasons(cell: str) -> dict[str, int]:
    """Counts by reason out of a coverage row's ``reasons``, a JSON object."""
    return {str(k): int(v) for k, v in json.loads(cell).items()} if cell else {}


def gaps(scores: Scores) -> list[dict[str, Any]]:
    """The first gaps of each kind, most severe first, with their evidence; ``total`` is of all."""
    found = []
    for kind, (title, meaning) in GAP_KINDS.items():
        table = scores.gaps[scores.gaps["kind"] == kind]
        table = table.sort_values("rank", kind="stable")
        rows = [
            {
                "rank": int(row["rank"]),
                "region": row["region"],
                "model": text(row["model"]),
                "n": int(row["n"]),
                "reference_n": None if pd.isna(row["reference_n"]) else int(row["reference_n"]),
                "statistic": row["statistic"],
                "value": number(row["value"], 4),
                "reference": number(row["reference"], 4),
                "standard_error": number(row["standard_error"], 3),
                "p": number(row["p_value"], 3),
                "q": number(row["q_value"], 3),
                "severity": number(row["severity"], 4),
                "evidence": row["evidence"],
            }
            for row in records(table.head(SHOWN))
        ]
        if rows:
            about = {"kind": kind, "title": title, "meaning": meaning, "total": len(table)}
            found.append({**about, "rows": rows})
    return found
