# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score

from matteratlas.analysis.evidence import readout
from matteratlas.analysis.evidence.readout import cross_read, explained, group_folds, ranked, tamed


def cloud(n: int, d: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) * np.linspace(0.3, 3.0, d)


def score(y: np.ndarray, guess: np.ndarray) -> float:
    return float(explained(y, guess, np.ones((1, len(y))))[0])


@given(st.integers(1, 60), st.integers(0, 9), st.integers(20, 120))
@settings(max_examples=30, deadline=None)
def test_groups_stay_in_one_fold_and_folds_are_alike(groups: int, seed: int, n: int) -> None:
    codes = np.random.default_rng(seed).integers(0, groups, n)
    folds = group_folds(codes, seed=seed)
    assert all(len(set(folds[codes == g])) == 1 for g in codes)
    assert folds.max() < readout.FOLDS
    sizes = np.bincount(folds, minlength=readout.FOLDS)
    assert sizes.max() - sizes.min() <= np.bincount(codes).max()
    assert np.array_equal(folds, group_folds(codes, seed=seed))


def test_a_linear_cue_is_read_and_noise_is_not() -> None:
    x = cloud(300, 40, 0)
    random = np.random.default_rng(1)
    y = np.hstack([x @ random.normal(size=(40, 3)), random.normal(size=(300, 3))])
    read = cross_read(x, y, group_folds(np.arange(300), seed=0)).own
    assert score(y[:, :3], read[:, :3]) > 0.999
    assert score(y[:, 3:], read[:, 3:]) < 0.03


def test_more_features_than_rows_and_equal_columns_do_no_harm() -> None:
    x = cloud(60, 8, 2)
    wide = np.hstack([x, x, np.zeros((60, 5)), 1e-3 * cloud(60, 200, 3)])
    y = x[:, :1] - x[:, 3:4]
    folds = group_folds(np.arange(60), seed=0)
    narrow = readout.narrowed(wide)
    assert narrow.shape == (60, 60)
    read = cross_read(narrow, y, folds).own
    assert read == pytest.approx(cross_read(wide, y, folds).own, abs=1e-5)
    assert score(y, read) > 0.95


def test_each_penalty_is_ridge_regression() -> None:
    x, random = cloud(80, 12, 4), np.random.default_rng(5)
    y = x @ random.normal(size=(12, 2)) + random.normal(size=(80, 2))
    for penalty, fit in zip(
        readout.RIDGE, readout._fits(x, y, readout.RIDGE, classify=False), strict=True
    ):
        centred = x - x.mean(axis=0)
        scale = np.sqrt((centred**2).sum() / len(x))
        theirs = Ridge(alpha=penalty * len(x)).fit(centred / scale, y)
        assert fit.read(x) == pytest.approx(theirs.predict(centred / scale), abs=1e-6)


def test_logistic_readouts_converge_to_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    x, random = cloud(200, 6, 6), np.random.default_rng(7)
    y = (x @ random.normal(size=(6, 3)) + random.logistic(size=(200, 3)) > 1.0).astype(float)
    monkeypatch.setattr(readout, "STEPS", 400)
    penalty = 1e-3
    (fit,) = readout._fits(x, y, (penalty,), classify=True)
    centred = x - x.mean(axis=0)
    z = centred / np.sqrt((centred**2).sum() / len(x))
    for column in range(3):
        theirs = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=5000)
        theirs.fit(z, y[:, column])
        assert fit.read(x)[:, column] == pytest.approx(theirs.decision_function(z), abs=1e-3)


def test_stopping_early_ranks_nearly_as_well() -> None:
    x, random = cloud(300, 20, 8), np.random.default_rng(9)
    y = (x @ random.normal(size=(20, 2)) > 1.0).astype(float)
    folds = group_folds(np.arange(300), seed=0)
    read = cross_read(x, y, folds, classify=True).own
    assert min(roc_auc_score(y[:, c], read[:, c]) for c in range(2)) > 0.95
    shuffled = random.permutation(y)
    noise = cross_read(x, shuffled, folds, classify=True).own
    assert abs(np.mean([roc_auc_score(shuffled[:, c], noise[:, c]) for c in range(2)]) - 0.5) < 0.1


@given(st.integers(0, 99), st.floats(0.01, 100.0))
@settings(max_examples=15, deadline=None)
def test_turned_scaled_and_shifted_spaces_read_the_same(seed: int, scale: float) -> None:
    x = cloud(60, 7, seed)
    random = np.random.default_rng(seed)
    y = np.hstack([x[:, :1] * x[:, 1:2], x[:, 2:3]])
    labels = (y > 0).astype(float)
    turn = np.linalg.qr(random.normal(size=(7, 7)))[0]
    moved = scale * (x @ turn) + random.normal(size=7)
    folds = group_folds(np.arange(60), seed=seed)
    for values, classify in ((y, False), (labels, True)):
        one = cross_read(tamed(x)[0], values, folds, classify=classify).own
        two = cross_read(tamed(moved)[0], values, folds, classify=classify).own
        assert one == pytest.approx(two, abs=1e-4)


