# SPDX-License-Identifier: Apache-2.0
"""Compare the score tables of two releases: which scores are new, gone or moved, and why they may.

A score answers for the rows it was taken over. With other rows (another selection hash or n),
another estimator or another model version, a new value is a new answer; with the same, it is a
changed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..schemas.scores import SCORE_TABLES

#: Relative to the value or to 1, the larger: below it, machines and library versions differ.
ROUNDING = 1e-6
#: Moved scores named.
EXAMPLES = 5

#: What a value depends on besides its key.
_INPUTS = (
    "selection_sha256", "n", "metric_version", "normalise", "pooling", "pooling_a", "pooling_b",
    "version", "version_a", "version_b", "seed",
)  # fmt: skip
_PAIRS, _MODELS = "scores/pairs.parquet", "scores/models.parquet"


@dataclass
class ScoreChanges:
    """One score table before and after.

    Attributes
    ----------
    changed : int
        Rows in both in which any column differs.
    moved : int
        Of these, rows whose value differs by more than rounding.
    overruled : int
        Of these, rows whose inputs are the same: the earlier value no longer holds.
    withdrawn : int
        Removed rows of selections that are still there with the same rows.
    largest : list of dict
        The values that moved most: key columns, ``old``, ``new``, ``same_inputs``.
    """

    added: int = 0
    removed: int = 0
    changed: int = 0
    moved: int = 0
    overruled: int = 0
    withdrawn: int = 0
    largest: list[dict[str, Any]] = field(default_factory=list)

    @property
    def any(self) -> bool:
        """Something differs."""
        return bool(self.added or self.removed or self.changed)


def keys_of(path: str) -> list[str]:
    """Columns that name a row of a score table."""
    schema = SCORE_TABLES.get(path)
    if schema is None:
        return []
    return list(schema.unique or [n for n, c in schema.columns.items() if c.unique])


def compare_scores(
    path: str,
    old: pd.DataFrame,
    new: pd.DataFrame,
    *,
    selections: Mapping[str, str] | None = None,
) -> ScoreChanges:
    """What happened to the rows of one score table.

    Parameters
    ----------
    path :
        The table's path in the atlas, which tells its key.
    selections :
        Hash of each selection's rows in the new release.
    """
    keys = [k for k in keys_of(path) if k in old and k in new]
    a, b = (t.set_index(_labels(t, keys)) for t in (old, new))
    common = a.index.intersection(b.index)
    out = ScoreChanges(added=len(b) - len(common), removed=len(a) - len(common))
    gone = a[~a.index.isin(common)]
    # Only these answer for their own inputs; the other tables sum up whatever is there.
    measured = path in (_PAIRS, _MODELS)
    if selections is not None and measured:
        still = gone["selection"].map(selections) == gone["selection_sha256"]
        out.withdrawn = int(still.sum())
    a, b = a.loc[common], b.loc[common]
    columns = [c for c in dict.fromkeys([*a, *b]) if c != "release"]
    differ = np.zeros(len(common), bool)
    for column in columns:
        differ |= _unequal(a, b, column)
    out.changed = int(differ.sum())
    if not measured:
        return out
    before, after = (pd.to_numeric(t["value"]).to_numpy(float) for t in (a, b))
    gap = np.where(np.isnan(before) & np.isnan(after), 0.0, np.abs(after - before))
    moved = ~(gap <= ROUNDING * np.maximum(1.0, np.abs(before)))
    same = np.ones(len(common), bool)
    for column in _INPUTS:
        if column in a or column in b:
            same &= ~_unequal(a, b, column)
    out.moved, out.overruled = int(moved.sum()), int((moved & same).sum())
    order = np.argsort(-np.where(np.isnan(gap), np.inf, gap), kind="stable")
    for i in [i for i in order if moved[i]][:EXAMPLES] if path == _PAIRS else []:
        names = {k: _whole(_plain(b[k].iloc[i])) for k in keys}
        values = {"old": _plain(before[i]), "new": _plain(after[i])}
        out.largest.append({**names, **values, "same_inputs": bool(same[i])})
    return out


def _labels(table: pd.DataFrame, keys: list[str]) -> pd.Index:
    """One text a row from its key columns, whatever types they happen to have."""
    if not keys:
        return pd.Index(np.arange(len(table)).astype(str))
    return pd.Index(
        ["\x1f".join(row) for row in zip(*(texts(table[k]) for k in keys), strict=True)]
    )


def texts(values: pd.Series) -> list[str]:
    """Values as text, the same whatever type a column happens to have; absent ones are empty."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return ["" if pd.isna(v) else repr(float(v)) for v in values]
    return [_text(v) for v in values]


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray | list | tuple):
        return repr([_text(v) for v in value])
    return "" if pd.isna(value) else str(value)


def _unequal(a: pd.DataFrame, b: pd.DataFrame, column: str) -> np.ndarray:
    """Where a column differs between aligned tables; a column one lacks is empty there."""
    x, y = (t[column] if column in t else pd.Series([None] * len(t), dtype=object) for t in (a, b))
    if all(pd.api.types.is_float_dtype(v) for v in (x, y)):
        p, q = x.to_numpy(float), y.to_numpy(float)
        return np.asarray((p != q) & ~(np.isnan(p) & np.isnan(q)))
    return np.array([p != q for p, q in zip(texts(x), texts(y), strict=True)], dtype=bool)


def _plain(value: Any) -> Any:
    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _whole(value: Any) -> Any:
    """A count that a column with gaps turned into a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
