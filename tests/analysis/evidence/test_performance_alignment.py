# SPDX-License-Identifier: Apache-2.0
"""Correlations of error with alignment: what is planted is found, with honest intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, rankdata, spearmanr

from matteratlas.analysis.evidence.alignment import (
    _ranks,
    _weighted,
    correlate,
    correlation_table,
)
from matteratlas.analysis.tables import typed
from matteratlas.schemas.performance import PERFORMANCE_ALIGNMENT, PERFORMANCE_CORRELATION


def points(
    families: dict[str, list[tuple[float, float]]], *, reference_family: str = "best"
) -> pd.DataFrame:
    """A joined table of one region from (alignment, log10 error) by family."""
    rows = [
        {
            "release": "r",
            "set": "s",
            "label": "energy",
            "method": "own_energy",
            "metric": "cknna",
            "selection": "crystals",
            "reference": "best-1",
            "reference_family": reference_family,
            "reference_rule": "best_performer",
            "model": f"{family}-{i}",
            "family": family,
            "counted": True,
            "mae": 10.0**error,
            "mae_standard_error": 0.1,
            "baseline": 5.0,
            "n_errors": 50,
            "alignment": alignment,
            "alignment_standard_error": 0.01,
            "value": alignment,
            "n": 50,
            "k": 10,
            "permutations": 99,
            "seed": 0,
        }
        for family, values in families.items()
        for i, (alignment, error) in enumerate(values, 2)
    ]
    table = pd.DataFrame(rows, columns=list(PERFORMANCE_ALIGNMENT.columns))
    return typed(table, PERFORMANCE_ALIGNMENT).astype({"counted": bool})


def planted(slope: float, *, families: int = 12, each: int = 3, noise: float = 0.1, seed: int = 0):
    """Families at random alignments; inside a family error rises by ``slope``, across it falls."""
    random = np.random.default_rng(seed)
    found = {}
    for f in range(families):
        centre = random.uniform(0.2, 0.8)
        within = random.normal(scale=0.05, size=each)
        error = -2.0 * centre + slope * within + noise * random.normal(size=each) / 10
        found[f"f{f}"] = list(zip(centre + within, error, strict=True))
    return points(found)


def scope(table: pd.DataFrame, name: str, statistic: str) -> pd.Series:
    rows = table[(table["scope"] == name) & (table["statistic"] == statistic)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_across_and_within_families_are_told_apart() -> None:
    table = correlation_table(planted(+2.0), seed=1)
    PERFORMANCE_CORRELATION.validate(table)
    for statistic in ("spearman", "pearson"):
        across, within = (scope(table, s, statistic) for s in ("across", "within"))
        assert across["value"] < -0.9 and across["high"] < 0 and across["p_value"] < 0.01
        assert within["value"] > 0.5 and within["low"] > 0 and within["p_value"] < 0.01
        assert (across["n"], across["models"], across["families"]) == (12, 36, 12)
        assert (within["n"], within["families"]) == (36, 12)
        every = scope(table, "all", statistic)
        assert every["value"] < -0.5 and np.isnan(every["p_value"])
        assert every["low"] < every["value"] < every["high"]


def test_no_relation_gives_none() -> None:
    """Over many draws an interval of 95 % holds zero, and p is below 0.05, as often as it says."""
    random = np.random.default_rng(0)
    outside, low_p = [], []
    for seed in range(120):
        x, y = random.normal(size=(2, 10))
        found = correlate(x, y, np.arange(10), scope="across", ranked=bool(seed % 2), seed=seed)
        outside.append(not found.low <= 0 <= found.high)
        low_p.append(found.p_value < 0.05)
    assert np.mean(outside) < 0.11 and np.mean(low_p) < 0.11
    assert np.sum(outside) > 0


def test_values_are_scipys() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 15)).round(1)
    one = np.ones((1, 15))
    assert _weighted(x, y, one, False)[0] == pytest.approx(pearsonr(x, y).statistic)
    assert _weighted(x, y, one, True)[0] == pytest.approx(spearmanr(x, y).statistic)
    # Weights are copies of points.
    copies = random.integers(0, 4, size=15)
    a, b = np.repeat(x, copies), np.repeat(y, copies)
    weights = copies[None].astype(float)
    assert _weighted(x, y, weights, False)[0] == pytest.approx(pearsonr(a, b).statistic)
    assert _weighted(x, y, weights, True)[0] == pytest.approx(spearmanr(a, b).statistic)
    np.testing.assert_allclose(np.repeat(_ranks(x, weights)[0], copies), rankdata(a))


def test_fishers_interval_by_hand() -> None:
    random = np.random.default_rng(3)
    x, y = random.normal(size=(2, 12))
    found = correlate(x, y, np.arange(12), scope="across", ranked=False)
    interval = pearsonr(x, y).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_the_references_family_is_no_point_across_families() -> None:
    random = np.random.default_rng(0)
    found = {f"f{i}": [(random.random(), random.random())] for i in range(6)}
    found["best"] = [(0.99, -5.0), (0.98, -4.0)]
    table = correlation_table(points(found))
    assert set(table.loc[table["scope"] == "across", "n"]) == {6}
    assert set(table.loc[table["scope"] == "all", "n"]) == {8}
    assert "within" not in set(table["scope"])  # one family of two is too little


def test_rows_that_do_not_count_are_left_out() -> None:
    table = planted(0.0)
    less = table.assign(counted=~table["family"].isin(["f0", "f1"]))
    assert set(correlation_table(less).query("scope == 'across'")["families"]) == {10}


def test_too_few_points_make_an_empty_valid_table() -> None:
    for table in (planted(0.0, families=2, each=1), planted(0.0).iloc[:0]):
        found = correlation_table(table)
        assert len(PERFORMANCE_CORRELATION.validate(found)) == 0


def test_points_that_do_not_vary_have_no_correlation() -> None:
    table = points({f"f{i}": [(0.5, float(i))] for i in range(7)})
    assert correlation_table(table).empty


def test_the_same_seed_gives_the_same_numbers() -> None:
    table = planted(1.0)
    pd.testing.assert_frame_equal(
        correlation_table(table, seed=4), correlation_table(table, seed=4)
    )
