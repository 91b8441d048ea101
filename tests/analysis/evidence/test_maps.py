# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge

from matteratlas.analysis.evidence import maps
from matteratlas.schemas.errors import MetricError


def turned(rows: np.ndarray, seed: int, *, scale: float = 3.0) -> np.ndarray:
    """The rows, turned, scaled and shifted."""
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(random.normal(size=(rows.shape[1],) * 2))[0]
    return scale * rows @ rotation + random.normal(size=rows.shape[1])


def halves(n: int) -> np.ndarray:
    return np.arange(n) % 2 == 0


def r2(predicted: np.ndarray, truth: np.ndarray) -> float:
    return 1.0 - ((predicted - truth) ** 2).sum() / ((truth - truth.mean(axis=0)) ** 2).sum()


def test_a_standard_space_has_variance_one_in_all_and_keeps_its_shape() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3)) * [1.0, 10.0, 0.1] + 5.0
    standard = maps.Standard.of(rows)
    made = standard(rows)
    assert made.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-12)
    assert made.var(axis=0).sum() == pytest.approx(1.0)
    assert np.std(made, axis=0) / np.std(rows, axis=0) == pytest.approx([1 / standard.scale] * 3)
    assert maps.Standard.of(np.ones((4, 2)))(np.ones((4, 2))).any() == 0


def test_a_linear_map_is_ridge_regression_of_the_strength_it_says() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(60, 8)) * np.linspace(0.2, 3.0, 8)
    y = x @ random.normal(size=(8, 5)) + 2.0 * random.normal(size=(60, 5))
    found = maps.linear_map(x[:40], y[:40], halves(40))
    source, target = maps.Standard.of(x[:40]), maps.Standard.of(y[:40])
    ridge = Ridge(alpha=40 * found.strength).fit(source(x[:40]), target(y[:40]))
    assert found(x[40:]) == pytest.approx(ridge.predict(source(x[40:])), abs=1e-9)


def test_the_strength_is_the_best_of_two_fold_cross_validation() -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(50, 30))
    y = x[:, :2] + 1.5 * random.normal(size=(50, 2))
    half = halves(50)
    found = maps.linear_map(x, y, half)

    def loss(strength: float) -> float:
        total = 0.0
        for fold in (half, ~half):
            standard = maps.Standard.of(x[fold])
            ridge = Ridge(alpha=fold.sum() * strength).fit(standard(x[fold]), y[fold])
            total += ((ridge.predict(standard(x[~fold])) - y[~fold]) ** 2).sum()
        return total

    losses = {s: loss(s) for s in maps.STRENGTHS}
    assert found.strength == min(losses, key=losses.__getitem__)
    assert found.strength > 1e-4  # noise asks for more than the least


def test_exact_maps_are_found_and_halves_must_be_two() -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(80, 6))
    y = x @ random.normal(size=(6, 9))
    found = maps.linear_map(x[:60], y[:60], halves(60))
    assert r2(found(x[60:]), found.target(y[60:])) > 1 - 1e-9
    with pytest.raises(MetricError, match="two each needed"):
        maps.linear_map(x, y, np.zeros(80, bool))


