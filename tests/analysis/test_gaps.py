# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from atlas_factory import make_cards
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu, norm

from matteratlas.analysis.density import density_gaps, nearest_by_group
from matteratlas.analysis.gaps import Gap, distribution_gaps, false_discovery, gap_table
from matteratlas.schemas.scores import GAPS

CARDS = make_cards()[0]


def gap(region: str, lost: float, p: float | None, kind: str = "agreement") -> Gap:
    return Gap(
        kind=kind,  # type: ignore[arg-type]
        region=region,
        statistic="s",
        n=5,
        value=1.0,
        reference=2.0,
        lost=lost,
        evidence="because",
        p_value=p,
    )


def test_only_gaps_that_pass_the_test_have_a_severity() -> None:
    table = gap_table(
        [
            gap("mild", 0.2, 0.001),
            gap("strong", 0.6, 0.01),
            gap("large but unsure", 0.9, 0.4),
            gap("better", -0.3, 0.999),
            gap("counted", 0.4, None, kind="coverage"),
        ],
        release="r",
    )
    GAPS.validate(table)
    ranked = table[table["kind"] == "agreement"]
    assert list(ranked["region"]) == ["strong", "mild", "large but unsure", "better"]
    assert list(ranked["severity"]) == [0.6, 0.2, 0.0, 0.0]
    assert list(ranked["rank"]) == [1, 2, 3, 4]
    # Benjamini-Hochberg by hand: sorted p times m over its place, made monotone from the end.
    assert list(ranked["q_value"]) == pytest.approx([0.02, 0.004, 1.6 / 3, 0.999])
    counted = table[table["kind"] == "coverage"].iloc[0]
    assert (counted["severity"], counted["rank"]) == (0.4, 1)
    assert np.isnan(counted["q_value"])


def test_no_gaps_make_an_empty_valid_table() -> None:
    assert len(GAPS.validate(gap_table([], release="r"))) == 0


def test_q_values_stay_within_their_group() -> None:
    table = pd.DataFrame({"g": ["a", "a", "b", "b"], "p_value": [0.02, 0.04, 0.02, np.nan]})
    np.testing.assert_allclose(false_discovery(table, ["g"]), [0.04, 0.04, 0.02, np.nan])


