# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_evidence import evidence_of, scored_atlas

from matteratlas.analysis.evidence.contrast import PATH, contrast_stage, contrasts
from matteratlas.schemas.retention import CONTRASTS


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("contrast") / "atlas"

        def mix(model: str, structures: pd.DataFrame, points: np.ndarray) -> np.ndarray:
            """One model sees molecules in an order of its own."""
            if model == "bond-a":
                molecules = np.flatnonzero(structures["kind"] == "molecule")
                shuffled = np.random.default_rng(5).permutation(molecules)
                points[molecules] = points[shuffled]
            return points

        yield scored_atlas(folder, patch, plant=mix)


def test_each_pair_stands_inside_against_outside(root: Path) -> None:
    evidence = evidence_of(root)
    findings = contrast_stage(evidence)
    table = CONTRASTS.validate(findings.tables[PATH])
    assert set(table["metric"]) == {"cknna", "distance_correlation"}
    assert set(zip(table["metric"], table["scale"], strict=True)) == {
        ("cknna", "local"), ("distance_correlation", "global")
    }  # fmt: skip
    assert table["difference"].to_numpy() == pytest.approx(table["inside"] - table["outside"])

    pairs = evidence.tables["scores/pairs.parquet"]
    selections = evidence.tables["scores/selections.parquet"].set_index("selection")
    row = table[table["contrast"] == "in:crystal~out:molecule"].iloc[0]
    same = pairs[
        (pairs[["model_a", "model_b", "metric"]] == row[["model_a", "model_b", "metric"]]).all(
            axis=1
        )
    ]
    about = selections.loc[same["selection"]].reset_index()
    mine = (about["contrast"] == row["contrast"]) & (about["group"] == row["group"])
    for side, name in (("in", "inside"), ("out", "outside")):
        rows = same[(mine & (about["side"] == side)).to_numpy()]
        assert len(rows) == row[f"draws_{name}"]
        assert rows["value"].mean() == pytest.approx(row[name])
        assert set(rows["n"]) == {row["n"]}


def test_a_model_that_mixes_up_molecules_loses_outside(root: Path) -> None:
    table = contrast_stage(evidence_of(root)).tables[PATH]
    table = table[table["contrast"] == "in:crystal~out:molecule"]
    mixed = (table[["model_a", "model_b"]] == "bond-a").any(axis=1)
    assert mixed.any() and (~mixed).any()
    clear = table["difference"] > 3 * table["standard_error"]
    assert clear[mixed].all() and not clear[~mixed].any()


def test_no_contrasts_make_an_empty_valid_table(root: Path) -> None:
    evidence = evidence_of(root)
    pairs, selections = (evidence.tables[f"scores/{n}.parquet"] for n in ("pairs", "selections"))
    for some in (
        selections[selections["role"] != "contrast"],
        selections[selections["side"] != "out"],
    ):
        assert CONTRASTS.validate(contrasts(pairs, some, release="1")).empty
    evidence.tables["scores/pairs.parquet"] = pairs.iloc[:0]
    findings = contrast_stage(evidence)
    assert CONTRASTS.validate(findings.tables[PATH]).empty and findings.notes
