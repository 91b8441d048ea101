# SPDX-License-Identifier: Apache-2.0
"""The map of structures: what the page holds is what the tables say."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_atlas import Made, make_atlas

from matteratlas.analysis.report import maps, write_report
from matteratlas.analysis.report.data import read_scores, roster


@pytest.fixture(scope="module")
def held(page_path: Path) -> list[dict[str, Any]]:
    found = re.search(r'id="maps">([^<]+)<', page_path.read_text())
    assert found is not None
    content: list[dict[str, Any]] = json.loads(gzip.decompress(base64.b64decode(found.group(1))))
    return content


def test_every_kind_has_its_map_with_the_tables_structures(
    made: Made, held: list[dict[str, Any]]
) -> None:
    table = made.tables["scores/map.parquet"]
    assert [m["kind"] for m in held] == ["crystal", "molecule", "protein"]
    for entry in held:
        own = table[table["kind"] == entry["kind"]]
        assert {s["id"] for s in entry["structures"]} == set(own["id"])
        assert entry["n"] == own["n"].iloc[0]
        assert entry["available"] == own["available"].iloc[0]
        assert len(entry["models"]) == own["model"].nunique()


def test_places_are_the_tables_to_a_thousandth(made: Made, held: list[dict[str, Any]]) -> None:
    models = roster(read_scores(str(made.root)))
    table = made.tables["scores/map.parquet"]
    for entry in held:
        ids = [s["id"] for s in entry["structures"]]
        for model in entry["models"]:
            rows = table[
                (table["model"] == models[model["i"]].key) & (table["kind"] == entry["kind"])
            ]
            flat = rows.set_index("id").loc[ids, ["x", "y"]].to_numpy()
            shown = np.column_stack([model["x"], model["y"]])
            wide = np.ptp(flat, axis=0).max()
            np.testing.assert_allclose(shown / 1000, (flat - flat.min(axis=0)) / wide, atol=6e-4)


def test_nearest_structures_are_the_tables(made: Made, held: list[dict[str, Any]]) -> None:
    models = roster(read_scores(str(made.root)))
    table = made.tables["scores/nearest.parquet"]
    for entry in held:
        ids = [s["id"] for s in entry["structures"]]
        for model in entry["models"]:
            own = table[
                (table["model"] == models[model["i"]].key) & (table["kind"] == entry["kind"])
            ]
            for i, name in enumerate(ids):
                rows = own[own["id"] == name].sort_values("rank")
                assert [ids[j] for j in model["nearest"][i]] == list(rows["neighbour"])
                assert model["distance"][i] == pytest.approx(rows["distance"], abs=6e-4)


def test_coordinates_are_those_of_the_structures(made: Made, held: list[dict[str, Any]]) -> None:
    frames = pd.concat(pd.read_parquet(p) for p in (made.root / "structures").glob("*.parquet"))
    frames = frames.set_index("id")
    for entry in held:
        for s in entry["structures"]:
            row = frames.loc[s["id"]]
            positions = np.asarray(row["positions"], dtype=float).reshape(-1, 3)
            shown = np.asarray(s["xyz"]["p"]).reshape(-1, 3) / 100
            assert len(s["xyz"]["e"]) == s["atoms"] == len(positions)
            np.testing.assert_allclose(
                shown - shown.mean(axis=0), positions - positions.mean(axis=0), atol=0.011
            )
            assert ("c" in s["xyz"]) == (entry["kind"] == "crystal")


def test_large_structures_are_listed_but_not_drawn(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "SHOWN_ATOMS", 10)
    monkeypatch.setattr(maps, "ALL_ATOMS", 100)
    scores = read_scores(str(made.root))
    entries = maps.maps(scores, roster(scores))
    structures = [s for e in entries for s in e["structures"]]
    drawn = [s["atoms"] for s in structures if "xyz" in s]
    assert len(structures) == 120
    assert 0 < sum(drawn) <= 100
    assert max(drawn) <= 10


def test_an_analysis_without_maps_still_has_its_page(tmp_path: Path) -> None:
    made = make_atlas(tmp_path / "plain", models=4)
    made.tables.pop("scores/map.parquet")
    record = made.root / "scores/analysis.json"
    from matteratlas.registry.index import seal, unseal, write_json

    content = unseal(record.read_bytes(), where="record")
    content.pop("sha256", None)
    for name in ("map", "nearest"):
        (made.root / f"scores/{name}.parquet").unlink()
        content["tables"].pop(f"scores/{name}.parquet")
    write_json(seal(content), record)
    text = write_report(made.root).read_text()
    assert "No maps were made" in text
    assert "3Dmol" not in text.split("<script>")[-2]
    assert 'id="maps"' not in text
