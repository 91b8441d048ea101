# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys

import made_rows
import numpy as np
import pandas as pd
import pytest

from matteratlas.analysis.evidence import regions
from matteratlas.analysis.evidence.cues import element_counts
from matteratlas.analysis.evidence.readout import explained
from matteratlas.analysis.evidence.regions import Scored
from matteratlas.analysis.evidence.retention import (
    PATH,
    control_families,
    control_spread,
    retained,
    retention_stage,
)
from matteratlas.analysis.gaps import gap_table
from matteratlas.schemas.retention import CUES
from matteratlas.schemas.scores import GAPS

N = 400
STRATA = ("known", "known", "strange", "odd")


def planted(seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Structures, their formulas' shares, and a target that no formula tells."""
    random = np.random.default_rng(seed)
    target = random.normal(size=N)
    table = made_rows.structures(N, seed, strata=STRATA, target=target)
    shares = element_counts(table)
    return table, shares / shares.sum(axis=1, keepdims=True), target


def noisy(rows: np.ndarray, seed: int, size: float = 0.05) -> np.ndarray:
    return rows + size * np.random.default_rng(seed).normal(size=rows.shape)


def mixed(rows: np.ndarray, dim: int, seed: int) -> np.ndarray:
    """The rows in a space of more dimensions, turned at random."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
    return rows @ turn[: rows.shape[1]]


@pytest.fixture(scope="module")
def found() -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Four learned models, two controls, a descriptor, a table and noise, on planted rows."""
    table, shares, target = planted()
    seen = np.column_stack([shares[:, [3, 8, 14]], target])
    far = table["stratum"].isin(["strange", "odd"]).to_numpy()
    moved = seen.copy()  # outside, the target lies along another direction
    moved[far, 3] = 0.0
    moved = np.column_stack([moved, np.where(far, target, 0.0)])
    blind = seen.copy()  # outside, the target is not there at all
    blind[far, 3] = np.random.default_rng(9).normal(size=far.sum())
    shifted = seen + np.where(far, 5.0, 0.0)[:, None] * [0, 0, 0, 1.0]
    faint = np.column_stack([shares[:, [3, 8, 14]], 0.005 * target])
    control = {"learned": False, "family": "whole", "modality": "atoms3d"}
    models = {
        "whole": {"rows": noisy(mixed(seen, 12, 1), 1)},
        "moved": {"rows": noisy(mixed(moved, 12, 2), 2)},
        "blind": {"rows": noisy(mixed(blind, 12, 3), 3)},
        "shifted": {"rows": noisy(mixed(shifted, 12, 4), 4)},
        "random-a": {**control, "rows": noisy(mixed(faint, 12, 5), 5)},
        "random-b": {**control, "rows": noisy(mixed(faint, 12, 6), 6)},
        "formula": {
            "learned": False, "context_free": True, "modality": "composition",
            "rows": mixed(shares[:, [3, 8, 14]], 9, 7),
        },
        "noise": {
            "learned": False, "modality": "descriptor",
            "rows": np.random.default_rng(8).normal(size=(N, 12)),
        },
    }  # fmt: skip
    evidence = made_rows.evidence(table, models, outside=("strange", "odd"))
    findings = retention_stage(evidence)
    return (
        CUES.validate(findings.tables[PATH]),
        GAPS.validate(gap_table(findings.gaps, release="1")),
        findings.notes,
    )


def row(table: pd.DataFrame, **where: str) -> pd.Series:
    picked = table[(table[list(where)] == pd.Series(where)).all(axis=1)]
    assert len(picked) == 1, where
    return picked.iloc[0]


Found = tuple[pd.DataFrame, pd.DataFrame, list[str]]


def test_a_planted_cue_is_read_beyond_composition_and_controls(found: Found) -> None:
    read = row(found[0], model="whole", side="all", cue="energy")
    assert read["region"] == "all:crystal" and read["n"] == N and read["task"] == "regression"
    assert read["score"] > 0.95 and read["r2"] > 0.95 and read["composition"] < 0.05
    assert read["control"] == "random-a,random-b" and read["control_score"] < 0.2
    assert read["added"] == pytest.approx(read["score"] - read["control_score"])
    assert read["gain"] == pytest.approx(read["score"] - read["composition"])
    assert read["informative"]


def test_controls_tables_and_noise_are_uninformative_on_every_cue(found: Found) -> None:
    whole = found[0][found[0]["side"] == "all"]
    for model in ("random-a", "random-b", "formula", "noise"):
        own = whole[whole["model"] == model]
        assert {"energy", "composition", "element:O", "atom_count"} <= set(own["cue"])
        assert not own["informative"].any(), model
    noise = whole[whole["model"] == "noise"]
    assert noise["score"].max() < 0.15
    formula = whole[(whole["model"] == "formula") & (whole["cue"] == "composition")]
    assert formula["score"].item() > 0.98


def test_each_control_is_held_against_its_sibling(found: Found) -> None:
    whole = found[0][(found[0]["side"] == "all") & (found[0]["cue"] == "energy")]
    control = whole.set_index("model")["control"]
    assert control["random-a"] == "random-b" and control["random-b"] == "random-a"
    # No control of its own architecture: those of others.
    assert control["moved"] == "random-a,random-b"
    assert pd.isna(control["formula"]) and pd.isna(control["noise"])


def test_what_the_formula_decides_is_never_informative(found: Found) -> None:
    decided = found[0][(found[0]["side"] == "all") & found[0]["determined"]]
    assert len(decided) and not decided["informative"].any()
    assert (decided["composition"] > 0.9).all()


def test_readouts_that_do_not_carry_over_are_gaps(found: Found) -> None:
    table, gaps, _ = found
    energy = gaps[(gaps["statistic"] == "energy") & (gaps["kind"] == "retention")]
    lost = energy[energy["severity"] > 0].set_index(["model", "region"])["severity"]
    assert {m for m, _ in lost.index} == {"moved"}
    assert set(lost["moved"].index) == {"out:crystal", "made:strange", "made:odd"}
    assert (lost["moved"] > 0.8).all()
    assert energy.iloc[0]["model"] == "moved"
    assert "composition alone" in energy.iloc[0]["evidence"]
    for model, retention in {"whole": 1.0, "shifted": 1.0, "moved": 0.0}.items():
        read = row(table, model=model, region="out:crystal", side="outside", cue="energy")
        assert read["retention"] == pytest.approx(retention, abs=0.1)
        assert read["retention_low"] <= read["retention"] <= read["retention_high"]


def test_a_target_that_is_not_there_is_not_called_shallow(found: Found) -> None:
    """Nothing can be read outside even by a readout trained there: no share can be lost."""
    table, gaps, _ = found
    bound = row(table, model="blind", region="out:crystal", side="bound", cue="energy")
    assert bound["score"] < 0.1
    read = row(table, model="blind", region="out:crystal", side="outside", cue="energy")
    assert pd.isna(read["retention"])
    assert gaps[(gaps["model"] == "blind") & (gaps["statistic"] == "energy")].empty
    inside = row(table, model="blind", region="out:crystal", side="inside", cue="energy")
    assert inside["score"] > 0.9


def test_sides_have_one_number_of_rows_and_presence_is_read_by_kind_only(found: Found) -> None:
    sides = found[0][found[0]["side"] != "all"]
    assert (sides.groupby(["model", "region", "cue"])["n"].nunique() == 1).all()
    assert set(sides.loc[sides["region"] == "made:odd", "n"]) == {N // 4}
    presence = sides[sides["cue"].str.startswith("element:")]
    assert set(presence["region"]) == {"out:crystal"}


def test_the_same_again(found: Found) -> None:
    table, shares, target = planted()
    rows = noisy(mixed(np.column_stack([shares[:, [3, 8, 14]], target]), 12, 1), 1)
    evidence = made_rows.evidence(table, {"whole": {"rows": rows}}, outside=("strange", "odd"))
    again = retention_stage(evidence)
    assert any("random weights" in note for note in again.notes)
    keys, same = ["region", "side", "cue"], ["score", "gain", "rows_sha256"]
    one = found[0][found[0]["model"] == "whole"].set_index(keys)[same]
    two = again.tables[PATH].set_index(keys)[same]
    pd.testing.assert_frame_equal(one.loc[two.index], two)


def test_nulls_are_called_gaps_no_more_often_than_they_should() -> None:
    """Strata drawn alike: the test of the bound against the readout from inside, at 5 %."""
    called = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        x = random.normal(size=(160, 8))
        y = x[:, :1] + 1.5 * random.normal(size=(160, 1))
        groups = random.integers(0, 60, 160)
        near, far = np.arange(80), np.arange(80, 160)
        folds = [regions.group_folds(groups[r], seed=seed) for r in (near, far)]
        read = regions.cross_read(x[near], y[near], folds[0], other=x[far], other_folds=folds[1])
        bound = regions.cross_read(x[far], y[far], folds[1])
        weights = regions.bootstrap_weights(groups[far], seed=seed)
        assert read.other is not None
        draws = [explained(y[far], guess, weights) for guess in (read.other, bound.own)]
        called.append(retained(*(Scored(d, np.nan) for d in draws))["p_value"] < 0.05)
    assert np.mean(called) < 0.12  # 7 of 60 is the 97 % quantile at 5 %


def test_controls_are_networks_that_never_learned() -> None:
    table, shares, _ = planted()
    rows = shares[:, [3, 8, 14]]
    evidence = made_rows.evidence(
        table,
        {
            "trained": {"rows": rows, "family": "net"},
            "drawn": {"rows": rows, "family": "net", "learned": False},
            "designed": {"rows": rows, "learned": False, "architecture": None},
            "table": {"rows": rows, "learned": False, "modality": "composition"},
        },
    )
    assert control_families(evidence.charts) == {"net": ["drawn"]}


def test_spread_between_draws_of_random_weights() -> None:
    table = pd.DataFrame(
        {
            "_all": True, "determined": [False] * 4 + [True] * 2, "region": "all:crystal",
            "cue": ["a", "a", "b", "b", "c", "c"], "rows_sha256": "x",
            "model": ["r0", "r1"] * 3, "score": [0.1, 0.3, 0.5, 0.5, 0.0, 1.0],
        }
    )  # fmt: skip
    assert control_spread(table, {"net": ["r0", "r1"]}) == {"all:crystal": pytest.approx(0.01)}
    assert control_spread(table, {"net": ["r0"]}) == {}
    assert control_spread(table, {}) == {}


def test_too_few_rows_make_an_empty_valid_table() -> None:
    table, shares, _ = planted()
    small = table.iloc[:20].reset_index(drop=True)
    findings = retention_stage(
        made_rows.evidence(small, {"m": {"rows": shares[:20, [3, 8, 14]]}}, outside=("odd",))
    )
    assert CUES.validate(findings.tables[PATH]).empty and not findings.gaps
    assert any(note.startswith("cues of m: fewer than") for note in findings.notes)


def test_without_the_chemistry_packages_the_stage_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymatgen.core", None)
    table, shares, _ = planted()
    evidence = made_rows.evidence(table, {"m": {"rows": shares[:, [3, 8, 14]]}})
    findings = retention_stage(evidence)
    assert CUES.validate(findings.tables[PATH]).empty
    assert "pip install 'matteratlas[sources]'" in findings.notes[0]
