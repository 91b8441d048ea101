# SPDX-License-Identifier: Apache-2.0
"""Orb v2 and v3: graph network simulators with attention, not equivariant by construction.

Neumann et al., "Orb: A Fast, Scalable Neural Network Potential", arXiv:2410.22570; Rhodes et al.,
"Orb-v3: atomistic simulation at scale", arXiv:2504.06231.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from ...schemas.errors import CardError
from ...schemas.structures import Structure
from .atoms3d import Capture, centred, packs, split_rows
from .base import Adapter, Embedded, to_ase
from .weights import weights_file


class Orb(Adapter):
    """An Orb checkpoint, or its architecture with random weights.

    Layer ``block_i`` is what leaves the i-th attention block (256 numbers an atom); the last of
    them is what every head reads. ``options.model`` is the package's name of the model;
    ``options.seed`` is null for the published weights, or the seed of random ones.
    """

    batch_size: ClassVar[int] = 32
    #: Edges in one forward call. Larger batches gain nothing on a CPU.
    edges_at_once: ClassVar[int] = 4_000

    def load(self) -> None:
        """Build the architecture by its published name and load the state dict (tensors only)."""
        options = self.card.required_options("model", "seed")
        name, seed = str(options["model"]), options["seed"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._model = self._published(name) if seed is None else self._random(name, int(seed))
        self._model = self._model.to(self.device).eval()
        self._capture = Capture()
        blocks = self._model.model.gnn_stacks
        for layer in self.card.layers:
            place = int(layer.name.removeprefix("block_"))
            self._capture.output_of(blocks[place - 1], layer.name, lambda output: output[0])

    def _published(self, name: str) -> Any:
        from orb_models.forcefield.pretrained import ORB_PRETRAINED_MODELS

        if name not in ORB_PRETRAINED_MODELS:
            raise CardError(f"model '{self.card.id}': orb-models has no model '{name}'")
        path = str(weights_file(self.card))
        return ORB_PRETRAINED_MODELS[name](
            weights_path=path, device=self.device, precision="float32-highest", compile=False
        )

    def _random(self, name: str, seed: int) -> Any:
        """The architecture as the package initialises it, from a seed of its own."""
        import torch
        from orb_models.forcefield import pretrained
        from orb_models.forcefield.atomic_system import SystemConfig

        kind, neighbours = name.split("-")[2:4]
        builder = getattr(pretrained, f"orb_v3_{kind}_architecture")
        config = SystemConfig(radius=6.0, max_num_neighbors={"20": 20, "inf": 120}[neighbours])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return builder(device=self.device, system_config=config)

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Embed as batched graphs of at most :attr:`edges_at_once` edges."""
        graphs = [self._graph(s) for s in structures]
        edges = [int(g.n_edge) for g in graphs]
        return [
            result
            for group in packs(edges, limit=self.edges_at_once)
            for result in self._run([graphs[i] for i in group])
        ]

    def _graph(self, structure: Structure) -> Any:
        from orb_models.forcefield.atomic_system import ase_atoms_to_atom_graphs

        atoms = to_ase(centred(structure))
        # Charge and spin are for other models of the package, which want both or neither.
        atoms.info.clear()
        return ase_atoms_to_atom_graphs(atoms, self._model.system_config, device=self.device)

    def _run(self, graphs: list[Any]) -> list[Embedded]:
        import torch
        from orb_models.forcefield.base import batch_graphs

        batch = batch_graphs(graphs)
        with torch.no_grad():
            features = self._model.model(batch)["node_features"]
            energies = self._model.heads["energy"].predict(features, batch)
            if self._model.pair_repulsion:
                energies = energies + self._model.pair_repulsion_fn(batch)["energy"]
        rows = split_rows(self._capture.take(), [int(g.n_node) for g in graphs])
        values = energies.reshape(-1).tolist()
        return [Embedded(nodes=n, energy=e) for n, e in zip(rows, values, strict=True)]
