# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from made_up import made_up_pair

from matteratlas.analysis import families, metrics, pairwise
from matteratlas.analysis.calibration import jackknife_blocks, permutations
from matteratlas.schemas.errors import MetricError

PAIR_METRICS = [name for name in metrics.METRICS if metrics.CARDS[name].pairwise]


def plain(name, x, y, k=25, **options):
    """The metric's own function, as the matrix of pairwise should hold it."""
    if name == "information_imbalance":
        return metrics.information_imbalance(x, y, **options)[0]
    if name in ("mutual_knn", "cknna"):
        options["k"] = k
    return getattr(metrics, name)(x, y, **options)


def embeddings(n=64):
    """Eight embeddings of the same rows: dense, wide, tables with repeats, one feature."""
    return {
        f"{kind}_{side}": made_up_pair(kind, n=n)[side]
        for kind in ("plain", "wide", "copies", "one_feature")
        for side in (0, 1)
    }


@pytest.fixture(params=["tiles", "features"])
def cka_route(request, monkeypatch):
    cheaper = request.param == "features"
    monkeypatch.setattr(families, "features_are_cheaper", lambda *args, **kwargs: cheaper)


@pytest.mark.parametrize("normalise", [None, "none", "l2", "max"])
def test_values_are_those_of_the_metrics(normalise, cka_route):
    data = embeddings()
    options = {} if normalise is None else {"normalise": normalise}
    result = pairwise(data, k=12, **options)
    for a, x in data.items():
        expected = metrics.intrinsic_dimension(x, **options)
        found = result.intrinsic_dimension.sel(model_a=a).item()
        assert found == pytest.approx(expected, abs=1e-10, nan_ok=True)
        for b, y in data.items():
            for name in PAIR_METRICS:
                found = result[name].sel(model_a=a, model_b=b).item()
                expected = plain(name, x, y, k=12, **options)
                assert found == pytest.approx(expected, abs=1e-10, nan_ok=True), (name, a, b)
    assert np.isfinite(result.cknna.values).mean() > 0.5


@pytest.mark.parametrize("variant", ["masked_centred", "centred_masked"])
@pytest.mark.parametrize("normalise", ["l2", "none"])
def test_variants_and_settings_reach_the_metrics(variant, normalise):
    data = embeddings()
    result = pairwise(
        data,
        metrics=["cknna", "information_imbalance", "intrinsic_dimension"],
        k=9,
        variant=variant,
        normalise={"cknna": normalise},
        imbalance_k=3,
        dimension_method="mle",
        dimension_k=6,
    )
    x, y = data["plain_0"], data["wide_1"]
    at = {"model_a": "plain_0", "model_b": "wide_1"}
    assert result.cknna.sel(at).item() == pytest.approx(
        metrics.cknna(x, y, k=9, variant=variant, normalise=normalise), abs=1e-10
    )
    assert result.information_imbalance.sel(at).item() == pytest.approx(
        metrics.information_imbalance(x, y, k=3)[0], abs=1e-10
    )
    assert result.intrinsic_dimension.sel(model_a="plain_0").item() == pytest.approx(
        metrics.intrinsic_dimension(x, method="mle", k=6), abs=1e-10
    )
    assert result.attrs["cknna_variant"] == variant
    assert json.loads(result.attrs["normalise"]) == {
        "cknna": normalise,
        "information_imbalance": "none",
        "intrinsic_dimension": "none",
    }


