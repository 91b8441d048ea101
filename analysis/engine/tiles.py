# SPDX-License-Identifier: Apache-2.0
"""Tiles of all models at once: sums of products for the global metrics, ranks of neighbours.

A task does the rows of one strip against all rows. What each model has in the tile, flattened, is a
line of a matrix whose product with itself holds the tile's share of every pair of models; the ranks
of the other models' neighbours are counted in the same squared distances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blocks import Normalise
from ..choices import KERNELS
from ..tiles import Kernel, PairSums
from . import kernels, rank_kernels
from .job import Job
from .models import key_of
from .store import Store

#: Rounding of a float32 squared distance, in parts of the squared lengths it is made of.
ROUNDING = 4.0 * float(np.finfo(np.float32).eps)

#: Lines of a product of tiles are padded to a multiple of this.
LINES = 16

_NONE = np.empty((0, 0), np.float32)


def tile_key(how: str, strip: int) -> str:
    """Key of the sums of one strip of rows."""
    return f"tile-{how}-{strip:05d}"


def tile_kernels(job: Job, how: Normalise) -> list[Kernel]:
    """Kernels asked for under one row scaling."""
    return [KERNELS[name] for name in job.kernels().get(how, [])]


def tile_scalings(job: Job) -> list[Normalise]:
    """Row scalings that tiles are made of."""
    wanted = {*KERNELS, "information_imbalance"}
    return list(dict.fromkeys(how for name, how in job.settings.scaling.items() if name in wanted))


class _Points:
    """One model's points, as :func:`.models.do_model` left them."""

    def __init__(self, store: Store, how: str, model: int) -> None:
        held = store.load(key_of("points", how, model))
        self.points, self.squares, self.copies = held["points"], held["squares"], held["copies"]
        self.block_sums, self.shift = held["block_sums"], float(held["shift"])


