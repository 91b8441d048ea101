# SPDX-License-Identifier: Apache-2.0
"""The reader of arrays: the same numbers as other Zarr readers, and never a damaged one."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sharded
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matteratlas.registry import shards
from matteratlas.registry.shards import ShardedArray
from matteratlas.schemas.archive import CHECKSUMS
from matteratlas.schemas.errors import ArchiveError

KINDS = ["float32", "float16", "float64", "int64", "uint16"]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@st.composite
def arrays(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """Values, rows a chunk, chunks a shard: one- and two-dimensional, empty ones too."""
    rows = draw(st.integers(0, 40))
    if draw(st.booleans()):
        texts = draw(st.lists(TEXT, min_size=rows, max_size=rows))
        values = np.array(texts, dtype=object)
    else:
        width = draw(st.sampled_from([(), (1,), (3,), (17,)]))
        kind = draw(st.sampled_from(KINDS))
        values = draw(hnp.arrays(kind, (rows, *width)))
    return values, draw(st.integers(1, 9)), draw(st.integers(1, 5))


@contextmanager
def written(values: np.ndarray, chunk: int, slots: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        sharded.write_array(Path(folder), values, chunk=chunk, slots=slots)
        yield Path(folder)


def same(a: Any, b: Any) -> bool:
    """Equal in type, shape and bits (any NaN is NaN)."""
    a, b = np.asarray(a), np.asarray(b)
    kind = a.dtype.kind == "f"
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=kind)


def indices(rows: int) -> st.SearchStrategy[Any]:
    """Everything that numpy takes to pick rows."""
    slices = st.slices(rows)
    masks = hnp.arrays(bool, rows)
    if not rows:
        return st.one_of(slices, masks)
    numbers = st.integers(-rows, rows - 1)
    lists = st.lists(numbers, max_size=12).map(lambda x: np.array(x, dtype=np.int64))
    return st.one_of(slices, masks, numbers, lists)


@settings(max_examples=60, deadline=None)
@given(arrays(), st.data())
def test_rows_are_those_numpy_picks(given_array: tuple[np.ndarray, int, int], data: Any) -> None:
    values, chunk, slots = given_array
    with written(values, chunk, slots) as root:
        array = sharded.open_array(root)
        assert (array.shape, array.dtype, len(array)) == (values.shape, values.dtype, len(values))
        assert (array.ndim, array.chunk_rows, array.slots) == (values.ndim, chunk, slots)
        assert same(array.read(), values) and same(array[...], values)
        for _ in range(4):
            key = data.draw(indices(len(values)))
            assert same(array[key], values[key]), key
            if values.ndim == 2:
                columns = data.draw(st.sampled_from([slice(1), slice(None, None, -1), 0, [0]]))
                assert same(array[key, columns], values[key][..., columns]), (key, columns)
        start = data.draw(st.integers(0, len(values)))
        stop = data.draw(st.integers(start, len(values) + 5))
        assert same(array.read(start, stop), values[start:stop])
        assert same(np.concatenate([block for _, block in array.blocks()] or [values]), values)
        assert [r.start for r, _ in array.blocks()] == list(range(0, len(values), chunk))


@settings(max_examples=40, deadline=None)
@given(arrays())
def test_other_readers_see_the_same(given_array: tuple[np.ndarray, int, int]) -> None:
    values, chunk, slots = given_array
    with written(values, chunk, slots) as root:
        ours = sharded.open_array(root).read()
        theirs = np.asarray(zarr.open_array(root / "x", mode="r")[:])
        assert same(ours, theirs.astype(object) if values.dtype.hasobject else theirs)
        if not values.dtype.hasobject:  # tensorstore has no strings in Zarr v3
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{root}/x"}}
            assert same(ours, tensorstore.open(spec, read=True).result().read().result())


def example(rows: int = 2300) -> np.ndarray:
    """Several shards of several chunks, none alike."""
    return np.random.default_rng(0).normal(size=(rows, 5)).astype(np.float32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """2,300 rows in chunks of 100, 8 a shard: three shards, the last with seven chunks."""
    sharded.write_array(tmp_path, example(), chunk=100, slots=8)
    assert len(sharded.shards_of(tmp_path)) == 3
    return tmp_path


@pytest.mark.parametrize("threads", ["1", "3"])
def test_shards_are_read_by_any_number_of_threads(
    root: Path, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv("MATTERATLAS_READ_THREADS", threads)
    array = sharded.open_array(root)
    assert same(array.read(50, 2250), example()[50:2250])


def test_a_pickled_array_reads_the_same(root: Path) -> None:
    array = sharded.open_array(root)
    before = array.read(150, 160)  # an index is held by now
    copy = pickle.loads(pickle.dumps(array))
    assert same(copy.read(150, 160), before) and same(copy.read(), example())
    assert len(pickle.dumps(array)) < 4096 + 4 * len(str(sharded.read_metadata(root)))


def test_rows_outside_are_refused(root: Path) -> None:
    array = sharded.open_array(root)
    for rows in ([2300], [-2301], [0, 99999]):
        with pytest.raises(IndexError, match="x: rows run from 0 to 2299"):
            array.take(np.array(rows))
    with pytest.raises(IndexError):
        array[2300]


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (np.ones(7, bool), r"not bool of shape \(7,\)"),
        (np.array(True), r"not bool of shape \(\)"),
        (np.array([0.5, 1.5]), r"not float64 of shape \(2,\)"),
        (np.zeros((2, 2), int), r"not int64 of shape \(2, 2\)"),
    ],
)
def test_what_cannot_pick_rows_is_refused(root: Path, key: np.ndarray, says: str) -> None:
    with pytest.raises(IndexError, match=rf"x: rows are numbers or a mask of 2300, {says}"):
        sharded.open_array(root)[key]


class Recorder:
    """Which byte ranges of which files a read moves."""

    def __init__(self, array: ShardedArray) -> None:
        self.ranges: list[tuple[str, int | None, int | None]] = []
        original = array.files.read

        def read(path: str, start: Any = None, stop: Any = None, **options: Any) -> bytes:
            self.ranges.append((path, start, stop))
            return original(path, start, stop, **options)

        array.files.read = read  # type: ignore[method-assign]

    @property
    def bytes(self) -> int:
        return sum((stop or 0) - (start or 0) for _, start, stop in self.ranges)


def test_rows_move_their_chunks_in_one_go(root: Path) -> None:
    array = sharded.open_array(root)
    seen = Recorder(array)
    assert same(array.read(250, 420), example()[250:420])  # chunks 2, 3, 4 of the first shard
    assert [path for path, *_ in seen.ranges] == ["x/c/0/0"]
    size = (root / "x/c/0/0").stat().st_size
    assert seen.bytes < size / 2
    seen.ranges.clear()
    array.read(0, 800)
    assert seen.ranges == [("x/c/0/0", 0, size)]


# Every kind of damage: what is done to the files, and what the error says of it.


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(bytes(data))


def rewrite_index(path: Path, change: Callable[[np.ndarray], None]) -> None:
    """Change a shard's index and give it a CRC that fits: damage no checksum of its own finds."""
    import google_crc32c

    data = path.read_bytes()
    index = np.frombuffer(data[-132:-4], dtype="<u8").reshape(-1, 2).copy()
    change(index)
    tail = index.tobytes()
    crc = google_crc32c.value(tail).to_bytes(4, "little")
    path.write_bytes(data[:-132] + tail + crc)


