# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import reference
from made_up import EXACT, made_up_pair

from matteratlas.analysis import metrics
from matteratlas.analysis.blocks import Space, normalise_rows
from matteratlas.analysis.neighbours import nearest

XLISTS = [[1, 2], [0, 2], [0, 1], [0, 1], [5, 6], [4, 6], [4, 5], [4, 5]]


@pytest.mark.parametrize(("kind", "normalise"), EXACT)
@pytest.mark.parametrize("k", [1, 6, 25])
def test_equals_masks(kind, normalise, k):
    x, y = made_up_pair(kind)
    expected = reference.mutual_knn(x, y, k, normalise)
    assert 0.0 < expected < 1.0 or k == 1
    assert metrics.mutual_knn(x, y, k=k, normalise=normalise) == pytest.approx(expected, abs=1e-12)


def test_expectation_of_unrelated_embeddings():
    random = np.random.default_rng(0)
    n, k = 200, 10
    values = [
        metrics.mutual_knn(random.normal(size=(n, 6)), random.normal(size=(n, 9)), k=k)
        for _ in range(40)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert np.mean(values) == pytest.approx(k / (n - 1), abs=4 * error)
    assert error < 0.1 * k / (n - 1)


def test_ties_go_to_the_lower_index():
    # Rows 0-3 coincide, rows 4-7 coincide: with k = 2 row 3 takes 0 and 1, row 0 takes 1 and 2.
    x = np.repeat([[0.0, 1.0], [1.0, 0.0]], 4, axis=0)
    assert metrics.mutual_knn(x, x[:, ::-1], k=2) == 1.0
    y = np.array([[0.0], [10.0], [11.0], [1.0], [0.0], [10.0], [11.0], [1.0]])
    lists = reference.order(reference.distances(y))[:, :2]
    shared = [set(a) & set(b) for a, b in zip(XLISTS, lists.tolist(), strict=True)]
    expected = sum(map(len, shared)) / 16
    assert metrics.mutual_knn(x, y, k=2, normalise="none") == expected
    assert 0.0 < expected < 1.0


def test_rows_of_zeros_have_all_unit_rows_at_one_distance():
    random = np.random.default_rng(3)
    x = random.normal(size=(60, 5))
    x[7] = 0.0
    found = nearest(Space(normalise_rows(x, "l2")), 9).indices
    assert found[7].tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9]
