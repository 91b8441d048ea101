# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import made_up_pair

from matteratlas.analysis import metrics, pairwise
from matteratlas.analysis.layers import over_layers
from matteratlas.schemas.errors import MetricError

PAIR_METRICS = [name for name in metrics.METRICS if metrics.CARDS[name].pairwise]


def layered(seed: int, layers: dict[str, int], n: int = 40, width: int = 5) -> dict[str, Any]:
    """Unrelated models, whose own layers are noisy views of one space."""
    random = np.random.default_rng(seed)
    data = {}
    for model, count in layers.items():
        matter = random.normal(size=(n, width))
        for i in range(count):
            data[f"{model}/{i}"] = matter + random.normal(size=(n, width))
    return data


def model_of(data: dict[str, Any]) -> dict[str, str]:
    return {chart: chart.split("/")[0] for chart in data}


@pytest.mark.parametrize("arithmetic", ["double", "single"])
def test_draws_are_kept_on_request_and_are_those_of_the_summary(arithmetic: Any) -> None:
    data = {"a": made_up_pair("plain")[0], "b": made_up_pair("plain")[1], "c": np.ones((70, 3))}
    options: dict[str, Any] = {"k": 6, "permutations": 19, "arithmetic": arithmetic}
    bare, kept = pairwise(data, **options), pairwise(data, keep_draws=True, **options)
    assert "null" not in bare and bare.equals(kept.drop_vars("null"))
    assert kept.null.dims == ("metric", "draw", "model_a", "model_b")
    assert kept.null.dtype == np.float32 and kept.sizes["draw"] == 19
    assert list(kept.metric) == PAIR_METRICS
    there = np.isfinite(kept.null.values).all(axis=1)
    assert (there == np.isfinite(kept.p_value.values)).all() and there.any()
    mean = kept.null.values.astype(float).mean(axis=1)
    np.testing.assert_allclose(mean, kept.null_mean, rtol=1e-5, atol=1e-6)
    assert "null" not in pairwise(data, k=6, keep_draws=True, arithmetic=arithmetic)


