# SPDX-License-Identifier: Apache-2.0
"""Laws every metric keeps, on embeddings drawn by hypothesis; and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from matteratlas.analysis import metrics
from matteratlas.schemas.errors import MetricError

K = 5
SCORES = {
    "mutual_knn": lambda x, y: metrics.mutual_knn(x, y, k=K),
    "cknna": lambda x, y: metrics.cknna(x, y, k=K),
    "cknna_masked_centred": lambda x, y: metrics.cknna(x, y, k=K, variant="masked_centred"),
    "cknna_centred_masked": lambda x, y: metrics.cknna(x, y, k=K, variant="centred_masked"),
    "linear_cka": metrics.linear_cka,
    "linear_cka_biased": lambda x, y: metrics.linear_cka(x, y, unbiased=False),
    "distance_correlation": metrics.distance_correlation,
    "distance_correlation_v": lambda x, y: metrics.distance_correlation(x, y, estimator="v"),
    "information_imbalance": lambda x, y: metrics.information_imbalance(x, y)[0],
    "information_imbalance_share": lambda x, y: metrics.information_imbalance(
        x, y, k=K, ties="share"
    )[0],
    "intrinsic_dimension": lambda x, y: metrics.intrinsic_dimension(x),
    "rbf_cka": metrics.rbf_cka,
    "rbf_cka_biased": lambda x, y: metrics.rbf_cka(x, y, unbiased=False, fraction=0.5),
    "rsa": metrics.rsa,
    "rsa_spearman": lambda x, y: metrics.rsa(x, y, compare="spearman"),
    "rsa_cosine": lambda x, y: metrics.rsa(x, y, distance="cosine", compare="cosine"),
    "svcca": metrics.svcca,
    "procrustes": metrics.procrustes,
    "cycle_knn": lambda x, y: metrics.cycle_knn(x, y, k=K),
    "local_knn_agreement": lambda x, y: metrics.local_knn_agreement(x, y, k=K).mean(),
    "local_knn_agreement_rank": lambda x, y: metrics.local_knn_agreement(
        x, y, k=K, measure="rank"
    ).mean(),
    "idcor": lambda x, y: metrics.idcor(x, y).value,
}
DIRECTED = ("information_imbalance", "information_imbalance_share", "cycle_knn")
SYMMETRIC = [name for name in SCORES if name not in (*DIRECTED, "intrinsic_dimension")]
ANGULAR = ("mutual_knn", "cknna", "cycle_knn", "local_knn", "idcor", "rsa_cosine")
TRANSLATED = [name for name in SCORES if not name.startswith(ANGULAR)]
BOUNDS = {
    "mutual_knn": (0.0, 1.0),
    "linear_cka": (-1.0, 1.0),
    "linear_cka_biased": (0.0, 1.0),
    "distance_correlation": (-1.0, 1.0),
    "distance_correlation_v": (0.0, 1.0),
    "information_imbalance": (0.0, 2.0),
    "information_imbalance_share": (0.0, 2.0),
    "intrinsic_dimension": (0.0, np.inf),
    "rbf_cka": (-1.0, 1.0),
    "rbf_cka_biased": (0.0, 1.0),
    "rsa": (-1.0, 1.0),
    "rsa_spearman": (-1.0, 1.0),
    "rsa_cosine": (0.0, 1.0),
    "svcca": (0.0, 1.0),
    "procrustes": (0.0, 1.0),
    "cycle_knn": (0.0, 1.0),
    "local_knn_agreement": (0.0, 1.0),
    "local_knn_agreement_rank": (-1.0, 1.0),
}


@st.composite
def embeddings(draw):
    """Two embeddings of the same rows, more or less related, of any widths."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(12, 60))
    widths = draw(st.tuples(st.integers(2, 80), st.integers(2, 80)))
    noise = draw(st.sampled_from([0.05, 0.5, 5.0]))
    latent = random.normal(size=(n, 4))
    x, y = (
        np.tanh(latent @ random.normal(size=(4, d))) + noise * random.normal(size=(n, d))
        for d in widths
    )
    return x, y, random


laws = settings(max_examples=12, deadline=None, derandomize=True)


@pytest.mark.parametrize("name", SYMMETRIC)
@laws
@given(drawn=embeddings())
def test_symmetric(name, drawn):
    x, y, _ = drawn
    assert SCORES[name](x, y) == pytest.approx(SCORES[name](y, x), abs=1e-12)


@pytest.mark.parametrize("name", sorted(BOUNDS))
@laws
@given(drawn=embeddings())
def test_bounds(name, drawn):
    low, high = BOUNDS[name]
    assert low - 1e-12 <= SCORES[name](*drawn[:2]) <= high + 1e-12


@pytest.mark.parametrize("name", sorted(set(SYMMETRIC) - {"local_knn_agreement_rank"}))
@laws
@given(drawn=embeddings())
def test_an_embedding_equals_itself(name, drawn):
    x = drawn[0]
    assert SCORES[name](x, x) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("name", sorted(SCORES))
