# SPDX-License-Identifier: Apache-2.0
"""RXNMapper and RXNFP against plain transformers and against a published fingerprint."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from string_probes import ASPIRIN, SMILES, adapter, distance, embedded, from_smiles, reason

from matteratlas.builders.adapters.rxn_transformers import _TOKEN, element_of, tokenize
from matteratlas.builders.structures.literals import read_assignment
from matteratlas.registry.catalog import model
from matteratlas.registry.hub import package_file
from matteratlas.schemas.cards import elements_of
from matteratlas.schemas.structures import ATOMIC_NUMBERS

MODELS = ("rxnmapper", "rxnfp-pretrained", "rxnfp-ft", "rxnfp-ft-10k")


def published(model_id: str, smiles: str) -> tuple[torch.Tensor, ...]:
    """All hidden states of one string, from the checkpoint's folder, unpadded and unmasked."""
    source = model(model_id).checkpoint
    folder = package_file(str(source.package), str(source.path)).parent
    cls = transformers.AlbertModel if model_id == "rxnmapper" else transformers.BertModel
    encoder = cls.from_pretrained(folder, local_files_only=True, attn_implementation="eager").eval()
    words = {w.strip(): i for i, w in enumerate((folder / "vocab.txt").open())}
    ids = [words[t] for t in ("[CLS]", *_TOKEN.findall(smiles), "[SEP]")]
    with torch.no_grad():
        return encoder(torch.tensor([ids]), output_hidden_states=True).hidden_states


@pytest.mark.parametrize("model_id", MODELS)
def test_equals_plain_transformers(model_id: str) -> None:
    states = published(model_id, ASPIRIN)
    ours = embedded(model_id, [from_smiles(s) for s in SMILES])[SMILES.index(ASPIRIN)]
    for layer, state in (("last", states[12]), ("layer_6", states[6])):
        theirs = state[0, 1:-1].numpy()
        assert ours.nodes[layer].shape == (len(tokenize(ASPIRIN)), 256)
        assert distance(ours.nodes[layer], theirs) < 1e-5
        assert distance(ours.pooled[layer], theirs.mean(axis=0)) < 1e-5
    assert distance(ours.pooled["last"], ours.pooled["layer_6"]) > 0.1
    if model_id != "rxnmapper":
        assert distance(ours.pooled["cls"], states[12][0, 0].numpy()) < 1e-5


def test_published_reaction_fingerprint() -> None:
    # The five numbers the RXNFP documentation prints for its example reaction.
    reaction = (
        "Nc1cccc2cnccc12.O=C(O)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1"
        ">>O=C(Nc1cccc2cnccc12)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1"
    )
    structure = dataclasses.replace(from_smiles("C"), smiles=reaction)
    (result,) = adapter("rxnfp-ft").forward([structure])
    printed = [-2.0174953937530518, 1.7602033615112305, -1.3323537111282349]
    printed += [-1.1095019578933716, 1.2254549264907837]
    assert np.allclose(result.pooled["cls"][:5], printed, atol=2e-5)


def test_tokens_are_the_packages_own() -> None:
    source = package_file("rxnfp==0.1.0", "rxnfp/tokenization.py", kind="wheel")
    assert _TOKEN.pattern == read_assignment(source, "SMI_REGEX_PATTERN")


@pytest.mark.parametrize(
    ("token", "element"),
    [
        ("C", "C"), ("Cl", "Cl"), ("c", "C"), ("[nH]", "N"), ("[13CH3]", "C"), ("[se]", "Se"),
        ("[C@@H]", "C"), ("[Fe+2]", "Fe"), ("[2H]", "H"), ("[cH-]", "C"), ("(", None), ("1", None),
        ("%10", None), ("=", None), (">>", None),
    ],
)  # fmt: skip
def test_element_of_a_token(token: str, element: str | None) -> None:
    assert element_of(token) == element


@pytest.mark.parametrize("model_id", MODELS)
def test_card_counts_and_elements(model_id: str) -> None:
    loaded, card = adapter(model_id), model(model_id)
    assert card.parameters == sum(p.numel() for p in loaded.model.parameters())  # type: ignore[attr-defined]
    named = {element_of(t) for t in loaded.vocabulary}  # type: ignore[attr-defined]
    assert elements_of(card.supports.elements) == named & set(ATOMIC_NUMBERS)


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("[Po]", "unsupported_element: Po"),
        ("[Ir+5]", "unsupported_element: Ir (no token [Ir+5])"),
        ("[15CH4]", "unsupported_element: C (no token [15CH4])"),
        ("C%30CC%30", "invalid: no token for '%30' in SMILES 'C%30CC%30'"),
        ("C" * 511, "too_large: 511 > 510 tokens"),
    ],
)
def test_what_has_no_token_is_missing(smiles: str, expected: str) -> None:
    structure = dataclasses.replace(from_smiles("C"), smiles=smiles)
    assert reason("rxnfp-ft", structure) == expected


def test_longest_string_fits() -> None:
    (result,) = embedded("rxnfp-ft", [dataclasses.replace(from_smiles("C"), smiles="C" * 510)])
    assert result.nodes["last"].shape == (510, 256)


def test_stereo_is_read() -> None:
    for pair in (("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"), ("C/C=C/C", "C/C=C\\C")):
        a, b = embedded("rxnfp-ft", [from_smiles(s) for s in pair])
        assert distance(a.pooled["last"], b.pooled["last"]) > 1e-3
