# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import made_up_pair
from threadpoolctl import threadpool_limits

from matteratlas.analysis import candidates, indexes, neighbours
from matteratlas.analysis.blocks import Space, as_rows, normalise_rows
from matteratlas.analysis.neighbours import nearest, nearest_among, nearest_scaled
from matteratlas.schemas.errors import MetricError, MissingExtraError


@pytest.fixture(params=["dense", "tiles"])
def route(request, monkeypatch):
    """Both ways to search; the second one made to serve small inputs too."""
    searched = []
    real = neighbours._search_exactly
    monkeypatch.setattr(neighbours, "SPARE", 2)
    monkeypatch.setattr(
        neighbours, "_search_exactly", lambda *args: searched.append(args) or real(*args)
    )
    if request.param == "tiles":
        monkeypatch.setattr(neighbours, "DENSE_ROWS", 0)
    yield request.param
    assert bool(searched) == (request.param == "tiles")


@pytest.mark.parametrize("similarity", ["euclidean", "inner"])
@pytest.mark.parametrize(
    "kind", ["plain", "wide", "one_feature", "offset", "copies", "counts", "zero_rows"]
)
def test_lists_are_exact_and_ties_go_by_index(kind, similarity, route):
    for x in made_up_pair(kind):
        x = reference.matrix(x)
        scores = reference.distances(x) ** 2 if similarity == "euclidean" else -(x @ x.T)
        expected = reference.order(scores)[:, :9]
        found = nearest(Space(as_rows(x)), 9, similarity=similarity)
        assert found.indices.dtype == np.int32
        assert (found.indices == expected).all()
        sign = 1.0 if similarity == "euclidean" else -1.0
        assert found.scores == pytest.approx(
            sign * np.take_along_axis(scores, expected, axis=1), rel=1e-7, abs=1e-9
        )


def test_near_copies_below_float32_are_told_apart(monkeypatch):
    monkeypatch.setattr(neighbours, "DENSE_ROWS", 0)
    random = np.random.default_rng(0)
    centre = random.normal(size=8)
    x = np.concatenate([centre + 1e-8 * random.normal(size=(90, 8)), random.normal(size=(90, 8))])
    expected = reference.order(reference.distances(x))[:, :5]
    assert (nearest(Space(x), 5).indices == expected).all()


def test_hundreds_of_copies_at_scale():
    """More equal rows than candidates: the lists are still those of the lowest indices."""
    random = np.random.default_rng(1)
    table = random.normal(size=(6, 20))
    rows = random.integers(0, 6, 1500)
    found = nearest(Space(table[rows]), 20).indices
    for i in (0, 1, 700, 1499):
        same = np.flatnonzero(rows == rows[i])
        assert found[i].tolist() == same[same != i][:20].tolist()


