# SPDX-License-Identifier: Apache-2.0
"""The page's charts as Vega-Lite specifications without data.

Rows are put in by the page's script under the dataset names used here, so that one specification
serves every selection and metric. Text and rules are drawn in ``currentColor``: the page's theme
colours them, on screen and in print, without drawing anything anew.
"""

from __future__ import annotations

from typing import Any

from ...schemas.errors import missing_extra
from .data import MODALITIES

#: Okabe and Ito's colours, apart for every common colour vision; grey last. In the order of
#: :data:`.data.MODALITIES`.
CATEGORIES = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00",
    "#56B4E9", "#B8A900", "#8B8B8B", "#5B4B8A",
)  # fmt: skip
SHAPES = (
    "square", "circle", "triangle-up", "diamond", "cross",
    "triangle-right", "triangle-down", "circle", "stroke",
)  # fmt: skip

#: Relation of two models -> colour and shape.
RELATIONS: dict[str, tuple[str, str]] = {
    "same family": ("#0072B2", "circle"),
    "shared training set": ("#E69F00", "square"),
    "other family and data": ("#009E73", "triangle-up"),
}

#: Kind of matter -> colour and shape.
KINDS: dict[str, tuple[str, str]] = {
    "crystals": ("#0072B2", "circle"),
    "molecules": ("#D55E00", "square"),
    "proteins": ("#009E73", "triangle-up"),
    "one stratum": ("#CC79A7", "diamond"),
}

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK = "currentColor"


def altair() -> Any:
    """The plotting library, or the error that says what to install."""
    try:
        import altair as library
    except ModuleNotFoundError as error:
        raise missing_extra("altair", "cpu") from error
    return library


def specifications() -> dict[str, dict[str, Any]]:
    """Every chart of the page by name."""
    return {
        "matrix": matrix(),
        "contrast": contrast(),
        "dimension": dimension(),
        "elements": elements(),
    }


def _config() -> dict[str, Any]:
    text = {"labelColor": INK, "titleColor": INK, "labelFont": FONT, "titleFont": FONT}
    return {
        "aria": False,
        "background": None,
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            **text,
            "titleFontWeight": 500,
            "titleFontSize": 12,
            "labelFontSize": 11,
            "titlePadding": 8,
            "domainColor": INK,
            "domainOpacity": 0.35,
            "tickColor": INK,
            "tickOpacity": 0.35,
            "gridColor": INK,
            "gridOpacity": 0.1,
        },
        "legend": {
            **text,
            "titleFontWeight": 500,
            "titleFontSize": 11,
            "labelFontSize": 11,
            "titleLimit": 320,
            "labelLimit": 240,
            "symbolStrokeWidth": 0,
        },
        "text": {"font": FONT, "color": INK},
        "rule": {"color": INK},
    }


def finish(chart: Any) -> dict[str, Any]:
    """The specification of a chart with the page's fonts and inks."""
    return {
        **chart.to_dict(),
        "config": _config(),
        "autosize": {"type": "pad", "contains": "padding"},
    }


def tooltips(fields: dict[str, str]) -> list[Any]:
    """Text fields of a tooltip, by field and title."""
    alt = altair()
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in fields.items()]


def matrix() -> dict[str, Any]:
    """Heatmap of all pairs. Datasets: ``cells`` (what is shown, and tooltip texts), ``axis``."""
    alt = altair()
    cells = alt.NamedData("cells")
    x = alt.X(
        "column:N",
        title=None,
        axis=alt.Axis(orient="top", labelAngle=-90, labelPadding=15, ticks=False, domain=False),
    )
    y = alt.Y("row:N", title=None, axis=alt.Axis(labelPadding=15, ticks=False, domain=False))
    over = alt.selection_point(
        name="over", on="pointerover", clear="pointerout", fields=["row", "column"], empty=False
    )
    heat = (
        alt.Chart(cells)
        .mark_rect(cursor="pointer")
        .encode(
            x,
            y,
            color=alt.Color(
                "shown:Q",
                scale=alt.Scale(scheme="viridis"),
                legend=alt.Legend(orient="right", gradientLength=180, gradientThickness=12),
            ),
            stroke=alt.condition(over, alt.value(INK), alt.value(None)),
            strokeWidth=alt.value(2),
            tooltip=tooltips(
                {
                    "pair": "models",
                    "value": "value",
                    "error": "standard error",
                    "calibrated": "calibrated",
                    "null": "null, mean; 95% quantile",
                    "p": "p (permutation)",
                    "q": "q (Benjamini-Hochberg)",
                    "n": "n structures",
                    "k": "k neighbours",
                    "relation": "relation",
                },
            ),
        )
        .add_params(over)
    )
    labels = (
        alt.Chart(cells)
        .mark_text(fontSize=10, tooltip=None)
        .encode(
            x,
            y,
            text="label:N",
            color=alt.condition("datum.bright", alt.value("#111"), alt.value("#fff")),
        )
    )
    faint = (
        alt.Chart(cells)
        .transform_filter("datum.faint")
        .mark_point(shape="circle", size=9, filled=True, color="#fff", opacity=0.6, tooltip=None)
        .encode(x, y)
    )
    chips = [
        alt.Chart(alt.NamedData("axis"))
        .mark_point(size=42, filled=True, opacity=1, strokeWidth=1.2, tooltip=None)
        .encode(
            **place,
            fill=_modality_scale(alt, alt.Fill),
            stroke=_modality_scale(alt, alt.Stroke),
            shape=_modality_scale(alt, alt.Shape),
            fillOpacity=alt.condition("datum.learned", alt.value(1), alt.value(0)),
        )
        for place in (
            {"x": alt.value(-8), "y": alt.Y("id:N")},
            {"y": alt.value(-8), "x": alt.X("id:N")},
        )
    ]
    return finish(alt.layer(heat, faint, labels, *chips).resolve_scale(color="independent"))


