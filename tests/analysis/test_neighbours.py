# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from made_up import made_up_pair

from matteratlas.analysis import neighbours
from matteratlas.analysis.blocks import Space, as_rows
from matteratlas.analysis.neighbours import nearest, nearest_among, order_by_distance
from matteratlas.schemas.errors import MetricError, MissingExtraError


@pytest.fixture
def fresh_faiss():
    neighbours.load_faiss.cache_clear()
    yield
    neighbours.load_faiss.cache_clear()


@pytest.fixture(params=["dense", "faiss"])
def route(request, monkeypatch):
    """Both ways to search; the second one made to serve small inputs too."""
    searched = []
    real = neighbours._search_faiss
    monkeypatch.setattr(neighbours, "SPARE", 2)
    monkeypatch.setattr(
        neighbours, "_search_faiss", lambda *args: searched.append(args) or real(*args)
    )
    if request.param == "faiss":
        monkeypatch.setattr(neighbours, "DENSE_ROWS", 0)
    yield request.param
    assert bool(searched) == (request.param == "faiss")


@pytest.mark.parametrize("similarity", ["euclidean", "inner"])
@pytest.mark.parametrize(
    "kind", ["plain", "wide", "one_feature", "offset", "copies", "counts", "zero_rows"]
)
def test_lists_are_exact_and_ties_go_by_index(kind, similarity, route):
    for x in made_up_pair(kind):
        x = reference.matrix(x)
        scores = reference.distances(x) ** 2 if similarity == "euclidean" else -(x @ x.T)
        expected = reference.order(scores)[:, :9]
        found = nearest(Space(as_rows(x)), 9, similarity=similarity)
        assert found.indices.dtype == np.int32
        assert (found.indices == expected).all()
        sign = 1.0 if similarity == "euclidean" else -1.0
        assert found.scores == pytest.approx(
            sign * np.take_along_axis(scores, expected, axis=1), rel=1e-7, abs=1e-9
        )


def test_near_copies_below_float32_are_told_apart(monkeypatch):
    monkeypatch.setattr(neighbours, "DENSE_ROWS", 0)
    random = np.random.default_rng(0)
    centre = random.normal(size=8)
    x = np.concatenate([centre + 1e-8 * random.normal(size=(90, 8)), random.normal(size=(90, 8))])
    expected = reference.order(reference.distances(x))[:, :5]
    assert (nearest(Space(x), 5).indices == expected).all()


def test_hundreds_of_copies_at_scale():
    """More equal rows than candidates: the lists are still those of the lowest indices."""
    random = np.random.default_rng(1)
    table = random.normal(size=(6, 20))
    rows = random.integers(0, 6, 1500)
    found = nearest(Space(table[rows]), 20).indices
    for i in (0, 1, 700, 1499):
        same = np.flatnonzero(rows == rows[i])
        assert found[i].tolist() == same[same != i][:20].tolist()


def test_many_rows_agree_with_the_dense_search(monkeypatch):
    x = np.random.default_rng(2).normal(size=(1300, 12))
    fast = nearest(Space(x), 7)
    monkeypatch.setattr(neighbours, "DENSE_ROWS", 10**6)
    slow = nearest(Space(x), 7)
    assert (fast.indices == slow.indices).all()
    assert fast.scores == pytest.approx(slow.scores, rel=1e-12)


@pytest.mark.parametrize("reach", [8, 30])
@pytest.mark.parametrize("kind", ["plain", "copies"])
def test_lists_among_kept_rows_are_those_of_the_kept_rows_alone(kind, reach):
    """Short lists run dry (and are searched anew), long ones do not."""
    x, _ = made_up_pair(kind)
    kept = np.random.default_rng(3).random(len(x)) < 0.6
    space = Space(x)
    found = nearest_among(space, nearest(space, reach), kept, 8)
    alone = nearest(Space(x[kept]), 8)
    assert (found.indices == np.flatnonzero(kept)[alone.indices]).all()
    assert found.scores == pytest.approx(alone.scores, abs=1e-12)


def test_sorting_is_stable_only_where_it_must_be():
    tile = np.random.default_rng(0).random((50, 300))
    tile[10:20] = np.round(tile[10:20], 1)
    assert (order_by_distance(tile) == np.argsort(tile, axis=1, kind="stable")).all()


def test_impossible_counts_are_refused():
    space = Space(np.random.default_rng(0).normal(size=(10, 2)))
    for k in (0, 10, -1):
        with pytest.raises(MetricError, match=f"k={k}"):
            nearest(space, k)


def test_two_faiss_packages_are_refused(monkeypatch, fresh_faiss):
    monkeypatch.setattr(metadata, "version", lambda name: "1.15.1")
    with pytest.raises(MissingExtraError, match="'faiss-cpu' and 'faiss-gpu' are both installed"):
        neighbours.load_faiss()


def test_missing_faiss_names_the_extra(monkeypatch, fresh_faiss):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'matteratlas\[cpu\]'"):
        nearest(Space(np.eye(5)), 2)


def test_gpus_are_counted_only_where_the_package_can_use_them(monkeypatch):
    cpu_wheel = SimpleNamespace(get_num_gpus=lambda: 1)  # has the name, cannot use it
    gpu_wheel = SimpleNamespace(get_num_gpus=lambda: 2, StandardGpuResources=object)
    for faiss, count in ((cpu_wheel, 0), (gpu_wheel, 2)):
        monkeypatch.setattr(neighbours, "load_faiss", lambda faiss=faiss: faiss)
        assert neighbours.gpu_count() == count


def test_a_gpu_is_used_when_there_is_one(monkeypatch):
    """The call made on a GPU, answered by the CPU: same arguments, same lists."""
    import faiss

    used = []

    def knn_gpu(resources, queries, rows, k, *, metric):
        used.append((resources, metric))
        return faiss.knn(queries, rows, k, metric=metric)

    fake = SimpleNamespace(
        get_num_gpus=lambda: 1,
        StandardGpuResources=lambda: "resources",
        knn_gpu=knn_gpu,
        METRIC_L2=faiss.METRIC_L2,
        METRIC_INNER_PRODUCT=faiss.METRIC_INNER_PRODUCT,
    )
    x = np.random.default_rng(2).normal(size=(1100, 6))
    expected = nearest(Space(x), 5).indices
    monkeypatch.setattr(neighbours, "load_faiss", lambda: fake)
    assert (nearest(Space(x), 5).indices == expected).all()
    assert used == [("resources", faiss.METRIC_L2)]
