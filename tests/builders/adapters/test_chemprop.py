# SPDX-License-Identifier: Apache-2.0
"""Chemprop message passing against the package's own data loader, one molecule at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from chemprop import data, featurizers
from chemprop.models.utils import load_model
from string_probes import SMILES, adapter, distance, embedded, from_smiles, reason

from matteratlas.registry.catalog import model, models
from matteratlas.registry.hub import package_file
from matteratlas.schemas.cards import elements_of
from matteratlas.schemas.structures import SYMBOLS

MEMBERS = tuple(m for m, card in models().items() if card.family == "admet")


def published(model_id: str, smiles: str) -> tuple[np.ndarray, np.ndarray]:
    """Atom vectors and fingerprint of one molecule, through the package's own loader."""
    source = model(model_id).checkpoint
    network = load_model(package_file(str(source.package), str(source.path)), multicomponent=False)
    network.eval()
    points = [data.MoleculeDatapoint.from_smi(smiles)]
    dataset = data.MoleculeDataset(points, featurizers.SimpleMoleculeMolGraphFeaturizer())
    (batch,) = data.build_dataloader(dataset, batch_size=1, shuffle=False)
    with torch.no_grad():
        atoms = network.message_passing(batch.bmg, batch.V_d)
        return atoms.numpy(), network.fingerprint(batch.bmg, batch.V_d)[0].numpy()


@pytest.mark.parametrize("model_id", ["admet-classification-0", "admet-regression-4"])
def test_equals_the_package(model_id: str) -> None:
    ours = embedded(model_id, [from_smiles(s) for s in SMILES])
    for smiles, mine in zip(SMILES, ours, strict=True):
        atoms, fingerprint = published(model_id, smiles)
        assert distance(mine.nodes["message_passing"], atoms) < 1e-5
        assert distance(mine.pooled["message_passing"], atoms.mean(axis=0)) < 1e-5
        assert distance(mine.pooled["fingerprint"], fingerprint) < 1e-5


def test_ten_members_that_differ() -> None:
    assert len(MEMBERS) == 10
    caffeine = from_smiles(SMILES[-2])
    rows = [embedded(m, [caffeine])[0].pooled["message_passing"] for m in MEMBERS]
    for i, row in enumerate(rows):
        assert all(distance(row, other) > 0.05 for other in rows[:i])
    for member in MEMBERS:
        parameters = adapter(member).model.parameters()  # type: ignore[attr-defined]
        assert model(member).parameters == sum(p.numel() for p in parameters)


def test_rows_are_heavy_atoms_and_the_fingerprint_grows() -> None:
    small, large = embedded("admet-regression-0", [from_smiles("C" * n) for n in (4, 8)])
    assert small.nodes["message_passing"].shape == (4, 300)
    assert large.nodes["message_passing"].shape == (8, 300)
    total = large.nodes["message_passing"].sum(axis=0) / 100
    assert distance(large.pooled["fingerprint"], total) < 1e-5


def test_stereo_is_read() -> None:
    for pair in (("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"), ("C/C=C/C", "C/C=C\\C")):
        a, b = embedded("admet-classification-1", [from_smiles(s) for s in pair])
        assert distance(a.pooled["message_passing"], b.pooled["message_passing"]) > 1e-3


def test_elements_are_those_with_a_feature_of_their_own() -> None:
    slots = featurizers.SimpleMoleculeMolGraphFeaturizer().atom_featurizer.atomic_nums
    card = model("admet-classification-0")
    assert elements_of(card.supports.elements) == {SYMBOLS[z] for z in slots}
    assert reason(card.id, from_smiles("C[Sn](C)(C)C")) == "unsupported_element: Sn"
