# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from made_evidence import evidence_of, scored_atlas

from matteratlas.analysis.evidence import scorecard_measures as measures
from matteratlas.analysis.evidence.context import Evidence
from matteratlas.analysis.evidence.scorecard import SOURCES, scorecard_stage
from matteratlas.analysis.evidence.transfer import transfer_stage
from matteratlas.schemas.scorecard import MEASURES, SCORECARD

LEARNED = ["lattice-a", "lattice-b", "bond-a", "field-a", "organic-a"]
PATH = "scores/scorecard.parquet"


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    """``bond-a`` sees other points than the rest of the models do."""

    def plant(model: str, structures: pd.DataFrame, latent: np.ndarray) -> np.ndarray:
        return np.random.default_rng(9).normal(size=latent.shape) if model == "bond-a" else latent

    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("scorecard") / "atlas"
        scored_atlas(root, patch, seed=2, noise=0.2, plant=plant)
        found = evidence_of(root)
        found.tables |= transfer_stage(found).tables
        yield found


@pytest.fixture(scope="module")
def card(evidence: Evidence) -> pd.DataFrame:
    return SCORECARD.validate(scorecard_stage(evidence).tables[PATH])


def with_tables(evidence: Evidence, **tables: pd.DataFrame) -> Evidence:
    fields = Evidence.__dataclass_fields__
    given = {k: v for k, v in vars(evidence).items() if k in fields}
    named = {f"scores/{name}.parquet": table for name, table in tables.items()}
    return Evidence(**{**given, "tables": evidence.tables | named})


def row(card: pd.DataFrame, model: str, measure: str, region: str) -> pd.Series:
    found = card[
        (card["model"] == model) & (card["measure"] == measure) & (card["region"] == region)
    ]
    assert len(found) == 1, (model, measure, region)
    return found.iloc[0]


def test_every_learned_model_has_every_measure_or_a_note_why_not(card: pd.DataFrame) -> None:
    for measure in MEASURES:
        rows = card[card["measure"] == measure]
        regions = set(rows["region"])
        assert regions, measure
        for model in LEARNED:
            own = rows[rows["model"] == model]
            assert set(own["region"]) == regions, (measure, model)
            assert (own["value"].notna() | own["note"].notna()).all()
    assert card.loc[card["value"].isna(), "note"].str.len().gt(5).all()
    told = {reason for _, reasons in SOURCES for reason in reasons}
    assert told | {"verdict", "mean_rank_share"} == set(MEASURES)


def test_intervals_hold_their_values_and_ranks_follow_them(card: pd.DataFrame) -> None:
    valued = card[card["low"].notna()]
    assert len(valued) > 50
    assert (valued["low"] <= valued["value"]).all()
    assert (valued["value"] <= valued["high"]).all()
    for _, rows in card[card["rank"].notna()].groupby(["measure", "region", "of"]):
        ordered = rows.sort_values("rank")
        assert (ordered["value"].diff().dropna() <= 1e-12).all()
    assert not card.loc[~card["ranked"], "rank"].notna().any()
    assert set(card.loc[card["rank"].notna(), "model"]) <= set(LEARNED)


def test_consensus_is_the_mean_over_other_families(evidence: Evidence, card: pd.DataFrame) -> None:
    pairs = evidence.tables["scores/pairs.parquet"]
    own = pairs[(pairs["selection"] == "crystals") & (pairs["metric"] == "cknna")]

    def score(a: str, b: str) -> pd.Series:
        both = own[own["model_a"].isin([a, b]) & own["model_b"].isin([a, b])]
        assert len(both) == 1
        return both.iloc[0]

    lattice = np.mean([score("field-a", m)["calibrated"] for m in ("lattice-a", "lattice-b")])
    wanted = np.mean([lattice, score("field-a", "bond-a")["calibrated"]])
    found = row(card, "field-a", "alignment_local", "crystals")
    assert found["value"] == pytest.approx(wanted)
    assert found["n"] == 150 and found["of"] == 4
    assert found["low"] < found["value"] < found["high"]
    # lattice-b is no partner of lattice-a, being of its family.
    lone = np.mean([score("lattice-a", m)["calibrated"] for m in ("field-a", "bond-a")])
    assert row(card, "lattice-a", "alignment_local", "crystals")["value"] == pytest.approx(lone)


def test_a_model_that_sees_something_else_comes_last(card: pd.DataFrame) -> None:
    for measure in ("alignment_local", "alignment_global", "transfer_from", "transfer_to"):
        found = row(card, "bond-a", measure, "crystals")
        assert found["rank"] == found["of"] == 4, measure
        assert found["value"] < 0.2
    other = row(card, "field-a", "alignment_local", "crystals")
    assert row(card, "noise", "alignment_local", "crystals")["value"] < 0.1 < other["value"]
    shares = card[card["measure"] == "mean_rank_share"].set_index("model")["value"]
    assert shares["bond-a"] == shares.min()
    assert shares.dropna().between(0, 1).all()


def test_models_measured_on_other_rows_are_not_ranked(card: pd.DataFrame) -> None:
    partial = row(card, "organic-a", "alignment_local", "crystals")
    assert partial["n"] == 60
    assert partial["value"] > 0.1
    assert pd.isna(partial["rank"])
    assert "not ranked" in partial["note"]


