# SPDX-License-Identifier: Apache-2.0
"""The random baseline: vectors that know nothing but which structure is which.

Every metric has a value between two unrelated clouds of points; this chart shows it. A structure's
vector is drawn from the standard normal distribution by a PCG64 generator seeded with
SHA-256(seed, id), so it depends on neither the order, the batch, the machine nor the process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from ...schemas.structures import Structure
from .base import Adapter, Embedded


def gaussian(seed: int, key: str, dim: int) -> np.ndarray:
    """(dim,) float64 standard normal vector, the same for the same ``seed`` and ``key``."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
    return generator.standard_normal(dim)


class Random(Adapter):
    """Gaussian vectors keyed by structure id and ``options.seed``."""

    batch_size: ClassVar[int] = 1024

    def load(self) -> None:
        """Take the seed."""
        self._seed = int(self.card.required_options("seed")["seed"])

    def missing_reason(self, structure: Structure) -> str | None:
        """The base's reasons, then ``invalid: `` for a structure that has no id yet."""
        reason = super().missing_reason(structure)
        if reason is None and not structure.id:
            return "invalid: structure has no id"
        return reason

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Draw one vector a structure."""
        layer = self.card.layer()
        for structure in structures:
            yield Embedded(pooled={layer.name: gaussian(self._seed, structure.id, layer.dim)})
