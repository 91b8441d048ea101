# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import reference
from made_up import EXACT, made_up_pair

from matteratlas.analysis import metrics


def loops(x, y, k, how):
    back, out = (
        reference.order(reference.distances(reference.normalise(z, how)))[:, :k] for z in (x, y)
    )
    return np.mean([any(i in back[j] for j in out[i]) for i in range(len(back))])


@pytest.mark.parametrize("k", [1, 6, 25])
@pytest.mark.parametrize(("kind", "normalise"), EXACT)
def test_equals_loops(kind, normalise, k):
    x, y = made_up_pair(kind)
    expected = loops(x, y, k, normalise)
    assert metrics.cycle_knn(x, y, k=k, normalise=normalise) == pytest.approx(expected, abs=1e-12)


def test_by_hand_and_the_way_round():
    x = np.array([0.0, 1.0, 3.0, 7.0])  # nearest: 1, 0, 1, 2
    y = np.array([0.0, 7.0, 1.0, 3.0])  # nearest: 2, 3, 0, 2
    # 0 -> 2 -> 1; 1 -> 3 -> 2; 2 -> 0 -> 1; 3 -> 2 -> 1: nobody comes back.
    assert metrics.cycle_knn(x, y, k=1, normalise="none") == 0.0
    # From x's nearest to y's: 0 -> 1 -> 3; 1 -> 0 -> 2; 2 -> 1 -> 3; 3 -> 2 -> 0.
    assert metrics.cycle_knn(y, x, k=1, normalise="none") == 0.0
    # With itself rows 0 and 1 are each other's nearest.
    assert metrics.cycle_knn(x, x, k=1, normalise="none") == 0.5


def test_every_row_comes_back_through_all_others():
    x, y = made_up_pair("plain")
    assert metrics.cycle_knn(x, y, k=len(x) - 1) == 1.0
