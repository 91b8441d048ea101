# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
from dask.distributed import LocalCluster

from matteratlas.registry.workers import cluster, scheduler_address
from matteratlas.schemas.errors import SourceError


def test_no_workers_is_this_process() -> None:
    with cluster() as client:
        assert client is None


def test_a_scheduler_that_is_there_by_address_and_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    assert scheduler_address() is None
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as there:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", there.scheduler_address)
        assert scheduler_address() == there.scheduler_address
        assert scheduler_address("tcp://other:1") == "tcp://other:1"
        file = tmp_path / "scheduler.json"
        file.write_text(json.dumps({"address": there.scheduler_address}))
        for where in (there.scheduler_address, str(file)):
            with cluster(workers=2, scheduler=where) as client:
                assert client is not None
                assert client.submit(lambda: 7).result() == 7


def test_workers_that_cannot_start_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr("dask.distributed.LocalCluster", refused)
    with (
        pytest.raises(SourceError, match="2 workers could not be started") as caught,
        cluster(workers=2),
    ):
        raise AssertionError("no client to be had")
    assert "\n" not in str(caught.value) and "--workers 0" in str(caught.value)
