# SPDX-License-Identifier: Apache-2.0
"""A Hub that misbehaves, reduced: the benchmark's runs on a small release, and its judge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hub_faults
import pytest
import small_atlas

from matteratlas.builders.release import release

RUNS = 30


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hub_faults.Bench]:
    folder = tmp_path_factory.mktemp("hub-faults")
    rows = {"ores": range(400), "salts": range(50)}
    few = [("plain", "ores"), ("graph", "ores"), ("plain", "salts")]
    made = []
    with small_atlas.registry():
        for units in (few, None):
            small_atlas.write_small(folder / f"a{len(made)}", rows=rows, units=units)
            made.append(release(folder / f"a{len(made)}", out=folder / "releases").path)
    yield hub_faults.Bench(folder, made[0], made[1], part=("graph", "ores", "last"))


def test_every_run_ends_well(bench: hub_faults.Bench) -> None:
    runs = [bench.run(seed) for seed in range(RUNS)]
    assert [run for run in runs if run.outcome == "wrong"] == []
    outcomes = {run.outcome for run in runs if run.struck}
    assert outcomes == {"success", "refused"}
    assert {run.job for run in runs if run.struck} == set(hub_faults.JOBS)


@pytest.mark.parametrize("job", ["pull all", "read", "push"])
def test_the_judge_itself(
    bench: hub_faults.Bench, job: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Were something wrong, it would be said."""
    monkeypatch.setattr(hub_faults, "pull", lambda *_, out, **__: (out / "x").mkdir(parents=True))
    monkeypatch.setattr(hub_faults, "push", lambda *_: None)
    monkeypatch.setattr(bench, "values", bench.values + 1)
    run = hub_faults.Run(0, job, "none", 0, "success")
    with bench.hub() as hub:
        bench.attempt(run, job, tmp_path / "out", hub)
        assert run.outcome == "wrong"
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "atlas.json").write_text("{}")
        hub.commit(hub_faults.DATASET, {"atlas.json": b"{}"})
        if job != "read":
            bench.check_no_harm(run, job, tmp_path / "out", hub)
            assert "left behind" in run.said or "main holds neither" in run.said
