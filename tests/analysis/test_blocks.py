# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import reference
from made_up import made_up_pair

from matteratlas.analysis.blocks import Space, as_rows, normalise_rows, row_blocks, to_single


@pytest.mark.parametrize("how", ["l2", "max", "none"])
def test_rows_are_scaled_one_by_one(how):
    x = np.random.default_rng(0).normal(size=(9, 4))
    x[3] = 0.0
    assert normalise_rows(x, how) == pytest.approx(reference.normalise(x, how), abs=1e-15)


def test_scaling_survives_extreme_lengths():
    x = np.random.default_rng(0).normal(size=(6, 4))
    for factor in (1e-300, 1e300):
        assert normalise_rows(factor * x, "l2") == pytest.approx(normalise_rows(x, "l2"))


def test_blocks_cover_every_row_once():
    for start, stop, size in [(0, 10, 3), (2, 9, 100), (0, 1, 1), (5, 5, 2)]:
        rows = [i for block in row_blocks(start, stop, size) for i in range(stop)[block]]
        assert rows == list(range(start, stop))


def test_single_precision_undoes_to_the_same():
    x = np.random.default_rng(0).normal(size=(6, 4)) * 1e25
    points, scale = to_single(x)
    assert np.abs(points).max() <= 1.0
    assert points.astype(float) * scale == pytest.approx(x, rel=1e-7)
    assert to_single(np.zeros((3, 2)))[1] == 1.0


def test_equal_rows_are_found_whatever_the_sign_of_zero():
    x = np.array([[0.0, 1.0], [2.0, 1.0], [-0.0, 1.0], [2.0, 1.0], [5.0, 5.0]])
    space = Space(as_rows(x))
    assert space.copies.tolist() == [0, 1, 0, 1, 2]
    assert space.unique_rows.tolist() == [0, 1, 4]
    assert Space(x[[0, 1, 4, 4]] + np.arange(4)[:, None]).copies is None


@pytest.mark.parametrize("kind", ["plain", "copies", "wide"])
def test_distances_and_products(kind):
    for x in made_up_pair(kind):
        space = Space(as_rows(x))
        rows = np.array([0, 8, 3])
        expected = reference.distances(reference.matrix(x))[rows] ** 2
        assert space.squared_distances(rows) == pytest.approx(expected, abs=1e-9)
        assert space.products(slice(0, 5)) == pytest.approx((x @ x.T)[:5], abs=1e-9)


def test_copies_are_at_exactly_equal_distances():
    x, _ = made_up_pair("copies")
    squared = Space(x).squared_distances(slice(0, len(x)))
    same = np.argwhere(np.tril((x[:, None] == x[None]).all(axis=2), -1))
    assert len(same) > 100
    for i, j in same:
        assert squared[i, j] == 0.0
        assert (squared[:, i] == squared[:, j]).all()


def test_another_order_keeps_distances():
    x, _ = made_up_pair("offset")
    order = np.random.default_rng(0).permutation(len(x))
    moved = Space(x).take(order)
    assert moved.centred is moved.values
    assert moved.squared_distances(slice(0, 4)) == pytest.approx(
        reference.distances(x[order])[:4] ** 2, abs=1e-8
    )
