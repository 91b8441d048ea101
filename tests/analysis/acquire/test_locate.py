# SPDX-License-Identifier: Apache-2.0
"""Covered, gap or unknown: the rates the p-values promise, and what each answer needs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matteratlas.analysis.acquire import locate as located
from matteratlas.analysis.acquire.locate import (
    ALPHA,
    Known,
    choose_models,
    in_region,
    known_of,
    known_rows,
    locate,
    marked_gaps,
    of_atlas,
)
from matteratlas.builders.build import build
from matteratlas.registry import catalog
from matteratlas.registry.archive import open_atlas
from matteratlas.schemas.errors import ArchiveError, MetricError

CARD = catalog.model("soap")


def frame(n: int, *, kind: str = "molecule", elements: str = "C H", start: int = 0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [f"{kind}-{start + i}" for i in range(n)],
            "source_id": [f"{kind}-{start + i}" for i in range(n)],
            "set": "known",
            "stratum": "plain",
            "kind": kind,
            "name": None,
            "formula": "CH",
            "elements": [elements.split()] * n,
            "n_atoms": 2,
            "reason": "",
        }
    )


def cloud(n: int, seed: int, *, far: float = 0.0) -> np.ndarray:
    """Points of six dimensions around a direction; ``far`` leads away from it."""
    points = np.random.default_rng(seed).normal(size=(n, 6)) * 0.1
    points[:, 0] += 1.0
    points[:, 5] += far
    return points


@pytest.fixture(scope="module")
def known() -> Known:
    return known_rows(cloud(200, 0), frame(200), CARD)


def test_rows_like_the_known_pass_as_often_as_promised(known: Known) -> None:
    table = locate(known, frame(2000, start=1000), cloud(2000, 1))
    share = float((table["p_value"] <= ALPHA).mean())
    # Binomial error of 200 known rows' own quantile dominates: 0.05 +- 3 * 0.0154.
    assert 0.004 < share < 0.097
    assert (table["status"] == "covered").mean() == pytest.approx(1.0 - share, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(40, 90))
def test_p_values_are_valid_for_any_spread(seed: int, n: int) -> None:
    """Leave-one-out p-values of exchangeable rows are uniform on average, whatever the law."""
    draw = np.random.default_rng(seed)
    points = draw.standard_t(3, size=(n + 60, 5)) * draw.uniform(0.1, 5.0, size=5)
    table = locate(known_rows(points[:n], frame(n), CARD), frame(60, start=n), points[n:])
    p = table["p_value"].to_numpy()
    assert ((p > 0) & (p <= 1)).all()
    assert (np.diff(p[np.argsort(table["distance"])]) <= 1e-12).all()  # farther is never likelier


def test_each_answer_has_its_reason(known: Known) -> None:
    queries = pd.concat(
        [
            frame(1, start=500),
            frame(1, start=501, elements="C Po"),
            frame(1, start=502),
            frame(1, start=503),
            frame(1, start=504).assign(reason="unsupported_element: Lr"),
            frame(1, kind="crystal"),
            frame(1, start=3),
        ],
        ignore_index=True,
    )
    vectors = np.concatenate(
        [cloud(2, 7), cloud(1, 8, far=0.45), cloud(1, 9, far=9.0), np.full((1, 6), np.nan),
         cloud(1, 10), cloud(200, 0)[3:4]]
    )  # fmt: skip
    vectors[:2] = cloud(200, 0)[[10, 20]] + 1e-3
    table = locate(known, queries, vectors)
    assert table["status"].tolist() == [
        "covered", "gap", "gap", "unknown", "unknown", "unknown", "covered",
    ]  # fmt: skip
    for row, says in zip(
        table.itertuples(),
        ["p = ", "no known molecule holds Po", "thin: p = ", "beyond all 200 known molecules",
         "no vector: unsupported_element: Lr", "0 crystals are known, 30 are needed",
         "it is in the atlas, in known:plain"],
        strict=True,
    ):  # fmt: skip
        assert says in str(row.reason)
    assert table.loc[6, "distance"] == 0.0 and table.loc[6, "nearest_id"] == "molecule-3"
    assert pd.isna(table.loc[4, "p_value"]) and pd.isna(table.loc[4, "nearest_id"])
    near = json.loads(table.loc[0, "nearest"])
    assert len(near) == 3 and near[0]["id"] == table.loc[0, "nearest_id"] == "molecule-10"
    assert [n["distance"] for n in near] == sorted(n["distance"] for n in near)


def test_neighbours_are_those_of_all_distances(known: Known) -> None:
    queries = cloud(50, 4)
    table = locate(known, frame(50, start=900), queries, count=5)
    unit = queries / np.linalg.norm(queries, axis=1)[:, None]
    all_distances = np.linalg.norm(unit[:, None] - known.vectors[None], axis=2)
    for i, row in enumerate(table.itertuples()):
        want = np.argsort(all_distances[i], kind="stable")[:5]
        assert [n["id"] for n in json.loads(str(row.nearest))] == [f"molecule-{j}" for j in want]
        assert row.distance == pytest.approx(all_distances[i].min(), rel=1e-12)


@pytest.mark.parametrize(
    ("region", "inside"),
    [
        ("element:C", True), ("element:C|molecule", True), ("element:C|crystal", False),
        ("element:Po", False), ("pair:C-H|molecule", True), ("pair:C-O", False),
        ("size:molecule:2", True), ("size:molecule:1-2", True), ("size:molecule:3-4", False),
        ("size:crystal:2", False), ("known:plain", True), ("known:other", False),
        ("in:crystal~out:molecule", False), ("size:molecule:x", False), ("nonsense", False),
    ],
)  # fmt: skip
def test_a_marked_gap_holds_what_falls_into_its_region(
    known: Known, region: str, inside: bool
) -> None:
    at = {"kind": "molecule", "elements": ["C", "H"], "n_atoms": 2, "place": "known:plain"}
    assert in_region(region, **at) is inside  # type: ignore[arg-type]
    gap = {"kind": "density", "region": region, "model": None, "severity": 0.9, "evidence": "why"}
    marked = replace(known, gaps=pd.DataFrame([gap]))
    found = locate(marked, frame(1, start=700), cloud(200, 0)[:1]).loc[0]
    assert found["status"] == ("gap" if inside else "covered")
    assert (f"density gap {region}: why" == found["reason"]) is inside


def test_gaps_of_one_set_are_none_of_the_atlas() -> None:
    selections = pd.DataFrame({"selection": [None, "crystals", "atlas~mp", "mof~atlas", "mof~mp"]})
    assert of_atlas(selections).tolist() == [True, True, True, False, False]
    assert of_atlas(selections.head(0)).tolist() == []


def test_what_a_model_loses_marks_no_structure() -> None:
    kinds = ["coverage", "agreement", "density", "distribution", "retention", "collapse"]
    table = pd.DataFrame(
        {
            "kind": kinds, "region": "known:plain", "model": None, "selection": None,
            "statistic": "any", "value": 0.0, "severity": 0.9, "evidence": "why",
        }
    )  # fmt: skip
    atlas = SimpleNamespace(table=lambda path: table)
    marked = marked_gaps(atlas, "soap")  # type: ignore[arg-type]
    assert list(marked["kind"]) == ["coverage", "agreement", "density"]


def test_one_row_is_no_atlas() -> None:
    with pytest.raises(MetricError, match="1 rows are known"):
        known_rows(cloud(1, 0), frame(1), CARD)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real molecules and crystals in the space of a real descriptor."""
    path = tmp_path_factory.mktemp("located") / "atlas"
    sets = ["g2", "exotic", "elements"]
    report = build(path, models=["soap"], sets=sets, workers=0, keep_nodes=False)
    assert not report.failed
    return path


