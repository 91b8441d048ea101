# SPDX-License-Identifier: Apache-2.0
"""An archive of made-up vectors that fill several chunks and shards, written by the real writer."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from matteratlas.builders.adapters.base import Embedded, Missing
from matteratlas.builders.build import open_root
from matteratlas.builders.locking import root_lock
from matteratlas.builders.writer import UnitWriter
from matteratlas.registry import catalog
from matteratlas.registry.index import write_index
from matteratlas.registry.tables import write_table
from matteratlas.schemas import archive
from matteratlas.schemas.archive import Precision
from matteratlas.schemas.cards import ModelCard, StructureSetCard
from matteratlas.schemas.structures import Structure, structure_to_row

#: Rows of each set; the sets share the ids of `SHARED` structures.
ROWS = {"early": 7000, "late": 2000}
SHARED = 100
#: Width and stored precision; chunks hold 2,048 and 1,024 rows. "spare" lacks the first set.
MODELS = {"wide": (512, "float32"), "wider": (1024, "float16"), "spare": (8, "bitround-7")}
#: Every so many early structures are missing from "wide", and why.
EVERY, REASON = 97, "failed: made up"


def ids(set_id: str) -> list[str]:
    """Ids of a set's structures; the last of the late ones stand in the early set too."""
    names = [f"{set_id}/{i}" for i in range(ROWS[set_id])]
    if set_id == "late":
        names[-SHARED:] = [f"early/{3 * i}" for i in range(SHARED)]
    digests = (hashlib.sha256(n.encode()).digest() for n in names)
    return [f"ma1-{base64.b32encode(d).decode().lower()[:26]}" for d in digests]


def vectors(model: str, set_id: str) -> np.ndarray:
    """(row, feature) float32 that the model gives: the same for the same structure."""
    dim, _ = MODELS[model]
    rows = [int(i[4:17].translate(_DIGITS)) % 10**6 for i in ids(set_id)]
    grid = np.sin(np.outer(np.array(rows) + 1.0, np.arange(1, dim + 1)))
    return (grid * 3).astype(np.float32)


_DIGITS = str.maketrans({c: str(i % 10) for i, c in enumerate("abcdefghijklmnopqrstuvwxyz234567")})


def missing(model: str, set_id: str) -> np.ndarray:
    """(row,) whether the model could not embed it: some of "wide", all late ones of "wider"."""
    if model == "wide":
        return np.isin(ids(set_id), ids("early")[5::EVERY])
    return np.full(ROWS[set_id], model == "wider" and set_id == "late")


def cards() -> tuple[dict[str, ModelCard], dict[str, StructureSetCard]]:
    """Cards of the models and sets."""
    model = catalog.model("random-128").model_dump(mode="json")
    owner = catalog.structure_set("elements").model_dump(mode="json")
    models = {
        name: {
            **model,
            "id": name,
            "name": name,
            "layers": [{**model["layers"][0], "name": "last", "dim": dim}],
            "default_layer": "last",
        }
        for name, (dim, _) in MODELS.items()
    }
    sets = {
        name: {
            **owner,
            "id": name,
            "labels": {},
            "strata": {
                s: {"description": s, "domains": ["inorganic_crystal"], "count": n, "starter": 1}
                for s, n in (("even", rows - rows // 2), ("odd", rows // 2))
            },
        }
        for name, rows in ROWS.items()
    }
    return (
        {k: ModelCard.model_validate(v) for k, v in models.items()},
        {k: StructureSetCard.model_validate(v) for k, v in sets.items()},
    )


def write_atlas(root: Path) -> Path:
    """Write the archive; shards hold 8 MiB so that several are needed."""
    models, sets = cards()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "models", lambda folder=None: models)
        patch.setattr(catalog, "structure_sets", lambda folder=None: sets)
        patch.setattr(archive, "SHARD_BYTES", 8 * 2**20)
        open_root(root)
        for set_id in ROWS:
            _write_structures(root, set_id)
        for model_id, card in models.items():
            for set_id, set_card in sets.items():
                if (model_id, set_id) != ("spare", "early"):
                    _write_unit(root, card, set_card)
        with root_lock(root):
            write_index(root)
    return root


def _write_structures(root: Path, set_id: str) -> None:
    template = structure_to_row(
        Structure(
            id=ids(set_id)[0],
            set=set_id,
            source_id="0",
            kind="crystal",
            stratum="even",
            numbers=np.array([6]),
            positions=np.zeros((1, 3)),
            cell=np.eye(3) * 9.0,
            pbc=(True,) * 3,
        )
    )
    count = ROWS[set_id]
    extra = {"description": "a crystal", "source": "made==1:up", "licence": None}
    table = pd.DataFrame([{**template, **extra}] * count).astype({"multiplicity": "Int64"})
    table["id"] = ids(set_id)
    table["source_id"] = [f"{set_id}/{i}" for i in range(count)]
    table["stratum"] = ["even", "odd"] * (count // 2)
    write_table(table, root / "structures" / f"{set_id}.parquet")


def _write_unit(root: Path, card: ModelCard, set_card: StructureSetCard) -> None:
    values, absent = vectors(card.id, set_card.id), missing(card.id, set_card.id)
    with UnitWriter(
        root,
        card,
        set_card,
        fingerprint="f",
        model_fingerprint="m",
        build_version="0",
        precision=Precision.parse(MODELS[card.id][1]),
    ) as writer:
        for structure_id, row, lacks in zip(ids(set_card.id), values, absent, strict=True):
            answer = Missing(REASON) if lacks else Embedded(pooled={"last": row})
            writer.append(structure_id, answer)
        writer.finish()
