# SPDX-License-Identifier: Apache-2.0
"""Parquet tables of other people: what they would unpack to is known before it is unpacked.

A file of some kilobytes can hold one text of a megabyte and a million rows that all name it, a page
that unpacks to gigabytes, or a footer that says otherwise than its pages. So pages are counted by
their own headers, texts are read as codes into their dictionaries, and only what stays within
bounds is unpacked.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..schemas.errors import ArchiveError

#: Times its size that a table may unpack to, and what any may.
MOST_RATIO, LEAST_BOUND = 200, 2**24
#: Values a byte that a table may hold (those of an atlas hold three at most), and what any may.
MOST_VALUES, LEAST_VALUES = 8, 1_000_000
#: Bytes a number takes once unpacked, and a code into a dictionary.
_NUMBER, _CODE = 8, 4
#: Of parquet.thrift: the kind of a page that is a dictionary, the physical type of texts, and the
#: compressions that are packed as Arrow's functions of that name pack; None packs nothing.
_DICTIONARY, _TEXT = 2, 6
_CODECS = {0: None, 1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd"}
#: Tables up to this many bytes are looked through page by page; of larger ones, of which only some
#: columns move, the footer is believed.
WHOLE_BYTES = 64 * 2**20
#: What Arrow and pandas raise over a table that is damaged or not what it should be.
UNREADABLE = (
    OSError, pa.ArrowException, ValueError, TypeError, AttributeError, OverflowError, MemoryError,
    IndexError,
)  # fmt: skip


def bound(size: int) -> int:
    """Bytes that a table of so many may unpack to."""
    return MOST_RATIO * size + LEAST_BOUND


def check_size(found: pq.FileMetaData, *, size: int) -> None:
    """Refuse a table that claims far more than its bytes can hold, before room is made for it.

    No table of an atlas has less than a byte a row: each row has an id, a hash or a score.

    Raises
    ------
    ValueError
        Naming what it claims.
    """
    groups = [found.row_group(i) for i in range(found.num_row_groups)]
    raw = sum(g.total_byte_size for g in groups)
    rows = sum(g.num_rows for g in groups)
    if not 0 <= rows == found.num_rows <= size + 10_000:
        raise ValueError(f"claims {found.num_rows:,} rows in {size:,} bytes")
    if not 0 <= raw <= bound(size):
        raise ValueError(f"claims to unpack {size:,} bytes to {raw:,}")


def check_footer(tail: bytes, *, size: int | None) -> list[_Chunk]:
    """Column chunks of a table by its footer, which claims no more than so many bytes can hold.

    Read here and not by Arrow, which trusts it: a footer that says that its columns are encrypted
    ends the process that asks one for its size.

    Raises
    ------
    ValueError
        Naming what it claims.
    """
    if tail[-4:] != b"PAR1" or not 0 < int.from_bytes(tail[-8:-4], "little") <= len(tail) - 8:
        raise ValueError("no Parquet footer")
    found = _Thrift(tail, len(tail) - 8 - int.from_bytes(tail[-8:-4], "little")).struct()
    chunks = []
    for group in found.get(4, []):
        for column in group[1]:
            about = column.get(3)
            if column.keys() & {1, 8, 9} or not isinstance(about, dict):
                raise ValueError("columns that are encrypted or in other files")
            chunks.append(_Chunk.of(about))
    values = sum(chunk.values for chunk in chunks)
    most = values if size is None else MOST_VALUES * size + LEAST_VALUES
    if any(chunk.values < 0 for chunk in chunks) or values > most:
        raise ValueError(f"claims {values:,} values in {size:,} bytes")
    return chunks


def check_pages(data: bytes, chunks: Iterable[_Chunk]) -> None:
    """Refuse a table whose pages hold more than its footer says, or far more than its bytes can.

    Raises
    ------
    ValueError
        Naming the column.
    """
    room = bound(len(data))
    for chunk in chunks:
        if chunk.values == 0:  # of which nothing is read, and whose places may be none
            continue
        seen = 0
        for page in _pages(data, chunk):
            room -= page.raw
            seen += 0 if page.kind == _DICTIONARY else page.values
            if min(page.raw, page.values) < 0 or room < 0 or seen > chunk.values:
                raise ValueError(f"column '{chunk.name}' holds pages of more than it declares")
            if chunk.nested_text and page.kind == _DICTIONARY:
                # Arrow reads texts inside lists and structs as texts only.
                packed = data[page.start : page.stop]
                room -= _longest(packed, page, chunk.codec) * chunk.values
                if room < 0:
                    raise ValueError(f"column '{chunk.name}' unpacks to far more than its bytes")


class _Chunk(NamedTuple):
    """What a footer says of the values of one column in one row group."""

    name: str
    nested_text: bool
    codec: int
    values: int
    start: int
    stop: int

    @classmethod
    def of(cls, about: dict[int, Any]) -> _Chunk:
        """From the struct ColumnMetaData of parquet.thrift."""
        path = [part.decode("utf-8", "backslashreplace") for part in about[3]]
        start, first = about[9], about.get(11, 0)
        if 0 < first < start:  # the dictionary goes before
            start = first
        nested_text = len(path) > 1 and about[1] == _TEXT
        return cls(".".join(path), nested_text, about[4], about[5], start, start + about[7])


class _Page(NamedTuple):
    """What the header of a page says: kind, unpacked bytes, values; and where its body is."""

    kind: int
    raw: int
    values: int
    start: int
    stop: int


def _longest(packed: bytes, page: _Page, codec: int) -> int:
    """Bytes of the longest text of a dictionary page; of one in an odd codec, all of it."""
    if codec not in _CODECS:
        return page.raw
    name = _CODECS[codec]
    body = pa.decompress(packed, page.raw, codec=name, asbytes=True) if name else packed
    at = longest = 0
    for _ in range(page.values):
        length = int.from_bytes(body[at : at + 4], "little")
        at += 4 + length
        longest = max(longest, length)
        if at > len(body):
            raise ValueError("a dictionary of texts ends before its last one")
    return longest


def _pages(data: bytes, chunk: _Chunk) -> Iterator[_Page]:
    """Each page of a column chunk, by its header (struct PageHeader of parquet.thrift)."""
    at, end = chunk.start, chunk.stop
    if not 4 <= at <= end <= len(data):
        raise ValueError(f"column '{chunk.name}' lies outside its file")
    while at < end:
        reader = _Thrift(data, at)
        head = reader.struct()
        about = head.get(5) or head.get(7) or head.get(8) or {}  # of data or of a dictionary
        start, at = reader.at, reader.at + head[3]
        if head[3] < 0 or at > end:
            raise ValueError(f"column '{chunk.name}' has a page beyond its end")
        yield _Page(head[1], head[2], about.get(1, 0), start, at)


class _Thrift:
    """The compact protocol, as far as Parquet uses it."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Values by the number of their field."""
        found: dict[int, Any] = {}
        key = 0
        while byte := self._byte():
            key = key + (byte >> 4) if byte >> 4 else self._number()
            found[key] = self._value(byte & 15, depth + 1)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if depth > 16:
            raise ValueError("metadata nested too deeply")
        if kind in (1, 2):  # booleans are their kind
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._number()
        if kind in (7, 8):
            length = 8 if kind == 7 else self._varint()
            return self._until(self.at + length)
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            if count > len(self.data) - self.at:
                raise ValueError("a list without end")
            inner = head & 15
            if inner in (1, 2):
                return [self._byte() == 1 for _ in range(count)]
            return [
                self.struct(depth) if inner == 12 else self._value(inner, depth + 1)
                for _ in range(count)
            ]
        if kind == 12:
            return self.struct(depth)
        raise ValueError(f"metadata with a field of kind {kind}")

    def _until(self, stop: int) -> bytes:
        found, self.at = self.data[self.at : stop], stop
        if stop > len(self.data):
            raise ValueError("metadata end before a text does")
        return found

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        found = shift = 0
        while (byte := self._byte()) > 127:
            found |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a number without end")
        return found | byte << shift

    def _number(self) -> int:
        found = self._varint()
        return (found >> 1) ^ -(found & 1)


