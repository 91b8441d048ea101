# SPDX-License-Identifier: Apache-2.0
"""How scores move with the number of rows and of neighbours: one table of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..schemas.errors import MetricError
from ..schemas.progress import Reporter, Silent
from .blocks import Normalise
from .choices import OVERLAPS
from .metrics.cards import CARDS, METRICS
from .pairwise import Arithmetic, check_rows, pairwise

if TYPE_CHECKING:
    import xarray as xr

SIZES = (250, 500, 1000)
KS = (5, 10, 25)

#: Types of the columns, in their order.
COLUMNS: dict[str, str] = {
    "metric": "object",
    "model_a": "object",
    "model_b": "object",
    "n": "int64",
    "k": "Int64",
    "repeat": "int64",
    "value": "float64",
    "standard_error": "float64",
    "null_mean": "float64",
    "null_quantile": "float64",
    "p_value": "float64",
    "calibrated": "float64",
}


def sweep(
    data: Mapping[str, ArrayLike],
    *,
    sizes: Sequence[int] = SIZES,
    ks: Sequence[int] = KS,
    metrics: Iterable[str] = METRICS,
    permutations: int = 0,
    seed: int = 0,
    repeats: int = 1,
    normalise: Normalise | Mapping[str, Normalise] | None = None,
    alpha: float = 0.05,
    groups: ArrayLike | None = None,
    threads: int | None = None,
    arithmetic: Arithmetic | None = None,
    reporter: Reporter | None = None,
) -> pd.DataFrame:
    """Compare every pair of embeddings at several numbers of rows and of neighbours.

    Parameters
    ----------
    data : mapping of model name to array_like, shape (N, d)
        Embeddings over the same N structures in the same order; widths may differ.
    sizes : sequence of int
        Numbers of rows n, at most N. The rows of a size are the same for all models, and among
        those of every larger size: moving along n, rows are added and none exchanged.
    ks : sequence of int
        Neighbours for mutual kNN and CKNNA, each at every size where k < n.
    metrics : iterable of str
        Any of ``matteratlas.analysis.metrics.METRICS``.
    permutations : int
        Null draws at each (n, k); 0 leaves null columns NaN.
    seed, repeats : int
        Nested samples are drawn ``repeats`` times; sample and null draws depend on ``seed`` and
        the repeat only, not on which sizes, ks or metrics are asked for.
    normalise, alpha, groups, threads, arithmetic
        As of :func:`.pairwise.pairwise`; ``groups`` has shape (N,).
    reporter :
        Told of each comparison.

    Returns
    -------
    pandas.DataFrame
        A row a metric, pair, n, k and repeat (``COLUMNS``), sorted by metric as asked, pair,
        repeat, k, n. Pairs once for symmetric metrics, both ways for information imbalance;
        intrinsic dimension has no ``model_b``. ``k`` is missing where a metric has no neighbours to
        choose: those are computed once per n (information imbalance at one neighbour, its default).

    Raises
    ------
    MetricError
        For sizes or ks out of range, or rows and settings that ``pairwise`` refuses.

    Notes
    -----
    The spread over repeats at one n below N says how a score moves with the sample; repeats share
    rows where n is a good part of N (at N they are one sample), so that it then falls short of the
    spread over new structures, which ``standard_error`` estimates.
    """
    rows = {str(name): np.asarray(values) for name, values in data.items()}
    wanted = [metrics] if isinstance(metrics, str) else list(dict.fromkeys(metrics))
    total = check_rows(rows)[1]
    sizes = _whole(sizes, "sizes", least=4)
    ks = _whole(ks, "ks", least=1)
    (repeats,) = _whole([repeats], "repeats", least=1)
    if sizes[-1] > total:
        raise MetricError(f"sizes: {sizes[-1]} rows asked for, {total} there; give at most {total}")
    labels = None if groups is None else np.asarray(groups)
    if labels is not None and labels.shape != (total,):
        raise MetricError(f"groups has shape {labels.shape}, one label for each of {total} rows")
    plan = _plan(wanted, sizes, ks)
    said = reporter or Silent()
    said.stage("comparisons", repeats * len(plan))
    tables = []
    for repeat in range(repeats):
        order = np.random.default_rng([seed, repeat]).permutation(total)
        for n, k, names in plan:
            taken = np.sort(order[:n])
            scores = pairwise(
                {name: values[taken] for name, values in rows.items()},
                metrics=names,
                k=k or 1,  # metrics without neighbours do not look at it
                permutations=permutations,
                seed=_seed(seed, repeat),
                normalise=_of_metrics(normalise, names),
                alpha=alpha,
                groups=None if labels is None else labels[taken],
                threads=threads,
                arithmetic=arithmetic,
            )
            tables += tidy(scores, names, n=n, k=k, repeat=repeat)
            said.advance(f"n={n}" + ("" if k is None else f" k={k}"), 1)
    return _sorted(pd.DataFrame(tables, columns=list(COLUMNS)).astype(COLUMNS), wanted, list(rows))


def _whole(values: Sequence[int], name: str, *, least: int) -> list[int]:
    """Distinct whole numbers in rising order."""
    if not len(values):
        raise MetricError(f"{name}: none given")
    for value in values:
        if isinstance(value, bool) or int(value) != value or value < least:
            raise MetricError(f"{name}={value!r} is not a whole number of at least {least}")
    return sorted({int(value) for value in values})


def _plan(
    wanted: list[str], sizes: list[int], ks: list[int]
) -> list[tuple[int, int | None, list[str]]]:
    """Comparisons to make: n, k (None for the metrics without one), metrics."""
    near: list[str] = [name for name in wanted if name in OVERLAPS]
    other = [name for name in wanted if name not in OVERLAPS]
    plan: list[tuple[int, int | None, list[str]]] = []
    for n in sizes:
        if other or not wanted:
            plan.append((n, None, other))
        plan.extend((n, k, near) for k in ks if near and k < n)
    if not plan:
        raise MetricError(f"ks: {ks[0]} is the fewest, and sizes go up to {sizes[-1]} rows only")
    return plan


def _seed(seed: int, repeat: int) -> int:
    """Of the null draws of a repeat; the first one's is the seed itself."""
    return seed if repeat == 0 else int(np.random.SeedSequence([seed, repeat]).generate_state(1)[0])


