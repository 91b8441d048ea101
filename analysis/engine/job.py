# SPDX-License-Identifier: Apache-2.0
"""What one run of the engine compares and how it is cut into tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import combinations_with_replacement, pairwise
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..blocks import MINIMUM_ROWS, Normalise
from ..calibration import JACKKNIFE_BLOCKS, Permutations, jackknife_blocks, permutations
from ..choices import KERNELS, Settings
from ..metrics.cards import VERSIONS, MetricName

Step = Literal["models", "tiles", "pairs", "null_models", "null_tiles", "null_ranks"]

#: Raised whenever a task would give other arrays for the same job.
ENGINE_VERSION = 2

#: Rows and columns of a tile at most.
STRIP = 512
#: Bytes that the tiles of all models of one kernel take together, at most.
TILE_BYTES = 96 * 2**20
#: Models on either side of the pairs that a task compares, at most.
BATCH_MODELS = 10
#: Rows that null draws of the global metrics and of information imbalance are made on, at most.
NULL_ROWS, NULL_RANK_ROWS = 2_500, 1_500
#: Cyclic diagonals of the null draws that a task does.
DIAGONALS_PER_TASK = 640


class Source(Protocol):
    """Embeddings of the same structures by several models; sent to workers, so it pickles."""

    @property
    def names(self) -> tuple[str, ...]:
        """The models."""

    @property
    def rows(self) -> int:
        """Number of structures."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever any number would."""

    def read(self, name: str) -> NDArray[Any]:
        """One model's embedding, shape (rows, features), finite."""


@dataclass(frozen=True)
class ArraySource:
    """Embeddings that this process holds."""

    arrays: Mapping[str, NDArray[Any]]

    @property
    def names(self) -> tuple[str, ...]:
        """The models."""
        return tuple(self.arrays)

    @property
    def rows(self) -> int:
        """Number of structures."""
        return next(iter(self.arrays.values())).shape[0]

    @cached_property
    def fingerprint(self) -> str:
        """Of all the numbers."""
        found = hashlib.sha256()
        for name, rows in self.arrays.items():
            found.update(f"{name} {rows.shape} {rows.dtype.str}".encode())
            found.update(np.ascontiguousarray(rows).data)
        return found.hexdigest()

    def read(self, name: str) -> NDArray[Any]:
        """One model's embedding, shape (rows, features)."""
        return self.arrays[name]


@dataclass(frozen=True)
class Job:
    """One comparison of all models of a source.

    Rows are taken in the order of the jackknife blocks, so that each block is contiguous.
    """

    source: Source
    settings: Settings
    groups: NDArray[Any] | None = field(default=None, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # What can be derived is not sent to workers.
        return Job, (self.source, self.settings, self.groups)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The models."""
        return tuple(self.source.names)

    @cached_property
    def n(self) -> int:
        """Number of rows."""
        return int(self.source.rows)

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever any result would."""
        content = {
            "engine": ENGINE_VERSION,
            "source": self.source.fingerprint,
            "names": self.names,
            "settings": asdict(self.settings),
            "versions": {name: VERSIONS[name] for name in self.settings.scaling},
            "null_rows": (NULL_ROWS, NULL_RANK_ROWS),
            "groups": None
            if self.groups is None
            else hashlib.sha256(repr(self.groups.tolist()).encode()).hexdigest(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def labels(self) -> NDArray[np.intp]:
        """Jackknife block of each row of the source, shape (n,)."""
        least = max(MINIMUM_ROWS, self.settings.k + 1, self.settings.imbalance_k + 1)
        labels = jackknife_blocks(self.n, least=least, seed=self.settings.seed)
        assert labels is not None and labels.max() < JACKKNIFE_BLOCKS
        return labels

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Row of the source at each place, shape (n,)."""
        return np.argsort(self.labels, kind="stable")

    @cached_property
    def bounds(self) -> NDArray[np.intp]:
        """Where jackknife blocks begin and end, shape (G + 1,)."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.labels))])

    @cached_property
    def blocks(self) -> NDArray[np.int32]:
        """Jackknife block of each row in the order of the job, shape (n,)."""
        return self.labels[self.order].astype(np.int32)

    @cached_property
    def strips(self) -> list[slice]:
        """Rows of a tile, in order; each within one block."""
        most = int(np.sqrt(TILE_BYTES / (4 * len(self.names))))
        size = max(64, min(STRIP, most))
        found = []
        for start, stop in pairwise(self.bounds):
            cuts = np.linspace(start, stop, max(1, -(-(stop - start) // size)) + 1).astype(int)
            found += [slice(int(a), int(b)) for a, b in pairwise(cuts)]
        return found

    @cached_property
    def draws(self) -> Permutations:
        """Relabelings of the rows in this job's order, for the metrics of neighbours."""
        made = permutations(
            self.n, self.settings.permutations, seed=self.settings.seed, groups=self.groups
        )
        place = np.empty(self.n, np.intp)
        place[self.order] = np.arange(self.n)
        indices = place[made.indices][:, self.order].astype(np.int32)
        cycles = tuple(type(c)(place[c.order], c.shifts) for c in made.cycles)
        return Permutations(indices, cycles)

    @cached_property
    def null_rows(self) -> NDArray[np.intp]:
        """Rows that null draws of the global metrics are made on, ascending."""
        return self._sample(NULL_ROWS)

    @cached_property
    def null_rank_rows(self) -> NDArray[np.intp]:
        """Rows that null draws of information imbalance are made on, ascending."""
        return self._sample(NULL_RANK_ROWS)

    def _sample(self, most: int) -> NDArray[np.intp]:
        if self.n <= most:
            return np.arange(self.n)
        random = np.random.default_rng([self.settings.seed, most, 1])
        return np.sort(random.choice(self.n, most, replace=False))

    @cached_property
    def batches(self) -> list[list[tuple[int, int]]]:
        """Pairs of models a <= b, those of a task together: all of some models with some others."""
        m = len(self.names)
        size = max(1, min(BATCH_MODELS, -(-m // 4)))
        groups = [range(low, min(low + size, m)) for low in range(0, m, size)]
        return [
            [(a, b) for a in one for b in two if a <= b]
            for one, two in combinations_with_replacement(groups, 2)
        ]

    def kernels(self) -> dict[Normalise, list[MetricName]]:
        """Global metrics by their row scaling."""
        found: dict[Normalise, list[MetricName]] = {}
        for name, how in self.settings.scaling.items():
            if name in KERNELS:
                found.setdefault(how, []).append(name)
        return found
