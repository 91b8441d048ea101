# SPDX-License-Identifier: Apache-2.0
"""Centred kernel nearest-neighbour alignment (CKNNA), the three published variants."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...schemas.errors import MetricError
from ..blocks import Normalise, Space, as_pair, check_neighbour_count, normalise_rows
from ..neighbours import Neighbours, Similarity, nearest
from ..overlaps import Edges, SharedSums, find_returned, shared_sums

VERSION = "1"

Variant = Literal["masked_unbiased", "masked_centred", "centred_masked"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)


def cknna(
    x: ArrayLike,
    y: ArrayLike,
    *,
    k: int = 25,
    variant: Variant = "masked_unbiased",
    normalise: Normalise = "l2",
) -> float:
    """Kernel alignment restricted to the neighbours two embeddings share.

    With K, L the inner products of rows and A_ij = 1 where j is among the k nearest of i in both:

    - ``"masked_unbiased"`` (code of Huh et al. 2024): unbiased HSIC of A*K and A*L, over the root
      of the product of the two self terms. The published code gives slightly different numbers for
      (x, y) and (y, x); this is their mean, without its 1e-6 in the denominator.
    - ``"masked_centred"`` (Groeger et al. 2026, Eq. 36): <H(A*K)H, H(A*L)H> over the norms of
      H(M_x*K)H and H(M_y*L)H, M the mask of one embedding.
    - ``"centred_masked"`` (Huh et al. 2024, text; arXiv 2512.03750, Eqs A3-A8): rows of K and L
      minus their mean, then summed over the mask.

    Parameters
    ----------
    x, y : array_like, shape (n, d_x) and (n, d_y)
        Embeddings of the same structures in the same order.
    k : int
        Neighbours a row by inner product, 2 <= k < n.
    variant : {"masked_unbiased", "masked_centred", "centred_masked"}
    normalise : {"l2", "max", "none"}
        Row scaling. ``variant="centred_masked", normalise="max"`` is what arXiv 2512.03750 prints.

    Returns
    -------
    float
        1 for x = y; about k / (n - 1) for unrelated embeddings, as mutual kNN; not bounded by 1 in
        general. NaN if an embedding is constant or its self term is not positive. Values at
        different n or k do not compare.

    Raises
    ------
    MetricError
        If rows differ in number, are not finite, or number k or fewer; for an unknown variant.
    """
    check_variant(variant)
    spaces = [Space(normalise_rows(rows, normalise)) for rows in as_pair(x, y)]
    n = spaces[0].n
    check_neighbour_count(k, n, least=2)
    if any(space.constant for space in spaces):
        return float(np.nan)
    edges = []
    for space in spaces:
        similarity = kernel_similarity(space, normalise)
        found = nearest(space, k, similarity=similarity)
        edges.append(kernel_edges(space, found, variant=variant, similarity=similarity))
    alignment = align(shared_sums(edges, kernels=True), n, variant=variant)
    return float(divide_by_self(alignment, alignment)[0, 1])


def check_variant(variant: str) -> None:
    """Raise :class:`MetricError` unless ``variant`` is known."""
    if variant not in VARIANTS:
        raise MetricError(f"cknna variant={variant!r} is not one of {', '.join(VARIANTS)}")


def kernel_similarity(space: Space, normalise: Normalise) -> Similarity:
    """How to search for the largest inner products: by distance where that is the same thing."""
    return "euclidean" if normalise == "l2" and space.squares.min() > 0 else "inner"


def kernel_edges(
    space: Space,
    found: Neighbours,
    *,
    variant: Variant | None,
    similarity: Similarity,
    kept: NDArray[np.bool_] | None = None,
) -> Edges:
    """Attach kernel values to neighbour lists.

    Parameters
    ----------
    space : Space
        All rows.
    found : Neighbours
        Lists of the kept rows, in row numbers of ``space``.
    variant : str or None
        What the values are for; None for lists without values.
    kept : bool array, shape (n,), optional
        Rows kept, all by default; the edges returned are numbered among them.
    """
    rows = np.arange(space.n) if kept is None else np.flatnonzero(kept)
    number = np.empty(space.n, np.int32)
    number[rows] = np.arange(rows.size)
    indices = number[found.indices]
    if variant is None:
        return Edges(indices)
    if similarity == "euclidean":
        lengths = space.squares
        values = 0.5 * (lengths[rows, None] + lengths[found.indices] - found.scores)
    else:
        values = found.scores
    if variant == "centred_masked":
        values = values - (space.values[rows] @ space.values[rows].mean(axis=0))[:, None]
    return Edges(indices, values, find_returned(indices))


def align(sums: SharedSums, n: int, *, variant: Variant) -> NDArray[np.float64]:
    """Unnormalised alignment from sums over shared edges, same shape."""
    if variant == "centred_masked":
        return sums.products
    if variant == "masked_centred":
        margins = (sums.rows_rows + sums.columns_columns) / n
        return sums.products - margins + sums.first * sums.second / n**2
    outer = sums.first * sums.second / ((n - 1) * (n - 2))
    # Each order of the arguments of the published code has one of these two terms, twice.
    margins = (sums.rows_columns + sums.columns_rows) / (n - 2)
    return (sums.returned_products + outer - margins) / (n * (n - 3))


def divide_by_self(
    alignment: NDArray[np.float64], observed: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Divide (..., m, m) alignments by the root of the observed self terms; NaN where not > 0."""
    own = np.diagonal(observed).copy()
    own[~(own > 0)] = np.nan
    length = np.sqrt(own)
    return np.asarray(alignment / np.outer(length, length))
