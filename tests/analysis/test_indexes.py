# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import sys
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from matteratlas.analysis import indexes, neighbours
from matteratlas.analysis.blocks import Space
from matteratlas.analysis.indexes import check_index, search_gpu
from matteratlas.analysis.neighbours import nearest, nearest_among
from matteratlas.schemas.errors import MetricError, MissingExtraError


@pytest.fixture
def fresh_faiss():
    indexes.load_faiss.cache_clear()
    yield
    indexes.load_faiss.cache_clear()


class Devices:
    """The GPU calls of FAISS answered by the processor, with some number of devices.

    Attributes
    ----------
    calls : list of (device, rows asked for, memory limits)
    memory : bytes of database rows above which a device is out of memory
    digits : bits kept of the distances, fewer than float32's where a device multiplies coarsely
    """

    def __init__(self, count, *, memory=2**62, error="cudaMalloc error: out of memory", bits=23):
        import faiss

        self.calls = []
        self.resources = []
        self.METRIC_L2 = faiss.METRIC_L2
        self.METRIC_INNER_PRODUCT = faiss.METRIC_INNER_PRODUCT
        self._faiss, self._count, self._memory = faiss, count, memory
        self._error, self._bits = error, bits

    def get_num_gpus(self):
        return self._count

    def StandardGpuResources(self):
        self.resources.append(object())
        return self.resources[-1]

    def knn_gpu(
        self, resources, queries, rows, k, *, metric, device, vectorsMemoryLimit, queriesMemoryLimit
    ):
        assert resources in self.resources
        self.calls.append((device, len(queries), (vectorsMemoryLimit, queriesMemoryLimit)))
        if vectorsMemoryLimit > self._memory:
            raise RuntimeError(f"Error in GpuResources.cpp: {self._error}\nstack trace")
        found, labels = self._faiss.knn(queries, rows, k, metric=metric)
        drop = np.uint32(0xFFFFFFFF << (23 - self._bits) & 0xFFFFFFFF)
        return (found.view(np.uint32) & drop).view(np.float32), labels


@pytest.fixture
def use(monkeypatch):
    def use(devices):
        monkeypatch.setattr(indexes, "load_faiss", lambda: devices)
        return devices

    return use


def rows(n=1300, d=6, seed=2):
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.parametrize("similarity", ["euclidean", "inner"])
@pytest.mark.parametrize("count", [1, 3])
def test_gpus_share_the_queries_and_give_the_same_lists(use, count, similarity):
    space = Space(rows())
    expected = nearest(space, 5, similarity=similarity)
    devices = use(Devices(count))
    found = nearest(space, 5, similarity=similarity)
    assert (found.indices == expected.indices).all()
    assert (found.scores == expected.scores).all()
    assert sorted(call[0] for call in devices.calls) == list(range(count))
    assert sum(call[1] for call in devices.calls) == 1300
    assert {call[2] for call in devices.calls} == {indexes.GPU_BYTES}
    assert len(devices.resources) == count  # resources serve one thread


@pytest.mark.parametrize("bits", [7, 3])
def test_a_device_with_few_digits_costs_time_not_neighbours(use, monkeypatch, bits):
    space = Space(rows())
    expected = nearest(space, 5).indices
    use(Devices(1, bits=bits))
    again = []
    real = neighbours._search_dense
    monkeypatch.setattr(
        neighbours, "_search_dense", lambda *args: again.append(args[1].size) or real(*args)
    )
    assert (nearest(space, 5).indices == expected).all()
    assert sum(again) > 0


def test_batches_shrink_until_they_fit(use, caplog):
    space = Space(rows())
    expected = nearest(space, 5).indices
    devices = use(Devices(1, memory=2**26))
    with caplog.at_level(logging.WARNING, logger="matteratlas"):
        assert (nearest(space, 5).indices == expected).all()
    assert [call[2][0] for call in devices.calls] == [2**30, 2**28, 2**26]
    assert caplog.messages == []


