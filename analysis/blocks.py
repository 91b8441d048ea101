# SPDX-License-Identifier: Apache-2.0
"""Rows of embeddings: checks, row normalisation, duplicates, and blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..schemas.errors import MetricError

Normalise = Literal["l2", "max", "none"]
NORMALISATIONS: tuple[Normalise, ...] = ("l2", "max", "none")

FloatArray = NDArray[np.floating[Any]]

BLOCK_BYTES = 32 * 2**20
"""Size in bytes that one temporary tile (of all models together) aims for."""

MINIMUM_ROWS = 4
"""Fewest rows any metric is defined for (the U-statistics divide by n - 3)."""


def as_rows(x: ArrayLike, *, name: str = "x") -> NDArray[np.float64]:
    """Return ``x`` as a finite float64 matrix of shape (n, d).

    Parameters
    ----------
    x : array_like, shape (n, d) or (n,)
        Real numbers of any width; a vector is taken as one feature.
    name : str
        What to call the array in an error.

    Raises
    ------
    MetricError
        If it is not a real matrix, has fewer than four rows or no feature, or holds values that
        are not finite (the message counts the rows and names the first).
    """
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise MetricError(f"{name}: dtype {array.dtype} is not real numbers; pass a float array")
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise MetricError(f"{name}: shape {array.shape} is not (rows, features); flatten each row")
    n, d = array.shape
    if n < MINIMUM_ROWS:
        raise MetricError(f"{name}: {n} rows, at least {MINIMUM_ROWS} are needed; select more rows")
    if d < 1:
        raise MetricError(f"{name}: no features (shape {array.shape}); pass at least one column")
    rows = np.ascontiguousarray(array, dtype=np.float64)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise MetricError(
            f"{name}: {bad.size} of {n} rows are not finite, the first is row {bad[0]}; "
            "drop rows a model could not embed before comparing"
        )
    return rows


def as_pair(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two matrices over the same rows, or raise :class:`MetricError`."""
    first, second = as_rows(x, name="x"), as_rows(y, name="y")
    if first.shape[0] != second.shape[0]:
        raise MetricError(
            f"x has {first.shape[0]} rows and y has {second.shape[0]}; align them on common rows"
        )
    return first, second


def check_neighbour_count(k: int, n: int, *, name: str = "k", least: int = 1) -> int:
    """Return ``k`` if every row has that many other rows, or raise :class:`MetricError`."""
    if isinstance(k, bool) or int(k) != k or k < least:
        raise MetricError(f"{name}={k!r} is not a whole number of at least {least}")
    if n <= k:
        raise MetricError(f"{name}={k} needs more than {k} rows, there are {n}; lower {name}")
    return int(k)


def normalise_rows(x: NDArray[np.float64], how: Normalise) -> NDArray[np.float64]:
    """Scale each row on its own.

    Parameters
    ----------
    x : float64 array, shape (n, d)
    how : {"l2", "max", "none"}
        ``"l2"``: unit Euclidean length (Huh et al. 2024, code). ``"max"``: largest absolute element
        1 (arXiv 2512.03750, App. A). ``"none"``: as given. A row of zeros stays a row of zeros.
    """
    if how not in NORMALISATIONS:
        raise MetricError(f"normalise={how!r} is not one of {', '.join(NORMALISATIONS)}")
    if how == "none":
        return x
    largest = np.abs(x).max(axis=1, keepdims=True)
    scaled = x / np.where(largest > 0, largest, 1.0)  # first, so that squares cannot overflow
    if how == "max":
        return scaled
    length = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
    return scaled / np.where(length > 0, length, 1.0)


def row_blocks(start: int, stop: int, size: int) -> Iterator[slice]:
    """Cut ``range(start, stop)`` into slices of at most ``size`` rows, in order."""
    for low in range(start, stop, max(1, size)):
        yield slice(low, min(low + max(1, size), stop))


