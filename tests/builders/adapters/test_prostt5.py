# SPDX-License-Identifier: Apache-2.0
"""ProstT5 in small: vocabulary, prefixes, and 3Di states as Foldseek writes them."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from invariance import rotated, translated
from probes import molecules, proteins
from string_probes import chain, distance
from tiny_weights import DIM, PROSTT5_ADDED, TINY, tiny_adapter

from matteratlas.builders.adapters.base import Embedded
from matteratlas.builders.adapters.prostt5 import read_vocabulary
from matteratlas.schemas.errors import SourceError
from matteratlas.schemas.structures import Structure


@cache
def small(which: str) -> Any:
    return tiny_adapter(TINY[f"prostt5-{which}"])


def protein(sequence: str, **known: Any) -> Structure:
    return dataclasses.replace(proteins()[0], sequence=sequence, **known)


def own_states(which: str, ids: list[int]) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        found = small(which).model(torch.tensor([ids]), output_hidden_states=True)
    return tuple(s[0] for s in found.hidden_states)


def check(which: str, result: Embedded, ids: list[int]) -> None:
    states = own_states(which, ids)
    for layer, place in (("last", -1), ("layer_12", 12)):
        theirs = states[place][1:-1].numpy()
        assert result.nodes[layer].shape == (len(ids) - 2, DIM)
        assert distance(result.nodes[layer], theirs) < 1e-4
        assert distance(result.pooled[layer], theirs.mean(axis=0)) < 1e-4


def test_residues_have_the_published_ids() -> None:
    # ProtT5's vocabulary, in which residues stand in the order of their frequency.
    letters = small("sequence").letters
    assert [letters[r] for r in "ALGVSREDTIPKFQNYMHWC"] == list(range(3, 23))
    assert {letters[r] for r in "XUZOB"} == {23}
    assert small("sequence").start == 149 and small("structure").start == 148
    assert small("structure").letters == {k: v for k, v in PROSTT5_ADDED.items() if len(k) == 1}


def test_sequences_equal_plain_transformers() -> None:
    texts = ("M", "MKTAYIAKQR", "GSHMWEDLFNXU" * 4)
    results = small("sequence").embed([protein(t) for t in texts])
    for text, result in zip(texts, results, strict=True):
        assert isinstance(result, Embedded), result
        check("sequence", result, [149, *(small("sequence").letters[r] for r in text), 1])


def test_structures_equal_plain_transformers() -> None:
    real = chain("1A8O")
    together = small("structure").embed([real, *proteins()])
    for structure, result in zip([real, *proteins()], together, strict=True):
        assert isinstance(result, Embedded), result
        written = small("structure").written(structure)
        assert len(written) == len(structure.sequence or "")
        check("structure", result, [148, *(PROSTT5_ADDED[s] for s in written), 1])


def test_a_real_chain_has_shapes() -> None:
    # Helices of a small all-alpha domain: long runs of Foldseek's helix states (v, l, s).
    written = small("structure").written(chain("1A8O"))
    assert written[0] == written[-1] == "d"  # ends have no neighbours to take a shape from
    assert sum(s in "vlscnq" for s in written) > len(written) / 2
    assert len(set(written)) >= 6


def test_states_follow_the_backbone_alone() -> None:
    real, rng = chain("1A8O"), np.random.default_rng(2)
    written = small("structure").written(real)
    assert small("structure").written(translated(rotated(real, rng), rng)) == written
    assert small("structure").written(dataclasses.replace(real, sequence="A" * 66)) == written
    backbone = np.array(real.backbone)
    backbone[30] = np.nan
    gap = small("structure").written(dataclasses.replace(real, backbone=backbone))
    assert gap[30] == "d" and len(gap) == 66 and gap != written
    (result,) = small("structure").embed([dataclasses.replace(real, backbone=backbone)])
    assert isinstance(result, Embedded) and np.isfinite(result.pooled["last"]).all()


def test_sequence_and_structure_are_two_charts() -> None:
    a = small("sequence").embed([proteins()[0]])[0].pooled["last"]
    b = small("structure").embed([proteins()[0]])[0].pooled["last"]
    assert distance(a, b) > 0.05


@pytest.mark.parametrize(
    ("which", "structure", "expected"),
    [
        ("sequence", protein("MK*A"), "invalid: no token for residue '*'"),
        ("sequence", protein("mk"), "invalid: no token for residue 'm'"),
        ("sequence", protein("A" * 1025), "too_large: 1025 > 1024"),
        ("structure", protein("MK", backbone=None), "wrong_modality: structure has no backbone"),
        ("structure", molecules()[0], "wrong_modality: protein_structure model, structure is a "
         "molecule"),
    ],
)  # fmt: skip
def test_what_it_cannot_read(which: str, structure: Structure, expected: str) -> None:
    assert small(which).missing_reason(structure) == expected


@pytest.mark.parametrize(
    "content",
    [None, "no json", json.dumps({"a": 1}), json.dumps({**PROSTT5_ADDED, "x": 150}),
     json.dumps({k: v for k, v in PROSTT5_ADDED.items() if k != "<AA2fold>"})],
)  # fmt: skip
def test_another_vocabulary_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "added_tokens.json").write_text(content)
    with pytest.raises(SourceError, match=r"added_tokens\.json is not that of ProstT5"):
        read_vocabulary(TINY["prostt5-sequence"], tmp_path, "<AA2fold>")
