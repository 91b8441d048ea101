# SPDX-License-Identifier: Apache-2.0
"""ESM-2 in small: the published vocabulary, residues and nothing else, batches of any lengths."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest
import torch
from probes import molecules, proteins
from string_probes import chain, distance
from tiny_weights import DIM, ESM_VOCABULARY, TINY, tiny_adapter

from matteratlas.builders.adapters.base import Embedded, Missing
from matteratlas.schemas.structures import Structure

SEQUENCES = ("M", "MKTAYIAKQR", "XBUZO", "GSHMWEDLFNACDPVYQI" * 5)


@cache
def small(model_id: str) -> Any:
    return tiny_adapter(TINY[model_id])


def protein(sequence: str) -> Structure:
    return dataclasses.replace(proteins()[0], sequence=sequence, backbone=None)


@pytest.mark.parametrize("model_id", ["esm2-8m", "esm2-150m", "esm2-650m"])
def test_equals_plain_transformers(model_id: str) -> None:
    adapter = small(model_id)
    results = adapter.embed([protein(s) for s in SEQUENCES])
    for sequence, result in zip(SEQUENCES, results, strict=True):
        assert isinstance(result, Embedded), result
        tokens = ["<cls>", *sequence, "<eos>"]
        ids = torch.tensor([[ESM_VOCABULARY.index(t) for t in tokens]])
        with torch.no_grad():
            states = adapter.model(ids, output_hidden_states=True).hidden_states
        for layer in adapter.card.layers:
            place = -1 if layer.name == "last" else int(layer.name.removeprefix("layer_"))
            theirs = states[place][0, 1:-1].numpy()
            assert result.nodes[layer.name].shape == (len(sequence), DIM)
            assert distance(result.nodes[layer.name], theirs) < 1e-4
            assert distance(result.pooled[layer.name], theirs.mean(axis=0)) < 1e-4


def test_a_real_chain() -> None:
    (result,) = small("esm2-8m").embed([chain("1A8O")])
    assert isinstance(result, Embedded) and result.nodes["last"].shape == (66, DIM)


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ("MK-A", "invalid: no token for residue '-'"),
        ("MK.A", "invalid: no token for residue '.'"),
        ("MKJA", "invalid: no token for residue 'J'"),
        ("mkta", "invalid: no token for residue 'm'"),
        ("", "too_small: 0 < 1"),
        ("A" * 1023, "too_large: 1023 > 1022"),
    ],
)
def test_what_it_cannot_read(sequence: str, expected: str) -> None:
    assert small("esm2-8m").missing_reason(protein(sequence)) == expected


def test_longest_chain_fits_and_molecules_do_not() -> None:
    results = small("esm2-8m").embed([protein("A" * 1022), molecules()[0]])
    assert isinstance(results[0], Embedded) and len(results[0].nodes["last"]) == 1022
    assert isinstance(results[1], Missing) and results[1].reason.startswith("wrong_modality: ")
