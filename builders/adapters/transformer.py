# SPDX-License-Identifier: Apache-2.0
"""Transformers from the model hub: checked files, explicit classes, hidden states by layer.

Only classes of the installed ``transformers`` or of this package are built; code that a repository
brings along is never run. A layer called ``last`` is the model's ``last_hidden_state``,
``layer_<i>`` its ``hidden_states[i]``, the output of the i-th block (1 the first).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from ...registry.hub import model_files, sha256_of
from ...schemas.cards import ModelCard
from ...schemas.errors import CardError, SourceError
from .tokens import length_batches, pad_tokens, quiet

#: Architecture (``options.encoder``) -> class without its head, and how to leave poolers out.
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "esm": ("EsmModel", {"add_pooling_layer": False}),
    "gpt_neo": ("GPTNeoModel", {}),
    "gpt_oss": ("GptOssModel", {}),
    "llama": ("LlamaModel", {}),
    "molformer": ("MolformerModel", {}),
    "qwen3_moe": ("Qwen3MoeModel", {}),
    "roberta": ("RobertaModel", {"add_pooling_layer": False}),
    "t5": ("T5EncoderModel", {}),
}
#: Those whose class and tokenizer are in the module of their name here, not in transformers.
OWN = frozenset({"molformer"})
#: Tokens in one padded batch: on a processor more outgrow its cache, elsewhere fewer starve it.
CPU_BUDGET, DEVICE_BUDGET = 512, 16384
#: Files wanted beside the weights: configuration, vocabulary, chat template.
COMPANIONS = ("*.json", "*.txt", "*.jinja")


def check_architecture(card: ModelCard, kind: str) -> None:
    """Refuse an architecture there is no class for, before any download.

    Raises
    ------
    CardError
        It is none of :data:`CLASSES`.
    """
    if kind not in CLASSES:
        raise CardError(
            f"model '{card.id}': no class for '{kind}' in transformers or here; it would take code "
            f"from {card.checkpoint.package}, and code from a repository is never run"
        )


def weights_folder(card: ModelCard) -> Path:
    """The folder with a hub card's files at its revision, the weights checked where it says how.

    Raises
    ------
    CardError
        The card's weights are not on a hub.
    SourceError
        The files are not to be had (see :func:`matteratlas.registry.hub.model_files`), or the
        weights are not the card's.
    """
    source = card.checkpoint
    if source.obtained not in {"hub", "gated"} or not (
        source.package and source.path and source.revision
    ):
        raise CardError(f"model '{card.id}': card names no checkpoint on a hub")
    folder = model_files(source.package, source.revision, [source.path, *COMPANIONS])
    if source.sha256:
        for path in sorted(p for p in folder.rglob("*") if fnmatch(p.name, source.path)):
            if (actual := sha256_of(path)) != source.sha256:
                raise SourceError(
                    f"model '{card.id}': {path.name} has sha256 {actual}, the card says "
                    f"{source.sha256}; delete {path.resolve()} and fetch it again"
                )
    return folder


def load_model(kind: str, folder: Path, *, device: str = "cpu", dtype: str = "float32") -> Any:
    """Load a transformer from a local folder, without its head and in evaluation mode.

    Parameters
    ----------
    kind:
        A key of :data:`CLASSES`; the folder's ``config.json`` must say the same.
    dtype:
        ``float32`` or ``bfloat16``. Weights in MXFP4 are unpacked to it.

    Raises
    ------
    SourceError
        The files are of another architecture, or do not fill the model.
    """
    import torch
    import transformers

    name, extra = CLASSES[kind]
    cls: Any = getattr(_own(kind) if kind in OWN else transformers, name)
    stated, _ = transformers.PretrainedConfig.get_config_dict(folder, local_files_only=True)
    if stated.get("model_type") != kind:
        raise SourceError(
            f"{folder.name}: config.json says model_type '{stated.get('model_type')}', the card "
            f"'{kind}'; mend the card's encoder or revision"
        )
    if (stated.get("quantization_config") or {}).get("quant_method") == "mxfp4":
        # The packed form takes kernels for a few devices; unpacked it runs on any.
        unpack = transformers.utils.quantization_config.Mxfp4Config(dequantize=True)
        extra = {**extra, "quantization_config": unpack}
    with quiet():
        model, report = cls.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype=getattr(torch, dtype),
            **extra,
        )
    absent = sorted([*report["missing_keys"], *map(str, report["mismatched_keys"])])
    if absent:
        raise SourceError(
            f"{folder.name}: the weights lack '{absent[0]}' and {len(absent) - 1} more of the "
            "model's tensors; use the transformers version the card was run with"
        )
    return model.eval().to(device)


def load_tokenizer(folder: Path, kind: str | None = None) -> Any:
    """The tokenizer of a local folder, by the class its own files name or its architecture's."""
    from transformers import AutoTokenizer

    if kind in OWN:
        return _own(str(kind)).tokenizer(folder)
    with quiet():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _own(kind: str) -> Any:
    return importlib.import_module(f".{kind}", __package__)


def hidden_states(
    model: Any,
    ids: Sequence[Sequence[int]],
    *,
    layers: Sequence[str],
    pad: int,
    budget: int | None = None,
    device: str = "cpu",
) -> list[dict[str, np.ndarray]]:
    """Hidden states of token sequences, those of like length run together, padded and masked.

    Parameters
    ----------
    ids:
        Token ids with all special tokens the model wants.
    layers:
        ``last`` and ``layer_<i>``.
    pad:
        Id that fills rows up, the tokenizer's own: masked, but ESM-2 counts its mask tokens.
    budget:
        Most tokens in a padded batch; by default as suits the device.

    Returns
    -------
    list
        For each sequence: layer -> (tokens, dim) float32.
    """
    import torch

    inner = any(layer != "last" for layer in layers)
    settings: dict[str, Any] = {"output_hidden_states": inner}
    if hasattr(model.config, "use_cache") and not model.config.is_encoder_decoder:
        settings["use_cache"] = False
    if budget is None:
        budget = CPU_BUDGET if device == "cpu" else DEVICE_BUDGET
    out: dict[int, dict[str, np.ndarray]] = {}
    for rows in length_batches([len(i) for i in ids], budget=budget):
        tokens, mask = pad_tokens([ids[r] for r in rows], pad=pad)
        with torch.inference_mode():
            found = model(
                input_ids=torch.from_numpy(tokens).to(device),
                attention_mask=torch.from_numpy(mask).to(device),
                **settings,
            )
        for place, row in enumerate(rows):
            out[row] = {
                layer: _array(found, layer)[place, : len(ids[row])].float().cpu().numpy()
                for layer in layers
            }
    return [out[row] for row in range(len(ids))]


def _array(found: Any, layer: str) -> Any:
    if layer == "last":
        return found.last_hidden_state
    # The first entry is the embedding of the tokens, before any block.
    return found.hidden_states[int(layer.removeprefix("layer_"))]


def token_layers(card: ModelCard) -> list[str]:
    """The card's layers that have a vector a token or residue."""
    return [layer.name for layer in card.layers if layer.level != "structure"]
