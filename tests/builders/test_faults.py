# SPDX-License-Identifier: Apache-2.0
"""Every kind of fault in every kind of file is named, and deceives no reader; a full disk too."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """The script that makes the fault table."""
    spec = importlib.util.spec_from_file_location("fault_table", BENCHMARKS / "faults.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fault_table"] = module  # dataclasses look their module up
    sys.path.insert(0, str(BENCHMARKS))  # its neighbours, as when it runs as a script
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def made(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A real atlas whose arrays have several shards, and its release."""
    folder = tmp_path_factory.mktemp("faults")
    atlas, release = bench.make(folder)
    # A copy: the release shares its files with the atlas.
    return Path(shutil.copytree(atlas, folder / "damaged")), Path(release)


@pytest.mark.parametrize("released", [False, True])
def test_faults_are_named_and_deceive_nobody(
    bench: ModuleType, made: tuple[Path, Path], released: bool
) -> None:
    tried = bench.Bench(made[released])
    kinds = bench.RELEASED if released else bench.KINDS
    for kind, (path, owner) in list(kinds.items())[:: 1 if released else 2]:
        tried.file_faults(kind, path, owner, flips=1, seed=1)
    if not released:
        bench.tree_faults(tried)
    tried.done()  # what is put back is sound again: no fault hid behind another
    assert sum(o.tries for o in tried.outcomes) > (20 if released else 90)
    assert [line for o in tried.outcomes for line in o.wrong] == []


def test_the_judge_itself(bench: ModuleType, made: tuple[Path, Path]) -> None:
    tried = bench.Bench(made[0])
    outcome = bench.Outcome("none", "atlas.json")
    tried.look(outcome, ["atlas.json"], "", what="nothing", read=True)
    assert len(outcome.unnamed) == 1 and outcome.misread == [
        "nothing: nothing that was read failed"
    ]
    other = bench.Outcome("none", "atlas.json")
    tried.answers["mat2vec read"] = "another"
    tried.look(other, ["atlas.json"], "", what="nothing", read=False)
    assert other.misread == ["nothing: mat2vec read: other values, no error"]


@pytest.mark.parametrize("room", [4096, 65536])
def test_a_full_disk_is_told_in_a_line_and_loses_nothing(
    bench: ModuleType, tmp_path: Path, room: int
) -> None:
    found = bench.full_disk(tmp_path, room, how="file size")
    assert found.wrong == []
    assert found.error and "\n" not in found.error
