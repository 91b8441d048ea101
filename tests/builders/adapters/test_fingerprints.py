# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from matteratlas.builders.adapters.base import Embedded, Missing, load_adapter
from matteratlas.registry import catalog
from matteratlas.schemas.structures import Structure

SMILES = ["CCO", "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O", "[Na+].[Cl-]", "C[C@H](N)C(=O)O", "[H][H]"]


def structure(smiles: str | None, kind: str = "molecule") -> Structure:
    return Structure(
        source_id=str(smiles), kind=kind, stratum="made", smiles=smiles,  # type: ignore[arg-type]
        numbers=np.array([6]), positions=np.zeros((1, 3)),
    )  # fmt: skip


def vectors(model_id: str, smiles: list[str]) -> np.ndarray:
    results = load_adapter(catalog.model(model_id)).embed([structure(s) for s in smiles])
    layer = catalog.model(model_id).default_layer
    assert all(isinstance(r, Embedded) for r in results), results
    return np.stack([r.pooled[layer] for r in results if isinstance(r, Embedded)])


def test_morgan_equals_rdkit() -> None:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    ours = vectors("morgan", SMILES)
    for smiles, vector in zip(SMILES, ours, strict=True):
        # The older function, a path of its own through RDKit.
        theirs = AllChem.GetHashedMorganFingerprint(Chem.MolFromSmiles(smiles), 2, nBits=2048)
        expected = np.zeros(2048, dtype=np.float32)
        for bit, count in theirs.GetNonzeroElements().items():
            expected[bit] = count
        np.testing.assert_array_equal(vector, expected)
        assert vector.sum() >= 1


def test_maccs_equals_rdkit() -> None:
    from rdkit import Chem
    from rdkit.Chem import MACCSkeys

    ours = vectors("maccs", SMILES)
    for smiles, vector in zip(SMILES, ours, strict=True):
        bits = MACCSkeys.GenMACCSKeys(Chem.MolFromSmiles(smiles)).ToBitString()
        np.testing.assert_array_equal(vector, [int(b) for b in bits])
    assert ours.any(axis=1).sum() >= 5
    assert not ours[:, 0].any()


def test_counts_keep_homologues_apart() -> None:
    octane, dodecane = vectors("morgan", ["C" * 8, "C" * 12])
    np.testing.assert_array_equal(octane > 0, dodecane > 0)
    assert np.abs(octane - dodecane).max() == 4


@pytest.mark.parametrize("model_id", ["morgan", "maccs"])
def test_spelling_of_a_molecule_does_not_matter(model_id: str) -> None:
    rows = vectors(model_id, ["CCO", "OCC", "C(O)C", "[H]OCC"])
    assert all((row == rows[0]).all() for row in rows)


@pytest.mark.parametrize("model_id", ["morgan", "maccs"])
@pytest.mark.parametrize("smiles", ["C1CC", "not a molecule", "CC(C)(C)(C)C", "c1cccc1", ""])
def test_invalid_smiles_is_named(model_id: str, smiles: str) -> None:
    adapter = load_adapter(catalog.model(model_id))
    bad, good = adapter.embed([structure(smiles), structure("C")])
    assert isinstance(bad, Missing)
    assert bad.reason.startswith("invalid: ")
    assert bad.reason.endswith(f"'{smiles}'")
    assert isinstance(good, Embedded)


def test_structures_without_a_graph_are_recorded() -> None:
    adapter = load_adapter(catalog.model("morgan"))
    none, crystal = adapter.embed([structure(None), structure("C", kind="crystal")])
    assert none == Missing("wrong_modality: structure has no smiles")
    assert crystal == Missing("wrong_modality: graph2d model, structure is a crystal")


@pytest.mark.parametrize("model_id", ["morgan", "maccs"])
def test_independent_of_batch_and_order(model_id: str) -> None:
    many = SMILES * 60  # more than one batch
    together = vectors(model_id, many)
    np.testing.assert_array_equal(vectors(model_id, many[::-1])[::-1], together)
    for smiles, row in zip(SMILES, together, strict=False):
        np.testing.assert_array_equal(vectors(model_id, [smiles])[0], row)
