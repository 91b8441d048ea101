# SPDX-License-Identifier: Apache-2.0
"""A tiny valid atlas whose every number is a function of its name, for tests of versions.

Two models: ``plain`` (one layer, one vector a structure) and ``graph`` (two layers, atom vectors,
an energy). Two sets: ``ores`` (with a label) and ``salts``. Vectors and structures depend on names
only, so two atlases differ exactly where a test makes them differ.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

from matteratlas.builders.adapters.base import Embedded, Missing
from matteratlas.builders.build import open_root
from matteratlas.builders.writer import UnitWriter
from matteratlas.registry import catalog
from matteratlas.registry.files import Files
from matteratlas.registry.index import file_entries, read_index, seal, write_index, write_json
from matteratlas.registry.tables import write_table
from matteratlas.schemas.archive import Precision
from matteratlas.schemas.cards import ModelCard, StructureSetCard
from matteratlas.schemas.structure_sets import structure_arrow_schema
from matteratlas.schemas.structures import Structure, structure_to_row

_MODEL = catalog.model("random-128").model_dump(mode="json")
_SET = catalog.structure_set("elements").model_dump(mode="json")

Row = tuple[str, str, int]
Edit = Callable[[str, str, int, Embedded], "Embedded | Missing"]


def identify(set_id: str, i: int) -> str:
    """Id of the i-th structure of a set."""
    digest = hashlib.sha256(f"{set_id}/{i}".encode()).digest()
    return f"ma1-{base64.b32encode(digest).decode().lower()[:26]}"


def atoms(i: int) -> int:
    """Atoms of the i-th structure."""
    return 1 + i % 3


def model_cards(**changes: Mapping[str, Any]) -> dict[str, ModelCard]:
    """Cards of the models; ``changes`` by model id replace keys."""
    layer = {**_MODEL["layers"][0]}
    layers = {
        "plain": [{**layer, "name": "last", "dim": 5, "level": "structure"}],
        "graph": [
            {**layer, "name": "first", "dim": 3, "level": "atom"},
            {**layer, "name": "last", "dim": 4, "level": "atom"},
        ],
    }
    cards = {}
    for model_id, own in layers.items():
        card = {
            **_MODEL,
            "id": model_id,
            "name": f"Model {model_id}",
            "family": model_id,
            "layers": own,
            "default_layer": "last",
            "learned": True,
            "modality": "atoms3d",
            **changes.get(model_id, {}),
        }
        cards[model_id] = ModelCard.model_validate(card)
    return cards


def set_cards(**changes: Mapping[str, Any]) -> dict[str, StructureSetCard]:
    """Cards of the sets; ``changes`` by set id replace keys."""
    label = {
        "description": "Cell volume",
        "unit": "Å³",
        "level_of_theory": "none",
        "shape": "scalar",
    }
    cards = {}
    for set_id in ("ores", "salts"):
        strata = {
            "only": {
                "description": "all",
                "domains": ["inorganic_crystal"],
                "count": 9,
                "starter": 9,
            }
        }
        card = {
            **_SET,
            "id": set_id,
            "name": f"Set {set_id}",
            "version": "1.0.0",
            "strata": strata,
            "labels": {"volume": label} if set_id == "ores" else {},
            **changes.get(set_id, {}),
        }
        cards[set_id] = StructureSetCard.model_validate(card)
    return cards


@contextmanager
def registry(
    models: Mapping[str, ModelCard] | None = None,
    sets: Mapping[str, StructureSetCard] | None = None,
) -> Iterator[None]:
    """Let the catalogue hold these cards and nothing else."""
    held = dict(models or model_cards()), dict(sets or set_cards())
    with (
        patch.object(catalog, "models", lambda folder=None: held[0]),
        patch.object(catalog, "structure_sets", lambda folder=None: held[1]),
    ):
        yield


def structures(card: StructureSetCard, numbers: Sequence[int]) -> pd.DataFrame:
    """The set's table with these structures."""
    rows = []
    for i in numbers:
        n = atoms(i)
        structure = Structure(
            id=identify(card.id, i),
            set=card.id,
            source_id=f"{card.id}-{i}",
            kind="crystal",
            stratum="only",
            numbers=np.array([26] * n),
            positions=np.arange(3 * n, dtype=float).reshape(-1, 3) + i,
            cell=np.eye(3) * (3.0 + i),
            pbc=(True, True, True),
            labels={"volume": float((3.0 + i) ** 3)} if card.labels else {},
        )
        rows.append(
            {
                **structure_to_row(structure),
                "description": f"A crystal of {n} iron atoms.",
                "source": "made==1:up",
                "licence": card.licence,
            }
        )
    return pd.DataFrame(rows).astype({"multiplicity": "Int64"})


