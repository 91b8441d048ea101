# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of the molecular graph: Morgan counts and MACCS keys, by RDKit from SMILES.

Morgan takes counts, not bits: homologues such as octane and dodecane set the same bits, and rows
that coincide leave neighbours undefined; counts keep them apart.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...schemas.structures import Structure
from .base import Embedded
from .smiles import SmilesAdapter, quote, read_smiles

if TYPE_CHECKING:
    from rdkit.Chem import Mol


class Fingerprint(SmilesAdapter):
    """What graph fingerprints share: one vector a molecule, read from its SMILES."""

    batch_size: ClassVar[int] = 256
    extra: ClassVar[str] = "sources"

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Fingerprint each molecule."""
        for structure in structures:
            molecule = read_smiles(structure.smiles or "")
            if molecule is None:
                raise ValueError(f"not a readable SMILES: {quote(structure.smiles or '')}")
            yield Embedded(pooled={self.card.default_layer: self.vector(molecule)})

    @abstractmethod
    def vector(self, molecule: Mol) -> np.ndarray:
        """(dim,) fingerprint of one molecule."""


class Morgan(Fingerprint):
    """Hashed counts of circular atom environments (extended-connectivity fingerprint).

    ``options.radius`` bonds, folded to the layer's dimension. Source: D. Rogers and M. Hahn,
    J. Chem. Inf. Model. 50, 742 (2010), doi:10.1021/ci100050t.
    """

    def load(self) -> None:
        """Make the generator."""
        from rdkit.Chem import rdFingerprintGenerator

        radius = int(self.card.required_options("radius")["radius"])
        self._generator = rdFingerprintGenerator.GetMorganGenerator(
            radius=radius, fpSize=self.card.layer().dim
        )

    def vector(self, molecule: Mol) -> np.ndarray:
        """Counts, each at least 0."""
        return np.asarray(self._generator.GetCountFingerprintAsNumPy(molecule))


class Maccs(Fingerprint):
    """The 166 public MACCS structural keys as bits; bit 0 is never set.

    Source: J. L. Durant et al., J. Chem. Inf. Comput. Sci. 42, 1273 (2002),
    doi:10.1021/ci010132r; keys as RDKit defines them.
    """

    def load(self) -> None:
        """Import the key definitions."""
        from rdkit.Chem import rdMolDescriptors

        self._keys = rdMolDescriptors.GetMACCSKeysFingerprint

    def vector(self, molecule: Mol) -> np.ndarray:
        """Bits, 0 or 1."""
        from rdkit.DataStructs import ConvertToNumpyArray

        bits = np.zeros(0, dtype=np.int8)
        ConvertToNumpyArray(self._keys(molecule), bits)
        return bits
