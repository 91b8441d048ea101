# SPDX-License-Identifier: Apache-2.0
"""Language models in small: the study's three inputs, whose tokens count, and what stays out."""

from __future__ import annotations

import dataclasses
import time
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from probes import crystals, from_ase, molecules, proteins
from string_probes import SMILES, distance, from_smiles
from tiny_weights import DIM, TINY, tiny_adapter

from matteratlas.builders.adapters.base import Embedded, Missing, load_adapter
from matteratlas.builders.adapters.llm import as_atoms, prompt
from matteratlas.registry import catalog
from matteratlas.schemas.errors import CardError, SourceError
from matteratlas.schemas.structures import Structure

FAMILIES = ("deepseek-r1-8b", "qwen3-30b-a3b", "gpt-oss-20b")
FIRST = "You are a domain-agnostic scientific encoder."
ETHANOL = molecules()[0]


@cache
def small(model_id: str) -> Any:
    return tiny_adapter(TINY[model_id])


def whole_text(model_id: str, structure: Structure) -> str:
    adapter = small(model_id)
    text: str = adapter.tokenizer.decode(adapter.encode(structure)[0])
    return text


def own_text(model_id: str, structure: Structure) -> str:
    """What the rows stand for."""
    adapter = small(model_id)
    ids, kept = adapter.encode(structure)
    text: str = adapter.tokenizer.decode([ids[i] for i in kept])
    return text


def test_prompts_are_the_studys_as_far_as_known() -> None:
    assert prompt("blank") == FIRST
    assert prompt("encoder").startswith(FIRST) and len(prompt("encoder")) > 10 * len(FIRST)
    contents = (
        "SMILES, SELFIES, amino acids, space group, fractional coordinates, biopolymer, periodic, "
        "Do not generate any text, Ignore formatting"
    )
    assert all(word in prompt("encoder") for word in contents.split(", "))
    with pytest.raises(CardError, match="no prompt 'poem'; choose from blank, encoder"):
        prompt("poem")


def test_nine_cards_are_three_families_in_three_variants() -> None:
    found = [(c.options or {}) for c in TINY.values() if c.adapter == "llm:LanguageModel"]
    variants = [(o["prompt"], o["input"]) for o in found]
    assert len(found) == 9
    for variant in (("encoder", "smiles"), ("blank", "smiles"), ("blank", "atoms")):
        assert variants.count(variant) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_and_structure_are_in_the_chat(family: str) -> None:
    for suffix, system in (("", prompt("encoder")), ("-blank", FIRST), ("-blank-atoms", FIRST)):
        text = whole_text(family + suffix, ETHANOL)
        content = own_text(family + suffix, ETHANOL)
        assert text.count(system) == 1 and text.index(system) < text.index(content)
        assert text.partition(content)[2], "the prompt for an answer follows"
        if suffix == "-blank-atoms":
            assert content == as_atoms(ETHANOL)
        else:
            assert content == "SMILES: CCO"


def test_atoms_are_printed_as_in_the_study() -> None:
    text = as_atoms(ETHANOL)
    assert text.startswith(
        "Molecule ASE atoms positions and information: Atoms(symbols='C2OH6', pbc=False) "
        "'numbers': [6, 6, 8, 1, 1, 1, 1, 1, 1], 'positions': [["
    )
    assert text.endswith(
        "'cell': [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], 'pbc': [False, False, False]"
    )
    assert "-0.0," not in text
    nudged = dataclasses.replace(ETHANOL, positions=ETHANOL.positions + 1e-9)
    assert as_atoms(nudged) == text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("suffix", ["", "-blank", "-blank-atoms"])
def test_equals_plain_transformers(family: str, suffix: str) -> None:
    adapter = small(family + suffix)
    structures = [from_smiles(s) for s in SMILES[:6]]
    for structure, result in zip(structures, adapter.embed(structures), strict=True):
        assert isinstance(result, Embedded), result
        ids, kept = adapter.encode(structure)
        with torch.no_grad():
            state = adapter.model(torch.tensor([ids])).last_hidden_state[0].numpy()
        assert result.nodes["last"].shape == (len(kept), DIM) and "final" not in result.nodes
        assert distance(result.nodes["last"], state[kept]) < 1e-4
        assert distance(result.pooled["last"], state[kept].mean(axis=0)) < 1e-4
        assert distance(result.pooled["final"], state[-1]) < 1e-4


def test_prompts_and_inputs_make_different_charts() -> None:
    vectors = [
        small(f"qwen3-30b-a3b{s}").embed([ETHANOL])[0].pooled["last"]
        for s in ("", "-blank", "-blank-atoms")
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert distance(vectors[a], vectors[b]) > 1e-2


def test_tomorrow_gives_the_same_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    before = whole_text("gpt-oss-20b", ETHANOL)
    assert "Current date: 2025-08-05" in before and time.strftime("%Y-%m-%d") not in before
    assert "macro" not in before


def test_what_they_cannot_read() -> None:
    adapter = small("deepseek-r1-8b")
    bare = dataclasses.replace(ETHANOL, smiles=None)
    assert adapter.missing_reason(bare) == "wrong_modality: structure has no smiles"
    assert small("deepseek-r1-8b-blank-atoms").missing_reason(bare) is None
    for other in (crystals()[0], proteins()[0]):
        (result,) = adapter.embed([other])
        assert isinstance(result, Missing) and result.reason.startswith("wrong_modality: ")
    long = dataclasses.replace(ETHANOL, smiles="CO" * 4000)
    why = str(adapter.missing_reason(long))
    assert why.startswith("too_large: ") and why.endswith(" > 4096 tokens")


def test_text_before_the_structure_does_not_count_but_is_read() -> None:
    a, b = (small(i).embed([ETHANOL])[0] for i in ("deepseek-r1-8b", "deepseek-r1-8b-blank"))
    assert a.nodes["last"].shape == b.nodes["last"].shape
    assert distance(a.nodes["last"], b.nodes["last"]) > 1e-2


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [("prompt", "poem", "no prompt 'poem'"), ("input", "picture", "choose from smiles, atoms"),
     ("encoder", "mamba9", "no class for 'mamba9' in transformers or here")],
)  # fmt: skip
def test_cards_with_other_options_are_refused(key: str, value: str, says: str) -> None:
    card = catalog.model("deepseek-r1-8b")
    changed = card.model_copy(update={"options": {**(card.options or {}), key: value}})
    with pytest.raises(CardError, match=says):
        load_adapter(changed)


def test_a_tokenizer_without_a_chat_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from matteratlas.builders.adapters import llm

    class Plain:
        chat_template = None

    monkeypatch.setattr(llm, "load_tokenizer", lambda _: Plain())
    with pytest.raises(SourceError, match="has no chat template"):
        tiny_adapter(TINY["deepseek-r1-8b"])


def test_reordered_atoms_are_another_text() -> None:
    order = np.arange(len(ETHANOL))[::-1]
    turned = dataclasses.replace(
        ETHANOL, numbers=ETHANOL.numbers[order], positions=ETHANOL.positions[order]
    )
    assert as_atoms(turned) != as_atoms(ETHANOL)
    assert TINY["deepseek-r1-8b-blank-atoms"].invariances == []


def test_large_molecules_are_summed_up_by_ase() -> None:
    from ase.build import molecule

    large = from_ase(molecule("C60"), "C60")
    assert "Atoms(symbols='C60', pbc=False)" in as_atoms(large)
