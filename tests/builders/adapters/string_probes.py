# SPDX-License-Identifier: Apache-2.0
"""Real molecules from SMILES, real chains from PDB files, and each adapter loaded once."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from matteratlas.builders.adapters.base import Adapter, Embedded, Missing, load_adapter
from matteratlas.registry.catalog import model
from matteratlas.registry.hub import package_file
from matteratlas.schemas.structures import ATOMIC_NUMBERS, Structure

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
CAFFEINE = "Cn1c(=O)c2c(ncn2C)n(C)c1=O"
#: One atom, rings, charges, salts, stereo, halogens, a larger drug (imatinib).
SMILES = (
    "C",
    "CCO",
    "O=S(C)C",
    "[Na+].[Cl-]",
    "C[N+](C)(C)CC(=O)[O-]",
    "C[C@H](N)C(=O)O",
    "FC(Cl)(Br)I",
    ASPIRIN,
    CAFFEINE,
    "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",
)


def from_smiles(smiles: str, **known: Any) -> Structure:
    """A molecule by its string, with RDKit's first geometry."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if AllChem.EmbedMolecule(mol, randomSeed=1) != 0:
        raise RuntimeError(f"no geometry for {smiles}")
    return Structure(
        source_id=smiles,
        kind="molecule",
        stratum="probes",
        numbers=np.array([a.GetAtomicNum() for a in mol.GetAtoms()]),
        positions=mol.GetConformer().GetPositions(),
        smiles=smiles,
        **known,
    )


def chain(name: str) -> Structure:
    """The first chain of a PDB file among Biopython's test data; absent atoms are NaN."""
    import biotite.structure as bs
    from biotite.sequence import ProteinSequence
    from biotite.structure.io.pdb import PDBFile

    path = package_file("biopython==1.88", f"Tests/PDB/{name}.pdb", kind="sdist")
    atoms = PDBFile.read(path).get_structure(model=1)
    atoms = atoms[bs.filter_canonical_amino_acids(atoms) & (atoms.element != "H")]
    atoms = atoms[atoms.chain_id == atoms.chain_id[0]]
    letters, backbone = [], []
    for residue in bs.residue_iter(atoms):
        place = dict(zip(residue.atom_name, residue.coord, strict=True))
        letters.append(ProteinSequence.convert_letter_3to1(residue.res_name[0]))
        backbone.append([place.get(n, np.full(3, np.nan)) for n in ("N", "CA", "C", "O")])
    return Structure(
        source_id=name,
        kind="protein",
        stratum="probes",
        numbers=np.array([ATOMIC_NUMBERS[e.capitalize()] for e in atoms.element]),
        positions=atoms.coord.astype(float),
        sequence="".join(letters),
        backbone=np.array(backbone, dtype=float),
    )


@cache
def adapter(model_id: str) -> Adapter:
    """The adapter of a card, loaded once a process."""
    return load_adapter(model(model_id))


def embedded(model_id: str, structures: list[Structure]) -> list[Embedded]:
    """Embeddings of structures the model must be able to take."""
    results = adapter(model_id).embed(structures)
    assert len(results) == len(structures) > 0
    for result in results:
        assert isinstance(result, Embedded), result
    return results  # type: ignore[return-value]


def reason(model_id: str, structure: Structure) -> str:
    """Why the model cannot take a structure."""
    (result,) = adapter(model_id).embed([structure])
    assert isinstance(result, Missing)
    return result.reason


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """Largest difference, relative to the largest entry of ``y``."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    assert x.shape == y.shape
    return float(np.abs(x - y).max() / np.abs(y).max())
