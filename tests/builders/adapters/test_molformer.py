# SPDX-License-Identifier: Apache-2.0
"""MoLFormer: the published tensors, its formula written down once more, its tokens."""

from __future__ import annotations

import cmath
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import tiny_weights
import torch
from published_configs import empty_model
from string_probes import distance, from_smiles
from tiny_weights import MOLFORMER_WORDS, TINY, tiny_adapter

from matteratlas.builders.adapters.base import Adapter, Embedded, Missing
from matteratlas.builders.adapters.molformer import MolformerModel, tokenizer
from matteratlas.builders.adapters.transformer import load_model
from matteratlas.registry import catalog
from matteratlas.schemas.errors import SourceError

#: What the authors' conversion of their training checkpoint writes, below ``molformer.``.
OF_A_BLOCK = {
    "attention.self.feature_map.weight": (64, 32),
    **{f"attention.self.{n}.weight": (768, 768) for n in ("query", "key", "value")},
    **{f"attention.self.{n}.bias": (768,) for n in ("query", "key", "value")},
    **{
        f"{place}.{tensor}": (768, 768) if tensor == "dense.weight" else (768,)
        for place in ("attention.output", "output")
        for tensor in ("dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias")
    },
    "intermediate.dense.weight": (768, 768),
    "intermediate.dense.bias": (768,),
}
PUBLISHED = {
    "embeddings.word_embeddings.weight": (2362, 768),
    "LayerNorm.weight": (768,),
    "LayerNorm.bias": (768,),
    **{f"encoder.layer.{i}.{n}": shape for i in range(12) for n, shape in OF_A_BLOCK.items()},
}
HEAD = 768 * 768 + 768 + 2 * 768 + 768 * 2362


@pytest.fixture(scope="module")
def small() -> Adapter:
    return tiny_adapter(TINY["molformer-xl-10pct"])


def test_tensors_are_those_of_the_published_file() -> None:
    model = empty_model("ibm/MoLFormer-XL-both-10pct")
    assert {n: tuple(t.shape) for n, t in model.state_dict().items()} == PUBLISHED
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == catalog.model("molformer-xl-10pct").parameters
    # Table 1 of the study prints 46,800,000: with the head.
    assert round((parameters + HEAD) / 1e5) == 468


@pytest.mark.parametrize("gone", ["attention.self.feature_map.weight", "output.LayerNorm.bias"])
def test_every_tensor_is_needed_the_features_too(tmp_path: Path, gone: str) -> None:
    for name, data in tiny_weights.tiny_files("", "molformer", 2, "model.safetensors").items():
        (tmp_path / name).write_bytes(data)
    file = tmp_path / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    assert {n.partition(".")[0] for n in weights} == {"molformer", "lm_head"}
    del weights[f"molformer.encoder.layer.1.{gone}"]
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"the weights lack 'encoder\.layer\.1\."):
        load_model("molformer", tmp_path)


# --- the formula ---------------------------------------------------------------------------------


