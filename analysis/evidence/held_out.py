# SPDX-License-Identifier: Apache-2.0
"""What holds on rows that nothing was fitted to: grouped parts, scores, their errors and nulls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration import jackknife_blocks, null_quantile, p_value, standard_error

Array = NDArray[np.floating[Any]]

#: Level of the null's quantile.
ALPHA = 0.05


@dataclass(frozen=True)
class Estimate:
    """A score on held-out rows; error and null are NaN where they cannot be had."""

    value: float
    standard_error: float
    null_mean: float
    null_quantile: float
    p_value: float


def grouped_parts(
    groups: Sequence[str], shares: Sequence[float], *, seed: int, label: str
) -> NDArray[np.intp]:
    """Give whole groups to parts so that each comes near its share of the rows; shape (n,).

    Largest groups first, equal ones in the order of their hash, each to the part that lacks most:
    deterministic, and one row more or less changes little.
    """
    names, codes, sizes = np.unique(
        np.asarray(groups, dtype=object).astype(str), return_inverse=True, return_counts=True
    )
    ranks = [hashlib.sha256(f"{seed}:{label}:{name}".encode()).digest() for name in names]
    order = sorted(range(len(names)), key=lambda i: (-int(sizes[i]), ranks[i]))
    wanted = np.asarray(shares, float) / np.sum(shares) * len(codes)
    part_of = np.empty(len(names), dtype=np.intp)
    for group in order:
        part = int(np.argmax(wanted))
        part_of[group] = part
        wanted[part] -= sizes[group]
    return np.asarray(part_of[codes])


def blocks_of(groups: Sequence[str], *, seed: int) -> NDArray[np.intp] | None:
    """Jackknife blocks of whole groups, shape (m,); None where there are fewer than two."""
    names, codes = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    blocks = jackknife_blocks(len(names), least=1, seed=seed) if len(names) > 1 else None
    return None if blocks is None else np.asarray(blocks[codes])


def ratio(top: Array, bottom: Array, blocks: NDArray[np.intp] | None) -> tuple[float, float]:
    """Sum of ``top`` over sum of ``bottom``, and its delete-block jackknife error."""
    whole = float(bottom.sum())
    if whole <= 0:
        return float("nan"), float("nan")
    value = float(top.sum()) / whole
    if blocks is None:
        return value, float("nan")
    tops, bottoms = (np.bincount(blocks, weights=x) for x in (top, bottom))
    left = bottoms.sum() - bottoms
    if (left <= 0).any():
        return value, float("nan")
    return value, float(standard_error((tops.sum() - tops) / left))


def estimate(value: float, error: float, draws: Array, *, larger: bool = True) -> Estimate:
    """A score against its null draws, (K,), of which there may be none."""
    null = np.asarray(draws, np.float64)
    if null.size == 0 or not np.isfinite(value):
        return Estimate(value, error, float("nan"), float("nan"), float("nan"))
    observed = np.array(value)
    return Estimate(
        value,
        error,
        float(null.mean()),
        float(null_quantile(observed, null, alpha=ALPHA, larger=larger)),
        float(p_value(observed, null, larger=larger)),
    )


def squared_distances(x: Array, y: Array) -> Array:
    """Squared Euclidean distances (m, m), rounded so that equal rows are equally far."""
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :]
    found = np.maximum(squares - 2.0 * (x @ y.T), 0.0)
    unit = max(float(squares.max(initial=0.0)), 1e-300) * 1e-12
    return np.asarray(np.round(found / unit) * unit)


def reconstruction(
    distances: Array, spread: Array, blocks: NDArray[np.intp] | None, draws: NDArray[np.intp]
) -> dict[str, Estimate]:
    """How well rows were reconstructed.

    Parameters
    ----------
    distances : array, shape (m, m)
        Squared distance of each reconstructed row to each true row, in the target's standard form.
    spread : array, shape (m,)
        Squared distance of each true row to the mean of the fitted rows, which is the best guess of
        who knows nothing of the row.
    draws : int array, shape (K, m)
        Relabelings of the rows, for the null.

    Returns
    -------
    dict
        ``reconstruction_r2``: 1 - sum of squared errors / sum of ``spread``; 1 is perfect, 0 is no
        better than the mean, and there is no lower bound. ``reconstruction_error``: root mean
        squared error per row in units of the fitted rows' whole spread (Goscinski et al. 2021:
        GFRE of a linear map, LFRE of a local one); 0 is perfect.
    """
    rows = np.arange(len(distances))
    own = distances[rows, rows]
    lost, lost_error = ratio(own, spread, blocks)
    mean, mean_error = ratio(own, np.ones(len(own)), blocks)
    root = float(np.sqrt(mean))
    null = distances[rows, draws].sum(axis=1) if len(draws) else np.empty(0)
    whole = max(float(spread.sum()), 1e-300)
    return {
        "reconstruction_r2": estimate(1.0 - lost, lost_error, 1.0 - null / whole),
        "reconstruction_error": estimate(
            root,
            mean_error / (2.0 * root) if root > 0 else 0.0,
            np.sqrt(null / len(rows)),
            larger=False,
        ),
    }


def retrieval(
    distances: Array, k: int, blocks: NDArray[np.intp] | None, draws: NDArray[np.intp]
) -> dict[str, Estimate]:
    """Is a row's counterpart the nearest to where the map puts it, among m held-out rows?

    Equal distances share their places: the chance that a random order of the equal ones puts the
    counterpart first, or among the first k.

    Returns
    -------
    dict
        ``recall_at_1``, ``recall_at_k`` (chance: 1/m, k/m) and ``reciprocal_rank`` (mean of
        1 / mean rank).
    """
    m = len(distances)
    rows = np.arange(m)
    own = distances[rows, rows][:, None]
    closer = (distances < own).sum(axis=1)
    equal = (distances == own).sum(axis=1)
    ones = np.ones(m)
    first = np.clip((1 - closer) / equal, 0.0, 1.0)
    among = np.clip((k - closer) / equal, 0.0, 1.0)
    places = closer + (equal + 1) / 2.0
    if len(draws):
        place = np.empty((m, m), np.int32)
        np.put_along_axis(
            place, np.argsort(distances.astype(np.float32), axis=1), np.arange(m, dtype=np.int32), 1
        )
        drawn = place[rows, draws]
    else:
        drawn = np.empty((0, m), np.int32)
    found = {
        "recall_at_1": (first, (drawn < 1).mean(axis=1)),
        "recall_at_k": (among, (drawn < k).mean(axis=1)),
        "reciprocal_rank": (1.0 / places, (1.0 / (drawn + 1.0)).mean(axis=1)),
    }
    return {
        name: estimate(*ratio(np.asarray(own, float), ones, blocks), null)
        for name, (own, null) in found.items()
    }


def explained(
    truth: Array, predicted: Array, blocks: NDArray[np.intp] | None, draws: NDArray[np.intp]
) -> Estimate:
    """R2 of a scalar on held-out rows: 1 - squared error / spread about these rows' mean."""
    spread = (truth - truth.mean()) ** 2
    lost, error = ratio((predicted - truth) ** 2, spread, blocks)
    null = ((predicted - truth[draws]) ** 2).sum(axis=1) if len(draws) else np.empty(0)
    return estimate(1.0 - lost, error, 1.0 - null / max(float(spread.sum()), 1e-300))
