# SPDX-License-Identifier: Apache-2.0
"""Altair charts of the reproduced figures: for print, on white, colours apart for all eyes."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..report.figures import CATEGORIES, FONT, altair
from ..trees import Node, layout

CELL = 13


def finished(chart: Any) -> Any:
    """A chart with the house's fonts, on white."""
    return chart.configure(font=FONT, background="white").configure_view(stroke=None)


def heatmap(
    table: pd.DataFrame, *, row: str, column: str, value: str, order: list[str], title: str
) -> Any:
    """Cells of a tidy table, rows and columns in one order."""
    alt = altair()
    size = max(CELL * len(order), 120)
    axis = alt.Axis(labelFontSize=9, ticks=False, domain=False, labelLimit=220)
    return (
        alt.Chart(table)
        .mark_rect()
        .encode(
            alt.X(f"{column}:N", sort=order, title=None, axis=axis),
            alt.Y(f"{row}:N", sort=order, title=None, axis=axis),
            alt.Color(f"{value}:Q", title=title, scale=alt.Scale(scheme="viridis")),
        )
        .properties(width=size, height=size)
    )


def scatter(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    x_title: str,
    y_title: str,
    colour: str | None = None,
    size: str | None = None,
    label: str | None = None,
    log_x: bool = False,
    errors: bool = False,
) -> Any:
    """Points; with bars of one standard error (column ``standard_error``) along y where asked."""
    alt = altair()
    base = alt.Chart(table)
    scale = alt.Scale(type="log" if log_x else "linear", zero=False)
    at_x = alt.X(f"{x}:Q", title=x_title, scale=scale)
    at_y = alt.Y(f"{y}:Q", title=y_title, scale=alt.Scale(zero=False))
    encoding: dict[str, Any] = {"x": at_x, "y": at_y}
    if colour is not None:
        encoding["color"] = alt.Color(
            f"{colour}:N", title=colour.replace("_", " "), scale=alt.Scale(range=list(CATEGORIES))
        )
    if size is not None:
        encoding["size"] = alt.Size(f"{size}:Q", title=size, scale=alt.Scale(type="log"))
    layers = [base.mark_point(filled=True, opacity=0.85).encode(**encoding)]
    if errors:
        layers.insert(
            0,
            base.transform_calculate(
                low=f"datum['{y}'] - datum.standard_error",
                high=f"datum['{y}'] + datum.standard_error",
            )
            .mark_rule(opacity=0.4)
            .encode(x=at_x, y=alt.Y("low:Q", title=y_title), y2="high:Q"),
        )
    if label is not None:
        layers.append(
            base.mark_text(align="left", dx=6, fontSize=8).encode(x=at_x, y=at_y, text=f"{label}:N")
        )
    return alt.layer(*layers).properties(width=360, height=280)


def diagonal(chart: Any, low: float, high: float) -> Any:
    """A chart with the line of equal values."""
    alt = altair()
    line = pd.DataFrame({"x": [low, high], "y": [low, high]})
    rule = alt.Chart(line).mark_line(strokeDash=[4, 4], color="#888").encode(x="x:Q", y="y:Q")
    return alt.layer(rule, chart)


def violins(table: pd.DataFrame, *, value: str, group: str, facet: str, title: str) -> Any:
    """Densities of a value by group, one row of panels a facet, the single values as ticks."""
    alt = altair()
    rows = []
    for name, part in table.groupby(facet, sort=False):
        base = alt.Chart(part)
        ticks = base.mark_tick(thickness=1.5, size=10, opacity=0.7).encode(
            x=alt.X(f"{value}:Q", title=title, scale=alt.Scale(type="log", nice=False)),
            y=alt.Y(f"{group}:N", title=None),
            color=alt.Color(f"{group}:N", legend=None, scale=alt.Scale(range=list(CATEGORIES))),
        )
        box = base.mark_boxplot(opacity=0.35, size=14, outliers=False, ticks=False).encode(
            x=alt.X(f"{value}:Q", title=title),
            y=alt.Y(f"{group}:N", title=None),
            color=alt.Color(f"{group}:N", legend=None),
        )
        rows.append(alt.layer(box, ticks).properties(width=360, title=str(name)))
    return alt.vconcat(*rows)


def bars(table: pd.DataFrame, *, value: str, name: str, colour: str, title: str) -> Any:
    """Horizontal bars, the smallest first, with one standard error either side."""
    alt = altair()
    base = alt.Chart(table).encode(
        y=alt.Y(f"{name}:N", sort=alt.SortField(value), title=None, axis=alt.Axis(labelLimit=220))
    )
    errors = base.transform_calculate(
        low=f"datum['{value}'] - datum.standard_error",
        high=f"datum['{value}'] + datum.standard_error",
    ).mark_rule()
    filled = base.mark_bar(opacity=0.85).encode(
        x=alt.X(f"{value}:Q", title=title),
        color=alt.Color(f"{colour}:N", scale=alt.Scale(range=list(CATEGORIES))),
    )
    return alt.layer(filled, errors.encode(x="low:Q", x2="high:Q")).properties(width=360)


def lines(table: pd.DataFrame, *, x: str, y: str, colour: str, title: str, log_x: bool) -> Any:
    """One line a group."""
    alt = altair()
    return (
        alt.Chart(table)
        .mark_line(point=True, opacity=0.8)
        .encode(
            x=alt.X(f"{x}:Q", scale=alt.Scale(type="log" if log_x else "linear", nice=False)),
            y=alt.Y(f"{y}:Q", title=title),
            color=alt.Color(f"{colour}:N", legend=alt.Legend(labelLimit=260, symbolLimit=60)),
        )
        .properties(width=380, height=260)
    )


def tree(root: Node, groups: dict[str, str]) -> Any:
    """An unrooted tree drawn from left to right; leaves coloured by group."""
    alt = altair()
    segments = pd.DataFrame(layout(root))
    segments["group"] = segments["name"].map(groups).fillna("")
    leaves = segments[segments["name"] != ""]
    height = max(CELL * len(leaves), 120)
    across = {
        "x": alt.X("x:Q", title="distance", axis=alt.Axis(grid=False)),
        "y": alt.Y("y:Q", axis=None),
    }
    branches = alt.Chart(segments).mark_rule(strokeWidth=1).encode(**across, x2="x2:Q", y2="y2:Q")
    names = (
        alt.Chart(leaves)
        .mark_text(align="left", dx=4, fontSize=9)
        .encode(
            x="x2:Q",
            y="y:Q",
            text="name:N",
            color=alt.Color("group:N", scale=alt.Scale(range=list(CATEGORIES))),
        )
    )
    return alt.layer(branches, names).properties(width=360, height=height)


def maps(table: pd.DataFrame, *, colour: str, quantitative: bool, columns: int = 3) -> Any:
    """Small multiples of two-dimensional projections, one panel a model."""
    alt = altair()
    panels = []
    hidden = alt.Axis(labels=False, ticks=False, title=None, grid=False, domain=False)
    shade = (
        alt.Color(f"{colour}:Q", scale=alt.Scale(scheme="viridis", type="symlog"))
        if quantitative
        else alt.Color(f"{colour}:N", scale=alt.Scale(range=list(CATEGORIES)))
    )
    for model, part in table.groupby("model", sort=False):
        panels.append(
            alt.Chart(part)
            .mark_circle(size=9, opacity=0.7)
            .encode(x=alt.X("x:Q", axis=hidden), y=alt.Y("y:Q", axis=hidden), color=shade)
            .properties(width=210, height=210, title=str(model))
        )
    return alt.concat(*panels, columns=columns)
