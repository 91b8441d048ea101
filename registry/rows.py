# SPDX-License-Identifier: Apache-2.0
"""Chosen rows of a model's units as one lazy float32 matrix that reads only the chunks it needs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from ..schemas.archive import chunk_rows, shard_rows
from .shards import ShardedArray, read_threads
from .unit import Nothing

#: Where a DataArray keeps the rows its values come from; stale after a selection, see `behind`.
_KEY = "matteratlas_rows"


class LazyRows:
    """Rows picked from stored matrices, in any order: float32, ``shape`` (row, feature).

    Picklable; holds 12 bytes a row, reads nothing until asked.

    Parameters
    ----------
    matrices:
        Stored vectors, one matrix a unit.
    owner:
        (row,) which of ``matrices`` a row comes from; -1 for a row that none has, which is NaN.
    place:
        (row,) row number in its matrix; not looked at where ``owner`` is -1.
    dim:
        Features.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(
        self,
        matrices: Sequence[ShardedArray | Nothing],
        owner: np.ndarray,
        place: np.ndarray,
        *,
        dim: int,
    ) -> None:
        self.matrices = tuple(matrices)
        self.owner = np.asarray(owner, dtype=np.int32)
        self.place = np.asarray(place, dtype=np.int64)
        self.shape = (len(self.owner), dim)
        self._edges: dict[bool, np.ndarray] = {}

    def __repr__(self) -> str:
        return f"<{self.shape[0]} x {self.shape[1]} of {len(self.matrices)} units>"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """Values by rows (slice, index or index array) and columns, as NumPy has them."""
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                picked = self.read(start, max(start, stop))
            else:
                picked = self.take(np.arange(len(self))[rows])
        else:
            index = np.asarray(rows)
            picked = self.take(np.flatnonzero(index) if index.dtype.kind == "b" else index.ravel())
            picked = picked if index.ndim else picked[0]
        if not rest:
            return picked
        return picked[tuple(rest) if picked.ndim == 1 else (slice(None), *rest)]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Rows by number, in any order; each chunk is read once."""
        picked = LazyRows(self.matrices, self.owner[rows], self.place[rows], dim=self.shape[1])
        return picked.read()

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows ``start`` to ``stop``, float32; at most a shard a thread is held beside the result.

        Raises
        ------
        ArchiveError
            A shard or chunk is absent, damaged or not the one that belongs there.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        edges = self.edges()
        inside = edges[(edges > start) & (edges < stop)]
        cuts = [start, *(int(e) for e in inside), max(start, stop)]
        if len(cuts) == 2 or self._one_range(start, stop):
            return self._read(start, max(start, stop))
        out = np.empty((cuts[-1] - start, self.shape[1]), dtype=self.dtype)

        def fill(part: tuple[int, int]) -> None:
            out[part[0] - start : part[1] - start] = self._read(*part)

        with ThreadPoolExecutor(read_threads()) as pool:
            for _ in pool.map(fill, pairwise(cuts)):
                pass
        return out

    def _one_range(self, start: int, stop: int) -> bool:
        """Whether the rows lie side by side in one matrix that is stored as it is given."""
        owner = self.owner[start:stop]
        return bool(
            owner[0] >= 0
            and (owner == owner[0]).all()
            and self.matrices[owner[0]].dtype == self.dtype
            and (np.diff(self.place[start:stop]) == 1).all()
        )

    def _read(self, start: int, stop: int) -> np.ndarray:
        owner, place = self.owner[start:stop], self.place[start:stop]
        out = None
        for number in np.unique(owner):
            mine = owner == number
            if number < 0:
                values = np.full((int(mine.sum()), self.shape[1]), np.nan, dtype=self.dtype)
            else:
                values = _rows_of(self.matrices[number], place[mine])
            if mine.all():
                return values.astype(self.dtype, copy=False)
            if out is None:
                out = np.empty((len(owner), self.shape[1]), dtype=self.dtype)
            out[mine] = values
        return np.empty((0, self.shape[1]), dtype=self.dtype) if out is None else out

    def edges(self, *, chunks: bool = False) -> np.ndarray:
        """Row numbers, 0 and the length included, that cut the rows into whole shards.

        Rows in storage order are cut where a shard ends, small pieces staying together up to the
        rows of the largest shard; with ``chunks`` the same for the chunks in the shards.
        """
        if chunks not in self._edges:
            self._edges[chunks] = self._cut(chunks)
        return self._edges[chunks]

    def _cut(self, chunks: bool) -> np.ndarray:
        n, law = len(self), chunk_rows if chunks else shard_rows
        sizes = np.array([m.chunk_rows if chunks else m.shard_rows for m in self.matrices], int)
        most = int(sizes.max()) if len(sizes) else law(self.shape[1], n)
        cell = self.place // np.append(sizes, most)[self.owner]  # -1 takes the last
        new = np.flatnonzero((np.diff(self.owner) != 0) | (np.diff(cell) != 0)) + 1
        ends = np.append(new, n)
        edges = [0]
        while edges[-1] < n:
            limit = edges[-1] + most
            found = int(np.searchsorted(ends, limit, side="right"))
            last = int(ends[max(0, found - 1)])
            edges.append(last if edges[-1] < last <= limit else min(limit, n))
        return np.array(edges)

    def to_dask(self, *, name: str) -> da.Array:
        """As a Dask array of a task a shard; slices of it read only their own chunks.

        ``name`` says where the matrices are and what they hold.
        """
        sizes = tuple(int(n) for n in np.diff(self.edges())) or (0,)
        return da.from_array(
            self,
            chunks=(sizes, (self.shape[1],)),
            name=f"{name}-{tokenize(name, self.owner, self.place)}",
            asarray=False,
            meta=np.empty((0, 0), self.dtype),
        )


def attach(array: xr.DataArray, rows: LazyRows) -> xr.DataArray:
    """Let an array say which rows its values are."""
    array.encoding[_KEY] = (array.data.name, rows)
    return array


def behind(array: xr.DataArray) -> LazyRows | None:
    """The rows whose values an array is; None once anything was selected or computed."""
    name, rows = array.encoding.get(_KEY, (None, None))
    return rows if name is not None and getattr(array.data, "name", None) == name else None


def _rows_of(matrix: ShardedArray | Nothing, place: np.ndarray) -> np.ndarray:
    if (np.diff(place) == 1).all():
        return matrix.read(int(place[0]), int(place[-1]) + 1)
    return matrix.take(place)
