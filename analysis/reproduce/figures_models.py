# SPDX-License-Identifier: Apache-2.0
"""Figures of single models: the model table, performance, intrinsic dimension."""

from __future__ import annotations

import json

import pandas as pd

from ...registry import catalog
from ..report.data import listed
from . import charts
from .figure import Figure, absent
from .study import LABELS, STAND_INS, Study, correlation, told


def model_table(study: Study) -> Figure:
    """Every model held, as the study's Table 1 lists them."""
    coverage = study.scores.coverage.groupby("model")["embedded"].sum()
    rows = []
    for key, model in study.models.items():
        card = model.card
        rows.append(
            {
                "model": key,
                "name": card["name"],
                "family": card["family"],
                "modality": model.modality,
                "type": study.embedding_type(key),
                "training_sets": ", ".join(listed(card["training.sets"])),
                "level_of_theory": card["training.level_of_theory"],
                "parameters": card["parameters"],
                "dim": json.loads(card["layers"])[0]["dim"],
                "structures": int(coverage.get(key, 0)),
            }
        )
    return Figure(
        "Table 1",
        f"The {len(rows)} models held",
        "The study's table names its 59; here the models of this atlas.",
        pd.DataFrame(rows),
    )


def dimension_violins(study: Study) -> Figure:
    """Intrinsic dimension by set and type of embedding (Fig 1E)."""
    title = "Intrinsic dimension by kind of matter and type of embedding"
    table = _dimensions(study)
    table = table[table["selection"].isin([s for s, _ in STAND_INS.values()])]
    if table.empty:
        return absent("1E", title, "no model has an intrinsic dimension on a whole kind of matter")
    return Figure(
        "1E",
        title,
        "The study: about 5 on QM9, 8 to 10 on crystals; invariant below equivariant below "
        "vanilla; random far above. TwoNN here, maximum likelihood with k = 50 there.",
        table,
        charts.violins(
            table, value="value", group="type", facet="selection", title="intrinsic dimension"
        ),
    )


def dimension_bars(study: Study) -> Figure:
    """Intrinsic dimension of every model on molecules (Fig C7)."""
    title = "Intrinsic dimension of every model, molecules"
    table = _dimensions(study)
    table = table[table["selection"] == "molecules"]
    if table.empty:
        return absent("C7", title, "no model has an intrinsic dimension on molecules")
    return Figure(
        "C7",
        title,
        "TwoNN with its jackknife error; the study uses maximum likelihood with k = 50 on QM9.",
        table,
        charts.bars(table, value="value", name="model", colour="type", title="intrinsic dimension"),
    )


def _dimensions(study: Study) -> pd.DataFrame:
    """Intrinsic dimensions on whole kinds, of models that lack some rows on those they have."""
    scores = study.scores
    parents = scores.selections.set_index("selection")["parent"]
    rows = scores.models[
        (scores.models["metric"] == "intrinsic_dimension")
        & scores.models["chart"].isin(list(study.models))
        & scores.models["value"].notna()
    ].copy()
    own = rows["selection"].map(parents)
    partial = own.notna()
    # A partial selection scores its core again: only the model it was made for counts there.
    mine = rows["selection"].str.rsplit("|", n=1).str[-1] == rows["chart"]
    rows = rows[~partial | mine]
    rows["selection"] = own.where(partial, rows["selection"])
    rows["type"] = [study.embedding_type(key) for key in rows["chart"]]
    table = rows[["chart", "type", "selection", "n", "value", "standard_error"]]
    return table.rename(columns={"chart": "model"}).reset_index(drop=True)


def performance_against_alignment(study: Study, number: str, kind: str, metric: str) -> Figure:
    """Error of the models against their alignment to the best one (Figs 1B and 3).

    Of the labelled sets of a kind of matter, the one with most models that predict energies.
    """
    title = f"Energy error of a model against its alignment to the best, {kind}s"
    table = study.table("scores/performance_alignment.parquet")
    if table is None:
        return absent(number, title, "the analysis found too few errors to set against alignment")
    kinds = study.atlas.structures.groupby("set")["kind"].first()
    points = table[
        table["stratum"].isna()
        & (table["method"] == "own_energy")
        & (table["metric"] == metric)
        & (table["set"].map(kinds) == kind)
        & table["counted"]
        & table["model"].isin(list(study.models))
    ]
    if points.empty or points.groupby(["set", "label"]).size().max() < 3:
        return absent(number, title, f"fewer than three models predict energies of {kind}s")
    sizes = points.groupby(["set", "label"]).size().reset_index(name="models")
    most = sizes.sort_values("models", ascending=False, kind="stable").iloc[0]
    set_id, label = str(most["set"]), str(most["label"])
    points = points[(points["set"] == set_id) & (points["label"] == label)]
    points = points.assign(parameters=[study.models[m].card["parameters"] for m in points["model"]])
    found = correlation(points["mae"], points["alignment"])
    reference = str(points["reference"].iloc[0])
    return Figure(
        number,
        f"{title} ({set_id}, {label})",
        f"Composition-corrected error (equations 1 to 4) and calibrated {LABELS[metric]} to "
        f"{reference}. The study: alignment rises as the error falls. Here: {told(found)}; models "
        "are few and related.",
        points,
        charts.scatter(
            points,
            x="mae",
            y="alignment",
            x_title="mean absolute error (eV)",
            y_title=f"{LABELS[metric]} to {reference}, calibrated",
            colour="family",
            label="model",
            log_x=bool((points["mae"] > 0).all()),
        ),
    )


def performance_bars(study: Study) -> Figure:
    """Composition-corrected energy error of each model, by level of theory (Fig B4)."""
    title = "Composition-corrected energy error of each model's own energies"
    table = study.table("scores/performance.parquet")
    if table is None:
        return absent("B4", title, "the analysis holds no performance")
    own = table[
        (table["method"] == "own_energy")
        & table["model"].isin(list(study.models))
        & table["stratum"].isna()
    ]
    if own.empty:
        return absent("B4", title, "no model of this atlas predicts energies on a labelled set")
    known = catalog.models()
    own = own.assign(
        model_level=[
            (known[m].training.level_of_theory or "not stated") if m in known else "not stated"
            for m in own["model"]
        ]
    )
    alt = charts.altair()
    panels = [
        charts.bars(
            part, value="mae", name="model", colour="model_level", title="error (eV)"
        ).properties(title=" ".join(map(str, name)))
        for name, part in own.groupby(["set", "label"], sort=False)
    ]
    return Figure(
        "B4",
        title,
        "Equations 1 to 4 of the study, on the sets with energies here, one panel a label; bars "
        "are coloured by the level of theory a model was trained on.",
        own,
        alt.vconcat(*panels).resolve_scale(color="shared"),
    )
