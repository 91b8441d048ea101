# SPDX-License-Identifier: Apache-2.0
"""Models of Meta's fairchem: EquiformerV2 (with DeNS) and eSEN by version 1, UMA by version 2.

Liao et al., "EquiformerV2", arXiv:2306.12059; Fu et al., "Learning smooth and expressive
interatomic potentials" (eSEN), arXiv:2502.12147; Barroso-Luque et al., "OMat24", arXiv:2410.12771;
Wood et al., "UMA", arXiv:2506.23971. All hold (atoms, (lmax+1)^2, channels) features; kept are the
l=0 ones, which are invariant.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from ...schemas.structures import Structure
from .atoms3d import Capture, centred, packs, split_rows
from .base import Adapter, Embedded, to_ase
from .weights import weights_file


def _scalars(features: Any) -> Any:
    """The l=0 part of a block's or the backbone's output."""
    if isinstance(features, dict):
        features = features["node_embedding"]
    return getattr(features, "embedding", features)[:, 0, :]


class _Fairchem(Adapter):
    """Hooks on a backbone: ``block_i`` leaves the i-th block, ``last`` the final norm."""

    batch_size: ClassVar[int] = 16
    #: Atoms in one forward call: features are large, and so are those of the edges.
    atoms_at_once: ClassVar[int] = 200

    def _groups(self, structures: Sequence[Structure]) -> Iterator[list[int]]:
        return packs([len(s) for s in structures], limit=self.atoms_at_once)

    def _watch(self, backbone: Any) -> None:
        self._capture = Capture()
        for layer in self.card.layers:
            module = backbone
            if layer.name != "last":
                module = backbone.blocks[int(layer.name.removeprefix("block_")) - 1]
            self._capture.output_of(module, layer.name, _scalars)

    def _embedded(self, energies: Any, structures: Sequence[Structure]) -> list[Embedded]:
        values = energies.detach().reshape(-1).tolist()
        rows = split_rows(self._capture.take(), [len(s) for s in structures])
        return [Embedded(nodes=n, energy=e) for n, e in zip(rows, values, strict=True)]


def has_edges(atoms: Any, cutoff: float) -> bool:
    """Whether any atom has another, or an image, within ``cutoff`` Å."""
    from ase.neighborlist import neighbor_list
    from scipy.spatial.distance import pdist

    if len(atoms) == 0:
        return False
    if atoms.cell.lengths()[atoms.pbc].min(initial=np.inf) <= cutoff:
        return True
    if len(atoms) > 1 and pdist(atoms.positions).min() <= cutoff:
        return True
    return len(neighbor_list("i", atoms, cutoff)) > 0


class FairchemV1(_Fairchem):
    """A checkpoint of fairchem-core 1, through the package's own calculator and trainer."""

    #: Vacuum in Å where a structure is not periodic: all radius graphs here are periodic ones, and
    #: twice this is more than any cutoff.
    vacuum: ClassVar[float] = 12.0

    def load(self) -> None:
        """Load as ``OCPCalculator(checkpoint_path=...)`` does. The file is a full pickle."""
        path = weights_file(self.card)
        with _loading():
            _register_v1()
            from fairchem.core.common.relaxation.ase_utils import OCPCalculator

            self._calculator = OCPCalculator(
                checkpoint_path=path, cpu=self.device == "cpu", seed=0, only_output=["energy"]
            )
        self._trainer = self._calculator.trainer
        model = self._trainer._unwrapped_model.eval()
        # The energy is wanted alone; conservative models would keep a gradient for the rest.
        for part in (model.backbone, *model.output_heads.values()):
            for name in ("regress_forces", "regress_stress"):
                if hasattr(part, name) and not getattr(model.backbone, "direct_forces", True):
                    setattr(part, name, False)
        self._cutoff = float(model.backbone.cutoff)
        self._watch(model.backbone)

    def missing_reason(self, structure: Structure) -> str | None:
        """Also refuse a structure without edges, as an isolated atom is.

        EquiformerV2 fails on it, and eSEN skips its blocks unless the rest of the batch has edges.
        """
        reason = super().missing_reason(structure)
        if reason is None and not has_edges(self._boxed(structure), self._cutoff):
            return f"too_small: no neighbour within {self._cutoff:g} Å"
        return reason

    def _boxed(self, structure: Structure) -> Any:
        return to_ase(centred(structure), box=self.vacuum)

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Embed as batches of periodic graphs."""
        for rows in self._groups(structures):
            yield from self._run([structures[i] for i in rows])

    def _run(self, structures: list[Structure]) -> list[Embedded]:
        import torch
        from fairchem.core.datasets import data_list_collater

        data = [self._calculator.a2g.convert(self._boxed(s)) for s in structures]
        batch = data_list_collater(data, otf_graph=True).to(self._trainer.device)
        # EquiformerV2 turns each edge's frame about the edge by a random angle.
        torch.manual_seed(0)
        with torch.no_grad():
            output = self._trainer._forward(batch)
        energies = self._trainer._denorm_preds("energy", output["energy"], batch)
        return self._embedded(energies, structures)


class Uma(_Fairchem):
    """A UMA checkpoint; the task (level of theory) is chosen by whether a structure is periodic.

    ``options.periodic`` and ``options.molecular`` name the tasks. The task, the charge and the spin
    are inputs of every block, so the embedding depends on them.
    """

    def load(self) -> None:
        """Load as ``load_predict_unit`` does, in single precision. The file is a full pickle."""
        path = weights_file(self.card)
        options = self.card.required_options("periodic", "molecular")
        self._periodic, self._molecular = str(options["periodic"]), str(options["molecular"])
        with _loading():
            from fairchem.core.units.mlip_unit import InferenceSettings, load_predict_unit

            settings = InferenceSettings(
                tf32=False, activation_checkpointing=False, merge_mole=False, compile=False,
                execution_mode="general", auto_add_default_untrained_tasks=False,
            )  # fmt: skip
            self._unit = load_predict_unit(str(path), settings, device=self.device)
        backbone = self._unit.model.module.backbone
        if not backbone.regress_config.direct_forces:
            # The energy is wanted alone; the rest would keep a gradient.
            backbone.regress_config.forces = backbone.regress_config.stress = False
        for tasks in self._unit.dataset_to_tasks.values():
            tasks[:] = [task for task in tasks if task.property == "energy"]
        self._watch(backbone)

    def missing_reason(self, structure: Structure) -> str | None:
        """Also refuse an isolated atom: the package reads its energy from a table."""
        reason = super().missing_reason(structure)
        if reason is None and len(structure) == 1 and not structure.periodicity:
            return "too_small: an isolated atom"
        return reason

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Embed those of one task together."""
        tasks = [self._periodic if s.periodicity else self._molecular for s in structures]
        found: dict[int, Embedded] = {}
        for task in dict.fromkeys(tasks):
            same = [i for i, t in enumerate(tasks) if t == task]
            for group in self._groups([structures[i] for i in same]):
                rows = [same[i] for i in group]
                results = self._run([structures[i] for i in rows], task)
                found |= dict(zip(rows, results, strict=True))
        return [found[i] for i in range(len(structures))]

    def _run(self, structures: list[Structure], task: str) -> list[Embedded]:
        from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch

        data = [
            AtomicData.from_ase(
                atoms, task_name=task, r_data_keys=["spin", "charge"], r_energy=False,
                r_forces=False, r_stress=False,
            )
            for atoms in self._atoms(structures, task)
        ]  # fmt: skip
        predicted = self._unit.predict(atomicdata_list_to_batch(data))
        return self._embedded(predicted["energy"], structures)

    def _atoms(self, structures: list[Structure], task: str) -> Iterator[Any]:
        for structure in structures:
            atoms = to_ase(centred(structure))
            # Only the molecular task was trained with charges and spins.
            molecular = task == self._molecular
            atoms.info["charge"] = int(structure.charge) if molecular else 0
            atoms.info["spin"] = int(structure.multiplicity or 1) if molecular else 0
            yield atoms


def _register_v1() -> None:
    """Register what the checkpoints name; the package's own way imports every model it ever had."""
    import importlib

    from fairchem.core.common.registry import registry

    for name in (
        "trainers.ocp_trainer", "models.base", "models.esen.esen", "models.esen.trainers.trainer",
        "models.equiformer_v2.equiformer_v2", "models.equiformer_v2.equiformer_v2_dens",
        "models.equiformer_v2.heads", "models.equiformer_v2.trainers.forces_trainer",
        "models.equiformer_v2.trainers.dens_trainer",
    ):  # fmt: skip
        importlib.import_module(f"fairchem.core.{name}")
    registry.register("imports_setup", True)


@contextmanager
def _loading() -> Iterator[None]:
    """A quiet load of checkpoints that hold more than tensors, which torch refuses by default."""
    name = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before, level = os.environ.get(name), logging.root.level
    os.environ[name] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
