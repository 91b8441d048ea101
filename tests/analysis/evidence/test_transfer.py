# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_evidence import evidence_of, scored_atlas

from matteratlas.analysis.calibration import permutations
from matteratlas.analysis.evidence import held_out, maps, read_outs, transfer
from matteratlas.analysis.evidence.context import Evidence
from matteratlas.schemas.transfer import MAPS, STATISTICS, TRANSFER

RETRIEVED = ("recall_at_1", "recall_at_k", "reciprocal_rank")


def groups_of(n: int, *, count: int, seed: int = 0) -> list[str]:
    return [f"g{i}" for i in np.random.default_rng(seed).integers(0, count, n)]


def between(x: np.ndarray, y: np.ndarray, *, seed: int = 0, draws: int = 99) -> pd.DataFrame:
    """All statistics of the maps from x to y, with one label: the first column of y."""
    ids = [f"id{i}" for i in range(len(x))]
    parts = transfer.Parts.of(ids, ids, draws=draws, seed=seed)
    assert parts.lack is None
    arena = transfer.Arena("s", "0" * 64, len(x), parts, {"label": y[:, 0].copy()}, 5)
    first, second = (
        transfer.Place(name, "last", "atoms3d", rows, parts) for name, rows in (("x", x), ("y", y))
    )
    rotation = maps.rotation_map(first.linear.whole, second.linear.whole)[0]
    transfer._between(arena, first, second, rotation)
    return pd.DataFrame(arena.found)


def value(table: pd.DataFrame, map_: str, statistic: str, column: str = "value") -> float:
    rows = table[(table["map"] == map_) & (table["statistic"] == statistic)]
    assert len(rows) == 1
    return float(rows[column].iloc[0])


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 200), st.integers(1, 60), st.integers(0, 99))
def test_no_group_is_ever_in_two_parts(n: int, count: int, seed: int) -> None:
    groups = groups_of(n, count=count, seed=seed)
    part = held_out.grouped_parts(groups, (2, 1, 1), seed=seed, label="x")
    for group in set(groups):
        assert len({p for g, p in zip(groups, part, strict=True) if g == group}) == 1
    # The parts are what was asked for, but for one group's rows.
    largest = max(map(groups.count, set(groups)))
    sizes = np.bincount(part, minlength=3)
    assert sizes.sum() == n
    assert (np.abs(sizes - np.array([2, 1, 1]) / 4 * n) <= largest + 1).all()
    order = np.random.default_rng(seed).permutation(n)
    shuffled = held_out.grouped_parts([groups[i] for i in order], (2, 1, 1), seed=seed, label="x")
    assert (shuffled == part[order]).all()


def test_the_parts_of_a_selection_share_no_formula_nor_row() -> None:
    groups = groups_of(300, count=90)
    parts = transfer.Parts.of([f"id{i}" for i in range(300)], groups, draws=20, seed=3)
    names = [{groups[i] for i in rows} for rows in (parts.fit, parts.probe, parts.test)]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    assert sorted([*parts.fit, *parts.probe, *parts.test]) == list(range(300))
    inside = {groups[i] for i in parts.fit[parts.half]}
    assert not inside & {groups[i] for i in parts.fit[~parts.half]}
    assert set(parts.anchors) <= set(parts.fit)
    assert parts.blocks is not None
    blocks = pd.Series(parts.blocks).groupby(list(parts.test_groups)).nunique()
    assert (blocks == 1).all()


def test_a_turned_scaled_copy_maps_onto_itself_and_finds_every_row() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(240, 6))
    rotation = np.linalg.qr(random.normal(size=(6, 6)))[0]
    table = between(x, 7.0 * x @ rotation)
    for map_ in ("linear", "rotation"):
        assert value(table, map_, "reconstruction_r2") > 1 - 1e-6
        assert value(table, map_, "reconstruction_error") < 1e-3
    for map_ in ("linear", "rotation", "relative"):
        assert all(value(table, map_, s) == 1.0 for s in RETRIEVED)
        assert value(table, map_, "recall_at_1", "p_value") == pytest.approx(0.01)
    assert value(table, "local", "recall_at_1") > 0.8
    assert value(table, "linear", "probe_r2") > 0.8


