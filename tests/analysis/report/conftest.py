# SPDX-License-Identifier: Apache-2.0
"""Pages shared by the tests: made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_reader import Page
from synthetic_atlas import Made, make_atlas

from matteratlas.analysis.report import write_report


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_atlas(tmp_path_factory.mktemp("report") / "ore-atlas", models=14)


@pytest.fixture(scope="session")
def page_path(made: Made) -> Path:
    return write_report(made.root)


@pytest.fixture(scope="session")
def page(page_path: Path) -> Page:
    return Page(page_path)
