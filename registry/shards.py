# SPDX-License-Identifier: Apache-2.0
"""Read rows of one Zarr v3 array of an atlas, moving and trusting only what was checked.

Zarr's own readers take an absent chunk for fill values and cannot tell a shard from its neighbour.
Here every chunk must be present, pass its CRC-32C, and carry the CRC that the array's metadata
declares for its place. Rows in adjoining chunks come in one request, for the metadata say where
chunks lie. Arrays are as Zarr's ``sharding_indexed`` specification has them, index at the end;
other readers (zarr-python, tensorstore) read the same bytes.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc, zstd
from numcodecs.vlen import VLenUTF8

from ..schemas.archive import CHECKSUMS, CHUNK_ROWS, COLUMN_CHUNK_ROWS, MAX_DIM
from ..schemas.errors import ArchiveError
from .files import Files

_ABSENT = np.uint64(2**64 - 1)
_STRINGS = VLenUTF8()
#: Types of values, how they become bytes, and what packs those: as the writer has them.
_TYPES = frozenset({"string", "uint16", "int64", "float64", "float32", "float16"})
_CODEC = {True: "vlen-utf8", False: "bytes"}
_PACKERS = ("blosc", "zstd")
#: Bytes a text of a column has at most, on the average of a chunk.
MOST_TEXT = 4096


class ShardedArray:
    """One array: ``shape``, ``dtype``, and rows by number. Lazy and picklable.

    Parameters
    ----------
    files:
        The atlas.
    path:
        Of the array, relative to the atlas.
    metadata:
        Its Zarr v3 metadata document.
    declared:
        (bytes, sha256) of each of its files by path.
    """

    def __init__(
        self,
        files: Files,
        path: str,
        metadata: dict[str, Any],
        declared: dict[str, tuple[int, str]],
    ) -> None:
        self.files, self.path = files, path
        try:
            self.shape: tuple[int, ...] = tuple(int(n) for n in metadata["shape"])
            text = metadata["data_type"]
            if text not in _TYPES:
                raise ValueError(f"data type {str(text)[:20]!r}")
            self.dtype = np.dtype(object) if text == "string" else np.dtype(text)
            (codec,) = metadata["codecs"]
            settings = codec["configuration"]
            shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
            chunk = settings["chunk_shape"]
            if [*shard[1:], *chunk[1:]] != [*self.shape[1:]] * 2 or len(self.shape) not in (1, 2):
                raise ValueError("chunks that are no whole rows")
            self.shard_rows, self.chunk_rows = int(shard[0]), int(chunk[0])
            if not 0 < self.chunk_rows <= self.shard_rows or self.shard_rows % self.chunk_rows:
                raise ValueError("shards that are no whole chunks")
            # What one chunk unpacks to is bounded, whatever its metadata say.
            most = COLUMN_CHUNK_ROWS if self.ndim == 1 else CHUNK_ROWS[1]
            if (
                self.chunk_rows > most
                or min(self.shape) < 0
                or max(self.shape[1:], default=1) > MAX_DIM
            ):
                raise ValueError("chunks larger than the format's")
            self._codecs = [c["name"] for c in settings["codecs"]]
            self.attributes: dict[str, Any] = dict(metadata["attributes"])
            tags = self.attributes[CHECKSUMS]
            if codec["name"] != "sharding_indexed" or settings["index_location"] != "end":
                raise ValueError("not sharded as the format says")
            if self._codecs not in ([_CODEC[text == "string"], c, "crc32c"] for c in _PACKERS):
                raise ValueError("chunks packed otherwise, or without a checksum")
            if self.shards > len(tags):
                raise ValueError(f"{CHECKSUMS} does not fit the shape")
            self._tags = [
                np.frombuffer(base64.b64decode(t, validate=True), dtype="<u4") for t in tags
            ]
            self._declared = [declared[f"{path}/{self._key(s)}"] for s in range(self.shards)]
            if len(tags) != self.shards or any(len(t) != 1 + 2 * self.slots for t in self._tags):
                raise ValueError(f"{CHECKSUMS} does not fit the shape")
            # Chunks lie in order without gaps: their lengths say where each begins.
            ends = [np.cumsum(t[2::2], dtype=np.int64) for t in self._tags]
            self._edges = [np.concatenate([[0], e]) for e in ends]
            width = 16 * self.slots + 4
            for (size, _), edges in zip(self._declared, self._edges, strict=True):
                if size != edges[-1] + width:
                    raise ValueError(f"{CHECKSUMS} does not fit the files")
        except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
            raise ArchiveError(
                f"{files.location}/{path}: its metadata is damaged or foreign "
                f"({type(error).__name__}: {error}); build the unit again"
            ) from error

    @property
    def ndim(self) -> int:
        """Number of dimensions, 1 or 2."""
        return len(self.shape)

    @property
    def shards(self) -> int:
        """Number of files."""
        return -(-self.shape[0] // self.shard_rows)

    @property
    def slots(self) -> int:
        """Chunks a shard holds."""
        return self.shard_rows // self.chunk_rows

    def _key(self, shard: int) -> str:
        return "/".join(["c", str(shard), *(["0"] * (self.ndim - 1))])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """Rows by slice, index or index array; columns as NumPy has them."""
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self.shape[0])
            if step < 1:
                picked = self.take(np.arange(self.shape[0])[rows])
            else:
                picked = self.read(start, max(start, stop))[::step]
        elif rows is Ellipsis:
            picked = self.read()
        else:
            index = np.asarray(rows)
            if index.dtype.kind == "b" and index.shape == self.shape[:1]:
                index = np.flatnonzero(index)
            if index.ndim > 1 or (index.size and index.dtype.kind not in "iu"):
                raise IndexError(
                    f"{self.path}: rows are numbers or a mask of {self.shape[0]}, "
                    f"not {index.dtype} of shape {index.shape}"
                )
            picked = self.take(np.atleast_1d(index))
            picked = picked[0] if index.ndim == 0 else picked
        if not rest:
            return picked
        return picked[tuple(rest) if np.ndim(rows) == 0 and not isinstance(rows, slice)
                      else (slice(None), *rest)]  # fmt: skip

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Rows by number, in any order; each chunk is read once, adjoining ones in one go."""
        rows = np.asarray(rows, dtype=np.int64)
        rows = np.where(rows < 0, rows + self.shape[0], rows)
        out = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.shape[0]:
            raise IndexError(f"{self.path}: rows run from 0 to {self.shape[0] - 1}")
        order = np.argsort(rows // self.chunk_rows, kind="stable")
        chunks, firsts = np.unique(rows[order] // self.chunk_rows, return_index=True)
        mine = dict(zip(chunks.tolist(), np.split(order, firsts[1:]), strict=False))
        apart = (np.diff(chunks) > 1) | (np.diff(chunks // self.slots) > 0)

        def fill(run: np.ndarray) -> None:
            shard, slot = divmod(int(run[0]), self.slots)
            for chunk, body in self._bodies(shard, range(slot, slot + len(run))):
                picked = mine[chunk]
                out[picked] = self._decode(body, shard)[rows[picked] - chunk * self.chunk_rows]

        _each(fill, np.split(chunks, np.flatnonzero(apart) + 1) if len(chunks) else [])
        return out

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows ``start`` to ``stop`` in the stored dtype (text as Python strings).

        Raises
        ------
        ArchiveError
            A shard or chunk is absent, damaged or not the one that belongs there.
        """
        stop = self.shape[0] if stop is None else min(stop, self.shape[0])
        out = np.empty((max(0, stop - start), *self.shape[1:]), dtype=self.dtype)
        if stop <= start:
            return out
        shards = range(start // self.shard_rows, -(-stop // self.shard_rows))
        _each(lambda shard: self._read_shard(shard, out, start, stop), shards)
        return out

    def _read_shard(self, shard: int, out: np.ndarray, start: int, stop: int) -> None:
        """Decode the wanted chunks of one shard into ``out``, whose first row is ``start``."""
        base = shard * self.shard_rows
        used = min(self.shape[0] - base, self.shard_rows)
        low, high = max(start - base, 0), min(stop - base, used)
        slots = range(low // self.chunk_rows, -(-high // self.chunk_rows))
        for chunk, body in self._bodies(shard, slots):
            first = chunk * self.chunk_rows
            a, b = max(first, start), min(first + self.chunk_rows, stop)
            target = out[a - start : b - start]
            if len(target) == self.chunk_rows and self._codecs[:2] == ["bytes", "blosc"]:
                self._guard(partial(self._unblosc, body, target), shard)
            else:
                target[...] = self._decode(body, shard)[a - first : b - first]

    def _bodies(self, shard: int, slots: range) -> Iterator[tuple[int, memoryview]]:
        """Number and checked bytes, CRC left off, of adjoining chunks of a shard."""
        size, sha256 = self._declared[shard]
        edges = self._edges[shard]
        whole = len(slots) * 2 > self.slots
        start, stop = (0, size) if whole else (int(edges[slots.start]), int(edges[slots.stop]))

        def part(data: bytes, slot: int) -> memoryview:
            return memoryview(data)[int(edges[slot]) - start : int(edges[slot + 1]) - start]

        def check(data: bytes) -> None:
            if whole:
                # CRCs cover every byte used; hashing the file as well would cost more time.
                self._check(
                    memoryview(data)[int(edges[-1]) :], self._tags[shard][0], shard, "index"
                )
            for slot in slots:
                if not len(part(data, slot)):
                    raise self._damaged(shard, "a chunk is absent")
                tag = self._tags[shard][1 + 2 * slot]
                self._check(part(data, slot), tag, shard, f"chunk {slot}")

        path = f"{self.path}/{self._key(shard)}"
        data = self.files.read(path, start, stop, sha256=sha256, check=check)
        for slot in slots:
            yield shard * self.slots + slot, part(data, slot)[:-4]

    def _check(self, body: memoryview, tag: np.uint32, shard: int, part: str) -> None:
        stored = int.from_bytes(body[-4:], "little")
        if stored != int(tag):
            raise self._damaged(shard, f"its {part} is not the one declared")
        if google_crc32c.value(bytes(body[:-4])) != stored:
            raise self._damaged(shard, f"the CRC-32C of its {part} differs")

    def _decode(self, body: memoryview, shard: int) -> np.ndarray:
        """Values of a chunk, which is whole also where the array ends inside it."""
        unpack = self._unblosc if self._codecs[1] == "blosc" else self._unzstd
        return np.asarray(self._guard(lambda: self._values(unpack(body)), shard))

    @property
    def _raw(self) -> int:
        """Bytes a chunk unpacks to; of texts the most."""
        if self.dtype.hasobject:
            return 4 + self.chunk_rows * MOST_TEXT
        return self.chunk_rows * math.prod(self.shape[1:]) * self.dtype.itemsize

    def _unblosc(self, body: memoryview, target: np.ndarray | None = None) -> Any:
        """Unpack, once the sizes in the header are those that must be: the library trusts them."""
        head = bytes(body[:16])
        sizes = [int.from_bytes(head[i : i + 4], "little") for i in (4, 8, 12)]
        if len(head) < 16 or sizes[0] != self._raw or sizes[2] != len(body):
            raise ValueError("its size is not that of a chunk")
        if not 0 < sizes[1] <= max(sizes[0], 1) or head[3] != self.dtype.itemsize:
            raise ValueError("its header is not that of a chunk")
        return blosc.decompress(bytes(body)) if target is None else blosc.decompress(body, target)

    def _unzstd(self, body: memoryview) -> bytes:
        size = _zstd_size(bytes(body[:18]))
        if size is None or size > self._raw or (size != self._raw and not self.dtype.hasobject):
            raise ValueError("its size is not that of a chunk")
        return bytes(zstd.decompress(bytes(body)))

    def _values(self, raw: bytes) -> np.ndarray:
        if self.dtype.hasobject:
            # The count comes first, and the library makes room for as many before it looks on.
            if int.from_bytes(raw[:4], "little") != self.chunk_rows or len(raw) < 4 * (
                1 + self.chunk_rows
            ):
                raise ValueError("its count of texts is not that of a chunk")
            return np.asarray(_STRINGS.decode(raw), dtype=object)
        kind = self.dtype.newbyteorder("<")
        return np.frombuffer(raw, dtype=kind).reshape(self.chunk_rows, *self.shape[1:])

    def _guard(self, decode: Callable[[], Any], shard: int) -> Any:
        try:
            return decode()
        except (RuntimeError, ValueError) as error:
            raise self._damaged(shard, f"a chunk cannot be decoded ({error})") from error

    def _damaged(self, shard: int, what: str) -> ArchiveError:
        return ArchiveError(
            f"{self.files.location}/{self.path}/{self._key(shard)}: {what}; "
            "fetch the file or build the unit again"
        )

    def blocks(self, size: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """(rows, values) in order, a chunk's worth of rows at a time unless ``size`` says."""
        step = size or self.chunk_rows
        for start in range(0, self.shape[0], step):
            rows = slice(start, min(start + step, self.shape[0]))
            yield rows, self.read(rows.start, rows.stop)


def _zstd_size(head: bytes) -> int | None:
    """Bytes that a zstd frame says it unpacks to (RFC 8878, section 3.1.1.1); None if it does not.

    The library makes room for as many before it looks at the rest.
    """
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flags = head[4]
    single, width = bool(flags & 0x20), (0, 2, 4, 8)[flags >> 6]
    if single and not width:
        width = 1
    start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    if not width or len(head) < start + width:
        return None
    return int.from_bytes(head[start : start + width], "little") + (256 if width == 2 else 0)


def checksums(path: Path, slots: int) -> str:
    """What :data:`~matteratlas.schemas.archive.CHECKSUMS` says of a written shard file.

    Raises
    ------
    ArchiveError
        Its chunks do not lie in order without gaps.
    """
    with path.open("rb") as handle:
        handle.seek(-(16 * slots + 4), os.SEEK_END)
        body = handle.tell()
        tail = handle.read()
        index = np.frombuffer(tail[:-4], dtype="<u8").reshape(-1, 2)
        tags, end = [int.from_bytes(tail[-4:], "little")], 0
        for offset, length in index:
            if offset == _ABSENT:
                tags += [0, 0]
                continue
            if offset != end:
                raise ArchiveError(f"{path}: chunks are not in order; write the array again")
            end += int(length)
            handle.seek(end - 4)
            tags += [int.from_bytes(handle.read(4), "little"), int(length)]
    if end != body:
        raise ArchiveError(f"{path}: bytes between chunks and index; write the array again")
    return base64.b64encode(np.array(tags, dtype="<u4").tobytes()).decode("ascii")


def _each(work: Callable[[Any], None], parts: Sequence[Any]) -> None:
    """Do the work for each part, on several threads where there are several of both."""
    if len(parts) < 2 or read_threads() == 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(read_threads()) as pool:
        for _ in pool.map(work, parts):
            pass


def read_threads() -> int:
    """Threads that decode shards: ``$MATTERATLAS_READ_THREADS``, else one a usable core."""
    wanted = os.environ.get("MATTERATLAS_READ_THREADS", "")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, int(wanted) if wanted.isdigit() else usable or 1)
