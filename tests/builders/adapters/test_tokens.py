# SPDX-License-Identifier: Apache-2.0
"""Padding, batching and checked loading of the token models."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel

from matteratlas.builders.adapters.base import load_adapter
from matteratlas.builders.adapters.tokens import (
    companion,
    length_batches,
    load_encoder,
    pad_tokens,
)
from matteratlas.registry.catalog import model
from matteratlas.registry.hub import sha256_of
from matteratlas.schemas.errors import CardError, SourceError


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=60), st.integers(64, 1024))
def test_batches_hold_every_row_once(lengths: list[int], budget: int) -> None:
    batches = list(length_batches(lengths, budget=budget))
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * max(lengths[r] for r in rows) <= budget


def test_padding_and_mask() -> None:
    tokens, mask = pad_tokens([[5, 6, 7], [8]], pad=0)
    assert tokens.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_companions_are_named_and_checked(tmp_path: Path) -> None:
    card = model("rxnfp-ft")
    with pytest.raises(CardError, match=r"'options\.files' does not name 'merges\.txt'"):
        companion(card, tmp_path, "merges.txt")
    with pytest.raises(SourceError, match=r"rxnfp==0\.1\.0 holds no 'vocab\.txt'"):
        companion(card, tmp_path, "vocab.txt")
    (tmp_path / "vocab.txt").write_text("C\n")
    with pytest.raises(SourceError, match=r"vocab\.txt has sha256"):
        companion(card, tmp_path, "vocab.txt")
    files = {"vocab.txt": sha256_of(tmp_path / "vocab.txt")}
    changed = card.model_copy(update={"options": {"files": files}})
    assert companion(changed, tmp_path, "vocab.txt") == tmp_path / "vocab.txt"


def test_partly_filled_encoders_are_refused(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8,
    )  # fmt: skip
    weights = BertModel(config, add_pooling_layer=False).state_dict()
    config.save_pretrained(tmp_path)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    loaded = load_encoder("bert", tmp_path)
    assert torch.equal(loaded.state_dict()["embeddings.LayerNorm.weight"], torch.ones(8))
    del weights["encoder.layer.0.output.dense.weight"]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"lack 'encoder\.layer\.0\.output\.dense\.weight'"):
        load_encoder("bert", tmp_path)


@pytest.mark.parametrize(
    "model_id",
    [
        "chemnet", "rxnmapper", "rxnfp-ft", "admet-regression-0", "unirep-64", "minilm-l6-v2",
        "proteinmpnn-v48-020",
    ],
)  # fmt: skip
def test_loading_opens_no_connection(monkeypatch: pytest.MonkeyPatch, model_id: str) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("an adapter reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert load_adapter(model(model_id)).card.id == model_id
