# SPDX-License-Identifier: Apache-2.0
"""ESM-IF1: an inverse folding model, geometric layers and a transformer over protein backbones.

Hsu et al., ICML 2022, doi:10.1101/2022.04.10.487779. The encoder reads N, CA and C of every
residue; residues without all three are masked, as in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ...schemas.errors import SourceError
from ...schemas.structures import Structure
from .base import Adapter, Embedded
from .tokens import length_batches
from .weights import weights_file

#: Residues in one padded batch.
_BUDGET = 1024


class EsmIf1(Adapter):
    """The encoder of ESM-IF1, a vector a residue."""

    batch_size: ClassVar[int] = 16

    def load(self) -> None:
        """Build the model as the package's own loader does. The file is a full pickle."""
        self.card.required_options()
        path = weights_file(self.card)
        import biotite.structure as structure_module
        import torch

        # biotite 1 dropped the older of two names of one function.
        if not hasattr(structure_module, "filter_backbone"):
            structure_module.filter_backbone = structure_module.filter_peptide_backbone
        from esm.inverse_folding.util import CoordBatchConverter
        from esm.pretrained import load_model_and_alphabet_core

        data = torch.load(path, map_location="cpu", weights_only=False)
        if "invariant_gvp" not in getattr(data.get("args"), "arch", ""):
            raise SourceError(f"model '{self.card.id}': {path.name} holds no inverse folding model")
        model, alphabet = load_model_and_alphabet_core(path.stem, data, None)
        self._model: Any = model.to(self.device).eval()
        self._converter = CoordBatchConverter(alphabet)

    def missing_reason(self, structure: Structure) -> str | None:
        """Why the card excludes this protein, or None; some residue must have its backbone."""
        reason = super().missing_reason(structure)
        if reason is None and not _known(structure).any():
            return "invalid: no residue has N, CA and C"
        return reason

    def forward(self, structures: Sequence[Structure]) -> list[Embedded]:
        """Run proteins of one length together: padding changes the graph of neighbours."""
        out: dict[int, Embedded] = {}
        lengths = [len(s.sequence or "") for s in structures]
        for rows in length_batches(lengths, budget=_BUDGET):
            for length in sorted({lengths[r] for r in rows}):
                same = [r for r in rows if lengths[r] == length]
                found = self._run([structures[r] for r in same])
                out |= dict(zip(same, found, strict=True))
        return [out[i] for i in range(len(structures))]

    def _run(self, structures: list[Structure]) -> list[Embedded]:
        import torch

        # Centred: the tokens before and after a chain lie at the origin, and the dihedrals of its
        # ends read their place, so that an embedding depends on where the chain lies.
        backbones = []
        for structure in structures:
            known = _known(structure)
            backbone = np.asarray(structure.backbone, dtype=float)[:, :3]
            backbone = backbone - backbone[known].mean(axis=(0, 1))
            backbones.append(np.where(known[:, None, None], backbone, np.nan).astype(np.float32))
        coords, confidence, _, _, padding = self._converter(
            [(backbone, None, None) for backbone in backbones], device=self.device
        )
        hidden = any(layer.name != "last" for layer in self.card.layers)
        with torch.no_grad():
            found = self._model.encoder.forward(
                coords, padding, confidence, return_all_hiddens=hidden
            )
        layers = {"last": found["encoder_out"][0]} | {
            f"layer_{i}": state for i, state in enumerate(found["encoder_states"])
        }
        # The converter puts a token before and after every chain.
        arrays = {
            layer.name: layers[layer.name][1:-1].transpose(0, 1).cpu().float().numpy()
            for layer in self.card.layers
        }
        return [
            Embedded(nodes={name: values[i] for name, values in arrays.items()})
            for i in range(len(structures))
        ]


def _known(structure: Structure) -> np.ndarray:
    """Residues with N, CA and C."""
    backbone = np.asarray(structure.backbone, dtype=float)[:, :3]
    return np.isfinite(backbone).all(axis=(1, 2))
