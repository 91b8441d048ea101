# SPDX-License-Identifier: Apache-2.0
"""What the readers of SMILES strings share: which strings a model can take, and why not."""

from __future__ import annotations

import re
from typing import Any

from ...schemas.structures import Structure
from .base import Adapter

#: Characters of a SMILES quoted in a reason.
_QUOTED = 120

#: An element, or the wildcard, in a molecular formula.
_SYMBOL = re.compile(r"[A-Z][a-z]?|\*")


def quote(smiles: str) -> str:
    """The string in quotes, shortened to fit a one-line reason."""
    return f"'{smiles}'" if len(smiles) <= _QUOTED else f"'{smiles[:_QUOTED]}...'"


def read_smiles(smiles: str) -> Any | None:
    """The RDKit molecule a SMILES writes, hydrogens left implicit, or None when it is not valid."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    return mol if mol is not None and mol.GetNumAtoms() else None


class SmilesAdapter(Adapter):
    """An adapter that reads ``Structure.smiles``.

    On top of the card's limits, a string RDKit cannot read is ``invalid`` and an atom the model
    has no symbol for, a wildcard included, is an ``unsupported_element``.
    """

    def missing_reason(self, structure: Structure) -> str | None:
        """Why the card or the string excludes this structure, or None when it does not."""
        from rdkit.Chem.rdMolDescriptors import CalcMolFormula

        reason = super().missing_reason(structure)
        if reason is not None or structure.smiles is None:
            return reason
        mol = read_smiles(structure.smiles)
        if mol is None:
            return f"invalid: not a readable SMILES: {quote(structure.smiles)}"
        # The formula is read off in compiled code; hydrogen the base class has checked.
        symbols = sorted(set(_SYMBOL.findall(CalcMolFormula(mol))) - {"H"})
        unknown = [s for s in symbols if s == "*" or (self._elements and s not in self._elements)]
        if unknown:
            return f"unsupported_element: {','.join(unknown)}"
        return self.string_reason(structure.smiles)

    def string_reason(self, smiles: str) -> str | None:
        """Why the model's own alphabet or length limit excludes the string, or None."""
        del smiles
        return None
