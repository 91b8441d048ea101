# SPDX-License-Identifier: Apache-2.0
"""Chemical language models from the hub: ChemBERTa-2 and MoLFormer (SMILES), ChemGPT (SELFIES).

Ahmad et al., arXiv 2209.01712; Ross et al., Nat. Mach. Intell. 4, 1256 (2022); Frey et al., Nat.
Mach. Intell. 5, 1297 (2023). Token rows leave out the special tokens a tokenizer adds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from ...schemas.structures import Structure
from .base import Embedded
from .smiles import SmilesAdapter, quote
from .transformer import (
    check_architecture,
    hidden_states,
    load_model,
    load_tokenizer,
    token_layers,
    weights_folder,
)

#: A symbol of a SELFIES string; the dot parts fragments.
_SYMBOL = re.compile(r"\[[^\]]*\]|\.")


class SmilesModel(SmilesAdapter):
    """An encoder over the tokens of a SMILES string.

    Options: ``encoder``, the architecture; ``max_tokens``, the longest string it takes, special
    tokens not counted.
    """

    batch_size: ClassVar[int] = 64

    def load(self) -> None:
        """Load tokenizer and encoder from the files at the card's revision."""
        options = self.card.required_options("encoder", "max_tokens")
        self.longest = int(options["max_tokens"])
        check_architecture(self.card, options["encoder"])
        folder = weights_folder(self.card)
        self.tokenizer = load_tokenizer(folder, options["encoder"])
        self.model = load_model(options["encoder"], folder, device=self.device)

    def written(self, smiles: str) -> str | None:
        """The molecule in the notation the model reads, or None where that has no word for it."""
        return smiles

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids, and the places of those that are not special."""
        found = self.tokenizer(text, return_special_tokens_mask=True, truncation=False)
        kept = [i for i, special in enumerate(found["special_tokens_mask"]) if not special]
        return list(found["input_ids"]), kept

    def string_reason(self, smiles: str) -> str | None:
        """No such notation, too long, or written with a token the model does not know."""
        text = self.written(smiles)
        if text is None:
            return f"invalid: {self.card.modality} cannot write SMILES {quote(smiles)}"
        if unknown := self.unknown(text):
            return f"invalid: no token for '{unknown}' in {self.card.modality} {quote(text)}"
        kept = self.encode(text)[1]
        if len(kept) > self.longest:
            return f"too_large: {len(kept)} > {self.longest} tokens"
        return None if kept else f"invalid: no token in {self.card.modality} {quote(text)}"

    def unknown(self, text: str) -> str | None:
        """The first piece of the string that the tokenizer reads as unknown, or leaves out."""
        found = self.tokenizer(text, return_offsets_mapping=True, truncation=False)
        read = 0
        for token, (start, end) in zip(found["input_ids"], found["offset_mapping"], strict=True):
            if token == self.tokenizer.unk_token_id:
                return text[start:end]
            if start > read:
                break
            read = max(read, end)
        return text[read : read + 1] or None

    def forward(self, structures: Sequence[Structure]) -> list[Embedded]:
        """Run strings of like length together, padded and masked."""
        encoded = [self.encode(self.written(s.smiles or "") or "") for s in structures]
        states = hidden_states(
            self.model,
            [ids for ids, _ in encoded],
            layers=token_layers(self.card),
            pad=self.tokenizer.pad_token_id or 0,
            device=self.device,
        )
        return [
            Embedded(nodes={name: rows[kept] for name, rows in found.items()})
            for found, (_, kept) in zip(states, encoded, strict=True)
        ]


class SelfiesModel(SmilesModel):
    """A model over the symbols of a SELFIES string, which is written from the SMILES.

    The alphabet of SELFIES changed with version 2 of its package; the version a model was trained
    with is the one its card names under ``environment``.
    """

    def load(self) -> None:
        """Load the writer of SELFIES too, so that its absence shows at once."""
        import selfies

        self._encoder = selfies.encoder
        super().load()
        self.vocabulary = self.tokenizer.get_vocab()

    def written(self, smiles: str) -> str | None:
        """The SELFIES of a SMILES; None where SELFIES has no word for it."""
        return self._encoder(smiles, print_error=False) or None

    def unknown(self, text: str) -> str | None:
        """The first symbol without a token; the published tokenizer names no unknown token."""
        return next((s for s in _SYMBOL.findall(text) if s not in self.vocabulary), None)
