# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from matteratlas import cli_scorecard
from matteratlas.cli_scorecard import milliseconds, overview, scorecard_app
from matteratlas.registry import archive
from matteratlas.schemas.errors import AtlasError
from matteratlas.schemas.scorecard import SCORECARD

ROWS = [
    ("so3lr", True, "alignment_local", "molecules", 0.41, 0.35, 0.47, 190, None, None, "cknna"),
    ("so3lr", True, "elements", "atlas", 0.08, 0.08, 0.08, 95, 2, 2, "8 of 95"),
    ("so3lr", True, "mean_rank_share", "all", 0.2, 0.1, 0.3, 1, None, None, "share"),
    ("sevennet-0", True, "verdict", "all", None, None, None, None, None, None, "Agrees."),
    ("sevennet-0", True, "alignment_local", "crystals", 0.5, 0.4, 0.6, 318, 1, 3, "cknna"),
    ("sevennet-0", True, "transfer_from", "crystals", 0.2, 0.1, 0.3, 79, 1, 3, "hits"),
    ("sevennet-0", True, "transfer_from", "molecules", 0.4, 0.3, 0.5, 68, 1, 3, "hits"),
    ("sevennet-0", True, "elements", "atlas", 0.9, 0.9, 0.9, 95, 1, 2, "87 of 95"),
    ("sevennet-0", True, "mean_rank_share", "all", 0.8, 0.7, 0.9, 3, None, None, "share"),
    ("random-128", False, "alignment_local", "crystals", 0.0, 0.0, 0.1, 318, None, None, "cknna"),
]


@pytest.fixture
def table() -> pd.DataFrame:
    columns = "model ranked measure region value low high n rank of note".split()
    made = pd.DataFrame(ROWS, columns=columns)
    made["release"], made["family"] = "unreleased", made["model"].str.split("-").str[0]
    for name in ("n", "rank", "of"):
        made[name] = made[name].astype("Int64")
    return SCORECARD.validate(made[list(SCORECARD.columns)])


@pytest.fixture
def atlas(table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one run, whose scores are the table."""

    class Opened:
        def table(self, path: str) -> pd.DataFrame:
            assert path == "scores/scorecard.parquet"
            return table

    monkeypatch.setattr(archive, "open_atlas", lambda path: Opened())
    run = {"embedded": 30, "carried": 10, "model_seconds": 0.5}
    none = {"embedded": 0, "carried": 0, "model_seconds": 1.0}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/so3lr.json").write_text(json.dumps({"sets": {"g2": run, "mof": none}}))
    return tmp_path


def invoke(*options: str) -> str:
    result = CliRunner().invoke(scorecard_app, list(options), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_overview_has_a_row_a_model_the_best_ranked_first(atlas: Path) -> None:
    lines = invoke(str(atlas)).splitlines()
    header = lines[0].split("\t")
    rows = [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]
    assert [r["model"] for r in rows] == ["sevennet-0", "so3lr", "random-128"]
    assert rows[0]["crystals"] == "0.50 [0.40, 0.60]"
    assert rows[0]["maps from"] == "0.30 [0.20, 0.40] of 2"
    assert rows[0]["elements"] == "0.90"  # counted: no interval
    assert rows[1]["crystals"] == ""
    assert rows[1]["ms"] == "25.0"
    assert "proteins" not in header  # nothing there


def test_one_model_is_told_in_full_with_its_verdict(atlas: Path) -> None:
    text = invoke(str(atlas), "--model", "sevennet-0")
    assert "transfer_from\tmolecules\t0.4\t0.3\t0.5\t68\t1\t3\thits" in text
    assert "so3lr" not in text
    assert text.splitlines()[-1] == "sevennet-0: Agrees."
    assert "25.0 ms per structure" in invoke(str(atlas), "--model", "so3lr")


def test_json_is_one_document_with_all_rows(atlas: Path, table: pd.DataFrame) -> None:
    content = json.loads(invoke(str(atlas), "--json"))
    assert len(content["scorecard"]) == len(table)
    assert content["ms_per_structure"] == {"so3lr": 25.0}
    own = json.loads(invoke(str(atlas), "--model", "so3lr", "--json"))["scorecard"]
    assert {r["model"] for r in own} == {"so3lr"}


def test_an_unknown_model_and_a_damaged_run_are_named(atlas: Path) -> None:
    with pytest.raises(AtlasError, match=r"--model sevenet: .* choose from so3lr, sevennet-0"):
        invoke(str(atlas), "--model", "sevenet")
    (atlas / "runs/so3lr.json").write_text("[]")
    with pytest.raises(AtlasError, match=r"so3lr\.json: not a record of a run"):
        milliseconds(atlas)


def test_releases_and_urls_have_no_times(tmp_path: Path) -> None:
    assert milliseconds(tmp_path) == {}
    assert milliseconds(Path("hf://datasets/org/name")) == {}


def test_every_measure_of_the_overview_exists() -> None:
    from matteratlas.schemas.scorecard import MEASURES

    assert {measure for measure, _ in cli_scorecard.OVERVIEW.values()} <= set(MEASURES)
    assert overview(pd.DataFrame(columns=list(SCORECARD.columns)), {}).empty
