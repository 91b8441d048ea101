# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import reference
from made_up import made_up_pair

from matteratlas.analysis import metrics
from matteratlas.schemas.errors import MetricError


@pytest.mark.parametrize("kind", ["plain", "wide", "offset", "copies"])
@pytest.mark.parametrize("normalise", ["l2", "max", "none"])
def test_equals_loops(kind, normalise):
    x, y = made_up_pair(kind)
    a, b = (reference.normalise(z, normalise) for z in (x, y))
    own, other, both = (reference.twonn(z) for z in (a, b, np.hstack([a, b])))
    found = metrics.idcor(x, y, normalise=normalise)
    assert found[2:] == pytest.approx((own, other, both), rel=1e-6)
    assert found.value == pytest.approx((own + other - both) / max(own, other), abs=1e-6)
    assert np.isnan(found.p_value)


def test_maximum_likelihood():
    x, y = made_up_pair("plain")
    a, b = (reference.normalise(z, "l2") for z in (x, y))
    own, other, both = (reference.mle(z, 20) for z in (a, b, np.hstack([a, b])))
    found = metrics.idcor(x, y, method="mle", k=20)
    assert found.value == pytest.approx((own + other - both) / max(own, other), abs=1e-9)


def test_standardised_as_later_code_does():
    x, y = made_up_pair("plain")
    x = np.hstack([x, np.full((70, 1), 3.0)])  # a feature without variance is left at 0
    scaled = [(z - z.mean(axis=0)) / z.std(axis=0, ddof=1) for z in (x[:, :-1], y)]
    expected = metrics.idcor(*scaled)
    assert metrics.idcor(x, y, standardise=True) == pytest.approx(expected, nan_ok=True, abs=1e-9)


def test_shared_directions_are_counted_once():
    """A cylinder: x and z lie on a circle, so that of two directions one is shared."""
    random = np.random.default_rng(0)
    angle, height = random.uniform(0, 2 * np.pi, 2000), random.uniform(-1, 1, 2000)
    x, z = np.cos(angle), np.sin(angle)
    both = metrics.idcor(np.stack([x, height], axis=1), z, normalise="none", permutations=19)
    assert both.dimension_both == pytest.approx(2.0, abs=0.2)
    assert both.value == pytest.approx(0.5, abs=0.12)
    assert both.p_value == 1 / 20
    none = metrics.idcor(np.stack([x, z], axis=1), height, normalise="none", permutations=19)
    assert none.value == pytest.approx(0.0, abs=0.12)
    assert none.p_value > 0.05


def test_p_values_of_unrelated_embeddings_are_uniform():
    random = np.random.default_rng(1)
    values = [
        metrics.idcor(
            random.normal(size=(40, 3)), random.normal(size=(40, 3)), permutations=9, seed=seed
        ).p_value
        for seed in range(100)
    ]
    assert np.mean(np.array(values) <= 0.1) == pytest.approx(0.1, abs=0.09)
    assert np.mean(values) == pytest.approx(0.55, abs=0.1)
    again = metrics.idcor(*made_up_pair("plain"), permutations=9, seed=3)
    assert again == metrics.idcor(*made_up_pair("plain"), permutations=9, seed=3)


def test_undefined_and_refused():
    x, y = made_up_pair("plain")
    nothing = metrics.idcor(x, np.ones((70, 2)), permutations=5)
    assert np.isnan(nothing.value)
    assert np.isnan(nothing.p_value)
    with pytest.raises(MetricError, match="permutations=-1 is not a whole number of at least 0"):
        metrics.idcor(x, y, permutations=-1)