@pytest.mark.parametrize("error", ["cudaMalloc error: out of memory", "StandardGpu: alloc fail"])
def test_too_little_memory_falls_back_with_one_line(use, caplog, error):
    space = Space(rows())
    expected = nearest(space, 5).indices
    devices = use(Devices(2, memory=0, error=error))
    with caplog.at_level(logging.WARNING, logger="matteratlas"):
        assert (nearest(space, 5).indices == expected).all()
    assert len(devices.calls) >= indexes.GPU_ATTEMPTS
    (line,) = caplog.messages
    assert "searched on the processor" in line
    assert "\n" not in line


def test_other_failures_of_a_device_are_not_hidden(use):
    use(Devices(1, memory=0, error="invalid device ordinal"))
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        nearest(Space(rows()), 5)


def test_more_candidates_than_a_gpu_selects_stay_on_the_processor(use):
    devices = use(Devices(1))
    points = rows(3000, 2).astype(np.float32)
    assert search_gpu(points, indexes.GPU_NEIGHBOURS + 1, inner=False) is None
    assert devices.calls == []


def test_gpus_are_counted_only_where_the_package_can_use_them(monkeypatch):
    cpu_wheel = SimpleNamespace(get_num_gpus=lambda: 1)  # has the name, cannot use it
    gpu_wheel = SimpleNamespace(get_num_gpus=lambda: 2, StandardGpuResources=object)
    for faiss, count in ((cpu_wheel, 0), (gpu_wheel, 2)):
        monkeypatch.setattr(indexes, "load_faiss", lambda faiss=faiss: faiss)
        assert indexes.gpu_count() == count


def test_two_faiss_packages_are_refused(monkeypatch, fresh_faiss):
    monkeypatch.setattr(metadata, "version", lambda name: "1.15.1")
    with pytest.raises(MissingExtraError, match="'faiss-cpu' and 'faiss-gpu' are both installed"):
        indexes.load_faiss()


def test_missing_faiss_is_named(monkeypatch, fresh_faiss):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'matteratlas\[cpu\]'"):
        indexes.load_faiss()


@pytest.mark.gpu
@pytest.mark.parametrize("similarity", ["euclidean", "inner"])
@pytest.mark.parametrize("n", [1300, 20_000])
def test_a_real_gpu_gives_the_lists_of_the_processor(monkeypatch, n, similarity):
    space = Space(rows(n, 64))
    found = nearest(space, 25, similarity=similarity)
    monkeypatch.setattr(neighbours, "search_gpu", lambda *args, **kwargs: None)
    expected = nearest(space, 25, similarity=similarity)
    assert (found.indices == expected.indices).all()
    assert (found.scores == expected.scores).all()


