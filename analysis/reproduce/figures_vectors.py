# SPDX-License-Identifier: Apache-2.0
"""Figures that need the vectors: sweeps over neighbours, rows and layers, and projections."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..blocks import normalise_rows
from ..charts import ChartReader
from ..evidence import projection
from ..selections import subsample
from ..sweeps import sweep
from . import charts
from .figure import Figure, absent
from .study import STAND_INS, Study

#: Rows of a sweep and of a projection at most.
ROWS = 2000
#: Models of a sweep at most; pairs grow with their square.
SWEPT = 6
#: Neighbours of the study's sweep (Fig A1) that fit the rows at hand.
NEIGHBOURS = (2, 5, 10, 25, 50, 100)
SIZES = (60, 125, 250, 500, 1000, 2000)
REPEATS = 3
#: Models in a page of projections at most.
MAPPED = 12


def chosen(study: Study, selection: str, most: int) -> list[str]:
    """3D models of a selection's core: one a family first, then further ones."""
    rows = study.scores.selections
    core = [m for own in rows.loc[rows["selection"] == selection, "models"] for m in own]
    core = [m for m in study.models if m in core]
    models = study.spatial(core) or study.learned(core)
    first = list({study.families[m]: m for m in reversed(models)}.values())[::-1]
    return [*first, *(m for m in models if m not in first)][:most]


