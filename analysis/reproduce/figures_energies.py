# SPDX-License-Identifier: Apache-2.0
"""Figures of single energies: composition models, deviations, and where a model's errors lie."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..charts import ChartReader
from ..evidence.context import Evidence
from ..evidence.energies import (
    Labelled,
    deviations,
    energy_errors,
    labelled_regions,
    model_energies,
)
from . import charts
from .figure import Figure, absent
from .figures_vectors import project
from .study import Study

#: Rows of a set at most.
ROWS = 1000


def energy_figures(study: Study, reader: ChartReader, *, seed: int = 0) -> list[Figure]:
    """Composition against energy (B2), deviations (B3), and errors on a projection (2D)."""
    titles = {
        "B2": "Energies against what composition alone explains",
        "B3": "Deviations from composition, model against reference",
        "2D": "Energy errors over a model's projection",
    }
    evidence = Evidence(study.atlas, reader, pd.DataFrame(), {}, 10, 0, seed, ROWS, 30)
    regions = [r for r in labelled_regions(evidence) if r.stratum is None]
    energies = {m: model_energies(evidence, m) for m in study.learned(study.models)}
    energies = {m: own for m, own in energies.items() if len(own)}
    parts = [_rows(region, energies) for region in regions]
    table = (
        pd.concat([p for p in parts if len(p)], ignore_index=True) if any(map(len, parts)) else None
    )
    if table is None:
        reason = "no model of this atlas predicts energies on a labelled set"
        return [absent(number, title, reason) for number, title in titles.items()]
    alt = charts.altair()
    explained = [
        alt.Chart(part)
        .mark_point(size=14, opacity=0.5)
        .encode(
            x=alt.X("composition:Q", title="composition fit (eV)", scale=alt.Scale(zero=False)),
            y=alt.Y("energy:Q", title="energy (eV)", scale=alt.Scale(zero=False)),
            color=alt.Color("model:N"),
        )
        .properties(width=260, height=220, title=str(name))
        for name, part in table.groupby("region", sort=False)
    ]
    deviating = [
        charts.diagonal(
            alt.Chart(part)
            .mark_point(size=14, opacity=0.5)
            .encode(
                x=alt.X("true:Q", title="reference deviation (eV)"),
                y=alt.Y("predicted:Q", title="model's deviation (eV)"),
                color=alt.Color("model:N"),
            ),
            float(part["true"].min()),
            float(part["true"].max()),
        ).properties(width=260, height=220, title=str(name))
        for name, part in table.groupby("region", sort=False)
    ]
    said = f"At most {ROWS} structures a set; equations 1 to 4 of the study."
    return [
        Figure(
            "B2", titles["B2"], said, table, alt.hconcat(*explained).resolve_scale(color="shared")
        ),
        Figure(
            "B3",
            titles["B3"],
            said,
            table[["region", "model", "id", "true", "predicted", "error"]],
            alt.hconcat(*deviating).resolve_scale(color="shared"),
        ),
        _error_map(reader, table, titles["2D"]),
    ]


def _rows(region: Labelled, energies: dict[str, pd.Series]) -> pd.DataFrame:
    """One row a model and structure of a region: energies and deviations, eV."""
    parts = []
    for model, own in energies.items():
        part = region.part([i for i in region.rows.index if i in own.index])
        if part.lack(30):
            continue
        ids = list(part.rows.index)
        values = own.loc[ids].to_numpy(dtype=np.float64)
        left = deviations(values, part.counts)
        parts.append(
            pd.DataFrame(
                {
                    "region": f"{region.name}, {region.label}",
                    "set": region.set_id,
                    "model": model,
                    "id": ids,
                    "n_atoms": part.atoms.astype(int),
                    "energy": values,
                    "composition": values - left,
                    "true": deviations(part.energy, part.counts),
                    "predicted": left,
                    "error": energy_errors(part.energy, values, part.counts),
                }
            )
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _error_map(reader: ChartReader, table: pd.DataFrame, title: str) -> Figure:
    """Projection of the best model's rows, coloured by the size of its error an atom."""
    table = table.assign(size=(table["error"] / table["n_atoms"]).abs())
    region = str(table["region"].value_counts().index[0])
    own = table[table["region"] == region]
    best = str(own.groupby("model")["error"].apply(lambda e: e.abs().mean()).idxmin())
    own = own[(own["model"] == best) & own["id"].isin(reader.presence.index[reader.presence[best]])]
    if len(own) < 30:
        return absent("2D", title, f"{len(own)} structures with an error and a vector of {best}")
    place = project(reader.rows(best, list(own["id"])))
    shown = own[["model", "id", "n_atoms", "error", "size"]].assign(**place)
    return Figure(
        "2D",
        f"{title}: {best} on {region}",
        "t-SNE of the model with the smallest mean error; colour is the absolute error an atom "
        "(eV), symmetric logarithm. The study shows Orb v3 on OMol25.",
        shown,
        charts.maps(shown, colour="size", quantitative=True),
    )