def _modality_scale(alt: Any, channel: Any) -> Any:
    values = list(SHAPES if channel is alt.Shape else CATEGORIES)
    scale = alt.Scale(domain=list(MODALITIES), range=values)
    return channel("modality:N", scale=scale, legend=None)


def _category(
    alt: Any, field: str, styles: dict[str, tuple[str, str]], title: str
) -> dict[str, Any]:
    names = list(styles)
    legend = alt.Legend(orient="top", direction="horizontal", title=title, symbolSize=70)
    return {
        "color": alt.Color(
            f"{field}:N",
            scale=alt.Scale(domain=names, range=[c for c, _ in styles.values()]),
            legend=legend,
        ),
        "shape": alt.Shape(
            f"{field}:N",
            scale=alt.Scale(domain=names, range=[s for _, s in styles.values()]),
            legend=legend,
        ),
    }


def contrast() -> dict[str, Any]:
    """Scatter of pairs, in distribution against out of it. Datasets: ``points``, ``diagonal``."""
    alt = altair()
    points = alt.Chart(alt.NamedData("points"))
    x = alt.X("inside:Q", title="in distribution", axis=alt.Axis(tickCount=6))
    y = alt.Y("outside:Q", title="out of distribution", axis=alt.Axis(tickCount=6))
    kinds = _category(alt, "relation", RELATIONS, "the two models")
    diagonal = (
        alt.Chart(alt.NamedData("diagonal"))
        .mark_line(color=INK, strokeDash=[4, 4], opacity=0.45, tooltip=None)
        .encode(x="at:Q", y="to:Q")
    )
    errors = [
        points.mark_rule(opacity=0.28, strokeWidth=1.2, tooltip=None).encode(**place)
        for place in (
            {"x": alt.X("inside_low:Q"), "x2": "inside_high", "y": "outside:Q"},
            {"y": alt.Y("outside_low:Q"), "y2": "outside_high", "x": "inside:Q"},
        )
    ]
    dots = points.mark_point(filled=True, size=62, opacity=0.9).encode(
        x,
        y,
        **kinds,
        tooltip=tooltips(
            {
                "pair": "models",
                "in_text": "in",
                "out_text": "out",
                "change": "out minus in",
                "in_p": "p, in",
                "out_p": "p, out",
                "n": "n, matched",
                "k": "k neighbours",
                "which": "compared",
                "relation": "relation",
            },
        ),
    )
    return finish(alt.layer(diagonal, *errors, dots))


def dimension() -> dict[str, Any]:
    """Intrinsic dimension, a row a model. Dataset: ``dims``."""
    alt = altair()
    dims = alt.Chart(alt.NamedData("dims"))
    y = alt.Y(
        "model:N",
        title=None,
        sort=None,
        axis=alt.Axis(grid=True, ticks=False, domain=False, labelPadding=8),
    )
    scale = alt.Scale(type="log", nice=False)
    x = alt.X(
        "value:Q",
        title="intrinsic dimension",
        scale=scale,
        axis=alt.Axis(orient="top", values=[1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500], grid=True),
    )
    kinds = _category(alt, "kind", KINDS, "structures")
    errors = dims.mark_rule(strokeWidth=1.4, opacity=0.6, tooltip=None).encode(
        y=y,
        x=alt.X("low:Q", scale=scale),
        x2="high",
        color=kinds["color"],
    )
    dots = dims.mark_point(filled=True, size=64, opacity=0.95).encode(
        x,
        y,
        **kinds,
        tooltip=tooltips(
            {
                "model": "model",
                "text": "intrinsic dimension",
                "error": "standard error",
                "width": "embedding width",
                "selection": "selection",
                "n": "n structures",
                "estimator": "estimator",
            },
        ),
    )
    return finish(alt.layer(errors, dots))


def elements() -> dict[str, Any]:
    """Periodic table coloured by a number of each element. Dataset: ``elements``."""
    alt = altair()
    table = alt.Chart(alt.NamedData("elements"))
    hidden = alt.Axis(labels=False, ticks=False, domain=False, grid=False, title=None)
    x = alt.X("column:O", axis=hidden, scale=_slots(alt, 18))
    y = alt.Y("row:O", axis=hidden, scale=_slots(alt, 10))
    tooltip = tooltips(
        {
            "name": "element",
            "structures_text": "structures",
            "share_text": "embedded by learned 3D models",
            "unable": "models that embed none",
        },
    )
    outlines = table.mark_rect(
        cornerRadius=3, fillOpacity=0, stroke=INK, strokeOpacity=0.22
    ).encode(x, y, tooltip=tooltip)
    tiles = (
        table.transform_filter("isValid(datum.shown)")
        .mark_rect(cornerRadius=3)
        .encode(
            x,
            y,
            color=alt.Color(
                "shown:Q",
                scale=alt.Scale(scheme="cividis"),
                legend=alt.Legend(orient="bottom", gradientLength=260, gradientThickness=12),
            ),
            tooltip=tooltip,
        )
    )
    ink = {
        "color": alt.Color("ink:N", scale=None),
        "opacity": alt.Opacity("strength:Q", scale=None),
    }
    symbols = table.mark_text(fontWeight=600, tooltip=None).encode(x, y, text="symbol:N", **ink)
    counts = table.mark_text(fontSize=8, dy=12, tooltip=None).encode(x, y, text="count:N", **ink)
    chart = alt.layer(outlines, tiles, symbols, counts)
    return finish(chart.resolve_scale(color="independent"))


def _slots(alt: Any, count: int) -> Any:
    return alt.Scale(domain=list(range(1, count + 1)), paddingInner=0.06)
