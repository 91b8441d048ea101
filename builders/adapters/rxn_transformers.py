# SPDX-License-Identifier: Apache-2.0
"""RXNMapper and RXNFP: transformers over reaction SMILES, read here one molecule at a time.

Schwaller et al., Sci. Adv. 7, eabe4166 (2021) and Nat. Mach. Intell. 3, 144 (2021). The packages
pin dead dependencies, so only the folders with the weights are taken from their wheels and loaded
with ``transformers``; the tokenizer is their regular expression and vocabulary file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from ...schemas.structures import Structure
from .base import Embedded
from .smiles import SmilesAdapter, quote
from .tokens import companion, length_batches, load_encoder, pad_tokens

#: The tokens of a SMILES, as both packages define them.
_TOKEN = re.compile(
    r"(\%\([0-9]{3}\)|\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\||\(|\)|\.|=|#|-|\+|\\|\/|:|~|@"
    r"|\?|>>?|\*|\$|\%[0-9]{2}|[0-9])"
)
#: The element of a bracket atom: after the isotope, upper or (aromatic) lower case.
_BRACKET = re.compile(r"\[\d*([A-Z][a-z]?|[a-z]{1,2})")

#: Tokens in one padded batch: beyond this a batch outgrows the processor's cache.
_BUDGET = 256


def tokenize(smiles: str) -> list[str]:
    """Split a SMILES into tokens; characters no token covers are left out, as in the packages."""
    return _TOKEN.findall(smiles)


def element_of(token: str) -> str | None:
    """The element a token stands for, or None for bonds, rings, branches and marks."""
    found = _BRACKET.match(token)
    if found:
        return found[1].capitalize()
    return token.capitalize() if token.isalpha() else None


class RxnTransformer(SmilesAdapter):
    """A BERT or ALBERT encoder over SMILES tokens.

    The card's ``options.encoder`` says which; layers are named ``last``, ``layer_<i>`` (the output
    of the i-th block, 1 the first) and ``cls`` (the last layer at the start token, the fingerprint
    RXNFP itself uses). Token rows leave out the start and end tokens.
    """

    batch_size: ClassVar[int] = 64

    def load(self) -> None:
        """Load vocabulary and encoder from the folder that holds the weights."""
        folder = self.checkpoint().parent
        companion(self.card, folder, "config.json")
        words = companion(self.card, folder, "vocab.txt").read_text(encoding="utf-8").split("\n")
        self.vocabulary = {word: i for i, word in enumerate(words) if word}
        self.model = load_encoder((self.card.options or {})["encoder"], folder, device=self.device)
        self.longest = int(self.model.config.max_position_embeddings) - 2

    def string_reason(self, smiles: str) -> str | None:
        """Longer than the positions the encoder has, or written with a token it does not know."""
        tokens = tokenize(smiles)
        if len(tokens) > self.longest:
            return f"too_large: {len(tokens)} > {self.longest} tokens"
        unknown = sorted({t for t in tokens if t not in self.vocabulary})
        for token in unknown:
            if element := element_of(token):
                return f"unsupported_element: {element} (no token {token})"
        if unknown:
            return f"invalid: no token for '{unknown[0]}' in SMILES {quote(smiles)}"
        if "".join(tokens) != smiles:
            return f"invalid: a symbol no token covers in SMILES {quote(smiles)}"
        return None

    def encode(self, smiles: str) -> list[int]:
        """Token ids with the start and end tokens."""
        ids = [self.vocabulary[t] for t in tokenize(smiles)]
        return [self.vocabulary["[CLS]"], *ids, self.vocabulary["[SEP]"]]

    def forward(self, structures: Sequence[Structure]) -> list[Embedded]:
        """Run strings of like length together, padded and masked."""
        import torch

        ids = [self.encode(s.smiles or "") for s in structures]
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
                inner = slice(1, lengths[row] - 1)
                nodes = {
                    layer.name: states[_index(layer.name)][place, inner].cpu().numpy()
                    for layer in self.card.layers
                    if layer.level == "token"
                }
                pooled = {
                    layer.name: states[-1][place, 0].cpu().numpy()
                    for layer in self.card.layers
                    if layer.name == "cls"
                }
                out[row] = Embedded(nodes=nodes, pooled=pooled)
        return [out[row] for row in range(len(structures))]


def _index(layer: str) -> int:
    """Position of a layer in ``hidden_states``, whose first entry is the token embedding."""
    return -1 if layer == "last" else int(layer.removeprefix("layer_"))