def test_coverage_counts_elements_and_rows(card: pd.DataFrame) -> None:
    assert row(card, "lattice-a", "elements", "atlas")["value"] == 1.0  # C, O, Fe, U, H
    limited = row(card, "organic-a", "elements", "atlas")
    assert limited["value"] == pytest.approx(3 / 5)
    assert limited["note"] == "3 of 5"
    assert row(card, "organic-a", "elements", "periodic_table")["value"] == pytest.approx(3 / 118)
    assert row(card, "organic-a", "embedded", "crystals")["value"] == pytest.approx(60 / 150)
    assert row(card, "lattice-a", "embedded", "molecules")["n"] == 100
    counted = card[card["measure"].isin(["elements", "embedded"])]
    assert (counted["low"] == counted["high"]).all()


def test_outside_over_inside_is_that_of_the_gap(evidence: Evidence, card: pd.DataFrame) -> None:
    found = row(card, "lattice-a", "distribution_local", "crystals")
    outside, inside = (
        float(part.split()[0]) for part in found["note"].removeprefix("cknna: ").split(", ")
    )
    assert found["value"] == pytest.approx(outside / inside, abs=0.01)
    assert found["low"] < 1 < found["high"]  # nothing is planted there


def test_verdicts_are_built_from_the_numbers(card: pd.DataFrame) -> None:
    notes = card[card["measure"] == "verdict"].set_index("model")["note"]
    assert set(notes.index) == set(LEARNED)
    entry = row(card, "field-a", "alignment_local", "crystals")
    told = f"{entry['value']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"
    assert f"on crystals by {told}" in notes["field-a"]
    assert "embeds 3 of 5 elements" in notes["organic-a"]
    assert all(note.endswith(".") for note in notes)


CUES = pd.DataFrame(
    [
        ("lattice-a", "kind:crystal", "all", "density", 100, 0.4, 0.05, None, None, None),
        ("lattice-a", "kind:crystal", "all", "size", 90, 0.2, 0.03, None, None, None),
        ("lattice-a", "kind:crystal", "all", "elements", 90, -0.9, 0.1, None, None, None),
        ("field-a", "kind:crystal", "all", "size", 90, 0.5, 0.03, None, None, None),
        ("lattice-a", "kind:crystal", "outside", "size", 40, 0.1, 0.02, 0.6, 0.4, 0.7),
        ("lattice-a", "kind:crystal", "outside", "density", 50, 0.1, 0.02, 0.8, 0.6, 0.9),
    ],
    columns=[
        "model", "region", "side", "cue", "n", "gain", "gain_error",
        "retention", "retention_low", "retention_high",
    ],
).assign(determined=lambda t: t["cue"] == "elements")  # fmt: skip


def test_cues_are_read_where_there_are_any(evidence: Evidence) -> None:
    card = SCORECARD.validate(scorecard_stage(with_tables(evidence, cues=CUES)).tables[PATH])
    kept = row(card, "lattice-a", "cue_retention", "kind:crystal")
    assert (kept["value"], kept["low"], kept["high"], kept["n"]) == pytest.approx(
        (0.7, 0.5, 0.8, 40)
    )
    gain = row(card, "lattice-a", "cue_gain", "kind:crystal")
    assert gain["value"] == pytest.approx(0.3)
    assert gain["high"] - gain["value"] == pytest.approx(measures.WIDTH * 0.04)
    assert (gain["rank"], gain["of"]) == (2, 2)
    assert row(card, "field-a", "cue_gain", "kind:crystal")["rank"] == 1
    assert row(card, "bond-a", "cue_gain", "kind:crystal")["note"]


def test_the_best_performer_is_told_and_its_partners_are_ranked(evidence: Evidence) -> None:
    table = pd.DataFrame(
        [
            ("ores", None, "energy", "own_energy", "cknna", "rows", "field-a", "lattice-a", 0.6),
            ("ores", None, "energy", "probe", "cknna", "rows", "field-a", "lattice-a", 0.1),
            ("ores", None, "energy", "own_energy", "cknna", "rows", "field-a", "bond-a", 0.2),
            ("ores", "oxides", "energy", "own_energy", "cknna", "x", "field-a", "bond-a", 0.9),
        ],
        columns=[
            "set", "stratum", "label", "method", "metric", "selection", "reference", "model",
            "alignment",
        ],
    )  # fmt: skip
    table["alignment_standard_error"], table["n"] = 0.05, 150
    card = scorecard_stage(with_tables(evidence, performance_alignment=table)).tables[PATH]
    SCORECARD.validate(card)
    best = row(card, "lattice-a", "best_performer_local", "ores.energy")
    assert (best["value"], best["rank"], best["of"]) == (0.6, 1, 2)
    assert best["note"] == "cknna with field-a"
    assert row(card, "bond-a", "best_performer_local", "ores.energy")["value"] == 0.2
    own = row(card, "field-a", "best_performer_local", "ores.energy")["note"]
    assert own == "it is the best performer itself"
    assert row(card, "organic-a", "best_performer_local", "ores.energy")["note"].startswith("too")


def test_an_atlas_without_scores_has_a_card_of_notes(evidence: Evidence) -> None:
    bare = with_tables(
        evidence,
        pairs=evidence.tables["scores/pairs.parquet"].head(0),
        selections=evidence.tables["scores/selections.parquet"].head(0),
        transfer=evidence.tables["scores/transfer.parquet"].head(0),
    )
    card = SCORECARD.validate(scorecard_stage(bare).tables[PATH])
    counted = {"elements", "embedded", "mean_rank_share"}
    assert set(card.loc[card["value"].notna(), "measure"]) == counted
    assert row(card, "field-a", "alignment_local", "all")["note"].startswith("no CKNNA")
