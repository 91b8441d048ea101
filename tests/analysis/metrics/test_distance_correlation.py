# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import reference
from made_up import SCALED, made_up_pair

from matteratlas.analysis import metrics
from matteratlas.schemas.errors import MetricError


@pytest.mark.parametrize("estimator", ["u", "v"])
@pytest.mark.parametrize(("kind", "normalise"), SCALED)
def test_equals_centred_matrices(kind, normalise, estimator):
    x, y = (reference.normalise(z, normalise) for z in made_up_pair(kind))
    expected = reference.distance_correlation_squared(x, y, estimator)
    value = metrics.distance_correlation(
        *made_up_pair(kind), estimator=estimator, normalise=normalise
    )
    assert np.isfinite(expected)
    assert value == pytest.approx(expected, abs=1e-8)


def test_equals_dcor(golden):
    x, y, values = golden.x, golden.y, golden.values
    assert metrics.distance_correlation(x, y) == pytest.approx(
        values["dcor_u_distance_correlation_sqr"], abs=1e-6
    )
    assert metrics.distance_correlation(x, y, estimator="v") == pytest.approx(
        values["dcor_distance_correlation_sqr"], abs=1e-6
    )
    assert metrics.distance_correlation(x, y, estimator="v", squared=False) == pytest.approx(
        values["dcor_distance_correlation"], abs=1e-6
    )


def test_root_keeps_the_sign():
    random = np.random.default_rng(1)
    seen = set()
    for _ in range(20):
        x, y = random.normal(size=(25, 30)), random.normal(size=(25, 30))
        square = metrics.distance_correlation(x, y)
        root = metrics.distance_correlation(x, y, squared=False)
        assert root == pytest.approx(np.sign(square) * np.sqrt(abs(square)), abs=1e-12)
        seen.add(bool(square < 0))
    assert seen == {True, False}


def test_unknown_estimator_is_named():
    x, y = made_up_pair("plain")
    with pytest.raises(MetricError, match="estimator='w' is not one of u, v"):
        metrics.distance_correlation(x, y, estimator="w")
