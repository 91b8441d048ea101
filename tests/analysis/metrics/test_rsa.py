# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib

import numpy as np
import pytest
import reference
from made_up import EXACT, KINDS, made_up_pair
from scipy import stats

from matteratlas.analysis import metrics
from matteratlas.schemas.errors import MetricError

rsa = importlib.import_module("matteratlas.analysis.metrics.rsa")  # the function has its name


def spans(z, how, distance):
    z = reference.normalise(z, how)
    if distance == "correlation":
        z = z - z.mean(axis=1, keepdims=True)
    if "euclidean" in distance:
        full = reference.distances(z) ** (2 if distance == "sqeuclidean" else 1)
    else:
        z = reference.normalise(z, "l2")
        empty = 0.5 * ~z.any(axis=1)
        # Unit rows: half the squared distance, which 1 - cos equals, but with its small digits.
        full = 0.5 * reference.distances(z) ** 2 + empty + empty[:, None]
    return full[np.triu_indices(len(z), 1)]


def dense(x, y, how, distance, compare):
    a, b = (spans(z, how, distance) for z in (x, y))
    if compare == "cosine":
        return a @ b / np.sqrt((a @ a) * (b @ b))
    if compare == "spearman":
        a, b = (stats.rankdata((z / z.max()).round(11)) for z in (a, b))
    return np.corrcoef(a, b)[0, 1]


@pytest.mark.parametrize("compare", rsa.COMPARES)
@pytest.mark.parametrize("distance", rsa.DISTANCES)
@pytest.mark.parametrize(("kind", "normalise"), EXACT)
def test_equals_full_lists(kind, normalise, distance, compare):
    x, y = made_up_pair(kind)
    if kind == "one_feature" and distance == "correlation":
        assert np.isnan(metrics.rsa(x, y, distance=distance, compare=compare))
        return
    expected = dense(x, y, normalise, distance, compare)
    assert np.isfinite(expected)
    value = metrics.rsa(x, y, distance=distance, compare=compare, normalise=normalise)
    # Angles between whole numbers tie but for rounding, and rounding may order them.
    close = 1e-3 if kind in ("counts", "copies") and compare == "spearman" else 1e-7
    assert value == pytest.approx(expected, abs=close)


def test_rows_of_zeros_are_at_a_right_angle_to_all():
    x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    y = np.arange(10.0).reshape(5, 2) ** 2
    near = 1.0 - np.sqrt(0.5)
    a = np.array([1.0, near, 1.0, 1.0, near, 1.0, 1.0, 1.0, 1.0, 1.0])
    b = spans(y, "none", "cosine")
    expected = np.corrcoef(a, b)[0, 1]
    assert metrics.rsa(x, y, distance="cosine") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_histogram_ranks_keep_to_their_bound(kind, monkeypatch):
    x, y = made_up_pair(kind)
    exact = metrics.rsa(x, y, compare="spearman")
    assert metrics.rank_error_bound(x, y) == 0.0
    monkeypatch.setattr(rsa, "EXACT_ROWS", 10)
    assert metrics.rsa(x, y, compare="spearman") == pytest.approx(exact, abs=2e-5)
    for coarse, fine in ((4, 16), (64, 512)):
        monkeypatch.setattr(rsa, "COARSE", coarse)
        monkeypatch.setattr(rsa, "FINE", fine)
        bound = metrics.rank_error_bound(x, y)
        assert bound > 0.0
        assert abs(metrics.rsa(x, y, compare="spearman") - exact) <= bound + 1e-12


def test_bound_at_scale():
    random = np.random.default_rng(0)
    x = random.normal(size=(2100, 4))
    y = np.tanh(x) + 0.1 * random.normal(size=x.shape)
    found = metrics.rsa(x, y, compare="spearman")
    a, b = (spans(z, "none", "euclidean") for z in (x, y))
    bound = metrics.rank_error_bound(x, y)
    assert abs(found - stats.spearmanr(a, b)[0]) <= bound < 1e-5


def test_cosine_of_unrelated_distances_is_not_near_zero():
    random = np.random.default_rng(1)
    x, y = random.normal(size=(60, 20)), random.normal(size=(60, 20))
    assert metrics.rsa(x, y, compare="cosine") > 0.9
    assert abs(metrics.rsa(x, y)) < 0.2


@pytest.mark.parametrize("compare", ["pearson", "spearman"])
def test_equal_distances_are_undefined(compare):
    y = made_up_pair("plain", n=12)[1]
    assert np.isnan(metrics.rsa(np.eye(12), y, compare=compare))


def test_bad_settings_are_named():
    x, y = made_up_pair("plain")
    with pytest.raises(MetricError, match="distance='cityblock' is not one of euclidean"):
        metrics.rsa(x, y, distance="cityblock")
    with pytest.raises(MetricError, match="compare='tau' is not one of pearson, spearman, cosine"):
        metrics.rsa(x, y, compare="tau")
