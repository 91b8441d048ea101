# SPDX-License-Identifier: Apache-2.0
"""Builders that share an archive: the living are left alone, the dead cleared away."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import Timeout

from matteratlas.builders.locking import root_lock, unit_lock, workspace
from matteratlas.schemas.archive import LOCK, STAGING


@contextmanager
def other_process(root: Path, body: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that runs ``body``, which prints one line and then waits to be killed."""
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from matteratlas.builders.locking import root_lock, unit_lock, workspace\n"
        "root = Path(sys.argv[1])\n" + textwrap.dedent(body)
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        yield child, child.stdout.readline().strip()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


WORKING = """
with workspace(root) as own:
    (own / "rows").write_text("half of them")
    print(own.name, flush=True)
    time.sleep(120)
"""


def builders(root: Path) -> set[str]:
    return {p.name for p in (root / STAGING).glob("builder-*")}


def test_a_workspace_is_gone_afterwards(tmp_path: Path) -> None:
    with workspace(tmp_path) as own:
        assert own.is_dir() and own.parent == tmp_path / STAGING
        (own / "deep" / "er").mkdir(parents=True)
        (own / "deep" / "er" / "file").write_text("x")
    assert not (tmp_path / STAGING).exists()
    assert [p.name for p in tmp_path.iterdir()] == [LOCK]


def test_it_is_gone_after_an_exception_too(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="planted"), workspace(tmp_path):
        raise RuntimeError("planted")
    assert not (tmp_path / STAGING).exists()


def test_builders_of_one_process_do_not_sweep_each_other(tmp_path: Path) -> None:
    with workspace(tmp_path) as one:
        with workspace(tmp_path) as two:
            assert one != two and builders(tmp_path) == {one.name, two.name}
        assert builders(tmp_path) == {one.name}
    assert not (tmp_path / STAGING).exists()


def test_a_living_builder_is_left_alone_and_a_dead_one_swept(tmp_path: Path) -> None:
    with other_process(tmp_path, WORKING) as (child, name):
        with workspace(tmp_path) as own:
            assert builders(tmp_path) == {name, own.name}
        assert builders(tmp_path) == {name}  # it is not ours to take away
        child.kill()
        child.wait()
        assert (tmp_path / STAGING / name / "rows").exists()
        with workspace(tmp_path) as own:
            assert builders(tmp_path) == {own.name}
    assert not (tmp_path / STAGING).exists()


CLAIMING = """
with unit_lock(root, "soap", "g2"):
    print("claimed", flush=True)
    time.sleep(120)
"""


def test_a_claim_holds_across_processes_until_its_holder_dies(tmp_path: Path) -> None:
    with other_process(tmp_path, CLAIMING) as (child, said):
        assert said == "claimed"
        with pytest.raises(Timeout):
            unit_lock(tmp_path, "soap", "g2").acquire(timeout=0)
        with unit_lock(tmp_path, "soap", "elements").acquire(timeout=0):
            pass  # other units are free
        child.kill()
        child.wait()
        ours = unit_lock(tmp_path, "soap", "g2")
        with ours.acquire(timeout=0):
            assert ours.is_locked


def test_one_process_at_a_time_moves_files(tmp_path: Path) -> None:
    """Both add to a number that a race would lose counts of."""
    counting = """
    for _ in range(40):
        with root_lock(root):
            path = root / "n"
            path.write_text(str(int(path.read_text()) + 1))
    print("done", flush=True)
    """
    (tmp_path / "n").write_text("0")
    with (
        other_process(tmp_path, counting) as (_, one),
        other_process(tmp_path, counting) as (_, two),
    ):
        assert (one, two) == ("done", "done")
    with root_lock(tmp_path):
        assert (tmp_path / "n").read_text() == "80"
