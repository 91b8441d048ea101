# SPDX-License-Identifier: Apache-2.0
"""Models that have several layers: their best score over layer pairs, tested as the maximum it is.

The best of many scores is high by choice alone, and the smallest of many p-values low. The null of
the best score is the best null score, draw by draw: all layers of a model are relabeled alike, so
that a draw keeps how they depend on each other, and no bound over the number of pairs is needed.

Source: Groeger et al. 2026, "Aristotelian" calibration, Eqs 14-17 (maximum over layers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import MetricError
from .metrics.cards import CARDS
from .pairwise import calibrate_pairs

if TYPE_CHECKING:
    import xarray as xr


def over_layers(scores: xr.Dataset, models: Mapping[str, str]) -> xr.Dataset:
    """Best score of each pair of models over the pairs of their layers, and its calibration.

    Parameters
    ----------
    scores : xarray.Dataset
        What ``pairwise(..., permutations=..., keep_draws=True)`` gives of all layers of all models.
    models : mapping of str to str
        Model of each of its charts (layers), as they are named in ``model_a``. The charts of a
        model stand together in ``scores``: draws relabel the second chart of a pair, so that all
        pairs of two models are relabeled alike only then.

    Returns
    -------
    xarray.Dataset
        Over models in the order of their first charts. A variable per metric over (model_a,
        model_b), the largest value (the smallest where smaller is more similar) over pairs of a
        layer of each; of a model with itself, over its layers with themselves. ``layer_a`` and
        ``layer_b``, the charts that gave it ("" where no pair is defined), ``layer_pairs``, how
        many pairs are defined, and ``null_mean``, ``null_quantile``, ``p_value`` and ``calibrated``
        against the null of the best score, over (metric, model_a, model_b). Attributes are those of
        ``scores``. With one layer a model, everything is as in ``scores`` (to the float32 of the
        draws).

    Raises
    ------
    MetricError
        If draws were not kept, a chart has no model or a model's charts do not stand together, or
        a chart named is not in ``scores``.

    Notes
    -----
    p-values are uniform for unrelated models whatever their layers, when rows are exchangeable.
    Pairs whose score is undefined (a layer that is the same for all rows) are left out. Scores of
    one metric are compared as they are: where layers differ in their null (widths under biased
    measures), the best one may win by that, and the test still holds.
    """
    import xarray as xr

    charts = [str(name) for name in scores["model_a"].values]
    names, places = _places(scores, charts, models)
    metrics = [str(name) for name in scores["metric"].values]
    variables: dict[str, Any] = {}
    stacked: dict[str, list[NDArray[Any]]] = {}
    pairs = ("model_a", "model_b")
    labels = np.array(charts, dtype=object)
    for name in metrics:
        larger = CARDS[name].larger_is_similar
        # Draws are float32; a value that equals one must still do so.
        value = scores[name].values.astype(np.float32).astype(np.float64)
        null = scores["null"].sel(metric=name).values
        best, first, second, count = _best_values(value, places, larger=larger)
        drawn = _best_draws(null, np.isnan(value), places, larger=larger)
        exact = scores[name].values[first, second]
        variables[name] = (pairs, np.where(count > 0, exact, np.nan))
        found: dict[str, NDArray[Any]] = {
            "layer_a": np.where(count > 0, labels[first], "").astype(str),
            "layer_b": np.where(count > 0, labels[second], "").astype(str),
            "layer_pairs": count,
            **calibrate_pairs(name, best, drawn, scores.attrs),
        }
        for key, array in found.items():
            stacked.setdefault(key, []).append(array)
    for key, arrays in stacked.items():
        variables[key] = (("metric", *pairs), np.stack(arrays))
    coordinates = {"metric": metrics, "model_a": names, "model_b": names}
    return xr.Dataset(variables, coordinates, scores.attrs)


def _places(
    scores: xr.Dataset, charts: list[str], models: Mapping[str, str]
) -> tuple[list[str], list[slice]]:
    """Models in order, and where in ``scores`` the charts of each stand."""
    if "null" not in scores:
        raise MetricError(
            "over_layers: scores hold no null draws; call pairwise with permutations=200 and "
            "keep_draws=True, and at least one metric of pairs"
        )
    for chart in charts:
        if chart not in models:
            raise MetricError(f"over_layers: chart '{chart}' of the scores has no model in models")
    for chart in models:
        if chart not in charts:
            raise MetricError(f"over_layers: models names chart '{chart}', not one of the scores")
    names: list[str] = []
    starts: list[int] = []
    for place, chart in enumerate(charts):
        model = str(models[chart])
        if names and names[-1] == model:
            continue
        if model in names:
            raise MetricError(
                f"over_layers: charts of model '{model}' do not stand together ('{chart}' comes "
                f"after those of '{names[-1]}'); give pairwise each model's charts one after the "
                "other"
            )
        names.append(model)
        starts.append(place)
    return names, [slice(a, b) for a, b in zip(starts, [*starts[1:], len(charts)], strict=True)]


def _best_values(
    value: NDArray[np.float64], places: list[slice], *, larger: bool
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Best value, its row and column, and the number of defined ones, of each pair of models."""
    m = len(places)
    best = np.full((m, m), np.nan)
    first, second, count = (np.zeros((m, m), np.intp) for _ in range(3))
    worst = -np.inf if larger else np.inf
    for a, rows in enumerate(places):
        for b, columns in enumerate(places):
            part = value[rows, columns]
            if a == b:
                part = np.where(np.eye(len(part), dtype=bool), part, np.nan)
            count[a, b] = (~np.isnan(part)).sum()
            filled = np.where(np.isnan(part), worst, part)
            found = int(filled.argmax() if larger else filled.argmin())
            i, j = divmod(found, part.shape[1])
            first[a, b], second[a, b] = rows.start + i, columns.start + j
            if count[a, b]:
                best[a, b] = part[i, j]
    return best, first, second, count


def _best_draws(
    null: NDArray[np.float32],
    undefined: NDArray[np.bool_],
    places: list[slice],
    *,
    larger: bool,
) -> NDArray[np.float64]:
    """Best of each draw over the layer pairs of each pair of models, (K, m, m)."""
    m = len(places)
    out = np.full((null.shape[0], m, m), np.nan)
    better = np.fmax if larger else np.fmin  # a number wins over NaN
    for a, rows in enumerate(places):
        for b, columns in enumerate(places):
            if a == b:
                continue
            part = np.where(undefined[rows, columns], np.nan, null[:, rows, columns])
            out[:, a, b] = better.reduce(part.reshape(len(part), -1), axis=1)
    return out
