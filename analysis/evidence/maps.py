# SPDX-License-Identifier: Apache-2.0
"""Maps between two models' spaces: fitted on some rows, applied to others.

Spaces are standardised as wholes: each feature loses its mean over the fitted rows, then all are
divided by one number that makes their variances sum to 1 (Goscinski et al. 2021, "The role of
feature space in atomistic learning", Mach. Learn.: Sci. Technol. 2 025028). Dividing each feature
by its own spread would make every result hang on the axes a model happens to use; this way it is
the same for every rotation of either space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import MetricError

Array = NDArray[np.floating[Any]]

#: Ridge strengths tried, a row, in units of the source's whole variance.
STRENGTHS = tuple(10.0**p for p in range(-8, 2))
#: Directions of less than this share of the largest spread are rounding, not signal (float32).
NEGLIGIBLE = 1e-6
#: Principal components of either space that Procrustes rotates onto each other, at most.
COMPONENTS = 128
#: Fitted rows around a row that the local map is fitted to, and its ridge strength as a share of
#: their variance.
LOCAL_ROWS, LOCAL_STRENGTH = 20, 1e-2
#: Anchors of relative representations.
ANCHORS = 128


@dataclass(frozen=True)
class Standard:
    """Mean (d,) and overall scale of a space, by the rows it was fitted on."""

    mean: Array
    scale: float

    @classmethod
    def of(cls, rows: Array) -> Standard:
        """From ``rows``, (n, d); the scale of a constant space is 1."""
        mean = rows.mean(axis=0)
        scale = float(np.sqrt(((rows - mean) ** 2).sum() / len(rows)))
        large = float(np.abs(rows).max(initial=0.0))
        return cls(mean, scale if scale > 1e-12 * large and scale > 0 else 1.0)

    def __call__(self, rows: Array) -> Array:
        """Rows in standard form: whole variance 1 over the fitted ones."""
        return (rows - self.mean) / self.scale


class Factors:
    """Singular vectors of standardised rows, (n, d), found once for all targets."""

    def __init__(self, rows: Array) -> None:
        self.standard = Standard.of(rows)
        u, s, vt = np.linalg.svd(self.standard(rows), full_matrices=False)
        kept = s > NEGLIGIBLE * max(float(s[0]), 1e-300)
        self.u, self.s, self.v = u[:, kept], s[kept], vt[kept].T

    def gains(self, strength: float) -> Array:
        """s / (s^2 + n strength): from U^T Y to ridge weights in the basis V."""
        return np.asarray(self.s / (self.s**2 + len(self.u) * strength))


@dataclass(frozen=True)
class LinearMap:
    """Ridge regression from one standardised space to another; ``weights`` is (d_a, d_b)."""

    source: Standard
    target: Standard
    weights: Array
    strength: float

    def __call__(self, rows: Array) -> Array:
        """Rows of the source, (n, d_a), as standardised rows of the target, (n, d_b)."""
        return np.asarray(self.source(rows) @ self.weights)


class LinearSource:
    """A space to map from: factors of all fitted rows and of their two halves.

    Parameters
    ----------
    rows : array, shape (n, d)
        Fitted rows.
    half : bool array, shape (n,)
        Which half each is in. The ridge strength is the one whose maps fitted on either half
        reconstruct the other best (two-fold cross-validation, as in scikit-matter); give rows of
        one formula the same half, so that near-copies do not make it too small.
    least : float
        Smallest ridge strength tried.
    """

    def __init__(self, rows: Array, half: NDArray[np.bool_], *, least: float = 0.0) -> None:
        if not 2 <= half.sum() <= len(half) - 2:
            raise MetricError(f"halves of {int(half.sum())} of {len(half)} rows; two each needed")
        self.whole = Factors(rows)
        self.strengths = [s for s in STRENGTHS if s >= least]
        self._folds = []
        for fitted in (half, ~half):
            factors = Factors(rows[fitted])
            held = factors.standard(rows[~fitted]) @ factors.v
            self._folds.append((fitted, factors, held, held.T @ held))

    def fit(self, target: Array) -> LinearMap:
        """The map to ``target``, (n, d_b), rows of the same structures in the same order."""
        losses = np.zeros(len(self.strengths))
        scale = Standard.of(target).scale
        for fitted, factors, held, gram in self._folds:
            mean = target[fitted].mean(axis=0)
            inner = factors.u.T @ ((target[fitted] - mean) / scale)
            cross = np.einsum("jd,jd->j", held.T @ ((target[~fitted] - mean) / scale), inner)
            products = gram * (inner @ inner.T)
            # Held-out squared error of each strength, but for a constant.
            for i, strength in enumerate(self.strengths):
                gains = factors.gains(strength)
                losses[i] += gains @ products @ gains - 2.0 * gains @ cross
        # Of strengths that do equally well the strongest: it changes least with the rows.
        good = losses <= losses.min() + 1e-12 * max(1.0, abs(float(losses.min())))
        strength = self.strengths[int(np.flatnonzero(good)[-1])]
        standard = Standard.of(target)
        inner = self.whole.u.T @ standard(target)
        weights = self.whole.v @ (self.whole.gains(strength)[:, None] * inner)
        return LinearMap(self.whole.standard, standard, weights, strength)


def linear_map(source: Array, target: Array, half: NDArray[np.bool_]) -> LinearMap:
    """Ridge map between two spaces' rows; see :class:`LinearSource`."""
    return LinearSource(source, half).fit(target)


