# SPDX-License-Identifier: Apache-2.0
"""How many directions an embedding's variance fills."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .blocks import Space

VERSION = "1"


def participation_ratio(x: NDArray[np.floating]) -> float:  # type: ignore[type-arg]
    """Effective rank of an embedding: (sum l)^2 / sum l^2 over the covariance's eigenvalues l.

    1 when one direction holds all variance, min(n - 1, d) when all directions hold the same.
    Source: Gao et al. 2017 (bioRxiv 214262). NaN for a constant embedding.

    Parameters
    ----------
    x : array, shape (n, d)
    """
    space = Space(np.asarray(x, dtype=np.float64))
    if space.constant:
        return float(np.nan)
    centred = space.centred / np.abs(space.centred).max()
    product = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    return float(np.trace(product) ** 2 / np.einsum("ij,ij->", product, product))
