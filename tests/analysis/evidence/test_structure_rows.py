# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from atlas_factory import use_made_up_registry, write_atlas
from scipy.spatial.distance import cdist
from scipy.stats import kstest

from matteratlas.analysis.blocks import Space
from matteratlas.analysis.charts import ChartReader
from matteratlas.analysis.evidence.cells import cells_stage, reference_chart
from matteratlas.analysis.evidence.context import Evidence, Findings
from matteratlas.analysis.evidence.rows import (
    distance_percentiles,
    family_agreement,
    gap_scores,
    null_agreement,
    rows_stage,
)
from matteratlas.analysis.local import local_agreement
from matteratlas.analysis.neighbours import nearest
from matteratlas.registry.archive import open_atlas
from matteratlas.schemas.reach import CELLS, STRUCTURE_SCORES


def lists_of(data: dict[str, np.ndarray], k: int) -> list[np.ndarray]:
    return [nearest(Space(rows), k).indices for rows in data.values()]


def test_agreement_over_families_is_that_of_all_pairs() -> None:
    random = np.random.default_rng(0)
    base = random.normal(size=(80, 5))
    data = {name: base + random.normal(size=base.shape) for name in "abcde"}
    families = dict(zip("abcde", ["x", "x", "y", "z", "z"], strict=True))
    slow, _ = local_agreement(data, k=7, families=families, normalise="none")
    fast = family_agreement(lists_of(data, 7), list(families.values()))
    np.testing.assert_allclose(fast, slow, atol=1e-12)


def test_p_values_of_unrelated_models_are_even() -> None:
    random = np.random.default_rng(1)
    families = ["x", "x", "y", "z"]
    lists = [np.array([random.choice(199, 10, False) for _ in range(600)]) for _ in families]
    null = null_agreement(families, n=200, k=10, seed=0)
    assert null.mean() == pytest.approx(10 / 199, rel=0.02)
    values = family_agreement(lists, families)
    reached = len(null) - np.searchsorted(null, values - 1e-12, side="left")
    p = (1 + reached) / (len(null) + 1)
    # Agreement is discrete, so p may only be larger than even.
    assert kstest(p, "uniform", alternative="greater").pvalue > 0.01
    assert (p <= 0.05).mean() <= 0.05 + 2 * (0.05 * 0.95 / 600) ** 0.5


def test_distance_percentiles_by_brute_force() -> None:
    random = np.random.default_rng(2)
    rows = random.normal(size=(60, 4)).astype(np.float32)
    rows[7] = rows[3]  # an equal of a base row
    base = np.arange(40)
    found = distance_percentiles(rows, base)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    table = cdist(unit, unit[base])
    table[base, base] = np.inf
    near = np.round(table.min(axis=1), 5)
    own = near[base]
    expected = [((own < d).sum() + (own <= d).sum()) / (2 * len(own)) for d in near]
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert found[3] == found[7] == found.min()