@dataclass(frozen=True)
class RotationMap:
    """A rotation and one scale from one standardised space to another."""

    source: Standard
    target: Standard
    weights: Array

    def __call__(self, rows: Array) -> Array:
        """Rows of the source, (n, d_a), as standardised rows of the target, (n, d_b)."""
        return np.asarray(self.source(rows) @ self.weights)


def rotation_map(
    source: Factors, target: Factors, *, components: int = COMPONENTS
) -> tuple[RotationMap, RotationMap]:
    """Orthogonal Procrustes maps there and back between two spaces' fitted rows.

    Both are cut to their first ``components`` principal components; the narrower is thereby filled
    up with zeros. The rotation is U V^T of the singular vectors of X^T Y (Schoenemann 1966), the
    scale the one of least squares.
    """
    first, second = (f.u[:, :components] * f.s[:components] for f in (source, target))
    left, sizes, right = np.linalg.svd(first.T @ second, full_matrices=False)
    rotation = left @ right
    v, w = source.v[:, : first.shape[1]], target.v[:, : second.shape[1]]
    there, back = (float(sizes.sum() / max(float((x**2).sum()), 1e-300)) for x in (first, second))
    return (
        RotationMap(source.standard, target.standard, there * (v @ rotation @ w.T)),
        RotationMap(target.standard, source.standard, back * (w @ rotation.T @ v.T)),
    )


@dataclass(frozen=True)
class LocalWeights:
    """What each row takes from which fitted rows; it depends on the source space alone.

    Attributes
    ----------
    neighbours : int array, shape (m, k)
        Fitted rows nearest to each row.
    weights : float array, shape (m, k)
        Of their deviations from the neighbours' mean.
    """

    neighbours: NDArray[np.intp]
    weights: Array

    def __call__(self, target: Array) -> Array:
        """Reconstructed rows (m, d_b) from the fitted rows' ``target``, (n, d_b), standardised."""
        near = target[self.neighbours]
        middle = near.mean(axis=1)
        # Weights of deviations: the mean's own part is taken off once, not neighbour by neighbour.
        moved = np.einsum("mk,mkd->md", self.weights, near, optimize=True)
        return np.asarray(middle + moved - self.weights.sum(axis=1)[:, None] * middle)


def local_weights(fitted: Array, rows: Array, *, count: int = LOCAL_ROWS) -> LocalWeights:
    """A ridge map around every row, from its ``count`` nearest fitted rows only.

    The local reconstruction of Goscinski et al. 2021 in dual form: a local map with an intercept is
    a set of weights of the neighbours, the same for every target.
    """
    from scipy.spatial.distance import cdist

    count = min(count, len(fitted))
    near = np.argsort(cdist(rows, fitted, "sqeuclidean"), axis=1, kind="stable")[:, :count]
    around = fitted[near]
    middle = around.mean(axis=1, keepdims=True)
    around = around - middle
    gram = around @ around.transpose(0, 2, 1)
    inner = np.einsum("mkd,md->mk", around, rows - middle[:, 0], optimize=True)
    strength = LOCAL_STRENGTH * np.trace(gram, axis1=1, axis2=2) + 1e-12
    gram[:, np.arange(count), np.arange(count)] += strength[:, None]
    weights = np.linalg.solve(gram, inner[..., None])[..., 0]
    return LocalWeights(near, weights)


def choose_anchors(
    ids: Sequence[str], groups: Sequence[str], *, count: int = ANCHORS, seed: int = 0
) -> NDArray[np.intp]:
    """Places of the anchors: one row of each group first, in hash order, then second ones.

    Frames of one trajectory share a formula; so spread, they do not take all the anchors.
    """

    def rank(text: str) -> bytes:
        return hashlib.sha256(f"{seed}:anchor:{text}".encode()).digest()

    seen: dict[str, int] = {}
    keys: list[tuple[int, int, int]] = []
    for place in sorted(range(len(ids)), key=lambda i: rank(ids[i])):
        turn = seen.get(groups[place], 0)
        seen[groups[place]] = turn + 1
        keys.append((turn, len(keys), place))
    return np.sort(np.array([place for *_, place in sorted(keys)[:count]], dtype=np.intp))


def relative(rows: Array, anchors: Array, *, mean: Array | None = None) -> Array:
    """Relative representation: cosine of each row with each anchor, (n, K).

    Moschella et al. 2023 (arXiv:2209.15430, Eq. 2), after the ``mean`` (default: that of the
    anchors) is taken off: most models' vectors share a large offset, with which all cosines are 1.
    The same for a space that is turned, shifted or scaled.
    """
    middle = anchors.mean(axis=0) if mean is None else mean

    def unit(x: Array) -> Array:
        length = np.linalg.norm(x - middle, axis=1, keepdims=True)
        return np.asarray((x - middle) / np.where(length > 0, length, 1.0))

    return np.asarray(unit(rows) @ unit(anchors).T)
