# SPDX-License-Identifier: Apache-2.0
"""Geometric descriptors by DScribe: SOAP, weighted symmetry functions, Coulomb eigenspectra.

One space must hold molecules and crystals of any elements, so nothing here has a slot for each
element or pair of elements. Elements enter as numbers instead: every atomic density or symmetry
function is summed over the neighbours with a weight w(Z), once for each of

    one       w = 1                                  geometry alone
    period    w = period / 7
    position  w = (Z - Z0) / (Z1 - Z0)               place within the period

where Z0 and Z1 are the noble gases that end the period before and this one. Period and position
together name an element; both lie in (0, 1], so no channel drowns another.

Sources: A. P. Bartók et al., Phys. Rev. B 87, 184115 (2013); J. P. Darby et al., npj Comput.
Mater. 8, 166 (2022), the compression "mu2"; J. Behler, J. Chem. Phys. 134, 074106 (2011);
M. Gastegger et al., J. Chem. Phys. 148, 241709 (2018), Eqs. 7 and 8; M. Rupp et al., Phys. Rev.
Lett. 108, 058301 (2012); F. Faber et al., Int. J. Quantum Chem. 115, 1094 (2015).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ...schemas.errors import CardError
from ...schemas.structures import ATOMIC_NUMBERS, Structure
from .base import Adapter, Embedded, to_ase

if TYPE_CHECKING:
    import ase

#: Atomic numbers at which periods end; the first is the vacuum before hydrogen.
NOBLE: tuple[int, ...] = (0, 2, 10, 18, 36, 54, 86, 118)
#: The elements the descriptors span.
SPECIES: tuple[int, ...] = tuple(range(1, ATOMIC_NUMBERS["Lr"] + 1))
#: The weight functions w(Z), in the order of their channels.
CHANNELS: tuple[str, ...] = ("one", "period", "position")


def element_weights(channel: str) -> dict[int, float]:
    """w(Z) in (0, 1] for H to Lr, for one of :data:`CHANNELS`."""
    weights: dict[int, float] = {}
    for z in SPECIES:
        period = next(p for p in range(1, len(NOBLE)) if z <= NOBLE[p])
        start, end = NOBLE[period - 1], NOBLE[period]
        weights[z] = {"one": 1.0, "period": period / 7, "position": (z - start) / (end - start)}[
            channel
        ]
    return weights


def _wrapped(structure: Structure) -> ase.Atoms:
    """ASE atoms folded into the cell along periodic directions.

    DScribe repeats the cell only as far as its cutoff needs from inside the cell, so an atom given
    in a far periodic image would lose neighbours (seen with 2.1.2, an error of 1 %).
    """
    atoms = to_ase(structure)
    atoms.wrap()
    return atoms


class Soap(Adapter):
    """Smooth overlap of atomic positions, compressed over elements ("mu2"), a channel a weight.

    The layer is the power spectra of the three weighted densities side by side:
    3 x n_max (n_max + 1) / 2 x (l_max + 1) numbers an atom, in DScribe's order. The atom itself is
    part of its density, so its own element is seen too.
    """

    def load(self) -> None:
        """Make one SOAP a channel, for clusters and for periodic cells."""
        from dscribe.descriptors import SOAP

        options = self.card.required_options("r_cut", "n_max", "l_max", "sigma")
        self._soaps = {
            periodic: [
                SOAP(
                    species=SPECIES,
                    periodic=periodic,
                    compression={"mode": "mu2", "species_weighting": element_weights(channel)},
                    **options,
                )
                for channel in CHANNELS
            ]
            for periodic in (False, True)
        }

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Per-atom power spectra."""
        for structure in structures:
            atoms = _wrapped(structure)
            parts = [s.create(atoms) for s in self._soaps[structure.periodicity > 0]]
            yield Embedded(nodes={self.card.default_layer: np.concatenate(parts, axis=1)})