def test_independent_noise_is_at_chance() -> None:
    random = np.random.default_rng(1)
    table = between(random.normal(size=(600, 6)), random.normal(size=(600, 9)))
    m = table["n_test"].iloc[0]
    assert m == 150
    for map_ in ("linear", "rotation", "relative", "local"):
        assert value(table, map_, "recall_at_1") < 5 / m
        assert value(table, map_, "recall_at_k") < 5 / m + 4 * np.sqrt(5 / m / m)
        assert value(table, map_, "recall_at_k", "p_value") > 0.01
        chance = value(table, map_, "recall_at_1", "null_mean")
        assert chance == pytest.approx(1 / m, abs=0.003)
    assert abs(value(table, "linear", "reconstruction_r2")) < 0.05
    assert value(table, "linear", "probe_r2") < 0.05
    assert value(table, "linear", "reconstruction_r2", "p_value") > 0.01


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000))
def test_scores_are_the_same_for_every_rotation_of_either_space(seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(160, 5))
    y = np.tanh(x @ random.normal(size=(5, 8))) + 0.2 * random.normal(size=(160, 8))
    label = y[:, 0].copy()
    turn = [np.linalg.qr(random.normal(size=(d, d)))[0] for d in (5, 8)]
    plain, moved = between(x, y), between(2.0 * x @ turn[0], 0.1 * y @ turn[1])
    assert label.any()
    same = plain["statistic"] != "probe_r2"  # its label is a column, which turned with y
    assert plain[same]["value"].to_numpy() == pytest.approx(
        moved[same]["value"].to_numpy(), abs=1e-6
    )


def test_retrieval_shares_places_among_equals_and_matches_counting() -> None:
    random = np.random.default_rng(2)
    distances = random.random((30, 30))
    draws = permutations(30, 50, seed=0).indices.astype(np.intp)
    found = held_out.retrieval(distances, 4, None, draws)
    place = (distances < np.diag(distances)[:, None]).sum(axis=1)
    assert found["recall_at_1"].value == pytest.approx((place == 0).mean())
    assert found["recall_at_k"].value == pytest.approx((place < 4).mean())
    assert found["reciprocal_rank"].value == pytest.approx((1 / (place + 1)).mean())
    equal = held_out.retrieval(np.ones((10, 10)), 4, None, draws[:0])
    assert equal["recall_at_1"].value == pytest.approx(0.1)
    assert equal["recall_at_k"].value == pytest.approx(0.4)
    assert np.isnan(equal["recall_at_1"].null_mean)


def test_errors_cover_what_other_rows_would_give() -> None:
    random = np.random.default_rng(3)
    values, errors = [], []
    for _ in range(200):
        truth = random.normal(size=60)
        predicted = truth + 0.7 * random.normal(size=60)
        blocks = held_out.blocks_of([str(i) for i in range(60)], seed=0)
        found = held_out.explained(truth, predicted, blocks, np.empty((0, 60), np.intp))
        values.append(found.value)
        errors.append(found.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


def test_energies_lose_what_composition_gives_and_unknown_elements_are_null() -> None:
    random = np.random.default_rng(4)
    shares = random.dirichlet(np.ones(4), size=50)
    shares[:, 3] = 0.0
    shares[0] = [0.0, 0.0, 0.0, 1.0]
    known = random.normal(size=50)
    values = shares @ [3.0, -7.0, 1.0, 50.0] + 1e-3 * known
    fitted = np.arange(50) > 20
    left = read_outs.beyond_composition(values, shares, fitted)
    assert np.isnan(left[0])
    assert np.abs(left[1:]).max() < 0.01


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    """``bond-a`` sees other points than the rest, so that nothing maps to or from it."""

    def plant(model: str, structures: pd.DataFrame, latent: np.ndarray) -> np.ndarray:
        return np.random.default_rng(9).normal(size=latent.shape) if model == "bond-a" else latent

    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("transfer") / "atlas"
        scored_atlas(root, patch, seed=2, noise=0.2, plant=plant)
        yield evidence_of(root)


@pytest.fixture(scope="module")
def table(evidence: Evidence) -> pd.DataFrame:
    findings = transfer.transfer_stage(evidence)
    return TRANSFER.validate(findings.tables["scores/transfer.parquet"])


def rows_of(table: pd.DataFrame, **where: str) -> pd.DataFrame:
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table)
    return table


