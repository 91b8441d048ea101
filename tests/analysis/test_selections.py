# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matteratlas.analysis.selections import (
    CONTRAST_DRAWS,
    CONTRAST_ROWS,
    Plan,
    ids_sha256,
    make_plan,
    subsample,
)

IDS = st.lists(st.text("abcdef", min_size=1, max_size=6), unique=True, max_size=40)


@settings(deadline=None)
@given(ids=IDS, size=st.integers(0, 45), seed=st.integers(0, 3), order=st.randoms())
def test_a_subsample_hangs_on_ids_alone(
    ids: list[str], size: int, seed: int, order: object
) -> None:
    taken = subsample(ids, size, seed=seed, label="x")
    shuffled = list(ids)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert subsample(shuffled, size, seed=seed, label="x") == taken
    assert list(taken) == sorted(set(taken))
    assert set(taken) <= set(ids)
    assert len(taken) == min(size, len(ids))


@settings(deadline=None)
@given(ids=IDS, size=st.integers(1, 45))
def test_a_set_that_grows_keeps_rows_that_still_rank(ids: list[str], size: int) -> None:
    before = set(subsample(ids, size, seed=0, label="x"))
    after = set(subsample([*ids, "new"], size, seed=0, label="x"))
    assert after <= before | {"new"}


def test_seed_and_label_change_the_subsample() -> None:
    ids = [f"s{i}" for i in range(200)]
    draws = {
        subsample(ids, 50, seed=s, label=label)
        for s in (0, 1)
        for label in ("crystals", "molecules")
    }
    assert len(draws) == 4


def test_sha256_is_over_sorted_ids() -> None:
    assert ids_sha256(["b", "a"]) == hashlib.sha256(b"a\nb").hexdigest()


