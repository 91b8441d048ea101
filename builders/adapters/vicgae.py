# SPDX-License-Identifier: Apache-2.0
"""VICGAE: a recurrent autoencoder over SELFIES, made for molecules of interstellar space.

Lee, "astrochem_embedding", https://github.com/laserkelvin/astrochem_embedding. The file with the
weights is a full pickle of the whole object: it is opened in a process of its own only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from ...schemas.structures import Structure
from .base import Embedded
from .smiles import SmilesAdapter, quote
from .tokens import companion


class VICGAE(SmilesAdapter):
    """The encoder.

    Layers: ``states``, (n_tokens, 32), the recurrent state at each SELFIES token, and ``latent``,
    (32,), the package's own vector: their sum over the width of the token embedding, so that it
    grows with the molecule.
    """

    batch_size: ClassVar[int] = 64

    def load(self) -> None:
        """Open the pickled model."""
        import joblib
        import torch

        weights = self.checkpoint()
        companion(self.card, weights.parent, "translator.yml")
        model = joblib.load(weights)
        self.model = model.eval().to(self.device)
        self._ids = {token: i for i, token in enumerate(model.vocab.alphabet)}
        self._longest = int(model.vocab.max_length)
        self._scale = float(model.hparams.embedding_dim)
        torch.set_grad_enabled(False)

    def string_reason(self, smiles: str) -> str | None:
        """No SELFIES, one longer than the training's, or one with a token it does not know."""
        import selfies

        try:
            tokens = self._tokens(smiles)
        except selfies.EncoderError:
            return f"invalid: no SELFIES for SMILES {quote(smiles)}"
        if len(tokens) > self._longest:
            return f"too_large: {len(tokens)} > {self._longest} tokens"
        unknown = sorted({t for t in tokens if t not in self._ids})
        return f"invalid: no token for SELFIES symbol '{unknown[0]}'" if unknown else None

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Run padded: the recurrence is causal, so what follows a string changes none of it."""
        import torch

        ids = [[self._ids[t] for t in self._tokens(s.smiles or "")] for s in structures]
        tokens = np.full((len(ids), max(map(len, ids))), self._ids["[nop]"], dtype=np.int64)
        for row, found in enumerate(ids):
            tokens[row, : len(found)] = found
        inputs = self.model.embedding(torch.from_numpy(tokens).to(self.device))
        states = self.model.encoder(inputs)[0].cpu().numpy()
        for row, found in enumerate(ids):
            nodes = states[row, : len(found)]
            yield Embedded(
                nodes={"states": nodes}, pooled={"latent": nodes.sum(axis=0) / self._scale}
            )

    @staticmethod
    def _tokens(smiles: str) -> list[str]:
        import selfies

        return list(selfies.split_selfies(selfies.encoder(smiles)))
