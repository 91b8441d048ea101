# SPDX-License-Identifier: Apache-2.0
"""MoLFormer: a BERT over the tokens of a SMILES, with rotary positions and linear attention.

Ross et al., Nat. Mach. Intell. 4, 1256 (2022); arXiv 2106.09553. ``transformers`` has no class for
it, and the Python files of its repository are not run. The modules here are named as the tensors of
``ibm-research/MoLFormer-XL-both-10pct`` are, which its authors (Apache-2.0) also offered to
transformers: github.com/huggingface/transformers/pull/26967. Random features are the stored ones;
as published they would be drawn anew at every call (``deterministic_eval: false``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput

#: A token of a SMILES: a bracket atom, an atom, a bond, a branch, a ring closure.
TOKEN = (
    r"\[[^\]]+\]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>|\*|\$|%[0-9]{2}"
    r"|[0-9]"
)


class MolformerConfig(PreTrainedConfig):
    """Sizes as in the repository's ``config.json``; the defaults are those of the XL models."""

    model_type = "molformer"

    vocab_size: int = 2362
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 768
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    linear_attention_eps: float = 1e-6
    num_random_features: int = 32
    feature_map_kernel: str = "relu"
    initializer_range: float = 0.02
    pad_token_id: int | None = 2
    tie_word_embeddings: bool = False


class _FeatureMap(nn.Module):
    """Generalised random features of a head: ``kernel(x W)`` (Performers, arXiv 2009.14794)."""

    weight: torch.Tensor

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        head = config.hidden_size // config.num_attention_heads
        self.kernel = ACT2FN[config.feature_map_kernel]
        self.register_buffer("weight", torch.randn(head, config.num_random_features))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.kernel(values @ self.weight)  # type: ignore[no-any-return]


class _LinearAttention(nn.Module):
    """Attention whose weights are products of features, so that no matrix of pairs is formed.

    With rotated queries and keys, token m reads
    sum_n <f(q_m), f(k_n)> v_n / sum_n <f(q_m), f(k_n)> (arXiv 2106.09553, equation 2).
    """

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.eps = config.linear_attention_eps
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.feature_map = _FeatureMap(config)

    def forward(
        self, states: torch.Tensor, mask: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        rows, length, width = states.shape
        query, key, value = (
            layer(states).view(rows, length, self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        query = self.feature_map(_rotate(query, turn))
        key = self.feature_map(_rotate(key, turn)) * mask[:, None, :, None]
        weight = (query @ key.sum(dim=2).unsqueeze(-1)).clamp(min=self.eps)
        read = query @ (key.transpose(2, 3) @ value) / weight
        return read.transpose(1, 2).reshape(rows, length, width)


def _turns(length: int, head: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, (length, head), of the angles by which positions turn a head's pairs."""
    pairs = torch.arange(0, head, 2, device=like.device, dtype=torch.float32) / head
    angles = torch.arange(length, device=like.device)[:, None] * 10000.0**-pairs
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _rotate(values: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn pairs (i, i + head/2) by their position's angles (RoFormer, arXiv 2104.09864)."""
    first, second = values.chunk(2, dim=-1)
    return values * turn[0] + torch.cat([-second, first], dim=-1) * turn[1]


def _residual(config: MolformerConfig, inward: int) -> nn.ModuleDict:
    """What is added to a block's input, and the norm after it."""
    norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    return nn.ModuleDict({"dense": nn.Linear(inward, config.hidden_size), "LayerNorm": norm})


class _Block(nn.Module):
    """Attention and a feed-forward layer, each added to its input and normalised after."""

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.attention = nn.ModuleDict(
            {"self": _LinearAttention(config), "output": _residual(config, width)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = _residual(config, inner)
        self.act = ACT2FN[config.hidden_act]

    def forward(
        self, states: torch.Tensor, mask: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        added: Any = self.attention["output"]
        states = added["LayerNorm"](
            states + added["dense"](self.attention["self"](states, mask, turn))
        )
        inner = self.act(self.intermediate["dense"](states))
        return self.output["LayerNorm"](states + self.output["dense"](inner))  # type: ignore[no-any-return]


class MolformerModel(PreTrainedModel):
    """The encoder without its language-model head."""

    config_class = MolformerConfig
    base_model_prefix = "molformer"
    config: MolformerConfig

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {"word_embeddings": nn.Embedding(config.vocab_size, width, config.pad_token_id)}
        )
        blocks = [_Block(config) for _ in range(config.num_hidden_layers)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(blocks)})
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> BaseModelOutput:
        """States of every token, (rows, tokens, width); the last are normalised once more.

        Parameters
        ----------
        input_ids:
            (rows, tokens) int64.
        attention_mask:
            (rows, tokens), 1 for tokens and 0 for padding, which no token reads.
        """
        states = self.embeddings["word_embeddings"](input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        head = self.config.hidden_size // self.config.num_attention_heads
        turn = _turns(input_ids.shape[1], head, states)
        everything = [states]
        blocks: Any = self.encoder["layer"]
        for block in blocks:
            states = block(states, mask.to(states.dtype), turn)
            everything.append(states)
        return BaseModelOutput(
            last_hidden_state=self.LayerNorm(states),
            hidden_states=tuple(everything) if output_hidden_states else None,
        )


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the repository's ``vocab.json``; what :data:`TOKEN` leaves is unknown."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    words: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    words.setdefault("<unk>", len(words))
    found = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN), behavior="isolated")
    found.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[(n, words[n]) for n in ("<bos>", "<eos>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=found, cls_token="<bos>", sep_token="<eos>", pad_token="<pad>",
        unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip
