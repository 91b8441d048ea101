# SPDX-License-Identifier: Apache-2.0
"""Null draws of the global metrics and of information imbalance, on a sample of the rows.

Neighbour metrics draw on all rows (:mod:`.overlaps`). The others would cost as much as many runs at
full size, so their draws are exact permutations of at most ``NULL_ROWS`` rows, then scaled by the
rate at which their null narrows: U-statistics that are degenerate under independence (unbiased
CKA, bias-corrected distance correlation) as 1 / n (Szekely & Rizzo 2013, section 3), mean ranks as
1 / sqrt(n). Up to that many rows nothing is scaled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blocks import Normalise, Space, as_rows, normalise_rows, row_blocks, to_single
from ..calibration import Permutations, permutations
from ..choices import KERNELS
from ..families import mirror
from ..metrics.cards import MetricName
from ..neighbours import nearest
from ..nulls import Centred, null_covariances, rotation_sums
from ..ranks import rank_tile
from . import kernels
from .job import DIAGONALS_PER_TASK, STRIP, Job
from .models import key_of
from .store import Store
from .tiles import tile_kernels, tile_scalings

#: Cyclic diagonals of all models held at once.
_WIDTH = 48


def null_draws(job: Job, rows: NDArray[np.intp]) -> Permutations:
    """Relabelings of a sample of the rows."""
    groups = None if job.groups is None else job.groups[job.order][rows]
    if rows.size == job.n:
        return job.draws
    return permutations(rows.size, job.settings.permutations, seed=job.settings.seed, groups=groups)


def global_rows(job: Job) -> NDArray[np.intp]:
    """Rows that null draws of the global metrics are made on: fewer where each costs a pass."""
    return job.null_rows if job.groups is None else job.null_rank_rows


def do_null_model(job: Job, store: Store, model: int) -> None:
    """Save what null draws ask of one model: points, row sums, variances, neighbours."""
    raw = as_rows(job.source.read(job.names[model]))
    for how in tile_scalings(job):
        scaled = normalise_rows(raw[job.order], how)
        out: dict[str, NDArray[Any]] = {}
        wanted = tile_kernels(job, how)
        if wanted:
            points, scale = to_single(Space(scaled[global_rows(job)]).centred)
            out = {"points": points, "scale": np.array(scale)} | _moments(points)
        if job.settings.scaling.get("information_imbalance") == how:
            space = Space(scaled[job.null_rank_rows])
            out["ranked"] = space.values
            out["nearest"] = nearest(space, job.settings.imbalance_k).indices
        store.save(key_of("null", how, model), out)


def _moments(points: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """Row sums and unbiased centred squares of both kernels of one model."""
    n = points.shape[0]
    squares = np.einsum("id,id->i", points, points)
    none = np.empty(0, np.int32)
    sums: dict[str, NDArray[np.float64]] = {"distance": np.zeros(n), "linear": np.zeros(n)}
    squared_sums = dict.fromkeys(sums, 0.0)
    for rows in row_blocks(0, n, STRIP):
        for columns in row_blocks(0, n, STRIP):
            gram = points[rows] @ points[columns].T
            tile = {"distance": np.empty_like(gram), "linear": gram}
            kernels.finish_tile(
                gram, squares[rows], squares[columns], none, none, rows == columns, 0.0,
                np.empty_like(gram), tile["distance"], sums["distance"][rows],
            )  # fmt: skip
            sums["linear"][rows] += gram.sum(axis=1, dtype=np.float64)
            for kernel, values in tile.items():
                squared_sums[kernel] += float(np.einsum("ij,ij->", values, values, dtype=float))
    out: dict[str, NDArray[np.float64]] = {}
    for kernel, rows_of in sums.items():
        total = rows_of.sum()
        variance = (
            squared_sums[kernel]
            - 2.0 / (n - 2) * (rows_of @ rows_of)
            + total**2 / ((n - 1) * (n - 2))
        ) / (n * (n - 3))
        out |= {f"{kernel}_rows": rows_of, f"{kernel}_variance": np.array(variance)}
    return out


def null_tile_tasks(job: Job) -> int:
    """Number of tasks that share the global null draws of one row scaling."""
    if job.groups is not None:
        return 1
    return -(-(global_rows(job).size // 2) // DIAGONALS_PER_TASK)


def null_key(how: str, task: int) -> str:
    """Key of one task's share of the global null draws."""
    return f"nulltile-{how}-{task:05d}"