def test_more_features_than_rows_and_collapsed_features_are_no_harm() -> None:
    random = np.random.default_rng(4)
    latent = random.normal(size=(60, 3))
    x = np.concatenate([latent @ random.normal(size=(3, 200)), np.ones((60, 5))], axis=1)
    y = latent @ random.normal(size=(3, 4))
    found = maps.linear_map(x[:40], y[:40], halves(40))
    assert np.isfinite(found.weights).all()
    assert r2(found(x[40:]), found.target(y[40:])) > 1 - 1e-6


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_maps_are_the_same_for_every_rotation_and_scale_of_the_source(seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(50, 7)) * random.uniform(0.1, 4.0, 7)
    y = np.tanh(x @ random.normal(size=(7, 4))) + 0.3 * random.normal(size=(50, 4))
    plain = maps.linear_map(x[:35], y[:35], halves(35))
    moved = turned(x, seed + 1)
    other = maps.linear_map(moved[:35], y[:35], halves(35))
    assert other.strength == plain.strength
    assert other(moved[35:]) == pytest.approx(plain(x[35:]), abs=1e-6)
    first = maps.rotation_map(maps.Factors(x[:35]), maps.Factors(y[:35]))[0]
    second = maps.rotation_map(maps.Factors(moved[:35]), maps.Factors(y[:35]))[0]
    assert second(moved[35:]) == pytest.approx(first(x[35:]), abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_a_turned_copy_is_found_by_rotation_there_and_back(seed: int, width: int) -> None:
    x = np.random.default_rng(seed).normal(size=(60, width))
    y = np.concatenate([turned(x, seed), np.zeros((60, 3))], axis=1)
    there, back = maps.rotation_map(maps.Factors(x[:40]), maps.Factors(y[:40]))
    assert r2(there(x[40:]), there.target(y[40:])) > 1 - 1e-9
    assert r2(back(y[40:]), back.target(x[40:])) > 1 - 1e-9


def test_a_rotation_does_not_stretch_single_directions() -> None:
    random = np.random.default_rng(5)
    x = random.normal(size=(90, 4))
    y = x * [1.0, 5.0, 0.2, 1.0]
    linear = maps.linear_map(x[:60], y[:60], halves(60))
    rotation = maps.rotation_map(maps.Factors(x[:60]), maps.Factors(y[:60]))[0]
    assert r2(linear(x[60:]), linear.target(y[60:])) > 0.999
    assert r2(rotation(x[60:]), rotation.target(y[60:])) < 0.9


def test_local_maps_are_ridge_around_each_row_and_follow_a_curve() -> None:
    random = np.random.default_rng(6)
    angle = random.uniform(0, 2 * np.pi, 400)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    y = np.stack([np.sin(3 * angle), np.cos(2 * angle)], axis=1)
    local = maps.local_weights(x[:300], x[300:])
    linear = maps.linear_map(x[:300], y[:300], halves(300))
    assert r2(local(y[:300]), y[300:]) > 0.98
    assert r2(linear(x[300:]), linear.target(y[300:])) < 0.2
    # One row by an independent implementation.
    near = np.argsort(((x[:300] - x[300]) ** 2).sum(axis=1))[: maps.LOCAL_ROWS]
    middle = x[near].mean(axis=0)
    strength = maps.LOCAL_STRENGTH * ((x[near] - middle) ** 2).sum()
    ridge = Ridge(alpha=strength).fit(x[near] - middle, y[near])
    assert local(y[:300])[0] == pytest.approx(ridge.predict((x[300] - middle)[None])[0], abs=1e-9)
    weak = LinearRegression().fit(x[near], y[near]).predict(x[300][None])[0]
    assert local(y[:300])[0] == pytest.approx(weak, abs=0.2)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
def test_relative_representations_know_no_rotation_shift_or_scale(seed: int, scale: float) -> None:
    x = np.random.default_rng(seed).normal(size=(40, 6))
    y = turned(x, seed, scale=scale)
    plain = maps.relative(x, x[:10])
    assert plain.shape == (40, 10)
    assert np.abs(plain).max() <= 1 + 1e-12
    assert maps.relative(y, y[:10]) == pytest.approx(plain, abs=1e-8)
    assert np.diag(plain[:10]) == pytest.approx(np.ones(10))


def test_anchors_are_spread_over_groups_and_hang_on_nothing_but_ids() -> None:
    ids = [f"id{i}" for i in range(60)]
    groups = ["frames"] * 40 + [f"g{i}" for i in range(20)]
    chosen = maps.choose_anchors(ids, groups, count=21)
    assert sorted(groups[i] for i in chosen) == sorted({*groups})
    again = maps.choose_anchors(ids[::-1], groups[::-1], count=21)
    assert {ids[i] for i in chosen} == {ids[::-1][i] for i in again}
    assert len(maps.choose_anchors(ids, groups, count=200)) == 60
    assert set(chosen) != set(maps.choose_anchors(ids, groups, count=21, seed=1))