def test_copies_of_a_formula_do_not_leak() -> None:
    """Rows that are near copies and share a random target: read by row, nothing by group."""
    random = np.random.default_rng(10)
    groups = np.repeat(np.arange(40), 6)
    x = random.normal(size=(40, 30))[groups] + 0.01 * random.normal(size=(240, 30))
    y = random.normal(size=(40, 1))[groups]
    leaky = cross_read(x, y, group_folds(np.arange(240), seed=0)).own
    honest = cross_read(x, y, group_folds(groups, seed=0)).own
    assert score(y, leaky) > 0.4 and score(y, honest) < 0.1


def test_other_rows_are_read_by_their_folds_map() -> None:
    x, random = cloud(100, 5, 11), np.random.default_rng(12)
    y = x @ random.normal(size=(5, 1)) + 0.1 * random.normal(size=(100, 1))
    folds = group_folds(np.arange(100), seed=0)
    read = cross_read(x, y, folds, other=x, other_folds=folds)
    assert read.other == pytest.approx(read.own)


def test_an_outlier_does_not_hide_the_rest() -> None:
    x = cloud(200, 10, 13)
    y = x[:, :1].copy()
    x[7] *= 1e4
    folds = group_folds(np.arange(200), seed=0)
    assert score(y, cross_read(tamed(x)[0], y, folds).own) > 0.9
    assert np.linalg.norm(tamed(x)[0], axis=1).max() == pytest.approx(readout.REACH)


def test_other_clouds_are_tamed_around_their_own_middle_and_keep_their_place() -> None:
    x = cloud(50, 4, 14)
    first, again, far = tamed(x, x, x + 1e3)
    assert np.array_equal(first, again)
    shift = far - first
    assert shift == pytest.approx(np.broadcast_to(shift[0], shift.shape), rel=1e-6)
    assert np.median(np.linalg.norm(first, axis=1)) == pytest.approx(1.0, abs=0.01)


def test_scores_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(15)
    y, guess = random.normal(size=(90, 1)), random.normal(size=(90, 1))
    guess += y
    groups = random.integers(0, 30, 90)
    weights = readout.bootstrap_weights(groups, seed=0)
    found = explained(y, guess, weights)
    assert found[0] == pytest.approx(np.corrcoef(y[:, 0], guess[:, 0])[0, 1] ** 2)
    for draw in (1, 77):
        rows = np.repeat(np.arange(90), weights[draw].astype(int))
        assert found[draw] == pytest.approx(np.corrcoef(y[rows, 0], guess[rows, 0])[0, 1] ** 2)
    assert readout.determined(y, guess) == pytest.approx(max(0.0, r2_score(y, guess)))
    labels, coarse = (y > 0).astype(float), np.round(guess)  # with ties
    area = ranked(labels, coarse, weights)
    assert area[0] == pytest.approx(2 * roc_auc_score(labels[:, 0], coarse[:, 0]) - 1)
    rows = np.repeat(np.arange(90), weights[5].astype(int))
    assert area[5] == pytest.approx(2 * roc_auc_score(labels[rows, 0], coarse[rows, 0]) - 1)
    assert ranked(labels, -coarse, weights)[0] == 0.0


def test_a_constant_reading_explains_nothing() -> None:
    y = np.random.default_rng(16).normal(size=(30, 1))
    assert score(y, np.ones((30, 1))) == 0.0
    assert np.isnan(score(np.ones((30, 1)), y))


def test_draws_take_whole_groups() -> None:
    groups = np.array([0, 0, 1, 2, 2, 2])
    weights = readout.bootstrap_weights(groups, seed=3, draws=50)
    assert weights.shape == (51, 6) and (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()


def test_errors_cover_what_new_samples_show() -> None:
    """Standard errors of a score against its spread over fresh samples."""
    scores, errors = [], []
    for seed in range(40):
        x, random = cloud(80, 6, seed), np.random.default_rng(1000 + seed)
        y = x @ np.ones((6, 1)) + 6.0 * random.normal(size=(80, 1))
        folds = group_folds(np.arange(80), seed=seed)
        weights = readout.bootstrap_weights(np.arange(80), seed=seed)
        draws = explained(y, cross_read(x, y, folds).own, weights)
        scores.append(draws[0])
        errors.append(readout.error_of(draws))
    assert 0.8 < np.mean(errors) / np.std(scores) < 2.0
