# SPDX-License-Identifier: Apache-2.0
"""Sums over pairs of rows: tiles, null draws, ranks and shared edges against matrices in full."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from made_up import made_up_pair

from matteratlas.analysis import blocks as blocks_module
from matteratlas.analysis import overlaps
from matteratlas.analysis.blocks import Space, as_rows
from matteratlas.analysis.calibration import permutations
from matteratlas.analysis.metrics.cka import null_feature_covariances
from matteratlas.analysis.neighbours import nearest
from matteratlas.analysis.nulls import null_covariances
from matteratlas.analysis.overlaps import Edges, find_returned, shared_sums
from matteratlas.analysis.ranks import rank_means
from matteratlas.analysis.tiles import pair_sums


@pytest.fixture(params=["one tile", "many tiles"])
def tile_size(request, monkeypatch):
    if request.param == "many tiles":
        monkeypatch.setattr(blocks_module, "BLOCK_BYTES", 500)


def models(n=41, kinds=("plain", "wide", "copies")):
    return [as_rows(made_up_pair(kind, n=n)[side]) for kind in kinds for side in (0, 1)]


def matrices(arrays, kernel):
    out = []
    for x in arrays:
        centred = x - x.mean(axis=0)
        full = reference.distances(x) if kernel == "distance" else centred @ centred.T
        out.append(full - np.diag(np.diag(full)))
    return out


def u_centred(full):
    n = len(full)
    rows = full.sum(axis=1) / (n - 2)
    out = full - rows[:, None] - rows[None, :] + full.sum() / ((n - 1) * (n - 2))
    return out - np.diag(np.diag(out))


@pytest.mark.parametrize("kernel", ["distance", "linear"])
def test_sums_over_all_rows_and_without_blocks(kernel, tile_size):
    arrays = models()
    bounds = np.array([0, 10, 11, 30, 41])
    sums = pair_sums([Space(x) for x in arrays], ["linear", "distance"], bounds)[kernel]
    for block in (None, 0, 1, 2, 3):
        kept = np.ones(41, bool)
        if block is None:
            found = sums.covariance(unbiased=True)
        else:
            kept[bounds[block] : bounds[block + 1]] = False
            found = sums.covariance_without(block, unbiased=True)
        n = kept.sum()
        full = [u_centred(a) for a in matrices([x[kept] for x in arrays], kernel)]
        expected = [[(a * b).sum() / (n * (n - 3)) for b in full] for a in full]
        assert found == pytest.approx(np.array(expected), rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("n", [40, 41])
@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("kernel", ["distance", "linear"])
def test_null_draws_relabel_the_second_model(kernel, restricted, n, tile_size):
    arrays = models(n)
    groups = np.arange(n) % 3 if restricted else None
    draws = permutations(n, 60, seed=4, groups=groups)  # more than n - 1: two relabelings
    spaces = [Space(x) for x in arrays]
    rows = {
        name: sums.rows.sum(axis=2)
        for name, sums in pair_sums(spaces, ["linear", "distance"]).items()
    }
    found = null_covariances(spaces, rows, draws)[kernel]
    full = [u_centred(a) for a in matrices(arrays, kernel)]
    lengths = np.sqrt([(a * a).sum() / (n * (n - 3)) for a in full])
    for draw in (0, 1, 38, 39, 40, 59):
        order = draws.indices[draw]
        moved = [b[np.ix_(order, order)] for b in full]
        expected = np.array([[(a * b).sum() / (n * (n - 3)) for b in moved] for a in full])
        unit = np.outer(lengths, lengths)
        assert found[draw] / unit == pytest.approx(expected / unit, abs=5e-5)


def test_null_draws_from_features_are_those_from_tiles():
    arrays = models(40)
    spaces = [Space(x) for x in arrays]
    draws = permutations(40, 20, seed=1)
    rows = {"linear": pair_sums(spaces, ["linear"])["linear"].rows.sum(axis=2)}
    tiles = np.triu(null_covariances(spaces, rows, draws)["linear"], 1)
    variance = np.diagonal(pair_sums(spaces, ["linear"])["linear"].covariance(unbiased=True))
    unit = np.sqrt(np.outer(variance, variance))
    assert null_feature_covariances(spaces, draws) / unit == pytest.approx(tiles / unit, abs=5e-5)


@pytest.mark.parametrize("k", [1, 4])
def test_rank_means(k, tile_size):
    arrays = models(36)
    n, m = 36, len(arrays)
    spaces = [Space(x) for x in arrays]
    near = [nearest(space, k).indices for space in spaces]
    blocks = np.random.default_rng(0).permutation(np.arange(n) % 5)
    without = []
    for x in arrays:
        lists = np.zeros((5, n, k), np.int32)
        for block in range(5):
            rows = np.flatnonzero(blocks != block)
            lists[block, rows] = rows[reference.order(reference.distances(x[rows]))[:, :k]]
        without.append(lists)
    draws = permutations(n, 7, seed=0)
    found = rank_means(spaces, near, blocks=blocks, neighbours_without=without, draws=draws)

    def mean_rank(x, y):
        return reference.imbalance(x, y, k) * len(x) / 2.0

    for a in range(m):
        for b in range(m):
            x, y = arrays[a], arrays[b]
            assert found.observed[a, b] == pytest.approx(mean_rank(x, y), abs=1e-9)
            for block in range(5):
                kept = blocks != block
                expected = mean_rank(x[kept], y[kept])
                assert found.deleted[block, a, b] == pytest.approx(expected, abs=1e-9)
    clean = [0, 1, 2]  # without copies, whose order among themselves moves with the labels
    for draw, order in enumerate(draws.indices):
        for a in clean:
            for b in clean:
                expected = mean_rank(arrays[a], arrays[b][order])
                assert found.null[draw, a, b] == pytest.approx(expected, abs=1e-9)


def test_shared_edges(tile_size, monkeypatch):
    monkeypatch.setattr(overlaps, "EDGES_PER_BATCH", 500)
    random = np.random.default_rng(5)
    arrays = models(36, kinds=("plain", "wide"))
    n, k = 36, 6
    draws = permutations(n, 9, seed=3)
    edges, dense = [], []
    for x in arrays:
        lists = nearest(Space(x), k).indices
        values = random.normal(size=(n, n))
        values += values.T
        returned = find_returned(lists)
        edges.append(Edges(lists, np.take_along_axis(values, lists, axis=1), returned))
        shown = np.zeros((n, n))
        np.put_along_axis(shown, lists, 1.0, axis=1)
        assert (np.take_along_axis(shown.T, lists, axis=1) == returned).all()
        dense.append((shown, values))
    observed = shared_sums(edges, kernels=True)
    null = shared_sums(edges, draws, kernels=True)
    cases = [(np.arange(n), observed, ()), *((o, null, (t,)) for t, o in enumerate(draws.indices))]
    for order, found, at in cases:
        for b in range(len(arrays)):
            for a in range(b):
                shown = dense[a][0] * dense[b][0][np.ix_(order, order)]
                p, q = shown * dense[a][1], shown * dense[b][1][np.ix_(order, order)]
                expected = {
                    "count": shown.sum(),
                    "products": (p * q).sum(),
                    "returned_products": (p * q.T).sum(),
                    "first": p.sum(),
                    "second": q.sum(),
                    "rows_rows": p.sum(axis=1) @ q.sum(axis=1),
                    "columns_columns": p.sum(axis=0) @ q.sum(axis=0),
                    "rows_columns": p.sum(axis=1) @ q.sum(axis=0),
                    "columns_rows": p.sum(axis=0) @ q.sum(axis=1),
                }
                for name, value in expected.items():
                    assert getattr(found, name)[(*at, a, b)] == pytest.approx(value, abs=1e-9), name
