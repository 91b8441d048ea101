# SPDX-License-Identifier: Apache-2.0
"""Sizes in the ``config.json`` of the repositories the cards name, as published.

From them the real model is built without memory for its weights, so that a card's dims, layers
and parameters are held against the architecture itself.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from matteratlas.builders.adapters import molformer

_ESM = {
    "vocab_size": 33, "max_position_embeddings": 1026, "position_embedding_type": "rotary",
    "token_dropout": True, "pad_token_id": 1, "mask_token_id": 32, "emb_layer_norm_before": False,
}  # fmt: skip
_CHEMBERTA = {
    "vocab_size": 600, "hidden_size": 384, "num_hidden_layers": 3, "num_attention_heads": 12,
    "intermediate_size": 464, "max_position_embeddings": 515, "type_vocab_size": 1,
}  # fmt: skip
_PROSTT5 = {
    "vocab_size": 150, "d_model": 1024, "d_kv": 128, "d_ff": 16384, "num_layers": 24,
    "num_heads": 32, "feed_forward_proj": "relu",
}  # fmt: skip

_MOLFORMER = {
    "vocab_size": 2362, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 768, "num_random_features": 32, "hidden_act": "gelu",
}  # fmt: skip

#: Repository -> class, its configuration, what leaves poolers out.
CONFIGS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "DeepChem/ChemBERTa-77M-MLM": (
        "RobertaModel", "RobertaConfig", _CHEMBERTA, {"add_pooling_layer": False},
    ),
    "DeepChem/ChemBERTa-77M-MTR": (
        "RobertaModel", "RobertaConfig", _CHEMBERTA, {"add_pooling_layer": False},
    ),
    "Rostlab/ProstT5": ("T5EncoderModel", "T5Config", _PROSTT5, {}),
    "facebook/esm2_t6_8M_UR50D": (
        "EsmModel", "EsmConfig",
        {**_ESM, "hidden_size": 320, "num_hidden_layers": 6, "num_attention_heads": 20,
         "intermediate_size": 1280},
        {"add_pooling_layer": False},
    ),
    "facebook/esm2_t30_150M_UR50D": (
        "EsmModel", "EsmConfig",
        {**_ESM, "hidden_size": 640, "num_hidden_layers": 30, "num_attention_heads": 20,
         "intermediate_size": 2560},
        {"add_pooling_layer": False},
    ),
    "facebook/esm2_t33_650M_UR50D": (
        "EsmModel", "EsmConfig",
        {**_ESM, "hidden_size": 1280, "num_hidden_layers": 33, "num_attention_heads": 20,
         "intermediate_size": 5120},
        {"add_pooling_layer": False},
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": (
        "LlamaModel", "LlamaConfig",
        {"vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336},
        {},
    ),
    "Qwen/Qwen3-30B-A3B-Thinking-2507": (
        "Qwen3MoeModel", "Qwen3MoeConfig",
        {"vocab_size": 151936, "hidden_size": 2048, "num_hidden_layers": 48,
         "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
         "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128,
         "num_experts_per_tok": 8},
        {},
    ),
    "ibm/MoLFormer-XL-both-10pct": ("MolformerModel", "MolformerConfig", _MOLFORMER, {}),
    "openai/gpt-oss-20b": (
        "GptOssModel", "GptOssConfig",
        {"vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880,
         "num_hidden_layers": 24, "num_local_experts": 32, "num_attention_heads": 64,
         "num_key_value_heads": 8, "head_dim": 64},
        {},
    ),
}  # fmt: skip


def empty_model(repo: str) -> nn.Module:
    """The model of a repository in its published size, without memory for its weights."""
    model, config, sizes, extra = CONFIGS[repo]
    with torch.device("meta"):
        source = molformer if model == "MolformerModel" else transformers
        built: nn.Module = getattr(source, model)(getattr(source, config)(**sizes), **extra)
    return built