def rows_per_block(row_bytes: int, n: int) -> int:
    """How many rows of ``row_bytes`` bytes fit one tile (at least 1, at most ``n``)."""
    return int(min(max(1, BLOCK_BYTES // max(1, row_bytes)), n))


def to_single(values: NDArray[np.float64]) -> tuple[NDArray[np.float32], float]:
    """Return float32 ``values / scale`` and ``scale``: a power of two, so squares stay in range."""
    largest = float(np.abs(values).max())
    exponent = int(np.frexp(largest)[1]) if largest > 0 else 0
    return np.ldexp(values, -exponent).astype(np.float32), float(np.ldexp(1.0, exponent))


class Space:
    """One model's embedding of n structures, with what several metrics ask of it, computed once.

    Attributes
    ----------
    values : float64 array, shape (n, d)
        The (row-normalised) embedding.
    """

    def __init__(self, values: NDArray[np.float64]) -> None:
        self.values = values

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.values.shape[0])

    @property
    def d(self) -> int:
        """Number of features."""
        return int(self.values.shape[1])

    @cached_property
    def constant(self) -> bool:
        """Whether all rows are identical, so that no geometry is left to compare."""
        return bool((self.values == self.values[0]).all())

    @cached_property
    def squares(self) -> NDArray[np.float64]:
        """Squared row lengths, shape (n,); 1 where they are 1 but for rounding.

        So that a row of zeros is equally far from all rows scaled to unit length.
        """
        squares = np.einsum("ij,ij->i", self.values, self.values)
        squares[np.abs(squares - 1.0) < 1e-13] = 1.0
        return squares

    @cached_property
    def centred(self) -> NDArray[np.float64]:
        """Values minus their column means, shape (n, d)."""
        centred = self.values - self.values.mean(axis=0)
        return np.zeros_like(centred) if self.constant else centred

    def take(self, order: NDArray[np.intp]) -> Space:
        """The centred rows in another order: the same distances, one copy of the data."""
        moved = Space(self.centred[order])
        moved.__dict__["centred"] = moved.values
        return moved

    @cached_property
    def copies(self) -> NDArray[np.intp] | None:
        """Group label of each row among bitwise-equal rows, or None when all rows differ.

        Labels count up in order of first appearance; ``unique_rows`` are those first rows.
        """
        plain = self.values + 0.0  # -0.0 and 0.0 are the same number
        odd = np.random.default_rng(0).integers(0, 2**63, size=self.d, dtype=np.uint64) * 2 + 1
        hashes = (plain.view(np.uint64) * odd).sum(axis=1, dtype=np.uint64)
        if np.unique(hashes).size == self.n:
            return None
        seen: dict[bytes, int] = {}
        labels = np.fromiter(
            (seen.setdefault(row.tobytes(), len(seen)) for row in plain), np.intp, count=self.n
        )
        return None if len(seen) == self.n else labels

    @cached_property
    def unique_rows(self) -> NDArray[np.intp]:
        """Index of the first row of each group of equal rows, ascending."""
        if self.copies is None:
            return np.arange(self.n, dtype=np.intp)
        return np.unique(self.copies, return_index=True)[1].astype(np.intp)

    @cached_property
    def _origin(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values that distances are taken from, and their squared lengths.

        As given, so that whole numbers stay whole, unless a far-off mean would cost digits.
        """
        if self.squares.sum() <= 100.0 * float(np.einsum("id,id->", self.centred, self.centred)):
            return self.values, self.squares
        return self.centred, np.einsum("id,id->i", self.centred, self.centred)

    def squared_distances(self, rows: slice | NDArray[np.intp]) -> NDArray[np.float64]:
        """Squared Euclidean distances from ``rows`` to all rows, shape (len(rows), n).

        Equal rows are at exactly 0 from each other and at exactly the same distance from every
        other row; distances so small that the matrix product would blur them are taken anew from
        differences.
        """
        values, squares = self._origin
        columns = values
        if self.copies is not None:
            columns, squares = values[self.unique_rows], squares[self.unique_rows]
        sums = self._origin[1][rows, None] + squares
        squared = values[rows] @ columns.T
        squared *= -2.0
        squared += sums
        left, right = np.nonzero(squared < 1e-9 * sums)
        start = values[rows]
        for part in row_blocks(0, left.size, rows_per_block(16 * self.d, max(1, left.size))):
            gap = start[left[part]] - columns[right[part]]
            squared[left[part], right[part]] = np.einsum("id,id->i", gap, gap)
        return squared if self.copies is None else np.take(squared, self.copies, axis=1)

    def products(self, rows: slice | NDArray[np.intp]) -> NDArray[np.float64]:
        """Inner products of ``rows`` with all rows, (len(rows), n); equal rows share a value."""
        if self.copies is None:
            return self.values[rows] @ self.values.T
        products = self.values[rows] @ self.values[self.unique_rows].T
        return np.take(products, self.copies, axis=1)
