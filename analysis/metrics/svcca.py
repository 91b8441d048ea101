# SPDX-License-Identifier: Apache-2.0
"""Singular vector canonical correlation analysis (SVCCA)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...schemas.errors import MetricError
from ..blocks import Normalise, Space, as_pair, normalise_rows

VERSION = "1"


def svcca(
    x: ArrayLike, y: ArrayLike, *, keep: float = 0.99, normalise: Normalise = "none"
) -> float:
    """Mean canonical correlation of the leading directions of two embeddings.

    Each embedding is centred and cut to its first singular directions; the canonical correlations
    of what is left are the cosines between the two spaces those directions span.

    Parameters
    ----------
    x, y : array_like, shape (n, d_x) and (n, d_y)
        Embeddings of the same structures in the same order.
    keep : float
        Share of the variance that the directions kept hold at least, in (0, 1]. With 1 all
        directions are kept that are not rounding: plain CCA.
    normalise : {"l2", "max", "none"}
        Row scaling.

    Returns
    -------
    float
        Mean of the min(k_x, k_y) canonical correlations, in [0, 1]. Unrelated embeddings reach
        about sqrt(max(k_x, k_y) / (n - 1)): **1 as directions come to number n - 1**. NaN if an
        embedding is constant.

    Raises
    ------
    MetricError
        If rows differ in number, are not finite, or number fewer than four; for another ``keep``.

    Notes
    -----
    Memory is that of the input. Source: Raghu et al. 2017 (arXiv:1706.05806), Section 2.
    """
    if not 0.0 < keep <= 1.0:
        raise MetricError(f"svcca keep={keep!r} is not a share in (0, 1] (0.99 is usual)")
    spaces = [Space(normalise_rows(rows, normalise)) for rows in as_pair(x, y)]
    if any(space.constant for space in spaces):
        return float(np.nan)
    first, second = (leading_directions(space, keep) for space in spaces)
    cosines = np.linalg.svd(first.T @ second, compute_uv=False)
    return float(np.minimum(cosines, 1.0).mean())


def leading_directions(space: Space, keep: float) -> NDArray[np.float64]:
    """Orthonormal left singular vectors of the centred rows, shape (n, k), that hold ``keep``."""
    left, sizes, _ = np.linalg.svd(space.centred, full_matrices=False)
    rank = int((sizes > sizes[0] * max(space.centred.shape) * np.finfo(np.float64).eps).sum())
    shares = np.cumsum(sizes[:rank] ** 2) / np.sum(sizes[:rank] ** 2)
    # The last share is 1 but for rounding, so that `keep` is reached.
    count = rank if keep == 1.0 else min(rank, 1 + int((shares < keep).sum()))
    return np.asarray(left[:, :count])