def test_scores_rank_within_a_kind_and_pass_over_what_is_not_known() -> None:
    table = pd.DataFrame(
        {
            "kind": ["crystal"] * 4 + ["molecule"],
            "distance_percentile": [0.1, 0.5, 0.9, np.nan, 0.2],
            "agreement": [0.9, 0.5, 0.1, np.nan, 0.3],
            "embedded_share": [1.0, 1.0, 1.0, 0.0, 1.0],
            "out_share": [np.nan] * 5,
            "rarity": [0.5, 0.5, 0.5, 0.5, 0.5],
        }
    )
    scores = gap_scores(table)
    # By hand: percentiles 1/6, 3/6, 5/6 twice; 3/8 of three equals; and 1/2 of four equals.
    assert scores[0] == pytest.approx((1 / 6 + 1 / 6 + 3 / 8 + 1 / 2) / 4)
    assert scores[2] == pytest.approx((5 / 6 + 5 / 6 + 3 / 8 + 1 / 2) / 4)
    assert scores[3] == pytest.approx((7 / 8 + 1 / 2) / 2)
    assert scores[4] == 0.5


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    """Complexes lie far from everything; ``bond-a`` mixes up the alloys."""

    def plant(model: str, structures: pd.DataFrame, latent: np.ndarray) -> np.ndarray:
        if model in ("bond-a", "field-a"):
            rows = np.flatnonzero(structures["stratum"] == "alloys")
            order = np.random.default_rng(len(model)).permutation(rows)
            latent[rows] = latent[order] + np.random.default_rng(1).normal(size=(len(rows), 6))
        return latent

    with pytest.MonkeyPatch.context() as patch:
        use_made_up_registry(patch)
        root = write_atlas(
            tmp_path_factory.mktemp("rows") / "atlas",
            seed=1,
            plant=plant,
            spread={"actinides": 9.0},
        )
        atlas = open_atlas(str(root))
        reader = ChartReader(atlas)
        yield Evidence(atlas, reader, reader.relations(), {}, 10, 50, 0, 2000, 30)


@pytest.fixture(scope="module")
def found(evidence: Evidence) -> Findings:
    return rows_stage(evidence)


def test_every_structure_has_one_row(evidence: Evidence, found: Findings) -> None:
    table = found.tables["scores/structures.parquet"]
    STRUCTURE_SCORES.validate(table)
    assert list(table["id"]) == list(evidence.structures["id"])
    assert sorted(table["rank"]) == list(range(1, len(table) + 1))
    ranked = table.sort_values("rank")["gap_score"].to_numpy()
    assert (np.diff(ranked) <= 1e-12).all() and ranked.min() >= 0 and ranked.max() <= 1


def test_far_matter_confused_models_and_refusals_show(found: Findings) -> None:
    table = found.tables["scores/structures.parquet"].set_index("stratum")
    crystals = table[table["kind"] == "crystal"]
    means = crystals.groupby(level=0)[["distance_percentile", "agreement", "gap_score"]].mean()
    assert means["distance_percentile"].idxmax() == "actinides"
    assert means["distance_percentile"]["actinides"] > 0.9
    assert means["agreement"].idxmin() == "alloys"
    assert means["gap_score"].idxmax() == "actinides"
    assert crystals.loc["oxides", "distance_inside"].notna().all()
    assert (crystals.loc["actinides", "distance_inside"].isna()).all()
    assert (crystals.loc["actinides", "out_share"] == 1).mean() > 0.9
    assert crystals.loc["oxides", "agreement_p"].median() < 0.01
    complexes = table.loc["complexes"]
    assert (complexes["embedded_share"] == 0.8).all()  # one of five learned models lacks iron
    assert set(complexes["rarest_region"]) >= {"size:molecule:2"}


def test_without_agreeing_families_agreement_is_not_known(evidence: Evidence) -> None:
    few = replace(evidence, min_rows=1000)
    table = rows_stage(few).tables["scores/structures.parquet"]
    STRUCTURE_SCORES.validate(table)
    assert table["agreement"].isna().all() and table["distance_percentile"].isna().all()
    assert table["gap_score"].between(0, 1).all()


def test_cells_of_an_atlas(evidence: Evidence) -> None:
    chart = reference_chart(evidence, "crystal")
    assert chart is not None and chart.contextual_3d
    found = cells_stage(evidence)
    table = found.tables["scores/cells.parquet"]
    CELLS.validate(table)
    assert set(table["kind"]) == {"crystal", "molecule"} and found.gaps == []
    crystals = table[table["kind"] == "crystal"].drop_duplicates("cell")
    assert crystals["in_universe"].sum() == 150
    centres = evidence.structures.loc[crystals["centre"]]
    assert (centres["kind"] == "crystal").all()
    again = cells_stage(evidence).tables["scores/cells.parquet"]
    pd.testing.assert_frame_equal(table, again)
