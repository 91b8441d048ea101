# SPDX-License-Identifier: Apache-2.0
"""Suggestions over a made-up archive, through Python and through the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from atlas_factory import made_up_registry, use_made_up_registry, write_atlas  # noqa: F401
from typer.testing import CliRunner

from matteratlas.analysis.acquire.reasons import matches, open_gaps, shared_weights
from matteratlas.analysis.acquire.suggest import Rows, choose_model, costs, rows_of, suggest
from matteratlas.analysis.gaps import Gap, gap_table
from matteratlas.cli import app
from matteratlas.registry.archive import Atlas, open_atlas
from matteratlas.schemas.errors import ArchiveError, AtlasError
from matteratlas.schemas.suggestions import SUGGESTIONS

MODEL = "lattice-a"


def gap(region: str, lost: float, kind: str = "coverage", **more: object) -> Gap:
    """A counted gap."""
    return Gap(
        kind=kind, region=region, statistic="made_up", n=3, value=1.0, reference=9.0, lost=lost,
        evidence=f"little of {region}", **more,
    )  # fmt: skip


def table(*gaps: Gap) -> pd.DataFrame:
    return gap_table(gaps, release="unreleased")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Atlas]:
    with pytest.MonkeyPatch.context() as patch:
        use_made_up_registry(patch)
        root = write_atlas(tmp_path_factory.mktemp("suggest") / "atlas", spread={"actinides": 6.0})
        yield open_atlas(root)


@pytest.fixture(scope="module")
def split(made: Atlas) -> tuple[Rows, Rows]:
    """Known: molecules and oxides. Pool: all crystals."""
    known = rows_of(made, MODEL, name="known")
    ores = (known.structures["set"] == "ores").to_numpy()
    oxides = (known.structures["stratum"] == "oxides").to_numpy()
    return known.kept(~ores | oxides), rows_of(made, MODEL, name="ores", sets=["ores"])


def run(split: tuple[Rows, Rows], gaps: pd.DataFrame, **more: object) -> pd.DataFrame:
    return suggest(*split, gaps, model=MODEL, release="unreleased", **more)


def test_each_gap_is_closed_and_told(split: tuple[Rows, Rows]) -> None:
    gaps = table(gap("element:U|crystal", 0.9), gap("element:Fe|crystal", 0.3))
    picks = run(split, gaps, top=60)
    assert list(picks["rank"]) == list(range(1, 61))
    assert set(picks["region"]) == {"element:U|crystal", "element:Fe|crystal"}
    assert (picks["region"].head(12) == "element:U|crystal").sum() > 6
    only = run(split, gaps, top=5, region="element:Fe|crystal")
    assert set(only["stratum"]) == {"alloys"}
    first = picks.iloc[0]
    assert (first["region"], first["gap_rank"], first["stratum"]) == (
        "element:U|crystal", 1, "actinides",
    )  # fmt: skip
    assert "helps to close coverage gap 1, element:U|crystal (little of" in first["reason"]
    assert "one of 45 that do" in first["reason"]
    assert "times as far as known ones lie apart" in first["reason"]
    known = split[0]
    near = known.structures.set_index("id").loc[picks["nearest_id"]]
    assert list(near["set"] + ":" + near["stratum"]) == list(picks["nearest_region"])
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (r.vectors for r in split)]
    place = {i: n for n, i in enumerate(split[1].structures["id"])}
    for pick in picks.itertuples():
        apart = np.linalg.norm(unit[0] - unit[1][place[pick.id]], axis=1)
        assert pick.distance == pytest.approx(apart.min(), abs=1e-5)


def test_what_is_known_is_not_suggested_and_order_is_nothing(split: tuple[Rows, Rows]) -> None:
    gaps = table(gap("element:O|crystal", 0.9), gap("element:Fe|crystal", 0.3))
    known = split[0]
    picks = run(split, gaps, top=500)
    assert len(picks) == picks["candidates"].iloc[0] == 90
    assert not set(picks["id"]) & set(known.structures["id"])
    random = np.random.default_rng(0)
    mixed = []
    for rows in split:
        order = random.permutation(len(rows.structures))
        shuffled = rows.structures.iloc[order].reset_index(drop=True)
        mixed.append(Rows(rows.name, shuffled, rows.vectors[order]))
    again = suggest(mixed[0], mixed[1], gaps, model=MODEL, release="unreleased", top=500)
    pd.testing.assert_frame_equal(again, picks)
    by = list(picks["method"])
    assert by == sorted(by, key=["gap_driven", "facility", "k_centre"].index)
    assert picks.loc[picks["method"] != "gap_driven", "region"].isna().all()


def test_without_gaps_the_batch_is_diverse_and_says_so(split: tuple[Rows, Rows]) -> None:
    picks = run(split, table(), top=5)
    assert set(picks["method"]) == {"facility"}
    assert picks["region"].isna().all()
    assert picks["reason"].str.contains("in no open gap; brings the rest of the pool nearer").all()
    chance = run(split, table(), top=5, method="random", seed=1)
    assert picks["distance"].mean() > chance["distance"].mean()
    assert chance["reason"].str.contains("drawn by chance").all()


def test_empty_pools_give_empty_tables(split: tuple[Rows, Rows]) -> None:
    known, pool = split
    empty = run((known, pool.kept(np.zeros(len(pool.structures), bool))), table(), top=3)
    nothing_new = run((pool, pool), table(gap("element:U|crystal", 0.9)), top=3)
    for found in (empty, nothing_new):
        assert len(found) == 0
        SUGGESTIONS.validate(found)
    one = known.kept(np.arange(len(known.structures)) < 1)
    with pytest.raises(AtlasError, match="1 rows are known, 2 are needed"):
        run((one, pool), table())
    with pytest.raises(AtlasError, match="at least 1"):
        run(split, table(), top=0)


def test_cost_prefers_small_structures(split: tuple[Rows, Rows]) -> None:
    gaps = table(gap("element:U|crystal", 0.9))
    free, dear = run(split, gaps, top=10), run(split, gaps, top=10, cost="atoms")
    assert dear["n_atoms"].sum() < free["n_atoms"].sum()
    assert (dear["cost"] == dear["n_atoms"]).all()
    assert set(dear["cost_unit"]) == {"atoms"}
    structures = pd.DataFrame({"n_atoms": [1, 10, 100]})
    points = [(2.0, 0.3, 10), (10.0, 1.1, 5), (50.0, 5.1, 20)]
    seconds = costs(structures, "time", run={"points": points})
    assert seconds == pytest.approx([0.2, 1.1, 10.1])
    with pytest.raises(AtlasError, match="use --cost atoms"):
        costs(structures, "time")


def test_gaps_that_structures_cannot_mend_are_left_out() -> None:
    refused = Gap(
        kind="coverage", region="element:U|crystal", statistic="refused_share", n=1, value=1.0,
        reference=0.0, lost=1.0, evidence="x",
    )  # fmt: skip
    found = table(
        refused,
        gap("in:crystal~out:molecule", 0.9, kind="distribution", model=MODEL),
        gap("ores:alloys", 0.5, kind="density", model=MODEL),
        gap("ores:alloys", 0.7, kind="density", model="lattice-b"),
        gap("element:Fe|crystal", 0.4, selection="ores~atlas"),
        gap("element:O|crystal", 0.4, selection="atlas~mp"),
        gap("element:C|crystal", 0.0),
    )
    kept = open_gaps(found, MODEL)
    assert sorted(kept["region"]) == ["element:O|crystal", "ores:alloys"]
    assert list(open_gaps(found, MODEL, kind="density")["region"]) == ["ores:alloys"]
    assert len(open_gaps(found, MODEL, region="element:O|crystal")) == 1
    with pytest.raises(AtlasError, match="the first are element:O"):
        open_gaps(found, MODEL, region="element:Zr")
    with pytest.raises(AtlasError, match="'vast' is not known"):
        open_gaps(found, MODEL, kind="vast")


def test_regions_hold_what_they_say() -> None:
    candidates = pd.DataFrame(
        {
            "id": ["a", "b", "c", "d"],
            "set": "new",
            "stratum": ["x", "x", "y", "y"],
            "kind": ["crystal", "crystal", "molecule", "crystal"],
            "elements": [["U", "O"], ["Fe", "O"], ["U", "O"], ["Si"]],
            "formula": ["UO2", "FeO", "UO2", "Si40"],
            "n_atoms": [3, 2, 3, 40],
            "periodicity": [3, 3, 0, 3],
            "charge": 0,
            "smiles": None,
        }
    )
    places = pd.Series(["ores:oxides", "ores:oxides", "", "ores:alloys"])

    def told(*gaps: Gap) -> list[str]:
        rows = table(*gaps)
        return [rows["region"][i] if i >= 0 else "" for i in matches(rows, candidates, places, {})]

    assert told(gap("element:U|crystal", 0.5)) == ["element:U|crystal", "", "", ""]
    assert told(gap("size:crystal:33-64", 0.5)) == ["", "", "", "size:crystal:33-64"]
    assert told(gap("pair:O-Fe|crystal", 0.5)) == ["", "pair:O-Fe|crystal", "", ""]
    assert told(gap("stoichiometry:AB2|crystal", 0.5))[0] == "stoichiometry:AB2|crystal"
    assert told(gap("ores:oxides", 0.5)) == ["ores:oxides", "ores:oxides", "", ""]
    assert told(gap("new:y", 0.5)) == ["", "", "new:y", "new:y"]
    # the most severe; of equals the one that few fall into
    assert told(gap("ores:oxides", 0.5), gap("element:Fe", 0.5))[:2] == [
        "ores:oxides", "element:Fe",
    ]  # fmt: skip
    assert told(gap("ores:oxides", 0.6), gap("element:Fe", 0.5))[1] == "ores:oxides"
    assert told(gap("element:Xe", 0.6)) == [""] * 4


def test_every_gap_has_a_say_by_its_severity() -> None:
    best = np.array([0, 0, 0, 0, 1, -1])
    weights = shared_weights(best, np.array([0.8, 0.4]))
    assert weights == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.4, 0.0])
    assert not shared_weights(np.array([-1, -1]), np.empty(0)).any()


def test_rows_and_models_are_named_when_absent(made: Atlas, made_up_registry: None) -> None:  # noqa: F811
    organics = rows_of(made, "organic-a", name="here", sets=["organics"])
    assert "structures have no vector of organic-a" in organics.notes[0]
    with pytest.raises(ArchiveError, match="embedded none"):
        rows_of(made, "organic-a", name="here", sets=[])
    assert choose_model(made, ["crystal"], among=["lattice-b", "noise"]) == "lattice-b"
    with pytest.raises(AtlasError, match="no model is in the atlas and in the pool"):
        choose_model(made, ["crystal"], among=[])


def test_command_line(
    made: Atlas,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made_up_registry: None,  # noqa: F811
) -> None:
    """A set of the same atlas, held out, in table and JSON; a second atlas; faults."""
    root = Path(made.location)
    gaps = table(gap("element:U|crystal", 0.9))
    read = Atlas.table
    monkeypatch.setattr(
        Atlas,
        "table",
        lambda self, path, **more: gaps if "gaps" in path else read(self, path, **more),
    )
    monkeypatch.chdir(tmp_path)
    call = CliRunner().invoke
    plain = ["suggest", str(root), "--pool", "ores", "--model", MODEL, "--top", "3"]
    shown = call(app, plain, catch_exceptions=False)
    assert shown.exit_code == 0
    assert "3 of 3 asked for, 3 of them in open gaps" in shown.stdout
    first = pd.read_parquet(tmp_path / "suggestions.parquet")
    assert set(first["pool"]) == {"ores"}
    assert first["known"].iloc[0] < 150  # what both sets hold is taken as molecules
    asked = call(app, [*plain, "--json", "--out", "b.parquet"], catch_exceptions=False)
    document = json.loads(asked.stdout)
    assert [p["id"] for p in document["picks"]] == list(first["id"])
    again = pd.read_parquet("b.parquet")
    pd.testing.assert_frame_equal(again, first)
    other = call(app, ["suggest", str(root), "--pool", str(root), "--model", MODEL, "--json"])
    assert json.loads(other.stdout)["picks"] == []  # all of it is known
    for wrong, text in [
        (["--pool", "nowhere"], "no folder or file"),
        (["--pool", "ores", "--cost", "money"], "use none, atoms, time"),
        (["--pool", "ores", "--method", "best"], "gap_driven"),
        (["--pool", "ores", "--model", "gpt"], "--model gpt"),
        (["--pool", "ores", "--out", str(root / "x.parquet")], "outside"),
    ]:
        result = call(app, ["suggest", str(root), *wrong])
        assert isinstance(result.exception, AtlasError), wrong
        assert text in str(result.exception)