def scores(values: dict[tuple[str, str], tuple[float, float]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pair and selection tables of one contrast: two draws inside, one outside."""
    names = [f"in:crystal~out:crystal|g|{side}" for side in ("in.0", "in.1", "out.0")]
    selections = pd.DataFrame(
        {
            "selection": names,
            "role": "contrast",
            "contrast": "in:crystal~out:crystal",
            "group": "g",
            "side": ["in", "in", "out"],
        }
    )
    rows = []
    for (a, b), (inside, outside) in values.items():
        for name, value in zip(names, (inside - 0.02, inside + 0.02, outside), strict=True):
            rows.append(
                {
                    "selection": name,
                    "metric": "mutual_knn",
                    "model_a": a,
                    "layer_a": "last",
                    "model_b": b,
                    "layer_b": "last",
                    "n": 50,
                    "value": 0.2 + 0.8 * value,
                    "null_quantile": 0.2,
                    "calibrated": value,
                    "standard_error": 0.8 * 0.03,
                }
            )
    return pd.DataFrame(rows), selections


def test_what_a_model_loses_outside_its_domains_by_hand() -> None:
    pairs, selections = scores(
        {
            ("lattice-a", "lattice-b"): (0.9, 0.9),  # of one family: left out
            ("lattice-a", "bond-a"): (0.6, 0.3),
            ("lattice-a", "field-a"): (0.4, 0.3),
        }
    )
    found = {g.model: g for g in distribution_gaps(pairs, selections, cards=CARDS)}
    assert set(found) == {"lattice-a", "lattice-b", "bond-a", "field-a"}
    own = found["lattice-a"]
    assert (own.reference, own.value) == pytest.approx((0.5, 0.3))
    # The errors of partners are taken as fully correlated: they do not shrink with their number.
    assert own.standard_error == pytest.approx(0.03 * np.sqrt(2))
    assert own.p_value == pytest.approx(norm.sf(0.2 / (0.03 * np.sqrt(2))))
    assert own.lost == pytest.approx(0.4)
    assert own.n == own.reference_n == 50
    # A model whose only partners are its variants is compared with them.
    assert found["lattice-b"].reference == pytest.approx(0.9)
    assert found["lattice-b"].lost == pytest.approx(0.0)


def test_variants_of_a_partner_count_once() -> None:
    pairs, selections = scores(
        {
            ("lattice-a", "field-a"): (0.6, 0.2),
            ("lattice-b", "field-a"): (0.6, 0.2),
            ("bond-a", "field-a"): (0.2, 0.2),
        }
    )
    found = {g.model: g for g in distribution_gaps(pairs, selections, cards=CARDS)}
    assert found["field-a"].reference == pytest.approx(0.4)


def test_scores_without_a_null_are_contrasted_as_they_are() -> None:
    pairs, selections = scores({("lattice-a", "bond-a"): (0.6, 0.3)})
    pairs[["null_quantile", "calibrated"]] = np.nan
    found = {g.model: g for g in distribution_gaps(pairs, selections, cards=CARDS)}
    assert found["bond-a"].reference == pytest.approx(0.2 + 0.8 * 0.6)
    assert found["bond-a"].standard_error == pytest.approx(0.024 * np.sqrt(2))


def test_nearest_by_group_is_exact() -> None:
    random = np.random.default_rng(0)
    base, queries = random.normal(size=(40, 5)) + 100.0, random.normal(size=(17, 5)) + 100.0
    groups = random.permutation(np.arange(40) % 3).astype(np.intp)
    distances = cdist(queries, base)
    expected = np.stack([distances[:, groups == g].min(axis=1) for g in range(3)], axis=1)
    np.testing.assert_allclose(nearest_by_group(queries, base, groups), expected, rtol=1e-9)
    alone = cdist(base, base)
    np.fill_diagonal(alone, np.inf)
    expected = np.stack([alone[:, groups == g].min(axis=1) for g in range(3)], axis=1)
    np.testing.assert_allclose(nearest_by_group(base, base, groups, same=True), expected, rtol=1e-9)
    lone = nearest_by_group(base[:3], base[:3], np.arange(3, dtype=np.intp), same=True)
    assert np.isinf(np.diag(lone)).all()


class Reader:
    """What density asks of a chart reader, over given vectors."""

    def __init__(self, vectors: np.ndarray, strata: list[str]) -> None:
        self.vectors = vectors
        ids = [f"s{i:03d}" for i in range(len(vectors))]
        self.place = {s: i for i, s in enumerate(ids)}
        self.structures = pd.DataFrame({"id": ids, "set": "x", "stratum": strata})
        self.presence = pd.DataFrame({"bond-a": True}, index=pd.Index(ids))
        self.charts = {"bond-a": type("C", (), {"card": CARDS["bond-a"]})}

    def rows(self, key: str, ids: list[str]) -> np.ndarray:
        return self.vectors[[self.place[i] for i in ids]]


def density(vectors: np.ndarray, notes: list[str] | None = None) -> dict[str, Gap]:
    """60 rows inside in two strata, then 20 outside and near, 20 outside and far."""
    reader = Reader(vectors, ["a"] * 30 + ["b"] * 30 + ["near"] * 20 + ["far"] * 20)
    relations = pd.DataFrame(
        {"bond-a": ["in"] * 60 + ["out"] * 40}, index=reader.presence.index, dtype=object
    )
    found = density_gaps(
        reader,  # type: ignore[arg-type]
        relations,
        least=30,
        max_rows=1000,
        normalise="none",
        notes=notes,
    )
    return {g.region: g for g in found}


def test_a_far_stratum_is_sparse_and_a_near_one_is_not() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(100, 3))
    vectors[80:, 0] += 8.0
    found = density(vectors)
    far, near = found["x:far"], found["x:near"]
    alone = cdist(vectors[:60], vectors[:60])
    np.fill_diagonal(alone, np.inf)
    apart = alone.copy()
    apart[:30, :30] = apart[30:, 30:] = np.inf
    out = cdist(vectors[80:], vectors[:60]).min(axis=1)
    scale = np.median(alone.min(axis=1))
    assert far.value == pytest.approx(np.median(out) / scale)
    assert far.reference == pytest.approx(np.median(apart.min(axis=1)) / scale)
    assert far.p_value == pytest.approx(
        mannwhitneyu(out, apart.min(axis=1), alternative="greater", method="asymptotic").pvalue
    )
    assert far.lost == pytest.approx(1 - far.reference / far.value)
    assert (far.n, far.reference_n) == (20, 60)
    assert far.value > 4 * near.value
    assert near.p_value is not None
    assert near.p_value > 0.05
    assert 0 < float(far.standard_error or 0) < far.value


def test_a_model_without_scale_is_noted() -> None:
    vectors = np.repeat(np.random.default_rng(0).normal(size=(10, 3)), 10, axis=0)
    notes: list[str] = []
    assert density(vectors, notes) == {}
    assert notes == ["density of bond-a: most in-distribution rows have an equal; no scale"]