@pytest.mark.gpu
def test_a_real_gpu_works_in_batches(monkeypatch):
    points = rows(20_000, 64).astype(np.float32)
    whole = search_gpu(points, 30, inner=False)
    monkeypatch.setattr(indexes, "GPU_BYTES", (2**20, 2**20))
    parts = search_gpu(points, 30, inner=False)
    assert whole is not None and parts is not None
    assert np.mean(whole[0] == parts[0]) > 0.999  # near ties may change places
    assert parts[1] == pytest.approx(whole[1], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("similarity", ["euclidean", "inner"])
@pytest.mark.parametrize(
    ("index", "options"),
    [("ivf", {"cells": 20, "probes": 4}), ("hnsw", {"links": 6, "build": 20, "visit": 20})],
)
def test_recall_is_what_the_lists_hold(monkeypatch, index, options, similarity):
    """Measured on all rows here, so it is the true share; the order is that of exact scores."""
    space = Space(rows(1500, 16))
    monkeypatch.setattr(neighbours, "RECALL_ROWS", 1500)
    exact = nearest(space, 10, similarity=similarity)
    found = nearest(space, 10, similarity=similarity, index=index, index_options=options)
    held = [np.isin(a, b).mean() for a, b in zip(found.indices, exact.indices, strict=True)]
    assert found.index == index
    assert found.recall == pytest.approx(np.mean(held))
    assert 0.2 < found.recall < 1.0
    assert (found.indices != np.arange(1500)[:, None]).all()
    assert (np.diff(np.sort(found.indices, axis=1), axis=1) > 0).all()
    x = space.values
    there = x[found.indices]
    if similarity == "euclidean":
        scores = ((x[:, None] - there) ** 2).sum(axis=2)
        assert (np.diff(found.scores, axis=1) >= 0).all()
    else:
        scores = np.einsum("id,ikd->ik", x, there)
        assert (np.diff(found.scores, axis=1) <= 0).all()
    assert found.scores == pytest.approx(scores, rel=1e-9)


def test_sampled_recall_is_close_to_the_true_one(monkeypatch):
    space = Space(rows(3000, 16))
    options = {"cells": 40, "probes": 5}
    sampled = nearest(space, 10, index="ivf", index_options=options).recall
    monkeypatch.setattr(neighbours, "RECALL_ROWS", 3000)
    assert nearest(space, 10, index="ivf", index_options=options).recall == pytest.approx(
        sampled, abs=0.03
    )


def test_looking_everywhere_is_exact():
    space = Space(rows(1200, 8))
    found = nearest(space, 12, index="ivf", index_options={"cells": 9, "probes": 9})
    assert found.recall == 1.0
    assert (found.indices == nearest(space, 12).indices).all()


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_indexes_are_the_same_on_every_run_and_thread_count(index):
    found = []
    for threads in (1, 2, 1):
        with threadpool_limits(threads):
            found.append(nearest(Space(rows(1200, 12)), 9, index=index))
    for other in found[1:]:
        assert (other.indices == found[0].indices).all()
        assert other.recall == found[0].recall


def test_rows_an_index_finds_too_little_for_are_searched_exactly():
    """One cell of three rows far off, and one probe: its rows have two neighbours there."""
    x = rows(1200, 4)
    x[:3] += 1e3
    space = Space(x)
    found = nearest(space, 6, index="ivf", index_options={"cells": 40, "probes": 1})
    assert (found.indices[:3] == nearest(space, 6).indices[:3]).all()
    assert np.isfinite(found.scores).all()


def test_small_inputs_are_exact_whatever_is_asked():
    found = nearest(Space(rows(100)), 5, index="hnsw")
    assert (found.index, found.recall) == ("exact", 1.0)


def test_shorter_lists_keep_what_is_known_of_them():
    space = Space(rows(1200, 12))
    found = nearest(space, 20, index="ivf")
    assert found.recall < 1.0
    assert (found.first(3).index, found.first(3).recall) == ("ivf", found.recall)
    kept = np.arange(1200) % 10 > 0
    among = nearest_among(space, found, kept, 5)
    assert (among.index, among.recall) == ("ivf", found.recall)


def test_settings_are_filled_in_and_checked():
    assert check_index("exact", None, 50) == {}
    assert check_index("ivf", None, 10_000) == {"cells": 100, "probes": 12}
    assert check_index("ivf", {"cells": 16}, 10_000) == {"cells": 16, "probes": 2}
    assert check_index("hnsw", {"visit": 50}, 99)["visit"] == 50
    with pytest.raises(MetricError, match="index='flat' is not one of exact, ivf, hnsw"):
        nearest(Space(rows(100)), 5, index="flat")  # type: ignore[arg-type]
    with pytest.raises(MetricError, match="'ivf' has no setting 'links'; it has: cells, probes"):
        check_index("ivf", {"links": 3}, 100)
    with pytest.raises(MetricError, match="'exact' has no setting 'probes'; it has: none"):
        check_index("exact", {"probes": 3}, 100)
    with pytest.raises(MetricError, match="cells=200 is more than the 100 rows"):
        check_index("ivf", {"cells": 200}, 100)
    for value in (0, True, 2.0):
        with pytest.raises(MetricError, match=f"probes={value!r}"):
            check_index("ivf", {"probes": value}, 100)