KINDS = {
    "plain": lambda random, n: random.normal(size=(n, 12)),
    "long": lambda random, n: random.normal(size=(n, 5)) * np.geomspace(1e-6, 1e6, n)[:, None],
    "copies": lambda random, n: random.normal(size=(n // 3, 4))[random.integers(0, n // 3, n)],
    "few": lambda random, n: random.normal(size=(4, 6))[random.integers(0, 4, n)],
    "one": lambda random, n: np.ones((n, 2)),
    "counts": lambda random, n: random.integers(0, 3, size=(n, 5)).astype(float),
    "near_copies": lambda random, n: (
        np.repeat(random.normal(size=(n // 30, 8)), 30, axis=0)
        + 1e-9 * random.normal(size=(n // 30 * 30, 8))
    ),
}


@pytest.mark.parametrize("similarity", ["euclidean", "inner"])
@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_agree_with_the_dense_search(kind, similarity):
    """More rows than the first columns; ties, copies, and k past all spares."""
    space = Space(KINDS[kind](np.random.default_rng(2), 1300))
    for k in (7, 150):
        fast = nearest(space, k, similarity=similarity)
        slow = neighbours._search_dense(space, np.arange(space.n), k, similarity)
        assert (fast.indices == slow.indices).all()
        largest = np.abs(slow.scores).max()
        assert fast.scores == pytest.approx(slow.scores, rel=1e-9, abs=1e-13 * largest)
        assert (fast.index, fast.recall) == ("exact", 1.0)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(20, 130),
    d=st.integers(1, 5),
    values=st.integers(2, 40),
    k=st.integers(1, 4),
    spare=st.integers(0, 2),
    tile=st.sampled_from([(8, 40), (16, 33), (7, 70)]),
    similarity=st.sampled_from(["euclidean", "inner"]),
    seed=st.integers(0, 2**20),
)
def test_whole_numbers_keep_every_tie(n, d, values, k, spare, tile, similarity, seed):
    """Small tiles, on and off the diagonal, copies and doubt together against plain sorting."""
    x = np.random.default_rng(seed).integers(0, values, size=(n, d)).astype(float)
    scores = ((x[:, None] - x) ** 2).sum(axis=2) if similarity == "euclidean" else -(x @ x.T)
    expected = reference.order(scores)[:, :k]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "DENSE_ROWS", 0)
        patch.setattr(neighbours, "SPARE", spare)
        patch.setattr(candidates, "FIRST", 1)
        patch.setattr(candidates, "TILE", tile)
        found = nearest(Space(x), k, similarity=similarity)
    assert (found.indices == expected).all()


def test_threads_do_not_change_lists():
    x = np.random.default_rng(5).normal(size=(2600, 9))
    with threadpool_limits(1):
        one = nearest(Space(x), 6)
    with threadpool_limits(2):
        two = nearest(Space(x), 6)
    assert (one.indices == two.indices).all()
    assert (one.scores == two.scores).all()


def test_rows_in_doubt_are_searched_again_and_no_others(monkeypatch):
    again = []
    real = neighbours._search_dense
    monkeypatch.setattr(
        neighbours, "_search_dense", lambda *args: again.append(args[1].tolist()) or real(*args)
    )
    random = np.random.default_rng(7)
    x = random.normal(size=(1500, 10))
    nearest(Space(x), 5)
    assert again == []
    x[:20] = 20.0 + 1e-9 * random.normal(size=(20, 10))  # twenty rows float32 cannot tell apart
    nearest(Space(x), 5)
    assert again == [list(range(20))]


@pytest.mark.parametrize("reach", [8, 30])
@pytest.mark.parametrize("kind", ["plain", "copies"])
def test_lists_among_kept_rows_are_those_of_the_kept_rows_alone(kind, reach):
    """Short lists run dry (and are searched anew), long ones do not."""
    x, _ = made_up_pair(kind)
    kept = np.random.default_rng(3).random(len(x)) < 0.6
    space = Space(x)
    found = nearest_among(space, nearest(space, reach), kept, 8)
    alone = nearest(Space(x[kept]), 8)
    assert (found.indices == np.flatnonzero(kept)[alone.indices]).all()
    assert found.scores == pytest.approx(alone.scores, abs=1e-12)


def test_impossible_counts_are_refused():
    space = Space(np.random.default_rng(0).normal(size=(10, 2)))
    for k in (0, 10, -1):
        with pytest.raises(MetricError, match=f"k={k}"):
            nearest(space, k)


def test_missing_faiss_names_the_extra(monkeypatch):
    indexes.load_faiss.cache_clear()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'matteratlas\[cpu\]'"):
        nearest(Space(np.eye(5)), 2)


def test_missing_numba_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "matteratlas.analysis.candidates", raising=False)
    monkeypatch.delattr(sys.modules["matteratlas.analysis"], "candidates", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(MissingExtraError, match=r"'numba'.*pip install 'matteratlas\[cpu\]'"):
        nearest(Space(np.random.default_rng(0).normal(size=(1100, 3))), 2)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_lists_of_both_scalings_from_one_product(shift: float) -> None:
    random = np.random.default_rng(8)
    rows = random.normal(size=(1800, 24)).astype(np.float32).astype(np.float64) + shift
    rows *= random.uniform(0.1, 10.0, size=(1800, 1))
    space, scaled = Space(rows), Space(normalise_rows(rows, "l2"))
    both = nearest_scaled(space, scaled, 12, 30)
    assert both is not None
    for one, found, k in zip((space, scaled), both, (12, 30), strict=True):
        expected = nearest(one, k)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_array_equal(found.scores, expected.scores)


def test_two_searches_where_one_product_would_not_do() -> None:
    rows = np.random.default_rng(9).normal(size=(1300, 6))
    changed = {"few": rows[:900], "copies": rows.copy(), "zero": rows.copy(), "far": rows + 9.0}
    changed["copies"][7] = changed["copies"][3]
    changed["zero"][5] = 0.0
    for name, one in changed.items():
        scaled = Space(normalise_rows(one, "l2"))
        assert nearest_scaled(Space(one), scaled, 5, 5) is None, name
