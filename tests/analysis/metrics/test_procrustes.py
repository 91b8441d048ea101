# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import SCALED, made_up_pair
from scipy.linalg import orthogonal_procrustes

from matteratlas.analysis import metrics
from matteratlas.schemas.errors import MetricError


def rotated_distance(x, y, how):
    width = 300
    shapes = []
    for z in (x, y):
        z = reference.normalise(z, how)
        z = np.pad(z - z.mean(axis=0), ((0, 0), (0, width - z.shape[1])))
        shapes.append(z / np.linalg.norm(z))
    turn, _ = orthogonal_procrustes(*shapes)
    return np.linalg.norm(shapes[0] @ turn - shapes[1])


@pytest.mark.parametrize(("kind", "normalise"), SCALED)
def test_equals_the_rotation_found_by_scipy(kind, normalise):
    x, y = made_up_pair(kind)
    expected = rotated_distance(x, y, normalise)
    found = metrics.procrustes(x, y, form="distance", normalise=normalise)
    assert found == pytest.approx(expected, abs=1e-8)
    similarity = metrics.procrustes(x, y, normalise=normalise)
    assert similarity == pytest.approx(1.0 - 0.5 * expected**2, abs=1e-9)
    angle = metrics.procrustes(x, y, form="angle", normalise=normalise)
    assert np.cos(angle) == pytest.approx(similarity, abs=1e-12)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), form=st.sampled_from(["distance", "angle"]))
def test_triangle_inequality(seed, form):
    random = np.random.default_rng(seed)
    a, b, c = (random.normal(size=(15, random.integers(1, 30))) for _ in range(3))
    direct = metrics.procrustes(a, c, form=form)
    around = metrics.procrustes(a, b, form=form) + metrics.procrustes(b, c, form=form)
    assert direct <= around + 1e-9


def test_unknown_form_is_named():
    x, y = made_up_pair("plain")
    with pytest.raises(MetricError, match="form='squared' is not one of similarity"):
        metrics.procrustes(x, y, form="squared")
