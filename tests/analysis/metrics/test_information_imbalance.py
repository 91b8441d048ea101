# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
from made_up import EXACT, made_up_pair

from matteratlas.analysis import metrics
from matteratlas.schemas.errors import MetricError


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize(("kind", "normalise"), EXACT)
def test_equals_sorted_ranks(kind, normalise, k):
    x, y = made_up_pair(kind)
    forth, back = metrics.information_imbalance(x, y, k=k, normalise=normalise)
    assert forth == pytest.approx(reference.imbalance(x, y, k, normalise), abs=1e-12)
    assert back == pytest.approx(reference.imbalance(y, x, k, normalise), abs=1e-12)


@pytest.mark.parametrize("k", [1, 5])
def test_equals_dadapy(golden, k):
    expected = golden.values["dadapy_information_imbalance"][f"k{k}"]
    assert metrics.information_imbalance(golden.x, golden.y, k=k) == pytest.approx(
        expected, abs=1e-6
    )


def test_more_tells_about_less_but_not_back():
    random = np.random.default_rng(4)
    whole = random.normal(size=(300, 6))
    forth, back = metrics.information_imbalance(whole, whole[:, :2])
    assert forth < 0.6 < back


def test_self_is_the_smallest_value_and_unrelated_is_one():
    random = np.random.default_rng(5)
    x = random.normal(size=(200, 5))
    for k in (1, 4):
        assert metrics.information_imbalance(x, 3.0 * x + 1.0, k=k) == pytest.approx(
            ((k + 1) / 200, (k + 1) / 200), abs=1e-12
        )
    values = [metrics.information_imbalance(x, random.normal(size=(200, 5))) for _ in range(30)]
    assert np.mean(values) == pytest.approx(1.0, abs=0.03)


def test_equal_distances_share_their_rank():
    # From row 0 in y all others are equally far: each has rank (1 + 2 + 3) / 3.
    x = np.array([[0.0], [1.0], [3.0], [7.0]])
    y = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    # Nearest in x: 1, 0, 1, 2. Row 1 in y: 0, 2, 3; row 2: 0, then 1 and 3 level; row 3: 0, 2, 1.
    expected = 2.0 / 4 * np.mean([2.0, 1.0, 2.5, 2.0])
    assert metrics.information_imbalance(x, y)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", ["index", "share"])
@pytest.mark.parametrize("kind", ["copies", "counts", "plain"])
def test_mean_over_all_relabelings_is_one(kind, ties):
    x, y = (z[:6] for z in made_up_pair(kind))
    values = [
        metrics.information_imbalance(x, y[list(order)], k=2, ties=ties)
        for order in itertools.permutations(range(6))
    ]
    forth, back = np.mean(values, axis=0)
    assert forth == pytest.approx(1.0, abs=1e-12)
    # By index, neighbours that tie in y are those of low index, wherever the relabeling put them.
    assert back == pytest.approx(1.0, abs=1e-12 if ties == "share" else 0.05)


@pytest.mark.parametrize("kind", ["copies", "counts"])
def test_shared_ties_do_not_see_the_order_of_rows(kind):
    x, y = made_up_pair(kind)
    order = np.random.default_rng(0).permutation(70)
    values = metrics.information_imbalance(x, y, k=4, ties="share")
    moved = metrics.information_imbalance(x[order], y[order], k=4, ties="share")
    assert moved == pytest.approx(values, abs=1e-12)
    assert values != pytest.approx(metrics.information_imbalance(x, y, k=4), abs=1e-6)


def test_without_ties_both_ways_of_breaking_them_are_one():
    x, y = made_up_pair("plain")
    for k in (1, 7, 69):
        shared = metrics.information_imbalance(x, y, k=k, ties="share")
        assert shared == pytest.approx(metrics.information_imbalance(x, y, k=k), abs=1e-12)


def test_standard_error_is_about_the_spread_over_samples():
    random = np.random.default_rng(6)
    a, b = random.normal(size=(4, 8)), random.normal(size=(4, 8))
    values, errors = [], []
    for _ in range(80):
        latent = random.normal(size=(100, 4))
        x, y = latent @ a, np.tanh(latent @ b) + 0.4 * random.normal(size=(100, 8))
        value, error = metrics.information_imbalance(x, y, k=3, with_error=True)
        assert value == metrics.information_imbalance(x, y, k=3)
        values.append(value)
        errors.append(error)
    ratio = np.sqrt(np.mean(np.square(errors), axis=0)) / np.std(values, axis=0, ddof=1)
    assert ((ratio > 0.65) & (ratio < 1.8)).all()
    both = metrics.information_imbalance(np.ones((9, 2)), x[:9], with_error=True)
    assert np.isnan(both).all()


def test_unknown_ties_are_named():
    x, y = made_up_pair("plain")
    with pytest.raises(MetricError, match="ties='random' is not one of index, share"):
        metrics.information_imbalance(x, y, ties="random")
