# SPDX-License-Identifier: Apache-2.0
"""Pairs of models, edge by edge: mutual kNN and CKNNA, their jackknife, and every null draw."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration import Cycle
from ..overlaps import SharedSums
from . import edge_kernels, pair_kernels
from .job import Job
from .models import key_of
from .store import Arrays, Store

_FIELDS = [f.name for f in fields(SharedSums)]


def pairs_key(task: int) -> str:
    """Key of the sums of one batch of pairs."""
    return f"pairs-{task:05d}"


def pair_tasks(job: Job) -> int:
    """Number of batches of pairs."""
    return len(job.batches)


def do_pairs(job: Job, store: Store, task: int) -> None:
    """Save the shared edges of a batch of pairs: observed, without each block, and under draws."""
    batch = job.batches[task]
    scaling = job.settings.scaling
    out: dict[str, NDArray[np.float64]] = {}
    if "mutual_knn" in scaling and "cknna" in scaling and _same_lists(job, store):
        out |= _batch(job, store, batch, "cknna")
        out["mutual_knn"] = out["cknna"][:, :1]
        if "cknna_null" in out:
            out["mutual_knn_null"] = out["cknna_null"][:, :1]
    else:
        for metric in ("mutual_knn", "cknna"):
            if metric in scaling:
                out |= _batch(job, store, batch, metric)
    store.save(pairs_key(task), out)


def _same_lists(job: Job, store: Store) -> bool:
    """Whether both metrics found the same neighbours: they then share their sums."""
    how = job.settings.scaling["cknna"]
    if job.settings.scaling["mutual_knn"] != how:
        return False
    return how == "l2" and all(
        bool(store.load(f"constant-{i:05d}")[f"unit-{how}"]) for i in range(len(job.names))
    )


def _batch(
    job: Job, store: Store, batch: list[tuple[int, int]], metric: str
) -> dict[str, NDArray[np.float64]]:
    how, bits = job.settings.scaling[metric], job.bounds.size  # type: ignore[index]
    values = metric == "cknna"
    sums = np.zeros((len(batch), len(_FIELDS), bits))
    draws = job.settings.permutations
    null = np.zeros((len(batch), len(_FIELDS), draws)) if draws else None
    held = _Held(job, store, metric, how)
    if values and "others" in held.edges(batch[0][0]):
        sums[:] = _listed_sums(held, batch, bits)
    else:
        for row, (a, b) in enumerate(batch):
            sums[row] = _pair_sums(held.edges(a), held.edges(b), bits, values=values)
    for row, (a, b) in enumerate(batch):
        if null is not None and a != b:
            null[row] = held.null(a, b, values=values)
    out = {metric: sums if values else sums[:, :1]}
    if null is not None:
        out[f"{metric}_null"] = null if values else null[:, :1]
    return out


def _listed_sums(held: _Held, batch: list[tuple[int, int]], bits: int) -> NDArray[np.float64]:
    """Sums of all pairs of a batch, row by row, shape (pairs, fields, bits)."""
    models = sorted({model for pair in batch for model in pair})
    place = {model: number for number, model in enumerate(models)}
    pairs = np.array([(place[a], place[b]) for a, b in batch], np.int64)
    sums = np.zeros((len(batch), len(_FIELDS) * pair_kernels.LANES))
    n = held.job.n
    marks = np.zeros(n, np.uint16 if n < 1 << 16 else np.uint32)
    lists: list[Any] = pair_kernels.join_lists([held.edges(model) for model in models])
    pair_kernels.shared_kernel_sums(*[pairs, *lists, marks, sums])
    return sums.reshape(len(batch), len(_FIELDS), -1)[:, :, :bits]


def _pair_sums(one: Arrays, two: Arrays, bits: int, *, values: bool) -> NDArray[np.float64]:
    """Sums of one pair, shape (fields, bits)."""
    n = one["indices"].shape[0]
    place, sums = np.zeros(n, np.int32), np.zeros((len(_FIELDS), bits))
    if values:
        edge_kernels.shared_kernels(
            one["indices"], one["member"], one["returned"], one["values"], one["offsets"],
            two["indices"], two["member"], two["returned"], two["values"], two["offsets"],
            place, np.empty((n, bits, 4)), sums,
        )  # fmt: skip
        return sums
    counts = np.zeros(bits, np.int64)
    edge_kernels.shared_edges(
        one["indices"], one["member"], two["indices"], two["member"], place, counts
    )
    sums[0] = counts
    return sums


class _Held:
    """Edges of the models of a batch, read once, and put along the cycles of the draws."""

    def __init__(self, job: Job, store: Store, metric: str, how: str) -> None:
        self.job, self.store, self.metric, self.how = job, store, metric, how
        self._edges: dict[int, Arrays] = {}
        self._along: dict[tuple[int, int], dict[str, np.ndarray]] = {}

    def edges(self, model: int) -> Arrays:
        """One model's edges."""
        if model not in self._edges:
            self._edges[model] = self.store.load(key_of(self.metric, self.how, model))
        return self._edges[model]

    def null(self, a: int, b: int, *, values: bool) -> NDArray[np.float64]:
        """Sums of a pair under every draw, shape (fields, draws)."""
        draws = self.job.draws
        parts = []
        for number, cycle in enumerate(draws.cycles):
            chosen = np.full(self.job.n, -1, np.int32)
            chosen[cycle.shifts] = np.arange(cycle.shifts.size)
            one, two = self._cycled(a, number, cycle), self._cycled(b, number, cycle)
            parts.append(_under_draws(one, two, chosen, cycle.shifts.size, values=values))
        if not draws.cycles:
            for order in draws.indices:
                parts.append(self._relabeled(a, b, order, values=values))
        return np.concatenate(parts, axis=1)

    def _cycled(self, model: int, number: int, cycle: Cycle) -> dict[str, np.ndarray]:
        """A model's edges sorted by how far they reach along a cycle."""
        key = (model, number)
        if key not in self._along:
            edges, k, n = self.edges(model), self.job.settings.k, self.job.n
            place = np.empty(n, np.int64)
            place[cycle.order] = np.arange(n)
            columns = np.ascontiguousarray(edges["indices"][:, :k]).reshape(-1)
            rows = np.repeat(np.arange(n), k)
            offset = (place[columns] - place[rows]) % n
            order = np.argsort(offset, kind="stable")
            starts = np.zeros(n + 1, np.int64)
            np.cumsum(np.bincount(offset, minlength=n), out=starts[1:])
            along: dict[str, NDArray[Any]] = {
                "starts": starts,
                "places": place[rows[order]].astype(np.int32),
                "rows": rows[order].astype(np.int32),
                "columns": columns[order],
            }
            if "values" in edges:
                kernel = np.array(edges["values"][:, :k])
                if edges["offsets"].size:
                    kernel -= edges["offsets"][:, :1]
                along["values"] = kernel.reshape(-1)[order]
                along["returned"] = (edges["returned"][:, :k].reshape(-1)[order] & 1) != 0
            self._along[key] = along
        return self._along[key]

    def _relabeled(
        self, a: int, b: int, order: NDArray[np.int32], *, values: bool
    ) -> NDArray[np.float64]:
        """Sums of a pair with the second model's rows relabeled, shape (fields, 1)."""
        one, two = self.edges(a), self.edges(b)
        inverse = np.argsort(order).astype(np.int32)
        k, n = self.job.settings.k, self.job.n
        place = np.zeros(n, np.int32)
        first, second = one["indices"][:, :k], inverse[two["indices"][order, :k]]
        if not values:
            counts = np.zeros(1, np.int64)
            every = np.ones(first.shape, np.uint16)
            edge_kernels.shared_edges(
                np.ascontiguousarray(first), every, np.ascontiguousarray(second), every,
                place, counts,
            )  # fmt: skip
            return np.concatenate([counts[:, None], np.zeros((len(_FIELDS) - 1, 1))])
        sums = np.empty((len(_FIELDS), 1))
        sides = [
            [first, *(one[name][:, :k] for name in ("member", "returned", "values"))],
            [second, *(two[name][order, :k] for name in ("member", "returned", "values"))],
        ]
        offsets = one["offsets"][:, :1], two["offsets"][order, :1]
        arguments: list[Any] = [
            np.ascontiguousarray(x)
            for side, off in zip(sides, offsets, strict=True)
            for x in (*side, off)
        ]
        arguments += [place, np.empty((n, 1, 4)), sums]
        edge_kernels.shared_kernels(*arguments)
        return sums


