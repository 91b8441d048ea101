# SPDX-License-Identifier: Apache-2.0
"""SO3LR: the SO3krates network with pairwise long-range forces, for (bio)molecules.

Kabylda et al., J. Am. Chem. Soc. 147, 33723 (2025), doi:10.1021/jacs.5c09558.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from ...schemas.errors import SourceError
from ...schemas.structures import Structure
from .atoms3d import Capture, centred, packs, split_rows
from .base import Adapter, Embedded, to_ase


class SO3LR(Adapter):
    """The SO3LR model.

    Layer ``layer_i`` holds the invariant node features that leave the i-th Euclidean transformer;
    those of the last are what the energy, charge and Hirshfeld heads read. The total charge enters
    the features; the spin does not, since the checkpoint's spin embedding was never trained.
    Long-range terms (energy only) use ``options.r_max_lr`` for periodic structures and
    ``options.r_max_lr_isolated`` for the rest, as the authors advise for the gas phase.
    """

    batch_size: ClassVar[int] = 32
    #: Long-range pairs in one forward call.
    pairs_at_once: ClassVar[int] = 20_000

    def load(self) -> None:
        """Unpickle the model."""
        import torch
        from so3krates_torch.modules.models import SO3LR as Network

        options = self.card.required_options("r_max_lr", "r_max_lr_isolated", "dispersion_damping")
        self._cutoffs = {
            True: float(options["r_max_lr"]),
            False: float(options["r_max_lr_isolated"]),
        }
        model = torch.load(self.checkpoint(), map_location=self.device, weights_only=False)
        if not isinstance(model, Network):
            raise SourceError(
                f"model '{self.card.id}': checkpoint holds a {type(model).__name__}, not an SO3LR; "
                f"reinstall {self.card.checkpoint.package}"
            )
        model.dispersion_energy_cutoff_lr_damping = float(options["dispersion_damping"])
        self._model = model.float().to(self.device).eval()
        self._capture = Capture()
        for i, layer in enumerate(model.euclidean_transformers):
            self._capture.output_of(layer, f"layer_{i + 1}", lambda output: output[0])

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Embed as batched graphs; periodic and isolated structures go apart."""
        results: dict[int, Embedded] = {}
        for periodic, cutoff in self._cutoffs.items():
            rows = [i for i, s in enumerate(structures) if bool(s.periodicity) is periodic]
            graphs = [self._graph(structures[i], cutoff) for i in rows]
            pairs = [g.edge_index_lr.shape[1] for g in graphs]
            self._model.r_max_lr = cutoff
            for group in packs(pairs, limit=self.pairs_at_once):
                done = self._run([graphs[j] for j in group])
                results.update(zip((rows[j] for j in group), done, strict=True))
        return [results[i] for i in range(len(structures))]

    def _graph(self, structure: Structure, cutoff_lr: float) -> Any:
        from so3krates_torch.data.atomic_data import AtomicData
        from so3krates_torch.data.utils import KeySpecification, config_from_atoms
        from so3krates_torch.tools.utils import AtomicNumberTable

        keys = KeySpecification(info_keys={"total_charge": "charge"}, arrays_keys={})
        return AtomicData.from_config(
            config_from_atoms(to_ase(centred(structure)), key_specification=keys),
            z_table=AtomicNumberTable(range(1, 119)),
            cutoff=float(self._model.r_max),
            cutoff_lr=cutoff_lr,
        )

    def _run(self, graphs: list[Any]) -> list[Embedded]:
        import torch
        from so3krates_torch.tools.torch_geometric import Batch

        batch = Batch.from_data_list(graphs).to(self.device)
        with torch.no_grad():
            output = self._model(batch.to_dict(), compute_force=False)
        energies = output["energy"].reshape(-1).tolist()
        rows = split_rows(self._capture.take(), [g.num_nodes for g in graphs])
        return [Embedded(nodes=n, energy=e) for n, e in zip(rows, energies, strict=True)]
