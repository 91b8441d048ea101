# SPDX-License-Identifier: Apache-2.0
"""Tests of families with an environment of their own: collected only when asked for by path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# The contract and its probes are those of the families in the main environment.
sys.path.insert(0, str(HERE.parent / "builders" / "adapters"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these tests out of runs that do not name them: they install packages."""
    here = config.invocation_params.dir
    named = [(here / str(a).partition("::")[0]).resolve() for a in config.args]
    asked = any(path == HERE or HERE in path.parents for path in named)
    return None if asked else True
