# SPDX-License-Identifier: Apache-2.0
"""What every reader of SMILES refuses, and how a batch hangs together."""

from __future__ import annotations

import dataclasses

import pytest
from ase.build import bulk
from probes import from_ase
from string_probes import SMILES, adapter, distance, embedded, from_smiles, reason

from matteratlas.builders.adapters.smiles import quote, read_smiles

READERS = ("chemnet", "rxnmapper", "rxnfp-ft", "admet-classification-0")


def test_hydrogens_stay_implicit() -> None:
    mol = read_smiles("CCO")
    assert mol is not None
    assert mol.GetNumAtoms() == 3


@pytest.mark.parametrize("smiles", ["", "C1CC", "c1cccc1", "CC(C)(C)(C)C", "not a molecule"])
def test_unreadable_strings_are_none(smiles: str) -> None:
    assert read_smiles(smiles) is None


def test_quotes_are_short() -> None:
    assert quote("CCO") == "'CCO'"
    assert len(quote("C" * 1000)) < 130


@pytest.mark.parametrize("model_id", READERS)
@pytest.mark.parametrize("smiles", ["C1CC", "", "CN(C)(C)(C)C"])
def test_invalid_string_is_named(model_id: str, smiles: str) -> None:
    broken = dataclasses.replace(from_smiles("CCO"), smiles=smiles)
    assert reason(model_id, broken) == f"invalid: not a readable SMILES: '{smiles}'"


@pytest.mark.parametrize("model_id", READERS)
def test_no_string_or_no_molecule_is_another_modality(model_id: str) -> None:
    bare = dataclasses.replace(from_smiles("CCO"), smiles=None)
    assert reason(model_id, bare) == "wrong_modality: structure has no smiles"
    assert reason(model_id, from_ase(bulk("Si"), "Si")).startswith("wrong_modality: ")


@pytest.mark.parametrize("model_id", READERS)
def test_wildcards_are_no_element(model_id: str) -> None:
    wild = dataclasses.replace(from_smiles("CCO"), smiles="*CCO")
    assert reason(model_id, wild) == "unsupported_element: *"


@pytest.mark.parametrize("model_id", READERS)
def test_the_string_speaks_even_when_the_atoms_do_not(model_id: str) -> None:
    # Ruthenocene's string on ethanol's atoms: what the model reads is what counts.
    metal = dataclasses.replace(from_smiles("CCO"), smiles="[Po]")
    assert reason(model_id, metal) == "unsupported_element: Po"


@pytest.mark.parametrize("model_id", READERS)
def test_batches_do_not_change_rows(model_id: str) -> None:
    loaded = adapter(model_id)
    structures = [s for s in map(from_smiles, SMILES) if loaded.missing_reason(s) is None]
    assert len(structures) >= 9
    together = embedded(model_id, structures)
    backwards = embedded(model_id, structures[::-1])[::-1]
    for structure, a, b in zip(structures, together, backwards, strict=True):
        (alone,) = embedded(model_id, [structure])
        assert alone.pooled.keys() == {layer.name for layer in loaded.card.layers}
        for layer in alone.pooled:
            assert distance(a.pooled[layer], alone.pooled[layer]) < loaded.card.tolerance
            assert distance(b.pooled[layer], alone.pooled[layer]) < loaded.card.tolerance
        for layer in alone.nodes:
            assert distance(a.nodes[layer], alone.nodes[layer]) < loaded.card.tolerance


@pytest.mark.parametrize("model_id", READERS)
def test_a_broken_row_leaves_its_batch_alone(model_id: str) -> None:
    good = from_smiles("CCO")
    results = adapter(model_id).embed([good, dataclasses.replace(good, smiles="C1CC"), good])
    (alone,) = embedded(model_id, [good])
    for layer, values in alone.pooled.items():
        assert distance(results[0].pooled[layer], values) < 1e-5  # type: ignore[union-attr]
        assert distance(results[2].pooled[layer], values) < 1e-5  # type: ignore[union-attr]
    assert results[1].reason.startswith("invalid: ")  # type: ignore[union-attr]