class Acsf(Adapter):
    """Weighted atom-centred symmetry functions (wACSF).

    For each weight w, per atom i, over neighbours j and unordered pairs of neighbours j, k:

        G1 = sum_j w_j fc(r_ij)
        G2 = sum_j w_j exp(-eta (r_ij - R_s)^2) fc(r_ij)
        G4 = sum_jk w_j w_k 2^(1-zeta) (1 + lambda cos theta_jik)^zeta
             exp(-eta (r_ij^2 + r_ik^2 + r_jk^2)) fc(r_ij) fc(r_ik) fc(r_jk)

    DScribe computes the sums element by element; the weighted sum over elements is exact. Weights
    are those of this module instead of the paper's w = Z, under which heavy neighbours drown the
    rest. Three x (1 + n_G2 + n_G4) numbers an atom: G1, G2 ..., G4 ... of each weight in turn.
    """

    def load(self) -> None:
        """Take the parameters; DScribe objects are made for the elements at hand."""
        options = self.card.required_options("r_cut", "g2", "g4")
        self._parameters: dict[str, Any] = {
            "r_cut": float(options["r_cut"]),
            "g2_params": np.asarray(options["g2"], dtype=float),
            "g4_params": np.asarray(options["g4"], dtype=float),
        }
        self._weights = [element_weights(channel) for channel in CHANNELS]

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Per-atom symmetry functions."""
        from dscribe.descriptors import ACSF

        for structure in structures:
            species = sorted({int(z) for z in structure.numbers})
            acsf = ACSF(species=species, periodic=structure.periodicity > 0, **self._parameters)
            resolved = np.asarray(acsf.create(_wrapped(structure)))
            yield Embedded(nodes={self.card.default_layer: self._weigh(resolved, species)})

    def _weigh(self, resolved: np.ndarray, species: Sequence[int]) -> np.ndarray:
        """Contract the element axes of DScribe's (n, types x two + pairs x three) output."""
        n, types = len(resolved), len(species)
        two = 1 + len(self._parameters["g2_params"])
        radial = resolved[:, : types * two].reshape(n, types, two)
        # DScribe's pairs: (0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2) ...
        pairs = [(j, k) for k, j in product(range(types), repeat=2) if j <= k]
        angular = resolved[:, types * two :].reshape(n, len(pairs), -1)
        parts = []
        for weights in self._weights:
            w = np.array([weights[z] for z in species])
            ww = np.array([w[j] * w[k] for j, k in pairs])
            parts += [np.einsum("ntf,t->nf", radial, w), np.einsum("npf,p->nf", angular, ww)]
        return np.concatenate(parts, axis=1)


class CoulombEigenspectrum(Adapter):
    """Eigenvalues of the Coulomb matrix (molecules) or the sine matrix (3D-periodic cells).

    Sorted by descending absolute value and padded with zeros to ``supports.max_atoms``. Diagonal
    0.5 Z^2.4; off-diagonal Z_i Z_j / d with d the distance in Å, or Faber's periodic sine measure
    of it. Of the matrix of a whole structure: nothing to pool, and a supercell differs from its
    unit cell.
    """

    def load(self) -> None:
        """Make both descriptors."""
        from dscribe.descriptors import CoulombMatrix, SineMatrix

        dim = self.card.layer().dim
        if self.card.supports.max_atoms != dim:
            raise CardError(
                f"model '{self.card.id}': key 'supports.max_atoms' must equal the layer's dim {dim}"
            )
        mend_dscribe_system()
        self._coulomb = CoulombMatrix(n_atoms_max=dim, permutation="eigenspectrum")
        self._sine = SineMatrix(n_atoms_max=dim, permutation="eigenspectrum")

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """One eigenspectrum a structure."""
        for structure in structures:
            descriptor = self._sine if structure.periodicity else self._coulomb
            with warnings.catch_warnings():
                # DScribe 2.1.2 still calls ASE's deprecated get_calculator.
                warnings.simplefilter("ignore", category=FutureWarning)
                values = descriptor.create(to_ase(structure))
            yield Embedded(pooled={self.card.default_layer: values})


def mend_dscribe_system() -> bool:
    """Let DScribe 2.1.2 build its ``System`` under ASE 3.28 and later; True when it was needed.

    DScribe hands ``ase.Atoms`` its arguments by position and ASE has since inserted one, so momenta
    arrive as velocities. Where (and only where) that fails, the constructor is replaced by one that
    passes them by keyword. Only the sine matrix and MBTR use ``System``.
    """
    import ase
    from dscribe.core.system import System

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=FutureWarning)
            System.from_atoms(ase.Atoms("H"))
    except TypeError:
        pass
    else:
        return False

    def construct(
        self: Any,
        symbols: Any = None,
        wyckoff_positions: Any = None,
        equivalent_atoms: Any = None,
        **given: Any,
    ) -> None:
        ase.Atoms.__init__(self, symbols, **{k: v for k, v in given.items() if v is not None})
        self.wyckoff_positions, self.equivalent_atoms = wyckoff_positions, equivalent_atoms
        self._cell_inverse = self._displacement_tensor = None
        self._distance_matrix = self._inverse_distance_matrix = None

    System.__init__ = construct
    return True
