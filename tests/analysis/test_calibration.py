# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from matteratlas.analysis.calibration import (
    calibrated,
    jackknife_blocks,
    null_quantile,
    p_value,
    permutations,
    standard_error,
)
from matteratlas.schemas.errors import MetricError


@pytest.mark.parametrize(("n", "count"), [(20, 7), (20, 19), (20, 50), (5, 3), (101, 200)])
def test_rotations_are_distinct_relabelings_that_move_every_row(n, count):
    draws = permutations(n, count, seed=1)
    assert draws.indices.shape == (count, n)
    assert (np.sort(draws.indices, axis=1) == np.arange(n)).all()
    assert not (draws.indices == np.arange(n)).any()
    first = draws.indices[: min(count, n - 1)]
    assert len({tuple(order) for order in first}) == len(first)
    assert sum(cycle.shifts.size for cycle in draws.cycles) == count


def test_the_draws_of_one_cycle_and_the_identity_form_a_group():
    n = 12
    orders = {tuple(order) for order in permutations(n, n - 1, seed=3).indices} | {tuple(range(n))}
    assert len(orders) == n
    for a in orders:
        for b in orders:
            assert tuple(a[i] for i in b) in orders


def test_cycles_describe_the_indices():
    draws = permutations(11, 25, seed=2)
    start = 0
    for cycle in draws.cycles:
        for offset, shift in enumerate(cycle.shifts):
            order = draws.indices[start + offset]
            assert (order[cycle.order] == np.roll(cycle.order, -shift)).all()
        start += cycle.shifts.size


def test_every_place_is_reached_equally_often():
    counts = np.zeros((9, 9))
    for seed in range(300):
        for order in permutations(9, 4, seed=seed).indices:
            counts[np.arange(9), order] += 1
    off = counts[~np.eye(9, dtype=bool)]
    assert off.sum() == 300 * 4 * 9
    assert np.abs(off - 150).max() < 5 * np.sqrt(150)


def test_draws_depend_on_the_seed_alone():
    one, again, other = (permutations(30, 10, seed=seed).indices for seed in (5, 5, 6))
    assert (one == again).all()
    assert (one != other).any()


def test_groups_keep_their_rows():
    labels = np.array(["a", "b", "a", "c", "b", "a", "d", "b", "a"])
    draws = permutations(9, 400, seed=0, groups=labels)
    assert not draws.cycles
    assert (np.sort(draws.indices, axis=1) == np.arange(9)).all()
    assert (labels[draws.indices] == labels).all()
    landed = np.bincount(draws.indices[:, 0], minlength=9)[labels == "a"]
    assert landed.sum() == 400
    assert np.abs(landed - 100).max() < 45  # uniform within the group, staying put included


def test_bad_draws_are_refused():
    with pytest.raises(MetricError, match="permutations=-1"):
        permutations(9, -1)
    with pytest.raises(MetricError, match=r"groups has shape \(8,\), one label for each of 9 rows"):
        permutations(9, 5, groups=np.zeros(8))
    with pytest.raises(MetricError, match="every row is a group of its own"):
        permutations(9, 5, groups=np.arange(9))


def test_threshold_and_p_value_by_hand():
    null = np.arange(1.0, 20.0)[:, None]  # 1..19, so K + 1 = 20
    observed = np.array([10.5])
    # {1..19, 10.5} ascending: the ceil(0.95 * 20) = 19th is 18.
    assert null_quantile(observed, null, alpha=0.05, larger=True) == [18.0]
    assert null_quantile(observed, null, alpha=0.05, larger=False) == [2.0]
    assert p_value(observed, null, larger=True) == [10 / 20]
    assert p_value(observed, null, larger=False) == [11 / 20]
    assert p_value(np.array([19.0]), null, larger=True) == [2 / 20]
    assert p_value(np.array([20.0]), null, larger=True) == [1 / 20]
    assert np.isnan(p_value(np.array([np.nan]), null, larger=True))


def test_calibrated_by_hand():
    values = calibrated(
        np.array([0.1, 0.6, 1.0, np.nan]), np.array([0.2] * 3 + [np.nan]), 1.0, larger=True
    )
    assert values == pytest.approx([0.0, 0.5, 1.0, np.nan], nan_ok=True)
    mirrored = calibrated(np.array([0.95, 0.5, 0.1]), np.full(3, 0.9), 0.1, larger=False)
    assert mirrored == pytest.approx([0.0, 0.5, 1.0])
    assert calibrated(np.array([1.0]), np.array([1.0]), 1.0, larger=True) == [0.0]


@pytest.mark.parametrize(("n", "least", "expected"), [(100, 26, 10), (30, 26, 10), (27, 26, 27)])
def test_jackknife_blocks_are_balanced_and_leave_enough(n, least, expected):
    blocks = jackknife_blocks(n, least=least)
    sizes = np.bincount(blocks)
    assert sizes.size == expected
    assert sizes.max() - sizes.min() <= 1
    assert n - sizes.max() >= least


def test_jackknife_is_given_up_when_no_row_can_be_spared():
    assert jackknife_blocks(26, least=26) is None


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=40)
    deleted = [np.delete(values, i).mean() for i in range(40)]
    assert standard_error(deleted) == pytest.approx(values.std(ddof=1) / np.sqrt(40))
