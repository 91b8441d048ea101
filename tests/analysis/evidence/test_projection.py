# SPDX-License-Identifier: Apache-2.0
"""Maps: the same structures for all models of a kind, true nearest ones, near rows kept near."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from atlas_factory import use_made_up_registry, write_atlas
from made_evidence import bare_evidence

from matteratlas.analysis.evidence.context import Evidence, Findings
from matteratlas.analysis.evidence.projection import map_stage, mapped_models, project
from matteratlas.schemas.maps import MAP, NEAREST

Found = tuple[Evidence, Findings]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    root = tmp_path_factory.mktemp("maps") / "atlas"
    with pytest.MonkeyPatch.context() as patch:
        use_made_up_registry(patch)
        write_atlas(root)
        evidence = bare_evidence(root)
        yield evidence, map_stage(evidence)


def test_tables_are_valid_and_models_of_a_kind_show_the_same_structures(found: Found) -> None:
    _, findings = found
    places = MAP.validate(findings.tables["scores/map.parquet"])
    NEAREST.validate(findings.tables["scores/nearest.parquet"])
    assert set(places["kind"]) == {"crystal", "molecule"}
    for _, part in places.groupby("kind"):
        shown = part.groupby("model")["id"].apply(tuple)
        assert len(set(shown)) == 1
        assert len(shown.iloc[0]) == part["n"].iloc[0]
    assert np.isfinite(places[["x", "y"]].to_numpy()).all()


def test_nearest_structures_are_those_a_search_by_hand_finds(found: Found) -> None:
    evidence, findings = found
    table = findings.tables["scores/nearest.parquet"]
    for (_, model), part in table.groupby(["kind", "model"]):
        ids = list(dict.fromkeys(part["id"]))
        rows = evidence.reader.rows(model, ids).astype(float)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        apart = np.linalg.norm(rows[:, None] - rows[None], axis=2)
        np.fill_diagonal(apart, np.inf)
        expected = np.sort(apart, axis=1)[:, : part["rank"].max()]
        got = part.pivot(index="id", columns="rank", values="distance").loc[ids].to_numpy()
        np.testing.assert_allclose(got, expected, atol=1e-6)
        places = {name: i for i, name in enumerate(ids)}
        for row in part.head(20).itertuples():
            assert apart[places[row.id], places[row.neighbour]] == pytest.approx(
                row.distance, abs=1e-6
            )


def test_every_family_comes_before_a_second_model_of_one(found: Found) -> None:
    evidence, _ = found
    ids = evidence.structures.index[evidence.structures["kind"] == "crystal"]
    models = mapped_models(evidence, ids)
    cards = [evidence.charts[m].card for m in models]
    assert {c.family for c in cards} >= {"lattice", "bond", "field"}
    assert all(c.learned and not c.context_free for c in cards)


def test_a_second_run_gives_the_same_map(found: Found) -> None:
    evidence, findings = found
    again = map_stage(evidence)
    for path, table in findings.tables.items():
        pd.testing.assert_frame_equal(table, again.tables[path])


def test_too_few_rows_are_a_note_and_the_tables_still_valid(found: Found) -> None:
    evidence, _ = found
    short = replace(evidence, min_rows=10_000)
    findings = map_stage(short)
    assert len(MAP.validate(findings.tables["scores/map.parquet"])) == 0
    assert len(NEAREST.validate(findings.tables["scores/nearest.parquet"])) == 0
    assert any("map of crystals" in note for note in findings.notes)


def test_clusters_stay_together_on_the_map() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 60)) * 10
    labels = np.repeat(np.arange(4), 20)
    flat = project(centres[labels] + rng.normal(size=(80, 60)))
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (labels[apart.argmin(axis=1)] == labels).mean() > 0.95


@pytest.mark.parametrize("columns", [1, 3])
def test_flat_spaces_are_drawn_too(columns: int) -> None:
    rows = np.outer(np.arange(12.0), np.ones(columns))
    assert np.isfinite(project(rows)).all()
