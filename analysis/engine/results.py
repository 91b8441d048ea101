# SPDX-License-Identifier: Apache-2.0
"""What the tasks of a job add up to: values, values without a block, null draws."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..choices import KERNELS, OVERLAPS
from ..families import Measured, correlations, mirror
from ..metrics.cards import VERSIONS, MetricName
from ..metrics.cknna import align, divide_by_self
from ..metrics.information_imbalance import from_mean_rank
from ..overlaps import SharedSums
from ..pairwise import dataset_of
from . import nulls
from .job import Job
from .models import key_of
from .overlaps import gather_pairs
from .store import Store
from .tiles import gather_tiles, tile_scalings

if TYPE_CHECKING:
    import xarray as xr


def gather(job: Job, store: Store) -> dict[MetricName, Measured]:
    """Every metric of a job whose tasks are done."""
    drawing = job.settings.permutations > 0
    out: dict[MetricName, Measured] = {}
    left = job.n - np.diff(job.bounds)
    for how in tile_scalings(job):
        sums = gather_tiles(job, store, how)
        drawn = nulls.gather_global(job, store, how) if drawing else {}
        for name in job.kernels().get(how, []):
            value, deleted = correlations(sums.pairs[KERNELS[name]])
            out[name] = Measured(value, deleted, drawn.get(name))
        if sums.mean_rank is not None and sums.mean_rank_without is not None:
            out["information_imbalance"] = Measured(
                from_mean_rank(sums.mean_rank, job.n),
                2.0 * sums.mean_rank_without / left[:, None, None],
                nulls.gather_ranks(job, store) if drawing else None,
            )
    for name in OVERLAPS:
        if name in job.settings.scaling:
            out[name] = _overlap(job, store, name)
    how_dimension = job.settings.scaling.get("intrinsic_dimension")
    if how_dimension is not None:
        held = [store.load(key_of("dimension", how_dimension, i)) for i in range(len(job.names))]
        out["intrinsic_dimension"] = Measured(
            np.concatenate([one["value"] for one in held]),
            np.stack([one["deleted"] for one in held], axis=1),
        )
    return {name: out[name] for name in job.settings.scaling}


def constant_models(job: Job, store: Store) -> dict[MetricName, NDArray[np.bool_]]:
    """Which models are the same for all rows, for each metric's row scaling."""
    held = [store.load(f"constant-{i:05d}") for i in range(len(job.names))]
    return {
        name: np.array([bool(one[how]) for one in held])
        for name, how in job.settings.scaling.items()
    }


def _overlap(job: Job, store: Store, name: MetricName) -> Measured:
    observed, drawn = gather_pairs(job, store, name)
    left = job.n - np.diff(job.bounds)
    k = job.settings.k
    if name == "mutual_knn":
        return Measured(
            mirror(observed.count[0] / (job.n * k)),
            mirror(observed.count[1:] / (left[:, None, None] * k)),
            None if drawn is None else mirror(drawn.count / (job.n * k)),
        )
    variant = job.settings.variant
    full = align(_cut(observed, 0), job.n, variant=variant)
    parts = [
        align(_cut(observed, block), int(rows), variant=variant)
        for block, rows in enumerate(left, start=1)
    ]
    null = None if drawn is None else align(drawn, job.n, variant=variant)
    return Measured(
        mirror(divide_by_self(full, full)),
        np.stack([mirror(divide_by_self(part, part)) for part in parts]),
        None if null is None else mirror(divide_by_self(null, full)),
    )


def _cut(sums: SharedSums, place: int) -> SharedSums:
    return SharedSums(**{name: getattr(sums, name)[place] for name in vars(sums)})


def as_dataset(
    job: Job, store: Store, *, alpha: float = 0.05, keep_draws: bool = False
) -> xr.Dataset:
    """Every metric of a job whose tasks are done, as :func:`.pairwise.pairwise` gives them."""
    settings = job.settings
    attributes = {
        "n": job.n,
        "k": settings.k,
        "permutations": settings.permutations,
        "seed": settings.seed,
        "alpha": alpha,
        "normalise": json.dumps(dict(settings.scaling)),
        "metric_versions": json.dumps({name: VERSIONS[name] for name in settings.scaling}),
        "cknna_variant": settings.variant,
        "imbalance_k": settings.imbalance_k,
        "dimension_method": settings.dimension_method,
        "dimension_k": settings.dimension_k,
        "jackknife_blocks": job.bounds.size - 1,
        "restricted_permutations": int(job.groups is not None),
        "arithmetic": "single",
        "null_rows": nulls.global_rows(job).size,
        "null_rank_rows": job.null_rank_rows.size,
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        measured, constant = gather(job, store), constant_models(job, store)
        names = list(job.names)
        return dataset_of(names, measured, constant, attributes, keep_draws=keep_draws)
