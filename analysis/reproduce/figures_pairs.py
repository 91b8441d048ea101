# SPDX-License-Identifier: Apache-2.0
"""Figures of pairs of models: matrices, scatter of metrics, tree, contrast, imbalance planes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..report.contrasts import contrast_label, points, relation
from ..report.matrices import cluster_order
from ..trees import neighbour_joining, profile_distances
from . import charts
from .figure import Figure, absent
from .study import LABELS, STAND_INS, Study, complete, condensed, correlation, told

#: Columns of a pair that every table of pairs shows beside its value.
BESIDE = ["standard_error", "calibrated", "null_mean", "null_quantile", "p_value", "q_value"]


def full_matrix(study: Study, number: str, set_name: str, metric: str) -> Figure:
    """All pairs of models on one set (Figs C6, C8, C10 to C13)."""
    selection, stands = STAND_INS[set_name]
    title = f"{LABELS[metric]} of all pairs of models, {selection}"
    rows = study.pairs(selection, metric)
    if rows.empty:
        return absent(number, title, f"no pair of models is scored on {selection}")
    names = {"a": "model_a", "b": "model_b"}
    table = rows[["a", "b", "n", "k", "value", *BESIDE]].rename(columns=names)
    matrix = study.matrix(selection, metric)
    order = [matrix.index[i] for i in cluster_order(matrix.to_numpy())]
    cells = matrix.rename_axis("row").reset_index().melt("row", var_name="column").dropna()
    return Figure(
        number,
        title,
        f"The study's {set_name}; here {stands}. Beside the value the table gives its standard "
        "error, the null of permuted structures, p, q and the calibrated value.",
        table,
        charts.heatmap(
            cells, row="row", column="column", value="value", order=order, title=LABELS[metric]
        ),
    )


def condensed_matrix(study: Study, number: str, set_name: str) -> Figure:
    """CKNNA between families of models (Figs 1A1 and 1C)."""
    selection, stands = STAND_INS[set_name]
    title = f"CKNNA between families of models, {selection}"
    matrix = study.matrix(selection, "cknna")
    if len(matrix) < 2:
        return absent(number, title, f"no pair of models is scored on {selection}")
    parts = {}
    for column in ("value", "calibrated"):
        square = condensed(study.matrix(selection, "cknna", column), study.families)
        square.index.name = "row"
        parts[column] = square.reset_index().melt("row", var_name="column", value_name=column)
    table = parts["value"].merge(parts["calibrated"], on=["row", "column"]).dropna(subset="value")
    families = list(dict.fromkeys(table["row"]))
    square = table.pivot(index="row", columns="column", values="value").loc[families, families]
    order = [families[i] for i in cluster_order(square.to_numpy())]
    counts = pd.Series(study.families).loc[list(matrix.index)].value_counts()
    table["models_row"] = table["row"].map(counts)
    table["models_column"] = table["column"].map(counts)
    return Figure(
        number,
        title,
        f"Means over the models of two families. The study's {set_name}; here {stands}.",
        table,
        charts.heatmap(
            table, row="row", column="column", value="value", order=order, title="CKNNA"
        ),
    )


def family_block(study: Study, number: str, place: int) -> Figure:
    """CKNNA within one large family (Figs 1A2 and 1A3: EquiformerV2 and Orb v3)."""
    title = f"CKNNA within a family (number {place + 1} by size)"
    matrix = study.matrix("molecules", "cknna")
    sizes = pd.Series({m: study.families[m] for m in study.spatial(matrix.index)}).value_counts()
    large = [str(f) for f in sizes.index[sizes >= 3]]
    if len(large) <= place:
        return absent(number, title, "no further family of three or more 3D models on molecules")
    family = large[place]
    own = [m for m in matrix.index if study.families[m] == family]
    rows = study.pairs("molecules", "cknna")
    rows = rows[rows["a"].isin(own) & rows["b"].isin(own)]
    cells = matrix.loc[own, own].rename_axis("row").reset_index()
    return Figure(
        number,
        f"CKNNA within the family {family}, molecules",
        "The study shows EquiformerV2 and Orb v3; here the families with most 3D models held.",
        rows[["a", "b", "n", "k", "value", *BESIDE]],
        charts.heatmap(
            cells.melt("row", var_name="column"),
            row="row",
            column="column",
            value="value",
            order=own,
            title="CKNNA",
        ),
    )


def local_against_global(study: Study) -> Figure:
    """CKNNA against distance correlation, a point a pair (Fig 1D)."""
    title = "Local against global alignment of pairs of models, molecules"
    parts = {m: study.pairs("molecules", m) for m in ("cknna", "distance_correlation")}
    keys = ["a", "b", "n"]
    columns = ["value", "standard_error", "calibrated"]
    table = parts["cknna"][[*keys, *columns]].merge(
        parts["distance_correlation"][[*keys, *columns]], on=keys, suffixes=("_cknna", "_dcor")
    )
    learned = study.learned(study.models)
    table = table[table["a"].isin(learned) & table["b"].isin(learned)]
    if len(table) < 2:
        return absent("1D", title, "fewer than two pairs of learned models on molecules")
    table["relation"] = [
        relation(study.models[a], study.models[b])
        for a, b in zip(table["a"], table["b"], strict=True)
    ]
    found = correlation(table["value_cknna"], table["value_dcor"])
    return Figure(
        "1D",
        title,
        "The study calls both highly correlated and gives no number. Pairs share models, so the "
        f"interval is too narrow: {told(found)}.",
        table,
        charts.scatter(
            table,
            x="value_cknna",
            y="value_dcor",
            x_title="CKNNA",
            y_title="distance correlation",
            colour="relation",
        ),
    )


def model_tree(study: Study) -> Figure:
    """Neighbour-joining tree of alignment profiles (Fig 1F)."""
    title = "Tree of models from their alignment with all others, crystals"
    matrix = complete(study.matrix("crystals", "cknna"))
    if len(matrix) < 4:
        return absent("1F", title, "fewer than four models with every pair scored on crystals")
    distances = profile_distances(matrix.to_numpy())
    root = neighbour_joining(distances, list(matrix.index))
    table = pd.DataFrame(distances, index=matrix.index, columns=matrix.columns)
    groups = {m: study.embedding_type(m) for m in matrix.index}
    return Figure(
        "1F",
        title,
        "Square roots of Jensen-Shannon divergences of CKNNA profiles, neighbour joining "
        "(A.1.3 of the study). The table holds the distances; the Newick text is beside it.",
        table.rename_axis("model").reset_index(),
        charts.tree(root, groups),
        text=root.newick() + ";\n",
    )


def imbalance_plane(study: Study, number: str, set_name: str) -> Figure:
    """Information imbalance both ways, a point a pair (Figs 2B and C9)."""
    selection, stands = STAND_INS[set_name]
    title = f"Information imbalance of pairs of models, {selection}"
    rows = study.pairs(selection, "information_imbalance")
    learned = [*study.learned(study.models)]
    rows = rows[rows["a"].isin(learned) & rows["b"].isin(learned)]
    back = rows.rename(columns={"a": "b", "b": "a"})[["a", "b", "value", "standard_error"]]
    table = rows[["a", "b", "n", "k", "value", "standard_error", "calibrated"]].merge(
        back, on=["a", "b"], suffixes=("", "_back")
    )
    table = table[table["a"] < table["b"]]
    if table.empty:
        return absent(number, title, f"no pair of learned models is scored on {selection}")
    for metric in ("cknna", "distance_correlation"):
        scores = study.pairs(selection, metric)[["a", "b", "value"]]
        both = pd.concat([scores, scores.rename(columns={"a": "b", "b": "a"})])
        table = table.merge(both.rename(columns={"value": metric}), on=["a", "b"], how="left")
    alt = charts.altair()
    chart = (
        alt.Chart(table)
        .mark_point(filled=True, opacity=0.85)
        .encode(
            x=alt.X("value:Q", title="imbalance, first to second"),
            y=alt.Y("value_back:Q", title="imbalance, second to first"),
            color=alt.Color("cknna:Q", title="CKNNA", scale=alt.Scale(scheme="viridis")),
        )
        .properties(width=300, height=300)
    )
    return Figure(
        number,
        title,
        f"0, 0 is equal information, 1, 1 none. The study's {set_name}; here {stands}; one "
        "neighbour, where the study shows k = 50, 200 and 500.",
        table,
        charts.diagonal(chart, 0.0, float(np.nanmax(table[["value", "value_back"]].to_numpy()))),
    )


def contrast(study: Study) -> Figure:
    """Alignment of each pair inside and outside both models' training domains (Fig 2C)."""
    title = "Alignment in distribution against out of it"
    models = list(study.models.values())
    names = {m.index: m.key for m in models}
    rows = []
    for point in points(study.scores, models):
        rows.append(
            {
                "contrast": point["contrast"],
                "metric": point["metric"],
                "a": names[point["a"]],
                "b": names[point["b"]],
                "n": point["n"],
                "inside": point["in"]["v"],
                "outside": point["out"]["v"],
                "inside_error": point["in"]["s"],
                "standard_error": point["out"]["s"],
                "inside_calibrated": point["in"]["c"],
                "outside_calibrated": point["out"]["c"],
                "relation": point["relation"],
            }
        )
    table = pd.DataFrame(rows)
    if table.empty:
        return absent("2C", title, "no pair has enough rows in and out of both training domains")
    shown = table[table["metric"].isin(["cknna", "distance_correlation"])]
    lead = shown["contrast"].value_counts().index[0]
    shown = shown[shown["contrast"] == lead].assign(metric=lambda t: t["metric"].map(LABELS))
    alt = charts.altair()
    panels = [
        charts.diagonal(
            charts.scatter(
                part,
                x="inside",
                y="outside",
                x_title="in distribution",
                y_title="out of distribution",
                colour="relation",
                errors=True,
            ),
            float(part[["inside", "outside"]].min().min()),
            float(part[["inside", "outside"]].max().max()),
        ).properties(title=str(name))
        for name, part in shown.groupby("metric", sort=False)
    ]
    return Figure(
        "2C",
        f"{title}: {contrast_label(str(lead))}",
        "A point a pair of models, at one n for both sides. The study: locally (CKNNA) alignment "
        "is higher in distribution, globally (distance correlation) out of it. The table holds "
        "every contrast and metric.",
        table,
        alt.hconcat(*panels),
    )
