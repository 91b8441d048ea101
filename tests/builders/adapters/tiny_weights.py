# SPDX-License-Identifier: Apache-2.0
"""Models of the hub in small: same classes, same tokenizers, same files, random weights.

A card whose weights are on the hub is loaded here as a user would load it, by its adapter and the
real client, from a loopback Hub that holds a model of the same architecture with few and narrow
layers. What the published files look like (names, vocabularies, special tokens, chat formats)
follows the repositories the cards name.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tokenizers
import torch
import transformers
from servers.hub import HubServer
from servers.hub_client import connected

from matteratlas.builders.adapters.base import Adapter, load_adapter
from matteratlas.builders.adapters.llm import prompt
from matteratlas.builders.adapters.molformer import MolformerConfig, MolformerModel
from matteratlas.registry import catalog
from matteratlas.schemas.cards import ModelCard

#: Width of every model here; heads are 8 wide.
DIM = 32
SEED = 7
ESM_VOCABULARY = (
    "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>"
).split()
#: ProstT5's own file.
PROSTT5_ADDED = {
    "<AA2fold>": 149, "<fold2AA>": 148,
    **{letter: 128 + i for i, letter in enumerate("algvsredtipkfqnymhwc")},
}  # fmt: skip
#: What a SMILES is written with, one token a character; 'l' and 'r' are missing on purpose.
SMILES_LETTERS = "BCNOFPSIHcnosp()[]=#+-@/\\.123456789"
SELFIES_SYMBOLS = (
    "[C] [=C] [#C] [N] [=N] [#N] [O] [=O] [S] [=S] [F] [Cl] [Br] [NHexpl] [O-expl] [N+expl] "
    "[C@Hexpl] [C@@Hexpl] [/C] [Ring1] [Ring2] [Expl=Ring1] [Branch1_1] [Branch1_2] [Branch1_3] "
    "[Branch2_1] [Branch2_2] [Branch2_3]"
).split()
#: A few of MoLFormer's 2,362 words, in its order; it has no token for unknown ones.
MOLFORMER_WORDS = (
    "<bos> <eos> <pad> <mask> C c ( ) 1 O N 2 = n 3 [C@H] [C@@H] F S 4 Cl - o s [nH] # / Br [N+] "
    "[O-] \\ . I [Na+] [Cl-] %10"
).split()
#: The chat formats, as far as they bear on what the models read.
CHAT = {
    "llama": "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% else %}<｜User｜>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}",
    "qwen3_moe": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    "gpt_oss": "{%- macro about() -%}You are ChatGPT.\nCurrent date: "
    "{{ strftime_now('%Y-%m-%d') }}{%- endmacro -%}<|start|>system<|message|>{{ about() }}<|end|>"
    "{% for m in messages %}<|start|>"
    "{{ 'developer' if m.role == 'system' else m.role }}<|message|>{{ m.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}",
}
CHAT_TOKENS = {
    "llama": ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"],
    "qwen3_moe": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "gpt_oss": ["<|startoftext|>", "<|endoftext|>", "<|start|>", "<|message|>", "<|end|>"],
}

#: Cards that load through these factories.
TINY = {i: c for i, c in catalog.models().items()
        if c.isolation is None and c.checkpoint.obtained in {"hub", "gated"}}  # fmt: skip


@contextmanager
def hub_of_its_own() -> Iterator[HubServer]:
    """A loopback Hub, a cache that is forgotten, and leave to download."""
    with (
        tempfile.TemporaryDirectory() as home,
        HubServer() as server,
        connected(server, home=Path(home)),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("MATTERATLAS_DOWNLOADS", "1")
        yield server


def tiny_adapter(card: ModelCard) -> Adapter:
    """The card's adapter with small weights, loaded from a loopback Hub."""
    with hub_of_its_own() as server:
        return load_adapter(publish(server, card))


def publish(server: HubServer, card: ModelCard, **settings: Any) -> ModelCard:
    """Push the card's model in small, and give the card that names it."""
    source = card.checkpoint
    files = tiny_files(card.adapter, encoder_of(card), depth(card), str(source.path))
    server.create(str(source.package), files, kind="model", **settings)
    weights = [data for path, data in files.items() if fnmatch(path, str(source.path))]
    assert weights, f"{source.package} in small has no {source.path}"
    changed = source.model_copy(
        update={
            "revision": server.head(str(source.package), kind="model"),
            "sha256": source.sha256 and hashlib.sha256(weights[0]).hexdigest(),
        }
    )
    options = dict(card.options or {})
    if "dtype" in options:
        options["dtype"] = "float32"  # exact enough to tell an adapter's faults from rounding
    return card.model_copy(
        update={
            "checkpoint": changed,
            "layers": [layer.model_copy(update={"dim": DIM}) for layer in card.layers],
            "options": options or None,
        }
    )


def encoder_of(card: ModelCard) -> str:
    """The card's architecture; families with one class have no option for it."""
    fixed = {"esm2": "esm", "prostt5": "t5"}
    return fixed.get(card.family) or str((card.options or {})["encoder"])


