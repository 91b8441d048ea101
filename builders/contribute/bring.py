# SPDX-License-Identifier: Apache-2.0
"""Vectors that somebody brings with the ids of the structures they are of, without the model.

Beside the card lies one of

    vectors.parquet                      columns ``id``, ``embedding``, ``embedding.<layer>``
    vectors.npy, vectors.<layer>.npy     with ``ids.txt`` (a line an id) or ``ids.npy``
    vectors.zarr                         arrays ``id``, ``embedding``, ``embedding.<layer>``

``embedding`` is the card's default layer, one row a structure. They are data: nothing is unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...registry.contributed import contributed_folders
from ...schemas.cards import ModelCard
from ...schemas.errors import CardError, SourceError

_ID = re.compile(r"ma1-[a-z2-7]{26}")
_FORMS = ("vectors.parquet", "vectors.npy", "vectors.zarr")
#: Rows looked at together.
_BLOCK = 16384


@dataclass(frozen=True)
class Vectors:
    """Brought vectors: ``rows`` by structure id, ``layers`` as arrays (n, dim)."""

    path: Path
    rows: Mapping[str, int]
    layers: Mapping[str, Any]

    def of(self, structure_id: str) -> dict[str, np.ndarray]:
        """Layer -> (dim,) float32 of one structure.

        Raises
        ------
        KeyError
            None was brought.
        """
        row = self.rows[structure_id]
        return {name: np.asarray(array[row], np.float32) for name, array in self.layers.items()}


def brought_folder(card: ModelCard) -> Path:
    """The contributed folder with the card.

    Raises
    ------
    SourceError
        There is none on this machine.
    """
    for folder in contributed_folders():
        if (folder / f"{card.id}.yaml").is_file():
            return folder
    raise SourceError(
        f"model '{card.id}': its vectors were brought by their authors and cannot be computed "
        "here; read them from a release"
    )


def read_vectors(folder: Path, card: ModelCard) -> Vectors:
    """The vectors brought for a card, held against it.

    Raises
    ------
    SourceError
        Naming the file and the row: none or several forms, ids that are malformed or repeated,
        other dims than the card's, numbers that are not finite, pickles.
    """
    found = [folder / name for name in _FORMS if (folder / name).exists()]
    if len(found) != 1:
        has = " and ".join(p.name for p in found) or "no vectors"
        raise SourceError(f"{folder}: holds {has}; bring one of {', '.join(_FORMS)}")
    path = found[0]
    for layer in card.layers:
        if layer.level != "structure":
            raise CardError(
                f"model '{card.id}': key 'layers.{layer.name}.level' is '{layer.level}', brought "
                "vectors are one a structure; write structure, and how they were pooled in 'where'"
            )
    reader = {".parquet": _parquet, ".npy": _npy, ".zarr": _zarr}[path.suffix]
    try:
        ids, layers = reader(path, card)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        text = " ".join(str(error).split())[:200]
        raise SourceError(f"{path}: unreadable ({text}); write it again") from error
    rows = _rows(path, ids)
    for layer in card.layers:
        array = layers[layer.name]
        if tuple(array.shape) != (len(ids), layer.dim):
            raise SourceError(
                f"{path}: layer '{layer.name}' has shape {tuple(array.shape)}, ids and card say "
                f"({len(ids)}, {layer.dim}); mend one of them"
            )
        if np.dtype(array.dtype).kind not in "fiu":
            raise SourceError(f"{path}: layer '{layer.name}' holds no numbers; give float32")
        for start in range(0, len(ids), _BLOCK):
            values = np.asarray(array[start : start + _BLOCK], np.float32)
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if len(bad):
                raise SourceError(
                    f"{path}: layer '{layer.name}', row {start + bad[0]} "
                    f"('{ids[start + bad[0]]}') is not finite; leave the row out"
                )
    return Vectors(path, rows, layers)


def _rows(path: Path, ids: list[str]) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, name in enumerate(ids):
        if not _ID.fullmatch(name):
            raise SourceError(
                f"{path}: row {row}: '{name[:60]}' is no structure id; take the column 'id' of "
                "structures/<set>.parquet"
            )
        if name in rows:
            raise SourceError(f"{path}: rows {rows[name]} and {row} have one id '{name}'; keep one")
        rows[name] = row
    if not rows:
        raise SourceError(f"{path}: no rows; bring at least one vector")
    return rows


def _column(layer: str, card: ModelCard) -> str:
    return "embedding" if layer == card.default_layer else f"embedding.{layer}"


def _parquet(path: Path, card: ModelCard) -> tuple[list[str], dict[str, Any]]:
    table = pq.read_table(path)
    wanted = {layer.name: _column(layer.name, card) for layer in card.layers}
    absent = [c for c in ("id", *wanted.values()) if c not in table.column_names]
    if absent:
        raise ValueError(f"no column '{absent[0]}'")
    layers = {}
    for name, column in wanted.items():
        lists = table[column].combine_chunks()
        if lists.null_count:
            raise ValueError(f"column '{column}' has empty rows; leave them out")
        if len(lists) and len(set(np.asarray(pc.list_value_length(lists)))) > 1:
            raise ValueError(f"column '{column}': rows differ in length")
        layers[name] = np.asarray(lists.flatten()).reshape(max(1, len(lists)), -1)
    return [str(i) for i in table["id"].to_pylist()], layers


def _npy(path: Path, card: ModelCard) -> tuple[list[str], dict[str, Any]]:
    folder = path.parent
    if (folder / "ids.txt").exists():
        ids = (folder / "ids.txt").read_text(encoding="utf-8").split()
    else:
        ids = [str(i) for i in np.load(folder / "ids.npy", allow_pickle=False)]
    layers = {}
    for layer in card.layers:
        name = "vectors" if layer.name == card.default_layer else f"vectors.{layer.name}"
        layers[layer.name] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return ids, layers


def _zarr(path: Path, card: ModelCard) -> tuple[list[str], dict[str, Any]]:
    import zarr

    group = zarr.open_group(str(path), mode="r")
    ids = [str(i) for i in np.asarray(group["id"][:])]  # type: ignore[index]
    return ids, {layer.name: group[_column(layer.name, card)] for layer in card.layers}