def world(
    *, crystals: int = 100, molecules: int = 60, far: int = 40
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Crystals (the last ``far`` of them outside a's and b's domains), then molecules (outside)."""
    n = crystals + molecules
    structures = pd.DataFrame(
        {
            "id": [f"s{i:04d}" for i in range(n)],
            "set": ["ores"] * crystals + ["organics"] * molecules,
            "stratum": ["near"] * (crystals - far) + ["far"] * far + ["small"] * molecules,
            "kind": ["crystal"] * crystals + ["molecule"] * molecules,
        }
    )
    index = pd.Index(structures["id"])
    presence = pd.DataFrame(
        {m: np.ones(n, dtype=bool) for m in ("a", "b", "c", "random")}, index=index
    )
    inside = np.where(np.arange(n) < crystals - far, "in", "out")
    opposite = np.where(np.arange(n) < crystals, "out", "in")
    relations = pd.DataFrame({"a": inside, "b": inside, "c": opposite}, index=index, dtype=object)
    return structures, presence, relations


def plan_of(frames: tuple[pd.DataFrame, ...], **options: int) -> Plan:
    structures, presence, relations = frames
    return make_plan(structures, presence, relations, **{"k": 5, **options})


def test_kinds_and_strata_are_selected_once_each() -> None:
    plan = plan_of(world())
    by_name = {s.name: s for s in plan.selections}
    assert len(by_name) == len(plan.selections)
    assert {s.name for s in plan.selections if s.role in ("kind", "stratum")} == {
        "molecules",
        "crystals",
        "ores:near",
        "ores:far",
        "organics:small",
    }
    assert by_name["crystals"].n == 100
    assert by_name["crystals"].models == ("a", "b", "c", "random")
    assert by_name["crystals"].sha256 == ids_sha256(f"s{i:04d}" for i in range(100))


def test_every_model_of_a_selection_embedded_every_row() -> None:
    frames = world()
    presence = frames[1]
    random = np.random.default_rng(0)
    presence["b"] = random.random(len(presence)) < 0.95
    presence["c"] = random.random(len(presence)) < 0.6
    plan = plan_of(frames)
    assert any(s.role == "partial" for s in plan.selections)
    assert any(s.role == "contrast" for s in plan.selections)
    for selection in plan.selections:
        assert presence.loc[list(selection.ids), list(selection.models)].to_numpy().all()


def test_the_core_embedded_nine_tenths() -> None:
    frames = world()
    presence = frames[1]
    presence.loc[presence.index[:10], "b"] = False  # 90 % of the crystals
    presence.loc[presence.index[:11], "c"] = False  # 89 %
    by_name = {s.name: s for s in plan_of(frames).selections}
    assert by_name["crystals"].models == ("a", "b", "random")
    assert by_name["crystals"].n == 90
    partial = by_name["crystals|c"]
    assert partial.n == 89
    assert partial.parent == "crystals"
    assert partial.models == ("a", "b", "random", "c")
    assert partial.pairs == (("a", "c"), ("b", "c"), ("random", "c"))


def test_a_large_selection_is_a_recorded_subsample() -> None:
    by_name = {s.name: s for s in plan_of(world(), max_rows=50).selections}
    assert (by_name["crystals"].n, by_name["crystals"].available) == (50, 100)
    other = {s.name: s for s in plan_of(world(), max_rows=50, seed=1).selections}
    assert other["crystals"].ids != by_name["crystals"].ids


@pytest.mark.parametrize(("k", "least"), [(5, 30), (40, 42)])
def test_too_few_rows_are_skipped_with_the_reason(k: int, least: int) -> None:
    frames = world(far=29)
    frames[1].loc[frames[1].index[20:], "c"] = False
    plan = plan_of(frames, k=k)
    assert all(s.n >= least for s in plan.selections)
    skipped = {entry["selection"]: entry["reason"] for entry in plan.skipped}
    assert skipped["ores:far"] == f"29 structures, {least} needed"
    assert skipped["crystals|c"] == f"20 rows in common with the core, {least} needed"


def test_a_region_few_models_read_is_skipped() -> None:
    frames = world()
    frames[1].loc[frames[1].index[100:], ["a", "b", "c"]] = False
    skipped = {entry["selection"]: entry["reason"] for entry in plan_of(frames).skipped}
    assert skipped["molecules"] == "1 models embedded 90% of its rows, 2 needed"


def test_contrasts_match_n_and_stay_on_their_side() -> None:
    structures, _, relations = frames = world()
    found = [s for s in plan_of(frames).selections if s.role == "contrast"]
    assert {s.contrast for s in found} == {
        "in:crystal~out:crystal",
        "in:crystal~out:molecule",
    }  # c is inside where a and b are outside: no pair with it
    kinds = structures.set_index("id")["kind"]
    for selection in found:
        assert selection.pairs == (("a", "b"),)
        rows = relations.loc[list(selection.ids), ["a", "b"]]
        assert (rows == selection.side).all().all()
        contrast = dict(part.split(":") for part in str(selection.contrast).split("~"))
        assert set(kinds[list(selection.ids)]) == {contrast[str(selection.side)]}
    for contrast, n, draws in (
        ("in:crystal~out:crystal", 40, {"in": CONTRAST_DRAWS, "out": 1}),
        ("in:crystal~out:molecule", 60, {"in": 1, "out": 1}),
    ):
        own = [s for s in found if s.contrast == contrast]
        assert {s.n for s in own} == {n}
        assert pd.Series([s.side for s in own]).value_counts().to_dict() == draws
    draws = {s.ids for s in found if s.contrast == "in:crystal~out:crystal" and s.side == "in"}
    assert len(draws) == CONTRAST_DRAWS


def test_contrasts_are_capped() -> None:
    found = plan_of(world(crystals=1000, far=500)).selections
    own = [s for s in found if s.contrast == "in:crystal~out:crystal"]
    assert {s.n for s in own} == {CONTRAST_ROWS}
    assert len(own) == 2 * CONTRAST_DRAWS


def test_pairs_with_other_rows_are_another_group() -> None:
    frames = world()
    _, presence, relations = frames
    relations["d"] = relations["a"]
    presence.insert(3, "d", True)
    presence.loc[presence.index[:5], "d"] = False
    found = [s for s in plan_of(frames).selections if s.contrast == "in:crystal~out:crystal"]
    groups = {s.group: s.pairs for s in found}
    assert sorted(groups.values(), key=str) == [(("a", "b"),), (("a", "d"), ("b", "d"))]


def test_a_contrast_with_too_few_rows_names_its_pairs() -> None:
    plan = plan_of(world(far=20))
    reasons = [e["reason"] for e in plan.skipped if e["selection"] == "in:crystal~out:crystal"]
    assert reasons == ["fewer than 30 rows on a side for 1 pairs: a and b (80 in, 20 out)"]
