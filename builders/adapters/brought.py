# SPDX-License-Identifier: Apache-2.0
"""Vectors brought without their model: looked up by structure id, never computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from ...schemas.structures import Structure
from ..contribute.bring import brought_folder, read_vectors
from .base import Adapter, Embedded


class Brought(Adapter):
    """Hands out the vectors that lie beside the card (:mod:`...contribute.bring`).

    Works where they were brought only; everywhere else the vectors are read from releases.
    """

    batch_size: ClassVar[int] = 1024

    def load(self) -> None:
        """Open the vectors and hold them against the card."""
        self.vectors = read_vectors(brought_folder(self.card), self.card)

    def missing_reason(self, structure: Structure) -> str | None:
        """The card's reasons, then that nothing was brought."""
        reason = super().missing_reason(structure)
        if reason is None and structure.id not in self.vectors.rows:
            return "failed: no vector was brought"
        return reason

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Look up one vector a structure."""
        for structure in structures:
            yield Embedded(pooled=self.vectors.of(structure.id))
