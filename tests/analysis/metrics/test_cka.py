# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import reference
from made_up import SCALED, made_up_pair

from matteratlas.analysis import metrics
from matteratlas.analysis.blocks import Space
from matteratlas.analysis.metrics import cka


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize(("kind", "normalise"), SCALED)
def test_equals_dense_hsic(kind, normalise, unbiased):
    x, y = made_up_pair(kind)
    expected = reference.cka(x, y, unbiased=unbiased, how=normalise)
    value = metrics.linear_cka(x, y, unbiased=unbiased, normalise=normalise)
    assert np.isfinite(expected)
    assert value == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("unbiased", [True, False])
def test_features_and_rows_give_the_same_number(unbiased, monkeypatch):
    x, y = made_up_pair("plain")
    values = []
    for cheaper in (True, False):
        monkeypatch.setattr(cka, "features_are_cheaper", lambda spaces, choice=cheaper: choice)
        values.append(metrics.linear_cka(x, y, unbiased=unbiased))
    assert values[0] == pytest.approx(values[1], abs=1e-12)


def test_the_cheaper_form_is_chosen():
    narrow, wide = np.zeros((500, 4)), np.zeros((20, 400))
    assert cka.features_are_cheaper([Space(narrow), Space(narrow)])
    assert not cka.features_are_cheaper([Space(wide), Space(wide)])


def test_width_fools_the_biased_form_only():
    random = np.random.default_rng(2)
    x, y = random.normal(size=(40, 2000)), random.normal(size=(40, 2000))
    assert metrics.linear_cka(x, y, unbiased=False) > 0.9
    assert abs(metrics.linear_cka(x, y)) < 0.05


def test_leaving_blocks_out_is_computing_without_them():
    x, y = made_up_pair("wide", n=33)
    bounds = np.array([0, 7, 18, 33])
    spaces = [Space(np.asarray(z, float)) for z in (x, y)]
    full, without = cka.feature_covariances(spaces, bounds)
    assert full[0, 1] / np.sqrt(full[0, 0] * full[1, 1]) == pytest.approx(
        reference.cka(x, y, unbiased=True), abs=1e-10
    )
    for block, part in enumerate(without):
        kept = np.r_[0 : bounds[block], bounds[block + 1] : 33]
        expected = reference.cka(x[kept], y[kept], unbiased=True)
        assert part[0, 1] / np.sqrt(part[0, 0] * part[1, 1]) == pytest.approx(expected, abs=1e-10)
