# SPDX-License-Identifier: Apache-2.0
"""DIEP: a potential whose edges integrate the electron-ion potential on a grid.

Tawfik et al., Digital Discovery (2024), doi:10.1039/D4DD00246F.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np

from ...registry.hub import package_file
from ...schemas.structures import Structure
from .atoms3d import Capture, centred, packs, split_rows
from .base import Adapter, Embedded, to_ase


class DIEP(Adapter):
    """An exported DIEP potential.

    Layer ``block_i`` holds the node features that leave the i-th graph layer; those of the last
    are what the energy readout reads.
    """

    batch_size: ClassVar[int] = 32
    #: Triplets in one forward call (each holds 121 grid points); more gain nothing on a CPU.
    triplets_at_once: ClassVar[int] = 20_000

    def load(self) -> None:
        """Load the potential from the folder of the checkpoint, for energies only."""
        from diep.ext.ase import Atoms2Graph
        from diep.pretrained import load_potential

        weights = self.checkpoint()
        # The folder's model.pt holds the architecture and the order of the elements.
        source, options = self.card.checkpoint, self.card.required_options("model_sha256")
        package_file(
            str(source.package),
            str(PurePosixPath(str(source.path)).with_name("model.pt")),
            sha256=str(options["model_sha256"]),
        )
        potential = load_potential(weights.parent, device=self.device, stress=False)
        potential.calc_forces = False
        self._potential = potential
        model = potential.model
        self._converter = Atoms2Graph(model.element_types, model.cutoff)
        self._capture = Capture()
        for i, layer in enumerate(model.graph_layers):
            # Each layer returns (edge, node, state) features.
            self._capture.output_of(layer, f"block_{i + 1}", lambda output: output[1])

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Embed as batched graphs of at most :attr:`triplets_at_once` triplets."""
        graphs = [self._graph(s) for s in structures]
        return [
            result
            for group in packs([_triplets(g) for g, _ in graphs], limit=self.triplets_at_once)
            for result in self._run([graphs[i] for i in group])
        ]

    def _graph(self, structure: Structure) -> tuple[Any, Any]:
        """Graph and (1, 3, 3) lattice; atoms are wrapped into the cell, as its calculator does."""
        atoms = to_ase(centred(structure))
        atoms.wrap()
        graph, lattice, _state = self._converter.get_graph(atoms)
        return graph, lattice

    def _run(self, graphs: list[tuple[Any, Any]]) -> list[Embedded]:
        import torch
        from torch_geometric.data import Batch

        batch = Batch.from_data_list([g for g, _ in graphs]).to(self.device)
        lattices = torch.cat([lattice for _, lattice in graphs]).to(self.device)
        with torch.no_grad():
            energies = self._potential(batch, lattices)[0].reshape(-1).tolist()
        rows = split_rows(self._capture.take(), [g.num_nodes for g, _ in graphs])
        return [Embedded(nodes=n, energy=e) for n, e in zip(rows, energies, strict=True)]


def _triplets(graph: Any) -> int:
    """Upper bound on the triplets of a graph: pairs of bonds that share their first atom."""
    degree = np.bincount(graph.edge_index[0].numpy(), minlength=1)
    return int((degree * (degree - 1)).sum())
