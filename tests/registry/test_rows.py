# SPDX-License-Identifier: Apache-2.0
"""Chosen rows: any choice in any order, reading only the chunks that hold them."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import vectors
from hypothesis import given, settings
from hypothesis import strategies as st

import matteratlas as ma
from matteratlas.registry.files import Files
from matteratlas.registry.rows import LazyRows, behind


class Stored:
    """A matrix in memory that counts the rows it is asked for."""

    def __init__(self, values: np.ndarray, shard_rows: int, chunk_rows: int) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.shard_rows, self.chunk_rows, self.asked = shard_rows, chunk_rows, 0

    def read(self, start: int, stop: int) -> np.ndarray:
        self.asked += stop - start
        return self.values[start:stop]

    def take(self, rows: np.ndarray) -> np.ndarray:
        self.asked += len(rows)
        return self.values[rows]


@st.composite
def choices(draw: st.DrawFn) -> tuple[LazyRows, np.ndarray]:
    """Rows of up to three matrices, and the values they stand for."""
    dim = draw(st.integers(1, 3))
    matrices, base = [], 0
    for _ in range(draw(st.integers(0, 3))):
        n, chunk, slots = (draw(st.integers(1, top)) for top in (20, 5, 3))
        values = np.arange(base, base + n * dim).reshape(n, dim)
        dtype = draw(st.sampled_from(["float32", "float16"]))
        matrices.append(Stored(values.astype(dtype), chunk * slots, chunk))
        base += n * dim
    pairs = [(o, p) for o, m in enumerate(matrices) for p in range(len(m.values))]
    if draw(st.booleans()) and pairs:
        chosen = draw(st.lists(st.sampled_from([*pairs, (-1, -1)]), max_size=40))
    else:
        chosen = pairs[draw(st.integers(0, 10)) :]  # in storage order
    owner, place = np.array(chosen or np.empty((0, 2)), dtype=int).T
    expected = np.full((len(chosen), dim), np.nan, dtype=np.float32)
    for i, (o, p) in enumerate(chosen):
        if o >= 0:
            expected[i] = matrices[o].values[p]
    return LazyRows(matrices, owner, place, dim=dim), expected


@settings(deadline=None)
@given(choices(), st.data())
def test_any_choice_of_rows_is_read_as_chosen(
    choice: tuple[LazyRows, np.ndarray], data: st.DataObject
) -> None:
    rows, expected = choice
    n = len(expected)
    np.testing.assert_array_equal(rows.read(), expected)
    np.testing.assert_array_equal(rows.to_dask(name="x").compute(), expected)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
    np.testing.assert_array_equal(rows[start:stop], expected[start:stop])
    np.testing.assert_array_equal(rows[::-2, :1], expected[::-2, :1])
    np.testing.assert_array_equal(rows[np.arange(n) % 2 == 0], expected[::2])
    if n:
        index = np.array(data.draw(st.lists(st.integers(-n, n - 1))), dtype=int)
        np.testing.assert_array_equal(rows[index], expected[index])
        np.testing.assert_array_equal(rows[n - 1], expected[n - 1])
        assert rows[0, 0] == expected[0, 0] or np.isnan(expected[0, 0])


@settings(deadline=None)
@given(choices(), st.booleans())
def test_edges_cut_all_rows_into_pieces_no_larger_than_a_shard(
    choice: tuple[LazyRows, np.ndarray], chunks: bool
) -> None:
    rows, expected = choice
    edges = rows.edges(chunks=chunks)
    assert edges[0] == 0 and edges[-1] == len(expected)
    sizes = [m.chunk_rows if chunks else m.shard_rows for m in rows.matrices]
    assert all(0 < b - a <= max(sizes, default=b) for a, b in pairwise(edges))


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4))
def test_rows_in_storage_order_are_cut_where_shards_end(n: int, chunk: int, slots: int) -> None:
    matrix = Stored(np.zeros((n, 1), np.float32), chunk * slots, chunk)
    rows = LazyRows([matrix], np.zeros(n), np.arange(n), dim=1)
    assert list(rows.edges()[:-1]) == list(range(0, n, chunk * slots))
    assert list(rows.edges(chunks=True)[:-1]) == list(range(0, n, chunk))


def test_a_slice_of_the_dask_array_asks_for_its_rows_only() -> None:
    matrix = Stored(np.arange(40, dtype=np.float32).reshape(-1, 1), 20, 4)
    rows = LazyRows([matrix], np.zeros(40), np.arange(40), dim=1)
    part = rows.to_dask(name="x")[18:23].compute()
    assert part.ravel().tolist() == [18, 19, 20, 21, 22] and matrix.asked == 5


# --- through an atlas ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def atlas(vector_atlas: Path) -> ma.Atlas:
    return ma.open_atlas(vector_atlas)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(path, bytes) of every read of a file."""
    seen = []
    read = Files.read

    def counted(self: Files, path: str, *args: int | None, **options: str | None) -> bytes:
        data = read(self, path, *args, **options)  # type: ignore[arg-type]
        seen.append((path, len(data)))
        return data

    monkeypatch.setattr(Files, "read", counted)
    return seen


def test_a_query_moves_only_the_chunks_that_hold_its_rows(
    atlas: ma.Atlas, moved: list[tuple[str, int]]
) -> None:
    wanted = vectors.ids("early")[2100]
    few = atlas.embeddings("wide", where=f"id == '{wanted}'")
    moved.clear()
    np.testing.assert_array_equal(few.values, vectors.vectors("wide", "early")[[2100]])
    (path,) = {path for path, _ in moved}
    size = (Path(atlas.location) / path).stat().st_size
    assert sum(n for _, n in moved) < 0.6 * size  # one of the two chunks of a shard, and the index


def test_rows_of_neighbouring_chunks_are_one_read(
    atlas: ma.Atlas, moved: list[tuple[str, int]]
) -> None:
    odd = atlas.embeddings("wide", sets=["early"], where="stratum == 'odd'")
    moved.clear()
    values = odd.values
    assert sorted(path[-3:] for path, _ in moved) == ["0/0", "1/0"]  # two chunks each
    np.testing.assert_array_equal(values, atlas.embeddings("wide", sets=["early"]).values[1::2])


def test_arrays_know_their_rows_until_something_is_chosen_or_computed(atlas: ma.Atlas) -> None:
    x = atlas.embeddings("wide")
    rows = behind(x)
    assert rows is not None and rows.shape == x.shape
    assert behind(x.rename("y")) is rows and behind(pickle.loads(pickle.dumps(x))) is not None
    for other in (x[:10], x * 2, x.compute(), x.isel(structure=[3, 1])):
        assert behind(other) is None
    both = atlas.aligned(["wide", "wider"])
    assert all(behind(both[m]) is not None for m in both)


def test_aligned_models_may_hold_a_shared_structure_in_different_sets(atlas: ma.Atlas) -> None:
    both = atlas.aligned(["wide", "spare"])
    again = atlas.aligned(["spare", "wide"])
    held = ~vectors.missing("wide", "late")
    assert both.sizes["structure"] == held.sum() == again.sizes["structure"]
    shared = both["structure"].isin(vectors.ids("late")[-vectors.SHARED :]).values
    assert shared.sum() == held[-vectors.SHARED :].sum() < vectors.SHARED
    assert set(both["set"].values[shared]) == {"early"}
    assert set(again["set"].values) == {"late"}
    np.testing.assert_array_equal(
        again["wide"].sel(structure=both["structure"]).values, both["wide"].values
    )
    np.testing.assert_array_equal(again["wide"].values, vectors.vectors("wide", "late")[held])