def do_tiles(job: Job, store: Store, how: Normalise, strip: int) -> None:
    """Save the sums of one strip against all rows."""
    rows = job.strips[strip]
    models = [_Points(store, how, i) for i in range(len(job.names))]
    m, g, size = len(models), job.bounds.size - 1, rows.stop - rows.start
    wanted = tile_kernels(job, how)
    ranks = None
    if job.settings.scaling.get("information_imbalance") == how:
        ranks = _Ranks(job, store, how, models, rows)
    crossing = {kernel: np.zeros((g, m, m)) for kernel in wanted}
    within = {kernel: np.zeros((g, m, m)) for kernel in wanted}
    distance_rows = np.zeros((m, g, size if "distance" in wanted else 0))
    most = max(s.stop - s.start for s in job.strips)
    # Lines beyond the models stay 0: products of so many lines are faster.
    lines = -(-m // LINES) * LINES
    buffers = {kernel: np.zeros(lines * size * most, np.float32) for kernel in wanted}
    spare = np.empty(size * most, np.float32)
    squared = np.empty(size * most, np.float32)
    own = int(job.blocks[rows.start])
    for place, columns in enumerate(job.strips):
        mirrored = place < strip  # its image is multiplied with the strip of these columns
        if mirrored and ranks is None and "distance" not in wanted:
            continue
        block = int(job.blocks[columns.start])
        width = columns.stop - columns.start
        here = squared[: size * width].reshape(size, width)
        tiles = {
            kernel: held[: lines * size * width].reshape(lines, size, width)
            for kernel, held in buffers.items()
            if not mirrored
        }
        for index, model in enumerate(models):
            gram = spare[: size * width].reshape(size, width)
            if "linear" in tiles:
                gram = tiles["linear"][index]
            np.matmul(model.points[rows], model.points[columns].T, out=gram)
            copies = model.copies
            kernels.finish_tile(
                gram,
                model.squares[rows],
                model.squares[columns],
                copies[rows],
                copies[columns],
                place == strip,
                model.shift,
                here,
                tiles["distance"][index] if "distance" in tiles else _NONE,
                distance_rows[index, block],
            )
            if ranks is not None:
                ranks.count(index, block, here)
        for kernel, tile in tiles.items():
            flat = tile.reshape(lines, -1)
            products = (flat @ flat.T)[:m, :m].astype(np.float64)
            crossing[kernel][own] += products
            if place > strip:
                crossing[kernel][block] += products
            if block == own:
                within[kernel][own] += products if place == strip else 2.0 * products
    row_sums = {"distance": distance_rows.transpose(0, 2, 1)}
    if "linear" in wanted:
        row_sums["linear"] = np.stack([_linear_rows(job, model, rows) for model in models])
    out: dict[str, NDArray[Any]] = {}
    for kernel in wanted:
        out |= {
            f"{kernel}_crossing": crossing[kernel],
            f"{kernel}_within": within[kernel],
            f"{kernel}_rows": np.ascontiguousarray(row_sums[kernel]),
        }
    if ranks is not None:
        out |= ranks.sums()
    store.save(tile_key(how, strip), out)


def _linear_rows(job: Job, model: _Points, rows: slice) -> NDArray[np.float64]:
    """Sums of some rows' inner products with the other rows of each block, shape (rows, G)."""
    here = model.points[rows].astype(np.float64)
    sums: NDArray[np.float64] = here @ model.block_sums.T
    sums[:, job.blocks[rows.start]] -= np.einsum("id,id->i", here, here)
    return sums


class _Ranks:
    """Twice the ranks, in every model, of the neighbours of a strip's rows in every model.

    A rank counts the rows that are closer, and half of those as close: equal distances, or those
    that rounding cannot tell apart, share their mean rank.
    """

    def __init__(
        self, job: Job, store: Store, how: Normalise, models: list[_Points], rows: slice
    ) -> None:
        m, g, size = len(models), job.bounds.size - 1, rows.stop - rows.start
        listed = [store.load(key_of("ranked", how, i)) for i in range(m)]
        width = max(one["indices"].shape[1] for one in listed)
        indices = np.zeros((m, size, width), np.int32)
        member = np.zeros((m, size, width), np.uint16)
        for index, one in enumerate(listed):
            held = one["indices"].shape[1]
            indices[index, :, :held] = one["indices"][rows]
            member[index, :, :held] = one["member"][rows]
        edges, most = rank_kernels.room(member)
        self.starts = np.zeros(size + 1, np.int64)
        targets = np.empty(most, np.int32)
        self.models, self.edges = np.empty(edges, np.int32), np.empty(edges, np.int32)
        rank_kernels.list_targets(
            indices, member, np.zeros(job.n, np.int32), self.starts, targets, self.models,
            self.edges,
        )  # fmt: skip
        by_row = member.transpose(1, 0, 2)
        self.bits = by_row[by_row != 0]
        targets = targets[: self.starts[-1]]
        shape = (m, targets.size)
        self.low, self.high = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self.place = np.empty(shape, np.int32)
        for index, model in enumerate(models):
            rank_kernels.thresholds(
                model.points, rows.start, self.starts, targets, ROUNDING,
                self.low[index], self.high[index], self.place[index],
            )  # fmt: skip
        self.counts = np.zeros((m, g, targets.size), np.int32)
        self.work = np.empty(max(s.stop - s.start for s in job.strips) + 1, np.float32)

    def count(self, index: int, block: int, squared: NDArray[np.float32]) -> None:
        """Count one model's tile, whose columns are of one jackknife block."""
        rank_kernels.count_closer(
            squared, self.starts, self.low[index], self.high[index], self.counts[index, block],
            self.work,
        )  # fmt: skip

    def sums(self) -> dict[str, NDArray[np.int64]]:
        """Twice the ranks summed: over all rows (m, m), and without each block (G, m, m)."""
        m, g, _ = self.counts.shape
        full, without = np.zeros((m, m), np.int64), np.zeros((m, g, m), np.int64)
        for index in range(m):
            rank_kernels.sum_ranks(
                self.counts[index], self.place[index], self.models, self.edges, self.bits,
                full[index], without[index],
            )  # fmt: skip
        return {"ranks": full.T, "ranks_without": without.transpose(1, 2, 0)}


@dataclass(frozen=True)
class TileSums:
    """What all tiles of one row scaling add up to.

    Attributes
    ----------
    pairs : dict of kernel to PairSums
    mean_rank : float64 array, shape (m, m), or None
        Mean rank, in the second model, of the first one's neighbours.
    mean_rank_without : float64 array, shape (G, m, m), or None
        The same without each block.
    """

    pairs: dict[Kernel, PairSums]
    mean_rank: NDArray[np.float64] | None
    mean_rank_without: NDArray[np.float64] | None


def gather_tiles(job: Job, store: Store, how: Normalise) -> TileSums:
    """Add up the strips, in their order."""
    m, n, g = len(job.names), job.n, job.bounds.size - 1
    wanted = tile_kernels(job, how)
    pairs = {
        kernel: PairSums(
            n, job.bounds, np.zeros((g, m, m)), np.zeros((g, m, m)), np.zeros((m, n, g))
        )
        for kernel in wanted
    }
    ranks = np.zeros((m, m), np.int64)
    without = np.zeros((g, m, m), np.int64)
    for strip, rows in enumerate(job.strips):
        part = store.load(tile_key(how, strip))
        for kernel, sums in pairs.items():
            sums.crossing[:] += part[f"{kernel}_crossing"]
            sums.within[:] += part[f"{kernel}_within"]
            sums.rows[:, rows] = part[f"{kernel}_rows"]
        if "ranks" in part:
            ranks += part["ranks"]
            without += part["ranks_without"]
    if job.settings.scaling.get("information_imbalance") != how:
        return TileSums(pairs, None, None)
    k = job.settings.imbalance_k
    left = n - np.diff(job.bounds)
    return TileSums(pairs, ranks / (2.0 * n * k), without / (2.0 * k * left[:, None, None]))