def open_parquet(
    source: IO[bytes] | io.BytesIO, *, size: int, whole: bool = True
) -> pq.ParquetFile:
    """A table of so many bytes, its claims checked, its texts to be read as codes.

    :func:`decoded` makes of what is read what it was. A table that is not to be read as a ``whole``
    may claim what it likes: a matrix of zeros, taken batch by batch, packs to almost nothing.

    Raises
    ------
    ValueError, pyarrow.ArrowException
        It claims too much, or is no table.
    """
    source.seek(max(0, size - 8))
    last = source.read(8)
    source.seek(max(0, size - 8 - int.from_bytes(last[:4], "little")))
    try:
        chunks = check_footer(source.read(), size=size if whole else None)
        if whole and isinstance(source, io.BytesIO):
            check_pages(source.getvalue(), chunks)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"its metadata make no sense ({error!r:.60})") from error
    source.seek(0)
    found = pq.read_metadata(source)
    if whole:
        check_size(found, size=size)
    texts = [
        column.path
        for column in (found.schema.column(i) for i in range(len(found.schema)))
        if column.physical_type == "BYTE_ARRAY" and column.path == column.name
    ]
    source.seek(0)
    return pq.ParquetFile(
        source,
        metadata=found,
        read_dictionary=texts,
        page_checksum_verification=True,
        pre_buffer=True,
    )


