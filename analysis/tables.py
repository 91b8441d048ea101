# SPDX-License-Identifier: Apache-2.0
"""Score tables: put together from parts, in an order of their own, checked before writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from ..schemas.errors import ArchiveError
from ..schemas.scores import SCORE_TABLES, SELECTIONS
from .charts import Chart
from .metrics import METRICS, VERSIONS
from .scoring import MODEL_VERSIONS, Part, Settings
from .selections import Plan, Selection


def score_table(
    parts: Sequence[Part],
    schema: pa.DataFrameSchema,
    plan: Plan,
    charts: Mapping[str, Chart],
    settings: Settings,
) -> pd.DataFrame:
    """One table in the order of selections, metrics and charts, whatever order tasks ended in.

    Columns that nothing gave (such as those of null draws without draws) are null.
    """
    known = [str(m) for m in METRICS] + list(MODEL_VERSIONS)
    versions = {str(m): v for m, v in VERSIONS.items()} | MODEL_VERSIONS
    selections = {s.name: s for s in plan.selections}
    order = {name: i for i, name in enumerate(selections)}
    parts = sorted(parts, key=lambda p: (order[p.selection], known.index(p.metric)))
    parts = [p for p in parts if len(p.charts[0])]
    sizes = [len(p.charts[0]) for p in parts]

    def spread(values: Sequence[Any]) -> np.ndarray:
        return np.repeat(np.array(values, dtype=object), sizes)

    columns: dict[str, Any] = {
        "release": settings.release,
        "selection": spread([p.selection for p in parts]),
        "selection_sha256": spread([selections[p.selection].sha256 for p in parts]),
        "n": spread([selections[p.selection].n for p in parts]),
        "k": spread([settings.neighbours(p.metric) for p in parts]),
        "metric": spread([p.metric for p in parts]),
        "metric_version": spread([versions[p.metric] for p in parts]),
        "normalise": spread([p.normalise for p in parts]),
        "permutations": settings.permutations,
        "null_within": spread([p.within for p in parts]),
        "seed": settings.seed,
    }
    for name in dict.fromkeys(c for p in parts for c in p.columns):
        missing = [np.full(size, np.nan) for size in sizes]
        given = [p.columns.get(name, x) for p, x in zip(parts, missing, strict=True)]
        columns[name] = np.concatenate(given)
    sides = ("_a", "_b") if "model_a" in schema.columns else ("",)
    for side, suffix in enumerate(sides):
        own = [charts[key] for p in parts for key in p.charts[side]]
        columns[f"model{suffix}"] = [c.card.id for c in own]
        columns[f"version{suffix}"] = [c.card.version for c in own]
        columns[f"layer{suffix}"] = [c.layer.name for c in own]
        columns[f"pooling{suffix}"] = [c.pooling for c in own]
    table = pd.DataFrame(columns, index=range(sum(sizes)))
    return typed(table.reindex(columns=list(schema.columns)), schema)


def typed(table: pd.DataFrame, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Columns with the schema's types: one of nulls or without rows would be of objects."""
    for name, column in schema.columns.items():
        kind = str(column.dtype)
        if kind in ("float64", "int64", "Int64"):
            table[name] = table[name].astype(kind)
        else:
            table[name] = table[name].astype(object)
    return table


def checked(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The table, if it has the schema of the score table ``name``.

    Raises
    ------
    ArchiveError
        Naming the column and the value.
    """
    schema = SCORE_TABLES[name]
    try:
        return schema.validate(table, lazy=True)
    except SchemaErrors as error:
        case = error.failure_cases.iloc[0]
        raise ArchiveError(
            f"{name}: column '{case['column']}' fails {case['check']} "
            f"(value {str(case['failure_case'])[:60]!r}); nothing written, report the inputs"
        ) from error


def selection_table(plan: Plan, excluded: dict[str, dict[str, str]]) -> pd.DataFrame:
    """``scores/selections.parquet``: the rows and models behind every name."""
    rows = [
        {
            "selection": s.name,
            "selection_sha256": s.sha256,
            "role": s.role,
            "parent": s.parent,
            "contrast": s.contrast,
            "group": s.group,
            "side": s.side,
            "draw": s.draw,
            "n": s.n,
            "available": s.available,
            "models": [m for m in s.models if m not in excluded.get(s.name, {})],
            "ids": list(s.ids),
        }
        for s in plan.selections
    ]
    return typed(pd.DataFrame(rows, columns=list(SELECTIONS.columns)), SELECTIONS)


def selection_list(plan: Plan, excluded: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """The same for a reader, without ids; with the charts left out and why."""

    def entry(s: Selection) -> dict[str, Any]:
        return {
            "name": s.name,
            "role": s.role,
            "sha256": s.sha256,
            "n": s.n,
            "available": s.available,
            "models": len(s.models) - len(excluded.get(s.name, {})),
            "excluded": excluded.get(s.name, {}),
        }

    return [entry(s) for s in plan.selections]
