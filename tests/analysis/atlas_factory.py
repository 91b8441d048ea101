# SPDX-License-Identifier: Apache-2.0
"""A small valid archive of made-up models on made-up matter, written by the real writer.

Two sets, 250 structures. Every chart is a random linear image of one latent point a structure, plus
noise, so that the models agree everywhere to the same degree, unless a fault is planted.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from matteratlas.analysis.evidence import universe
from matteratlas.builders.adapters.base import Embedded, Missing
from matteratlas.builders.build import open_root
from matteratlas.builders.writer import UnitWriter
from matteratlas.registry import catalog
from matteratlas.registry.files import Files
from matteratlas.registry.index import read_index, seal, write_index, write_json
from matteratlas.registry.tables import write_table
from matteratlas.registry.unit import open_unit
from matteratlas.schemas.archive import ATLAS_FILE
from matteratlas.schemas.cards import ModelCard, StructureSetCard
from matteratlas.schemas.structures import Structure, structure_to_row

#: (set, stratum) -> kind, domains, element besides the common one, structures.
STRATA: dict[tuple[str, str], tuple[str, list[str], str, int]] = {
    ("ores", "oxides"): ("crystal", ["inorganic_crystal"], "O", 60),
    ("ores", "alloys"): ("crystal", ["inorganic_crystal"], "Fe", 45),
    ("ores", "actinides"): ("crystal", ["f_block"], "U", 45),
    ("organics", "small"): ("molecule", ["organic_molecule"], "H", 60),
    ("organics", "complexes"): ("molecule", ["metal_complex"], "Fe", 40),
}

#: model -> what differs from the random baseline's card, and its default width.
MODELS: dict[str, dict[str, Any]] = {
    "lattice-a": {"family": "lattice", "domains": ["inorganic_crystal"], "dim": 24},
    "lattice-b": {"family": "lattice", "domains": ["inorganic_crystal"], "dim": 24},
    "bond-a": {"family": "bond", "domains": ["inorganic_crystal"], "dim": 40},
    "field-a": {"family": "field", "domains": ["inorganic_crystal"], "dim": 16},
    "organic-a": {
        "family": "organic",
        "domains": ["organic_molecule"],
        "dim": 32,
        "elements": ["H", "C", "O"],
    },
    "shape": {"family": "shape", "learned": False, "dim": 20},
    "noise": {"family": "noise", "learned": False, "dim": 12},
}


# Taken before any test puts made-up cards into the catalogue.
_MODEL = catalog.model("random-128").model_dump(mode="json")
_SET = catalog.structure_set("elements").model_dump(mode="json")


def identify(text: str) -> str:
    """An id of the right form."""
    digest = base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()
    return f"ma1-{digest[:26]}"


def make_cards() -> tuple[dict[str, ModelCard], dict[str, StructureSetCard]]:
    """Cards of the made-up models and sets, from the closed schema."""
    models = {}
    base = _MODEL
    for model_id, about in MODELS.items():
        learned = about.get("learned", True)
        card = {
            **base,
            "id": model_id,
            "name": model_id,
            "family": about["family"],
            "learned": learned,
            "modality": "atoms3d" if learned else "descriptor",
            "training": {**base["training"], "domains": about.get("domains")},
            "supports": {
                **base["supports"],
                "kinds": ["molecule", "crystal"],
                "elements": about.get("elements"),
            },
            "layers": [
                {**base["layers"][0], "name": "last", "dim": about["dim"]},
                {**base["layers"][0], "name": "first", "dim": about["dim"] + 3},
            ],
            "default_layer": "last",
        }
        models[model_id] = ModelCard.model_validate(card)
    sets = {}
    for set_id in dict.fromkeys(s for s, _ in STRATA):
        strata = {
            name: {"description": name, "domains": domains, "count": count, "starter": count}
            for (owner, name), (_, domains, _, count) in STRATA.items()
            if owner == set_id
        }
        card = {**_SET, "id": set_id, "strata": strata, "labels": {}, "version": "1.0.0"}
        sets[set_id] = StructureSetCard.model_validate(card)
    return models, sets


def make_structures() -> list[Structure]:
    """All structures; one crystal of ``ores`` stands in ``organics`` too."""
    out = []
    for (set_id, stratum), (kind, _, element, count) in STRATA.items():
        number = {"O": 8, "Fe": 26, "U": 92, "H": 1}[element]
        for i in range(count):
            name = f"{set_id}/{stratum}/{i}"
            atoms = 2 + i % 6
            crystal = kind == "crystal"
            out.append(
                Structure(
                    id=identify(name),
                    set=set_id,
                    source_id=name,
                    kind=kind,  # type: ignore[arg-type]
                    stratum=stratum,
                    numbers=np.array([6] * (atoms - 1) + [number]),
                    positions=np.arange(3 * atoms, dtype=float).reshape(-1, 3),
                    cell=np.eye(3) * 9.0 if crystal else np.zeros((3, 3)),
                    pbc=(crystal,) * 3,
                )
            )
    return out


def structure_tables(structures: list[Structure]) -> dict[str, pd.DataFrame]:
    """Tables by set, with one structure of the first set repeated in the second."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for structure in structures:
        row = {
            **structure_to_row(structure),
            "description": f"a {structure.kind}",
            "source": "made==1:up",
            "licence": None,
        }
        rows.setdefault(structure.set, []).append(row)
    shared = {**rows["ores"][0], "set": "organics", "stratum": "small", "source_id": "organics/x"}
    rows["organics"].append(shared)
    return {s: pd.DataFrame(r).astype({"multiplicity": "Int64"}) for s, r in rows.items()}


