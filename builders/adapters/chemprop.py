# SPDX-License-Identifier: Apache-2.0
"""Chemprop message passing over the 2D graph, with the ADMET-AI ensemble's weights.

Heid et al., J. Chem. Inf. Model. 64, 9 (2024); Swanson et al., Bioinformatics 40, btae416 (2024).
The graph has one node a heavy atom, in the order of the SMILES; hydrogens are features of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from ...schemas.structures import Structure
from .base import Embedded
from .smiles import SmilesAdapter, read_smiles


class Chemprop(SmilesAdapter):
    """A Chemprop v2 D-MPNN; the prediction head is not used.

    Layers: ``message_passing``, (n_heavy_atoms, d) after the last message-passing step, and
    ``fingerprint``, (d,), the network's own aggregation of it (a sum over a constant, so it grows
    with the molecule where the mean does not).
    """

    batch_size: ClassVar[int] = 64

    def load(self) -> None:
        """Load the network. Its file is a full pickle: the package that ships it is trusted."""
        from chemprop.featurizers import SimpleMoleculeMolGraphFeaturizer
        from chemprop.models.utils import load_model

        self.featurize = SimpleMoleculeMolGraphFeaturizer()
        model = load_model(self.checkpoint(), multicomponent=False)
        self.model = model.eval().to(self.device)

    def forward(self, structures: Sequence[Structure]) -> Iterator[Embedded]:
        """Run the molecules as one disconnected graph."""
        import torch
        from chemprop.data import BatchMolGraph

        batch = BatchMolGraph([self.featurize(read_smiles(s.smiles or "")) for s in structures])
        batch.to(self.device)
        with torch.inference_mode():
            nodes = self.model.message_passing(batch, None)
            pooled = self.model.bn(self.model.agg(nodes, batch.batch)).cpu().numpy()
        ends = np.cumsum(np.bincount(batch.batch.cpu().numpy(), minlength=len(structures)))
        parts = np.split(nodes.cpu().numpy(), ends[:-1])
        return (
            Embedded(nodes={"message_passing": part}, pooled={"fingerprint": row})
            for part, row in zip(parts, pooled, strict=True)
        )
