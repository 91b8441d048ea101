# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import reference
from made_up import SCALED, made_up_pair
from scipy.spatial.distance import pdist, squareform

from matteratlas.analysis import metrics
from matteratlas.schemas.errors import MetricError


def dense(x, y, how, *, unbiased, width):
    kernels = []
    for z in (x, y):
        spans = squareform(pdist(reference.normalise(z, how)))
        kernels.append(
            np.exp(-(spans**2) / (2 * width(spans[np.triu_indices(len(spans), 1)]) ** 2))
        )
    k, l = kernels  # noqa: E741
    hsic = reference.hsic_unbiased if unbiased else reference.hsic_biased
    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


def middle(spans):
    return np.median(spans) or np.median(spans[spans > 0])


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize(("kind", "normalise"), SCALED)
def test_equals_dense_hsic(kind, normalise, unbiased):
    x, y = made_up_pair(kind)
    expected = dense(x, y, normalise, unbiased=unbiased, width=middle)
    assert np.isfinite(expected)
    assert metrics.rbf_cka(x, y, unbiased=unbiased, normalise=normalise) == pytest.approx(
        expected, abs=1e-8
    )


def test_a_width_of_ones_own():
    x, y = made_up_pair("plain")
    expected = dense(x, y, "none", unbiased=True, width=lambda spans: 1.7)
    assert metrics.rbf_cka(x, y, bandwidth=1.7) == pytest.approx(expected, abs=1e-12)


def test_narrow_kernels_see_only_near_rows_and_wide_ones_are_linear():
    x, y = made_up_pair("plain")
    wide = metrics.rbf_cka(x, y, fraction=1e3)
    assert wide == pytest.approx(metrics.linear_cka(x, y), abs=1e-4)
    assert abs(metrics.rbf_cka(x, y, fraction=0.05)) < 0.2


def test_most_pairs_equal():
    x, y = made_up_pair("plain")
    x = np.where(np.arange(len(x))[:, None] < 60, x[0], x)
    assert np.median(pdist(x)) == 0.0
    expected = dense(x, y, "none", unbiased=True, width=middle)
    assert metrics.rbf_cka(x, y) == pytest.approx(expected, abs=1e-9)


def test_rows_equally_far_apart_are_undefined():
    y = made_up_pair("plain", n=12)[1]
    assert np.isnan(metrics.rbf_cka(np.eye(12), y))
    assert np.isnan(metrics.linear_cka(np.eye(12), y))
    assert np.isnan(metrics.distance_correlation(np.eye(12), y))


def test_bad_settings_are_named():
    x, y = made_up_pair("plain")
    with pytest.raises(MetricError, match="bandwidth=0 is not 'median' or a number above 0"):
        metrics.rbf_cka(x, y, bandwidth=0)
    with pytest.raises(MetricError, match="fraction=nan is not a number above 0"):
        metrics.rbf_cka(x, y, fraction=float("nan"))
