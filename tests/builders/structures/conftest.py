# SPDX-License-Identifier: Apache-2.0
"""Loaded sets, once a test process; the loaders' own cache serves later runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from matteratlas.builders.structures.sets import StructureSet, load_set
from matteratlas.registry.catalog import structure_set


@pytest.fixture(scope="session")
def loaded() -> Callable[[str], StructureSet]:
    """Set id -> the full set."""
    return cache(lambda set_id: load_set(structure_set(set_id)))
