# SPDX-License-Identifier: Apache-2.0
"""The charts compile and draw what they are given, in Vega itself."""

from __future__ import annotations

import re
from typing import Any

import vl_convert

from matteratlas.analysis.report import figures
from matteratlas.analysis.report.data import MODALITIES


def svg(spec: dict[str, Any], **datasets: list[dict[str, Any]]) -> str:
    return str(vl_convert.vegalite_to_svg({**spec, "datasets": datasets}))


def cell(row: str, column: str, value: float, **more: Any) -> dict[str, Any]:
    return {"row": row, "column": column, "shown": value, "label": f"{value:.2f}", **more}


def test_matrix_draws_a_cell_a_pair_and_a_chip_a_model() -> None:
    cells = [
        cell("alpha", "beta", 0.9, bright=True, faint=False),
        cell("beta", "alpha", 0.1, bright=False, faint=True),
    ]
    axis = [
        {"id": "alpha", "modality": "atoms3d", "learned": True},
        {"id": "beta", "modality": "descriptor", "learned": False},
    ]
    drawn = svg(figures.matrix(), cells=cells, axis=axis)
    for text in ("alpha", "beta", "0.90", "0.10"):
        assert f">{text}<" in drawn
    viridis = {"#fde725", "#440154"}
    found = {c.lower() for c in re.findall(r'fill="(#[0-9a-fA-F]{6})"', drawn)}
    found |= {
        "#{:02x}{:02x}{:02x}".format(*map(int, c))
        for c in re.findall(r'fill="rgb\((\d+), ?(\d+), ?(\d+)\)"', drawn)
    }
    assert viridis <= found
    assert figures.CATEGORIES[0].lower() in found


def test_contrast_draws_points_bars_and_the_diagonal() -> None:
    point = {
        "inside": 0.5,
        "outside": 0.2,
        "inside_low": 0.4,
        "inside_high": 0.6,
        "outside_low": 0.1,
        "outside_high": 0.3,
        "relation": "same family",
    }
    diagonal = [{"at": 0, "to": 0}, {"at": 1, "to": 1}]
    drawn = svg(figures.contrast(), points=[point], diagonal=diagonal)
    assert drawn.count('aria-roledescription="rule') + drawn.count("<line") >= 2
    assert figures.RELATIONS["same family"][0].lower() in drawn.lower()
    assert "stroke-dasharray" in drawn


def test_dimension_draws_a_row_a_model() -> None:
    dims = [
        {"model": m, "value": v, "low": v - 1, "high": v + 1, "kind": "crystals"}
        for m, v in (("alpha", 4.0), ("beta", 30.0))
    ]
    drawn = svg(figures.dimension(), dims=dims)
    assert ">alpha<" in drawn
    assert ">beta<" in drawn
    assert figures.KINDS["crystals"][0].lower() in drawn.lower()


def test_periodic_table_outlines_what_is_not_held() -> None:
    elements = [
        {"column": 1, "row": 1, "symbol": "H", "shown": 12, "ink": "#111", "strength": 1},
        {"column": 18, "row": 1, "symbol": "He", "shown": None, "ink": "red", "strength": 0.4},
    ]
    drawn = svg(figures.elements(), elements=elements)
    assert ">H<" in drawn
    assert ">He<" in drawn
    tiles = drawn.split("layer_1_marks")[1].split("</g>")[0]
    assert tiles.count("<path") == 1


def test_colours_are_enough_and_apart() -> None:
    assert len(figures.CATEGORIES) == len(set(figures.CATEGORIES)) == len(MODALITIES)
    assert len(figures.SHAPES) == len(MODALITIES)
    for styles in (figures.RELATIONS, figures.KINDS):
        colours, shapes = zip(*styles.values(), strict=True)
        assert len(set(colours)) == len(set(shapes)) == len(styles)


def test_specifications_carry_no_data() -> None:
    specs = figures.specifications()
    assert set(specs) == {"matrix", "contrast", "dimension", "elements"}
    assert all("datasets" not in spec for spec in specs.values())
