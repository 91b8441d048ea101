# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from made_up import KINDS, made_up_pair
from scipy import stats
from scipy.spatial.distance import pdist

from matteratlas.analysis import blocks, metrics
from matteratlas.analysis.blocks import Space
from matteratlas.analysis.metrics import matrices
from matteratlas.analysis.metrics.midranks import mid_ranks

ROWS = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 5), st.integers(1, 30)), elements=st.integers(0, 6)
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ROWS)
def test_mid_ranks_are_scipys(values):
    assert (mid_ranks(values) == stats.rankdata(values, axis=1)).all()


@pytest.mark.parametrize("gather", [1, 40, 2**20])
@pytest.mark.parametrize("kind", KINDS)
def test_median_is_numpys(kind, gather, monkeypatch):
    monkeypatch.setattr(matrices, "GATHER", gather)
    monkeypatch.setattr(matrices, "BINS", 8)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 20_000)
    for z in made_up_pair(kind, n=53):
        space = Space(np.asarray(z, float).reshape(53, -1))
        spans = pdist(space.values)
        tile = matrices.distances(space)
        assert matrices.median(tile, 53) == pytest.approx(np.median(spans), rel=1e-9)
        above = matrices.median(tile, 53, above=0.0)
        assert above == pytest.approx(np.median(spans[spans > 0]), rel=1e-9)


def test_median_of_nothing_is_nan():
    zeros = matrices.distances(Space(np.zeros((6, 2))))
    assert matrices.median(zeros, 6) == 0.0
    assert np.isnan(matrices.median(zeros, 6, above=0.0))


BLOCKWISE = {
    "linear_cka": lambda x, y: metrics.linear_cka(x, y),
    "rbf_cka": lambda x, y: metrics.rbf_cka(x, y),
    "rsa": lambda x, y: metrics.rsa(x, y),
    "rsa_spearman": lambda x, y: metrics.rsa(x, y, compare="spearman"),
    "distance_correlation": lambda x, y: metrics.distance_correlation(x, y),
    "information_imbalance": lambda x, y: metrics.information_imbalance(x, y)[0],
    "cycle_knn": lambda x, y: metrics.cycle_knn(x, y, k=5),
}


@pytest.mark.parametrize("name", sorted(BLOCKWISE))
@pytest.mark.parametrize("kind", ["plain", "copies", "wide"])
def test_the_size_of_blocks_does_not_matter(name, kind, monkeypatch):
    x, y = made_up_pair(kind)
    whole = BLOCKWISE[name](x, y)
    assert np.isfinite(whole)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 6_000)
    assert BLOCKWISE[name](x, y) == pytest.approx(whole, abs=1e-12)


HELD = {
    name: BLOCKWISE[name] for name in ("linear_cka", "rbf_cka", "rsa", "distance_correlation")
} | {"information_imbalance": lambda x, y: metrics.information_imbalance(x, y, ties="share")[0]}


@pytest.mark.parametrize("name", sorted(HELD))
def test_nothing_of_n_by_n_is_held(name, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2**19)
    random = np.random.default_rng(0)
    n = 1500
    x, y = random.normal(size=(n, 5)), random.normal(size=(n, 7))
    HELD[name](x[:50], y[:50])
    tracemalloc.start()
    HELD[name](x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000  # one n x n matrix would be 18 MB
