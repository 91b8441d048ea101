# SPDX-License-Identifier: Apache-2.0
"""Every number on the page is one of the score tables, or a mean of some."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_reader import Page
from synthetic_atlas import Made

from matteratlas.analysis.report.coverage import place
from matteratlas.analysis.report.formats import p_value, plain_p, short, significant, two, whole
from matteratlas.analysis.report.matrices import COLUMNS, cluster_order, unpack
from matteratlas.registry.files import Files
from matteratlas.registry.index import read_runs
from matteratlas.schemas.structures import ATOMIC_NUMBERS, SYMBOLS


@pytest.fixture(scope="module")
def pairs(made: Made) -> pd.DataFrame:
    return made.tables["scores/pairs.parquet"]


def test_matrices_hold_every_row_of_the_pair_table(page: Page, pairs: pd.DataFrame) -> None:
    names = [m["key"] for m in page.data["models"]]
    kept = pairs[~pairs["selection"].str.startswith("in:")]
    blocks = {(b["selection"], b["metric"]): b for b in page.pairs["blocks"]}
    assert len(blocks) == len(kept.groupby(["selection", "metric"]))
    cells = 0
    for block in blocks.values():
        known = np.isfinite(unpack(block, "v")).sum()
        cells += known if block["asymmetric"] else known // 2
    assert cells == len(kept)
    for row in kept.sample(50, random_state=1).to_dict("records"):
        block = blocks[row["selection"], row["metric"]]
        a, b = (block["models"].index(names.index(row[f"model_{side}"])) for side in "ab")
        assert (block["n"], block["k"]) == (row["n"], None if pd.isna(row["k"]) else row["k"])
        for key, (column, digits) in COLUMNS.items():
            shown = unpack(block, key)[a, b]
            assert shown == pytest.approx(row[column], abs=0.51 * 10**-digits)
            if not block["asymmetric"]:
                assert unpack(block, key)[b, a] == shown


def test_information_imbalance_keeps_its_direction(page: Page, pairs: pd.DataFrame) -> None:
    names = [m["key"] for m in page.data["models"]]
    rows = pairs[(pairs["metric"] == "information_imbalance") & (pairs["selection"] == "crystals")]
    (block,) = (
        b
        for b in page.pairs["blocks"]
        if b["selection"] == "crystals" and b["metric"] == "information_imbalance"
    )
    assert block["asymmetric"]
    values = unpack(block, "v")
    expected = np.full(values.shape, np.nan)
    for row in rows.to_dict("records"):
        a, b = (block["models"].index(names.index(row[f"model_{side}"])) for side in "ab")
        expected[a, b] = row["value"]
    np.testing.assert_allclose(values, expected, atol=5.1e-5)
    assert np.nanmax(abs(values - values.T)) > 0.01


def test_one_matrix_has_one_n_and_one_k(page: Page, pairs: pd.DataFrame) -> None:
    for block in page.pairs["blocks"]:
        rows = pairs[
            (pairs["selection"] == block["selection"]) & (pairs["metric"] == block["metric"])
        ]
        assert set(rows["n"]) == {block["n"]}
        assert set(rows["k"].fillna(0)) == {block["k"] or 0}
        assert sorted(block["order"]) == block["models"]


def test_contrasts_are_means_over_draws(page: Page, pairs: pd.DataFrame) -> None:
    names = [m["key"] for m in page.data["models"]]
    points = page.pairs["points"]
    assert len(points) > 20
    for point in points:
        rows = pairs[
            pairs["selection"].str.startswith(point["contrast"])
            & (pairs["metric"] == point["metric"])
            & (pairs["model_a"] == names[point["a"]])
            & (pairs["model_b"] == names[point["b"]])
        ]
        for side, draws in (("in", 3), ("out", 1)):
            own = rows[rows["selection"].str.contains(rf"\|{side}\.")]
            assert len(own) == point[side]["draws"] == draws
            assert point[side]["v"] == pytest.approx(own["value"].mean(), rel=1e-4)
            assert point[side]["c"] == pytest.approx(own["calibrated"].mean(), rel=1e-4, abs=1e-9)
            assert point[side]["p"] == pytest.approx(own["p_value"].max(), rel=1e-3)
            error = np.sqrt((own["standard_error"] ** 2).mean())
            assert point[side]["s"] == pytest.approx(error, rel=1e-3)
            if point["metric"] == "mutual_knn":
                scaled = own["standard_error"] / (1 - own["null_quantile"])
                assert point[side]["e"] == pytest.approx(np.sqrt((scaled**2).mean()), rel=1e-3)


def test_dimensions_are_those_of_the_table(made: Made, page: Page) -> None:
    names = [m["key"] for m in page.data["models"]]
    table = made.tables["scores/models.parquet"]
    shown = {(names[d["i"]], d["selection"]): d for d in page.data["dimensions"]}
    assert len(shown) == len(table)
    for row in table.to_dict("records"):
        entry = shown[row["model"], row["selection"]]
        assert entry["v"] == pytest.approx(row["value"], rel=1e-4)
        assert entry["s"] == pytest.approx(row["standard_error"], rel=1e-3)
        assert entry["n"] == row["n"]


def test_headline_is_computed_from_the_scores(made: Made, page: Page, pairs: pd.DataFrame) -> None:
    crystal = {
        c.id for c in made.cards if c.modality == "atoms3d" and c.family in ("north", "south")
    }
    rows = pairs[
        (pairs["selection"] == "crystals")
        & pairs["model_a"].isin(crystal)
        & pairs["model_b"].isin(crystal)
    ]
    lead = page.by_id("headline").text
    for metric, label in (("mutual_knn", "mutual k-NN"), ("cknna", "CKNNA")):
        own = rows.loc[rows["metric"] == metric, "calibrated"]
        low, high = two(own.min()), two(own.max())
        assert f"{two(own.mean())} in calibrated {label} (from {low} to {high}" in lead
    assert f"over {(rows['metric'] == 'cknna').sum()} pairs" in lead
    assert "largest p ≤ 1/201" in lead.replace("\xa0", " ")
    assert "n = 90, k = 10" in lead.replace("\xa0", " ")
    sides = {}
    for side in ("in", "out"):
        named = pairs["selection"].str.contains(rf"^in:crystal~out:crystal\|\w+\|{side}\.")
        own = pairs[
            named
            & (pairs["metric"] == "mutual_knn")
            & pairs["model_a"].isin(crystal)
            & pairs["model_b"].isin(crystal)
        ]
        sides[side] = own.groupby(["model_a", "model_b"])["calibrated"].mean().mean()
    said = f"goes from {two(sides['in'])} to {two(sides['out'])} on crystals"
    assert said in lead
    assert "n = 35; k = 10" in lead.replace("\xa0", " ")


def test_modality_tables_are_means_by_modality(made: Made, page: Page, pairs: pd.DataFrame) -> None:
    modality = {c.id: c.modality for c in made.cards if c.learned}
    rows = pairs[(pairs["selection"] == "molecules") & (pairs["metric"] == "mutual_knn")]
    a, b = rows["model_a"].map(modality), rows["model_b"].map(modality)
    chosen = rows[((a == "atoms3d") & (b == "smiles")) | ((a == "smiles") & (b == "atoms3d"))]
    assert len(chosen) > 2
    (table,) = (
        t
        for t in page.all("table")
        if t.attributes.get("class") == "modalities" and t.text.startswith("Molecules")
    )
    body = next(e for e in table.children if e.tag == "tbody")
    row = next(r for r in body.children if r.children[0].text == "SMILES")
    assert row.children[1].text == f"{two(chosen['calibrated'].mean())} {len(chosen)} pairs"


def test_coverage_counts(made: Made, page: Page) -> None:
    table = made.tables["scores/coverage.parquet"]
    sums = table.groupby(["model", "set"])["embedded"].sum()
    body = next(e for e in page.by_id("coverage-table").children if e.tag == "tbody")
    assert len(body.children) == len(made.cards)
    for row in body.children:
        model = row.children[0].text
        shown = [c.text for c in row.children[1:]]
        assert shown == [str(sums[model, s]) for s in ("ores", "drugs", "folds")]
    missing = sum(sum(json.loads(r).values()) for r in table["reasons"])
    reasons = page.by_id("coverage").text
    shown = re.findall(r"(?:wrong_modality|unsupported_element) ([\d\u202f]+)", reasons)
    assert sum(int(v.replace("\u202f", "")) for v in shown) == missing


def test_elements_count_structures_and_what_3d_models_embed(made: Made, page: Page) -> None:
    frames = [pd.read_parquet(made.root / "structures" / f"{s}.parquet") for s in ("ores", "drugs")]
    structures = pd.concat(frames)
    shown = {e["symbol"]: e for e in page.data["elements"]}
    assert len(shown) == len(ATOMIC_NUMBERS)
    for symbol in ("U", "O", "Gd", "Xe"):
        holds = structures["elements"].map(lambda e, s=symbol: s in e)
        assert shown[symbol]["structures"] == holds.sum()
        refused = structures["elements"].map(lambda e: "U" in e) & holds
        if holds.any():
            expected = 1 - refused.sum() / holds.sum()
            assert shown[symbol]["share"] == pytest.approx(expected, rel=1e-3, abs=1e-9)
        else:
            assert shown[symbol]["share"] is None
    three_d = {c.id for c in made.cards if c.modality == "atoms3d"}
    assert set(shown["U"]["unable"]) == three_d


def test_gaps_are_ranked_with_their_evidence(made: Made, page: Page) -> None:
    table = made.tables["scores/gaps.parquet"]
    held = [t for t in page.all("table") if t.attributes.get("class") == "gaps"]
    kinds = ("coverage", "agreement", "distribution", "density")
    for shown, kind in zip(held, kinds, strict=True):
        body = next(e for e in shown.children if e.tag == "tbody")
        own = table[table["kind"] == kind].sort_values("rank")
        assert [int(r.children[0].text) for r in body.children] == list(own["rank"])
        for row, gap in zip(body.children, own.to_dict("records"), strict=True):
            assert gap["evidence"] in row.children[1].text
            assert row.children[-1].text == two(gap["severity"])


def test_models_show_their_cards(made: Made, page: Page) -> None:
    bodies = [e for e in page.by_id("models-table").children if e.tag == "tbody"]
    shown = {b.children[0].children[0].attributes["data-value"]: b for b in bodies}
    assert set(shown) == {c.id for c in made.cards}
    for card in made.cards:
        text = shown[card.id].text
        for value in (card.name, card.family, card.licence.code, str(card.layers[0].dim)):
            assert str(value) in text
        if card.checkpoint.sha256:
            assert card.checkpoint.sha256[:10] in text
        assert f"x = atlas.embeddings('{card.id}')" in text
        assert "atlas = ma.open_atlas('ore-atlas')" in text
    spatial = next(c for c in made.cards if c.modality == "atoms3d")
    cost = shown[spatial.id].children[0].children[-1].attributes["data-value"]
    runs = list(read_runs(Files(str(made.root)), spatial.id).values())
    assert len(runs) == 3
    expected = 1e3 * sum(r["model_seconds"] for r in runs) / sum(r["embedded"] for r in runs)
    assert float(str(cost)) == pytest.approx(expected, rel=0.01)


def test_provenance_names_files_parameters_and_selections(made: Made, page: Page) -> None:
    text = page.by_id("provenance").text
    for table in ("selections", "pairs", "models", "coverage", "gaps"):
        assert f"scores/{table}.parquet" in text
    for selection in made.tables["scores/selections.parquet"].to_dict("records"):
        assert selection["selection"] in text
        assert selection["selection_sha256"][:16] in text
    for fact in ("permutations 200", "seed 0", "1.2.3", "3 rows, 30 needed"):
        assert fact in text


def test_clustering_puts_neighbours_together() -> None:
    groups = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    closeness = np.where(groups[:, None] == groups, 0.9, 0.1)
    ordered = groups[cluster_order(closeness)]
    assert (np.diff(ordered) != 0).sum() == 1
    closeness[0, 1:] = closeness[1:, 0] = np.nan  # one model with no score: at an end
    assert cluster_order(closeness).index(0) in (0, 7)


@given(st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_clustering_orders_all_models(size: int, seed: int) -> None:
    closeness = np.random.default_rng(seed).random((size, size))
    assert sorted(cluster_order(closeness)) == list(range(size))


def test_every_element_has_a_place_of_its_own() -> None:
    places = {place(z) for z in range(1, len(SYMBOLS))}
    assert len(places) == len(SYMBOLS) - 1
    expected = {"H": (1, 1), "He": (18, 1), "C": (14, 2), "Al": (13, 3), "Fe": (8, 4)}
    expected |= {"La": (3, 9), "Yb": (16, 9), "Lu": (3, 6), "Hf": (4, 6), "Og": (18, 7)}
    expected |= {"U": (6, 10), "Lr": (3, 7)}
    assert {s: place(ATOMIC_NUMBERS[s]) for s in expected} == expected


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (p_value(1 / 201, 200), "≤ 1/201"),
        (p_value(2 / 201, 200), "= 0.01"),
        (p_value(0.0372, 200), "= 0.037"),
        (p_value(None, 0), "not tested"),
        (plain_p(0.0004), "< 0.001"),
        (plain_p(0.0416), "0.042"),
        (plain_p(None), "–"),
        (two(-0.001), "0.00"),
        (two(-0.126), "\u22120.13"),
        (two(None), "–"),
        (whole(12345), "12\u202f345"),
        (significant(1234567.0), "1.23e+06"),
        (significant(1234.0), "1230"),
        (significant(0.01234), "0.0123"),
        (significant(0.0), "0"),
        (short(842_440), "842\u202fk"),
        (short(1_396_669_089), "1.4\u202fB"),
        (short(None), "–"),
    ],
)
def test_numbers_are_written_as_people_read_them(shown: str, expected: str) -> None:
    assert shown == expected
