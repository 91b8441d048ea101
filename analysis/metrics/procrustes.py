# SPDX-License-Identifier: Apache-2.0
"""Orthogonal Procrustes: how well a rotation lays one embedding onto the other."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from ...schemas.errors import MetricError
from ..blocks import FloatArray, Normalise, Space, as_pair, normalise_rows

VERSION = "1"

Form = Literal["similarity", "distance", "angle"]
FORMS: tuple[Form, ...] = get_args(Form)


def procrustes(
    x: ArrayLike, y: ArrayLike, *, form: Form = "similarity", normalise: Normalise = "none"
) -> float:
    """Orthogonal Procrustes similarity or distance.

    Both embeddings are centred and divided by their Frobenius norm. With X and Y the results (the
    narrower one filled up with zeros) and d = min |X - Y R| over orthogonal R:
    d^2 = 2 - 2 s with s = |X^T Y|_*, the sum of singular values.

    Parameters
    ----------
    x, y : array_like, shape (n, d_x) and (n, d_y)
        Embeddings of the same structures in the same order.
    form : {"similarity", "distance", "angle"}
        ``"similarity"``: s = 1 - d^2 / 2. ``"distance"``: d (Ding et al. 2021 use d^2).
        ``"angle"``: arccos(s), in radians (Williams et al. 2021, Eq. 4 with alpha = 1). The last
        two are metrics: symmetric, 0 for equal embeddings, with a triangle inequality.
    normalise : {"l2", "max", "none"}
        Row scaling, before centring.

    Returns
    -------
    float
        Similarity in [0, 1], distance in [0, sqrt(2)], angle in [0, pi / 2]. The similarity of
        unrelated embeddings rises to 1 as features outnumber rows. NaN if an embedding is constant.

    Raises
    ------
    MetricError
        If rows differ in number, are not finite, or number fewer than four; for another ``form``.

    Notes
    -----
    Memory is that of the input and a d x d product of features. scipy.spatial.procrustes returns
    1 - s^2, as it rescales the second embedding too.
    """
    if form not in FORMS:
        raise MetricError(f"procrustes form={form!r} is not one of {', '.join(FORMS)}")
    spaces = [Space(normalise_rows(rows, normalise)) for rows in as_pair(x, y)]
    if any(space.constant for space in spaces):
        return float(np.nan)
    first, second = (_shape(space) for space in spaces)
    sizes = np.linalg.svd(first.T @ second, compute_uv=False)
    similarity = min(1.0, float(sizes.sum()))
    if form == "similarity":
        return similarity
    if form == "angle":
        return float(np.arccos(similarity))
    return float(np.sqrt(2.0 - 2.0 * similarity))


def _shape(space: Space) -> FloatArray:
    """Centred rows of Frobenius norm 1, (n, min(n, d)), up to a rotation of features."""
    rows = space.centred / np.abs(space.centred).max()
    rows = rows / np.linalg.norm(rows)
    if space.d <= space.n:
        return np.asarray(rows)
    triangle: FloatArray = np.asarray(np.linalg.qr(rows.T, mode="r"))
    return triangle.T
