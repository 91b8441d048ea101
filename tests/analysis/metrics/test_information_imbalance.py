# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import reference
from made_up import EXACT, made_up_pair

from matteratlas.analysis import metrics


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize(("kind", "normalise"), EXACT)
def test_equals_sorted_ranks(kind, normalise, k):
    x, y = made_up_pair(kind)
    forth, back = metrics.information_imbalance(x, y, k=k, normalise=normalise)
    assert forth == pytest.approx(reference.imbalance(x, y, k, normalise), abs=1e-12)
    assert back == pytest.approx(reference.imbalance(y, x, k, normalise), abs=1e-12)


@pytest.mark.parametrize("k", [1, 5])
def test_equals_dadapy(golden, k):
    expected = golden.values["dadapy_information_imbalance"][f"k{k}"]
    assert metrics.information_imbalance(golden.x, golden.y, k=k) == pytest.approx(
        expected, abs=1e-6
    )


def test_more_tells_about_less_but_not_back():
    random = np.random.default_rng(4)
    whole = random.normal(size=(300, 6))
    forth, back = metrics.information_imbalance(whole, whole[:, :2])
    assert forth < 0.6 < back


def test_self_is_the_smallest_value_and_unrelated_is_one():
    random = np.random.default_rng(5)
    x = random.normal(size=(200, 5))
    for k in (1, 4):
        assert metrics.information_imbalance(x, 3.0 * x + 1.0, k=k) == pytest.approx(
            ((k + 1) / 200, (k + 1) / 200), abs=1e-12
        )
    values = [metrics.information_imbalance(x, random.normal(size=(200, 5))) for _ in range(30)]
    assert np.mean(values) == pytest.approx(1.0, abs=0.03)
