# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from matteratlas import registry
from matteratlas.analysis.evidence.chemistry import TYPES, Regions
from matteratlas.analysis.evidence.reach import (
    family_q,
    overlap_table,
    reach_gaps,
    reach_table,
    shortfall_p,
)
from matteratlas.analysis.evidence.universe import (
    Drawn,
    Universe,
    beside_pool,
    beside_universe,
    count_regions,
    shipped_universes,
)
from matteratlas.analysis.gaps import gap_table
from matteratlas.schemas.errors import CardError
from matteratlas.schemas.reach import REACH, SET_OVERLAP, UniverseCard


def regions_of(columns: dict[str, np.ndarray]) -> Regions:
    """Regions of crystals from columns of membership, by names like ``element:Li``."""
    member = np.stack(list(columns.values()), axis=1).astype(np.int32)
    table = pd.DataFrame(
        {
            "region": [f"{name}|crystal" for name in columns],
            "type": [name.split(":")[0] for name in columns],
            "kind": "crystal",
        }
    )
    known = pd.DataFrame(np.ones((len(member), len(TYPES)), dtype=bool), columns=list(TYPES))
    return Regions(table, csr_matrix(member), known, np.full(len(member), "crystal", dtype=object))


@pytest.fixture
def made() -> Regions:
    """1,000 crystals: lithium in 300; its oxides, all of a pair; sodium apart from it; halves."""
    row = np.arange(1000)
    return regions_of(
        {
            "element:Li": row < 300,
            "element:O": (row >= 100) & (row < 600),
            "pair:Li-O": (row >= 100) & (row < 300),
            "element:Na": (row >= 600) & (row < 800),
            "stoichiometry:AB": row % 2 == 0,
            "prototype:AB:225": (row % 2 == 0) & (row < 250),
        }
    )


def half(seed: int = 0) -> np.ndarray:
    rows = np.zeros(1000, dtype=bool)
    rows[np.random.default_rng(seed).choice(1000, 500, replace=False)] = True
    return rows


def test_p_is_the_share_of_samples_by_counting() -> None:
    ways = sum(comb(4, j) * comb(8, 5 - j) for j in (0, 1))
    assert shortfall_p(1, 5, 4, 12) == pytest.approx(ways / comb(12, 5), rel=1e-12)
    assert shortfall_p(4, 5, 4, 12) == pytest.approx(1.0)


def test_what_is_taken_out_ranks_first_and_explains_what_goes_with_it(made: Regions) -> None:
    lithium = made.member[:, 0].toarray().ravel() > 0
    pool = np.ones(1000, dtype=bool)
    table = reach_table([beside_pool(made, half() & ~lithium, pool, scope="s")], release="r")
    REACH.validate(table)
    assert table["rank"].tolist() == list(range(1, len(table) + 1))
    first = table.iloc[0]
    assert first["region"] == "element:Li|crystal"
    assert (first["severity"], first["observed"]) == (1.0, 0)
    by = table.set_index("region")["explained_by"]
    assert by["pair:Li-O|crystal"] == by["prototype:AB:225|crystal"] == "element:Li|crystal"
    assert by["element:Li|crystal"] is None
    assert table.set_index("region").loc["element:Na|crystal", "severity"] == 0
    gaps = reach_gaps(table)
    assert [g.region for g in gaps] == ["element:Li|crystal"]
    assert gaps[0].part and "pair:Li-O|crystal" in gaps[0].evidence
    ranked = gap_table(gaps, release="r")
    assert ranked["q_value"][0] == first["q_value"] and ranked["severity"][0] == 1.0


def test_a_thinned_region_explains_the_larger_one_that_holds_it(made: Regions) -> None:
    """Rock salts taken out: the stoichiometry is short too, but not without them."""
    aside = made.member[:, 5].toarray().ravel() > 0
    drawn = beside_pool(made, half(3) & ~aside, np.ones(1000, dtype=bool), scope="s")
    table = reach_table([drawn], release="r")
    assert table.iloc[0]["region"] == "prototype:AB:225|crystal"
    assert reach_gaps(table)[0].region == "prototype:AB:225|crystal"
    assert len(reach_gaps(table)) == 1


def test_two_plants_are_two_gaps(made: Regions) -> None:
    aside = made.member[:, [0, 3]].toarray().any(axis=1)
    drawn = beside_pool(made, half() & ~aside, np.ones(1000, dtype=bool), scope="s")
    gaps = reach_gaps(reach_table([drawn], release="r"))
    assert {g.region for g in gaps} == {"element:Li|crystal", "element:Na|crystal"}


def test_the_whole_universe_is_not_tested(made: Regions) -> None:
    everything = np.ones(1000, dtype=bool)
    table = reach_table([beside_pool(made, everything, everything, scope="s")], release="r")
    assert len(table) == 6 and table["p_value"].isna().all() and (table["severity"] == 0).all()
    assert reach_gaps(table) == []


def test_nothing_to_compare_is_an_empty_valid_table(made: Regions) -> None:
    few = np.arange(1000) < 10
    table = reach_table([beside_pool(made, few, ~few | few, scope="s")], release="r")
    assert len(REACH.validate(table)) == 0 and reach_gaps(table) == []


def universe(regions: Regions, sets: list[str], rows: np.ndarray | None = None) -> Universe:
    totals, counts = count_regions(regions, rows=rows)
    about = {"name": "u", "description": "u", "sources": [], "licence": "none", "least": 1}
    card = UniverseCard(id="u", sets=sets, totals=totals, **about)  # type: ignore[arg-type]
    return Universe(card, counts.set_index("region"))


