# SPDX-License-Identifier: Apache-2.0
"""ESM-2: masked language models over protein sequences (Lin et al., Science 379, 1123, 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ...schemas.structures import Structure
from .base import Adapter, Embedded
from .transformer import hidden_states, load_model, load_tokenizer, token_layers, weights_folder


class Esm2(Adapter):
    """ESM-2 with a vector a residue; the start and end tokens it was trained with are left out."""

    batch_size: ClassVar[int] = 64

    def load(self) -> None:
        """Load vocabulary and encoder from the files at the card's revision."""
        self.card.required_options()
        folder = weights_folder(self.card)
        self.tokenizer = load_tokenizer(folder)
        self.model = load_model("esm", folder, device=self.device)
        # Beside residues the vocabulary holds the marks '.' and '-' of alignments.
        self.letters = {t: i for t, i in self.tokenizer.get_vocab().items() if t.isalpha()}

    def missing_reason(self, structure: Structure) -> str | None:
        """Why the card or the alphabet excludes this sequence, or None when they do not."""
        reason = super().missing_reason(structure)
        if reason is not None:
            return reason
        unknown = next((r for r in structure.sequence or "" if r not in self.letters), None)
        return f"invalid: no token for residue '{unknown}'" if unknown else None

    def encode(self, sequence: str) -> list[int]:
        """Token ids with the start and end tokens."""
        inner = [self.letters[residue] for residue in sequence]
        return [self.tokenizer.cls_token_id, *inner, self.tokenizer.eos_token_id]

    def forward(self, structures: Sequence[Structure]) -> list[Embedded]:
        """Run sequences of like length together, padded and masked."""
        states = hidden_states(
            self.model,
            [self.encode(s.sequence or "") for s in structures],
            layers=token_layers(self.card),
            pad=self.tokenizer.pad_token_id,
            device=self.device,
        )
        return [
            Embedded(nodes={name: rows[1:-1] for name, rows in found.items()}) for found in states
        ]
