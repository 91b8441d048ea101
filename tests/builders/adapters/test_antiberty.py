# SPDX-License-Identifier: Apache-2.0
"""AntiBERTy against its weights put into a plain BERT, tokens as the package makes them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers
from probes import proteins
from string_probes import adapter, chain, distance, embedded, reason

from matteratlas.registry.catalog import model
from matteratlas.registry.hub import package_file
from matteratlas.schemas.errors import SourceError
from matteratlas.schemas.structures import Structure

MODEL = "antiberty"
#: The heavy chain of an antibody.
HEAVY = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSAISGSGGSTYY"
    "ADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYCAK"
)


def protein(sequence: str) -> Structure:
    return dataclasses.replace(proteins()[0], sequence=sequence, backbone=None)


@pytest.fixture(scope="module")
def plain() -> tuple[torch.nn.Module, dict[str, int]]:
    source = model(MODEL).checkpoint
    folder = package_file(str(source.package), str(source.path)).parent
    network = transformers.BertModel(
        transformers.BertConfig.from_pretrained(folder), add_pooling_layer=False
    )
    weights = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    kept = {k.removeprefix("bert."): v for k, v in weights.items() if k.startswith("bert.")}
    assert network.load_state_dict(kept, strict=False).missing_keys == []
    words = (folder.parent / "vocab.txt").read_text().split("\n")
    return network.eval(), {word: i for i, word in enumerate(words)}


def test_equals_the_weights_in_a_plain_bert(plain: tuple[torch.nn.Module, dict[str, int]]) -> None:
    network, vocabulary = plain
    sequences = [HEAVY, "MKTAYIAKQR", str(chain("1A8O").sequence)]
    results = embedded(MODEL, [protein(s) for s in sequences])
    for sequence, ours in zip(sequences, results, strict=True):
        ids = [2, *(vocabulary[letter] for letter in sequence), 3]
        with torch.no_grad():
            states = network(torch.tensor([ids]), output_hidden_states=True).hidden_states
        assert len(states) == 9
        for layer, index in (("layer_4", 4), ("layer_8", 8)):
            theirs = states[index][0, 1:-1].numpy()
            assert ours.nodes[layer].shape == (len(sequence), 512)
            assert distance(ours.nodes[layer], theirs) < 1e-5


def test_it_knows_antibodies(plain: tuple[torch.nn.Module, dict[str, int]]) -> None:
    """A conserved cysteine's state depends on its chain, and the mean tells sequences apart."""
    heavy, reversed_ = embedded(MODEL, [protein(HEAVY), protein(HEAVY[::-1])])
    assert distance(heavy.pooled["layer_8"], reversed_.pooled["layer_8"]) > 0.05


def test_what_it_cannot_read() -> None:
    assert reason(MODEL, protein("MKBA")) == "invalid: no token for residue 'B'"
    assert reason(MODEL, protein("A" * 511)) == "too_large: 511 > 510"
    assert embedded(MODEL, [protein("A" * 510)])[0].nodes["layer_8"].shape == (510, 512)


def test_card_counts_and_companions_are_checked() -> None:
    loaded, card = adapter(MODEL), model(MODEL)
    assert card.parameters == sum(p.numel() for p in loaded.model.parameters())  # type: ignore[attr-defined]
    options = dict(card.options or {})
    changed = card.model_copy(
        update={"options": {"files": options["files"] | {"vocab.txt": "0" * 64}}}
    )
    with pytest.raises(SourceError, match=r"vocab\.txt has sha256"):
        type(loaded)(changed)