def embed(card: ModelCard, set_id: str, i: int) -> Embedded:
    """What a model says of a structure."""
    nodes, pooled = {}, {}
    for layer in card.layers:
        seed = hashlib.sha256(f"{card.id}/{layer.name}/{set_id}/{i}".encode()).digest()
        values = np.random.default_rng(list(seed)).normal(size=(atoms(i), layer.dim))
        nodes[layer.name] = values.astype(np.float32)
        pooled[layer.name] = nodes[layer.name].mean(axis=0)
    graph = card.id == "graph"
    return (
        Embedded(pooled=pooled, nodes=nodes, energy=-1.0 - i) if graph else Embedded(pooled=pooled)
    )


def write_small(
    root: Path,
    *,
    rows: Mapping[str, Sequence[int]] | None = None,
    units: Sequence[tuple[str, str]] | None = None,
    edit: Edit | None = None,
    tables: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    precision: str = "float32",
    keep_nodes: bool = True,
) -> Path:
    """Write an atlas; the catalogue must hold the cards (:func:`registry`).

    Parameters
    ----------
    rows :
        Numbers of the structures by set.
    units :
        (model, set) to embed; all by default.
    edit :
        Changes what a model says of a structure.
    tables :
        Changes a set's table before it is written.
    """
    rows = rows or {"ores": range(7), "salts": range(4)}
    open_root(root)
    models, sets = catalog.models(), catalog.structure_sets()
    for set_id, numbers in rows.items():
        table = structures(sets[set_id], numbers)
        table = tables(table) if tables else table
        write_table(
            table,
            root / "structures" / f"{set_id}.parquet",
            schema=structure_arrow_schema(sets[set_id]) if tables is None else None,
            version=sets[set_id].version,
        )
    for model_id, set_id in units or [(m, s) for m in models for s in rows]:
        with UnitWriter(
            root,
            models[model_id],
            sets[set_id],
            fingerprint="f",
            model_fingerprint="m",
            build_version="0",
            keep_nodes=keep_nodes,
            precision=Precision.parse(precision),
        ) as writer:
            for i in rows[set_id]:
                found: Embedded | Missing = embed(models[model_id], set_id, i)
                if edit is not None and isinstance(found, Embedded):
                    found = edit(model_id, set_id, i, found)
                writer.append(identify(set_id, i), found)
            writer.finish()
    write_index(root)
    return root


def score(**changes: Any) -> dict[str, Any]:
    """One row of the pairs table."""
    return {
        "release": "unreleased", "selection": "ores", "selection_sha256": "a" * 64, "n": 7, "k": 3,
        "metric": "mutual_knn", "metric_version": "1", "normalise": "none", "value": 0.5,
        "standard_error": 0.01, "model_a": "plain", "version_a": "1", "layer_a": "last",
        "pooling_a": "none", "model_b": "graph", "version_b": "1", "layer_b": "last",
        "pooling_b": "mean", "permutations": 9, "null_within": None, "null_mean": 0.1,
        "null_quantile": 0.2, "p_value": 0.1, "q_value": 0.2, "calibrated": 0.4, "seed": 0,
        **changes,
    }  # fmt: skip


def write_scores(root: Path, pairs: Sequence[Mapping[str, Any]], **hashes: str) -> None:
    """Write score tables and the record that vouches for them; ``hashes`` of selections."""
    selections = {"ores": "a" * 64, **hashes}
    table = pd.DataFrame(
        [
            {
                "selection": name, "selection_sha256": sha256, "role": "stratum", "parent": None,
                "contrast": None, "group": None, "side": None, "draw": None, "n": 7,
                "available": 7, "models": ["plain", "graph"], "ids": [identify("ores", 0)],
            }
            for name, sha256 in selections.items()
        ]
    ).astype({"draw": "Int64"})  # fmt: skip
    write_table(table, root / "scores/selections.parquet")
    write_table(pd.DataFrame(pairs).astype({"k": "Int64"}), root / "scores/pairs.parquet")
    index = read_index(Files(str(root)))
    held = {
        name: {**entry, "rows": 1}
        for name, entry in file_entries(root, root.glob("scores/*.parquet")).items()
    }
    units = [
        f"{model}/{set_id}:{unit['content_sha256']}"
        for model, entry in index["models"].items()
        for set_id, unit in entry["units"].items()
    ]
    record = {"tables": held, "inputs": {"units": units}, "release": "unreleased"}
    write_json(seal(record), root / "scores/analysis.json")


def tree(root: Path) -> dict[str, bytes]:
    """Every file of a folder by path."""
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }
