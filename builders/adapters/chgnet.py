# SPDX-License-Identifier: Apache-2.0
"""CHGNet: charge-informed crystal graph potentials.

Deng et al., Nat. Mach. Intell. 5, 1031 (2023), doi:10.1038/s42256-023-00716-3.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from ...schemas.structures import Structure
from .atoms3d import Capture, packs, split_rows
from .base import Adapter, Embedded
from .chgnet_graph import BondGraph, batched_graph, bond_graph


class CHGNet(Adapter):
    """A CHGNet checkpoint.

    Layer ``conv_i`` holds the atom features after the i-th atom convolution; the last is what the
    energy MLP reads (after the readout normalisation, where the checkpoint has one). CHGNet reads
    periodic cells only: non-periodic directions get ``options.vacuum`` ångström on either side,
    beyond its cutoff, so no periodic image is seen. An atom without neighbour within the cutoff
    has no graph: the package refuses it, and so does this adapter.
    """

    batch_size: ClassVar[int] = 32
    #: Directed bonds in one forward call. Larger batches gain nothing on a CPU.
    bonds_at_once: ClassVar[int] = 4_000

    def load(self) -> None:
        """Rebuild the network and tap its layers."""
        with contextlib.redirect_stdout(io.StringIO()):
            model = self._network()
        self._model = model.to(self.device).eval()
        self._capture = Capture()
        for i, layer in enumerate(model.atom_conv_layers[:-1]):
            self._capture.output_of(layer, f"conv_{i + 1}", lambda output: output)
        self._capture.input_of(model.mlp, f"conv_{len(model.atom_conv_layers)}")

    def _network(self) -> Any:
        """The network of the checkpoint's arguments and weights."""
        import torch
        from chgnet.model import CHGNet as Network

        options = self.card.required_options("vacuum", "mlp_out_bias")
        self._vacuum = float(options["vacuum"])
        state = torch.load(self.checkpoint(), map_location="cpu", weights_only=True)["model"]
        # As CHGNet.load does: only the 0.2.0 weights have this bias.
        return Network.from_dict(state, mlp_out_bias=bool(options["mlp_out_bias"]))

    def missing_reason(self, structure: Structure) -> str | None:
        """Why the card excludes this structure; a lone atom has no bond to convolve over."""
        reason = super().missing_reason(structure)
        if reason is None and len(structure) == 1 and not structure.periodicity:
            return "too_small: an isolated atom has no neighbour to convolve over"
        return reason

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Embed as batched graphs; graphs with and without angles never share a batch.

        With no angle in the whole batch the network skips its bond convolutions; with one, it
        applies them to every bond, and in version 0.2.0 (which has an output bias) that changes
        the bonds of the other structures too.
        """
        graphs = [self._graph(s) for s in structures]
        results: dict[int, Embedded] = {}
        for angles in (True, False):
            rows = [i for i, g in enumerate(graphs) if bool(len(g.angles)) is angles]
            bonds = [len(graphs[i].ends) for i in rows]
            for group in packs(bonds, limit=self.bonds_at_once):
                picked = [rows[j] for j in group]
                done = self._run([graphs[i] for i in picked])
                results.update(zip(picked, done, strict=True))
        return [results[i] for i in range(len(graphs))]

    def _graph(self, structure: Structure) -> BondGraph:
        converter = self._model.graph_converter
        return bond_graph(
            structure,
            vacuum=self._vacuum,
            bonds=converter.atom_graph_cutoff,
            angles=converter.bond_graph_cutoff,
        )

    def _run(self, graphs: list[BondGraph]) -> list[Embedded]:
        import torch

        with torch.inference_mode():
            batch, compositions = batched_graph(graphs, self._model, self.device)
            per_atom = self._model._compute(batch)["e"]
            if self._model.composition_model is not None:
                per_atom = per_atom + self._model.composition_model(compositions)
        counts = [len(g.numbers) for g in graphs]
        rows = split_rows(self._capture.take(), counts)
        return [
            Embedded(nodes=nodes, energy=energy * count)
            for nodes, energy, count in zip(
                rows, per_atom.reshape(-1).tolist(), counts, strict=True
            )
        ]


class RandomCHGNet(CHGNet):
    """The architecture with random weights: what a network reads that has learned nothing.

    The package's default arguments are those of its 0.3.0 weights. Weights are as the package
    initialises them, from ``options.seed``; the reference energies of the elements stay.
    """

    def _network(self) -> Any:
        """The network as the package initialises it, from a seed of its own."""
        import torch
        from chgnet.model import CHGNet as Network

        options = self.card.required_options("vacuum", "mlp_out_bias", "seed")
        self._vacuum = float(options["vacuum"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(options["seed"]))
            return Network(mlp_out_bias=bool(options["mlp_out_bias"]))
