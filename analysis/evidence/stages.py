# SPDX-License-Identifier: Apache-2.0
"""The stages of gap evidence in their order: a later one may read what earlier ones found."""

from __future__ import annotations

from .alignment import alignment_stage
from .cells import cells_stage
from .collapse import collapse_stage
from .context import Stage
from .contrast import contrast_stage
from .performance import performance_stage
from .projection import map_stage
from .reach import reach_stage
from .retention import retention_stage
from .rows import rows_stage
from .scorecard import scorecard_stage
from .transfer import transfer_stage

#: Name told as progress -> stage.
STAGES: dict[str, Stage] = {
    "performance": performance_stage,
    "performance against alignment": alignment_stage,
    "reach": reach_stage,
    "cells": cells_stage,
    "structures": rows_stage,
    "maps": map_stage,
    "transfer": transfer_stage,
    "cues": retention_stage,
    "collapse": collapse_stage,
    "contrasts": contrast_stage,
    "scorecard": scorecard_stage,  # last: it reads what all others found
}
