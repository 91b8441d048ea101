# SPDX-License-Identifier: Apache-2.0
"""Centred kernel alignment with Gaussian kernels."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ...schemas.errors import MetricError
from ..blocks import Normalise, Space, as_pair, normalise_rows
from .matrices import covariance, distances, gaussian, median, ratio

VERSION = "1"


def rbf_cka(
    x: ArrayLike,
    y: ArrayLike,
    *,
    unbiased: bool = True,
    bandwidth: float | Literal["median"] = "median",
    fraction: float = 1.0,
    normalise: Normalise = "none",
) -> float:
    """Similarity of the two embeddings' Gaussian kernel matrices.

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K_ij = exp(-|x_i - x_j|^2 / (2 s^2)), L likewise.

    Parameters
    ----------
    x, y : array_like, shape (n, d_x) and (n, d_y)
        Embeddings of the same structures in the same order.
    unbiased : bool
        Unbiased HSIC (Song et al. 2012, Eq. 5), whose mean over unrelated embeddings is 0; else the
        biased one of Kornblith et al. 2019.
    bandwidth : {"median"} or float
        Kernel width s: ``fraction`` of each embedding's own median distance, or a number used for
        both.
    fraction : float
        Of the median distance, greater than 0. The smaller, the more local; Kornblith et al. try
        0.2, 0.4 and 0.8. Only with ``bandwidth="median"``.
    normalise : {"l2", "max", "none"}
        Row scaling.

    Returns
    -------
    float
        Biased: in [0, 1]. Unbiased: at most 1, below 0 for less than chance. NaN if an embedding is
        constant, or its kernel matrix is (all rows equally far apart).

    Raises
    ------
    MetricError
        If rows differ in number, are not finite, or number fewer than four; for a width that is not
        above 0.

    Notes
    -----
    The median is that of all n (n - 1) / 2 distances between rows i < j, the mean of the two middle
    ones if they are even in number. It is exact: a histogram narrows down on it, block by block. If
    it is 0 (more than half of the pairs are equal) the median of the distances above 0 is taken.
    """
    if bandwidth != "median" and not (np.isfinite(bandwidth) and bandwidth > 0):
        raise MetricError(f"rbf_cka bandwidth={bandwidth!r} is not 'median' or a number above 0")
    if not (np.isfinite(fraction) and fraction > 0):
        raise MetricError(f"rbf_cka fraction={fraction!r} is not a number above 0 (1 is usual)")
    spaces = [Space(normalise_rows(rows, normalise)) for rows in as_pair(x, y)]
    if any(space.constant for space in spaces):
        return float(np.nan)
    kernels = []
    for space in spaces:
        width = fraction * median_distance(space) if bandwidth == "median" else float(bandwidth)
        kernels.append(gaussian(space, width))
    return ratio(covariance(kernels, spaces[0].n, unbiased=unbiased))


def median_distance(space: Space) -> float:
    """Median distance between two rows; between two that differ, should that be 0."""
    middle = median(distances(space), space.n)
    return middle if middle > 0 else median(distances(space), space.n, above=0.0)
