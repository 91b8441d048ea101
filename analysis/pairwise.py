# SPDX-License-Identifier: Apache-2.0
"""All pairs of models, all metrics, from shared work, with error bars and null calibration."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..schemas.errors import MetricError, missing_extra
from . import calibration
from .blocks import MINIMUM_ROWS, Normalise, Space, as_rows, check_neighbour_count, normalise_rows
from .calibration import (
    calibrated,
    jackknife_blocks,
    null_quantile,
    p_value,
    standard_error,
)
from .choices import KERNELS, OVERLAPS, Settings
from .families import (
    Measured,
    NeighbourLists,
    Sampling,
    measure_dimension,
    measure_global,
    measure_imbalance,
    measure_neighbour_overlap,
)
from .metrics.cards import CARDS, METRICS, VERSIONS, MetricName
from .metrics.cknna import Variant, check_variant
from .metrics.intrinsic_dimension import Method, check_method
from .neighbours import load_faiss

if TYPE_CHECKING:
    import xarray as xr

Arithmetic = Literal["double", "single"]

ENGINE_ROWS = 4096
"""Up to this many rows double precision costs little; beyond, the engine takes over."""


def pairwise(
    data: Mapping[str, ArrayLike],
    *,
    metrics: Iterable[str] = METRICS,
    k: int = 25,
    permutations: int = 0,
    seed: int = 0,
    normalise: Normalise | Mapping[str, Normalise] | None = None,
    alpha: float = 0.05,
    groups: ArrayLike | None = None,
    threads: int | None = None,
    variant: Variant = "masked_unbiased",
    imbalance_k: int = 1,
    dimension_method: Method = "twonn",
    dimension_k: int = 50,
    arithmetic: Arithmetic | None = None,
    keep_draws: bool = False,
) -> xr.Dataset:
    """Compare every pair of embeddings of the same structures.

    Parameters
    ----------
    data : mapping of model name to array_like, shape (n, d)
        Embeddings over the same n structures in the same order; widths may differ.
    metrics : iterable of str
        Any of ``matteratlas.analysis.metrics.METRICS``.
    k : int
        Neighbours a row for mutual kNN and CKNNA.
    permutations : int
        Null draws, the same relabelings for all pairs and metrics; 0 for none, 200 or more to
        calibrate.
    seed : int
        Of the null draws and of the jackknife blocks.
    normalise : str, mapping of metric to str, or None
        Row scaling ("l2", "max", "none"); None, or a metric left out, means the metric's default.
    alpha : float
        Level of the null quantile, in (0, 1).
    groups : array_like, shape (n,), optional
        Labels; rows are relabeled within equal labels only.
    threads : int, optional
        Threads for BLAS and FAISS, or tasks at once in the engine; as they are set, by default.
    variant : str
        Of CKNNA.
    imbalance_k, dimension_method, dimension_k
        Settings of information imbalance and intrinsic dimension.
    arithmetic : {"double", "single"}, optional
        Double precision with every draw on all rows, or the engine's single precision, which does
        the work of many rows as tasks of bounded memory (:mod:`.engine`). By default double up to
        ``ENGINE_ROWS`` rows.
    keep_draws : bool
        Keep the null draws themselves, 4 bytes a draw, metric and ordered pair.

    Returns
    -------
    xarray.Dataset
        A variable per metric over (model_a, model_b); of information imbalance, the one from
        model_a to model_b; of intrinsic dimension, over (model_a) only. ``standard_error`` over
        (metric, model_a, model_b), and ``intrinsic_dimension_standard_error`` over (model_a), by
        the delete-block jackknife. With permutations ``null_mean``, ``null_quantile``, ``p_value``
        (NaN for a model with itself) and ``calibrated`` over (metric, model_a, model_b); with
        ``keep_draws`` too, ``null`` over (metric, draw, model_a, model_b), float32, NaN for a model
        with itself. Every value is that of the metric's own function. Attributes say n, k, seed,
        versions and all settings.

    Raises
    ------
    MetricError
        If rows differ in number, are not finite, or are too few; for unknown names or settings.

    Notes
    -----
    Neighbours are searched once a model and row scaling, tiles of distances and products are made
    once for all models, and null draws relabel rows without searching again. Memory is O(n (d + k))
    a model and O(n) a tile row; n x n is never held. The engine finds the same neighbours; its
    distances carry float32's rounding (global metrics move by less than 1e-6; rows that it
    cannot tell apart share ranks, which moves information imbalance by some 1e-6 at 1,500 rows and
    more at fewer), and global metrics draw their nulls on a sample of the rows, scaled (see
    :mod:`.engine.nulls`; attributes ``null_rows`` and ``null_rank_rows`` say how many).
    """
    chosen = _check_metrics(metrics)
    scaling = _check_normalise(normalise, chosen)
    check_variant(variant)
    check_method(dimension_method)
    if not 0.0 < alpha < 1.0:
        raise MetricError(f"alpha={alpha!r} is not between 0 and 1")
    names, n = check_rows(data)
    if arithmetic not in (None, "double", "single"):
        raise MetricError(f"arithmetic={arithmetic!r} is not one of double, single")
    least = MINIMUM_ROWS
    if set(OVERLAPS) & set(chosen):
        check_neighbour_count(k, n, least=2 if "cknna" in chosen else 1)
        least = max(least, k + 1)
    if "information_imbalance" in chosen:
        check_neighbour_count(imbalance_k, n, name="imbalance_k")
        least = max(least, imbalance_k + 1)
    if "intrinsic_dimension" in chosen and dimension_method == "mle":
        check_neighbour_count(dimension_k, n, name="dimension_k", least=2)
    if arithmetic == "single" or (arithmetic is None and n > ENGINE_ROWS):
        return _by_engine(
            data,
            Settings(
                scaling, k, permutations, seed, variant, imbalance_k, dimension_method, dimension_k
            ),
            None if groups is None else np.asarray(groups),
            alpha=alpha,
            threads=threads,
            keep_draws=keep_draws,
        )
    raw = [
        as_rows(rows, name=f"model '{name}'")
        for name, rows in zip(names, data.values(), strict=True)
    ]
    sampling = Sampling(
        jackknife_blocks(n, least=least, seed=seed),
        calibration.permutations(n, permutations, seed=seed, groups=groups),
    )
    settings = {
        "n": n,
        "k": k,
        "permutations": permutations,
        "seed": seed,
        "alpha": alpha,
        "normalise": json.dumps(scaling),
        "metric_versions": json.dumps({name: VERSIONS[name] for name in chosen}),
        "cknna_variant": variant,
        "imbalance_k": imbalance_k,
        "dimension_method": dimension_method,
        "dimension_k": dimension_k,
        "jackknife_blocks": sampling.count,
        "restricted_permutations": int(groups is not None),
        "arithmetic": "double",
        "null_rows": n,
        "null_rank_rows": n,
    }
    spaces = {
        how: [Space(normalise_rows(rows, how)) for rows in raw]
        for how in dict.fromkeys(scaling.values())
    }
    with _limit(threads), np.errstate(divide="ignore", invalid="ignore"):
        measured = _measure(spaces, scaling, sampling, settings)
    constant = {
        name: np.array([space.constant for space in spaces[how]]) for name, how in scaling.items()
    }
    chosen_ones = {name: measured[name] for name in chosen}
    return dataset_of(names, chosen_ones, constant, settings, keep_draws=keep_draws)


def _measure(
    spaces: Mapping[Normalise, list[Space]],
    scaling: Mapping[MetricName, Normalise],
    sampling: Sampling,
    settings: Mapping[str, Any],
) -> dict[MetricName, Measured]:
    """Run each family once per row scaling, sharing neighbour lists."""
    lists = NeighbourLists(sampling.count)
    measured: dict[MetricName, Measured] = {}
    for how, group in spaces.items():
        wanted = [name for name, scaled in scaling.items() if scaled == how]
        if set(OVERLAPS) & set(wanted):
            measured |= measure_neighbour_overlap(
                group,
                lists,
                sampling,
                k=settings["k"],
                normalise=how,
                variant=settings["cknna_variant"] if "cknna" in wanted else None,
                count="mutual_knn" in wanted,
            )
        kernels = {name: KERNELS[name] for name in wanted if name in KERNELS}
        if kernels:
            results = measure_global(group, sampling, list(kernels.values()))
            measured |= {name: results[kernel] for name, kernel in kernels.items()}
        if "information_imbalance" in wanted:
            measured["information_imbalance"] = measure_imbalance(
                group, lists, sampling, k=settings["imbalance_k"]
            )
        if "intrinsic_dimension" in wanted:
            measured["intrinsic_dimension"] = measure_dimension(
                group,
                lists,
                sampling,
                method=settings["dimension_method"],
                k=settings["dimension_k"],
            )
    return measured


def _by_engine(
    data: Mapping[str, ArrayLike],
    settings: Settings,
    groups: NDArray[Any] | None,
    *,
    alpha: float,
    threads: int | None,
    keep_draws: bool,
) -> xr.Dataset:
    """All metrics by the engine, on threads of this process."""
    from .engine.job import ArraySource, Job
    from .engine.results import as_dataset
    from .engine.run import run
    from .engine.store import MemoryStore

    arrays = {str(name): np.asarray(rows) for name, rows in data.items()}
    job, store = Job(ArraySource(arrays), settings, groups), MemoryStore()
    run(job, store, threads=threads or available_threads())
    return as_dataset(job, store, alpha=alpha, keep_draws=keep_draws)


def available_threads() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_rows(data: Mapping[str, ArrayLike]) -> tuple[list[str], int]:
    """Names of the models and their number of rows, which is the same for all."""
    names = [str(name) for name in data]
    if not names:
        raise MetricError("pairwise: no models given; pass a mapping of name to array")
    counts = [len(np.atleast_1d(np.asarray(rows))) for rows in data.values()]
    for name, count in zip(names, counts, strict=True):
        if count != counts[0]:
            raise MetricError(
                f"model '{name}' has {count} rows, model '{names[0]}' has {counts[0]}; align them "
                "on common rows"
            )
    return names, counts[0]


def _check_metrics(metrics: Iterable[str]) -> list[MetricName]:
    asked = [metrics] if isinstance(metrics, str) else list(metrics)
    known = {str(name): name for name in METRICS}
    for name in asked:
        if name not in known:
            raise MetricError(f"metric '{name}' is not one of {', '.join(METRICS)}")
    if not asked:
        raise MetricError(f"no metrics asked for; choose from {', '.join(METRICS)}")
    return [known[name] for name in dict.fromkeys(asked)]


def _check_normalise(
    normalise: Normalise | Mapping[str, Normalise] | None, chosen: list[MetricName]
) -> dict[MetricName, Normalise]:
    if isinstance(normalise, Mapping):
        for name in normalise:
            if name not in METRICS:
                raise MetricError(f"normalise names '{name}', not one of {', '.join(METRICS)}")
        return {name: normalise.get(name, CARDS[name].normalise) for name in chosen}
    return {name: normalise or CARDS[name].normalise for name in chosen}


def _limit(threads: int | None) -> Any:
    if threads is None:
        return nullcontext()
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise missing_extra("threadpoolctl", "cpu") from error
    load_faiss()  # its thread pool can only be limited once it is loaded
    return threadpool_limits(limits=threads)


def dataset_of(
    names: list[str],
    measured: dict[MetricName, Measured],
    constant: Mapping[MetricName, NDArray[np.bool_]],
    settings: dict[str, Any],
    *,
    keep_draws: bool = False,
) -> xr.Dataset:
    """Values, errors and calibrated scores of what was measured; settings become attributes."""
    import xarray as xr

    pairs = ("model_a", "model_b")
    variables: dict[str, Any] = {}
    pair_names = [name for name in measured if CARDS[name].pairwise]
    stacked: dict[str, list[NDArray[np.float64]]] = {"standard_error": []}
    draws: list[NDArray[np.float32]] = []
    for name, result in measured.items():
        if not CARDS[name].pairwise:
            variables[name] = (pairs[:1], result.value)
            variables[f"{name}_standard_error"] = (pairs[:1], _error(result))
            continue
        undefined = constant[name][:, None] | constant[name][None, :]
        value = np.where(undefined, np.nan, result.value)
        variables[name] = (pairs, value)
        stacked["standard_error"].append(np.where(undefined, np.nan, _error(result)))
        if result.null is not None:
            for key, array in calibrate_pairs(name, value, result.null, settings).items():
                stacked.setdefault(key, []).append(array)
            if keep_draws:
                left_out = np.isnan(value) | np.eye(len(names), dtype=bool)
                draws.append(np.where(left_out, np.nan, result.null).astype(np.float32))
    coordinates = {"model_a": names, "model_b": names}
    if pair_names:
        for key, arrays in stacked.items():
            variables[key] = (("metric", *pairs), np.stack(arrays))
        if draws:
            variables["null"] = (("metric", "draw", *pairs), np.stack(draws))
        return xr.Dataset(variables, {"metric": list(pair_names), **coordinates}, settings)
    return xr.Dataset(variables, {"model_a": names}, settings)


def _error(result: Measured) -> NDArray[np.float64]:
    if result.deleted is None:
        return np.full(result.value.shape, np.nan)
    return standard_error(result.deleted)


def calibrate_pairs(
    name: str,
    value: NDArray[np.float64],
    null: NDArray[np.float64],
    settings: Mapping[str, Any],
) -> dict[str, NDArray[np.float64]]:
    """Calibrate one metric's values (m, m) by null draws (K, m, m); the diagonal has no null."""
    card = CARDS[name]
    own = np.eye(value.shape[0], dtype=bool)
    k = settings["imbalance_k"] if name == "information_imbalance" else settings["k"]
    null = np.where(own | np.isnan(value), np.nan, null)
    quantile = null_quantile(value, null, alpha=settings["alpha"], larger=card.larger_is_similar)
    quantile = np.where(own, np.nan, quantile)
    best = card.best(settings["n"], k)
    scores = calibrated(value, quantile, best, larger=card.larger_is_similar)
    return {
        "null_mean": null.mean(axis=0),
        "null_quantile": quantile,
        "p_value": np.where(own, np.nan, p_value(value, null, larger=card.larger_is_similar)),
        "calibrated": np.where(own & ~np.isnan(value), 1.0, scores),
    }
