# SPDX-License-Identifier: Apache-2.0
"""A real atlas grows: real models on real structures, released, built further, released again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_atlas import tree

from matteratlas.builders.build import build
from matteratlas.builders.release import release
from matteratlas.registry.archive import open_atlas
from matteratlas.registry.diff import diff
from matteratlas.registry.validate import validate

#: A table of elements, a descriptor of strings (which reads no crystal) and the random baseline.
MODELS = ["mat2vec", "morgan", "random-128"]


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("growth")
    out, root = base / "out", base / "atlas"
    build(root, models=MODELS, sets=["elements"], selection="starter", workers=0)
    release(root, out=out)
    build(root, models=["mat2vec", "random-128"], sets=["elements"], workers=0)
    build(root, models=["random-128"], sets=["g2"], selection="starter", workers=0)
    release(root, out=out)
    return out


def test_growth_is_a_minor_step_that_says_who_lags(releases: Path) -> None:
    found = diff(releases / "1.0.0", releases / "1.1.0")
    assert (found.old_version, found.new_version, found.step) == ("1.0.0", "1.1.0", "minor")
    assert found.sets_added == {"g2": 70} and found.units_added == {"random-128/g2": 70}
    grown = {"mat2vec/elements", "random-128/elements"}
    assert set(found.units) == grown
    for change in (found.sets["elements"], *found.units.values()):
        assert change.added == 71 - 45
        assert not change.destructive
    lagging = {(lag["model"], lag["set"]): lag["rows"] for lag in found.lagging}
    assert lagging == {("mat2vec", "g2"): 0, ("morgan", "elements"): 45, ("morgan", "g2"): 0}


def test_rows_are_carried_bit_by_bit(releases: Path) -> None:
    old, new = (open_atlas(str(releases / v)) for v in ("1.0.0", "1.1.0"))
    for model in ("mat2vec", "random-128"):
        before = old.embeddings(model).to_pandas()
        after = new.embeddings(model, sets=["elements"]).to_pandas()
        assert len(before) == 45 and len(after) == 71
        carried = after.loc[before.index]
        assert carried.to_numpy().tobytes() == before.to_numpy().tobytes()
        assert np.isfinite(after.to_numpy()).any()


def test_both_releases_stay_valid_and_the_first_as_it_was(releases: Path, tmp_path: Path) -> None:
    for version in ("1.0.0", "1.1.0"):
        assert validate(releases / version, deep=True).faults == []
    root = tmp_path / "again"
    build(root, models=MODELS, sets=["elements"], selection="starter", workers=0)
    release(root, out=tmp_path / "out")
    assert tree(tmp_path / "out/1.0.0") == tree(releases / "1.0.0")
