# SPDX-License-Identifier: Apache-2.0
"""How numbers and names are written on the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_MISSING = "–"


def whole(value: float | None) -> str:
    """``12,345``: thousands apart by a narrow no-break space."""
    return _MISSING if value is None else f"{round(value):,}".replace(",", "\u202f")


def two(value: float | None) -> str:
    """Two decimals; a true minus sign."""
    if value is None:
        return _MISSING
    rounded = f"{value:.2f}"
    return (rounded if float(rounded) else "0.00").replace("-", "\u2212")


def significant(value: float | None, *, digits: int = 3) -> str:
    """``digits`` significant figures without exponents where the number is of everyday size."""
    if value is None:
        return _MISSING
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}".replace("-", "\u2212")
    shown = f"{value:.{digits}g}"
    if "e" in shown:
        shown = f"{float(shown):.0f}"
    return shown.replace("-", "\u2212")


def p_value(value: float | None, permutations: int) -> str:
    """``= 0.03``; at the floor of a permutation test ``≤ 1/(K+1)``."""
    if value is None:
        return "not tested"
    if permutations and value <= (1 + 1e-6) / (permutations + 1):
        return f"≤ 1/{permutations + 1}"
    return f"= {significant(value, digits=2)}"


def plain_p(value: float | None) -> str:
    """A p- or q-value from a distribution."""
    if value is None:
        return _MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def short(value: float | None) -> str:
    """``1.4 M``."""
    if value is None:
        return _MISSING
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{significant(value / size)}\u202f{unit}"
    return whole(value)


def region(value: str) -> str:
    """A gap's region as words: ``size:crystal:33-64`` is ``size: crystal: 33-64``."""
    base, _, kind = value.partition("|")
    words = base.replace("_", " ").replace(":", ": ").replace("~", " → ")
    return f"{words} ({kind})" if kind else words


def css_number(value: float | None) -> str:
    """A number CSS can compute with, 0..1."""
    return f"{min(1.0, max(0.0, value or 0.0)):.3f}"


FILTERS: dict[str, Callable[..., Any]] = {
    "whole": whole,
    "two": two,
    "sig": significant,
    "sig2": lambda v: significant(v, digits=2),
    "p": p_value,
    "plain_p": plain_p,
    "short": short,
    "region": region,
    "css_number": css_number,
    "repr": repr,
}
