# SPDX-License-Identifier: Apache-2.0
"""AntiBERTy: a BERT over antibody sequences, one token a residue.

Ruffolo, Gray and Sulam, arXiv:2112.07782. Version 0.1.3 of the package is the last with the weights
inside; only they and the vocabulary are taken from it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from ...schemas.structures import Structure
from .base import Adapter, Embedded
from .tokens import companion, length_batches, load_encoder, pad_tokens

#: Tokens in one padded batch.
_BUDGET = 512


class AntiBERTy(Adapter):
    """The encoder. Layers ``layer_<i>`` are (n_residues, 512) after the i-th block, 1 the first."""

    batch_size: ClassVar[int] = 32

    def load(self) -> None:
        """Load vocabulary and encoder from the folder that holds the weights."""
        folder = self.checkpoint().parent
        companion(self.card, folder, "config.json")
        words = companion(self.card, folder.parent, "vocab.txt").read_text("utf-8").split("\n")
        self.vocabulary = {word: i for i, word in enumerate(words) if word}
        self.model = load_encoder("bert", folder, device=self.device)
        self.longest = int(self.model.config.max_position_embeddings) - 2

    def missing_reason(self, structure: Structure) -> str | None:
        """On top of the card's limits: a residue without token."""
        reason = super().missing_reason(structure)
        if reason is not None or structure.sequence is None:
            return reason
        if len(structure.sequence) > self.longest:
            return f"too_large: {len(structure.sequence)} > {self.longest} residues"
        unknown = sorted(set(structure.sequence) - set(self.vocabulary))
        return f"invalid: no token for residue '{unknown[0]}'" if unknown else None

    def forward(self, structures: Sequence[Structure]) -> list[Embedded]:
        """Run sequences of like length together, padded and masked."""
        import torch

        start, end = self.vocabulary["[CLS]"], self.vocabulary["[SEP]"]
        ids = [[start, *(self.vocabulary[r] for r in s.sequence or ""), end] for s in structures]
        lengths = [len(i) for i in ids]
        out: dict[int, Embedded] = {}
        for rows in length_batches(lengths, budget=_BUDGET):
            tokens, mask = pad_tokens([ids[r] for r in rows], pad=self.vocabulary["[PAD]"])
            with torch.inference_mode():
                states = self.model(
                    torch.from_numpy(tokens).to(self.device),
                    attention_mask=torch.from_numpy(mask).to(self.device),
                    output_hidden_states=True,
                ).hidden_states
            for place, row in enumerate(rows):
                nodes = {
                    layer.name: states[_block(layer.name)][place, 1 : lengths[row] - 1]
                    .cpu()
                    .numpy()
                    for layer in self.card.layers
                }
                out[row] = Embedded(nodes=nodes)
        return [out[row] for row in range(len(structures))]


def _block(layer: str) -> int:
    found = re.fullmatch(r"layer_(\d+)", layer)
    if found is None:
        raise ValueError(f"layer '{layer}' is not of the form layer_<i>")
    return int(found[1])
