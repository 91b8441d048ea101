# SPDX-License-Identifier: Apache-2.0
"""Transformers from the hub: what is loaded, what is refused, and what batches may not change."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import safetensors.torch
import tiny_weights
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from published_configs import CONFIGS, empty_model
from servers.hub import Account, HubServer
from servers.hub_client import connected
from string_probes import distance
from tiny_weights import DIM, TINY, hub_of_its_own, publish

from matteratlas.builders.adapters import transformer
from matteratlas.builders.adapters.base import Adapter, load_adapter
from matteratlas.builders.adapters.transformer import CLASSES, hidden_states, load_model
from matteratlas.registry import catalog
from matteratlas.schemas.errors import CardError, SourceError


@pytest.fixture(scope="module")
def esm() -> Adapter:
    return tiny_weights.tiny_adapter(TINY["esm2-8m"])


def folder_of(tmp_path: Path, encoder: str, path: str = "model.safetensors") -> Path:
    files = tiny_weights.tiny_files("", encoder, 2, path)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


# --- cards ---------------------------------------------------------------------------------------


def test_every_row_of_the_study_has_a_card() -> None:
    families = {"molformer": 1, "chemberta": 2, "chemgpt": 1, "deepseek": 3, "qwen3": 3,
                "gpt-oss": 3, "esm2": 3, "prostt5": 2}  # fmt: skip
    found = [c.family for c in TINY.values()]
    assert {f: found.count(f) for f in families} == families
    for card in TINY.values():
        assert f"{card.checkpoint.revision}".isalnum() and len(f"{card.checkpoint.revision}") == 40
        assert "Table 1 of arXiv 2512.03750" in str(card.notes)


@pytest.mark.parametrize("card", [c for c in TINY.values() if c.family != "chemgpt"],
                         ids=lambda c: c.id)  # fmt: skip
def test_cards_state_the_published_sizes(card: catalog.ModelCard) -> None:
    model = empty_model(str(card.checkpoint.package))
    assert card.parameters == sum(p.numel() for p in model.parameters())
    assert {layer.dim for layer in card.layers} == {model.config.hidden_size}
    inner = [n.name for n in card.layers if n.name.startswith("layer_")]
    assert all(0 < int(n.removeprefix("layer_")) < model.config.num_hidden_layers for n in inner)
    assert type(model).__name__ == CLASSES[tiny_weights.encoder_of(card)][0]


def test_no_size_is_left_over() -> None:
    assert set(CONFIGS) <= {str(c.checkpoint.package) for c in TINY.values()}


def test_status_of_models_from_a_hub() -> None:
    rows = catalog.small_weights()
    assert set(rows) == set(TINY)
    for model, card in TINY.items():
        assert catalog.status(card).state == rows[model]["outcome"] == "loads"
        assert not rows[model]["why"]


# --- loading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", sorted(CLASSES))
@pytest.mark.parametrize("path", ["pytorch_model.bin", "model-*.safetensors"])
def test_heads_are_left_out_and_nothing_is_random(tmp_path: Path, encoder: str, path: str) -> None:
    folder = folder_of(tmp_path, encoder, path)
    loaded = load_model(encoder, folder)
    assert type(loaded).__name__ == CLASSES[encoder][0] and not loaded.training
    torch.manual_seed(tiny_weights.SEED)
    whole = tiny_weights.MODELS[encoder](2)
    saved, prefix = whole.state_dict(), whole.base_model_prefix
    tensors = loaded.state_dict()
    assert len(tensors) >= 20 and all(t.dtype == torch.float32 for t in tensors.values())
    for name, tensor in tensors.items():
        wanted = saved[name] if name in saved else saved[f"{prefix}.{name}"]
        assert torch.equal(tensor, wanted), name


def test_weights_that_do_not_fill_the_model_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "esm")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    gone = "esm.encoder.layer.1.attention.self.query.weight"
    del weights[gone]
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"lack 'encoder\.layer\.1\.attention\.self\.query"):
        load_model("esm", folder)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "llama")
    with pytest.raises(SourceError, match=r"says model_type 'llama', the card 'esm'"):
        load_model("esm", folder)


def test_code_of_a_repository_is_not_run(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "esm")
    (folder / "evil.py").write_text("raise SystemExit('run')\n")
    for name in ("config.json", "tokenizer_config.json"):
        stated = json.loads((folder / name).read_text())
        stated["auto_map"] = {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil",
                              "AutoTokenizer": ["evil.Evil", None]}  # fmt: skip
        (folder / name).write_text(json.dumps(stated))
    assert type(load_model("esm", folder)).__name__ == "EsmModel"
    assert type(transformer.load_tokenizer(folder)).__name__ == "EsmTokenizer"


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "roberta", "pytorch_model.bin")
    proof = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (proof,))  # type: ignore[return-value]

    torch.save({"roberta.embeddings.word_embeddings.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights_only|unsupported|unpickl"):
        load_model("roberta", folder)
    assert not proof.exists()


def test_packed_experts_are_unpacked(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "gpt_oss")
    plain = tiny_weights.saved_tensors(folder)
    expected = tiny_weights.pack_experts(folder)
    loaded = load_model("gpt_oss", folder, dtype="bfloat16").state_dict()
    assert expected.keys() < loaded.keys() and len(expected) == 4
    for name, tensor in loaded.items():
        assert tensor.dtype == torch.bfloat16
        wanted = expected.get(name, plain[f"model.{name}"].to(torch.bfloat16))
        assert torch.equal(tensor, wanted), name


def test_loading_needs_no_network_once_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("an adapter reached for the network")

    with hub_of_its_own() as server:
        cards = [publish(server, TINY[i]) for i in ("esm2-8m", "chemberta-77m-mtr", "gpt-oss-20b")]
        for card in cards:
            load_adapter(card)
        server.clear()
        monkeypatch.delenv("MATTERATLAS_DOWNLOADS", raising=False)
        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        assert [load_adapter(card).card.id for card in cards] == [card.id for card in cards]
        assert not server.log


def test_only_the_files_wanted_are_fetched() -> None:
    with hub_of_its_own() as server:
        card = publish(server, TINY["esm2-8m"])
        repo = str(card.checkpoint.package)
        more = {"pytorch_model.bin": b"x", "tf_model.h5": b"x", "run.py": b"x"}
        card = with_revision(card, server.commit(repo, more, kind="model"))
        load_adapter(card)
        fetched = {r.path.rpartition("/")[2] for r in server.log if "/resolve/" in r.path}
    assert "model.safetensors" in fetched and not fetched & set(more)


def with_revision(card: catalog.ModelCard, revision: str) -> catalog.ModelCard:
    source = card.checkpoint.model_copy(update={"revision": revision})
    return card.model_copy(update={"checkpoint": source})


@pytest.mark.parametrize("model_id", ["chemberta-77m-mtr", "deepseek-r1-8b", "esm2-8m",
                                      "prostt5-sequence"])  # fmt: skip
def test_a_gated_model_says_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_id: str
) -> None:
    monkeypatch.setenv("MATTERATLAS_DOWNLOADS", "1")
    tokens = {"hf_owner": Account("owner")}
    with HubServer(tokens=tokens) as server, connected(server, home=tmp_path, token=""):
        card = publish(server, TINY[model_id], gated="manual")
        with pytest.raises(SourceError) as caught:
            load_adapter(card)
        assert str(caught.value) == (
            f"{card.checkpoint.package}@{str(card.checkpoint.revision)[:12]}: gated; accept its "
            f"terms on {server.url}/{card.checkpoint.package} and set HF_TOKEN"
        )
        monkeypatch.setenv("HF_TOKEN", "hf_owner")
        server.repo(str(card.checkpoint.package), "model").allowed.add("owner")
        assert load_adapter(card).card.id == model_id


def test_a_card_without_a_hub_is_refused() -> None:
    card = TINY["esm2-8m"]
    source = catalog.model("rxnfp-ft").checkpoint
    with pytest.raises(CardError, match="names no checkpoint on a hub"):
        load_adapter(card.model_copy(update={"checkpoint": source}))


def test_an_architecture_without_a_class_is_refused_before_any_download() -> None:
    card = TINY["chemberta-77m-mtr"]
    with hub_of_its_own() as server, pytest.raises(CardError, match="never run") as caught:
        load_adapter(card.model_copy(update={"options": {**card.options, "encoder": "bolmo"}}))
    assert card.id in str(caught.value) and "'bolmo'" in str(caught.value) and not server.log


# --- hidden states -------------------------------------------------------------------------------


def test_layers_are_the_models_own(esm: Adapter) -> None:
    ids = esm.encode("MKTAYIAKQR")  # type: ignore[attr-defined]
    with torch.no_grad():
        own = esm.model(torch.tensor([ids]), output_hidden_states=True)  # type: ignore[attr-defined]
    layers = ["last", "layer_1", "layer_2"]
    (found,) = hidden_states(esm.model, [ids], layers=layers, pad=1, budget=64)  # type: ignore[attr-defined]
    assert np.array_equal(found["last"], own.last_hidden_state[0].numpy())
    for i in (1, 2):
        assert np.array_equal(found[f"layer_{i}"], own.hidden_states[i][0].numpy())
    assert distance(found["layer_1"], found["layer_2"]) > 0.1


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.lists(st.integers(4, 28), min_size=1, max_size=30), min_size=1, max_size=12),
    st.integers(8, 200),
)
def test_batches_and_fillers_change_nothing(
    esm: Adapter, sequences: list[list[int]], budget: int
) -> None:
    model = esm.model  # type: ignore[attr-defined]
    ids = [[0, *inner, 2] for inner in sequences]
    together = hidden_states(model, ids, layers=["last"], pad=1, budget=budget)
    for one, found in zip(ids, together, strict=True):
        (alone,) = hidden_states(model, [one], layers=["last"], pad=1, budget=64)
        assert found["last"].shape == (len(one), DIM) and found["last"].dtype == np.float32
        assert distance(found["last"], alone["last"]) < 1e-4


def test_decoders_keep_no_cache() -> None:
    adapter = tiny_weights.tiny_adapter(TINY["deepseek-r1-8b-blank"])
    seen: list[object] = []
    model = adapter.model  # type: ignore[attr-defined]
    model.register_forward_hook(lambda _m, _a, out: seen.append(out.past_key_values))
    hidden_states(model, [[3, 4, 5]], layers=["last"], pad=0, budget=64)
    assert seen == [None]


def test_transformers_is_the_version_the_cards_name() -> None:
    for card in TINY.values():
        assert (card.environment or {})["transformers"] == transformers.__version__
