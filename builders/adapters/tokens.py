# SPDX-License-Identifier: Apache-2.0
"""What the token models share: checked files beside the weights, loading, padding, batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...registry.hub import sha256_of
from ...schemas.cards import ModelCard
from ...schemas.errors import CardError, SourceError


def companion(card: ModelCard, folder: Path, name: str) -> Path:
    """A file the model needs beside its weights, checked as the weights are.

    The card names it and its SHA-256 under ``options.files``.

    Raises
    ------
    CardError
        The card does not name the file.
    SourceError
        The file is missing or is not the one the card names.
    """
    expected = ((card.options or {}).get("files") or {}).get(name)
    if expected is None:
        raise CardError(
            f"model '{card.id}': key 'options.files' does not name '{name}'; add its sha256"
        )
    path = folder / name
    if not path.is_file():
        raise SourceError(f"model '{card.id}': {card.checkpoint.package} holds no '{name}'")
    if (actual := sha256_of(path)) != expected:
        raise SourceError(
            f"model '{card.id}': {name} has sha256 {actual}, the card says {expected}; "
            f"reinstall {card.checkpoint.package}"
        )
    return path


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the loading report of transformers, and put its settings back."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_encoder(kind: str, folder: Path, *, device: str = "cpu") -> Any:
    """Load a transformer encoder from a local folder, without its pooling head.

    Parameters
    ----------
    kind:
        ``bert`` or ``albert``.
    folder:
        Holds ``config.json`` and the weights; nothing is looked up elsewhere.

    Raises
    ------
    SourceError
        The weights do not fill the encoder, so part of it would be random.
    """
    import transformers

    cls: Any = {"bert": transformers.BertModel, "albert": transformers.AlbertModel}[kind]
    with quiet():
        model, report = cls.from_pretrained(
            folder, add_pooling_layer=False, local_files_only=True, output_loading_info=True
        )
    absent = sorted([*report["missing_keys"], *report["mismatched_keys"]])
    if absent:
        raise SourceError(
            f"{folder.name}: the weights lack '{absent[0]}' and {len(absent) - 1} more of the "
            "encoder's tensors; use the transformers version the card was run with"
        )
    return model.eval().to(device)


def length_batches(lengths: Sequence[int], *, budget: int) -> Iterator[list[int]]:
    """Rows grouped by length so that no padded batch holds more than ``budget`` tokens.

    Every row appears once; a row longer than the budget makes a batch of its own.
    """
    rows: list[int] = []
    for row in np.argsort(np.asarray(lengths), kind="stable"):
        if rows and (len(rows) + 1) * lengths[row] > budget:
            yield rows
            rows = []
        rows.append(int(row))
    if rows:
        yield rows


def pad_tokens(ids: Sequence[Sequence[int]], *, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded (rows, longest) int64 token ids and their 0/1 attention mask."""
    shape = (len(ids), max(map(len, ids)))
    tokens, mask = np.full(shape, pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, sequence in enumerate(ids):
        tokens[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return tokens, mask
