# SPDX-License-Identifier: Apache-2.0
"""What the engine asks of one model alone: points, neighbour lists, dimension."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import MetricError
from ..blocks import Normalise, Space, as_rows, normalise_rows, to_single
from ..calibration import Permutations
from ..choices import KERNELS, OVERLAPS
from ..families import NeighbourLists, Sampling, measure_dimension
from ..metrics.cknna import kernel_similarity
from ..neighbours import Neighbours, Similarity, nearest_scaled
from . import edge_kernels
from .job import Job
from .pair_kernels import edge_lists
from .store import Store

#: Rows sampled for the mean distance that tiles are shifted by.
_SAMPLE = 256


def key_of(what: str, how: str, model: int) -> str:
    """Key of a model's arrays under one row scaling."""
    return f"{what}-{how}-{model:05d}"


def do_model(job: Job, store: Store, model: int) -> None:
    """Save everything later steps ask of one model.

    Raises
    ------
    MetricError
        If rows are not finite or their number is not the job's.
    """
    name = job.names[model]
    raw = as_rows(job.source.read(name), name=f"model '{name}'")
    if raw.shape[0] != job.n:
        raise MetricError(
            f"model '{name}' has {raw.shape[0]} rows, {job.n} were expected; align them on common "
            "rows"
        )
    scaling = job.settings.scaling
    constant: dict[str, NDArray[Any]] = {}
    models = {
        how: _Scaled(job, how, Space(normalise_rows(raw, how)))
        for how in dict.fromkeys(scaling.values())
    }
    if {"none", "l2"} <= set(models):
        models["none"].search_with(models["l2"])
    for how, one in models.items():
        asked = {metric for metric, scaled in scaling.items() if scaled == how}
        constant[how] = np.array(one.space.constant)
        constant[f"unit-{how}"] = np.array(kernel_similarity(one.space, how) == "euclidean")
        if asked & {*KERNELS, "information_imbalance"}:
            store.save(key_of("points", how, model), one.points())
        if "information_imbalance" in asked:
            store.save(key_of("ranked", how, model), one.ranked())
        for metric in OVERLAPS:
            if metric in asked:
                store.save(key_of(metric, how, model), one.edges(values=metric == "cknna"))
        if "intrinsic_dimension" in asked:
            store.save(key_of("dimension", how, model), one.dimension())
    store.save(f"constant-{model:05d}", constant)


