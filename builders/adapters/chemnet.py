# SPDX-License-Identifier: Apache-2.0
"""ChemNet, the network behind the Fréchet ChemNet distance: SMILES characters to 512 numbers.

Preuer et al., J. Chem. Inf. Model. 58, 1736 (2018). Two convolutions and two stacked LSTMs read
the string from its end, zero-padded to 350 characters; the last state of the second LSTM is the
representation the distance is computed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from ...schemas.structures import Structure
from .base import Embedded
from .smiles import SmilesAdapter, quote

#: Length every string is padded to, its end token included. The package allows more but warns
#: that its figures then change: the reversed LSTM reads the padding first.
PADDED = 350

#: Marks of double-bond direction. The network has no token for them and reads its trained "other"
#: symbol, as in the package, so E and Z isomers coincide.
_BOND_DIRECTION = frozenset("/\\")


class ChemNet(SmilesAdapter):
    """ChemNet as shipped by the ``fcd`` package."""

    batch_size: ClassVar[int] = 64

    def load(self) -> None:
        """Load the converted network; no pickled code is run."""
        import torch
        from fcd import utils

        config = torch.load(self.checkpoint(), map_location="cpu", weights_only=True)
        self.model = utils.load_imported_model(config).eval().to(self.device)
        self._alphabet = frozenset(vars(utils)["__vocab"]) | _BOND_DIRECTION

    def string_reason(self, smiles: str) -> str | None:
        """Too long for the padded input, or written with a symbol the network has no token for."""
        from fcd.utils import tokenize

        if len(smiles) + 1 > PADDED:
            return f"too_large: {len(smiles)} > {PADDED - 1} characters"
        unknown = sorted({t for t in tokenize(smiles) if t not in self._alphabet})
        if not unknown:
            return None
        if unknown[0] in {"b", "p"}:
            return f"unsupported_element: {unknown[0].upper()} (no token for aromatic {unknown[0]})"
        return f"invalid: no token for '{unknown[0]}' in SMILES {quote(smiles)}"

    def forward(self, structures: Sequence[Structure]) -> Iterator[Embedded]:
        """Run the whole batch through the network at once."""
        import torch
        from fcd.utils import get_one_hot

        one_hot = np.stack([get_one_hot(s.smiles, pad_len=PADDED) for s in structures])
        # The package divides by the alphabet's size; the network was trained so.
        inputs = torch.from_numpy(one_hot / one_hot.shape[2]).transpose(1, 2).float()
        with torch.inference_mode():
            values = self.model(inputs.to(self.device)).cpu().numpy()
        name = self.card.default_layer
        return (Embedded(pooled={name: row}) for row in values)
