# SPDX-License-Identifier: Apache-2.0
"""Content digests: what a column says, whatever chunks, codecs or library wrote it.

A digest is SHA-256 over a header (type, shape) and the values in row order. Numbers count by their
little-endian bytes, strings by their lengths and UTF-8 bytes, absent values by their places. Two
policies decide what "the same value" means for floats: every NaN is one NaN (payload and sign of a
NaN differ between processors and say nothing), and -0.0 is not 0.0 (a copy must be bit-equal).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.errors import ArchiveError
from .parquet import UNREADABLE, checked, opened

#: Rows of a Parquet file in memory at once.
BATCH_ROWS = 4096
#: Named in every header: a change of the rules changes every digest.
SCHEME = "matteratlas content 1"


class ColumnDigest:
    """Digest of one array, fed block by block in row order.

    Parameters
    ----------
    dtype :
        Numpy type of the values; ``str``, ``"string"``, ``object`` and numpy's string types all
        mean text.
    shape :
        Of the whole array; the first axis is cut into blocks.
    """

    def __init__(self, dtype: Any, shape: Sequence[int]) -> None:
        self.kind = _kind(dtype)
        self.shape = tuple(int(n) for n in shape)
        self._rows = 0
        self._values, self._sizes = hashlib.sha256(), hashlib.sha256()

    def update(self, block: Any) -> None:
        """Add the next rows, (rows, ...).

        Raises
        ------
        ArchiveError
            The block has another type or width than the array.
        """
        values = np.asarray(block)
        kind = _kind(values.dtype)
        if kind != self.kind or values.shape[1:] != self.shape[1:]:
            raise ArchiveError(
                f"content digest: block {kind} {values.shape} does not fit an array "
                f"{self.kind} {self.shape}; hash the values as they are stored"
            )
        self._rows += len(values)
        if kind == "string":
            _add_text(
                pa.array(values.ravel().tolist(), pa.large_string()), self._sizes, self._values
            )
        else:
            self._values.update(_buffer(values))

    def hexdigest(self) -> str:
        """Hex SHA-256 of the whole array.

        Raises
        ------
        ArchiveError
            More or fewer rows came than the shape says.
        """
        if self._rows != self.shape[0]:
            raise ArchiveError(
                f"content digest: {self._rows} rows came for an array of {self.shape[0]}; "
                "give every row once"
            )
        header = {"scheme": SCHEME, "type": self.kind, "shape": self.shape}
        return _seal(header, self._sizes.digest(), self._values.digest())


def array_digest(kind: Any, shape: Sequence[int], blocks: Iterable[Any]) -> str:
    """Digest of an array given in blocks of rows; see :class:`ColumnDigest`."""
    digest = ColumnDigest(kind, shape)
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def mapping_digest(content: Mapping[str, str]) -> str:
    """Digest of named digests, whatever their order."""
    return _seal({"scheme": SCHEME, "content": dict(content)})


def column_digests(table: pa.Table | Path | str | IO[bytes]) -> dict[str, str]:
    """Digest of each column of a table, by name.

    Parameters
    ----------
    table :
        A table in memory, or a Parquet file (path or seekable binary handle), which is read in
        batches with its page checksums verified.

    Raises
    ------
    ArchiveError
        Unreadable file, repeated column name, or a type without a rule.
    """
    schema, batches = _batches(table)
    where = str(table) if isinstance(table, str | Path) else "table"
    if len(set(schema.names)) < len(schema.names):
        raise ArchiveError(f"{where}: a column name is repeated; write each column once")
    try:
        digests = {field.name: _TypeDigest(field.type) for field in schema}
        for batch in batches:
            for name, digest in digests.items():
                digest.update(batch.column(name))
    except UNREADABLE as error:
        raise ArchiveError(f"{where}: unreadable ({error}); restore the file") from error
    except ArchiveError as error:
        raise ArchiveError(f"{where}: {error}") from error
    return {name: digest.digest().hex() for name, digest in digests.items()}


def table_digest(table: pa.Table | Path | str | IO[bytes]) -> str:
    """Digest of a table: its columns by name; their order is packaging."""
    return mapping_digest(column_digests(table))


class _TypeDigest:
    """Digest of Arrow arrays of one type: validity, lengths, values and children apart.

    Each stream runs over all rows, so where the arrays were cut leaves no trace; values under a
    null are not looked at.
    """

    def __init__(self, kind: pa.DataType) -> None:
        self.name = _arrow_name(kind)
        self.count = 0
        self._valid, self._sizes, self._values = (hashlib.sha256() for _ in range(3))
        self._children = [_TypeDigest(child) for child in _children(kind)]

    def update(self, array: pa.Array) -> None:
        if isinstance(array, pa.ChunkedArray):
            for chunk in array.chunks:
                self.update(chunk)
            return
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        self.count += len(array)
        if pa.types.is_null(array.type):
            return
        self._valid.update(_buffer(array.is_valid().cast(pa.uint8()).to_numpy()))
        present = array.drop_null() if array.null_count else array
        kind = present.type
        if self.name == "text" or self.name == "bytes":
            _add_text(present, self._sizes, self._values)
        elif pa.types.is_struct(kind):
            for child, values in zip(self._children, present.flatten(), strict=True):
                child.update(values)
        elif pa.types.is_fixed_size_list(kind):
            self._children[0].update(present.flatten())
        elif self._children:
            lengths = pc.list_value_length(present).cast(pa.int64())
            self._sizes.update(_buffer(lengths.to_numpy()))
            self._children[0].update(present.flatten())
        else:
            values = present.cast(pa.uint8()) if pa.types.is_boolean(kind) else present
            self._values.update(_buffer(values.to_numpy(zero_copy_only=False)))

    def digest(self) -> bytes:
        header = {"scheme": SCHEME, "type": self.name, "count": self.count}
        parts = [s.digest() for s in (self._valid, self._sizes, self._values)]
        return bytes.fromhex(_seal(header, *parts, *(c.digest() for c in self._children)))


def _batches(source: pa.Table | Path | str | IO[bytes]) -> tuple[pa.Schema, Iterator[Any]]:
    if isinstance(source, pa.Table):
        return source.schema, iter(source.to_batches())
    try:
        file, size = opened(source, whole=False)
    except UNREADABLE as error:
        raise ArchiveError(f"{source}: unreadable ({error}); restore the file") from error
    return file.schema_arrow, checked(file.iter_batches(batch_size=BATCH_ROWS), size=size)


def _children(kind: pa.DataType) -> list[pa.DataType]:
    if pa.types.is_dictionary(kind):
        return _children(kind.value_type)
    if pa.types.is_struct(kind):
        return [field.type for field in kind]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [kind.value_type]
    return []


def _arrow_name(kind: pa.DataType) -> str:
    """What a type means, apart from how Arrow lays it out."""
    t = pa.types
    if t.is_dictionary(kind):
        return _arrow_name(kind.value_type)
    if t.is_string(kind) or t.is_large_string(kind):
        return "text"
    if t.is_binary(kind) or t.is_large_binary(kind):
        return "bytes"
    if t.is_struct(kind):
        return "struct<" + ",".join(f"{f.name}:{_arrow_name(f.type)}" for f in kind) + ">"
    if t.is_fixed_size_list(kind):
        return f"list[{kind.list_size}]<{_arrow_name(kind.value_type)}>"
    if t.is_list(kind) or t.is_large_list(kind):
        return f"list<{_arrow_name(kind.value_type)}>"
    if t.is_null(kind) or t.is_boolean(kind):
        return "null" if t.is_null(kind) else "bool"
    if t.is_floating(kind):
        return f"float{kind.bit_width}"
    if t.is_integer(kind):
        return f"{'int' if t.is_signed_integer(kind) else 'uint'}{kind.bit_width}"
    raise ArchiveError(f"no content digest of a column of type '{kind}'; store text or numbers")


def _kind(dtype: Any) -> str:
    if dtype in (str, object, "string", "str"):
        return "string"
    found = np.dtype(dtype)
    if found.kind in "OUT":
        return "string"
    if found.kind not in "biuf":
        raise ArchiveError(
            f"no content digest of an array of type '{found}'; store text or numbers"
        )
    return found.newbyteorder("<").str if found.itemsize > 1 else found.str


def _buffer(values: np.ndarray) -> Any:
    """Row-major little-endian bytes; every NaN is the same NaN."""
    flat = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).reshape(-1)
    if flat.dtype.kind == "f":
        absent = np.isnan(flat)
        if absent.any():
            flat = np.where(absent, np.array(np.nan, dtype=flat.dtype), flat)
    return flat.view(np.uint8).data


def _add_text(array: Any, sizes: Any, values: Any) -> None:
    """Lengths and bytes of strings without nulls, each to its stream."""
    if array.null_count:
        raise ArchiveError("content digest: a text value is None; store an empty string")
    wide = array.cast(pa.large_binary())
    sizes.update(_buffer(pc.binary_length(wide).to_numpy()))
    offsets = np.frombuffer(wide.buffers()[1] or b"", dtype="<i8")[wide.offset :][: len(wide) + 1]
    if len(wide) and wide.buffers()[2] is not None:
        values.update(memoryview(wide.buffers()[2])[int(offsets[0]) : int(offsets[-1])])


def _seal(header: Mapping[str, Any], *parts: bytes) -> str:
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode())
    for part in parts:
        digest.update(b"\0" + part)
    return digest.hexdigest()
