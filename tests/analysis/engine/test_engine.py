# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask.distributed import Client, LocalCluster
from made_up import made_up_pair

from matteratlas.analysis import metrics, pairwise
from matteratlas.analysis.choices import Settings
from matteratlas.analysis.engine import job as jobs
from matteratlas.analysis.engine import run as running
from matteratlas.analysis.engine.job import ArraySource, Job
from matteratlas.analysis.engine.results import as_dataset
from matteratlas.analysis.engine.store import FolderStore, MemoryStore
from matteratlas.schemas.errors import MetricError

PAIR_METRICS = [name for name in metrics.METRICS if metrics.CARDS[name].pairwise]
DEFAULTS = {name: metrics.CARDS[name].normalise for name in metrics.METRICS}
#: Largest difference to double precision: neighbours are the same, distances are rounded, and a
#: rank left open by rounding moves an imbalance of n rows by 1 / n^2 at most.
WITHIN = {"information_imbalance": 5e-4}


def embeddings(n: int = 300) -> dict[str, np.ndarray]:
    """Dense, wide, tables with repeats, one feature; two of each over the same rows."""
    return {
        f"{kind}_{side}": made_up_pair(kind, n=n)[side]
        for kind in ("plain", "wide", "copies", "one_feature")
        for side in (0, 1)
    }


def both(data: dict[str, np.ndarray], **options: Any) -> tuple[Any, Any]:
    single = pairwise(data, arithmetic="single", **options)
    return single, pairwise(data, arithmetic="double", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"k": 8},
        {"k": 6, "normalise": "max", "variant": "masked_centred"},
        {"k": 6, "normalise": "none", "variant": "centred_masked"},
        {"k": 5, "normalise": {"mutual_knn": "none"}, "imbalance_k": 4},
        {"metrics": ["intrinsic_dimension"], "dimension_method": "mle", "dimension_k": 12},
        {"metrics": ["distance_correlation"], "normalise": "l2"},
        {"metrics": ["information_imbalance"], "imbalance_k": 2},
        {"metrics": ["cknna"], "k": 7},
    ],
)
def test_values_and_errors_are_those_of_double_precision(options: dict[str, Any]) -> None:
    single, double = both(embeddings(), **options)
    assert single.attrs["arithmetic"] == "single" and double.attrs["arithmetic"] == "double"
    assert set(single.data_vars) == set(double.data_vars)
    for name in double.data_vars:
        found, expected = single[name], double[name]
        assert found.dims == expected.dims
        if name == "standard_error":
            for metric in expected.metric.values:
                np.testing.assert_allclose(
                    found.sel(metric=metric), expected.sel(metric=metric),
                    atol=WITHIN.get(metric, 1e-6), equal_nan=True, err_msg=metric,
                )  # fmt: skip
            continue
        np.testing.assert_allclose(
            found, expected, atol=WITHIN.get(str(name), 1e-6), equal_nan=True, err_msg=str(name)
        )


@pytest.mark.parametrize("grouped", [False, True])
def test_draws_are_those_of_double_precision(grouped: bool) -> None:
    """Below the rows that nulls are sampled at, every draw is the same relabeling."""
    n = 200
    groups = np.arange(n) % 3 if grouped else None
    data = {name: rows for name, rows in embeddings(n).items() if "copies" not in name}
    single, double = both(data, k=8, permutations=40, seed=5, groups=groups, metrics=PAIR_METRICS)
    for name in ("null_mean", "null_quantile", "calibrated"):
        np.testing.assert_allclose(single[name], double[name], atol=5e-4, equal_nan=True)
    np.testing.assert_allclose(single.p_value, double.p_value, atol=1.5 / 41, equal_nan=True)
    assert single.attrs["null_rows"] == n


def test_sampled_nulls_agree_with_those_on_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    n = 900
    latent = random.normal(size=(n, 3))
    data = {
        f"m{i}": np.tanh(latent @ random.normal(size=(3, 12))) + random.normal(size=(n, 12))
        for i in range(3)
    } | {"own": random.normal(size=(n, 9))}
    options = {"k": 10, "permutations": 199, "metrics": PAIR_METRICS}
    whole = pairwise(data, arithmetic="single", **options)
    monkeypatch.setattr(jobs, "NULL_ROWS", 450)
    monkeypatch.setattr(jobs, "NULL_RANK_ROWS", 450)
    sampled = pairwise(data, arithmetic="single", **options)
    assert (whole.attrs["null_rows"], sampled.attrs["null_rows"]) == (n, 450)
    upper = np.triu_indices(4, 1)
    for name in PAIR_METRICS:
        a, b = (
            (x.null_quantile - x.null_mean).sel(metric=name).values[upper] for x in (whole, sampled)
        )
        # The quantile of 199 draws is itself known to a fifth or so.
        np.testing.assert_allclose(b, a, rtol=0.4, err_msg=name)
    for x in (whole, sampled):
        assert (x.p_value.sel(model_a="m0", model_b="m1") <= 0.01).all()
        assert (x.p_value.sel(model_a="m0", model_b="own") > 0.01).all()


