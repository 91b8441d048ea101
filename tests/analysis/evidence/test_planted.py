# SPDX-License-Identifier: Apache-2.0
"""The law: what is taken out of a set is named first, and where nothing is, nothing is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from atlas_factory import use_made_up_registry, write_atlas
from click.testing import Result
from planted_gaps import PLANTED, false_alarms, plant, plants, real_regions
from typer.testing import CliRunner

from matteratlas.analysis.analyze import analyze
from matteratlas.analysis.charts import ChartReader
from matteratlas.analysis.coverage import coverage_gaps
from matteratlas.analysis.evidence import universe
from matteratlas.analysis.evidence.cells import cells_stage
from matteratlas.analysis.evidence.chemistry import Regions, find_regions
from matteratlas.analysis.evidence.context import Evidence
from matteratlas.analysis.evidence.reach import reach_stage
from matteratlas.analysis.evidence.universe import Universe, count_regions
from matteratlas.analysis.gaps import gap_table
from matteratlas.analysis.record import inputs_of
from matteratlas.cli import app
from matteratlas.registry.archive import Atlas, open_atlas
from matteratlas.schemas.errors import AtlasError
from matteratlas.schemas.reach import UniverseCard

SHARE = 0.5


@pytest.fixture(scope="module")
def regions() -> Regions:
    """Of real crystals; ``benchmarks/planted_gaps.py`` takes all sets and more draws."""
    return real_regions(["minerals", "prototypes", "elements"], share=SHARE)


@pytest.mark.parametrize("kind_of", PLANTED)
def test_a_planted_gap_ranks_first(regions: Regions, kind_of: str) -> None:
    columns = plants(regions, kind_of, share=SHARE, count=15, seed=1)
    assert len(columns) == 15
    found = pd.DataFrame([plant(regions, c, share=SHARE, seed=i) for i, c in enumerate(columns)])
    assert set(found["type"]) == {kind_of}
    assert found["first"].all(), found.to_string()
    assert found["others"].mean() < 1  # and little else besides


def test_nothing_planted_is_no_gap(regions: Regions) -> None:
    draws = 200
    alarms = false_alarms(regions, share=SHARE, draws=draws)
    assert alarms / draws <= 0.05 + 2 * (0.05 * 0.95 / draws) ** 0.5


def made_up_universe(structures: pd.DataFrame, *, more: dict[str, int]) -> Universe:
    """The matter of an atlas ten times over, and more crystals of carbon with an element."""
    totals, counts = count_regions(find_regions(structures, {}, types=["element", "size"]))
    counts["count"] *= 10
    totals = {k: {t: 10 * n for t, n in by.items()} for k, by in totals.items()}
    counts = counts.set_index("region")
    for element, n in more.items():
        counts.loc[f"element:{element}|crystal"] = ["element", "crystal", n]
        counts.loc["element:C|crystal", "count"] += n
        totals["crystal"]["element"] += n
    about = {"name": "made up", "description": "made up", "sources": [], "licence": "none"}
    card = UniverseCard(id="made", sets=[], least=1, totals=totals, **about)  # type: ignore[arg-type]
    return Universe(card, counts)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        use_made_up_registry(patch)
        yield write_atlas(tmp_path_factory.mktemp("planted_report") / "atlas", seed=1)


def hold(monkeypatch: pytest.MonkeyPatch, root: Path, more: dict[str, int]) -> Atlas:
    """Open the atlas beside a universe of its own matter, and more of it."""
    use_made_up_registry(monkeypatch)
    atlas = open_atlas(str(root))
    structures = atlas.structures.drop_duplicates("id").reset_index(drop=True)
    found = {"made": made_up_universe(structures, more=more)}
    monkeypatch.setattr(universe, "shipped_universes", lambda folder=None: found)
    return atlas


def test_a_report_on_matter_like_its_universe_proves_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas = hold(monkeypatch, root, {})
    reader = ChartReader(atlas)
    evidence = Evidence(atlas, reader, reader.relations(), {}, 10, 9, 0, 2000, 30)
    found = [reach_stage(evidence), cells_stage(evidence)]
    reach = found[0].tables["scores/reach.parquet"]
    assert reach.loc[reach["scope"] == "atlas", "p_value"].notna().sum() > 5
    table = gap_table([*found[0].gaps, *found[1].gaps, *coverage_gaps(reader)], release="r")
    assert len(table) and table["p_value"].isna().all()  # what is counted is told all the same


def test_the_report_names_first_what_the_atlas_lacks(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = inputs_of(root, hold(monkeypatch, root, {}))["universes"]
    atlas = hold(monkeypatch, root, {"Xe": 300})
    assert inputs_of(root, atlas)["universes"] != before  # another universe, another analysis
    analyze(root, permutations=9, metrics=["mutual_knn"], workers=1)
    table = pd.read_parquet(root / "scores" / "gaps.parquet")
    coverage = table[table["kind"] == "coverage"].sort_values("rank")
    first = coverage.iloc[0]
    assert (first["region"], first["rank"], first["severity"]) == ("element:Xe|crystal", 1, 1.0)
    assert first["q_value"] < 1e-6 and coverage["p_value"].notna().sum() == 1
    assert coverage["p_value"].isna().iloc[1:].all() and len(coverage) > 1  # counted come after
    _the_command_line_tells_it(str(root), counted=len(coverage) - 1)


def _the_command_line_tells_it(atlas: str, *, counted: int) -> None:
    lines = run("gaps", atlas, "--top", "2").stdout.splitlines()
    assert lines[0] == f"coverage: 1 proven, {counted} counted"
    assert lines[1].split()[:2] == ["1.", "element:Xe|crystal"] and "proven, q = " in lines[1]
    assert lines[2].strip().startswith("0 of the ")
    assert "counted" in lines[3] and "q = " not in lines[3]
    found = json.loads(run("gaps", atlas, "--region", "element:Xe", "--json").stdout)
    assert [(row["region"], row["state"]) for row in found] == [("element:Xe|crystal", "proven")]
    ores = json.loads(run("gaps", atlas, "--set", "ores", "--kind", "agreement", "--json").stdout)
    assert ores and all(row["region"].startswith("ores:") for row in ores)
    assert run("gaps", atlas, "--region", "element:Zz").stdout == "no gap of this description\n"
    for option, said in (("--kind", "has gaps of kind coverage"), ("--set", "ores, organics")):
        error = run("gaps", atlas, option, "nope").exception
        assert isinstance(error, AtlasError) and said in str(error)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))
