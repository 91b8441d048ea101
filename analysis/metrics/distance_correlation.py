# SPDX-License-Identifier: Apache-2.0
"""Distance correlation, bias-corrected (U) and classical (V)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ...schemas.errors import MetricError
from ..blocks import Normalise, Space, as_pair, normalise_rows
from .matrices import covariance, distances, ratio

VERSION = "1"

Estimator = Literal["u", "v"]


def distance_correlation(
    x: ArrayLike,
    y: ArrayLike,
    *,
    estimator: Estimator = "u",
    squared: bool = True,
    normalise: Normalise = "none",
) -> float:
    """Correlation of the two embeddings' centred distance matrices.

    With A, B the centred matrices of Euclidean distances: <A, B> / sqrt(<A, A> <B, B>).

    Parameters
    ----------
    x, y : array_like, shape (n, d_x) and (n, d_y)
        Embeddings of the same structures in the same order.
    estimator : {"u", "v"}
        ``"u"``: U-centred, the bias-corrected statistic of Szekely & Rizzo 2013, whose mean over
        unrelated embeddings is 0. ``"v"``: doubly centred, Szekely, Rizzo & Bakirov 2007, which
        tends to 1 as features outnumber rows.
    squared : bool
        True: the ratio as above (arXiv 2512.03750, Eq. A18, has no outer root). False: its root,
        the classical "distance correlation"; for a negative U value, minus the root of its size.
    normalise : {"l2", "max", "none"}
        Row scaling.

    Returns
    -------
    float
        At most 1; V in [0, 1], U below 0 for less than chance. NaN if an embedding is constant.

    Raises
    ------
    MetricError
        If rows differ in number, are not finite, or number fewer than four.
    """
    if estimator not in ("u", "v"):
        raise MetricError(f"distance_correlation estimator={estimator!r} is not one of u, v")
    spaces = [Space(normalise_rows(rows, normalise)) for rows in as_pair(x, y)]
    matrices = [distances(space) for space in spaces]
    value = ratio(covariance(matrices, spaces[0].n, unbiased=estimator == "u"))
    return value if squared else float(np.copysign(np.sqrt(abs(value)), value))
