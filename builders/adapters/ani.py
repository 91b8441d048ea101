# SPDX-License-Identifier: Apache-2.0
"""ANI: a network an element over atomic environment vectors.

Smith et al., Chem. Sci. 8, 3192 (2017) and J. Chem. Phys. 148, 241733 (2018). The networks are
read from their files directly: the package's own index of them is empty in its wheel, and it would
go and fetch them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...registry.hub import sha256_of
from ...schemas.errors import SourceError
from ...schemas.structures import Structure
from .base import Adapter, Embedded

#: eV in a hartree (CODATA 2018).
_HARTREE = 27.211386245988


def folder_digest(folder: Path, pattern: str) -> str:
    """SHA-256 over the names and hashes of the files that match, sorted by name."""
    listed = [f"{p.name} {sha256_of(p)}" for p in sorted(folder.glob(pattern))]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


class ANI(Adapter):
    """One member of an ANI ensemble.

    The one layer ``hidden`` is (n_atoms, 96): what enters the last linear map of each atom's
    element network, after its activation. The layers before differ in width between elements.
    ``options`` name the constants of the environment vectors, the self energies and the digest of
    the member's files (:func:`folder_digest`).
    """

    batch_size: ClassVar[int] = 64

    def load(self) -> None:
        """Read the element networks of the member, checked against the card."""
        import torch
        from torchani.aev import AEVComputer
        from torchani.neurochem import Constants, load_model, load_sae

        options = self.card.required_options("constants", "self_energies", "files")
        networks = self.checkpoint().parent
        resources = networks.parents[1]
        digest = folder_digest(networks, "*")
        if digest != options["files"]["networks"]:
            raise SourceError(
                f"model '{self.card.id}': its network files have digest {digest}, the card says "
                f"{options['files']['networks']}; reinstall {self.card.checkpoint.package}"
            )
        paths = {}
        for key in ("constants", "self_energies"):
            paths[key] = resources / str(options[key])
            if (found := sha256_of(paths[key])) != options["files"][key]:
                raise SourceError(
                    f"model '{self.card.id}': {paths[key].name} has sha256 {found}, the card says "
                    f"{options['files'][key]}; reinstall {self.card.checkpoint.package}"
                )
        constants = Constants(str(paths["constants"]))
        self._species = {symbol: i for i, symbol in enumerate(constants.species)}
        self._aev = AEVComputer(**constants).to(self.device)
        self._networks = load_model(constants.species, str(networks)).to(self.device).eval()
        self._shift = torch.as_tensor(load_sae(str(paths["self_energies"])).self_energies)

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Run molecules of one size together; nothing is padded."""
        out: dict[int, Embedded] = {}
        for size in {len(s) for s in structures}:
            rows = [i for i, s in enumerate(structures) if len(s) == size]
            out.update(zip(rows, self._run([structures[i] for i in rows]), strict=True))
        return [out[i] for i in range(len(structures))]

    def _run(self, structures: list[Structure]) -> list[Embedded]:
        import torch

        known = [[self._species[s] for s in structure.symbols] for structure in structures]
        species = torch.tensor(known, device=self.device)
        # Centred: single precision loses digits far from the origin.
        places = np.stack([s.positions - s.positions.mean(axis=0) for s in structures])
        positions = torch.tensor(places, dtype=torch.float32, device=self.device)
        with torch.no_grad():
            aev = self._aev((species, positions)).aevs.flatten(0, 1)
            flat = species.flatten()
            energies = self._shift.to(torch.float64)[flat.cpu()]
            hidden: Any = None
            for index, network in enumerate(self._networks.values()):
                atoms = (flat == index).nonzero().flatten()
                if not len(atoms):
                    continue
                last = network[:-1](aev[atoms])
                if hidden is None:
                    hidden = torch.zeros(len(flat), last.shape[1], device=self.device)
                hidden[atoms] = last
                energies[atoms.cpu()] += network[-1](last).flatten().double().cpu()
        count = len(structures)
        nodes = hidden.reshape(count, -1, hidden.shape[1]).cpu().numpy()
        totals = energies.reshape(count, -1).sum(dim=1).tolist()
        return [
            Embedded(nodes={"hidden": n}, energy=e * _HARTREE)
            for n, e in zip(nodes, totals, strict=True)
        ]
