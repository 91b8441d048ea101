# SPDX-License-Identifier: Apache-2.0
"""The figures and claims of arXiv:2512.03750, made anew from the models and sets of an atlas.

``matteratlas reproduce`` writes every figure as SVG and PDF with the table behind it, and beside
each what the study does not show: null, intervals, sweeps.
"""

from __future__ import annotations

from .run import reproduce

__all__ = ["reproduce"]