def drop_chunk(index: np.ndarray) -> None:
    index[3] = 2**64 - 1


def swap_chunks(index: np.ndarray) -> None:
    index[[2, 3]] = index[[3, 2]]


def swap_files(path: Path) -> None:
    other = path.parent.parent / "1" / "0"
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "first byte": (lambda p: flip(p, 0), "CRC-32C of its chunk 0"),
    "byte of a chunk": (lambda p: flip(p, p.stat().st_size * 5 // 16), "CRC-32C of its chunk 2"),
    "crc of a chunk": (lambda p: flip(p, -133), "chunk 7 is not the one declared"),
    "byte of the index": (lambda p: flip(p, -100), "CRC-32C of its index"),
    "crc of the index": (lambda p: flip(p, -2), "index is not the one declared"),
    "one byte short": (lambda p: p.write_bytes(p.read_bytes()[:-1]), "truncated"),
    "half": (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "truncated"),
    "empty": (lambda p: p.write_bytes(b""), "truncated"),
    "gone": (Path.unlink, "missing"),
    "chunk marked absent": (
        lambda p: rewrite_index(p, drop_chunk),
        "index is not the one declared",
    ),
    "chunks exchanged": (
        lambda p: rewrite_index(p, swap_chunks),
        "index is not the one declared",
    ),
    "shards exchanged": (swap_files, "not the one declared|truncated"),
    "zeros": (lambda p: p.write_bytes(bytes(p.stat().st_size)), "not the one declared"),
}


#: What a read of two chunks in the middle does not touch: other chunks, the index.
ELSEWHERE = (
    "first byte", "crc of a chunk", "byte of the index", "crc of the index", "one byte short",
    "half", "chunk marked absent", "chunks exchanged",
)  # fmt: skip


@pytest.mark.parametrize("rows", [(0, 800), (200, 400)], ids=["whole", "part"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_an_error_that_names_the_file(
    root: Path, damage: str, rows: tuple[int, int]
) -> None:
    array = sharded.open_array(root)
    path = sharded.shards_of(root)[0]
    act, says = DAMAGE[damage]
    act(path)
    if damage in ELSEWHERE and rows != (0, 800):
        assert same(array.read(*rows), example()[slice(*rows)])  # bytes it does not need
        return
    with pytest.raises(ArchiveError, match=says) as caught:
        array.read(*rows)
    assert f"{root}/x/c/0/0" in str(caught.value) and "\n" not in str(caught.value)
    if damage != "shards exchanged":
        assert same(array.read(800, 2300), example()[800:])  # other files are no worse


def test_a_tag_that_says_absent_is_no_licence_to_be(tmp_path: Path) -> None:
    """Even where metadata own to it, an absent chunk does not pass for fill values."""
    values = np.concatenate([np.zeros((100, 5)), np.ones((700, 5))]).astype(np.float32)
    sharded.write_array(tmp_path, values, chunk=100, slots=8, keep_empty=False)
    array = sharded.open_array(tmp_path)
    assert same(array.read(100, 800), values[100:])
    for rows in ((0, 100), (0, 800)):
        with pytest.raises(ArchiveError, match=r"x/c/0/0: a chunk is absent"):
            array.read(*rows)


@pytest.mark.parametrize("change", [drop_chunk, swap_chunks])
def test_chunks_out_of_order_are_not_sealed(root: Path, change: Callable[..., None]) -> None:
    """Readers find a chunk by the lengths of those before it."""
    rewrite_index(sharded.shards_of(root)[0], change)
    with pytest.raises(ArchiveError, match=r"x/c/0/0: chunks are not in order"):
        _resealed(root)


def test_bytes_that_no_chunk_owns_are_not_sealed(root: Path) -> None:
    path = sharded.shards_of(root)[0]
    data = path.read_bytes()
    path.write_bytes(data[:-132] + b"?" + data[-132:])
    with pytest.raises(ArchiveError, match=r"x/c/0/0: bytes between chunks and index"):
        _resealed(root)


def _resealed(root: Path) -> ShardedArray:
    metadata = sharded.read_metadata(root)
    metadata["attributes"][CHECKSUMS] = [shards.checksums(p, 8) for p in sharded.shards_of(root)]
    return ShardedArray(sharded.open_array(root).files, "x", metadata, sharded.declared_files(root))


def test_no_flipped_byte_goes_unnoticed(tmp_path: Path) -> None:
    """All bytes of one file, one after the other."""
    values = np.arange(60, dtype=np.float16).reshape(20, 3)
    sharded.write_array(tmp_path, values, chunk=4, slots=3)
    declared = sharded.declared_files(tmp_path)
    path = sharded.shards_of(tmp_path)[1]
    good = path.read_bytes()
    for at in range(len(good)):
        flip(path, at)
        with pytest.raises(ArchiveError, match="x/c/1/0"):
            sharded.open_array(tmp_path, declared=declared).read()
        path.write_bytes(good)
    assert same(sharded.open_array(tmp_path, declared=declared).read(), values)
    assert len(good) > 100


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("shape"),
        lambda m: m["attributes"].pop(CHECKSUMS),
        lambda m: m["attributes"][CHECKSUMS].pop(),
        lambda m: m["attributes"].update({CHECKSUMS: ["AAAA"] * 3}),
        lambda m: m["attributes"][CHECKSUMS].reverse(),
        lambda m: m["codecs"][0].update(name="transpose"),
        lambda m: m["codecs"][0]["configuration"]["codecs"].pop(),
        lambda m: m["codecs"].append({"name": "gzip"}),
        lambda m: m["codecs"][0]["configuration"].update(index_location="start"),
        lambda m: m.update(data_type="float7"),
        lambda m: m.update(shape=[99999, 5]),
    ],
)
def test_metadata_that_do_not_fit_are_refused(root: Path, change: Callable[..., object]) -> None:
    metadata, good = sharded.read_metadata(root), sharded.open_array(root)
    change(metadata)
    with pytest.raises(ArchiveError, match=r"/x: its metadata is damaged or foreign"):
        ShardedArray(good.files, "x", metadata, sharded.declared_files(root))


def test_a_file_that_no_record_lists_is_refused(root: Path) -> None:
    declared = sharded.declared_files(root)
    del declared["x/c/1/0"]
    with pytest.raises(ArchiveError, match=r"x/c/1/0"):
        sharded.open_array(root, declared=declared)
