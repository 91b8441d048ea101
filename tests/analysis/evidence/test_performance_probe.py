# SPDX-License-Identifier: Apache-2.0
"""Linear reading of a target off embeddings: finds what is there, and only that."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold

from matteratlas.analysis.evidence import energy_probe
from matteratlas.analysis.evidence.energy_probe import (
    FOLDS,
    PENALTIES,
    enough_groups,
    probe_predictions,
)


def planted(n: int, d: int, *, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d)) * np.exp(random.normal(size=d)) + 5.0
    y = x @ random.normal(size=d) / np.sqrt(d)
    return x, (y - y.mean()) / y.std() + noise * random.normal(size=n)


@pytest.mark.parametrize("d", [8, 400])
def test_a_planted_signal_is_read(d: int) -> None:
    random = np.random.default_rng(1)
    latent, y = planted(200, 8, noise=0.02)
    x = latent if d == 8 else latent @ random.normal(size=(8, d))
    error = np.abs(probe_predictions(x, y, np.arange(200) // 2) - y).mean()
    assert error < 0.05 * np.abs(y - y.mean()).mean()


@pytest.mark.parametrize("d", [16, 300])
def test_noise_is_no_better_and_little_worse_than_nothing(d: int) -> None:
    random = np.random.default_rng(2)
    x, y = random.normal(size=(200, d)), random.normal(size=200)
    ratio = np.abs(probe_predictions(x, y, np.arange(200)) - y).mean() / np.abs(y).mean()
    assert 0.95 < ratio < 1.15


@pytest.mark.parametrize("d", [10, 150])
def test_nested_folds_are_those_of_a_plain_loop(d: int) -> None:
    """The same by scikit-learn's ridge, one fit a fold and penalty."""
    x, y = planted(90, d, noise=0.5, seed=3)
    groups = np.arange(90) // 3
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    folds = [test for _, test in GroupKFold(FOLDS).split(z, groups=groups)]

    def fitted(out: np.ndarray, at: np.ndarray) -> np.ndarray:
        train = np.setdiff1d(np.arange(90), out)
        centred = z[train] - z[train].mean(axis=0)
        scale = np.square(centred).sum() / min(d, len(train) if d > 90 else d)
        models = [Ridge(alpha=p * scale, solver="svd").fit(z[train], y[train]) for p in PENALTIES]
        return np.array([m.predict(z[at]) for m in models])

    expected = np.empty(90)
    for i, rows in enumerate(folds):
        loss = sum(
            np.square(fitted(np.r_[rows, other], other) - y[other]).sum(axis=1)
            for j, other in enumerate(folds)
            if j != i
        )
        expected[rows] = fitted(rows, rows)[int(np.argmin(loss))]
    np.testing.assert_allclose(probe_predictions(x, y, groups), expected, atol=1e-5)


def test_a_groups_own_targets_are_never_seen() -> None:
    x, y = planted(100, 6, noise=0.1)
    groups = np.arange(100) // 5
    before = probe_predictions(x, y, groups)
    fold = next(iter(GroupKFold(FOLDS).split(x, groups=groups)))[1]
    changed = y.copy()
    changed[fold] += 100.0
    np.testing.assert_allclose(probe_predictions(x, changed, groups)[fold], before[fold])


def test_features_that_do_not_vary_are_no_features() -> None:
    random = np.random.default_rng(0)
    y = random.normal(size=60)
    same = np.full((60, 12), 1e4) + 1e-4 * random.normal(size=(60, 12))
    read = probe_predictions(same.astype(np.float32), y, np.arange(60))
    assert len(np.unique(read.round(12))) <= FOLDS  # the mean of the other folds
    assert energy_probe._scaled(same).shape == (60, 0)


def test_one_group_of_most_rows_is_not_probed() -> None:
    assert enough_groups(np.arange(20) // 4)
    assert enough_groups([0] * 8 + [1, 2, 3, 4] * 2)
    assert not enough_groups([0] * 9 + [1, 2, 3, 4] * 2)
    assert not enough_groups(np.arange(20) // 5)
