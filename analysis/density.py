# SPDX-License-Identifier: Apache-2.0
"""Density: how far a model's out-of-distribution rows lie from its in-distribution rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .blocks import Normalise, normalise_rows, row_blocks, rows_per_block
from .charts import ChartReader
from .gaps import Gap
from .selections import subsample

#: Out-of-distribution rows from which on a stratum is tested.
STRATUM_ROWS = 5

#: Bootstrap resamples for the standard error of a ratio of medians.
RESAMPLES = 200


def nearest_by_group(
    queries: NDArray[np.float64],
    base: NDArray[np.float64],
    groups: NDArray[np.intp],
    *,
    same: bool = False,
) -> NDArray[np.float64]:
    """Distance of every query to the nearest base row of each group.

    Parameters
    ----------
    queries, base : float64 arrays, shape (q, d) and (b, d)
    groups : int array, shape (b,)
        Codes 0..g-1 of the base rows, each used.
    same : bool
        Queries are the base rows: a row is not its own neighbour.

    Returns
    -------
    float64 array, shape (q, g)
        Infinite where a group holds no other row.
    """
    count = int(groups.max()) + 1
    members = [np.flatnonzero(groups == g) for g in range(count)]
    centre = base.mean(axis=0)
    points, around = base - centre, queries - centre
    squares, lengths = (np.einsum("id,id->i", x, x) for x in (points, around))
    out = np.full((len(queries), count), np.inf)
    for rows in row_blocks(0, len(queries), rows_per_block(16 * len(base), len(queries))):
        tile = lengths[rows, None] + squares - 2.0 * (around[rows] @ points.T)
        if same:
            tile[np.arange(len(tile)), np.arange(rows.start, rows.stop)] = np.inf
        for g, own in enumerate(members):
            out[rows, g] = tile[:, own].min(axis=1)
    return np.sqrt(np.maximum(out, 0.0))


def density_gaps(
    reader: ChartReader,
    relations: pd.DataFrame,
    *,
    least: int,
    max_rows: int,
    seed: int = 0,
    normalise: Normalise = "l2",
    notes: list[str] | None = None,
) -> list[Gap]:
    """Strata that lie far from what a model was trained on, in that model's own space.

    For each stratum out of the model's distribution: the median distance to the nearest row in
    distribution, over the median distance of the in-distribution rows to each other's nearest
    (leave one out). A stratum lies apart from all others even in distribution, so the reference is
    the same ratio for in-distribution rows when their own stratum is left out; the p-value
    (Mann-Whitney, one-sided) compares with those distances.

    Parameters
    ----------
    reader, relations
        Charts, and structures x charts of ``in``, ``out`` or ``unknown``.
    least : int
        In-distribution rows needed.
    max_rows : int
        In-distribution rows used, a subsample by hash.
    notes : list of str, optional
        Gains a line for every model left out.
    """
    gaps: list[Gap] = []
    said = notes if notes is not None else []
    structures = reader.structures.set_index("id")
    region = structures["set"] + ":" + structures["stratum"]
    for key in relations.columns:
        if key != reader.charts[key].card.id:
            continue  # other layers of the same model
        own = reader.presence[key]
        inside = own.index[(own & (relations[key] == "in")).to_numpy()]
        outside = own.index[(own & (relations[key] == "out")).to_numpy()]
        if len(inside) < least or len(outside) < STRATUM_ROWS:
            said.append(
                f"density of {key}: {len(inside)} rows in and {len(outside)} out of distribution, "
                f"{least} and {STRATUM_ROWS} needed"
            )
            continue
        base = list(subsample(list(inside), max_rows, seed=seed, label=f"density:{key}"))
        strata = {
            str(name): list(part.index)
            for name, part in region.loc[outside].groupby(region.loc[outside], sort=True)
            if len(part) >= STRATUM_ROWS
        }
        points = _rows(reader, key, base, normalise)
        codes = pd.factorize(region.loc[base], sort=True)[0].astype(np.intp)
        reference = _reference(points, codes)
        if reference is None:
            said.append(f"density of {key}: most in-distribution rows have an equal; no scale")
            continue
        queries = {name: _rows(reader, key, ids, normalise) for name, ids in strata.items()}
        gaps += _model_gaps(key, points, reference, queries, seed=seed)
    return gaps


def _rows(
    reader: ChartReader, key: str, ids: list[str], normalise: Normalise
) -> NDArray[np.float64]:
    rows = reader.rows(key, ids)
    return normalise_rows(np.ascontiguousarray(rows, dtype=np.float64), normalise)


def _reference(
    points: NDArray[np.float64], codes: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Distances of the base rows to the nearest other row, and to that of another stratum."""
    table = nearest_by_group(points, points, codes, same=True)
    alone = table.min(axis=1)
    if np.median(alone) <= 1e-7 * np.sqrt(np.einsum("id,id->i", points, points)).max():
        return None
    if table.shape[1] == 1:
        return alone, alone
    table[np.arange(len(table)), codes] = np.inf
    return alone, table.min(axis=1)


def _model_gaps(
    key: str,
    points: NDArray[np.float64],
    reference: tuple[NDArray[np.float64], NDArray[np.float64]],
    queries: Mapping[str, NDArray[np.float64]],
    *,
    seed: int,
) -> list[Gap]:
    from scipy.stats import mannwhitneyu

    alone, apart = reference
    scale = float(np.median(alone))
    usual = float(np.median(apart)) / scale
    gaps = []
    for name, rows in queries.items():
        far = nearest_by_group(rows, points, np.zeros(len(points), dtype=np.intp))[:, 0]
        ratio = float(np.median(far)) / scale
        p = float(mannwhitneyu(far, apart, alternative="greater", method="asymptotic").pvalue)
        gaps.append(
            Gap(
                kind="density",
                region=name,
                model=key,
                statistic="nearest_distance_ratio",
                n=len(far),
                reference_n=len(points),
                value=ratio,
                reference=usual,
                standard_error=_ratio_error(far, alone, seed=seed),
                p_value=p,
                lost=1.0 - usual / ratio if ratio > 0 else 0.0,
                evidence=(
                    f"in the space of {key} these {len(far)} structures out of its training "
                    f"domains lie {ratio:.2f} times as far from the {len(points)} inside as those "
                    f"from each other; a stratum inside lies {usual:.2f} times as far from the rest"
                ),
            )
        )
    return gaps


def _ratio_error(far: NDArray[np.float64], alone: NDArray[np.float64], *, seed: int) -> float:
    """Bootstrap standard error of median(far) / median(alone)."""
    random = np.random.default_rng(seed)
    medians = [
        np.median(values[random.integers(0, len(values), (RESAMPLES, len(values)))], axis=1)
        for values in (far, alone)
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = medians[0] / medians[1]
    ratios = ratios[np.isfinite(ratios)]
    return float(ratios.std(ddof=1)) if len(ratios) > 1 else 0.0
