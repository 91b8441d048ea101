# SPDX-License-Identifier: Apache-2.0
"""Several builders on one atlas: the bytes of one build, each unit embedded once, nobody stuck."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kills import Job, child, complete, differences, tree

from matteratlas.registry.validate import validate
from matteratlas.schemas.archive import STAGING

MODELS = ("mat2vec", "random-128", "skipatom")
SETS = ("elements", "g2")
WHOLE = Job(models=MODELS, sets=SETS)
#: Seconds after which a builder counts as stuck; a build of these models takes one or two.
STUCK = 90


@dataclass(frozen=True)
class Builder:
    """A build that writes down what it embeds.

    Attributes
    ----------
    pause : float
        Seconds each batch takes longer, so that builders meet.
    dies : bool
        It kills itself (-9) at its first batch, while it holds the claim on a unit.
    """

    job: Job
    log: Path
    pause: float = 0.0
    dies: bool = False

    def __call__(self, root: Path) -> None:
        from matteratlas.builders.adapters.base import Adapter

        real = Adapter.embed

        def embed(adapter: Adapter, structures: Any) -> Any:
            found = real(adapter, structures)
            time.sleep(self.pause)
            if self.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            with self.log.open("a") as handle:
                handle.writelines(f"{adapter.card.id} {s.id}\n" for s in structures)
            return found

        Adapter.embed = embed  # type: ignore[method-assign]
        self.job(root)


@pytest.fixture(scope="module")
def one_build(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of the atlas that one builder makes, alone."""
    root = tmp_path_factory.mktemp("one") / "atlas"
    complete(root, WHOLE)
    return tree(root)


def wait(*builders: Any) -> list[int]:
    """Exit codes of builders that end in time."""
    for builder in builders:
        builder.join(STUCK)
    stuck = [b for b in builders if b.is_alive()]
    for builder in stuck:
        os.killpg(builder.pid, signal.SIGKILL)
    assert not stuck, "a builder waits forever"
    return [b.exitcode for b in builders]


def embedded(*logs: Path) -> Counter[str]:
    return Counter(line for log in logs if log.exists() for line in log.read_text().splitlines())


def check_whole(root: Path, one_build: dict[str, str]) -> None:
    result = validate(root, deep=True)
    assert result.faults == [] and result.notes == []
    assert result.units == len(MODELS) * len(SETS)
    assert differences(root, one_build) == []
    assert not (root / STAGING).exists()


def test_two_builders_of_the_same_share_the_work(tmp_path: Path, one_build: dict[str, str]) -> None:
    root, logs = tmp_path / "atlas", [tmp_path / "log-0", tmp_path / "log-1"]
    assert wait(*[child(root, Builder(WHOLE, log, pause=0.2)) for log in logs]) == [0, 0]
    check_whole(root, one_build)
    counts = embedded(*logs)
    assert len(counts) == len(MODELS) * (45 + 70)
    assert set(counts.values()) == {1}
    assert all(log.exists() for log in logs), "one builder did everything"


def test_three_builders_of_different_things(tmp_path: Path, one_build: dict[str, str]) -> None:
    root = tmp_path / "atlas"
    jobs = [
        Job(models=("mat2vec", "random-128"), sets=("elements",)),
        Job(models=("random-128", "skipatom"), sets=("elements", "g2")),
        Job(models=("mat2vec",), sets=("g2",)),
        Job(models=("skipatom", "mat2vec"), sets=("g2", "elements")),
    ]
    logs = [tmp_path / f"log-{i}" for i in range(len(jobs))]
    builders = [
        child(root, Builder(job, log, pause=0.1)) for job, log in zip(jobs, logs, strict=True)
    ]
    assert wait(*builders) == [0] * len(jobs)
    check_whole(root, one_build)
    assert set(embedded(*logs).values()) == {1}


def test_a_killed_builder_leaves_its_unit_to_the_others(
    tmp_path: Path, one_build: dict[str, str]
) -> None:
    """It dies in the middle of a unit whose claim it holds, while two others are at work."""
    root, logs = tmp_path / "atlas", [tmp_path / f"log-{i}" for i in range(2)]
    doomed = child(root, Builder(WHOLE, tmp_path / "none", pause=2.0, dies=True))
    patience = time.monotonic() + STUCK
    while not any((root / STAGING / "claims").glob("*.lock")) and time.monotonic() < patience:
        time.sleep(0.02)
    others = [child(root, Builder(WHOLE, log, pause=0.1)) for log in logs]
    assert wait(doomed, *others) == [-signal.SIGKILL, 0, 0]
    check_whole(root, one_build)
    counts = embedded(*logs)
    assert len(counts) == len(MODELS) * (45 + 70) and set(counts.values()) == {1}


def test_a_claim_dies_with_its_builder(tmp_path: Path, one_build: dict[str, str]) -> None:
    root, log = tmp_path / "atlas", tmp_path / "log"
    assert wait(child(root, Builder(WHOLE, log, dies=True))) == [-signal.SIGKILL]
    assert len(list((root / STAGING).glob("builder-*"))) == 1
    assert validate(root, deep=True).faults == []
    assert wait(child(root, Builder(WHOLE, log))) == [0]
    check_whole(root, one_build)
    assert set(embedded(log).values()) == {1}


def test_builders_with_worker_processes(tmp_path: Path, one_build: dict[str, str]) -> None:
    """Two builders of two workers each; one of them is killed with its workers."""
    root = tmp_path / "atlas"
    job = Job(models=MODELS, sets=SETS, workers=2)
    survivor, doomed = child(root, job), child(root, job)
    doomed.join(3)
    if doomed.is_alive():
        os.killpg(doomed.pid, signal.SIGKILL)
    assert wait(survivor, doomed)[0] == 0
    check_whole(root, one_build)