def decoded(table: pa.Table, *, size: int) -> pa.Table:
    """A table read from a file of so many bytes with its texts in place of codes.

    Raises
    ------
    ValueError
        They would take far more room than the file.
    """
    for batch in checked(table.to_batches(), size=size):
        del batch
    return table.cast(plain(table.schema))


def checked(batches: Iterable[pa.RecordBatch], *, size: int) -> Iterator[pa.RecordBatch]:
    """Batches as they are, while what they unpack to fits a file of so many bytes.

    Raises
    ------
    ValueError
        Texts would take far more room than the file.
    """
    claimed = 0
    for batch in batches:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            claimed += _unpacked(column)
            if claimed > bound(size):
                raise ValueError(f"column '{name}' unpacks {size:,} bytes to {claimed:,}")
        yield batch


def plain(schema: pa.Schema) -> pa.Schema:
    """A schema without dictionaries."""
    fields = [field.with_type(_plain(field.type)) for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def _unpacked(array: Any) -> int:
    """Bytes of texts once codes are replaced by what they stand for."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        if not (pa.types.is_string(kind.value_type) or pa.types.is_binary(kind.value_type)
                or pa.types.is_large_string(kind.value_type)):  # fmt: skip
            return len(array) * _NUMBER
        lengths = pc.fill_null(pc.binary_length(array.dictionary), 0).to_numpy(zero_copy_only=False)
        codes = array.indices.drop_null().to_numpy(zero_copy_only=False)
        uses = np.bincount(codes, minlength=len(lengths)) if len(lengths) else np.zeros(0, int)
        return int(uses @ lengths.astype(np.int64)) + _CODE * len(array)
    if pa.types.is_struct(kind):
        return sum(_unpacked(child) for child in array.flatten())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _unpacked(array.flatten())
    return 0


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type without dictionaries."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_plain(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    return kind


def opened(source: Path | str | IO[bytes], *, whole: bool = True) -> tuple[pq.ParquetFile, int]:
    """A table as :func:`open_parquet` gives it, and its size in bytes.

    Files of this disk are looked through page by page, handles are read as they are asked.
    """
    if isinstance(source, Path | str):
        path = Path(source)
        small = whole and path.stat().st_size <= WHOLE_BYTES
        source = io.BytesIO(path.read_bytes()) if small else path.open("rb")
    size = source.seek(0, io.SEEK_END)
    return open_parquet(source, size=size, whole=whole), size


def read_arrow(source: Path | bytes, *, columns: Sequence[str] | None = None) -> pa.Table:
    """A table of this disk or of memory, or some of its columns.

    Raises
    ------
    ValueError, OSError, pyarrow.ArrowException
        It is damaged or claims too much.
    """
    file, size = opened(io.BytesIO(source) if isinstance(source, bytes) else source)
    with file:
        found = file.read(columns=None if columns is None else list(columns))
        absent = set(columns or ()) - set(found.column_names)
        if absent:
            raise ValueError(f"no column '{min(absent)}'")
        return decoded(found, size=size)


def read_frame(path: Path, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A table of an atlas on this disk, with its own types.

    Raises
    ------
    FileNotFoundError
        There is none.
    ArchiveError
        It is damaged or claims too much.
    """
    try:
        return read_arrow(path, columns=columns).to_pandas(ignore_metadata=True)
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def unreadable(path: object, error: BaseException) -> ArchiveError:
    """The line about a table that is none."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return ArchiveError(f"{path}: damaged ({text}); fetch or build it again")
