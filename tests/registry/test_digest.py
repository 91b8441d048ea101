# SPDX-License-Identifier: Apache-2.0
"""Content digests: packaging leaves them alone, any value moves them."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matteratlas.registry.digest import (
    ColumnDigest,
    array_digest,
    column_digests,
    mapping_digest,
    table_digest,
)
from matteratlas.schemas.errors import ArchiveError

DTYPES = ["float16", "float32", "float64", "uint16", "int64", "uint8", "bool"]
#: Values of each Arrow type used in tables; a null is added to each.
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.int8(): st.integers(-128, 127),
    pa.float64(): st.floats(allow_nan=True),
    pa.float32(): st.floats(width=32),
    pa.float16(): st.floats(width=16),
    pa.string(): st.text(max_size=4),
    pa.list_(pa.string()): st.lists(st.none() | st.text(max_size=3), max_size=3),
    pa.list_(pa.float32(), 2): st.lists(st.floats(width=32), min_size=2, max_size=2),
    pa.struct([("a", pa.int64()), ("b", pa.list_(pa.int64()))]): st.fixed_dictionaries(
        {
            "a": st.none() | st.integers(-9, 9),
            "b": st.none() | st.lists(st.integers(0, 9), max_size=2),
        }
    ),
    pa.null(): st.none(),
}


@st.composite
def columns(draw: st.DrawFn) -> pa.Array:
    kind = draw(st.sampled_from(list(VALUES)))
    return pa.array(draw(st.lists(st.none() | VALUES[kind], max_size=8)), kind)


def cuts(n: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, n), max_size=4).map(lambda c: [0, *sorted(c), n])


def cut(values: Any, edges: list[int]) -> list[Any]:
    return [values[a:b] for a, b in itertools.pairwise(edges)]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_blocks_of_an_array_leave_no_trace(data: st.DataObject, dtype: str) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=6))
    array = data.draw(hnp.arrays(dtype, shape))
    whole = array_digest(dtype, shape, [array])
    blocks = cut(array, data.draw(cuts(len(array))))
    assert array_digest(dtype, shape, blocks) == whole
    foreign = [np.asfortranarray(b.astype(b.dtype.newbyteorder(">"))) for b in blocks]
    assert array_digest(dtype, shape, foreign) == whole


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_any_changed_number_moves_the_digest(data: st.DataObject, dtype: str) -> None:
    array = data.draw(hnp.arrays(dtype, st.integers(1, 8)))
    i = data.draw(st.integers(0, len(array) - 1))
    other = array.copy()
    other[i] = data.draw(hnp.from_dtype(np.dtype(dtype)))
    same = other.tobytes() == array.tobytes() or (other[i] != other[i] and array[i] != array[i])
    digests = {array_digest(dtype, array.shape, [a]) for a in (array, other)}
    assert len(digests) == (1 if same else 2)


def test_every_nan_is_one_nan_and_minus_zero_is_not_zero() -> None:
    odd = np.array([0x7FC00001, 0xFFC00000, 0x7F800001], dtype=np.uint32).view(np.float32)
    plain = np.full(3, np.nan, dtype=np.float32)
    assert np.isnan(odd).all() and odd.tobytes() != plain.tobytes()
    assert array_digest("float32", (3,), [odd]) == array_digest("float32", (3,), [plain])
    assert column_digests(pa.table({"a": odd})) == column_digests(pa.table({"a": plain}))
    zeros = [np.array([z], dtype=np.float32) for z in (0.0, -0.0)]
    assert len({array_digest("float32", (1,), [z]) for z in zeros}) == 2
    assert len({table_digest(pa.table({"a": z})) for z in zeros}) == 2


def test_type_and_shape_are_content() -> None:
    values = np.zeros(6, dtype=np.float32)
    digests = {
        array_digest("float32", (6,), [values]),
        array_digest("float32", (3, 2), [values.reshape(3, 2)]),
        array_digest("float32", (2, 3), [values.reshape(2, 3)]),
        array_digest("int32", (6,), [values.astype("int32")]),
        array_digest("float32", (0, 6), []),
        array_digest("float32", (0, 5), []),
    }
    assert len(digests) == 6


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=5), max_size=8), data=st.data())
def test_text_is_the_same_in_any_numpy_string_type(texts: list[str], data: st.DataObject) -> None:
    objects = np.array(texts, dtype=object)
    whole = array_digest("string", objects.shape, [objects])
    blocks = cut(objects, data.draw(cuts(len(texts))))
    variable = [b.astype(np.dtypes.StringDType()) for b in blocks]
    assert array_digest(str, objects.shape, variable) == whole
    if texts:
        i = data.draw(st.integers(0, len(texts) - 1))
        other = objects.copy()
        other[i] = data.draw(st.text(max_size=5))
        assume(other[i] != objects[i])
        assert array_digest("string", objects.shape, [other]) != whole


def test_text_boundaries_count() -> None:
    one, two = np.array(["ab", "c"], dtype=object), np.array(["a", "bc"], dtype=object)
    assert array_digest(str, (2,), [one]) != array_digest(str, (2,), [two])


def test_blocks_that_do_not_fit_are_refused() -> None:
    digest = ColumnDigest("float32", (4, 2))
    with pytest.raises(ArchiveError, match="does not fit"):
        digest.update(np.zeros((2, 2), dtype=np.float64))
    with pytest.raises(ArchiveError, match="does not fit"):
        digest.update(np.zeros((2, 3), dtype=np.float32))
    digest.update(np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(ArchiveError, match="2 rows came for an array of 4"):
        digest.hexdigest()
    with pytest.raises(ArchiveError, match="complex"):
        ColumnDigest("complex64", (1,))
    with pytest.raises(ArchiveError, match="None"):
        array_digest(str, (1,), [np.array([None], dtype=object)])


def encode(table: pa.Table, **options: Any) -> io.BytesIO:
    handle = io.BytesIO()
    pq.write_table(table, handle, **options)
    handle.seek(0)
    return handle


ENCODINGS: list[dict[str, Any]] = [
    {"compression": "none", "use_dictionary": False, "data_page_size": 1},
    {"compression": "zstd", "row_group_size": 2, "write_page_checksum": True},
    {"compression": "snappy", "use_content_defined_chunking": True, "data_page_version": "2.0"},
]


@settings(max_examples=80, deadline=None)
@given(column=columns(), data=st.data(), options=st.sampled_from(ENCODINGS))
def test_encoding_of_a_table_leaves_no_trace(
    column: pa.Array, data: st.DataObject, options: dict[str, Any]
) -> None:
    edges = data.draw(cuts(len(column)))
    whole = pa.table({"x": column, "n": pa.array(range(len(column)))})
    chunked = pa.table(
        {"n": whole["n"], "x": pa.chunked_array(cut(column, edges), type=column.type)}
    ).replace_schema_metadata({"written_by": "another version"})
    expected = column_digests(whole)
    assert column_digests(chunked) == expected
    assert column_digests(encode(chunked, **options)) == expected
    assert table_digest(chunked) == table_digest(whole) == mapping_digest(expected)


@settings(max_examples=80, deadline=None)
@given(column=columns(), data=st.data())
def test_any_changed_value_moves_the_digest_of_its_column(
    column: pa.Array, data: st.DataObject
) -> None:
    assume(len(column) and column.type != pa.null())
    values = column.to_pylist()
    i = data.draw(st.integers(0, len(values) - 1))
    other = [*values[:i], data.draw(st.none() | VALUES[column.type]), *values[i + 1 :]]
    changed = pa.array(other, column.type)
    # repr tells -0.0 from 0.0 and knows one NaN only: the policy.
    same = repr(changed.to_pylist()) == repr(column.to_pylist())
    before = column_digests(pa.table({"x": column, "y": column}))
    after = column_digests(pa.table({"x": changed, "y": column}))
    assert (before["x"] == after["x"]) == same
    assert before["y"] == after["y"]
    shorter = column_digests(pa.table({"x": column[:-1]}))
    assert shorter["x"] != before["x"]


def test_layouts_of_one_type_are_one_type() -> None:
    texts = pa.array(["a", "b", None, "a"])
    plain = column_digests(pa.table({"x": texts}))
    for other in (texts.dictionary_encode(), texts.cast(pa.large_string())):
        assert column_digests(pa.table({"x": other})) == plain
    lists = pa.array([["a"], None, []])
    large = lists.cast(pa.large_list(pa.string()))
    assert column_digests(pa.table({"x": large})) == column_digests(pa.table({"x": lists}))
    kinds = [pa.int32(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.string()]
    assert len({table_digest(pa.table({"x": pa.array([], k)})) for k in kinds}) == len(kinds)


def test_values_under_a_null_do_not_count() -> None:
    valid = pa.array([True, False])
    tables = []
    for hidden in (2.0, 3.0):
        flat = pa.array([1.0, 1.0, hidden, hidden], pa.float32())
        lists = pa.FixedSizeListArray.from_arrays(flat, 2, mask=pa.array([False, True]))
        assert lists.is_valid() == valid
        tables.append(pa.table({"x": lists}))
    assert table_digest(tables[0]) == table_digest(tables[1])


def test_faults_are_named(tmp_path: Any) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(ArchiveError, match=r"a\.parquet"):
        table_digest(path)
    doubled = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    with pytest.raises(ArchiveError, match="repeated"):
        table_digest(doubled)
    with pytest.raises(ArchiveError, match="timestamp"):
        table_digest(pa.table({"x": pa.array([1], pa.timestamp("s"))}))


def test_a_flipped_page_byte_is_an_error(tmp_path: Any) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"x": np.arange(1000.0)})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[data.index(np.float64(500.0).tobytes())] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ArchiveError, match=r"a\.parquet"):
        table_digest(path)