@laws
@given(drawn=embeddings(), factor=st.floats(1e-3, 1e3))
def test_rotation_reflection_and_scale_do_not_matter(name, drawn, factor):
    x, y, random = drawn
    turn = ortho_group.rvs(x.shape[1], random_state=random)
    expected = SCORES[name](x, y)
    assert SCORES[name](factor * x @ turn, y) == pytest.approx(expected, abs=1e-8, rel=1e-8)
    assert SCORES[name](x, factor * y[:, ::-1]) == pytest.approx(expected, abs=1e-8, rel=1e-8)


@pytest.mark.parametrize("name", sorted(TRANSLATED))
@laws
@given(drawn=embeddings(), shift=st.floats(-100.0, 100.0))
def test_translation_does_not_matter(name, drawn, shift):
    x, y, _ = drawn
    expected = SCORES[name](x, y)
    assert SCORES[name](x + shift, y - shift) == pytest.approx(expected, abs=1e-8, rel=1e-8)


@pytest.mark.parametrize("name", sorted(set(SCORES) - set(TRANSLATED)))
@laws
@given(drawn=embeddings())
def test_length_of_rows_does_not_matter_to_directions(name, drawn):
    x, y, random = drawn
    lengths = random.uniform(0.1, 10.0, size=(len(x), 1))
    assert SCORES[name](x * lengths, y) == pytest.approx(SCORES[name](x, y), abs=1e-9)


@pytest.mark.parametrize("name", sorted(SCORES))
@laws
@given(drawn=embeddings())
def test_order_of_rows_does_not_matter(name, drawn):
    x, y, random = drawn
    order = random.permutation(len(x))
    assert SCORES[name](x[order], y[order]) == pytest.approx(SCORES[name](x, y), abs=1e-9, rel=1e-9)


@pytest.mark.parametrize("name", sorted(SCORES))
@laws
@given(drawn=embeddings())
def test_float32_gives_nearly_the_same(name, drawn):
    x, y = drawn[0].astype(np.float32), drawn[1].astype(np.float32)
    expected = SCORES[name](x.astype(np.float64), y.astype(np.float64))
    assert SCORES[name](x, y) == expected


@pytest.mark.parametrize("name", sorted(set(SCORES) - {"intrinsic_dimension"}))
def test_constant_embedding_is_undefined(name):
    x = np.random.default_rng(0).normal(size=(20, 4))
    constant = np.full((20, 3), 0.1)
    assert np.isnan(SCORES[name](x, constant))
    assert np.isnan(SCORES[name](constant, x))


def test_constant_embedding_has_no_dimension():
    assert np.isnan(metrics.intrinsic_dimension(np.full((20, 3), 0.1)))


@pytest.mark.parametrize("name", sorted(set(SCORES) - {"intrinsic_dimension"}))
def test_misfit_is_refused(name):
    x = np.random.default_rng(0).normal(size=(20, 4))
    with pytest.raises(MetricError, match="x has 20 rows and y has 19; align them"):
        SCORES[name](x, x[1:])


@pytest.mark.parametrize("name", sorted(SCORES))
def test_bad_rows_are_counted_and_named(name):
    x = np.random.default_rng(0).normal(size=(20, 4))
    broken = x.copy()
    broken[[3, 11], [0, 2]] = np.nan, np.inf
    with pytest.raises(MetricError, match="x: 2 of 20 rows are not finite, the first is row 3"):
        SCORES[name](broken, x)
    with pytest.raises(MetricError, match="x: 3 rows, at least 4 are needed"):
        SCORES[name](x[:3], x[:3])
    with pytest.raises(MetricError, match=r"x: shape \(20, 2, 2\) is not \(rows, features\)"):
        SCORES[name](x.reshape(20, 2, 2), x)
    with pytest.raises(MetricError, match=r"x: no features \(shape \(20, 0\)\)"):
        SCORES[name](x[:, :0], x)
    with pytest.raises(MetricError, match="x: dtype complex128 is not real numbers"):
        SCORES[name](x + 0j, x)


@pytest.mark.parametrize(
    "name", ["mutual_knn", "cknna", "information_imbalance", "cycle_knn", "local_knn_agreement"]
)
def test_too_many_neighbours_are_refused(name):
    x = np.random.default_rng(0).normal(size=(20, 4))
    function = getattr(metrics, name)
    assert np.all(np.isfinite(function(x, x, k=19)))
    with pytest.raises(MetricError, match="k=20 needs more than 20 rows, there are 20; lower k"):
        function(x, x, k=20)
    with pytest.raises(MetricError, match=r"k=2\.5 is not a whole number"):
        function(x, x, k=2.5)
    with pytest.raises(MetricError, match="normalise='L2' is not one of l2, max, none"):
        function(x, x, k=5, normalise="L2")
