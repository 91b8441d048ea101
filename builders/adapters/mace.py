# SPDX-License-Identifier: Apache-2.0
"""MACE: higher-order equivariant message passing (Batatia et al., arXiv:2206.07697).

Every interaction block has a readout of its own, so that what the readouts read, and what the
package's ``get_descriptors`` gives, are the node features of all blocks side by side. Those of the
last block are scalars only; higher orders come from the blocks before.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ...schemas.errors import CardError, SourceError
from ...schemas.structures import Structure
from .atoms3d import PackedGraphs, centred, split_rows
from .base import Embedded, to_ase
from .weights import weights_file

#: Layers of the two charts of a model: what each keeps of the node features.
PARTS = ("invariant", "equivariant")


class MACE(PackedGraphs):
    """A MACE checkpoint.

    ``options.part`` is ``invariant`` (scalars) or ``equivariant`` (all irreps, in e3nn's order).
    Layer ``descriptors`` holds all blocks side by side, ``block_i`` the i-th.
    """

    batch_size: ClassVar[int] = 32
    #: Edges in one forward call. Larger batches gain nothing on a CPU.
    edges_at_once: ClassVar[int] = 4_000

    def load(self) -> None:
        """Unpickle the network and hold its features against the card."""
        self._part = str(self.card.required_options("part")["part"])
        if self._part not in PARTS:
            raise CardError(
                f"model '{self.card.id}': options.part is '{self._part}'; "
                f"choose from {', '.join(PARTS)}"
            )
        path = weights_file(self.card)
        import mace  # noqa: F401 (first: it lets its version of e3nn load its tables)
        import torch
        from mace.tools import AtomicNumberTable

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = torch.load(path, map_location=self.device, weights_only=False)
        if not hasattr(model, "products") or not hasattr(model, "atomic_numbers"):
            raise SourceError(f"model '{self.card.id}': {path.name} holds no MACE model")
        self._model = model.float().to(self.device).eval()
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        self._table = AtomicNumberTable([int(z) for z in model.atomic_numbers])
        self._cutoff = float(model.r_max)
        self._heads = list(getattr(model, "heads", None) or ["Default"])
        self._columns = self._select([p.linear.irreps_out for p in self._model.products])

    def _select(self, blocks: Sequence[Any]) -> dict[str, np.ndarray]:
        """Columns of the node features that belong to each layer."""
        found: dict[str, np.ndarray] = {}
        start = 0
        for number, irreps in enumerate(blocks, start=1):
            kept = [
                start + np.arange(part.start, part.stop)
                for part, (_, irrep) in zip(irreps.slices(), irreps, strict=True)
                if self._part == "equivariant" or (irrep.l == 0 and irrep.p == 1)
            ]
            found[f"block_{number}"] = np.concatenate(kept)
            start += irreps.dim
        return {"descriptors": np.concatenate(list(found.values())), **found}

    def _graph(self, structure: Structure) -> Any:
        from mace import data
        from mace.tools.torch_tools import default_dtype

        atoms = to_ase(centred(structure))
        # Charge and spin are inputs of other MACE models.
        atoms.info.clear()
        with default_dtype("float32"):
            config = data.config_from_atoms(atoms, head_name=self._heads[-1])
            return data.AtomicData.from_config(
                config, z_table=self._table, cutoff=self._cutoff, heads=self._heads
            )

    def _run(self, graphs: list[Any]) -> list[Embedded]:
        import torch
        from mace.tools.torch_geometric.batch import Batch

        batch = Batch.from_data_list(graphs).to(self.device)
        with torch.no_grad():
            output = self._model(batch.to_dict(), compute_force=False)
        features = output["node_feats"].to("cpu").float().numpy()
        wanted = {layer.name for layer in self.card.layers}
        layers = {n: features[:, c] for n, c in self._columns.items() if n in wanted}
        rows = split_rows(layers, [int(g.num_nodes) for g in graphs])
        energies = output["energy"].reshape(-1).tolist()
        return [Embedded(nodes=n, energy=e) for n, e in zip(rows, energies, strict=True)]
