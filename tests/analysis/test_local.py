# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matteratlas.analysis import metrics
from matteratlas.analysis.local import agreement_gaps, local_agreement, row_overlaps
from matteratlas.analysis.selections import ids_sha256


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), n=st.integers(4, 30), data=st.data())
def test_overlaps_are_set_intersections(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n - 1))
    random = np.random.default_rng(seed)
    first, second = (
        np.stack([random.permutation(n)[:k] for _ in range(n)]).astype(np.int32) for _ in range(2)
    )
    expected = [len(set(a) & set(b)) / k for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(row_overlaps(first, second), expected)


def test_mean_over_rows_is_mutual_knn() -> None:
    random = np.random.default_rng(0)
    z = random.normal(size=(80, 5))
    x, y = z @ random.normal(size=(5, 9)), z + random.normal(size=z.shape)
    agreement, pairs = local_agreement({"x": x, "y": y}, k=7)
    assert pairs == 1
    assert agreement.mean() == pytest.approx(metrics.mutual_knn(x, y, k=7), abs=1e-12)


def test_unrelated_models_agree_at_the_null() -> None:
    random = np.random.default_rng(0)
    data = {f"m{i}": random.normal(size=(300, 8)) for i in range(6)}
    agreement, pairs = local_agreement(data, k=10)
    assert pairs == 15
    assert agreement.mean() == pytest.approx(10 / 299, rel=0.05)


def test_variants_of_one_family_count_once() -> None:
    random = np.random.default_rng(0)
    z = random.normal(size=(60, 4))
    data = {"a": z + 0.3 * random.normal(size=z.shape), "b": z, "c": random.normal(size=z.shape)}
    plain, _ = local_agreement(data, k=6)
    copies = {**data, "a2": data["a"] * 2.0, "a3": data["a"] * 5.0}
    families = {"a": "a", "a2": "a", "a3": "a", "b": "b", "c": "c"}
    weighed, pairs = local_agreement(copies, k=6, families=families)
    assert pairs == 7  # of 10, three are within the family
    np.testing.assert_allclose(weighed, plain)
    alone, pairs = local_agreement(
        {"a": data["a"], "a2": copies["a2"]}, k=6, families={"a": "a", "a2": "a"}
    )
    assert pairs == 1
    np.testing.assert_allclose(alone, 1.0)


def table(agreement: np.ndarray, strata: list[str]) -> pd.DataFrame:
    n = len(agreement)
    return pd.DataFrame(
        {
            "id": [f"s{i}" for i in range(n)],
            "set": "ores",
            "stratum": strata,
            "selection": "crystals",
            "selection_sha256": ids_sha256(f"s{i}" for i in range(n)),
            "n": n,
            "k": 10,
            "pairs": 3,
            "agreement": agreement,
            "null": 10 / (n - 1),
        }
    )


def test_a_poor_stratum_is_found_and_a_rich_one_is_not_a_gap() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(m, 0.05, 40) for m in (0.3, 0.5, 0.7)])
    gaps = {
        g.region: g
        for g in agreement_gaps(table(values, ["poor"] * 40 + ["usual"] * 40 + ["rich"] * 40))
    }
    poor = gaps["ores:poor"]
    assert poor.p_value == 1e-4  # none of 9,999 relabelings is as low
    assert gaps["ores:rich"].p_value == 1.0
    assert poor.value == pytest.approx(values[:40].mean())
    assert poor.reference == pytest.approx(values.mean())
    null = 10 / 119
    assert poor.lost == pytest.approx((poor.reference - poor.value) / (poor.reference - null))
    assert poor.standard_error == pytest.approx(values[:40].std(ddof=1) / np.sqrt(40))
    assert gaps["ores:rich"].lost < 0


def test_p_values_are_uniform_where_nothing_is_planted() -> None:
    random = np.random.default_rng(1)
    strata = ["a"] * 10 + ["b"] * 25 + ["c"] * 45
    p_values = [
        g.p_value
        for seed in range(60)
        for g in agreement_gaps(table(random.integers(0, 11, 80) / 10, strata), seed=seed)
        if g.region == "ores:b"
    ]
    assert len(p_values) == 60
    counts, _ = np.histogram(p_values, bins=4, range=(0, 1))
    assert counts.min() >= 5  # 15 expected; binomial(60, 1/4) is below 5 once in 4,000
    assert np.mean(np.array(p_values) < 0.05) <= 0.15


def test_equal_agreement_everywhere_is_no_evidence() -> None:
    gaps = agreement_gaps(table(np.full(60, 0.4), ["a"] * 30 + ["b"] * 30))
    assert [g.p_value for g in gaps] == [1.0, 1.0]
    assert [g.lost for g in gaps] == pytest.approx([0.0, 0.0])


def test_strata_of_few_rows_and_lone_strata_are_not_tested() -> None:
    random = np.random.default_rng(0)
    gaps = agreement_gaps(table(random.random(50), ["a"] * 4 + ["b"] * 46))
    assert [g.region for g in gaps] == ["ores:b"]
    assert agreement_gaps(table(random.random(50), ["a"] * 50)) == []