def _under_draws(
    one: dict[str, np.ndarray],
    two: dict[str, np.ndarray],
    chosen: NDArray[np.int32],
    draws: int,
    *,
    values: bool,
) -> NDArray[np.float64]:
    """Sums over shared edges under each draw of a cycle, shape (fields, draws)."""
    n, edges = chosen.size, one["places"].size
    counts = np.zeros(draws, np.int64)
    # As many as unrelated lists share, and a half more; related ones are asked again.
    room = int(1.5 * draws * edges * edges / n / n) + 1024 if values else 0
    while True:
        hits = np.empty((room, 3), np.int32)
        counts[:] = 0
        found = edge_kernels.rotated_hits(
            one["starts"], one["places"], two["starts"], two["places"], chosen, counts, hits
        )
        if not values or found <= room:
            break
        room = found
    out = np.zeros((len(_FIELDS), draws))
    out[0] = counts
    if values:
        edge_kernels.hit_sums(
            hits, found, one["rows"], one["columns"], one["values"], one["returned"],
            two["values"], two["returned"], np.zeros((4, n)), out,
        )  # fmt: skip
    return out


def gather_pairs(job: Job, store: Store, metric: str) -> tuple[SharedSums, SharedSums | None]:
    """Sums of all pairs, a <= b filled: (1 + G, m, m), and (draws, m, m) under draws."""
    m, count = len(job.names), job.settings.permutations
    observed = np.zeros((len(_FIELDS), job.bounds.size, m, m))
    null = np.zeros((len(_FIELDS), count, m, m)) if count else None
    for task in range(pair_tasks(job)):
        batch = np.array(job.batches[task])
        held = store.load(pairs_key(task))
        width = held[metric].shape[1]
        observed[:width, :, batch[:, 0], batch[:, 1]] = np.moveaxis(held[metric], 0, -1)
        if null is not None:
            null[:width, :, batch[:, 0], batch[:, 1]] = np.moveaxis(held[f"{metric}_null"], 0, -1)
    found = None if null is None else SharedSums(**dict(zip(_FIELDS, null, strict=True)))
    return SharedSums(**dict(zip(_FIELDS, observed, strict=True))), found
