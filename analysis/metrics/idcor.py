# SPDX-License-Identifier: Apache-2.0
"""Intrinsic dimension correlation (IdCor): how many directions two embeddings share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...schemas.errors import MetricError
from ..blocks import Normalise, as_pair, normalise_rows
from .intrinsic_dimension import Method, intrinsic_dimension

VERSION = "1"


class IdCor(NamedTuple):
    """Intrinsic dimension correlation with the dimensions it is made of.

    Attributes
    ----------
    value : float
        (dimension_x + dimension_y - dimension_both) / max(dimension_x, dimension_y).
    p_value : float
        Share of relabelings of y's rows, the identity among them, whose joint dimension is no
        larger; NaN without permutations.
    dimension_x, dimension_y, dimension_both : float
    """

    value: float
    p_value: float
    dimension_x: float
    dimension_y: float
    dimension_both: float


def idcor(
    x: ArrayLike,
    y: ArrayLike,
    *,
    method: Method = "twonn",
    k: int = 50,
    fraction: float = 0.9,
    standardise: bool = False,
    permutations: int = 0,
    seed: int = 0,
    normalise: Normalise = "l2",
) -> IdCor:
    """Intrinsic dimension correlation.

    Directions that x and y share are counted once in the dimension of [x, y], the rows side by
    side, and twice in the sum of the two.

    Parameters
    ----------
    x, y : array_like, shape (n, d_x) and (n, d_y)
        Embeddings of the same structures in the same order.
    method : {"twonn", "mle"}
        Of :func:`intrinsic_dimension`, as are ``k`` and ``fraction``.
    standardise : bool
        Scale every feature to mean 0 and standard deviation 1 first (features without variance
        become 0), as later versions of the published code do; rotations then matter.
    permutations : int
        Relabelings of y's rows for the p-value; each costs a search for neighbours in [x, y].
    seed : int
        Of the relabelings.
    normalise : {"l2", "max", "none"}
        Row scaling of each embedding before they are put side by side. With ``"none"`` the ratio of
        their lengths decides how much either counts.

    Returns
    -------
    IdCor
        The value is 1 for x = y (up to the rounding of equal geometries), 0 where dimensions add
        up; below 0 or above 1 only where estimates err. NaN where a dimension is.

    Raises
    ------
    MetricError
        If rows differ in number, are not finite, or number fewer than four; for a negative
        ``permutations``; as :func:`intrinsic_dimension` does.

    Notes
    -----
    Dimensions above about 10 are underestimated at any n in reach, that of [x, y] most, which
    pushes values of unrelated embeddings above 0: judge by the p-value. Source: Basile et al. 2024
    (arXiv:2406.15812), Eq. 3.
    """
    if permutations < 0 or int(permutations) != permutations:
        raise MetricError(
            f"idcor permutations={permutations!r} is not a whole number of at least 0"
        )
    first, second = as_pair(x, y)
    if standardise:
        first, second = _standardise(first), _standardise(second)
    first, second = normalise_rows(first, normalise), normalise_rows(second, normalise)

    def dimension(rows: NDArray[np.float64]) -> float:
        return intrinsic_dimension(rows, method=method, k=k, fraction=fraction)

    own, other = dimension(first), dimension(second)
    both = dimension(np.hstack([first, second]))
    value = (own + other - both) / max(own, other)
    p_value = float(np.nan)
    if permutations and np.isfinite(value):
        random = np.random.default_rng(seed)
        joint = np.array(
            [
                dimension(np.hstack([first, second[random.permutation(len(second))]]))
                for _ in range(permutations)
            ]
        )
        p_value = float((1 + (joint <= both).sum()) / (permutations + 1))
    return IdCor(float(value), p_value, own, other, both)


def _standardise(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = rows - rows.mean(axis=0)
    centred[:, (rows == rows[0]).all(axis=0)] = 0.0
    spread = centred.std(axis=0, ddof=1)
    return np.asarray(centred / np.where(spread > 0, spread, 1.0))
