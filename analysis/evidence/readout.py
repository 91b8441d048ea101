# SPDX-License-Identifier: Apache-2.0
"""Linear readouts of frozen embeddings: ridge and logistic, cross-validated by groups.

All targets of one task share the work: one Gram matrix a fold, one Cholesky factor a penalty.
Embeddings are centred and scaled as a whole (one number, not one a column), so that readouts do
not change under rotations, shifts and scales of a space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Folds of the cross-validation; rows of one group share a fold.
FOLDS = 5
#: Ridge penalties for rows of unit mean square, per training row.
RIDGE = (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: Logistic penalties, likewise.
LOGISTIC = (1e-6, 1e-4, 1e-2)
#: Steps of the logistic fit; they are accelerated, and stopping early is a penalty more.
STEPS = 25
#: Rows further from the middle than this many median distances are moved back onto that sphere.
REACH = 2.0
#: Bootstrap draws of groups.
DRAWS = 200
#: Variance of a cross-validated score over that of a test sample alone, 1 + n_test / n_train over
#: the inverse number of folds: folds share training rows (Nadeau & Bengio 2003, section 3).
SHARED_TRAINING = 1.0 + FOLDS / (FOLDS - 1.0)


@dataclass(frozen=True)
class Fit:
    """One linear map: ``(x - centre) / scale @ weights + offset``."""

    centre: Array
    scale: float
    weights: Array
    offset: Array

    def read(self, x: Array) -> Array:
        """Predictions, shape (n, t): values for ridge, log-odds for logistic."""
        return (x - self.centre) @ (self.weights / self.scale) + self.offset


@dataclass(frozen=True)
class Readout:
    """What a cross-validated readout says.

    Attributes
    ----------
    own : float64 array, shape (n, t)
        Each row by the fold's readout that did not see its group.
    other : float64 array, shape (m, t) or None
        Rows of elsewhere, each by the readout of one fold.
    """

    own: Array
    other: Array | None


def group_folds(groups: NDArray[np.intp], *, seed: int, folds: int = FOLDS) -> NDArray[np.intp]:
    """Fold of every row, shape (n,): whole groups, drawn at random, into the emptiest fold."""
    codes, sizes = np.unique(groups, return_counts=True)
    random = np.random.default_rng(seed)
    order = random.permutation(len(codes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled = np.zeros(folds)
    place: dict[int, int] = {}
    for i in order:
        fold = int(np.argmin(filled))
        place[int(codes[i])] = fold
        filled[fold] += sizes[i]
    return np.array([place[int(g)] for g in groups], dtype=np.intp)


def narrowed(x: Array) -> Array:
    """The same rows in at most as many dimensions as there are rows: a rotation, nothing lost."""
    if x.shape[1] <= len(x):
        return np.ascontiguousarray(x, dtype=np.float64)
    return np.ascontiguousarray(np.asarray(np.linalg.qr(x.T, mode="r")).T)


@dataclass(frozen=True)
class Frame:
    """Middle of a cloud (its geometric median), shape (d,), and the median distance to it.

    Both turn, shift and stretch with the rows.
    """

    middle: Array
    scale: float

    @classmethod
    def of(cls, x: Array) -> Frame:
        """The frame of these rows (Weiszfeld 1937)."""
        middle = x.mean(axis=0)
        distances = _lengths(x - middle)
        for _ in range(30):
            near = np.maximum(distances, 1e-9 * max(float(np.median(distances)), 1e-300))
            middle = (x / near[:, None]).sum(axis=0) / (1.0 / near).sum()
            distances = _lengths(x - middle)
        return cls(middle, float(np.median(distances)) or float(distances.max()) or 1.0)

    def place(self, x: Array) -> Array:
        """Rows with the middle at 0 and the scale 1."""
        return (x - self.middle) / self.scale

    def tame(self, x: Array) -> Array:
        """Rows further than :data:`REACH` scales from the middle, moved in; the others as given.

        One structure with overlapping atoms can lie hundreds of times further out than all the
        rest, and would be all that a least-squares map sees.
        """
        shifted = x - self.middle
        far = _lengths(shifted) / (REACH * self.scale)
        return self.middle + shifted / np.maximum(far, 1.0)[:, None]


def tamed(x: Array, *others: Array) -> list[Array]:
    """Each cloud tamed around its own middle, then all in the frame of the first."""
    frames = [Frame.of(rows) for rows in (x, *others)]
    return [
        frames[0].place(frame.tame(rows)) for frame, rows in zip(frames, (x, *others), strict=True)
    ]


def _lengths(x: Array) -> Array:
    return np.sqrt(np.einsum("ij,ij->i", x, x))


def cross_read(
    x: Array,
    y: Array,
    folds: NDArray[np.intp],
    *,
    classify: bool = False,
    other: Array | None = None,
    other_folds: NDArray[np.intp] | None = None,
) -> Readout:
    """Readouts of ``y`` from ``x`` by cross-validation, and of ``other`` rows by the same maps.

    The penalty of a fold and target is the one that does best on the other folds' held-out rows.

    Parameters
    ----------
    x : float64 array, shape (n, d)
    y : float64 array, shape (n, t)
        0 and 1 with ``classify``.
    folds, other_folds : int arrays, shapes (n,) and (m,)
        Fold of each row; a row of ``other`` is read by the map of its fold, which was trained on
        as many rows as any of ``x``.
    """
    penalties = LOGISTIC if classify else RIDGE
    count = int(folds.max()) + 1
    guesses = np.empty((len(penalties), *y.shape))
    maps: list[list[Fit]] = []
    for fold in range(count):
        test = folds == fold
        maps.append(_fits(x[~test], y[~test], penalties, classify=classify))
        for a, fit in enumerate(maps[-1]):
            guesses[a, test] = fit.read(x[test])
    loss = _log_loss(guesses, y) if classify else (guesses - y) ** 2
    by_fold = np.stack([loss[:, folds == f].sum(axis=1) for f in range(count)])
    best = np.argmin(by_fold.sum(axis=0) - by_fold, axis=1)  # (folds, t)
    targets = np.arange(y.shape[1])
    own = guesses[best[folds], np.arange(len(y))[:, None], targets]
    if other is None or other_folds is None:
        return Readout(own, None)
    out = np.empty((len(other), y.shape[1]))
    for fold in range(count):
        rows = other_folds == fold
        said = np.stack([fit.read(other[rows]) for fit in maps[fold]])
        out[rows] = said[best[fold], :, targets].T
    return Readout(own, out)


def _fits(x: Array, y: Array, penalties: tuple[float, ...], *, classify: bool) -> list[Fit]:
    from scipy.linalg.lapack import dpotrf, dpotrs

    n, d = x.shape
    centre = x.mean(axis=0)
    z = x - centre
    scale = float(np.sqrt(np.einsum("ij,ij->", z, z) / n)) or 1.0
    z /= scale
    gram = z.T @ z
    diagonal = np.arange(d)
    fits = []
    offset = y.mean(axis=0)
    product = z.T @ (y - offset)
    for penalty in penalties:
        # A logistic curve bends by 1/4 at most, which bounds the Hessian for every target at once.
        factor = gram * 0.25 if classify else gram.copy()
        factor[diagonal, diagonal] += penalty * n
        held = dpotrf(factor, lower=True, overwrite_a=True)[0]
        if classify:
            weights, start = _logistic(z, y, penalty * n, held)
        else:
            weights, start = dpotrs(held, product, lower=True)[0], offset
        fits.append(Fit(centre, scale, weights, start))
    return fits


def _logistic(z: Array, y: Array, penalty: float, factor: Array) -> tuple[Array, Array]:
    """Weights and offsets of logistic regressions that share the factor of a Hessian's bound.

    Böhning & Lindsay 1988 (Ann. Inst. Stat. Math. 40, 641), with Nesterov's acceleration.
    """
    from scipy.linalg.lapack import dpotrs

    share = np.clip(y.mean(axis=0), 1e-3, 1 - 1e-3)
    weights, offset = np.zeros((z.shape[1], y.shape[1])), np.log(share / (1 - share))
    ahead, there = weights, offset
    speed = 1.0
    for _ in range(STEPS):
        missed = y - 0.5 * (1.0 + np.tanh(0.5 * (z @ ahead + there)))
        new = ahead + dpotrs(factor, z.T @ missed - penalty * ahead, lower=True)[0]
        moved = there + 4.0 * missed.mean(axis=0)
        faster = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * speed**2))
        push = (speed - 1.0) / faster
        ahead, there = new + push * (new - weights), moved + push * (moved - offset)
        weights, offset, speed = new, moved, faster
    return weights, offset


def _log_loss(odds: Array, y: Array) -> Array:
    return np.logaddexp(0.0, odds) - y * odds


# --- scores --------------------------------------------------------------------------------------


def bootstrap_weights(groups: NDArray[np.intp], *, seed: int, draws: int = DRAWS) -> Array:
    """How often each row is drawn, shape (draws + 1, n); whole groups; row 0 is the sample."""
    codes, inverse = np.unique(groups, return_inverse=True)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(codes), np.full(len(codes), 1.0 / len(codes)), size=draws)
    return np.vstack([np.ones(len(groups)), drawn[:, inverse].astype(np.float64)])


def explained(y: Array, guess: Array, weights: Array) -> Array:
    """Share of variance that follows the readout's direction, for every weighting; in 0..1.

    The squared correlation, 0 where it is negative: two numbers (slope and offset) are fitted
    anew, so that a shift between domains is not taken for a cue that is lost. Several targets are
    averaged by their variance.

    Parameters
    ----------
    y, guess : float64 arrays, shape (n, t)
    weights : float64 array, shape (b, n)

    Returns
    -------
    float64 array, shape (b,)
        NaN where no target varies.
    """
    total = weights.sum(axis=1, keepdims=True)
    y, guess = y - y.mean(axis=0), guess - guess.mean(axis=0)
    my, mg = weights @ y / total, weights @ guess / total
    vy = np.maximum(weights @ y**2 / total - my**2, 0.0)
    vg = np.maximum(weights @ guess**2 / total - mg**2, 0.0)
    cov = weights @ (y * guess) / total - my * mg
    floor = 1e-12 * np.maximum(vg[:1], 1e-300)
    with np.errstate(divide="ignore", invalid="ignore"):
        caught = np.where((cov > 0) & (vg > floor), cov**2 / vg, 0.0)
        return np.clip(caught.sum(axis=1) / vy.sum(axis=1), 0.0, 1.0)


def determined(y: Array, guess: Array) -> float:
    """R2 = 1 - residual / total sum of squares, pooled over targets; clipped to 0..1."""
    total = float(((y - y.mean(axis=0)) ** 2).sum())
    return float(np.clip(1.0 - ((y - guess) ** 2).sum() / total, 0.0, 1.0)) if total else np.nan


def ranked(y: Array, guess: Array, weights: Array) -> Array:
    """2 AUC - 1 of one class for every weighting, 0 where negative; ties count half.

    Parameters
    ----------
    y, guess : float64 arrays, shape (n, 1)
        0 or 1; any increasing score.
    weights : float64 array, shape (b, n)

    Returns
    -------
    float64 array, shape (b,)
        NaN where a class is absent.
    """
    order = np.argsort(guess[:, 0], kind="stable")
    levels = guess[order, 0]
    starts = np.flatnonzero(np.r_[True, levels[1:] > levels[:-1]])
    positive = np.add.reduceat(weights[:, order] * y[order, 0], starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * (1.0 - y[order, 0]), starts, axis=1)
    below = np.cumsum(negative, axis=1) - 0.5 * negative
    with np.errstate(divide="ignore", invalid="ignore"):
        area = (positive * below).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))
    return np.maximum(2.0 * area - 1.0, 0.0)


def error_of(draws: Array) -> float:
    """Standard error of a cross-validated score or difference from its bootstrap draws."""
    kept = draws[1:][np.isfinite(draws[1:])]
    return float(kept.std(ddof=1) * np.sqrt(SHARED_TRAINING)) if len(kept) > 1 else np.nan