def test_standard_errors_are_those_of_leaving_blocks_out(cka_route):
    data = {name: rows for name, rows in embeddings(60).items() if name != "one_feature_0"}
    k = 12
    result = pairwise(data, k=k, seed=3)
    blocks = jackknife_blocks(60, least=k + 1, seed=3)
    count = int(blocks.max()) + 1
    assert result.attrs["jackknife_blocks"] == count == 10

    def error(values):
        values = np.array(values)
        return np.sqrt((count - 1) / count * ((values - values.mean()) ** 2).sum())

    for a, b in [("plain_0", "plain_1"), ("wide_1", "copies_0"), ("copies_1", "wide_0")]:
        x, y = data[a], data[b]
        for name in PAIR_METRICS:
            values = [
                plain(name, x[blocks != block], y[blocks != block], k=k) for block in range(count)
            ]
            found = result.standard_error.sel(metric=name, model_a=a, model_b=b).item()
            assert found == pytest.approx(error(values), abs=1e-9), (name, a, b)
            assert found > 0.0
    for a, x in data.items():
        values = [metrics.intrinsic_dimension(x[blocks != block]) for block in range(count)]
        found = result.intrinsic_dimension_standard_error.sel(model_a=a).item()
        assert found == pytest.approx(error(values), rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("grouped", [False, True])
def test_nulls_are_those_of_relabeled_rows(grouped, cka_route):
    n, count, alpha = 50, 60, 0.1
    data = {name: rows for name, rows in embeddings(n).items() if "plain" in name or "wide" in name}
    groups = np.arange(n) % 2 if grouped else None
    result = pairwise(data, k=8, permutations=count, seed=7, alpha=alpha, groups=groups)
    draws = permutations(n, count, seed=7, groups=groups).indices
    for a, b in [("plain_0", "plain_1"), ("plain_1", "wide_0")]:
        x, y = data[a], data[b]
        for name in PAIR_METRICS:
            card = metrics.CARDS[name]
            sign = 1.0 if card.larger_is_similar else -1.0
            null = np.array([plain(name, x, y[order], k=8) for order in draws])
            value = plain(name, x, y, k=8)
            at = {"metric": name, "model_a": a, "model_b": b}
            assert result.null_mean.sel(at).item() == pytest.approx(null.mean(), abs=1e-5)
            everything = np.sort(sign * np.append(null, value))
            quantile = sign * everything[int(np.ceil((1 - alpha) * (count + 1))) - 1]
            assert result.null_quantile.sel(at).item() == pytest.approx(quantile, abs=1e-4)
            p = (1 + (sign * null >= sign * value).sum()) / (count + 1)
            assert result.p_value.sel(at).item() == pytest.approx(p)
            best = card.best(n, 1)
            expected = max((value - quantile) / (best - quantile), 0.0)
            assert result.calibrated.sel(at).item() == pytest.approx(expected, abs=1e-3)
            if card.symmetric:
                swapped = {"metric": name, "model_a": b, "model_b": a}
                for kind in ("null_mean", "null_quantile", "p_value", "calibrated"):
                    assert result[kind].sel(swapped).item() == result[kind].sel(at).item()
    own = {"model_a": "plain_0", "model_b": "plain_0"}
    assert np.isnan(result.p_value.sel(own)).all()
    assert (result.calibrated.sel(own) == 1.0).all()


def test_p_values_of_unrelated_embeddings_are_uniform():
    """P(p <= a) <= a for every metric at once, and close to it: 300 pairs, 39 draws."""
    random = np.random.default_rng(11)
    found = []
    for seed in range(75):
        data = {str(i): random.normal(size=(40, 5 + i)) for i in range(4)}
        result = pairwise(data, metrics=PAIR_METRICS, k=6, permutations=39, seed=seed)
        for a, b in (("0", "1"), ("2", "3"), ("1", "2"), ("3", "0")):
            found.append(result.p_value.sel(model_a=a, model_b=b).values)
    p = np.array(found)
    assert p.shape == (300, 5)
    levels = np.arange(1, 40) / 40
    shares = (p[:, :, None] <= levels + 1e-9).mean(axis=0)
    # Kolmogorov-Smirnov at 0.1 %; shared models make pairs of one draw slightly dependent.
    assert np.abs(shares - levels).max() < 1.95 / np.sqrt(300)
    assert p.min() == pytest.approx(1 / 40)


def test_groups_take_away_what_groups_explain():
    """Embeddings that share the means of groups only: aligned overall, not within groups."""
    random = np.random.default_rng(1)
    rejected = {"overall": [], "within": []}
    for seed in range(12):
        groups = np.repeat(np.arange(5), 12)
        data = {
            name: 4.0 * random.normal(size=(5, 6))[groups] + random.normal(size=(60, 6))
            for name in "ab"
        }
        for key, labels in (("overall", None), ("within", groups)):
            result = pairwise(
                data, metrics=PAIR_METRICS, k=6, permutations=39, seed=seed, groups=labels
            )
            rejected[key].append(result.p_value.values[:, 0, 1] <= 0.05)
    assert np.mean(rejected["overall"]) > 0.9
    assert np.mean(rejected["within"]) < 0.2


def test_standard_errors_have_the_size_of_the_spread():
    """Over fresh samples of one population: right for smooth metrics, generous for neighbours'."""
    random = np.random.default_rng(6)
    maps = random.normal(size=(4, 10)), random.normal(size=(4, 8))
    values, errors = [], []
    for seed in range(40):
        latent = random.normal(size=(90, 4))
        data = {
            name: np.tanh(latent @ turn) + 0.4 * random.normal(size=(90, turn.shape[1]))
            for name, turn in zip("ab", maps, strict=True)
        }
        result = pairwise(data, metrics=PAIR_METRICS, k=10, seed=seed)
        values.append([result[name].values[0, 1] for name in PAIR_METRICS])
        errors.append(result.standard_error.values[:, 0, 1])
    ratio = np.sqrt(np.mean(np.square(errors), axis=0)) / np.std(values, axis=0, ddof=1)
    smooth = np.isin(PAIR_METRICS, ["linear_cka", "distance_correlation"])
    assert (ratio > 0.75).all(), ratio
    assert (ratio[smooth] < 1.35).all(), ratio
    assert (ratio[~smooth] < 2.2).all(), ratio


def test_layout_of_the_dataset():
    data = dict(list(embeddings(40).items())[:3])
    result = pairwise(data, k=5, permutations=19, seed=2)
    assert dict(result.sizes) == {"model_a": 3, "model_b": 3, "metric": 5}
    assert result.metric.values.tolist() == PAIR_METRICS
    assert result.model_a.values.tolist() == list(data)
    assert result.intrinsic_dimension.dims == ("model_a",)
    for name in ("standard_error", "null_mean", "null_quantile", "p_value", "calibrated"):
        assert result[name].dims == ("metric", "model_a", "model_b")
    attributes = result.attrs
    assert (attributes["n"], attributes["k"], attributes["permutations"]) == (40, 5, 19)
    assert json.loads(attributes["metric_versions"]) == metrics.VERSIONS
    assert all(isinstance(value, (int, float, str)) for value in attributes.values())
    without = pairwise(data, metrics=["linear_cka"])
    assert "p_value" not in without
    assert without.standard_error.sizes["metric"] == 1
    alone = pairwise({"one": data["plain_0"]}, metrics=["intrinsic_dimension"])
    assert set(alone.data_vars) == {"intrinsic_dimension", "intrinsic_dimension_standard_error"}


def test_same_input_same_numbers_whatever_the_threads_or_company():
    data = embeddings(40)
    both = {name: data[name] for name in ("plain_0", "wide_1")}
    first = pairwise(both, k=5, permutations=19, seed=2)
    assert pairwise(both, k=5, permutations=19, seed=2, threads=1).identical(first)
    among = pairwise(data, k=5, permutations=19, seed=2).sel(model_a=list(both), model_b=list(both))
    for name in ("mutual_knn", "cknna", "linear_cka", "p_value", "standard_error"):
        assert among[name].values == pytest.approx(first[name].values, abs=1e-10, nan_ok=True)


def test_constant_embedding_is_nan_and_disturbs_nobody():
    data = dict(list(embeddings(40).items())[:2])
    alone = pairwise(data, k=5, permutations=19)
    result = pairwise(data | {"constant": np.full((40, 3), 0.7)}, k=5, permutations=19)
    for name in PAIR_METRICS:
        assert np.isnan(result[name].sel(model_a="constant")).all()
        assert np.isnan(result[name].sel(model_b="constant")).all()
    for name in ("p_value", "calibrated", "null_quantile", "standard_error"):
        assert np.isnan(result[name].sel(model_b="constant")).all()
        rest = result[name].sel(model_a=list(data), model_b=list(data)).values
        assert rest == pytest.approx(alone[name].values, abs=1e-6, nan_ok=True)
    assert np.isnan(result.intrinsic_dimension.sel(model_a="constant"))


def test_too_few_rows_for_a_jackknife_leave_its_error_unknown():
    x, y = made_up_pair("plain", n=26)
    result = pairwise({"x": x, "y": y}, metrics=["mutual_knn"], k=25)
    assert np.isnan(result.standard_error).all()
    assert result.mutual_knn.values[0, 1] == 1.0  # every other row is a neighbour


def test_memory_stays_below_one_matrix_of_all_pairs_of_rows():
    random = np.random.default_rng(0)
    n = 6000
    data = {name: random.normal(size=(n, 8)).astype(np.float32) for name in "ab"}
    pairwise({name: rows[:200] for name, rows in data.items()}, permutations=2)  # imports
    tracemalloc.start()
    pairwise(data, permutations=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * n * 8 * 0.65


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ["mutual_knn", "rsa"]}, "metric 'rsa' is not one of mutual_knn, cknna"),
        ({"metrics": []}, "no metrics asked for; choose from mutual_knn"),
        ({"normalise": "zscore"}, "normalise='zscore' is not one of l2, max, none"),
        ({"normalise": {"cka": "l2"}}, "normalise names 'cka', not one of mutual_knn"),
        ({"alpha": 0.0}, "alpha=0.0 is not between 0 and 1"),
        ({"permutations": -5}, "permutations=-5 is not a whole number"),
        ({"k": 40}, "k=40 needs more than 40 rows, there are 40"),
        ({"imbalance_k": 0}, "imbalance_k=0 is not a whole number of at least 1"),
        ({"dimension_method": "mle"}, "dimension_k=50 needs more than 50 rows"),
        ({"dimension_method": "pca"}, "method='pca' is not one of twonn, mle"),
        ({"variant": "cka"}, "variant='cka' is not one of"),
        ({"groups": np.zeros(3)}, r"groups has shape \(3,\)"),
    ],
)
def test_bad_settings_are_named(change, message):
    x, y = made_up_pair("plain", n=40)
    with pytest.raises(MetricError, match=message):
        pairwise({"x": x, "y": y}, **change)


def test_bad_data_is_named_by_model():
    x, y = made_up_pair("plain", n=40)
    with pytest.raises(MetricError, match="no models given"):
        pairwise({})
    with pytest.raises(MetricError, match="model 'y' has 39 rows, model 'x' has 40"):
        pairwise({"x": x, "y": y[1:]})
    y = y.copy()
    y[4, 1] = np.nan
    with pytest.raises(MetricError, match="model 'y': 1 of 40 rows are not finite, the first is"):
        pairwise({"x": x, "y": y})


def test_the_name_is_the_function_however_it_is_imported():
    import importlib

    import matteratlas.analysis as analysis

    importlib.import_module("matteratlas.analysis.pairwise")
    assert analysis.pairwise is pairwise
    assert callable(analysis.pairwise)
    assert analysis.metrics is metrics
