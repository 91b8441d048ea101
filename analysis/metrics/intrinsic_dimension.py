# SPDX-License-Identifier: Apache-2.0
"""Intrinsic dimension from nearest-neighbour distances: TwoNN and maximum likelihood."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...schemas.errors import MetricError
from ..blocks import MINIMUM_ROWS, Normalise, Space, as_rows, check_neighbour_count, normalise_rows
from ..neighbours import nearest

VERSION = "1"

Method = Literal["twonn", "mle"]
METHODS: tuple[Method, ...] = ("twonn", "mle")


def intrinsic_dimension(
    x: ArrayLike,
    *,
    method: Method = "twonn",
    k: int = 50,
    fraction: float = 0.9,
    normalise: Normalise = "none",
) -> float:
    """Number of directions in which the embedding locally varies.

    - ``"twonn"`` (Facco et al. 2017): with mu_i the ratio of the second to the first neighbour
      distance, in ascending order, the slope through the origin of -log(1 - i/n) against log mu_i,
      over the lowest ``fraction`` of rows.
    - ``"mle"`` (Levina & Bickel 2004, rows combined as MacKay & Ghahramani 2005): the inverse of
      the mean over rows and over j < k of log(T_k / T_j), T_j the distance to the j-th neighbour.

    Parameters
    ----------
    x : array_like, shape (n, d)
        Embeddings. Of rows that are equal only one is used: neither model allows a distance of 0.
    method : {"twonn", "mle"}
    k : int
        Neighbours a row, for ``"mle"`` only; 2 <= k < number of distinct rows.
    fraction : float
        Share of rows fitted, for ``"twonn"`` only, in (0, 1).
    normalise : {"l2", "max", "none"}
        Row scaling before Euclidean distances are taken.

    Returns
    -------
    float
        Greater than 0. NaN if fewer than four rows are distinct, or no ratio differs from 1.

    Raises
    ------
    MetricError
        If rows are not finite or fewer than four, or ``k``, ``method`` or ``fraction`` do not fit.
    """
    check_method(method)
    if not 0.0 < fraction < 1.0:
        raise MetricError(f"fraction={fraction!r} is not between 0 and 1 (0.9 is usual)")
    rows = distinct(Space(normalise_rows(as_rows(x), normalise)))
    if rows.n < MINIMUM_ROWS:
        return float(np.nan)
    needed = 2
    if method == "mle":
        needed = check_neighbour_count(k, rows.n, least=2)
    squared = nearest(rows, needed).scores
    return dimension_from(squared, method=method, fraction=fraction)


def check_method(method: str) -> None:
    """Raise :class:`MetricError` unless ``method`` is known."""
    if method not in METHODS:
        raise MetricError(f"intrinsic dimension method={method!r} is not one of twonn, mle")


def distinct(space: Space) -> Space:
    """The space of distinct rows, in order of first appearance; itself if all are."""
    return space if space.copies is None else Space(space.values[space.unique_rows])


def dimension_from(squared: NDArray[np.float64], *, method: Method, fraction: float = 0.9) -> float:
    """Dimension from squared distances (n, k) to the nearest rows, nearest first, all above 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = 0.5 * np.log(squared)
        if method == "mle":
            gaps = logs[:, -1:] - logs[:, :-1]
            value = 1.0 / gaps.mean()
        else:
            n = squared.shape[0]
            fitted = int(n * fraction)
            ratios = np.sort(logs[:, 1] - logs[:, 0])[:fitted]
            heights = -np.log1p(-np.arange(1, fitted + 1) / n)
            value = (ratios @ heights) / (ratios @ ratios)
    return float(value) if np.isfinite(value) else float(np.nan)