Plant = Callable[[str, pd.DataFrame, np.ndarray], np.ndarray]


def write_atlas(
    root: Path,
    *,
    seed: int = 0,
    noise: float = 0.5,
    plant: Plant | None = None,
    spread: Mapping[str, float] | None = None,
) -> Path:
    """Write the archive to ``root``; the catalogue must hold the made-up cards.

    Parameters
    ----------
    noise :
        Of every chart but the random one, against latents of unit variance.
    plant :
        Called with (model, structures, latent points); returns the points the model sees.
    spread :
        Stratum -> distance by which its latent points are shifted.
    """
    models, sets = catalog.models(), catalog.structure_sets()
    open_root(root)
    tables = structure_tables(make_structures())
    for set_id, table in tables.items():
        write_table(table, root / "structures" / f"{set_id}.parquet")
    everything = pd.concat(tables.values(), ignore_index=True).drop_duplicates("id")
    random = np.random.default_rng(seed)
    latent = random.normal(size=(len(everything), 6))
    for stratum, distance in (spread or {}).items():
        latent[(everything["stratum"] == stratum).to_numpy(), 0] += distance
    for model_id, card in models.items():
        seen = plant(model_id, everything, latent.copy()) if plant else latent
        vectors = {}
        for layer in card.layers:
            image = seen @ random.normal(size=(seen.shape[1], layer.dim)) + 3.0
            image += noise * random.normal(size=image.shape)
            if card.family == "noise":
                image = random.normal(size=image.shape)
            vectors[layer.name] = image.astype(np.float32)
        place = {structure_id: i for i, structure_id in enumerate(everything["id"])}
        allowed = card.supports.elements
        for set_id, table in tables.items():
            with UnitWriter(
                root,
                card,
                sets[set_id],
                fingerprint="f",
                model_fingerprint="m",
                build_version="0",
            ) as writer:
                for structure_id, elements in zip(table["id"], table["elements"], strict=True):
                    strange = [e for e in elements if allowed is not None and e not in allowed]
                    if strange:
                        writer.append(structure_id, Missing(f"unsupported_element: {strange[0]}"))
                        continue
                    row = place[structure_id]
                    writer.append(
                        structure_id, Embedded(pooled={k: v[row] for k, v in vectors.items()})
                    )
                writer.finish()
    write_index(root)
    return root


def rewrite_unit(
    root: Path,
    model_id: str,
    set_id: str,
    change: Callable[[str, np.ndarray], np.ndarray] | Missing,
) -> None:
    """Write a unit anew with other vectors, ``change`` of (layer, those it has), or with none."""
    unit = open_unit(Files(str(root)), model_id, set_id)
    card = catalog.models()[model_id]
    with UnitWriter(
        root,
        card,
        catalog.structure_sets()[set_id],
        fingerprint="f",
        model_fingerprint="m",
        build_version="0",
    ) as writer:
        vectors = {layer: unit.vectors(layer).read() for layer in unit.record.layers}
        if not isinstance(change, Missing):
            vectors = {layer: change(layer, values) for layer, values in vectors.items()}
        for row, (structure_id, reason) in enumerate(zip(unit.ids(), unit.reasons(), strict=True)):
            if isinstance(change, Missing):
                writer.append(structure_id, change)
            elif reason:
                writer.append(structure_id, Missing(reason))
            else:
                writer.append(
                    structure_id, Embedded(pooled={k: v[row] for k, v in vectors.items()})
                )
        writer.finish()


def edit_index(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change what the index says, and seal it again."""
    index = read_index(Files(str(root)))
    edit(index)
    write_json(seal(index), root / ATLAS_FILE)


@pytest.fixture
def made_up_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the catalogue hold the made-up cards and nothing else."""
    use_made_up_registry(monkeypatch)


def use_made_up_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """See :func:`made_up_registry`; for fixtures of other scopes."""
    models, sets = make_cards()
    monkeypatch.setattr(catalog, "models", lambda folder=None: models)
    monkeypatch.setattr(catalog, "structure_sets", lambda folder=None: sets)
    monkeypatch.setattr(universe, "shipped_universes", lambda folder=None: {})