def rows_of(
    reader: ChartReader, selection: str, models: list[str], most: int = ROWS
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Ids of a selection that all models embedded, and their vectors."""
    kind = {"crystals": "crystal", "molecules": "molecule", "proteins": "protein"}[selection]
    structures = reader.structures
    ids = structures.loc[(structures["kind"] == kind).to_numpy(), "id"].to_numpy()
    both = reader.presence.loc[ids, models].all(axis=1).to_numpy()
    taken = list(subsample(list(ids[both]), most, seed=0, label=f"reproduce:{selection}"))
    return taken, {m: reader.rows(m, taken) for m in models}


def sweeps(study: Study, reader: ChartReader, *, seed: int = 0) -> list[Figure]:
    """CKNNA against k (Fig A1), and every metric against the number of structures."""
    titles = (
        "CKNNA against the number of neighbours, crystals",
        "Alignment against the number of structures, crystals",
    )
    models = chosen(study, "crystals", SWEPT)
    if len(models) < 2:
        reason = "fewer than two learned models on crystals"
        return [absent("A1", titles[0], reason), absent("extra n-sweep", titles[1], reason)]
    ids, data = rows_of(reader, "crystals", models)
    ks = [k for k in NEIGHBOURS if k < len(ids) // 2]
    sizes = sorted({*(n for n in SIZES if n < len(ids)), len(ids)})
    common: dict[str, Any] = {"permutations": 50, "seed": seed, "arithmetic": "single"}
    by_k = sweep(data, sizes=[len(ids)], ks=ks, metrics=["cknna", "mutual_knn"], **common)
    by_n = sweep(
        data,
        sizes=sizes,
        ks=[10],
        metrics=["cknna", "mutual_knn", "distance_correlation", "linear_cka"],
        repeats=REPEATS,
        **common,
    )
    by_k["pair"] = by_k["model_a"] + " ~ " + by_k["model_b"]
    by_n["pair"] = by_n["model_a"] + " ~ " + by_n["model_b"]
    means = by_n.groupby(["metric", "n"], sort=False, as_index=False)[
        ["value", "null_quantile", "calibrated"]
    ].mean()
    means = means.rename(columns={"value": "raw"})
    shown = means.melt(
        ["metric", "n"], ["raw", "calibrated"], var_name="scale", value_name="value"
    ).assign(line=lambda t: t["metric"] + ", " + t["scale"])
    return [
        Figure(
            "A1",
            titles[0],
            f"n = {len(ids)}; the study sweeps k = 2 to 2,500 on sAlex and finds CKNNA rising with "
            "k, the order of pairs mostly kept.",
            by_k,
            charts.lines(
                by_k[by_k["metric"] == "cknna"],
                x="k",
                y="value",
                colour="pair",
                title="CKNNA",
                log_x=True,
            ),
        ),
        Figure(
            "extra n-sweep",
            titles[1],
            f"Means over {len(models) * (len(models) - 1) // 2} pairs and {REPEATS} nested samples "
            "at k = 10, raw and calibrated. The study shows one n only: raw local scores at "
            "different n are not comparable.",
            by_n,
            charts.lines(shown, x="n", y="value", colour="line", title="score", log_x=True),
        ),
    ]


def projections(study: Study, reader: ChartReader, set_name: str, number: str) -> Figure:
    """Two-dimensional projections of several models, one set (Figs 2A and C5)."""
    selection, _ = STAND_INS[set_name]
    title = f"Projections of embeddings, {selection}"
    matrix = study.matrix(selection, "cknna")
    models = chosen(study, selection, MAPPED)
    models += [m for m in study.learned(matrix.index) if m not in models]
    models = models[:MAPPED]
    if not models:
        return absent(number, title, f"no learned model on {selection}")
    ids, data = rows_of(reader, selection, models, most=1000)
    if len(ids) < 30:
        return absent(number, title, f"{len(ids)} {selection} embedded by all, 30 needed")
    strata = reader.structures.set_index("id").loc[ids, "set"].to_numpy()
    parts = [
        pd.DataFrame({"model": m, "id": ids, "set": strata, **project(values)})
        for m, values in data.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    return Figure(
        number,
        title,
        f"t-SNE of {len(ids)} rows of unit length, coloured by structure set; the study uses "
        "UMAP. Distances between clusters mean little in either.",
        table,
        charts.maps(table, colour="set", quantitative=False),
    )


def project(values: np.ndarray, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Two coordinates a row, shape (n,) each, of rows of unit length."""
    flat = projection.project(normalise_rows(values.astype(np.float64), "l2"), seed=seed)
    return {"x": flat[:, 0], "y": flat[:, 1]}


def layer_sweep(study: Study, reader: ChartReader) -> Figure:
    """Alignment of each layer of each model with the others' last layers: what the study lacks."""
    from ..metrics import cknna

    title = "Alignment by layer, crystals"
    models = [m for m in chosen(study, "crystals", SWEPT) if len(_layers(reader, m)) > 1]
    others = chosen(study, "crystals", SWEPT)
    if not models or len(others) < 2:
        return absent("extra layer-sweep", title, "no model with several layers on crystals")
    ids, data = rows_of(reader, "crystals", others, most=500)
    rows = []
    for model in models:
        layers = _layers(reader, model)
        for place, key in enumerate(layers):
            mine = reader.rows(key, ids)
            values = [cknna(mine, data[o], k=10) for o in others if o != model]
            rows.append(
                {
                    "model": model,
                    "layer": reader.charts[key].layer.name,
                    "depth": (place + 1) / len(layers),
                    "n": len(ids),
                    "value": float(np.mean(values)),
                    "standard_error": float(np.std(values) / np.sqrt(len(values))),
                }
            )
    table = pd.DataFrame(rows)
    return Figure(
        "extra layer-sweep",
        title,
        f"Mean CKNNA (k = 10, n = {len(ids)}) of a layer with the default layers of the other "
        "models; depth 1 is the last layer. The study takes the last layer only.",
        table,
        charts.lines(table, x="depth", y="value", colour="model", title="mean CKNNA", log_x=False),
    )


def _layers(reader: ChartReader, model: str) -> list[str]:
    """Charts of a model's layers, first to last."""
    card = reader.charts[model].card
    keys = {c.layer.name: key for key, c in reader.charts.items() if c.card.id == model}
    return [keys[layer.name] for layer in card.layers if layer.name in keys]
