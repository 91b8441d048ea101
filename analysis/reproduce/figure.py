# SPDX-License-Identifier: Apache-2.0
"""One reproduced figure: its number in the study, the table behind it, and its chart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass
class Figure:
    """A figure or table of the study, made anew, or the reason why it is not.

    Attributes
    ----------
    number : str
        In the study: ``1A1``, ``C10``, ``Table 1``; ``extra`` and a word for what it lacks.
    title, caption : str
        What is shown; on what, and what differs from the study.
    table : DataFrame or None
        Every number the chart shows.
    chart : altair chart or None
        None where the table is all there is.
    text : str
        Written beside them as ``.txt`` where not empty (a Newick tree).
    reason : str
        Why there is neither table nor chart; empty where there is.
    """

    number: str
    title: str
    caption: str
    table: pd.DataFrame | None
    chart: Any = None
    text: str = ""
    reason: str = ""

    @property
    def stem(self) -> str:
        """File name without suffix: ``figure-1a1``, ``table-1``, ``extra-n-sweep``."""
        name = self.number.lower().replace(" ", "-")
        return name if name.startswith(("table", "extra")) else f"figure-{name}"


def absent(number: str, title: str, reason: str) -> Figure:
    """A figure that this atlas has not the scores for."""
    return Figure(number, title, "", None, reason=reason)
