# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from made_up import KINDS, made_up_pair

from matteratlas.analysis import local, metrics
from matteratlas.schemas.errors import MetricError


@pytest.mark.parametrize("normalise", ["l2", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_means_are_the_metrics(kind, normalise):
    x, y = made_up_pair(kind)
    rows = metrics.local_knn_agreement(x, y, k=8, normalise=normalise)
    assert rows.shape == (70,)
    assert rows.mean() == pytest.approx(
        metrics.mutual_knn(x, y, k=8, normalise=normalise), abs=1e-12
    )
    assert ((rows >= 0) & (rows <= 1)).all()
    ranks = metrics.local_knn_agreement(x, y, k=8, measure="rank", normalise=normalise)
    both = metrics.information_imbalance(x, y, k=8, normalise=normalise)
    assert ranks.mean() == pytest.approx(1.0 - np.mean(both), abs=1e-12)


def test_of_two_models_it_is_the_local_agreement_of_a_study():
    x, y = made_up_pair("plain")
    expected, pairs = local.local_agreement({"x": x, "y": y}, k=8)
    assert pairs == 1
    assert metrics.local_knn_agreement(x, y, k=8) == pytest.approx(expected, abs=1e-12)


def test_ranks_tell_near_misses_from_far_ones():
    x = np.arange(40.0) ** 1.1
    near, far = x.copy(), x.copy()
    near[[0, 3]] = near[[3, 0]]
    far[[0, 39]] = far[[39, 0]]
    options = {"k": 2, "measure": "rank", "normalise": "none"}
    agree = [metrics.local_knn_agreement(x, y, **options)[0] for y in (x, near, far)]
    assert agree[0] == pytest.approx(1.0 - 3.0 / 40)
    assert agree[0] > agree[1] > agree[2] + 0.5


def test_row_order_moves_the_rows_only():
    x, y = made_up_pair("plain")
    order = np.random.default_rng(0).permutation(70)
    for measure in ("overlap", "rank"):
        rows = metrics.local_knn_agreement(x, y, k=5, measure=measure)
        moved = metrics.local_knn_agreement(x[order], y[order], k=5, measure=measure)
        assert moved == pytest.approx(rows[order], abs=1e-12)


def test_unknown_measure_is_named():
    x, y = made_up_pair("plain")
    with pytest.raises(MetricError, match="measure='kendall' is not one of overlap, rank"):
        metrics.local_knn_agreement(x, y, measure="kendall")