def test_every_pair_that_sees_more_than_elements_has_every_statistic(table: pd.DataFrame) -> None:
    crystals = rows_of(table, selection="crystals", statistic="recall_at_1", map="linear")
    models = {"lattice-a", "lattice-b", "bond-a", "field-a", "shape", "noise"}
    pairs = set(zip(crystals["model_a"], crystals["model_b"], strict=True))
    assert pairs == {(a, b) for a in {*models, "composition"} for b in models if a != b}
    for pair, rows in table[table["model_a"] != table["model_b"]].groupby(["model_a", "model_b"]):
        assert set(rows["map"]) == set(MAPS) - {"identity"}, pair
        assert set(rows["statistic"]) == set(STATISTICS)
    assert set(rows_of(table, map="identity")["statistic"]) == {"probe_r2"}
    assert (table["n_train"] + table["n_probe"].fillna(0) + table["n_test"] <= table["n"]).all()
    assert set(table.loc[table["statistic"] == "recall_at_k", "k"]) == {5}
    assert set(table["release"]) == {"unreleased"}


def test_models_outside_the_core_map_to_and_from_it_on_the_rows_they_have(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = transfer.transfer_stage(evidence).notes
    assert "transfer on crystals|organic-a: 10 rows in its smallest part, 12 needed" in notes
    monkeypatch.setattr(transfer, "LEAST_ROWS", 10)
    found = transfer.transfer_stage(evidence).tables["scores/transfer.parquet"]
    partial = rows_of(found, selection="crystals|organic-a", map="linear")
    own = (partial["model_a"] == "organic-a") | (partial["model_b"] == "organic-a")
    assert (own | (partial["model_a"] == "composition")).all()
    assert (partial["n"] == 60).all()
    hits = rows_of(partial, statistic="recall_at_1")
    pairs = set(zip(hits["model_a"], hits["model_b"], strict=True))
    core = {"lattice-a", "lattice-b", "bond-a", "field-a", "shape", "noise"}
    there = {("organic-a", m) for m in core}
    assert pairs == there | {(b, a) for a, b in there}  # the test part is of one composition


def test_models_that_see_the_same_map_and_the_others_do_not(table: pd.DataFrame) -> None:
    linear = rows_of(table, selection="crystals", map="linear")
    hits = rows_of(linear, statistic="recall_at_1").set_index(["model_a", "model_b"])
    explained = rows_of(linear, statistic="reconstruction_r2").set_index(["model_a", "model_b"])
    assert explained.loc[("lattice-a", "field-a"), "value"] > 0.9
    assert hits.loc[("lattice-a", "field-a"), "value"] > 0.8
    assert hits.loc[("lattice-a", "field-a"), "p_value"] < 0.05
    for alone in ("bond-a", "noise"):
        for pair in (("lattice-a", alone), (alone, "lattice-a")):
            assert hits.loc[pair, "value"] < 0.15
            assert explained.loc[pair, "value"] < 0.1
    # Where points have nothing to do with elements, composition finds nothing.
    assert hits.loc[("composition", "lattice-a"), "value"] < 0.15


def test_stage_is_the_same_every_time(evidence: Evidence, table: pd.DataFrame) -> None:
    again = transfer.transfer_stage(evidence).tables["scores/transfer.parquet"]
    pd.testing.assert_frame_equal(again, table)


def test_a_probe_reads_on_another_models_rows_what_it_reads_on_its_own() -> None:
    random = np.random.default_rng(6)
    latent = random.normal(size=(400, 4))
    label = latent[:, 0] + 0.1 * random.normal(size=400)
    ids = [f"id{i}" for i in range(400)]
    parts = transfer.Parts.of(ids, ids, draws=49, seed=0)
    arena = transfer.Arena("s", "0" * 64, 400, parts, {"label": label}, 5)
    places = [
        transfer.Place(name, "last", "text", rows + 0.05 * random.normal(size=rows.shape), parts)
        for name, rows in (
            ("a", latent @ random.normal(size=(4, 30)) + 2.0),
            ("b", latent @ random.normal(size=(4, 50)) - 1.0),
            ("without", latent[:, 1:] @ random.normal(size=(3, 30))),
        )
    ]
    for place in places:
        transfer._native(arena, place)
        for other in places:
            if other is not place:
                rotation = maps.rotation_map(place.linear.whole, other.linear.whole)[0]
                transfer._between(arena, place, other, rotation)
    found = pd.DataFrame(arena.found)
    found = found[(found["statistic"] == "probe_r2")].set_index(["map", "model_a", "model_b"])
    native = found.loc[("identity", "b", "b"), "value"]
    assert native > 0.8
    assert found.loc[("linear", "a", "b"), "value"] > 0.9 * native
    assert found.loc[("linear", "a", "b"), "p_value"] == pytest.approx(0.02)
    # What a model does not see, no map gives it; nor does it read what its probe cannot.
    assert found.loc[("linear", "without", "b"), "value"] < 0.3
    assert found.loc[("identity", "without", "without"), "value"] < 0.3


def test_a_constant_space_is_told_and_left_out(evidence: Evidence) -> None:
    class Flat:
        def __getattr__(self, name: str) -> object:
            return getattr(evidence.reader, name)

        def rows(self, key: str, ids: list[str]) -> np.ndarray:
            rows = evidence.reader.rows(key, ids)
            return np.ones_like(rows) if key == "shape" else rows

    given = {**vars(evidence), "reader": Flat()}
    fields = Evidence.__dataclass_fields__
    flat = Evidence(**{k: v for k, v in given.items() if k in fields})
    findings = transfer.transfer_stage(flat)
    found = TRANSFER.validate(findings.tables["scores/transfer.parquet"])
    assert "shape" not in {*found["model_a"], *found["model_b"]}
    assert "transfer on crystals: constant there: shape" in findings.notes


def test_many_models_keep_fewer_variants_of_each_family(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MOST_PAIRS", 20)
    findings = transfer.transfer_stage(evidence)
    found = findings.tables["scores/transfer.parquet"]
    crystals = rows_of(found, selection="crystals")
    assert "lattice-b" not in set(crystals["model_a"])
    assert {"lattice-a", "bond-a", "field-a", "shape", "noise"} < set(crystals["model_a"])
    assert any("further variants of their families: lattice-b" in n for n in findings.notes)


def test_few_formulas_are_told_and_the_table_is_empty_but_valid(evidence: Evidence) -> None:
    fields = Evidence.__dataclass_fields__
    short = Evidence(**{k: v for k, v in vars(evidence).items() if k in fields})
    table = short.structures.copy()
    table["formula"] = "CO"
    short.__dict__["structures"] = table
    findings = transfer.transfer_stage(short)
    empty = TRANSFER.validate(findings.tables["scores/transfer.parquet"])
    assert len(empty) == 0
    assert any("rows in its smallest part" in note for note in findings.notes)
