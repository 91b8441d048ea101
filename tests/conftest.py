# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures: one small real atlas, built once a test process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.hub import HubServer

# Before torch or BLAS load: oversubscription costs far more than it gives.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# Sets that a user of this machine brought are nothing to the tests.
os.environ["MATTERATLAS_SETS"] = ""

#: A learned 3D model, a learned table, a descriptor of strings, and the random baseline.
MODELS = ["chgnet-0.3.0", "mat2vec", "morgan", "random-128"]
SETS = ["g2", "elements"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``gpu`` are the only ones that may be skipped: where there is none."""
    if item.get_closest_marker("gpu"):
        from matteratlas.analysis.indexes import gpu_count

        if gpu_count() == 0:
            pytest.skip("no GPU that FAISS can use")


@pytest.fixture(scope="session")
def built_atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real atlas (4 models x 2 sets, starter rows); read-only: copy it before damaging it."""
    from matteratlas.builders.build import build

    path = tmp_path_factory.mktemp("atlas") / "small"
    report = build(path, models=MODELS, sets=SETS, selection="starter", workers=0)
    assert not report.failed, report.failed
    return path


@pytest.fixture
def atlas_copy(built_atlas: Path, tmp_path: Path) -> Path:
    """A private copy of the small atlas."""
    return Path(shutil.copytree(built_atlas, tmp_path / "copy"))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    """An empty Hub on loopback, which the Hub clients of this process take for the real one."""
    from servers.hub_client import connected

    with HubServer() as server, connected(server, home=tmp_path / "hf-home"):
        yield server