def test_structures_of_other_sets_join_a_shipped_universe(made: Regions) -> None:
    counted = universe(made, ["known"])
    rows = half()
    part = Regions(made.table, made.member[rows], made.known[rows], made.kinds[rows])
    sets = np.full(500, "known", dtype=object)
    sets[:40] = "other"
    drawn = beside_universe(part, sets, counted)
    table = drawn.table.set_index("region")
    lithium = made.member[:, 0].toarray().ravel()[rows]
    own = table.loc["element:Li|crystal"]
    assert (own["n"], own["observed"]) == (500, lithium.sum())
    assert (own["universe_n"], own["in_universe"]) == (1040, 300 + lithium[:40].sum())
    result = reach_table([drawn], release="r")
    assert (result["severity"] == 0).all() and set(result["scope"]) == {"atlas"}


def test_counts_alone_explain_a_pair_by_its_element(made: Regions) -> None:
    rows = half() & (made.member[:, 0].toarray().ravel() == 0)
    part = Regions(made.table, made.member[rows], made.known[rows], made.kinds[rows])
    drawn = beside_universe(part, np.full(rows.sum(), "known", dtype=object), universe(made, []))
    table = reach_table([drawn], release="r").set_index("region")
    assert table.index[0] == "element:Li|crystal"
    assert table.loc["pair:Li-O|crystal", "explained_by"] == "element:Li|crystal"
    gaps = reach_gaps(table.reset_index())
    assert gaps[0].region == "element:Li|crystal" and not gaps[0].part
    # What the atlas has none of, and so no column for, is told too.
    without = made.kept(made.table["region"] != "element:Li|crystal")
    cut = Regions(without.table, without.member[rows], made.known[rows], made.kinds[rows])
    again = beside_universe(cut, np.full(rows.sum(), "known", dtype=object), universe(made, []))
    assert reach_table([again], release="r").iloc[0]["region"] == "element:Li|crystal"


def test_counts_alone_explain_an_element_by_its_pair(made: Regions) -> None:
    rows = half() & (made.member[:, 2].toarray().ravel() == 0)
    part = Regions(made.table, made.member[rows], made.known[rows], made.kinds[rows])
    drawn = beside_universe(part, np.full(rows.sum(), "known", dtype=object), universe(made, []))
    table = reach_table([drawn], release="r").set_index("region")
    assert table.index[0] == "pair:Li-O|crystal"
    assert table.loc["element:Li|crystal", "explained_by"] == "pair:Li-O|crystal"
    assert reach_gaps(table.reset_index())[0].region == "pair:Li-O|crystal"


def test_q_values_select_families_first() -> None:
    """By hand: the Simes p of each family; one of two is selected, so its q-values double."""
    families = [pd.Series([0.001, 0.5, 0.9]), pd.Series([0.3, 0.8]), pd.Series([np.nan])]
    first, second, third = family_q(families)
    np.testing.assert_allclose(first, [0.006, 1.0, 1.0])
    np.testing.assert_allclose(second, [1.0, 1.0])
    assert third.isna().all()


def test_families_without_an_effect_are_seldom_named() -> None:
    random = np.random.default_rng(0)
    named = [
        any((q < 0.05).any() for q in family_q([pd.Series(random.random(50)) for _ in range(20)]))
        for _ in range(400)
    ]
    assert np.mean(named) < 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_sets_are_held_against_one_another(made: Regions) -> None:
    row = np.arange(1000)
    sets = {"oxides": (row >= 100) & (row < 600), "sodium": row >= 590}
    table = overlap_table(made, sets, release="r")
    SET_OVERLAP.validate(table)
    own = table[(table["type"] == "element")].set_index(["set_a", "set_b"])
    pair = own.loc[("oxides", "sodium")]
    assert (pair["regions_a"], pair["regions_b"], pair["shared"]) == (2, 2, 1)
    assert pair["jaccard"] == pytest.approx(1 / 3) and pair["covered"] == 0.5


def test_shipped_universes_are_small_and_say_what_they_are() -> None:
    found = shipped_universes()
    assert set(found) == {"registry", "ccd", "mp"}
    folder = Path(registry.__path__[0]) / "universes"
    assert sum(f.stat().st_size for f in folder.iterdir()) < 300_000
    for one in found.values():
        assert one.card.licence and one.card.sources
        counts = one.counts
        assert set(counts["type"]) <= set(TYPES)
        assert (counts["count"] >= one.card.least).all()
        totals = [
            one.card.totals[k][t] for k, t in zip(counts["kind"], counts["type"], strict=True)
        ]
        assert (counts["count"] <= totals).all()
    assert found["mp"].counts.loc["element:O|crystal", "count"] > 60_000
    assert found["mp"].card.totals["crystal"]["element"] == 132_752


def test_a_universe_card_without_its_counts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "u.yaml").write_text("id: u\n")
    with pytest.raises(CardError, match=r"u\.yaml"):
        shipped_universes(tmp_path)
    source = Path(registry.__path__[0]) / "universes" / "mp.yaml"
    (tmp_path / "u.yaml").write_text(source.read_text())
    with pytest.raises(CardError, match="does not belong"):
        shipped_universes(tmp_path)


def test_drawn_without_rows_has_no_regions() -> None:
    one = Drawn("a", "b", pd.DataFrame())
    assert one.rows is None and one.regions is None
