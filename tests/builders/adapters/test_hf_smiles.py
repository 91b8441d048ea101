# SPDX-License-Identifier: Apache-2.0
"""ChemBERTa and ChemGPT in small: tokens, special tokens, and what has no token."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
import selfies
import torch
from string_probes import ASPIRIN, SMILES, distance, from_smiles
from tiny_weights import DIM, SELFIES_SYMBOLS, TINY, tiny_adapter

from matteratlas.builders.adapters.base import Embedded, Missing

READABLE = tuple(s for s in SMILES if not any(x in s for x in ("Na", "Cl", "I")))


@cache
def small(model_id: str) -> Any:
    return tiny_adapter(TINY[model_id])


def own_states(model_id: str, ids: list[int]) -> tuple[torch.Tensor, ...]:
    """All hidden states of one string, unpadded and unmasked, from the model itself."""
    with torch.no_grad():
        found = small(model_id).model(torch.tensor([ids]), output_hidden_states=True)
    return tuple(s[0] for s in found.hidden_states)


def reason(model_id: str, smiles: str) -> str:
    (result,) = small(model_id).embed([dataclasses.replace(from_smiles("C"), smiles=smiles)])
    assert isinstance(result, Missing), smiles
    return result.reason


@pytest.mark.parametrize("model_id", ["chemberta-77m-mtr", "chemberta-77m-mlm", "chemgpt-1.2b"])
def test_rows_are_the_strings_own_tokens(model_id: str) -> None:
    adapter = small(model_id)
    structures = [from_smiles(s) for s in READABLE]
    assert len(structures) >= 7
    for smiles, result in zip(READABLE, adapter.embed(structures), strict=True):
        assert isinstance(result, Embedded), (smiles, result)
        vocabulary = adapter.tokenizer.get_vocab()
        if model_id == "chemgpt-1.2b":
            ids = [vocabulary[s] for s in selfies.split_selfies(selfies.encoder(smiles))]
            states, inner = own_states(model_id, ids), slice(0, None)
        else:
            ids = [vocabulary[c] for c in smiles]
            ids = [vocabulary["[CLS]"], *ids, vocabulary["[SEP]"]]
            states, inner = own_states(model_id, ids), slice(1, -1)
        for layer in adapter.card.layers:
            place = -1 if layer.name == "last" else int(layer.name.removeprefix("layer_"))
            theirs = states[place][inner].numpy()
            assert result.nodes[layer.name].shape == theirs.shape == (len(ids[inner]), DIM)
            assert distance(result.nodes[layer.name], theirs) < 1e-4
            assert distance(result.pooled[layer.name], theirs.mean(axis=0)) < 1e-4


def test_layers_differ() -> None:
    (found,) = small("chemberta-77m-mtr").embed([from_smiles(ASPIRIN)])
    names = list(found.pooled)
    assert names == ["last", "layer_1", "layer_2"]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert distance(found.pooled[names[a]], found.pooled[names[b]]) > 0.05


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("CCl", "invalid: no token for 'l' in smiles 'CCl'"),
        ("[Na+].[Cl-]", "invalid: no token for 'a' in smiles '[Na+].[Cl-]'"),
        ("C" * 511, "too_large: 511 > 510 tokens"),
        ("C(", "invalid: not a readable SMILES: 'C('"),
        ("*C", "unsupported_element: *"),
    ],
)
def test_what_chemberta_cannot_read(smiles: str, expected: str) -> None:
    assert reason("chemberta-77m-mtr", smiles) == expected


def test_chemberta_reads_as_far_as_its_positions_go() -> None:
    (result,) = small("chemberta-77m-mtr").embed(
        [dataclasses.replace(from_smiles("C"), smiles="C" * 510)]
    )
    assert isinstance(result, Embedded) and len(result.nodes["last"]) == 510


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("CI", "invalid: no token for '[I]' in selfies '[C][I]'"),
        ("C.C", "invalid: no token for '.' in selfies '[C].[C]'"),
        ("C" * 2049, "too_large: 2049 > 2048 tokens"),
        ("[NH3]->[Cu]", "invalid: selfies cannot write SMILES '[NH3]->[Cu]'"),
    ],
)
def test_what_chemgpt_cannot_read(smiles: str, expected: str) -> None:
    assert reason("chemgpt-1.2b", smiles) == expected


def test_selfies_are_of_the_version_chemgpt_was_trained_with() -> None:
    # The symbols of version 2 ([Branch1], [=Branch1], [=Ring1], [NH1]) are none of its vocabulary.
    written = small("chemgpt-1.2b").written("CC(=O)Nc1cc[nH]n1")
    symbols = list(selfies.split_selfies(written))
    assert {"[Branch1_2]", "[Expl=Ring1]", "[NHexpl]"} <= set(symbols) <= set(SELFIES_SYMBOLS)
    assert "selfies" in (TINY["chemgpt-1.2b"].environment or {})


def test_chemgpt_is_causal() -> None:
    short, long = small("chemgpt-1.2b").embed([from_smiles("CCO"), from_smiles("CCON")])
    assert distance(long.nodes["last"][:3], short.nodes["last"]) < 1e-4
    assert not np.allclose(long.pooled["last"], short.pooled["last"], atol=1e-3)


def test_stereo_and_charge_are_read() -> None:
    for model_id in ("chemberta-77m-mtr", "chemgpt-1.2b"):
        for pair in (("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"), ("CC(=O)[O-]", "CC(=O)O")):
            a, b = small(model_id).embed([from_smiles(s) for s in pair])
            assert distance(a.pooled["last"], b.pooled["last"]) > 1e-3, (model_id, pair)
