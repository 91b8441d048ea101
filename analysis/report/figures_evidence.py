# SPDX-License-Identifier: Apache-2.0
"""Vega-Lite specifications of performance, imbalance planes and trees, without data."""

from __future__ import annotations

from typing import Any

from .data import MODALITIES
from .figures import CATEGORIES, INK, SHAPES, altair, finish, tooltips


def specifications() -> dict[str, dict[str, Any]]:
    """Every chart of this module by name."""
    return {"performance": performance(), "plane": plane(), "tree": tree()}


def _modalities(alt: Any) -> dict[str, Any]:
    labels = list(MODALITIES.values())
    legend = alt.Legend(orient="top", direction="horizontal", title="model reads", columns=5)
    return {
        "color": alt.Color(
            "modality:N", scale=alt.Scale(domain=labels, range=list(CATEGORIES)), legend=legend
        ),
        "shape": alt.Shape(
            "modality:N", scale=alt.Scale(domain=labels, range=list(SHAPES)), legend=legend
        ),
    }


def performance() -> dict[str, Any]:
    """Error against alignment with the reference, a point a model. Dataset: ``points``."""
    alt = altair()
    points = alt.Chart(alt.NamedData("points"))
    x = alt.X("error:Q", title="error", scale=alt.Scale(type="log", nice=False))
    y = alt.Y("alignment:Q", title="alignment", scale=alt.Scale(zero=False))
    errors = [
        points.mark_rule(opacity=0.35, tooltip=None).encode(
            x=alt.X("error_low:Q", title="error"), x2="error_high:Q", y=y
        ),
        points.mark_rule(opacity=0.35, tooltip=None).encode(
            x=x, y=alt.Y("low:Q", title="alignment"), y2="high:Q"
        ),
    ]
    dots = points.mark_point(filled=True, size=70, opacity=0.95).encode(
        x,
        y,
        **_modalities(alt),
        tooltip=tooltips(
            {
                "model": "model",
                "family": "family",
                "error_text": "error",
                "baseline": "composition alone",
                "alignment_text": "calibrated alignment",
                "n": "n structures",
            },
        ),
    )
    names = points.mark_text(align="left", dx=7, fontSize=9, tooltip=None).encode(
        x, y, text="model:N"
    )
    return finish(alt.layer(*errors, dots, names))


def plane() -> dict[str, Any]:
    """Information imbalance both ways, a point a pair. Datasets: ``points``, ``diagonal``."""
    alt = altair()
    points = alt.Chart(alt.NamedData("points"))
    diagonal = (
        alt.Chart(alt.NamedData("diagonal"))
        .mark_line(color=INK, strokeDash=[4, 4], opacity=0.45, tooltip=None)
        .encode(x="at:Q", y="to:Q")
    )
    dots = points.mark_point(filled=True, size=46, opacity=0.9).encode(
        x=alt.X("there:Q", title="first predicts second: imbalance"),
        y=alt.Y("back:Q", title="second predicts first: imbalance"),
        color=alt.Color(
            "shade:Q",
            scale=alt.Scale(scheme="viridis"),
            legend=alt.Legend(orient="right", gradientLength=180),
        ),
        tooltip=tooltips(
            {
                "pair": "models",
                "there_text": "first to second",
                "back_text": "second to first",
                "shade_text": "colour",
                "n": "n structures",
            },
        ),
    )
    return finish(alt.layer(diagonal, dots))


def tree() -> dict[str, Any]:
    """A tree from left to right. Datasets: ``segments``, ``leaves``."""
    alt = altair()
    x = alt.X("x:Q", title="distance between alignment profiles", axis=alt.Axis(grid=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(reverse=True, nice=False))
    branches = (
        alt.Chart(alt.NamedData("segments"))
        .mark_rule(tooltip=None, strokeWidth=1.1, opacity=0.75)
        .encode(x=x, y=y, x2="x2:Q", y2="y2:Q")
    )
    leaves = alt.Chart(alt.NamedData("leaves"))
    dots = leaves.mark_point(filled=True, size=44, tooltip=None).encode(
        x="x2:Q", y="y:Q", **_modalities(alt)
    )
    names = leaves.mark_text(align="left", dx=8, fontSize=10, tooltip=None).encode(
        x="x2:Q", y="y:Q", text="model:N"
    )
    return finish(alt.layer(branches, dots, names))
