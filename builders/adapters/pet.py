# SPDX-License-Identifier: Apache-2.0
"""PET: the point-edge transformer, not constrained to be invariant (Pozdnyakov and Ceriotti 2023).

PET-MAD (Mazitov et al., Nat. Commun. 2025, doi:10.1038/s41467-025-65662-7) learnt to be nearly so
from rotated copies of its training data. Layer ``last_layer`` is what the linear readout of the
energy reads, ``feature`` what leaves the graph network: nodes, and edges summed with their cutoff.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from ...schemas.errors import SourceError
from ...schemas.structures import Structure
from .atoms3d import centred, packs, split_rows
from .base import Adapter, Embedded, to_ase
from .weights import weights_file

#: Layer -> the package's name of that output.
OUTPUTS = {"feature": "feature", "last_layer": "mtt::aux::energy_last_layer_features"}


class PET(Adapter):
    """A PET checkpoint of metatrain."""

    batch_size: ClassVar[int] = 32
    #: Edges in one forward call; the transformer works on all edges of an atom at once.
    edges_at_once: ClassVar[int] = 4_000

    def load(self) -> None:
        """Load through metatrain, which brings old checkpoints up to date. It unpickles."""
        self.card.required_options()
        path = weights_file(self.card)
        import torch
        from metatrain.utils.io import load_model

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = load_model(path)
        model = getattr(model, "model", model)  # one with error bars wraps the one that predicts
        if not hasattr(model, "requested_neighbor_lists") or "energy" not in model.outputs:
            raise SourceError(f"model '{self.card.id}': {path.name} holds no PET with energies")
        self._model = model.to(device=self.device, dtype=torch.float32).eval()
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        self._lists = self._model.requested_neighbor_lists()

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Embed as batches of at most :attr:`edges_at_once` edges."""
        systems = [self._system(s) for s in structures]
        edges = [len(s.get_neighbor_list(self._lists[0]).samples) for s in systems]
        return [
            result
            for group in packs(edges, limit=self.edges_at_once)
            for result in self._run([systems[i] for i in group])
        ]

    def _system(self, structure: Structure) -> Any:
        import torch
        from metatomic.torch import systems_to_torch
        from metatrain.utils.neighbor_lists import get_system_with_neighbor_lists

        # In double precision first: the list's vectors are rounded once, at the end.
        system = systems_to_torch(to_ase(centred(structure)), dtype=torch.float64)
        return get_system_with_neighbor_lists(system, self._lists).to(
            dtype=torch.float32, device=self.device
        )

    def _run(self, systems: list[Any]) -> list[Embedded]:
        import torch
        from metatomic.torch import ModelOutput

        wanted = {layer.name: OUTPUTS[layer.name] for layer in self.card.layers}
        outputs = {name: ModelOutput(sample_kind="atom") for name in wanted.values()}
        outputs["energy"] = ModelOutput(quantity="energy", unit="eV", sample_kind="system")
        with torch.no_grad():
            found = self._model(systems, outputs)
        layers = {}
        for layer, name in wanted.items():
            block = found[name].block()
            order = np.lexsort(block.samples.values.cpu().numpy().T[::-1])  # system, then atom
            layers[layer] = block.values.cpu().float().numpy()[order]
        rows = split_rows(layers, [len(s) for s in systems])
        energies = found["energy"].block().values.reshape(-1).tolist()
        return [Embedded(nodes=n, energy=e) for n, e in zip(rows, energies, strict=True)]