def _of_metrics(
    normalise: Normalise | Mapping[str, Normalise] | None, names: list[str]
) -> Normalise | Mapping[str, Normalise] | None:
    """Row scalings without those of metrics of another comparison; unknown names stay."""
    if not isinstance(normalise, Mapping):
        return normalise
    return {m: how for m, how in normalise.items() if m in names or m not in METRICS}


def tidy(
    scores: xr.Dataset, names: Sequence[str], *, n: int, k: int | None, repeat: int
) -> list[dict[str, Any]]:
    """Rows of one comparison."""
    models = [str(name) for name in scores["model_a"].values]
    common = {"n": n, "k": k, "repeat": repeat}
    columns = [name for name in list(COLUMNS)[7:] if name in scores]
    out: list[dict[str, Any]] = []
    for name in names:
        value = scores[name].values
        if not CARDS[name].pairwise:
            error = scores[f"{name}_standard_error"].values
            out += [
                {"metric": name, "model_a": a, "model_b": None, **common,
                 "value": value[i], "standard_error": error[i]}
                for i, a in enumerate(models)
            ]  # fmt: skip
            continue
        held = {column: scores[column].sel(metric=name).values for column in columns}
        for i, j in _pairs(len(models), symmetric=CARDS[name].symmetric):
            found = {column: array[i, j] for column, array in held.items()}
            out.append(
                {"metric": name, "model_a": models[i], "model_b": models[j], **common,
                 "value": value[i, j], **found}
            )  # fmt: skip
    return out


def _pairs(m: int, *, symmetric: bool) -> NDArray[np.intp]:
    """Pairs to list, (p, 2): once, or both ways."""
    chosen = np.triu(np.ones((m, m), bool), 1) if symmetric else ~np.eye(m, dtype=bool)
    return np.argwhere(chosen)


def _sorted(table: pd.DataFrame, metrics: list[str], models: list[str]) -> pd.DataFrame:
    """By metric and pair in the order they were given, then repeat, k, n."""
    ranks = {
        "metric": {name: i for i, name in enumerate(metrics)},
        "model_a": {name: i for i, name in enumerate(models)},
        "model_b": {name: i for i, name in enumerate(models)},
    }
    by = ["metric", "model_a", "model_b", "repeat", "k", "n"]
    place = table[by].apply(lambda column: column.map(ranks[column.name])
                            if column.name in ranks else column)  # fmt: skip
    return table.loc[place.sort_values(by, kind="stable").index].reset_index(drop=True)
