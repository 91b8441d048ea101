# SPDX-License-Identifier: Apache-2.0
"""SevenNet: equivariant message-passing potentials (NequIP architecture).

Park, Kim, Hwang and Han, J. Chem. Theory Comput. 20, 4857 (2024), doi:10.1021/acs.jctc.4c00190.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ...schemas.errors import CardError
from ...schemas.structures import Structure
from .atoms3d import Capture, PackedGraphs, centred, split_rows
from .base import Embedded, to_ase


class SevenNet(PackedGraphs):
    """A SevenNet checkpoint.

    Layer ``block_i`` holds the invariant scalars (the leading ``0e`` irreps) that leave the
    equivariant gate of the i-th interaction block; those of the last block are what the energy
    readout reads. ``options.modal`` names the level of theory of a multi-fidelity checkpoint.
    """

    batch_size: ClassVar[int] = 32
    #: Edges in one forward call. Larger batches gain nothing on a CPU and leave its caches.
    edges_at_once: ClassVar[int] = 2_000

    def load(self) -> None:
        """Rebuild the network from the checkpoint, without its force output."""
        import torch
        from sevenn.checkpoint import SevenNetCheckpoint

        # TorchScript would otherwise specialise its kernels anew for every batch shape.
        torch.jit.set_fusion_strategy([("DYNAMIC", 1)])
        model = SevenNetCheckpoint(self.checkpoint()).build_model()
        # Forces are not wanted, and without them no gradient has to be kept.
        model.delete_module_by_key("force_output")
        model.key_grad = None
        self._modal = (self.card.options or {}).get("modal")
        known = list(model.modal_map or [])
        if (known or self._modal) and self._modal not in known:
            raise CardError(
                f"model '{self.card.id}': options.modal is {self._modal!r}; choose from {known}"
            )
        model.set_is_batch_data(True)
        self._cutoff = float(model.cutoff)
        self._model = model.to(self.device).eval()
        self._capture = Capture()
        for name, module in model.named_children():
            block, _, role = name.partition("_")
            if role == "equivariant_gate":
                gate: Any = module.gate
                self._capture.output_of(
                    module, f"block_{int(block) + 1}", _scalars(gate.irreps_out)
                )

    def _graph(self, structure: Structure) -> Any:
        import sevenn._keys as KEY
        from sevenn.atom_graph_data import AtomGraphData
        from sevenn.train.dataload import unlabeled_atoms_to_graph

        graph = AtomGraphData.from_numpy_dict(
            unlabeled_atoms_to_graph(to_ase(centred(structure)), self._cutoff)
        )
        if self._modal:
            graph[KEY.DATA_MODALITY] = self._modal
        return graph

    def _run(self, graphs: list[Any]) -> list[Embedded]:
        import sevenn._keys as KEY
        import torch
        from torch_geometric.data import Batch

        with torch.no_grad():
            output = self._model(Batch.from_data_list(graphs).to(self.device))
        energies = output[KEY.PRED_TOTAL_ENERGY].reshape(-1).tolist()
        rows = split_rows(self._capture.take(), [g.num_nodes for g in graphs])
        return [Embedded(nodes=n, energy=e) for n, e in zip(rows, energies, strict=True)]


def _scalars(irreps: Any) -> Any:
    """Pick the leading scalar columns of features with these irreps from the data dictionary."""
    count = sum(mul for mul, irrep in irreps if irrep.l == 0)
    if irreps[0].ir.l != 0 or irreps[0].mul != count:
        raise ValueError(f"scalars of {irreps} do not come first")
    return lambda data: data["x"][:, :count]
