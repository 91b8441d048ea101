# SPDX-License-Identifier: Apache-2.0
"""Cards as the page shows them: models with their cost and how to load them, structure sets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ...registry.archive import Atlas
from ...registry.index import read_runs
from .data import MODALITIES, Model, Scores, listed, number, text
from .evidence import scorecards

_DOI = re.compile(r"^10\.\d{4,9}/[-._;()/:A-Za-z0-9]+$")
_ARXIV = re.compile(r"^\d{4}\.\d{4,5}(v\d+)?$")


def costs(atlas: Atlas) -> dict[str, dict[str, Any]]:
    """What embedding cost, by model: milliseconds a structure and peak memory over its runs."""
    known = {m: list(read_runs(atlas.files, m).values()) for m in atlas.index["models"]}
    found = {m: runs for m, runs in known.items() if runs}
    return {
        model: {
            "ms": number(
                1e3
                * sum(r["model_seconds"] for r in runs)
                / max(1, sum(r["embedded"] - r["carried"] for r in runs)),
                3,
            ),
            "peak_mb": number(max(r["peak_rss_mb"] for r in runs), 3),
        }
        for model, runs in found.items()
    }


def load_snippet(atlas_name: str, model_id: str) -> str:
    """How to load a model's vectors, in three lines: a lazy DataArray (structure, feature)."""
    return (
        "import matteratlas as ma\n"
        f"atlas = ma.open_atlas({atlas_name!r})\n"
        f"x = atlas.embeddings({model_id!r})"
    )


def width(model: Model) -> int:
    """Features of the chart's layer."""
    layers = {layer["name"]: int(layer["dim"]) for layer in json.loads(model.card["layers"])}
    return layers[model.key.partition("/")[2] or model.card["default_layer"]]


def models(scores: Scores, roster: Sequence[Model], *, atlas_name: str) -> list[dict[str, Any]]:
    """One entry a model, from its card and its runs."""
    cost, scored = costs(scores.atlas), scorecards(scores)
    found = []
    for model in roster:
        if not model.default:
            continue
        card = model.card
        layers = json.loads(card["layers"])
        found.append(
            {
                "id": model.key,
                "name": text(card["name"]),
                "version": text(card["version"]),
                "family": text(card["family"]),
                "modality": MODALITIES.get(model.modality, model.modality),
                "learned": model.learned,
                "architecture": text(card["architecture"]),
                "dim": width(model),
                "layers": layers,
                "default_layer": text(card["default_layer"]),
                "pooling": text(card["pooling"]),
                "parameters": _whole(card["parameters"]),
                "domains": listed(card["training.domains"]),
                "training_sets": listed(card["training.sets"]),
                "level_of_theory": text(card["training.level_of_theory"]),
                "licence_code": text(card["licence.code"]),
                "licence_weights": text(card["licence.weights"]),
                "sha256": text(card["checkpoint.sha256"]),
                "obtained": text(card["checkpoint.obtained"]),
                "package": text(card["checkpoint.package"]),
                "rows": int(card["rows"]),
                "embedded": int(card["embedded"]),
                "cost": cost.get(model.key),
                "environment": _mapping(card["environment"]),
                "authors": listed(card["authors"]),
                "paper": _paper(card),
                "notes": text(card["notes"]),
                "snippet": load_snippet(atlas_name, model.key),
                "scorecard": scored.get(model.key),
            }
        )
    return found


def _whole(value: Any) -> int | None:
    return None if value is None or pd.isna(value) else int(value)


def _mapping(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        value = json.loads(value)
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else {}


def _paper(card: Mapping[str, Any]) -> dict[str, str | None] | None:
    """Title, and a link made only of identifiers that look like one."""
    title = text(card.get("paper.title"))
    if title is None:
        return None
    doi, arxiv = text(card.get("paper.doi")), text(card.get("paper.arxiv"))
    link = None
    if doi and _DOI.match(doi):
        link = f"https://doi.org/{doi}"
    elif arxiv and _ARXIV.match(arxiv):
        link = f"https://arxiv.org/abs/{arxiv}"
    return {"title": title, "link": link, "doi": doi, "arxiv": arxiv}


def sets(atlas: Atlas) -> list[dict[str, Any]]:
    """One entry a structure set, its strata inside."""
    held = atlas.structures.groupby(["set", "stratum"]).size()
    found = []
    for set_id, rows in atlas.sets.groupby("id", sort=False):
        first = rows.iloc[0]
        strata: list[dict[str, Any]] = [
            {
                "name": str(row["stratum"]),
                "description": text(row["stratum.description"]),
                "domains": listed(row["stratum.domains"]),
                "held": int(held.get((set_id, row["stratum"]), 0)),
                "count": int(row["stratum.count"]),
            }
            for row in rows.to_dict("records")
        ]
        found.append(
            {
                "id": str(set_id),
                "name": text(first["name"]),
                "version": text(first["version"]),
                "description": text(first["description"]),
                "selection": text(first["selection"]),
                "kinds": listed(first["kinds"]),
                "sources": listed(first["sources"]),
                "labels": listed(first["labels"]),
                "licence": text(first["licence"]),
                "licence_note": text(first["licence_note"]),
                "redistributes": bool(first["redistribute_coordinates"]),
                "citation": text(first["citation"]),
                "held": sum(s["held"] for s in strata),
                "count": sum(s["count"] for s in strata),
                "strata": strata,
            }
        )
    return found
