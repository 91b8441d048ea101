# SPDX-License-Identifier: Apache-2.0
"""A linear reading of energies off frozen embeddings: nested cross-validated ridge by group."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Folds of the outer loop; the inner one leaves out one of the others.
FOLDS = 5

#: A group may hold this share of the rows at most, or too few are left to learn from without it.
LARGEST_GROUP = 0.5

#: Ridge penalties, in units of the mean eigenvalue of the features' covariance.
PENALTIES: tuple[float, ...] = tuple(10.0**e for e in range(-7, 5))

#: A feature that varies less than this share of its largest value is constant up to rounding.
_CONSTANT = 1e-6

Floats = NDArray[np.float64]


def enough_groups(groups: ArrayLike) -> bool:
    """Whether rows fall into groups that can be left out in turn."""
    sizes = np.unique(np.asarray(groups), return_counts=True)[1]
    return bool(len(sizes) >= FOLDS and sizes.max() <= LARGEST_GROUP * sizes.sum())


def probe_predictions(vectors: ArrayLike, targets: ArrayLike, groups: ArrayLike) -> Floats:
    """Predictions of each row by a ridge regression that saw no row of its group.

    Features are scaled to unit variance over all rows (which uses no target). Rows fall into
    ``FOLDS`` folds by group. For each fold the penalty is the one with the least squared error
    when, of the other folds, one at a time is left out; so neither the weights nor the penalty
    have seen the row.

    Parameters
    ----------
    vectors : array, shape (n, d)
    targets : array, shape (n,)
    groups : array, shape (n,)
        At least ``FOLDS`` different values, see :func:`enough_groups`.

    Returns
    -------
    float64 array, shape (n,)
    """
    from sklearn.model_selection import GroupKFold

    x, y = _scaled(vectors), np.asarray(targets, dtype=np.float64)
    splits = GroupKFold(FOLDS).split(np.zeros((len(y), 1)), groups=np.asarray(groups))
    folds = [test for _, test in splits]
    gram = x @ x.T if x.shape[1] > len(y) else None
    left: dict[tuple[int, int], Floats] = {}
    errors = np.zeros((FOLDS, len(PENALTIES)))
    for i, j in combinations_with_replacement(range(FOLDS), 2):
        out = np.unique(np.r_[folds[i], folds[j]])
        train = np.setdiff1d(np.arange(len(y)), out)
        paths = np.full((len(PENALTIES), len(y)), np.nan)
        paths[:, out] = _paths(x, y, train, out, gram)
        if i == j:
            left[i, i] = paths[:, folds[i]]
            continue
        for outer, inner in ((i, j), (j, i)):
            rows = folds[inner]
            errors[outer] += np.square(paths[:, rows] - y[rows]).sum(axis=1)
    predicted = np.empty(len(y))
    for i, rows in enumerate(folds):
        predicted[rows] = left[i, i][int(np.argmin(errors[i]))]
    return predicted


def _scaled(vectors: ArrayLike) -> Floats:
    """Centred features of unit variance; constant ones left out."""
    x = np.asarray(vectors, dtype=np.float64)
    spread = x.std(axis=0)
    kept = spread > _CONSTANT * np.abs(x).max(axis=0, initial=0.0)
    return (x[:, kept] - x[:, kept].mean(axis=0)) / spread[kept]


def _paths(
    x: Floats, y: Floats, train: NDArray[np.intp], test: NDArray[np.intp], gram: Floats | None
) -> Floats:
    """Predictions at ``test`` for every penalty, shape (penalties, test)."""
    mean = y[train].mean()
    centred = y[train] - mean
    if not x.shape[1]:
        return np.full((len(PENALTIES), len(test)), mean)
    if gram is None:
        inside = x[train] - x[train].mean(axis=0)
        s, v = np.linalg.eigh(inside.T @ inside)
        weights = v.T @ (inside.T @ centred)
        readout = (x[test] - x[train].mean(axis=0)) @ v
    else:
        own = gram[np.ix_(train, train)]
        offset = own.mean(axis=0)
        s, v = np.linalg.eigh(own - offset - offset[:, None] + own.mean())
        weights = v.T @ centred
        across = gram[np.ix_(test, train)]
        readout = (across - across.mean(axis=1, keepdims=True) - offset + own.mean()) @ v
    s = np.maximum(s, 0.0)
    scale = s.sum() / len(s)
    if scale <= 0.0:
        return np.full((len(PENALTIES), len(test)), mean)
    penalties = scale * np.array(PENALTIES)[:, None]
    return mean + (weights / (s + penalties)) @ readout.T
