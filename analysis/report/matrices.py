# SPDX-License-Identifier: Apache-2.0
"""Pair scores as compact matrices: one block a selection and metric, one n and one k each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .data import Model, metric_of

#: Short key in a block -> column of the pair table, and the power of ten its numbers are kept to.
COLUMNS: dict[str, tuple[str, int]] = {
    "v": ("value", 4),
    "s": ("standard_error", 4),
    "c": ("calibrated", 4),
    "m": ("null_mean", 4),
    "t": ("null_quantile", 4),
    "p": ("p_value", 5),
    "q": ("q_value", 5),
}


def blocks(pairs: pd.DataFrame, models: Sequence[Model]) -> list[dict[str, Any]]:
    """One block for every selection, metric and k.

    A block holds ``models`` (their indices, ascending), ``order`` (the same, neighbours alike),
    ``asymmetric``, and for each key of :data:`COLUMNS` the numbers of the cells: the upper triangle
    row by row, or every cell off the diagonal when asymmetric. A column of one value is that value
    alone; null stays null.
    """
    index = {m.key: m.index for m in models}
    known = pairs[pairs["a"].isin(list(index)) & pairs["b"].isin(list(index))]
    known = known.assign(a=known["a"].map(index), b=known["b"].map(index))
    found = []
    for (selection, metric, k), group in known.groupby(
        ["selection", "metric", "k"], sort=False, dropna=False
    ):
        # Values at different n are not comparable, so they never share a matrix.
        for n in sorted(set(group["n"])):
            part = group[group["n"] == n]
            found.append(_block(str(selection), str(metric), k, int(n), part))
    return found


def _block(selection: str, metric: str, k: Any, n: int, rows: pd.DataFrame) -> dict[str, Any]:
    present = sorted({*rows["a"], *rows["b"]})
    place = {m: i for i, m in enumerate(present)}
    a, b = rows["a"].map(place).to_numpy(), rows["b"].map(place).to_numpy()
    asymmetric = not set(zip(a, b, strict=True)).isdisjoint(zip(b, a, strict=True))
    size = len(present)
    cells = np.triu_indices(size, 1) if not asymmetric else np.nonzero(~np.eye(size, dtype=bool))
    block: dict[str, Any] = {
        "selection": selection,
        "metric": metric,
        "k": None if pd.isna(k) else int(k),
        "n": n,
        "permutations": int(rows["permutations"].max()),
        "normalise": str(rows["normalise"].iloc[0]),
        "sha256": str(rows["selection_sha256"].iloc[0]),
        "asymmetric": asymmetric,
        "models": present,
    }
    for key, (column, digits) in COLUMNS.items():
        dense = np.full((size, size), np.nan)
        dense[a, b] = rows[column].to_numpy(dtype=float)
        if not asymmetric:
            dense[b, a] = rows[column].to_numpy(dtype=float)
        block[key] = _pack(dense[cells], digits)
        if key == "v":
            values = dense
        elif key == "c":
            calibrated = dense
    closeness = calibrated if np.isfinite(calibrated).any() else values
    if closeness is values and not metric_of(metric).larger:
        closeness = -closeness
    block["order"] = [present[i] for i in cluster_order(closeness)]
    return block


def _pack(values: np.ndarray, digits: int) -> Any:
    scaled = [None if np.isnan(v) else round(float(v) * 10**digits) for v in values]
    return scaled[0] if scaled and all(v == scaled[0] for v in scaled) else scaled


def cluster_order(closeness: np.ndarray) -> list[int]:
    """Order in which neighbours are alike: average linkage, optimal leaf order.

    Parameters
    ----------
    closeness:
        (m, m), larger is closer; NaN (no score) counts as the farthest. Directions are averaged.
    """
    size = len(closeness)
    if size < 3:
        return list(range(size))
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    both = np.stack([closeness, closeness.T])
    known = np.isfinite(both)
    total = np.where(known, both, 0.0).sum(axis=0)
    counts = known.sum(axis=0)
    mean = np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)
    top, bottom = np.nanmax(mean), np.nanmin(mean)
    distance = np.where(np.isnan(mean), top - bottom, top - mean)
    np.fill_diagonal(distance, 0.0)
    condensed = squareform(distance, checks=False)
    tree = optimal_leaf_ordering(linkage(condensed, method="average"), condensed)
    return [int(i) for i in leaves_list(tree)]


def unpack(block: dict[str, Any], key: str) -> np.ndarray:
    """The (m, m) matrix of one column of a block, NaN where there is no score."""
    size = len(block["models"])
    mask = ~np.eye(size, dtype=bool) if block["asymmetric"] else np.triu(np.ones((size, size)), 1)
    cells = np.nonzero(mask)
    packed, (_, digits) = block[key], COLUMNS[key]
    listed = packed if isinstance(packed, list) else [packed] * len(cells[0])
    dense = np.full((size, size), np.nan)
    dense[cells] = [np.nan if v is None else v / 10**digits for v in listed]
    return dense if block["asymmetric"] else np.where(np.isnan(dense), dense.T, dense)
