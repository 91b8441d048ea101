# SPDX-License-Identifier: Apache-2.0
"""Every kind of fault in every kind of file of a real release is named, and deceives no reader."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from matteratlas import validate
from matteratlas.schemas.errors import AtlasError


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """The script that makes the fault table."""
    path = Path(__file__).parents[2] / "benchmarks" / "faults.py"
    spec = importlib.util.spec_from_file_location("fault_table", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["fault_table"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def released(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real release whose arrays have several shards."""
    return Path(bench.make_release(tmp_path_factory.mktemp("faults")))


def test_faults_of_files_and_of_the_tree(bench: ModuleType, released: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(released, tmp_path / "work"))
    sound = bench.read_all(work)
    assert not [v for v in sound.values() if isinstance(v, AtlasError)]
    assert validate(work).ok
    outcomes = [
        *bench.damage_files(work, sound, flips=1, files=1, seed=1),
        *bench.damage_tree(work, sound),
    ]
    assert len({o.kind for o in outcomes}) >= 19
    assert len(outcomes) > 70
    assert [o for o in outcomes if bench.wrong(o)] == []
    # What is put back is sound again: no fault hid behind another.
    assert validate(work).ok


def test_a_reader_of_damaged_vectors_is_told(bench: ModuleType, released: Path) -> None:
    """The judge itself: it must call other values silent, and equal ones sound."""
    sound = bench.read_all(released)
    outcome = bench.judge(released, sound, "none", "atlas.json", "nothing")
    assert not outcome.named and outcome.said == "valid"
    assert outcome.reading == f"0 of {len(sound)} raise"
    other = {**sound, "mat2vec vectors": sound["mat2vec vectors"] + 1}
    assert bench.judge(released, other, "none", "x", "other values").reading == (
        "SILENT: mat2vec vectors"
    )