def dense(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def turned(vector: np.ndarray, position: int) -> np.ndarray:
    """Positions as rotations of complex numbers: entry i with entry i + half."""
    half = len(vector) // 2
    pairs = [
        complex(vector[i], vector[i + half]) * cmath.exp(1j * position * 10000 ** (-i / half))
        for i in range(half)
    ]
    return np.array([z.real for z in pairs] + [z.imag for z in pairs])


def attention(x: np.ndarray, weights: dict[str, np.ndarray], heads: int) -> np.ndarray:
    """Pair by pair: how much token m reads of token n is a product of their features."""
    query, key, value = (
        dense(x, weights, f"attention.self.{n}") for n in ("query", "key", "value")
    )
    features, size = weights["attention.self.feature_map.weight"], x.shape[1] // heads
    out = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for m in range(len(x)):
            reader = np.maximum(turned(query[m, part], m) @ features, 0)
            shares = np.array([
                reader @ np.maximum(turned(key[n, part], n) @ features, 0) for n in range(len(x))
            ])  # fmt: skip
            out[m, part] = shares @ value[:, part] / max(shares.sum(), 1e-6)
    return out


def by_formula(model: MolformerModel, ids: list[int]) -> list[np.ndarray]:
    """All hidden states in float64; the last once more normalised."""
    tensors = {n: t.double().numpy() for n, t in model.state_dict().items()}
    states = [tensors["embeddings.word_embeddings.weight"][ids]]
    for layer in range(model.config.num_hidden_layers):
        prefix, x = f"encoder.layer.{layer}.", states[-1]
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        read = attention(x, own, model.config.num_attention_heads)
        x = norm(x + dense(read, own, "attention.output.dense"), own, "attention.output.LayerNorm")
        inner = dense(x, own, "intermediate.dense")
        inner = inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2))) / 2
        x = norm(x + dense(inner, own, "output.dense"), own, "output.LayerNorm")
        states.append(x)
    return [*states, norm(states[-1], tensors, "LayerNorm")]


@pytest.mark.parametrize("length", [1, 2, 17])
def test_states_follow_the_formula(small: Adapter, length: int) -> None:
    model: MolformerModel = small.model  # type: ignore[attr-defined]
    generator = np.random.default_rng(length)
    ids = [0, *generator.integers(4, len(MOLFORMER_WORDS), length).tolist(), 1]
    with torch.inference_mode():
        found = model(torch.tensor([ids]), output_hidden_states=True)
    wanted = by_formula(model, ids)
    assert len(found.hidden_states) == model.config.num_hidden_layers + 1
    for own, theirs in zip([*found.hidden_states, found.last_hidden_state], wanted, strict=True):
        assert distance(own[0].numpy(), theirs) < 1e-5
    assert distance(wanted[-1], wanted[1]) > 0.1


def test_positions_matter_and_the_features_stay(small: Adapter) -> None:
    first, second, again = small.embed([from_smiles(s) for s in ("OCCN", "NCCO", "OCCN")])
    assert isinstance(first, Embedded) and isinstance(second, Embedded)
    assert distance(first.pooled["last"], second.pooled["last"]) > 1e-3
    assert isinstance(again, Embedded)
    assert np.array_equal(first.pooled["last"], again.pooled["last"])


# --- tokens --------------------------------------------------------------------------------------


def test_tokens_are_atoms_bonds_and_rings(tmp_path: Path) -> None:
    for name, data in tiny_weights.tiny_files("", "molformer", 2, "model.safetensors").items():
        (tmp_path / name).write_bytes(data)
    reader = tokenizer(tmp_path)
    smiles = "C[C@@H](Cl)/C=C/c1c[nH]cc1.[Na+].BrN%10CC%10"
    words = (
        "C [C@@H] ( Cl ) / C = C / c 1 c [nH] c c 1 . [Na+] . Br N %10 C C %10".split()
    )  # fmt: skip
    found = reader(smiles, return_special_tokens_mask=True)
    assert reader.convert_ids_to_tokens(found["input_ids"]) == ["<bos>", *words, "<eos>"]
    assert found["special_tokens_mask"] == [1, *[0] * len(words), 1]
    assert found["input_ids"][:2] == [0, 4] and reader.pad_token_id == 2


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("C[Si](C)C", "invalid: no token for '[Si]' in smiles 'C[Si](C)C'"),
        ("C%11CC%11", "invalid: no token for '%11' in smiles 'C%11CC%11'"),
        ("CCB", "invalid: no token for 'B' in smiles 'CCB'"),
        ("C" * 201, "too_large: 201 > 200 tokens"),
    ],
)
def test_what_it_cannot_read(small: Adapter, smiles: str, expected: str) -> None:
    import dataclasses

    (result,) = small.embed([dataclasses.replace(from_smiles("C"), smiles=smiles)])
    assert isinstance(result, Missing) and result.reason == expected
