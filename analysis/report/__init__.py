# SPDX-License-Identifier: Apache-2.0
"""The atlas page: every score of an archive on one HTML page that needs no network."""

from __future__ import annotations

from .page import write_report

__all__ = ["write_report"]
