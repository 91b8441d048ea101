# SPDX-License-Identifier: Apache-2.0
"""Picks are deterministic, distinct and diverse; gaps first; the lazy greedy is the plain one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matteratlas.analysis.acquire import acquisition
from matteratlas.analysis.acquire.acquisition import METHODS, acquire, cluster, nearest_known
from matteratlas.schemas.errors import MetricError

LAW = settings(max_examples=25, deadline=None)


def blobs(seed: int, sizes: tuple[int, ...], d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Rows around far centres, and the number of the centre of each."""
    random = np.random.default_rng(seed)
    cells = np.repeat(np.arange(len(sizes)), sizes)
    centres = random.normal(size=(len(sizes), d))
    centres *= 10 / np.linalg.norm(centres, axis=1, keepdims=True)
    return centres[cells] + 0.3 * random.normal(size=(len(cells), d)), cells


def names(m: int) -> np.ndarray:
    return np.array([f"c{i:05d}" for i in range(m)])


@pytest.mark.parametrize("method", METHODS)
@LAW
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60))
def test_picks_are_distinct_and_do_not_depend_on_the_order_of_rows(
    method: acquisition.Method, seed: int, n: int
) -> None:
    random = np.random.default_rng(seed)
    x, cells = blobs(seed, (15, 20, 5))
    known, _ = blobs(seed + 1, (6, 9))
    weights, costs = random.random(40) * (cells > 0), random.integers(1, 9, 40)
    ids = names(40)
    options = {"method": method, "seed": 3, "normalise": "none"}
    first = acquire(x, known, n, ids=ids, weights=weights, costs=costs, **options)
    assert len(first.rows) == min(n, 40) == len(set(first.rows)) == len(first.by)
    mixed, others = random.permutation(40), random.permutation(15)
    again = acquire(
        x[mixed], known[others], n, ids=ids[mixed], weights=weights[mixed], costs=costs[mixed],
        **options,
    )  # fmt: skip
    assert list(ids[mixed][again.rows]) == list(ids[first.rows])
    assert np.array_equal(again.scores, first.scores)
    for how in set(first.by):
        assert (np.diff(first.scores[[b == how for b in first.by]]) <= 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_equal_rows_equal_names_and_known_rows_are_not_picked_twice(
    method: acquisition.Method,
) -> None:
    x, _ = blobs(0, (5, 5))
    doubled = np.concatenate([x, x[::-1], x[:2] + 1.0])
    ids = [*names(20), "c00000", "new"]
    picks = acquire(doubled, x[3:5], 100, method=method, ids=ids, normalise="none")
    assert len(picks.rows) == 9  # ten, less two known, and the one with a name of its own
    assert len(np.unique(doubled[picks.rows], axis=0)) == 9
    assert not (doubled[picks.rows][:, None] == x[None, 3:5]).all(axis=2).any()
    assert "c00000" in [ids[r] for r in picks.rows]


@pytest.mark.parametrize("method", METHODS[1:])
@LAW
@given(seed=st.integers(0, 10_000))
def test_lazy_greedy_is_the_plain_greedy(method: acquisition.Method, seed: int) -> None:
    x, cells = blobs(seed, (20, 12, 8))
    known, _ = blobs(seed + 7, (5,))
    random = np.random.default_rng(seed)
    costs = random.uniform(1, 2, 40)
    weighted = method != "k_centre"
    weights = random.random(40) * (cells != 1) if method == "gap_driven" else np.ones(40)
    picks = acquire(x, known, 8, method=method, weights=weights, costs=costs, normalise="none")
    apart = np.linalg.norm(x[:, None] - x[None], axis=2)
    reach = np.linalg.norm(x[:, None] - known[None], axis=2).min(axis=1)
    gained = []
    for row in picks.rows:
        if weighted:
            gains = (np.maximum(reach - apart, 0) @ weights) / weights.sum() / costs
            gains[weights == 0] = -1
        else:
            gains = reach / costs
        assert gains[row] >= gains.max() * (1 - 1e-3) - 1e-3  # float32
        gained.append(gains[row])
        reach = np.minimum(reach, apart[row])
    assert picks.scores == pytest.approx(gained, rel=2e-2, abs=1e-3)  # float32


@LAW
@given(seed=st.integers(0, 10_000))
def test_planted_holes_are_filled_first(seed: int) -> None:
    x, cells = blobs(seed, (40, 40, 40, 15))
    known = x[cells < 3][::2]
    pool = np.concatenate([x[cells < 3][1::2], x[cells == 3]])
    hole = np.arange(len(pool)) >= 60
    # told by its severity
    picks = acquire(pool, known, 15, weights=hole * 0.8, normalise="none")
    assert hole[picks.rows].all()
    # and told by nothing but distances
    assert hole[acquire(pool, known, 1, normalise="none").rows].all()


def test_when_gaps_are_closed_the_rest_comes_nearer_as_a_whole() -> None:
    x, cells = blobs(5, (10, 4))
    picks = acquire(x, x[:1] + 0.1, 14, weights=cells == 1, normalise="none")
    assert set(cells[picks.rows[:4]]) == {1}
    assert picks.by == ("gap_driven",) * 4 + ("facility",) * 10
    none = acquire(x, x[:1], 3, weights=np.zeros(14), normalise="none")
    assert none.by == ("facility",) * 3


@LAW
@given(seed=st.integers(0, 10_000))
def test_a_batch_is_more_diverse_than_the_best_alone(seed: int) -> None:
    """One dense and one thin cell in the gap: the best alone all lie in the dense one."""
    x, cells = blobs(seed, (60, 6, 6))
    known = np.zeros((1, 6))
    alone = [acquire(x[[i]], known, 1, normalise="none").scores[0] for i in range(len(x))]
    batch = acquire(x, known, 6, normalise="none").rows
    best = np.argsort(alone)[::-1][:6]

    def reach(rows: np.ndarray) -> float:
        return float(np.linalg.norm(x[:, None] - x[rows][None], axis=2).min(axis=1).mean())

    assert set(cells[batch]) == {0, 1, 2}
    assert reach(batch) <= reach(best)


def test_costs_trade_gain_against_size() -> None:
    """Of two equally good candidates the cheaper; a dear one waits until its gain pays."""
    x = np.array([[10.0, 0], [10.0, 0.01], [0, 10.0], [0.1, 10.0]])
    costs = [100.0, 1.0, 1.0, 50.0]
    for method in ("facility", "k_centre"):
        picks = acquire(x, np.zeros((1, 2)), 2, method=method, costs=costs, normalise="none")
        assert sorted(picks.rows) == [1, 2], method
    free = acquire(x, np.zeros((1, 2)), 2, method="k_centre", normalise="none")
    assert sorted(free.rows) != [1, 2]


@pytest.mark.parametrize("method", METHODS)
def test_empty_pools_and_short_ones(method: acquisition.Method) -> None:
    known = np.ones((2, 3))
    assert len(acquire(np.empty((0, 3)), known, 4, method=method).rows) == 0
    assert len(acquire(known, known, 4, method=method).rows) == 0
    alone = acquire(np.eye(3), np.empty((0, 3)), 9, method=method)
    assert sorted(alone.rows) == [0, 1, 2]


def test_errors_name_the_fault() -> None:
    x, y = np.eye(3), np.ones((2, 3))
    for wrong, text in [
        ({"method": "best"}, "'best' is not known"),
        ({"n": 0}, "at least 1"),
        ({"weights": [-1, 0, 0]}, "below 0"),
        ({"costs": [1, 0, 1]}, "above 0"),
        ({"costs": [1.0]}, "one value for each"),
        ({"weights": [1, np.nan, 1]}, "row 1 is not"),
        ({"ids": ["a"]}, "1 ids for 3"),
        ({"known": np.ones((2, 4))}, "3 dimensions, known rows 4"),
        ({"candidates": np.array([[1.0, np.inf]])}, "row 0 is not finite"),
        ({"candidates": np.ones(3)}, "shape"),
    ]:
        options = {"candidates": x, "known": y, "n": 1, **wrong}
        with pytest.raises(MetricError, match=text):
            acquire(options.pop("candidates"), options.pop("known"), options.pop("n"), **options)


def test_many_candidates_take_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short lists, cells as demand and blocks: choices as good as with everything at once."""
    x, cells = blobs(1, (150, 150, 100))
    whole = acquire(x, x[:5], 10, normalise="none")
    far = acquire(x, x[:5], 10, method="k_centre", normalise="none")
    monkeypatch.setattr(acquisition, "SHORTLIST", 16)
    monkeypatch.setattr(acquisition, "RENEWED", 4)
    assert np.array_equal(acquire(x, x[:5], 10, normalise="none").rows, whole.rows)
    assert np.array_equal(acquire(x, x[:5], 10, method="k_centre", normalise="none").rows, far.rows)
    monkeypatch.setattr(acquisition, "DEMAND_POINTS", 40)
    monkeypatch.setattr(acquisition, "TILE_BYTES", 4096)
    fewer = acquire(x, x[:5], 10, normalise="none")
    assert set(cells[fewer.rows]) == set(cells[whole.rows])

    def reach(rows: np.ndarray) -> float:
        return float(np.linalg.norm(x[:, None] - x[rows][None], axis=2).min(axis=1).mean())

    assert reach(fewer.rows) < 1.1 * reach(whole.rows)


def test_nearest_known_and_cells() -> None:
    x, truth = blobs(2, (30, 30, 30))
    x = x.astype(np.float32)
    distance, place = nearest_known(x[:10], x[10:])
    exact = np.linalg.norm(x[:10, None].astype(float) - x[None, 10:], axis=2)
    assert distance == pytest.approx(exact.min(axis=1), rel=1e-6)
    assert np.array_equal(place, exact.argmin(axis=1))
    assert nearest_known(x[:2], x[:0])[1].tolist() == [-1, -1]
    centres, cells = cluster(x, 12)
    assert centres.shape == (12, 6)
    assert len({(a, b) for a, b in zip(truth, cells, strict=True)}) == len(set(cells)) > 3
    assert np.linalg.norm(x - centres[cells], axis=1).max() < 3
