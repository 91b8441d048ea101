# SPDX-License-Identifier: Apache-2.0
"""Sentence encoders over a generated description of the structure.

The description (``builders.describe``) is deterministic text from formula, SMILES, space group,
cell or sequence, so the model reads matter as words. Reimers and Gurevych, EMNLP 2019
(Sentence-BERT); Wang et al., arXiv 2002.10957 (MiniLM).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ...schemas.structures import Structure
from .base import Adapter, Embedded
from .tokens import companion, length_batches, load_encoder, pad_tokens

if TYPE_CHECKING:
    from tokenizers import Encoding

#: Word pieces in one padded batch.
_BUDGET = 512
#: WordPiece reads a longer word as unknown.
_LONGEST_WORD = 100


class SentenceEncoder(Adapter):
    """A BERT sentence encoder with mean pooling over all word pieces.

    Layers are at structure level: ``sentence`` is the mean over the last layer scaled to unit
    length, as the published model gives it; ``layer_<i>`` the plain mean over the i-th block.
    """

    batch_size: ClassVar[int] = 64

    def load(self) -> None:
        """Load tokenizer and encoder from the folder that holds the weights."""
        from tokenizers import Tokenizer

        folder = self.checkpoint().parent
        companion(self.card, folder, "config.json")
        self.tokenizer = Tokenizer.from_file(str(companion(self.card, folder, "tokenizer.json")))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.longest = int((self.card.options or {})["max_pieces"])
        self._unknown = self.tokenizer.token_to_id("[UNK]")
        self.model = load_encoder("bert", folder, device=self.device)

    def encode(self, structure: Structure) -> Encoding:
        """Word pieces of the structure's description, start and end tokens included."""
        from ..describe import describe

        return self.tokenizer.encode(describe(structure))

    def missing_reason(self, structure: Structure) -> str | None:
        """Why the card or the description's length excludes this structure, or None.

        The published model cuts longer texts off silently; here they are missing instead, so that
        no two structures coincide because their descriptions begin alike.
        """
        reason = super().missing_reason(structure)
        if reason is not None:
            return reason
        encoding = self.encode(structure)
        if self._unknown in encoding.ids:
            start, end = encoding.offsets[encoding.ids.index(self._unknown)]
            if end - start > _LONGEST_WORD:
                return f"too_large: a word of {end - start} > {_LONGEST_WORD} letters"
            return "invalid: the description holds a character the tokenizer does not know"
        if len(encoding.ids) > self.longest:
            return f"too_large: {len(encoding.ids)} > {self.longest} word pieces"
        return None

    def forward(self, structures: Sequence[Structure]) -> list[Embedded]:
        """Run descriptions of like length together, padded and masked."""
        import torch
        from torch.nn.functional import normalize

        ids = [self.encode(s).ids for s in structures]
        out: dict[int, Embedded] = {}
        for rows in length_batches([len(i) for i in ids], budget=_BUDGET):
            tokens, mask = pad_tokens([ids[r] for r in rows], pad=0)
            weights = torch.from_numpy(mask).to(self.device)
            with torch.inference_mode():
                states = self.model(
                    torch.from_numpy(tokens).to(self.device),
                    attention_mask=weights,
                    output_hidden_states=True,
                ).hidden_states
                pooled = {}
                for layer in self.card.layers:
                    last = layer.name == "sentence"
                    state = states[-1 if last else int(layer.name.removeprefix("layer_"))]
                    mean = (state * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
                    pooled[layer.name] = (normalize(mean, dim=1) if last else mean).cpu().numpy()
            for place, row in enumerate(rows):
                out[row] = Embedded(pooled={name: v[place] for name, v in pooled.items()})
        return [out[row] for row in range(len(structures))]
