# SPDX-License-Identifier: Apache-2.0
"""Vectors for PyTorch's DataLoader, read as they are asked for. Imports torch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

if TYPE_CHECKING:
    from .views import Source


class VectorRows(Dataset[dict[str, Any]]):
    """Rows as dictionaries: ``id``, and under each model's id a float32 tensor (feature,).

    Picklable; each process decodes for itself and keeps the chunks it used last.

    Parameters
    ----------
    ids:
        (row,) structure ids.
    sources:
        Vectors by model.
    cache_bytes:
        Decoded chunks that are kept; the last one is in any case.
    """

    def __init__(self, ids: np.ndarray, sources: Mapping[str, Source], *, cache_bytes: int) -> None:
        self.ids, self.sources, self.cache_bytes = ids, dict(sources), cache_bytes
        self.edges = {name: source.edges(chunks=True) for name, source in sources.items()}
        self._forget()

    def _forget(self) -> None:
        self._kept: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._kept_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Rows by number, in any order; each chunk is decoded once at most."""
        index = np.asarray(rows, dtype=np.int64)
        n = len(self)
        if len(index) and not -n <= index.min() <= index.max() < n:
            raise IndexError(f"rows run from 0 to {n - 1}, not {index.min()} to {index.max()}")
        index = np.where(index < 0, index + n, index)
        batch = {name: torch.from_numpy(self._take(name, index)) for name in self.sources}
        return [
            {"id": str(self.ids[row]), **{name: batch[name][i] for name in batch}}
            for i, row in enumerate(index)
        ]

    def sampler(self, *, seed: int = 0) -> ChunkShuffle:
        """A random order that decodes each chunk about once an epoch; see :class:`ChunkShuffle`."""
        return ChunkShuffle(self, seed=seed)

    def _take(self, name: str, index: np.ndarray) -> np.ndarray:
        out = np.empty((len(index), self.sources[name].shape[1]), dtype=np.float32)
        edges = self.edges[name]
        pieces = np.searchsorted(edges, index, side="right") - 1
        # Those at hand first: reading the others may push them out.
        for piece in sorted(set(pieces.tolist()), key=lambda p: (name, p) not in self._kept):
            mine = pieces == piece
            out[mine] = self._piece(name, piece)[index[mine] - edges[piece]]
        return out

    def _piece(self, name: str, piece: int) -> np.ndarray:
        key = (name, piece)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        edges = self.edges[name]
        values = self.sources[name].read(int(edges[piece]), int(edges[piece + 1]))
        self._kept[key] = values
        self._kept_bytes += values.nbytes
        while self._kept_bytes > self.cache_bytes and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return values


class ChunkShuffle(Sampler[int]):
    """Every row once, chunks in random order, rows mixed over as many chunks as a process keeps.

    Each pass is another order; the same seed gives the same passes.

    Parameters
    ----------
    rows:
        What is sampled.
    seed:
        Of the first pass; :meth:`set_epoch` goes to another.
    """

    def __init__(self, rows: VectorRows, *, seed: int = 0) -> None:
        self.rows, self.seed, self.epoch = rows, seed, 0

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass the one with this number."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        # The model with the longest chunks; those of the others end within them.
        edges = min(self.rows.edges.values(), key=len)
        width = 4 * sum(source.shape[1] for source in self.rows.sources.values())
        room = max(1, self.rows.cache_bytes // width)
        window: list[np.ndarray] = []
        held = 0
        for piece in random.permutation(len(edges) - 1):
            rows = np.arange(edges[piece], edges[piece + 1])
            if window and held + len(rows) > room:
                yield from _mixed(window, random)
                window, held = [], 0
            window.append(rows)
            held += len(rows)
        yield from _mixed(window, random)


def _mixed(window: list[np.ndarray], random: np.random.Generator) -> Iterator[int]:
    if window:
        yield from random.permutation(np.concatenate(window)).tolist()
