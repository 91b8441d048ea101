# SPDX-License-Identifier: Apache-2.0
"""The metrics written straight from their definitions: dense, slow, sharing no code with the core.

Ties are broken by index with stable sorts of distances taken from differences.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def matrix(x: NDArray) -> Array:
    x = np.asarray(x, dtype=np.float64)
    return x[:, None] if x.ndim == 1 else x


def normalise(x: NDArray, how: str) -> Array:
    x = matrix(x).copy()
    for row in x:
        size = {"l2": np.linalg.norm(row), "max": np.abs(row).max(), "none": 1.0}[how]
        if size > 0:
            row /= size
    return x


def distances(x: Array) -> Array:
    return np.stack([np.sqrt(((x - row) ** 2).sum(axis=1)) for row in x])


def order(scores: Array) -> NDArray[np.intp]:
    """Other rows of each row, smallest score first; (n, n - 1)."""
    n = len(scores)
    out = np.empty((n, n - 1), np.intp)
    for i, row in enumerate(scores):
        ranked = np.argsort(row, kind="stable")
        out[i] = ranked[ranked != i]
    return out


def mask(scores: Array, k: int) -> Array:
    out = np.zeros_like(scores)
    np.put_along_axis(out, order(scores)[:, :k], 1.0, axis=1)
    return out


def mutual_knn(x: NDArray, y: NDArray, k: int, how: str = "l2") -> float:
    a, b = (mask(distances(normalise(z, how)), k) for z in (x, y))
    return float((a * b).sum() / (len(a) * k))


def hsic_unbiased(k: Array, l: Array) -> float:  # noqa: E741
    """Song et al. 2012, Eq. 5, as Huh et al. code it (matrices need not be symmetric)."""
    m = len(k)
    k = k - np.diag(np.diag(k))
    l = l - np.diag(np.diag(l))  # noqa: E741
    value = np.trace(k @ l) + k.sum() * l.sum() / ((m - 1) * (m - 2))
    value -= 2.0 * (k @ l).sum() / (m - 2)
    return float(value / (m * (m - 3)))


def hsic_biased(k: Array, l: Array) -> float:  # noqa: E741
    m = len(k)
    h = np.eye(m) - 1.0 / m
    return float(np.trace(k @ h @ l @ h) / (m - 1) ** 2)


def cka(x: NDArray, y: NDArray, *, unbiased: bool, how: str = "none") -> float:
    a, b = (normalise(z, how) for z in (x, y))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)  # changes no digit but those rounding spoils
    k, l = a @ a.T, b @ b.T  # noqa: E741
    hsic = hsic_unbiased if unbiased else hsic_biased
    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


def inner_product_mask(x: Array, k: int) -> Array:
    return mask(-(x @ x.T), k)


def cknna_published(x: NDArray, y: NDArray, k: int, how: str, *, epsilon: float = 1e-6) -> float:
    """Huh et al.'s published code: mask, then unbiased HSIC; it depends on the arguments' order."""
    a, b = normalise(x, how), normalise(y, how)
    masks = inner_product_mask(a, k), inner_product_mask(b, k)
    kernels = a @ a.T, b @ b.T

    def similarity(i: int, j: int) -> float:
        shared = masks[i] * masks[j]
        return hsic_unbiased(shared * kernels[i], shared * kernels[j])

    return similarity(0, 1) / (np.sqrt(similarity(0, 0) * similarity(1, 1)) + epsilon)


def cknna_masked_centred(x: NDArray, y: NDArray, k: int, how: str) -> float:
    a, b = normalise(x, how), normalise(y, how)
    masks = inner_product_mask(a, k), inner_product_mask(b, k)
    h = np.eye(len(a)) - 1.0 / len(a)
    shared = masks[0] * masks[1]
    top = (h @ (shared * (a @ a.T)) @ h * (h @ (shared * (b @ b.T)) @ h)).sum()
    norms = [
        np.linalg.norm(h @ (own * (z @ z.T)) @ h) for own, z in zip(masks, (a, b), strict=True)
    ]
    return float(top / (norms[0] * norms[1]))


def cknna_centred_masked(x: NDArray, y: NDArray, k: int, how: str) -> float:
    a, b = normalise(x, how), normalise(y, how)
    masks = inner_product_mask(a, k), inner_product_mask(b, k)
    kernels = [z @ z.T - (z @ z.T).mean(axis=1, keepdims=True) for z in (a, b)]

    def align(i: int, j: int) -> float:
        return float((masks[i] * masks[j] * kernels[i] * kernels[j]).sum())

    return align(0, 1) / np.sqrt(align(0, 0) * align(1, 1))


def distance_correlation_squared(x: NDArray, y: NDArray, estimator: str) -> float:
    """Szekely et al. 2007 ("v") and Szekely & Rizzo 2013 ("u"), matrices in full."""

    def centred(z: NDArray) -> Array:
        d = distances(matrix(z))
        n = len(d)
        if estimator == "v":
            return d - d.mean(axis=0) - d.mean(axis=1)[:, None] + d.mean()
        rows = d.sum(axis=1) / (n - 2)
        u = d - rows[:, None] - rows[None, :] + d.sum() / ((n - 1) * (n - 2))
        return u - np.diag(np.diag(u))

    a, b = centred(x), centred(y)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def imbalance(x: NDArray, y: NDArray, k: int, how: str = "none") -> float:
    near, far = order(distances(normalise(x, how))), distances(normalise(y, how))
    n = len(near)
    ranks = [
        1.0
        + (np.delete(far[i], i) < far[i, j]).sum()
        + 0.5 * (np.delete(far[i], [i, j]) == far[i, j]).sum()
        for i in range(n)
        for j in near[i, :k]
    ]
    return float(2.0 * np.mean(ranks) / n)


def distinct_rows(x: NDArray) -> Array:
    x = matrix(x)
    first = sorted({tuple(row): i for i, row in reversed(list(enumerate(x)))}.values())
    return x[first]


def twonn(x: NDArray, fraction: float = 0.9) -> float:
    d = np.sort(distances(distinct_rows(x)), axis=1)
    n = len(d)
    kept = int(n * fraction)
    logs = np.sort(np.log(d[:, 2] / d[:, 1]))[:kept]
    heights = [-np.log(1.0 - (i + 1) / n) for i in range(kept)]
    return float(np.linalg.lstsq(logs[:, None], np.array(heights), rcond=None)[0][0])


def mle(x: NDArray, k: int) -> float:
    d = np.sort(distances(distinct_rows(x)), axis=1)[:, 1 : k + 1]
    local = [np.mean([np.log(row[-1] / row[j]) for j in range(k - 1)]) for row in d]
    return float(1.0 / np.mean(local))
