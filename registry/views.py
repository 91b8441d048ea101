# SPDX-License-Identifier: Apache-2.0
"""Views of lazy vectors for other libraries: NumPy, pandas, PyTorch and ``datasets``.

Each takes what :meth:`Atlas.embeddings` (a DataArray) or :meth:`Atlas.aligned` (a Dataset, one
variable a model) returns, or a selection of it; values are the same to the bit in every view.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pandas as pd
import pyarrow as pa
import xarray as xr

from ..schemas.archive import shard_rows
from ..schemas.errors import ArchiveError, missing_extra
from .rows import LazyRows, behind

if TYPE_CHECKING:
    import datasets

    from .loading import VectorRows

#: Columns of the structure coordinates, in this order, where an array has them.
_COORDINATES = ("set", "stratum", "kind", "reason")
#: What the Parquet twins call them.
_COLUMNS = {"structure": "structure_id", "reason": "missing_reason"}


@overload
def to_numpy(data: xr.DataArray) -> np.ndarray: ...
@overload
def to_numpy(data: xr.Dataset) -> dict[str, np.ndarray]: ...
def to_numpy(data: xr.DataArray | xr.Dataset) -> np.ndarray | dict[str, np.ndarray]:
    """The vectors in memory.

    Parameters
    ----------
    data:
        Vectors of one model, or a Dataset of several.

    Returns
    -------
    numpy.ndarray
        (structure, feature), float32; NaN where missing. Of a Dataset a dictionary, by model.

    Raises
    ------
    ArchiveError
        ``data`` is something else, or a shard that it needs is damaged.
    """
    matrices = {name: matrix.read() for name, matrix in sources(data).items()}
    return matrices if isinstance(data, xr.Dataset) else next(iter(matrices.values()))


def to_pandas(data: xr.DataArray | xr.Dataset) -> pd.DataFrame:
    """The vectors as a table of numbers only, so that ``frame.to_numpy()`` is the matrix.

    Returns
    -------
    pandas.DataFrame
        One row a structure, float32; NaN where missing. Index levels ``id``, ``set``, ``stratum``,
        ``kind`` and ``reason`` ("" when embedded) as far as the array has them: group by their
        names, join other tables on them, or turn them into columns by ``reset_index()``. Columns
        are feature numbers; of a Dataset, pairs (model, feature).

    Raises
    ------
    ArchiveError
        See :func:`to_numpy`.
    """
    matrices = {name: matrix.read() for name, matrix in sources(data).items()}
    levels = {"id": data["structure"].values, **_coordinates(data)}
    index = pd.MultiIndex.from_arrays(list(levels.values()), names=list(levels))
    if isinstance(data, xr.DataArray):
        (values,) = matrices.values()
        columns: pd.Index = pd.RangeIndex(values.shape[1], name="feature")
        return pd.DataFrame(values, index=index, columns=columns, copy=False)
    pairs = [(name, i) for name, values in matrices.items() for i in range(values.shape[1])]
    columns = pd.MultiIndex.from_tuples(pairs, names=["model", "feature"])
    return pd.DataFrame(
        np.hstack(list(matrices.values())), index=index, columns=columns, copy=False
    )


def to_torch(data: xr.DataArray | xr.Dataset, *, cache_bytes: int = 2**28) -> VectorRows:
    """A map-style ``torch.utils.data.Dataset`` that reads as it is asked.

    An item is a dictionary: ``id`` (str) and under each model's id its vector (float32 tensor, NaN
    where missing). A batch, in any order and in any worker of a DataLoader, decodes each chunk that
    holds its rows once; the chunks last used stay decoded. For shuffled epochs over more than
    ``cache_bytes`` give the DataLoader ``sampler=dataset.sampler(seed=0)``, which walks through the
    chunks in a random order and mixes the rows of as many as are kept, rather than
    ``shuffle=True``, for which every batch touches every chunk.

    Parameters
    ----------
    cache_bytes:
        Decoded chunks a process keeps; at least the last one is kept.

    Raises
    ------
    MissingExtraError
        PyTorch is not installed.
    ArchiveError
        ``data`` is something else; on reading, see :func:`to_numpy`.
    """
    try:
        from .loading import VectorRows
    except ImportError as error:
        raise missing_extra("torch", "torch") from error
    ids = data["structure"].values.astype(str)
    return VectorRows(ids, sources(data), cache_bytes=cache_bytes)


def to_datasets(
    data: xr.DataArray | xr.Dataset, *, path: str | Path | None = None
) -> datasets.Dataset:
    """A ``datasets.Dataset`` of the vectors, in Arrow's own layout.

    Columns are those of the archive's Parquet twins: ``structure_id``, ``set``, ``stratum``,
    ``kind`` and ``missing_reason`` (null when embedded) as far as the array has them, then
    ``embedding``, or of an ``xarray.Dataset`` a column a model: lists of float32 of fixed length,
    null where missing.

    Parameters
    ----------
    path:
        A new Arrow file to write, shard by shard, and map into memory; None holds it all in memory.

    Raises
    ------
    MissingExtraError
        ``datasets`` is not installed.
    ArchiveError
        ``data`` is something else, or ``path`` exists; on reading, see :func:`to_numpy`.
    """
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("datasets", "datasets") from error
    matrices = sources(data)
    if isinstance(data, xr.DataArray):
        matrices = {"embedding": next(iter(matrices.values()))}
    texts = {"structure": data["structure"].values, **_coordinates(data)}
    schema = pa.schema(
        [
            *(pa.field(_COLUMNS.get(name, name), pa.string()) for name in texts),
            *(
                pa.field(name, pa.list_(pa.float32(), matrix.shape[1]))
                for name, matrix in matrices.items()
            ),
        ]
    )
    batches = _batches(texts, matrices, schema)
    if path is None:
        return datasets.Dataset(pa.Table.from_batches(batches, schema))
    path = Path(path)
    if path.exists():
        raise ArchiveError(f"{path}: exists; give a new file")
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with pa.OSFile(str(scratch), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return datasets.Dataset.from_file(str(path))


def _batches(
    texts: dict[str, np.ndarray], matrices: dict[str, Source], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    widest = max(matrices.values(), key=lambda matrix: matrix.shape[1])
    for start, stop in pairwise(int(edge) for edge in widest.edges()):
        arrays = []
        for name, values in texts.items():
            part = values[start:stop]
            absent = part == "" if name == "reason" else np.zeros(len(part), dtype=bool)
            arrays.append(pa.array(part, pa.string(), mask=absent))
        for matrix in matrices.values():
            block = matrix.read(start, stop)
            flat = pa.array(np.ascontiguousarray(block).ravel())
            absent = pa.array(np.isnan(block).all(axis=1))
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, block.shape[1], mask=absent))
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


class Blocks:
    """Rows of an array that is no longer a plain selection of stored rows; as ``LazyRows``."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.shape: tuple[int, int] = tuple(data.shape)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows ``start`` to ``stop``, float32."""
        part = self._data[start:stop]
        if hasattr(part, "compute"):
            # One block needs no threads, and Dask's do not outlive the fork of a DataLoader.
            part = part.compute(**({"scheduler": "synchronous"} if part.npartitions == 1 else {}))
        return np.asarray(part, dtype=np.float32)

    def edges(self, *, chunks: bool = False) -> np.ndarray:
        """Row numbers that cut the rows into blocks: Dask's chunks, else as a shard would hold."""
        del chunks  # a part of a block costs as much as the whole
        if hasattr(self._data, "chunks"):
            return np.cumsum([0, *self._data.chunks[0]])
        n, dim = self.shape
        return np.append(np.arange(0, n, shard_rows(dim, n)), n)


Source = LazyRows | Blocks


def sources(data: xr.DataArray | xr.Dataset) -> dict[str, Source]:
    """Where the rows of each model come from, by name.

    Raises
    ------
    ArchiveError
        ``data`` is not an array of vectors by structure, or a Dataset of some.
    """
    if isinstance(data, xr.Dataset):
        arrays = {str(name): array for name, array in data.data_vars.items()}
    elif isinstance(data, xr.DataArray):
        arrays = {str(data.name or "embedding"): data}
    else:
        arrays = {}
    for array in arrays.values():
        if array.ndim != 2 or array.dims[0] != "structure" or "structure" not in array.coords:
            arrays = {}
            break
    if not arrays:
        raise ArchiveError(
            f"a {type(data).__name__} is no set of vectors by structure; give what "
            "Atlas.embeddings, Atlas.read or Atlas.aligned returns"
        )
    return {name: behind(array) or Blocks(array.data) for name, array in arrays.items()}


def _coordinates(data: xr.DataArray | xr.Dataset) -> dict[str, np.ndarray]:
    return {name: data[name].values for name in _COORDINATES if name in data.coords}
