# SPDX-License-Identifier: Apache-2.0
"""Geom2Vec: an equivariant transformer that learnt to take noise off conformations.

Pengmei et al., arXiv:2409.19838. Its encoder is TorchMD-NET's equivariant transformer (Thölke and
De Fabritiis, arXiv:2202.02541), from whose code that of geom2vec was adapted; it is built here from
TorchMD-NET's own class, whose parameters have the same names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from ...schemas.errors import SourceError
from ...schemas.structures import Structure
from .atoms3d import centred, packs, split_rows
from .base import Adapter, Embedded
from .weights import weights_file

_PREFIX = "representation_model."


class Geom2Vec(Adapter):
    """An equivariant-transformer checkpoint of geom2vec.

    Layer ``scalars`` is the encoder's invariant output. ``options`` give what geom2vec reads from
    the file's name: ``layers``, ``channels``, ``basis`` functions, ``heads`` and ``cutoff`` in Å.
    """

    batch_size: ClassVar[int] = 32
    #: Pairs of atoms in one forward call.
    pairs_at_once: ClassVar[int] = 40_000

    def load(self) -> None:
        """Build the encoder and fill it; every parameter must be there."""
        self._options = self.card.required_options("layers", "channels", "basis", "heads", "cutoff")
        path = weights_file(self.card)
        import torch

        content = torch.load(path, map_location=self.device, weights_only=True)
        content = content.get("state_dict", content)
        state = {
            name.partition(_PREFIX)[2]: values
            for name, values in content.items()
            if _PREFIX in name
        }
        self._model = self._encoder().to(self.device)
        try:
            self._model.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise SourceError(f"model '{self.card.id}': {path.name}: {reason}") from None
        self._model.eval()
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)

    def _encoder(self) -> Any:
        from torchmdnet.models.torchmd_et import TorchMD_ET

        options = self._options
        # As geom2vec sets them; but all neighbours in the cutoff count, not the first 32 found.
        return TorchMD_ET(
            hidden_channels=options["channels"],
            num_layers=options["layers"],
            num_rbf=options["basis"],
            num_heads=options["heads"],
            cutoff_upper=options["cutoff"],
            rbf_type="expnorm",
            trainable_rbf=False,
            neighbor_embedding=False,
            distance_influence="both",
            max_z=100,
            max_num_neighbors=self.card.supports.max_atoms or 1000,
        )

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Embed molecules side by side, at most :attr:`pairs_at_once` pairs at a time."""
        pairs = [len(s) ** 2 for s in structures]
        return [
            result
            for group in packs(pairs, limit=self.pairs_at_once)
            for result in self._run([structures[i] for i in group])
        ]

    def _run(self, structures: list[Structure]) -> list[Embedded]:
        import torch

        sizes = [len(s) for s in structures]
        numbers = np.concatenate([s.numbers for s in structures])
        positions = np.concatenate([centred(s).positions for s in structures])
        batch = np.repeat(np.arange(len(sizes)), sizes)
        with torch.no_grad():
            scalars = self._model(
                torch.as_tensor(numbers, dtype=torch.long, device=self.device),
                torch.as_tensor(positions, dtype=torch.float32, device=self.device),
                torch.as_tensor(batch, dtype=torch.long, device=self.device),
            )[0]
        return [
            Embedded(nodes=rows)
            for rows in split_rows({"scalars": scalars.cpu().float().numpy()}, sizes)
        ]
