# SPDX-License-Identifier: Apache-2.0
"""Locate and expand as a user meets them: real files, real models, an atlas that grows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ase.build import bulk
from ase.io import write
from typer.testing import CliRunner

from matteratlas import expand as expanding
from matteratlas.analysis.analyze import analyze
from matteratlas.builders.build import build
from matteratlas.builders.release import release
from matteratlas.builders.structures.sets import load_set
from matteratlas.cli import app
from matteratlas.expand import expand
from matteratlas.registry import catalog
from matteratlas.registry.archive import open_atlas
from matteratlas.registry.diff import diff
from matteratlas.registry.validate import validate
from matteratlas.schemas.errors import ArchiveError, AtlasError, SourceError

MODELS = ["mat2vec", "random-128"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cheap real models on the starter rows of the elements, analysed."""
    root = tmp_path_factory.mktemp("start") / "atlas"
    assert not build(root, models=MODELS, sets=["elements"], selection="starter", workers=0).failed
    analyze(root, permutations=0)
    return root


@pytest.fixture
def atlas(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MATTERATLAS_SETS", str(tmp_path / "sets"))
    return Path(shutil.copytree(start, tmp_path / "atlas"))


@pytest.fixture
def picks(atlas: Path) -> list[str]:
    """Six compounds of elements that the atlas knows as elements only."""
    held = {e for own in open_atlas(atlas).structures["elements"] for e in own}
    table = load_set(catalog.structure_set("prototypes")).table
    binary = table["elements"].map(lambda own: len(own) == 2 and set(own) <= held)
    return table.loc[binary, "id"].tolist()[:6]


def vectors(root: Path) -> dict[str, str]:
    """Content of every unit: equal where equal values are stored."""
    return {
        f"{m}/{s}": u["content_sha256"]
        for m, entry in open_atlas(root).index["models"].items()
        for s, u in entry["units"].items()
    }


def test_an_expansion_closes_what_it_was_for(atlas: Path, picks: list[str], tmp_path: Path) -> None:
    first = release(atlas, out=tmp_path / "releases").path
    before = vectors(atlas)
    report = expand(atlas, pool="prototypes", ids=picks)
    assert (report.outcome, report.card.version, report.card.count) == ("new", "1.0.0", 6)
    assert report.added == picks and report.known == [] and report.failed == {}
    assert report.embedded == 12 and report.carried == 0
    assert {k: v for k, v in vectors(atlas).items() if not k.endswith("expansion")} == before
    assert validate(atlas, deep=True).faults == []
    structures = open_atlas(atlas).structures.set_index("id")
    more = structures.loc[picks, "elements"].explode().value_counts()
    scarce = report.gaps[report.gaps["statistic"] == "structures"].set_index("region")
    for element, count in more.items():
        row = scarce.loc[f"element:{element}"]
        assert row["value_after"] == row["value_before"] + count
        assert row["severity_after"] == pytest.approx(row["severity_before"] - count / 10)
    assert len(more) > 3
    second = release(atlas, out=tmp_path / "releases").path
    text = diff(str(first), str(second)).text()
    assert second.name == "1.1.0" and "set expansion added (6 structures)" in text
    assert "scores/gaps.parquet" in text


def test_a_second_expansion_is_the_sets_next_version(atlas: Path, picks: list[str]) -> None:
    expand(atlas, pool="prototypes", ids=picks[:4])
    report = expand(atlas, pool="prototypes", ids=picks[2:])
    assert (report.outcome, report.card.version, report.card.count) == ("grown", "1.1.0", 6)
    assert report.embedded == 4 and report.carried == 8
    assert load_set(report.card).table["id"].tolist() == picks
    again = expand(atlas, pool="prototypes", ids=picks[2:])
    assert again.outcome == "unchanged" and again.embedded == 0
    pd.testing.assert_frame_equal(again.gaps, report.gaps)
    assert set(load_set(report.card).table["source_id"].str.partition("/")[0]) == {"prototypes"}


def test_suggestions_are_taken_by_rank_with_their_regions(
    atlas: Path, picks: list[str], tmp_path: Path
) -> None:
    table = load_set(catalog.structure_set("prototypes")).table.set_index("id").loc[picks]
    regions = [f"element:{e[0]}" for e in table["elements"]]
    suggested = pd.DataFrame(
        {"rank": [3, 1, 2, 4, 5, 6], "id": picks, "pool": "somewhere", "set": "prototypes",
         "region": regions}
    )  # fmt: skip
    path = tmp_path / "picks.parquet"
    suggested.to_parquet(path)
    result = CliRunner().invoke(
        app, ["expand", str(atlas), "--suggestions", str(path), "--top", "2", "--json"]
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["added"] == [picks[1], picks[2]]
    assert {g["region"] for g in said["gaps"]} == {regions[1], regions[2]}


@pytest.mark.parametrize("where", ["write_table", "build", "compare_gaps"])
def test_an_interrupted_expansion_goes_on(
    atlas: Path, picks: list[str], where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    straight = Path(shutil.copytree(atlas, tmp_path / "straight"))
    with monkeypatch.context() as apart:
        apart.setenv("MATTERATLAS_SETS", str(tmp_path / "other-sets"))
        want = expand(straight, pool="prototypes", ids=picks)

    def die(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(expanding, where, die)
        with pytest.raises(KeyboardInterrupt):
            expand(atlas, pool="prototypes", ids=picks)
    assert validate(atlas, deep=True).faults == []
    got = expand(atlas, pool="prototypes", ids=picks)
    assert vectors(atlas) == vectors(straight)
    pd.testing.assert_frame_equal(got.gaps, want.gaps)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda p: {}, "--suggestions is missing"),
        (lambda p: {"pool": "prototypes", "ids": ["ma1-none"]}, "holds no structure 'ma1-none'"),
        (lambda p: {"suggestions": p / "none.parquet"}, "not a table of suggestions"),
        (lambda p: {"suggestions": p / "bare.csv"}, "a suggestion needs an id"),
        (lambda p: {"suggestions": p / "lost.csv"}, "no pool or set that is here"),
        (lambda p: {"pool": "elements", "ids": ["new"], "name": "g2"}, "choose another name"),
        (lambda p: {"pool": "elements", "ids": ["held"]}, "holds all 1 picks already"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_changes_nothing(
    atlas: Path, tmp_path: Path, wrong: Callable[[Path], dict[str, Any]], says: str
) -> None:
    (tmp_path / "bare.csv").write_text("rank\n1\n")
    (tmp_path / "lost.csv").write_text("id,pool\nma1-x,nowhere\n")
    options = wrong(tmp_path)
    held = open_atlas(atlas).structures["id"]
    table = load_set(catalog.structure_set("elements")).table["id"]
    ids = {"held": held.iloc[0], "new": table[~table.isin(held)].iloc[0]}
    options = {k: [ids.get(v[0], v[0])] if k == "ids" else v for k, v in options.items()}
    before = vectors(atlas)
    with pytest.raises(AtlasError, match=says):
        expand(atlas, **options)
    assert vectors(atlas) == before and not list((tmp_path / "sets").rglob("*.yaml"))


def test_a_release_is_not_expanded(atlas: Path, picks: list[str], tmp_path: Path) -> None:
    frozen = release(atlas, out=tmp_path / "releases").path
    with pytest.raises(ArchiveError, match="releases never change"):
        expand(frozen, pool="prototypes", ids=picks)


def test_one_command_tells_where_a_folder_falls(
    built_atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATTERATLAS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "own"
    folder.mkdir()
    write(folder / "Si.cif", bulk("Si", cubic=True))
    write(folder / "ThO2.cif", bulk("ThO2", "fluorite", a=5.6, cubic=True))
    (folder / "some.smi").write_text("CCO ethanol\nnot-a-smiles\nF[U](F)F uranium\n")
    (folder / "broken.cif").write_text("not a CIF")
    out = tmp_path / "where.csv"
    result = CliRunner().invoke(
        app, ["locate", str(built_atlas), "--structures", str(folder), "--out", str(out), "--json"]
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    rows = {row["source_id"]: row for row in said["structures"]}
    assert said["models"] == {"molecule": "chgnet-0.3.0", "crystal": "chgnet-0.3.0"}
    assert rows["Si.cif"]["nearest_name"] == "Si" and rows["Si.cif"]["status"] == "covered"
    assert rows["some.smi#1"]["nearest_name"].startswith("Ethanol")
    assert rows["some.smi#1"]["status"] == "covered"
    assert rows["some.smi#3"]["status"] == "gap" and "holds U" in rows["some.smi#3"]["reason"]
    assert {r["source_id"] for r in said["rejected"]} == {"broken.cif", "some.smi#2"}
    assert pd.read_csv(out)["source_id"].tolist() == [r["source_id"] for r in said["structures"]]
    plain = CliRunner().invoke(
        app,
        ["locate", str(built_atlas), "--structures", str(folder), "--models", "mat2vec,morgan"],
    )
    assert plain.exit_code == 0 and "left out: broken.cif" in plain.output
    assert plain.output.count("Si.cif") == 2 and "no vector: wrong_modality" in plain.output


@pytest.mark.parametrize("what", ["nothing", "empty", "bad"])
def test_locate_tells_what_cannot_be_read(built_atlas: Path, tmp_path: Path, what: str) -> None:
    if what != "nothing":
        (tmp_path / what).mkdir()
    if what == "bad":
        (tmp_path / what / "x.cif").write_text("no")
    result = CliRunner().invoke(
        app, ["locate", str(built_atlas), "--structures", str(tmp_path / what)]
    )
    assert isinstance(result.exception, SourceError) and str(tmp_path / what) in str(
        result.exception
    )
