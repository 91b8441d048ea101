# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import reference
from made_up import SCALED, made_up_pair

from matteratlas.analysis import metrics
from matteratlas.schemas.errors import MetricError


def dense(x, y, how, keep):
    """Canonical correlations as eigenvalues of a product of two projections, n x n."""
    shadows, counts = [], []
    for z in (x, y):
        z = reference.normalise(z, how)
        z = z - z.mean(axis=0)
        values, vectors = np.linalg.eigh(z @ z.T)
        values, vectors = values[::-1], vectors[:, ::-1]
        count = next(i for i in range(1, len(z)) if values[:i].sum() >= keep * values.sum())
        shadows.append(vectors[:, :count] @ vectors[:, :count].T)
        counts.append(count)
    squares = np.linalg.eigvals(shadows[0] @ shadows[1]).real
    top = np.sort(squares)[::-1][: min(counts)]
    return float(np.sqrt(np.clip(top, 0.0, 1.0)).mean())


@pytest.mark.parametrize("keep", [0.99, 0.7])
@pytest.mark.parametrize(("kind", "normalise"), SCALED)
def test_equals_projections(kind, normalise, keep):
    x, y = made_up_pair(kind)
    value = metrics.svcca(x, y, keep=keep, normalise=normalise)
    assert value == pytest.approx(dense(x, y, normalise, keep), abs=1e-6)


def test_plain_cca_is_blind_to_invertible_maps():
    x, y = made_up_pair("plain")
    random = np.random.default_rng(0)
    mapped = x @ random.normal(size=(12, 12))
    assert metrics.svcca(mapped, y, keep=1.0) == pytest.approx(
        metrics.svcca(x, y, keep=1.0), abs=1e-9
    )
    assert metrics.svcca(mapped, x, keep=1.0) == pytest.approx(1.0, abs=1e-9)
    assert metrics.svcca(mapped, x, keep=0.9) < 0.99


def test_one_feature_is_the_size_of_the_correlation():
    x, y = made_up_pair("one_feature")
    expected = abs(np.corrcoef(np.ravel(x), np.ravel(y))[0, 1])
    assert metrics.svcca(x, y) == pytest.approx(expected, abs=1e-12)


def test_as_many_directions_as_rows_always_agree():
    random = np.random.default_rng(1)
    x, y = random.normal(size=(20, 300)), random.normal(size=(20, 300))
    assert metrics.svcca(x, y, keep=1.0) == pytest.approx(1.0, abs=1e-9)


def test_bad_share_is_named():
    x, y = made_up_pair("plain")
    for keep in (0.0, 1.5):
        with pytest.raises(MetricError, match=f"keep={keep} is not a share in"):
            metrics.svcca(x, y, keep=keep)
