# SPDX-License-Identifier: Apache-2.0
"""The stages of gap evidence in their order: a later one may read what earlier ones found."""

from __future__ import annotations

from .context import Stage

#: Name told as progress -> stage.
STAGES: dict[str, Stage] = {}
