# SPDX-License-Identifier: Apache-2.0
"""MatterAtlas: the embedding dataset and registry of matter."""

from __future__ import annotations