def test_p_values_of_unrelated_embeddings_are_uniform() -> None:
    random = np.random.default_rng(4)
    found = []
    for seed in range(20):
        data = {str(i): random.normal(size=(60, 4 + i)) for i in range(4)}
        result = pairwise(
            data, metrics=PAIR_METRICS, k=6, permutations=39, seed=seed, arithmetic="single"
        )
        found += [result.p_value.sel(model_a=a, model_b=b).values for a, b in ("01", "23", "12")]
    p = np.array(found)
    levels = np.arange(1, 40) / 40
    shares = (p[:, :, None] <= levels + 1e-9).mean(axis=0)
    # Kolmogorov-Smirnov at 0.1 % for 60 pairs; pairs of one draw share models.
    assert np.abs(shares - levels).max() < 1.95 / np.sqrt(60)


@pytest.fixture(scope="module")
def job() -> Job:
    return Job(ArraySource(embeddings(240)), Settings(DEFAULTS, k=7, permutations=30, seed=1))


@pytest.fixture(scope="module")
def expected(job: Job) -> Any:
    store = MemoryStore()
    running.run(job, store)
    return as_dataset(job, store)


def same(found: Any, expected: Any) -> bool:
    return all(np.array_equal(found[v], expected[v], equal_nan=True) for v in expected.data_vars)


def test_threads_folders_and_clusters_give_the_same_bits(
    job: Job, expected: Any, tmp_path: Path
) -> None:
    threads = FolderStore(tmp_path / "threads")
    running.run(job, threads, threads=3)
    assert same(as_dataset(job, threads), expected)
    there = FolderStore(tmp_path / "cluster")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        running.run(job, there, client=client)
    assert same(as_dataset(job, there), expected)


def test_what_was_done_is_kept_and_what_is_missing_is_done(
    job: Job, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ran = FolderStore(tmp_path), []
    original = running.do_task

    def dying(*arguments: Any) -> running.Done:
        if len(ran) == 12:
            raise KeyboardInterrupt
        ran.append(arguments[2].key)
        return original(*arguments)

    monkeypatch.setattr(running, "do_task", dying)
    with pytest.raises(KeyboardInterrupt):
        running.run(job, store)
    assert not list(tmp_path.glob(".*"))
    monkeypatch.setattr(running, "do_task", original)
    again: list[str] = []
    running.run(job, store, done=lambda one: again.append(one.task.key))
    assert len(ran) == 12 and not set(ran) & set(again)
    assert len(again) == sum(map(len, running.waves(job))) - 12
    store.drop(again[-1])
    running.run(job, store, done=lambda one: again.append(one.task.key))
    assert again[-1] == again[-2]
    assert same(as_dataset(job, store), expected)


def test_a_group_of_arrays_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)
    save = np.save
    monkeypatch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        store.save("one", {"a": np.ones(3)})
    assert "one" not in store and not list(tmp_path.iterdir())
    with pytest.raises(KeyError):
        store.load("one")
    monkeypatch.setattr(np, "save", save)
    for _ in range(2):  # someone else may have been faster
        store.save("one", {"a": np.ones(3), "none": np.empty((0, 2))})
    assert store.load("one")["a"].tolist() == [1, 1, 1]
    assert store.load("one")["none"].shape == (0, 2)
    with pytest.raises(ValueError, match="read-only"):
        store.load("one")["a"][0] = 2
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_a_job_is_sent_without_what_can_be_derived(job: Job) -> None:
    assert job.strips and job.draws.count == 30
    sent = pickle.loads(pickle.dumps(job))
    assert "draws" not in vars(sent)
    assert sent.fingerprint == job.fingerprint
    other = Job(job.source, Settings(DEFAULTS, k=8, permutations=30, seed=1))
    assert other.fingerprint != job.fingerprint


def test_many_rows_go_to_the_engine_and_bad_ones_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = embeddings(60)
    module = importlib.import_module("matteratlas.analysis.pairwise")
    monkeypatch.setattr(module, "ENGINE_ROWS", 50)
    result = pairwise(data, metrics=["mutual_knn"], k=5)
    assert result.attrs["arithmetic"] == "single"
    assert json.loads(result.attrs["normalise"]) == {"mutual_knn": "l2"}
    data["wide_0"] = data["wide_0"].copy()
    data["wide_0"][3, 1] = np.nan
    with pytest.raises(MetricError, match="model 'wide_0': 1 of 60 rows are not finite"):
        pairwise(data, metrics=["mutual_knn"], k=5)
    with pytest.raises(MetricError, match="arithmetic='half'"):
        pairwise(data, arithmetic="half")  # type: ignore[arg-type]