class _Scaled:
    """One model under one row scaling.

    Searches are in the order of the source, so that ties are broken as everywhere else; what is
    saved is in the order of the job.
    """

    def __init__(self, job: Job, how: Normalise, space: Space) -> None:
        self.job, self.how, self.space = job, how, space
        self._lists = NeighbourLists(job.bounds.size - 1)
        self._edges: dict[tuple[int, Similarity], tuple[NDArray[np.int32], NDArray[np.uint16]]] = {}
        asked = [metric for metric, scaled in job.settings.scaling.items() if scaled == how]
        depth = {
            "mutual_knn": job.settings.k,
            "cknna": job.settings.k,
            "information_imbalance": job.settings.imbalance_k,
            "intrinsic_dimension": 2,
        }
        self._reach = max(self._lists.reach(depth.get(m, 1), job.n) for m in asked)

    def search_with(self, scaled: _Scaled) -> None:
        """Find the lists of both from one product, where that is as good."""
        found = nearest_scaled(self.space, scaled.space, self._reach, scaled._reach)
        for one, lists in zip((self, scaled), found or (), strict=False):
            one._lists.hold(one.space, lists)

    def points(self) -> dict[str, NDArray[Any]]:
        """Centred float32 rows, and what tiles are finished with."""
        space = self.space
        points, _ = to_single(space.centred[self.job.order])
        squares = np.einsum("id,id->i", points, points)
        sample = points[:: max(1, space.n // _SAMPLE)].astype(np.float64)
        lengths = np.einsum("id,id->i", sample, sample)
        gaps = lengths[:, None] + lengths - 2.0 * sample @ sample.T
        shift = np.sqrt(np.maximum(gaps, 0.0)).mean()
        none = np.empty(0, np.int32)
        copies = none if space.copies is None else space.copies[self.job.order].astype(np.int32)
        out: dict[str, NDArray[Any]] = {
            "points": points,
            "squares": squares,
            "copies": copies,
            "block_sums": np.stack(
                [points[a:b].sum(axis=0, dtype=np.float64) for a, b in pairwise(self.job.bounds)]
            ),
            "shift": np.array(shift),
        }
        return out

    def ranked(self) -> dict[str, NDArray[Any]]:
        """Neighbours whose ranks are averaged: over all rows, or without some block."""
        indices, member = self._members(self.job.settings.imbalance_k, "euclidean")
        used = member != 0
        width = int(used.sum(axis=1).max())
        order = np.argsort(~used, axis=1, kind="stable")[:, :width]
        out: dict[str, NDArray[Any]] = {
            "indices": np.take_along_axis(indices, order, axis=1),
            "member": np.take_along_axis(member, order, axis=1),
        }
        return out

    def edges(self, *, values: bool) -> dict[str, NDArray[Any]]:
        """Neighbour lists as edges, with kernel values if asked for."""
        job, space = self.job, self.space
        k, variant = job.settings.k, job.settings.variant
        similarity: Similarity = kernel_similarity(space, self.how) if values else "euclidean"
        indices, member = self._members(k, similarity)
        out: dict[str, NDArray[Any]] = {"indices": indices, "member": member}
        if not values:
            return out
        found = self._found(similarity, indices.shape[1])
        scores = found.scores[job.order, : indices.shape[1]]
        values_of = space.values[job.order]
        if similarity == "euclidean":
            squares = space.squares[job.order]
            kernel = 0.5 * (squares[:, None] + squares[indices] - scores)
        else:
            kernel = scores
        offsets = np.empty((job.n, 0))
        if variant == "centred_masked":
            offsets = np.empty((job.n, job.bounds.size))
            total = values_of.sum(axis=0)
            offsets[:, 0] = values_of @ (total / job.n)
            for block, (start, stop) in enumerate(
                zip(job.bounds[:-1], job.bounds[1:], strict=True), start=1
            ):
                left = total - values_of[start:stop].sum(axis=0)
                offsets[:, block] = values_of @ (left / (job.n - (stop - start)))
        returned = np.empty_like(member)
        edge_kernels.returning(indices, member, returned)
        out |= {"values": kernel, "offsets": offsets, "returned": returned}
        if offsets.size:
            return out
        lists = edge_lists(indices, member, returned, kernel)
        return out | lists if job.settings.permutations else lists  # draws take whole lists

    def dimension(self) -> dict[str, NDArray[Any]]:
        """Intrinsic dimension, over all rows and without each block."""
        settings = self.job.settings
        sampling = Sampling(self.job.labels, Permutations(np.empty((0, self.job.n), np.int32)))
        found = measure_dimension(
            [self.space],
            self._lists,
            sampling,
            method=settings.dimension_method,
            k=settings.dimension_k,
        )
        assert found.deleted is not None
        return {"value": found.value, "deleted": found.deleted[:, 0]}

    def _found(self, similarity: Similarity, reach: int) -> Neighbours:
        """Lists of at least so many neighbours; one search serves every metric."""
        most = self._reach if similarity == "euclidean" else 0
        return self._lists.held(self.space, max(reach, most), similarity)

    def _members(
        self, k: int, similarity: Similarity
    ) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
        """Lists long enough that ``k`` rows are left without any block, and their bits."""
        job = self.job
        if (k, similarity) in self._edges:
            return self._edges[k, similarity]
        count, reach = job.bounds.size - 1, self._lists.reach(k, job.n)
        place = np.empty(job.n, np.int32)
        place[job.order] = np.arange(job.n)
        while True:
            indices = place[self._found(similarity, reach).indices[job.order, :reach]]
            member = np.empty(indices.shape, np.uint16)
            lacking = edge_kernels.membership(indices, job.blocks, k, count, member)
            if lacking <= 0:
                width = int(np.flatnonzero((member != 0).any(axis=0))[-1]) + 1
                found = indices[:, :width].copy(), member[:, :width].copy()
                self._edges[k, similarity] = found
                return found
            reach = min(job.n - 1, reach + 2 * lacking + 8)