@pytest.mark.parametrize("arithmetic", ["double", "single"])
@pytest.mark.parametrize("groups", [None, np.arange(40) % 4])
def test_draws_relabel_all_layers_alike(arithmetic: Any, groups: Any) -> None:
    """Copies of a layer have each draw in common, with every layer of the other model."""
    data = layered(2, {"a": 1, "b": 1})
    data = {"a/0": data["a/0"], "a/1": data["a/0"], "b/0": data["b/0"], "b/1": data["b/0"]}
    scores = pairwise(
        data, k=5, permutations=25, keep_draws=True, arithmetic=arithmetic, groups=groups
    )
    for a, b in ((["a/0", "a/1"], ["b/0", "b/1"]), (["b/0", "b/1"], ["a/0", "a/1"])):
        null = scores.null.sel(model_a=a, model_b=b).values
        assert np.ptp(null, axis=1).min() > 0.005
        assert np.ptp(null, axis=(2, 3)).max() < 1e-5


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    draws=st.sampled_from([1, 19, 60]),
    kinds=st.permutations(["plain", "copies", "one_feature", "constant"]),
)
def test_one_layer_a_model_changes_nothing(seed: int, draws: int, kinds: list[str]) -> None:
    data = {
        kind: np.ones((70, 2)) if kind == "constant" else made_up_pair(kind)[0] for kind in kinds
    }
    scores = pairwise(data, k=5, permutations=draws, seed=seed, keep_draws=True)
    found = over_layers(scores, {kind: kind.upper() for kind in kinds})
    assert list(found.model_a) == [kind.upper() for kind in kinds]
    for name in PAIR_METRICS:
        np.testing.assert_array_equal(found[name], scores[name])
    np.testing.assert_array_equal(found.p_value, scores.p_value)
    for name in ("null_quantile", "null_mean"):
        np.testing.assert_allclose(found[name], scores[name], rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(found.calibrated, scores.calibrated, atol=1e-5)
    undefined = found.layer_pairs == 0
    assert ((found.layer_a == "") == undefined).all() and bool(undefined.any())


def test_the_best_layers_are_found_and_their_null_is_that_of_the_best() -> None:
    data = layered(0, {"a": 3, "b": 2})
    data["b/1"] = data["a/2"] + 0.3 * np.random.default_rng(1).normal(size=data["a/2"].shape)
    scores = pairwise(data, k=5, permutations=99, keep_draws=True)
    found = over_layers(scores, model_of(data)).sel(model_a="a", model_b="b")
    assert (found.layer_pairs == 6).all()
    assert (found.layer_a == "a/2").all() and (found.layer_b == "b/1").all()
    rows, columns = ["a/0", "a/1", "a/2"], ["b/0", "b/1"]
    for name in PAIR_METRICS:
        value = scores[name].sel(model_a=rows, model_b=columns).values
        null = scores.null.sel(metric=name, model_a=rows, model_b=columns).values
        larger = metrics.CARDS[name].larger_is_similar
        best, drawn = (value.max(), null.max(axis=(1, 2))) if larger else (
            value.min(), null.min(axis=(1, 2)))  # fmt: skip
        assert found[name] == best
        reached = (drawn >= np.float32(best)) if larger else (drawn <= np.float32(best))
        assert float(found.p_value.sel(metric=name)) == (1 + reached.sum()) / 100
        own = scores.null_quantile.sel(metric=name, model_a="a/2", model_b="b/1")
        threshold = found.null_quantile.sel(metric=name)
        assert threshold > own if larger else threshold < own  # more is asked of the best of six
    assert (found.calibrated > 0.02).all()


def test_p_values_of_unrelated_models_are_uniform_and_the_least_of_many_is_not() -> None:
    corrected, naive = [], []
    for seed in range(100):
        data = layered(seed, {"a": 5, "b": 5}, n=30)
        scores = pairwise(
            data,
            metrics=["mutual_knn", "linear_cka", "information_imbalance"],
            k=5,
            permutations=39,
            seed=seed,
            keep_draws=True,
        )
        found = over_layers(scores, model_of(data))
        corrected.append(found.p_value.sel(model_a="a", model_b="b").values)
        pairs = scores.p_value.isel(model_a=slice(5), model_b=slice(5, 10))
        naive.append(pairs.min(["model_a", "model_b"]).values)
    levels = np.arange(1, 40) / 40
    limit = 1.95 / np.sqrt(100)  # Kolmogorov-Smirnov at 0.1 %

    def above(p: list[np.ndarray]) -> np.ndarray:
        return (np.array(p)[:, :, None] <= levels + 1e-9).mean(axis=0) - levels

    # Ties of counted neighbours make p-values larger, never smaller.
    assert above(corrected).max() < limit and np.abs(above(corrected)[1:]).max() < limit
    assert (above(naive).max(axis=1) > 1.5 * limit).all()


def test_errors_name_the_chart_and_the_mend() -> None:
    data = layered(0, {"a": 2, "b": 1}, n=20)
    options: dict[str, Any] = {"metrics": ["mutual_knn"], "k": 3, "keep_draws": True}
    scores = pairwise(data, permutations=5, **options)
    with pytest.raises(MetricError, match="keep_draws=True"):
        over_layers(pairwise(data, **options), model_of(data))
    with pytest.raises(MetricError, match="'b/0' of the scores has no model"):
        over_layers(scores, {"a/0": "a", "a/1": "a"})
    with pytest.raises(MetricError, match="chart 'c/0', not one of the scores"):
        over_layers(scores, model_of(data) | {"c/0": "c"})
    apart = {chart: data[chart] for chart in ("a/0", "b/0", "a/1")}
    with pytest.raises(MetricError, match="'a' do not stand together"):
        over_layers(pairwise(apart, permutations=5, **options), model_of(apart))
