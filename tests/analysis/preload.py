# SPDX-License-Identifier: Apache-2.0
"""Loaded by Dask workers of the tests before they work: the made-up registry in their process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from atlas_factory import use_made_up_registry


def dask_setup(_worker: object) -> None:
    """Called by Dask."""
    use_made_up_registry(pytest.MonkeyPatch())
