# SPDX-License-Identifier: Apache-2.0
"""The sentence encoder against sentence-transformers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase.build import bulk, molecule
from probes import everything, from_ase
from sentence_transformers import SentenceTransformer
from string_probes import SMILES, adapter, distance, embedded, from_smiles, reason

from matteratlas.builders.describe import describe
from matteratlas.registry.catalog import model
from matteratlas.registry.hub import package_file
from matteratlas.schemas.errors import SourceError

MODEL = "minilm-l6-v2"


@pytest.fixture(scope="module")
def published() -> SentenceTransformer:
    source = model(MODEL).checkpoint
    folder = package_file(str(source.package), str(source.path)).parent
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def test_equals_the_package(published: SentenceTransformer) -> None:
    structures = [*everything(), *(from_smiles(s) for s in SMILES)]
    texts = [describe(s) for s in structures]
    for ours, theirs, text in zip(
        embedded(MODEL, structures), published.encode(texts), texts, strict=True
    ):
        assert distance(ours.pooled["sentence"], theirs) < 1e-5
        assert np.linalg.norm(ours.pooled["sentence"]) == pytest.approx(1.0, abs=1e-5)
        assert ours.nodes == {}
        assert text


def test_middle_layer(published: SentenceTransformer) -> None:
    import torch

    structure = everything()[0]
    (ours,) = embedded(MODEL, [structure])
    tokens = published.tokenizer(describe(structure), return_tensors="pt")
    with torch.no_grad():
        states = published[0].auto_model(**tokens, output_hidden_states=True).hidden_states
    assert len(states) == 7
    assert distance(ours.pooled["layer_3"], states[3][0].mean(dim=0).numpy()) < 1e-5


def test_batches_do_not_change_rows() -> None:
    structures = [*everything(), from_ase(bulk("Cu"), "Cu"), from_ase(molecule("H2O"), "H2O")]
    for structure, row in zip(structures, embedded(MODEL, structures), strict=True):
        (alone,) = embedded(MODEL, [structure])
        assert distance(row.pooled["sentence"], alone.pooled["sentence"]) < 1e-5


def test_long_descriptions_are_missing() -> None:
    long = dataclasses.replace(from_smiles("C"), smiles="C(=O)" * 100 + "C")
    why = reason(MODEL, long)
    assert why.startswith("too_large: ")
    assert why.endswith(" > 256 word pieces")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A" * 100, None),
        ("A" * 101, "too_large: a word of 101 > 100 letters"),
        ("\U00012000", "invalid: the description holds a character the tokenizer does not know"),
    ],
)
def test_what_the_tokenizer_cannot_split_is_missing(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: str | None
) -> None:
    monkeypatch.setattr("matteratlas.builders.describe.describe", lambda _: f"Sequence: {text}")
    assert adapter(MODEL).missing_reason(from_smiles("C")) == expected


def test_card_counts_and_companions_are_checked() -> None:
    loaded, card = adapter(MODEL), model(MODEL)
    assert card.parameters == sum(p.numel() for p in loaded.model.parameters())  # type: ignore[attr-defined]
    options = dict(card.options or {})
    files = {**options["files"], "tokenizer.json": "0" * 64}
    changed = card.model_copy(update={"options": {**options, "files": files}})
    with pytest.raises(SourceError, match=r"tokenizer\.json has sha256"):
        type(loaded)(changed)
