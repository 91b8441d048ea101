# SPDX-License-Identifier: Apache-2.0
"""Golden values of other packages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Golden:
    """One pair of embeddings and what other packages say of it."""

    x: np.ndarray
    y: np.ndarray
    values: dict[str, Any]


@pytest.fixture(scope="session", params=["curved", "offset", "unrelated"])
def golden(request: pytest.FixtureRequest) -> Golden:
    inputs = np.load(FOLDER / "inputs.npz")
    record = json.loads((FOLDER / "values.json").read_text())
    name = request.param
    return Golden(inputs[f"{name}_x"], inputs[f"{name}_y"], record["values"][name])
