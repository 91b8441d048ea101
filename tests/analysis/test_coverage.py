# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
from atlas_factory import (
    MODELS,
    STRATA,
    edit_index,
    made_up_registry,  # noqa: F401
    write_atlas,
)

from matteratlas.analysis.charts import ChartReader
from matteratlas.analysis.coverage import ENOUGH, _size_bins, coverage_gaps, coverage_table
from matteratlas.registry import catalog
from matteratlas.registry.archive import open_atlas
from matteratlas.schemas.scores import COVERAGE

pytestmark = pytest.mark.usefixtures("made_up_registry")


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    return write_atlas(tmp_path / "atlas")


def test_counts_add_up_with_reasons_and_relations(atlas: Path) -> None:
    opened = open_atlas(str(atlas))
    table = COVERAGE.validate(coverage_table(opened, ChartReader(opened)))
    assert len(table) == len(MODELS) * len(STRATA)
    rows = table.set_index(["model", "set", "stratum"])
    sides = ["in_distribution", "out_of_distribution", "unknown_distribution"]
    assert (table[sides].sum(axis=1) == table["structures"]).all()
    lost = table["reasons"].map(lambda r: sum(json.loads(r).values()))
    assert (table["embedded"] + lost == table["structures"]).all()
    assert rows.loc[("organic-a", "ores", "alloys"), "embedded"] == 0
    assert json.loads(rows.loc[("organic-a", "ores", "alloys"), "reasons"]) == {
        "unsupported_element": 45
    }
    assert rows.loc[("bond-a", "ores", "oxides"), "in_distribution"] == 60
    assert rows.loc[("bond-a", "ores", "actinides"), "out_of_distribution"] == 45
    assert rows.loc[("shape", "ores", "oxides"), "unknown_distribution"] == 60
    # The crystal that both sets hold counts in each.
    assert rows.loc[("bond-a", "organics", "small"), "structures"] == 61


def test_a_set_a_model_never_ran_on_is_told(atlas: Path) -> None:
    edit_index(atlas, lambda index: index["models"]["shape"]["units"].pop("organics"))
    opened = open_atlas(str(atlas))
    rows = coverage_table(opened, ChartReader(opened)).set_index(["model", "set", "stratum"])
    own = rows.loc[("shape", "organics", "complexes")]
    assert (own["structures"], own["embedded"]) == (40, 0)
    assert json.loads(own["reasons"]) == {"not_embedded": 40}


def test_shared_structures_are_read_once(atlas: Path) -> None:
    reader = ChartReader(open_atlas(str(atlas)))
    assert len(reader.structures) == sum(count for *_, count in STRATA.values())
    assert reader.structures["id"].is_unique
    assert list(reader.presence.index) == list(reader.structures["id"])
    assert int(reader.presence["organic-a"].sum()) == 120


def test_refused_and_scarce_elements_are_gaps(atlas: Path) -> None:
    gaps = {(g.region, g.statistic): g for g in coverage_gaps(ChartReader(open_atlas(str(atlas))))}
    refused = gaps["element:U|crystal", "refused_share"]
    assert refused.value == pytest.approx(1 / 5)  # one of five 3D models, all of its vectors
    assert refused.reference == pytest.approx(90 / 750)
    assert refused.lost == pytest.approx((0.2 - 0.12) / 0.88)
    assert refused.evidence.startswith(
        "45 crystals: 4 of 5 learned 3D models embed any; none by organic-a; 20% of the vectors"
    )
    assert refused.p_value is None
    assert not any(region.startswith("element:C|") for region, _ in gaps)  # refused as usual
    assert not any(statistic == "structures" for _, statistic in gaps)


def test_an_element_models_support_and_the_atlas_lacks_is_a_gap(
    atlas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = dict(catalog.models())
    supports = cards["bond-a"].supports.model_copy(update={"elements": ["H-C", "U", "Po"]})
    cards["bond-a"] = cards["bond-a"].model_copy(update={"supports": supports})
    monkeypatch.setattr(catalog, "models", lambda folder=None: cards)
    gaps = {(g.region, g.statistic): g for g in coverage_gaps(ChartReader(open_atlas(str(atlas))))}
    lacking = {region for region, statistic in gaps if statistic == "structures"}
    assert lacking == {f"element:{e}" for e in ("He", "Li", "Be", "B", "Po")}
    polonium = gaps["element:Po", "structures"]
    assert (polonium.n, polonium.value, polonium.reference) == (0, 0.0, ENOUGH)
    assert polonium.lost == 1.0
    assert polonium.evidence.startswith("0 of 250 structures with Po (0 molecules, 0 crystals")


@pytest.mark.parametrize(
    ("sizes", "bins"),
    [
        ([1], [(1, 1)]),
        ([2, 9], [(2, 2), (3, 4), (5, 8), (9, 16)]),
        ([16, 17], [(9, 16), (17, 32)]),
        ([], []),
    ],
)
def test_size_bins_hold_every_size(sizes: list[int], bins: list[tuple[int, int]]) -> None:
    import numpy as np

    assert _size_bins(np.array(sizes)) == bins