def depth(card: ModelCard) -> int:
    """Blocks the small model needs so that every layer of the card is there."""
    inner = [int(n.name.removeprefix("layer_")) for n in card.layers if n.name.startswith("layer_")]
    deepest = max(inner, default=1) + 1
    return deepest + deepest % 2  # global and local attention in turn


@cache
def tiny_files(adapter: str, encoder: str, blocks: int, path: str) -> dict[str, bytes]:
    """Files of a repository: weights saved as the card's path says, configuration, tokenizer."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        torch.manual_seed(SEED)
        model = MODELS[encoder](blocks)
        if path == "pytorch_model.bin":
            torch.save(model.state_dict(), folder / path)
            model.config.save_pretrained(folder)
        else:
            # Two shards at least where the card's path is a pattern.
            size = sum(p.numel() * p.element_size() for p in model.parameters())
            model.save_pretrained(folder, max_shard_size=size // 2 if "*" in path else "5GB")
        TOKENIZERS[encoder](folder)
        return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


# --- models, with the heads their repositories hold ----------------------------------------------


def _roberta(blocks: int) -> Any:
    return transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(
            vocab_size=80, hidden_size=DIM, num_hidden_layers=blocks, num_attention_heads=4,
            intermediate_size=48, max_position_embeddings=515, type_vocab_size=1,
            initializer_range=0.2, layer_norm_eps=1e-12,
        )
    )  # fmt: skip


class MolformerForMaskedLM(transformers.PreTrainedModel):
    """The head beside the encoder, its tensors named as published; never called."""

    config_class = MolformerConfig
    base_model_prefix = "molformer"

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.molformer = MolformerModel(config)
        self.lm_head = torch.nn.ModuleDict(
            {
                "transform": torch.nn.ModuleDict(
                    {"dense": torch.nn.Linear(width, width), "LayerNorm": torch.nn.LayerNorm(width)}
                ),
                "decoder": torch.nn.Linear(width, config.vocab_size, bias=False),
            }
        )
        self.post_init()


def _molformer(blocks: int) -> Any:
    return MolformerForMaskedLM(
        MolformerConfig(
            vocab_size=len(MOLFORMER_WORDS), hidden_size=DIM, num_hidden_layers=blocks,
            num_attention_heads=4, intermediate_size=48, num_random_features=6,
            initializer_range=0.2,
        )
    )  # fmt: skip


def _gpt_neo(blocks: int) -> Any:
    return transformers.GPTNeoForCausalLM(
        transformers.GPTNeoConfig(
            vocab_size=len(SELFIES_SYMBOLS) + 2, hidden_size=DIM, num_layers=blocks, num_heads=4,
            max_position_embeddings=2048, window_size=8, initializer_range=0.2, bos_token_id=0,
            attention_types=[[["global", "local"], blocks // 2]], eos_token_id=0,
        )
    )  # fmt: skip


def _esm(blocks: int) -> Any:
    return transformers.EsmForMaskedLM(
        transformers.EsmConfig(
            vocab_size=33, hidden_size=DIM, num_hidden_layers=blocks, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=1026, position_embedding_type="rotary",
            token_dropout=True, pad_token_id=1, mask_token_id=32, initializer_range=0.2,
            vocab_list=None, is_folding_model=False,
        )
    )  # fmt: skip


def _t5(blocks: int) -> Any:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=150, d_model=DIM, d_kv=8, d_ff=64, num_layers=blocks, num_decoder_layers=1,
            num_heads=4, decoder_start_token_id=0,
        )
    )  # fmt: skip


def _llama(blocks: int) -> Any:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=600, hidden_size=DIM, num_hidden_layers=blocks, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=64, initializer_range=0.2,
            tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip


def _qwen3_moe(blocks: int) -> Any:
    return transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(
            vocab_size=600, hidden_size=DIM, num_hidden_layers=blocks, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, intermediate_size=64, moe_intermediate_size=16,
            num_experts=4, num_experts_per_tok=2, initializer_range=0.2, tie_word_embeddings=False,
        )
    )  # fmt: skip


def _gpt_oss(blocks: int) -> Any:
    return transformers.GptOssForCausalLM(
        transformers.GptOssConfig(
            vocab_size=600, hidden_size=DIM, num_hidden_layers=blocks, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, intermediate_size=DIM, num_local_experts=4,
            num_experts_per_tok=2, sliding_window=16, initializer_range=0.2,
            max_position_embeddings=4096, pad_token_id=1, eos_token_id=1,
        )
    )  # fmt: skip


MODELS: dict[str, Callable[[int], Any]] = {
    "roberta": _roberta, "molformer": _molformer, "gpt_neo": _gpt_neo, "esm": _esm, "t5": _t5,
    "llama": _llama, "qwen3_moe": _qwen3_moe, "gpt_oss": _gpt_oss,
}  # fmt: skip


# --- tokenizers ----------------------------------------------------------------------------------


def _write(folder: Path, **contents: Any) -> None:
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def _roberta_tokenizer(folder: Path) -> None:
    special = ["[PAD]", *(f"[unused{i}]" for i in range(1, 11)), "[UNK]", "[CLS]", "[SEP]"]
    words = [*special, "[MASK]", *SMILES_LETTERS]
    names = {f"{n.lower()}_token": f"[{n}]" for n in ("UNK", "SEP", "CLS", "PAD", "MASK")}
    _write(
        folder,
        vocab={word: i for i, word in enumerate(words)},
        added_tokens={"<s>": len(words), "</s>": len(words) + 1},
        tokenizer_config={
            **names, "bos_token": "<s>", "eos_token": "</s>", "add_prefix_space": False,
            "max_len": 512,
        },
        special_tokens_map={**names, "bos_token": "<s>", "eos_token": "</s>"},
    )  # fmt: skip
    (folder / "merges.txt").write_text("#version: 0.2 - Trained by `huggingface/tokenizers`\n")


def _molformer_tokenizer(folder: Path) -> None:
    # As published, the file names a tokenizer class that only the repository's own code has.
    _write(
        folder,
        vocab={word: i for i, word in enumerate(MOLFORMER_WORDS)},
        tokenizer_config={
            "auto_map": {"AutoTokenizer": ["tokenization_molformer_fast.MolformerTokenizerFast"]},
            "tokenizer_class": "MolformerTokenizer",
        },
    )


def _selfies_tokenizer(folder: Path) -> None:
    words = ["[UNK]", "[PAD]", *SELFIES_SYMBOLS]
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    fast = tokenizers.Tokenizer(model)
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(r"\[[^\]]*\]"), behavior="isolated"
    )
    fast.save(str(folder / "tokenizer.json"))
    _write(
        folder,
        tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"},
        special_tokens_map={},
    )


def _esm_tokenizer(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(ESM_VOCABULARY))
    names = {f"{n}_token": f"<{n}>" for n in ("cls", "pad", "eos", "unk", "mask")}
    _write(folder, tokenizer_config={"tokenizer_class": "EsmTokenizer"}, special_tokens_map=names)


def _prostt5_tokenizer(folder: Path) -> None:
    _write(folder, added_tokens=PROSTT5_ADDED, special_tokens_map={"eos_token": "</s>"})


def _chat_tokenizer(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        fast = tokenizers.Tokenizer(tokenizers.models.BPE())
        fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        fast.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=600 - len(CHAT_TOKENS[kind]), show_progress=False,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
        fast.train_from_iterator([prompt("encoder")] * 3, trainer)
        name = {"qwen3_moe": "Qwen2TokenizerFast"}.get(kind, "PreTrainedTokenizerFast")
        wrapped = transformers.PreTrainedTokenizerFast(
            tokenizer_object=fast,
            bos_token=CHAT_TOKENS[kind][0],
            eos_token=CHAT_TOKENS[kind][1],
            additional_special_tokens=CHAT_TOKENS[kind][2:],
        )
        wrapped.chat_template = CHAT[kind]
        wrapped.save_pretrained(folder)
        path = folder / "tokenizer_config.json"
        stated = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**stated, "tokenizer_class": name}), encoding="utf-8")

    return write


TOKENIZERS: dict[str, Callable[[Path], None]] = {
    "roberta": _roberta_tokenizer, "molformer": _molformer_tokenizer,
    "gpt_neo": _selfies_tokenizer, "esm": _esm_tokenizer, "t5": _prostt5_tokenizer,
    **{kind: _chat_tokenizer(kind) for kind in CHAT},
}  # fmt: skip


# --- what the files hold -------------------------------------------------------------------------


def saved_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's weights, whatever files they are in."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= safetensors.torch.load_file(path)
    for path in sorted(folder.glob("*.bin")):
        found |= torch.load(path, weights_only=True)
    return found


def pack_experts(folder: Path) -> dict[str, torch.Tensor]:
    """Put the experts of a small gpt-oss into MXFP4, as they are published.

    A block is 32 numbers of four bits with one scale, a power of two (OCP Microscaling Formats
    1.0, section 5.4; sign, two bits of exponent, one of mantissa).

    Returns
    -------
    dict
        The numbers they stand for, bfloat16, by the name the loaded model has for them.
    """
    halves = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    values = torch.cat([halves, -halves])
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    expected = {}
    generator = torch.Generator().manual_seed(3)
    for name in [n for n in weights if n.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = weights.pop(name).shape
        shape = (experts, outputs, inputs // 32)
        codes = torch.randint(0, 16, (*shape, 32), generator=generator, dtype=torch.uint8)
        scales = torch.randint(120, 128, shape, generator=generator, dtype=torch.uint8)
        weights[f"{name}_blocks"] = codes[..., 0::2] | codes[..., 1::2] << 4
        weights[f"{name}_scales"] = scales
        numbers = values[codes.long()] * torch.exp2(scales.float() - 127)[..., None]
        whole = numbers.reshape(experts, outputs, inputs).transpose(1, 2)
        expected[name.removeprefix("model.")] = whole.to(torch.bfloat16)
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens",
            "lm_head",
        ],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return expected