def test_held_out_rows_are_covered_and_a_left_out_stratum_is_not(real: Path) -> None:
    whole = known_of(open_atlas(real), "soap")
    rows = whole.structures.assign(reason="")
    place = (rows["set"] + ":" + rows["stratum"]).to_numpy()
    common = ~np.isin(place, ["exotic:f_block"])
    fold = np.random.default_rng(0).integers(0, 5, len(rows))
    parts = []
    for held in range(5):
        rest, out = common & (fold != held), common & (fold == held)
        known = known_rows(whole.vectors[rest], rows[rest], whole.card)
        parts.append(locate(known, rows[out], whole.vectors[out]))
    table = pd.concat(parts)
    for kind, part in table.groupby("kind"):
        # 240 molecules, 130 crystals: three binomial errors of either.
        assert (part["p_value"] > ALPHA).mean() == pytest.approx(0.95, abs=0.055), kind
    known = known_rows(whole.vectors[common], rows[common], whole.card)
    left = locate(known, rows[~common], whole.vectors[~common])
    assert len(left) == 45
    assert (left["status"] != "covered").mean() > 0.9
    assert (left["p_value"] <= ALPHA).mean() > 0.5  # by distance alone


def test_the_model_is_a_learned_one_that_takes_the_kind(
    built_atlas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas = open_atlas(built_atlas)
    assert choose_models(atlas, ["molecule", "crystal", "protein"]) == {
        "molecule": "chgnet-0.3.0", "crystal": "chgnet-0.3.0",
    }  # fmt: skip
    assert choose_models(open_atlas(built_atlas), []) == {}
    monkeypatch.setattr(located, "NEARLY", 1.0)
    assert choose_models(atlas, ["crystal"]) == {"crystal": "chgnet-0.3.0"}


def test_a_model_the_atlas_lacks_is_told(built_atlas: Path) -> None:
    with pytest.raises(ArchiveError, match="no model 'soap'"):
        known_of(open_atlas(built_atlas), "soap")
