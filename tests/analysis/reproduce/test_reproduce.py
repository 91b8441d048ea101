# SPDX-License-Identifier: Apache-2.0
"""Figures and claims of the study from an analysed atlas of made-up models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from atlas_factory import use_made_up_registry, write_atlas

from matteratlas.analysis.analyze import analyze
from matteratlas.analysis.reproduce import reproduce
from matteratlas.analysis.reproduce.claims import CLAIMS, Verdict
from matteratlas.analysis.reproduce.figure import Figure
from matteratlas.analysis.reproduce.study import Study, complete, condensed, correlation
from matteratlas.schemas.errors import ArchiveError

Made = tuple[Path, Path, list[Figure], list[Verdict]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    root, out = (tmp_path_factory.mktemp(name) for name in ("atlas", "study"))
    with pytest.MonkeyPatch.context() as patch:
        use_made_up_registry(patch)
        root = root / "small"
        write_atlas(root)
        analyze(root, permutations=99, workers=0)
        figures, verdicts = reproduce(root, out=out)
        yield root, out, figures, verdicts


def test_every_figure_is_made_or_says_why_not(made: Made) -> None:
    _, out, figures, _ = made
    assert len({f.stem for f in figures}) == len(figures)
    drawn = [f for f in figures if not f.reason]
    assert {"Table 1", "1C", "1F", "2B", "2C", "A1", "C10", "extra n-sweep"} <= {
        f.number for f in drawn
    }
    for figure in figures:
        assert (out / f"{figure.stem}.csv").exists() == (not figure.reason)
        if figure.chart is None:
            continue
        tree = ElementTree.parse(out / f"{figure.stem}.svg")
        assert tree.getroot().tag.endswith("svg")
        assert len(tree.findall(".//{http://www.w3.org/2000/svg}path")) > 3
        assert (out / f"{figure.stem}.pdf").read_bytes().startswith(b"%PDF")
    page = (out / "figures.md").read_text()
    for figure in figures:
        assert f"## {figure.number}: {figure.title}" in page


def test_the_numbers_are_those_of_the_scores(made: Made) -> None:
    root, out, _, _ = made
    pairs = pd.read_parquet(root / "scores/pairs.parquet")
    table = pd.read_csv(out / "figure-c10.csv", keep_default_na=True)
    assert len(table)
    for row in table.itertuples():
        same = pairs[
            pairs["selection"].str.startswith("crystals")
            & (pairs["metric"] == "cknna")
            & (pairs["model_a"] == row.model_a)
            & (pairs["model_b"] == row.model_b)
            & (pairs["n"] == row.n)
        ]
        assert same["value"].iloc[0] == pytest.approx(row.value, abs=1e-12)
        assert same["p_value"].iloc[0] == pytest.approx(row.p_value, abs=1e-12)


def test_every_claim_is_judged_with_evidence(made: Made) -> None:
    _, out, _, verdicts = made
    assert [v.claim for v in verdicts] == list(CLAIMS)
    findings = {v.claim.key: v.finding for v in verdicts}
    assert all(v.evidence for v in verdicts)
    # The made-up crystal models are images of one latent space.
    assert findings["convergence"] == "agrees"
    assert findings["size"] == "cannot be tested here"
    page = (out / "claims.md").read_text()
    assert page.count("\n| ") == len(CLAIMS) + 1


def test_a_second_run_writes_the_same_bytes(made: Made, tmp_path: Path) -> None:
    root, out, _, _ = made
    reproduce(root, out=tmp_path)
    for path in out.glob("*.csv"):
        other = tmp_path / path.name
        assert (
            hashlib.sha256(path.read_bytes()).digest()
            == hashlib.sha256(other.read_bytes()).digest()
        ), path.name
    assert not list(tmp_path.glob(".*"))


def test_an_atlas_without_scores_says_what_to_run(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_made_up_registry(patch)
        write_atlas(tmp_path / "bare")
        with pytest.raises(ArchiveError, match="matteratlas analyze"):
            reproduce(tmp_path / "bare", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pairs_of_models_that_lack_rows_come_at_their_own_n(made: Made) -> None:
    study = Study.of(str(made[0]))
    rows = study.pairs("molecules", "cknna")
    assert not rows.duplicated(["a", "b"]).any()
    whole = study.scores.pairs[
        (study.scores.pairs["selection"] == "molecules") & (study.scores.pairs["metric"] == "cknna")
    ]
    kept = rows[rows["selection"] == "molecules"]
    assert len(kept) == len(whole)


def test_condensed_means_take_every_pair_of_two_groups() -> None:
    names = ["a1", "a2", "b1"]
    matrix = pd.DataFrame(
        [[1.0, 0.5, 0.2], [0.5, 1.0, np.nan], [0.2, np.nan, 1.0]], index=names, columns=names
    )
    found = condensed(matrix, {"a1": "a", "a2": "a", "b1": "b"})
    assert found.loc["a", "a"] == pytest.approx(0.75)
    assert found.loc["a", "b"] == pytest.approx(0.2)
    assert found.loc["b", "b"] == pytest.approx(1.0)


def test_the_model_with_most_holes_goes_first() -> None:
    names = list("abcd")
    matrix = pd.DataFrame(np.eye(4) + 0.5, index=names, columns=names)
    matrix.loc["c", ["a", "b"]] = matrix.loc[["a", "b"], "c"] = np.nan
    assert list(complete(matrix).index) == ["a", "b", "d"]


def test_a_correlation_has_its_interval_around_it() -> None:
    rng = np.random.default_rng(0)
    x = pd.Series(rng.normal(size=60))
    found = correlation(x, x + 0.3 * pd.Series(rng.normal(size=60)))
    assert found["low"] < found["spearman"] < found["high"]
    assert found["low"] > 0.6
    assert correlation(x[:3], x[:3]) == {"n": 3}
