# SPDX-License-Identifier: Apache-2.0
"""An archive large enough for several chunks and shards."""

from __future__ import annotations

from pathlib import Path

import pytest
import vectors


@pytest.fixture(scope="session")
def vector_atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See :mod:`vectors`; read-only."""
    return vectors.write_atlas(tmp_path_factory.mktemp("vectors") / "atlas")
