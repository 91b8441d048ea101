# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import made_rows
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matteratlas.analysis.evidence import collapse
from matteratlas.analysis.evidence.collapse import (
    PATH,
    STATISTICS,
    collapse_stage,
    isotropy,
    minor_share,
    tail,
    unit_rows,
)
from matteratlas.analysis.evidence.cues import composition_features
from matteratlas.analysis.gaps import gap_table
from matteratlas.schemas.retention import COLLAPSE
from matteratlas.schemas.scores import GAPS

N, D = 300, 24
STRATA = ("known", "known", "flat", "fine", "bent")


def found(seed: int, *, plant: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A model whose rows lie alike in all strata but, where planted, two."""
    random = np.random.default_rng(seed)
    table = made_rows.structures(N, seed, strata=STRATA, target=np.zeros(N))
    rows = random.normal(size=(N, D)) + 0.5
    if plant:
        flat, bent = ((table["stratum"] == s).to_numpy() for s in ("flat", "bent"))
        rows[flat] = random.normal(size=(flat.sum(), 2)) @ random.normal(size=(2, D))
        rows[bent] = 0.2 * random.normal(size=(bent.sum(), D)) + random.normal(size=D) * 2
    evidence = made_rows.evidence(table, {"m": {"rows": rows}}, outside=("flat", "fine", "bent"))
    findings = collapse_stage(evidence)
    return (
        COLLAPSE.validate(findings.tables[PATH]),
        GAPS.validate(gap_table(findings.gaps, release="1")),
    )


def test_a_planted_collapse_is_found_and_ranks_first() -> None:
    table, gaps = found(0, plant=True)
    assert set(table["region"]) == {"made:flat", "made:fine", "made:bent"}
    assert set(table["statistic"]) == set(STATISTICS)
    proven = gaps[gaps["severity"] > 0]
    regions = proven.groupby("region")["statistic"].agg(set)
    assert set(regions.index) == {"made:flat", "made:bent"}
    assert {"effective_rank", "minor_share", "dimension_twonn", "dimension_mle"} <= regions[
        "made:flat"
    ]
    assert "isotropy" in regions["made:bent"] and "isotropy" not in regions["made:flat"]
    assert gaps.iloc[0]["severity"] > 0.5 and gaps.iloc[0]["region"] != "made:fine"
    rank = table.set_index(["region", "statistic"]).loc[("made:flat", "effective_rank")]
    assert rank["value"] < 2.1 < rank["low"] < rank["reference"] < rank["high"]


def test_matched_strata_are_no_gaps() -> None:
    """Strata drawn alike: single tests at 5 %, and families of them at a false discovery rate."""
    tables, proven = [], 0
    for seed in range(1, 7):
        table, gaps = found(seed, plant=False)
        tables.append(table)
        proven += gaps.loc[gaps["severity"] > 0, "statistic"].nunique()
    p = pd.concat(tables)["p_value"]
    assert len(p) == 6 * 3 * len(STATISTICS)
    assert (p < 0.05).mean() < 0.08 and p.between(0, 1).all()
    assert 0.4 < p.mean() < 0.9
    assert proven <= 3  # of 30 families; 1.5 are expected at most


def test_strata_of_little_variety_are_not_held_against_mixtures() -> None:
    """Two formulas in all rows of a stratum: its rows lie close together, and that is right."""
    random = np.random.default_rng(3)
    table = made_rows.structures(N, 3, strata=STRATA, target=np.zeros(N))
    narrow = (table["stratum"] == "flat").to_numpy()
    table.loc[narrow, "formula"] = [f"Li{1 + i % 2}O" for i in range(narrow.sum())]
    said = composition_features(table.set_index("id"))
    rows = said @ random.normal(size=(said.shape[1], D))
    rows += 0.5 * random.normal(size=rows.shape)
    evidence = made_rows.evidence(table, {"m": {"rows": rows}}, outside=("flat", "fine", "bent"))
    findings = collapse_stage(evidence)
    out = findings.tables[PATH].set_index(["region", "statistic"])
    flat = out.loc["made:flat"]
    for statistic in ("effective_rank", "minor_share"):
        assert flat.loc[statistic, "variety"] < 0.7
        assert flat.loc[statistic, "value"] < 0.9 * flat.loc[statistic, "inside"]
        assert flat.loc[statistic, "p_value"] > 0.01
    fine = out.loc["made:fine", "variety"]
    assert fine[["effective_rank", "isotropy", "minor_share"]].min() > 0.9


@given(st.integers(0, 99), st.floats(0.01, 100))
@settings(max_examples=10, deadline=None)
def test_statistics_do_not_hang_on_rotation_scale_or_order(seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(30, 6)) + 1.0
    turned = scale * x[random.permutation(30)] @ np.linalg.qr(random.normal(size=(6, 6)))[0]
    for name, (measure, _) in STATISTICS.items():
        assert measure(unit_rows(x)) == pytest.approx(measure(unit_rows(turned)), rel=1e-6), name


def test_isotropy_and_minor_share_are_what_they_say() -> None:
    random = np.random.default_rng(1)
    x = unit_rows(random.normal(size=(40, 5)) + 0.4)
    cosines = (x @ x.T)[~np.eye(40, dtype=bool)]
    assert isotropy(x) == pytest.approx(1 - cosines.mean())
    values = np.linalg.eigvalsh(np.cov(x.T))
    assert minor_share(x) == pytest.approx(1 - values[-1] / values.sum())
    wide = random.normal(size=(8, 50))
    values = np.linalg.eigvalsh(np.cov(wide.T))
    assert minor_share(wide) == pytest.approx(1 - values[-1] / values.sum())
    assert minor_share(np.outer(np.arange(5.0), [1.0, 2.0])) == pytest.approx(0.0)


def test_tails_are_shares_and_beyond_all_draws_normal() -> None:
    drawn = np.exp(np.random.default_rng(2).normal(size=99))
    assert tail(np.inf, drawn) == 1.0
    middle = float(np.sort(drawn)[49])
    assert tail(middle, drawn) == pytest.approx(0.51)
    assert tail(1e-9, drawn) == collapse.FLOOR
    assert tail(float(drawn.min()) * 0.99, drawn) <= 0.01
    assert tail(0.0, drawn) == pytest.approx(0.01)


def test_equal_rows_and_small_strata_are_left_out() -> None:
    table = made_rows.structures(60, 4, strata=("known", "known", "odd"), target=np.zeros(60))
    rows = np.random.default_rng(4).normal(size=(60, 5))
    rows[(table["stratum"] == "odd").to_numpy()] = 1.0
    evidence = made_rows.evidence(table, {"m": {"rows": rows}}, outside=("odd",))
    findings = collapse_stage(evidence)
    assert COLLAPSE.validate(findings.tables[PATH]).empty and not findings.gaps
    assert findings.notes[-1].startswith("collapse of m: fewer than 20 rows")
    nothing = collapse_stage(made_rows.evidence(table, {"m": {"rows": rows}}, outside=()))
    assert COLLAPSE.validate(nothing.tables[PATH]).empty
