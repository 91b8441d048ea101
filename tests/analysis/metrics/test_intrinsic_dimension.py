# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import reference
from made_up import KINDS, made_up_pair

from matteratlas.analysis import metrics
from matteratlas.schemas.errors import MetricError


@pytest.mark.parametrize("kind", KINDS)
def test_equals_loops(kind):
    for x in made_up_pair(kind):
        assert metrics.intrinsic_dimension(x) == pytest.approx(reference.twonn(x), rel=1e-6)
        distinct = len(reference.distinct_rows(x))
        k = min(20, distinct - 1)
        assert metrics.intrinsic_dimension(x, method="mle", k=k) == pytest.approx(
            reference.mle(x, k), rel=1e-6
        )


@pytest.mark.parametrize("side", ["x", "y"])
def test_equals_dadapy_and_scikit_dimension(golden, side):
    x, values = getattr(golden, side), golden.values[f"dimension_{side}"]
    assert metrics.intrinsic_dimension(x) == pytest.approx(values["dadapy_2nn"], rel=1e-6)
    assert metrics.intrinsic_dimension(x) == pytest.approx(values["skdim_twonn"], rel=1e-6)
    assert metrics.intrinsic_dimension(x, fraction=0.7) == pytest.approx(
        values["dadapy_2nn_fraction_0.7"], rel=1e-6
    )
    for k in (20, 50):
        assert metrics.intrinsic_dimension(x, method="mle", k=k) == pytest.approx(
            values[f"skdim_mle_k{k}"], rel=1e-6
        )


def test_finds_the_dimension_of_a_flat_sheet():
    random = np.random.default_rng(0)
    sheet = random.uniform(size=(1500, 3)) @ random.normal(size=(3, 40))
    assert metrics.intrinsic_dimension(sheet) == pytest.approx(3.0, abs=0.3)
    assert metrics.intrinsic_dimension(sheet, method="mle", k=20) == pytest.approx(3.0, abs=0.4)


def test_copies_of_rows_count_once():
    x, _ = made_up_pair("plain")
    again = np.concatenate([x, x[:30], x[:5]])
    for method, k in (("twonn", 2), ("mle", 12)):
        assert metrics.intrinsic_dimension(again, method=method, k=k) == pytest.approx(
            metrics.intrinsic_dimension(x, method=method, k=k), rel=1e-9
        )


def test_undefined_geometry_is_nan():
    few = np.repeat(np.eye(3), 5, axis=0)
    assert np.isnan(metrics.intrinsic_dimension(few))
    assert np.isnan(metrics.intrinsic_dimension(np.eye(6)))  # all distances equal


def test_bad_settings_are_named():
    x, _ = made_up_pair("plain")
    with pytest.raises(MetricError, match="method='pca' is not one of twonn, mle"):
        metrics.intrinsic_dimension(x, method="pca")
    with pytest.raises(MetricError, match=r"fraction=1\.0 is not between 0 and 1"):
        metrics.intrinsic_dimension(x, fraction=1.0)
    with pytest.raises(MetricError, match="k=70 needs more than 70 rows"):
        metrics.intrinsic_dimension(x, method="mle", k=70)