def do_null_tiles(job: Job, store: Store, how: Normalise, task: int) -> None:
    """Save one task's share of the centred products of all pairs under every draw."""
    wanted = tile_kernels(job, how)
    held = [store.load(key_of("null", how, i)) for i in range(len(job.names))]
    draws = null_draws(job, global_rows(job))
    n = global_rows(job).size
    if job.groups is not None:
        spaces = [Space(one["points"].astype(np.float64)) for one in held]
        rows = {kernel: np.stack([one[f"{kernel}_rows"] for one in held]) for kernel in wanted}
        found = null_covariances(spaces, rows, draws)
        store.save(null_key(how, task), {k: v * (n * (n - 3)) for k, v in found.items()})
        return
    models = [
        Centred(
            np.asarray(one["points"]), 1.0, {kernel: one[f"{kernel}_rows"] for kernel in wanted}
        )
        for one in held
    ]
    start = 1 + task * DIAGONALS_PER_TASK
    diagonals = range(start, min(start + DIAGONALS_PER_TASK, n // 2 + 1))
    parts: dict[str, list[NDArray[np.float64]]] = {kernel: [] for kernel in wanted}
    for cycle in draws.cycles:
        shares = rotation_sums(models, wanted, cycle, diagonals, width=_WIDTH)
        for kernel, share in shares.items():
            parts[kernel].append(share[cycle.shifts])
    store.save(null_key(how, task), {kernel: np.concatenate(p) for kernel, p in parts.items()})


def gather_global(job: Job, store: Store, how: Normalise) -> dict[MetricName, NDArray[np.float64]]:
    """Null draws of the global metrics of one row scaling, shape (draws, m, m) each."""
    n, m = global_rows(job).size, len(job.names)
    held = [store.load(key_of("null", how, i)) for i in range(m)]
    out: dict[MetricName, NDArray[np.float64]] = {}
    for name in job.kernels().get(how, []):
        kernel = KERNELS[name]
        total = np.zeros((job.settings.permutations, m, m))
        for task in range(null_tile_tasks(job)):
            total += store.load(null_key(how, task))[kernel]
        variance = np.array([float(one[f"{kernel}_variance"]) for one in held])
        length = np.sqrt(np.where(variance > 0, variance, np.nan))
        products = total / (n * (n - 3)) / np.outer(length, length)
        out[name] = mirror(products) * (n / job.n)
    return out


def rank_key(model: int) -> str:
    """Key of the null mean ranks in one model."""
    return f"nullrank-{model:05d}"


def do_null_ranks(job: Job, store: Store, model: int) -> None:
    """Save the mean ranks, in one model, of every model's neighbours under every draw."""
    how = job.settings.scaling["information_imbalance"]
    held = [store.load(key_of("null", how, i)) for i in range(len(job.names))]
    space = Space(np.asarray(held[model]["ranked"]))
    near = np.stack([one["nearest"] for one in held])
    draws = null_draws(job, job.null_rank_rows)
    inverse = np.argsort(draws.indices, axis=1).astype(np.int32)
    total = np.zeros((draws.count, len(held)))
    for rows in row_blocks(0, space.n, STRIP):
        ranks = rank_tile(space, rows)
        kernels.relabeled_ranks(ranks, rows.start, near, draws.indices, inverse, total)
    store.save(rank_key(model), {"mean": total / (space.n * job.settings.imbalance_k)})


def gather_ranks(job: Job, store: Store) -> NDArray[np.float64]:
    """Null draws of information imbalance, shape (draws, m, m)."""
    n = job.null_rank_rows.size
    means = np.stack([store.load(rank_key(i))["mean"] for i in range(len(job.names))], axis=2)
    drawn = 2.0 * means / n
    return 1.0 + (drawn - 1.0) * np.sqrt(n / job.n) if n < job.n else drawn
