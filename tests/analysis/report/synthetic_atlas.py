# SPDX-License-Identifier: Apache-2.0
"""A small atlas with scores that obey every schema, made of invented models and numbers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from matteratlas.builders.adapters.base import Embedded, Missing
from matteratlas.builders.writer import UnitWriter
from matteratlas.registry import catalog
from matteratlas.registry.catalog import models_table, sets_table
from matteratlas.registry.index import file_entries, seal, write_index, write_json
from matteratlas.registry.tables import MODELS, SETS, write_table
from matteratlas.schemas.archive import RUNS
from matteratlas.schemas.cards import ModelCard, StructureSetCard
from matteratlas.schemas.scores import ANALYSIS, SCORE_TABLES
from matteratlas.schemas.structure_sets import structure_arrow_schema
from matteratlas.schemas.structures import ATOMIC_NUMBERS

METRICS = (
    "mutual_knn",
    "cknna",
    "linear_cka",
    "distance_correlation",
    "information_imbalance",
)
#: (family, modality, learned, element tables, training domains), repeated to make many models.
FAMILIES = (
    ("north", "atoms3d", True, False, ["inorganic_crystal", "off_equilibrium"]),
    ("south", "atoms3d", True, False, ["inorganic_crystal", "element_bulk"]),
    ("east", "atoms3d", True, False, ["organic_molecule", "noncovalent"]),
    ("west", "smiles", True, False, ["organic_molecule"]),
    ("up", "graph2d", True, False, ["organic_molecule"]),
    ("down", "composition", True, True, ["inorganic_crystal"]),
    ("words", "text", True, False, ["text"]),
    ("chain", "protein_sequence", True, False, ["protein"]),
    ("plain", "descriptor", False, False, None),
    ("random", "descriptor", False, False, None),
)
TAKES = {
    "atoms3d": ["molecule", "crystal"],
    "smiles": ["molecule"],
    "graph2d": ["molecule"],
    "composition": ["molecule", "crystal", "protein"],
    "text": ["molecule", "crystal", "protein"],
    "protein_sequence": ["protein"],
    "descriptor": ["molecule", "crystal", "protein"],
}
SETS_MADE = {
    "ores": ("crystal", {"oxides": ["inorganic_crystal"], "salts": ["element_bulk"]}, 90),
    "drugs": ("molecule", {"small": ["organic_molecule"], "odd_ones": ["f_block"]}, 80),
    "folds": ("protein", {"chains": ["protein"]}, 40),
}
ELEMENTS = {
    "crystal": ["O", "Na", "Cl", "Fe", "Ti", "Cu", "La", "U", "Si", "Al", "S", "Zr"],
    "molecule": ["H", "C", "N", "O", "F", "S", "Cl", "Gd"],
    "protein": ["H", "C", "N", "O", "S"],
}


@dataclass
class Made:
    """Where the atlas is and the tables in it."""

    root: Path
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    cards: list[ModelCard] = field(default_factory=list)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def model_card(index: int, **changes: Any) -> ModelCard:
    """The ``index``-th invented model."""
    family, modality, learned, tables, domains = FAMILIES[index % len(FAMILIES)]
    generation = index // len(FAMILIES)
    content: dict[str, Any] = {
        "id": f"{family}-{modality.replace('_', '-')}-{generation}",
        "name": f"{family.title()} {modality} v{generation}",
        "family": family,
        "version": f"{generation}.0.0",
        "lifecycle": "active",
        "learned": learned,
        "modality": modality,
        "architecture": "equivariant" if modality == "atoms3d" else None,
        "context_free": tables,
        "parameters": 10**4 * (index + 1) if learned else None,
        "training": {
            "sets": [f"set-{family[0]}"] if learned else None,
            "domains": domains,
            "elements": None,
            "max_atoms": None,
            "level_of_theory": "PBE" if modality == "atoms3d" else None,
        },
        "supports": {
            "kinds": TAKES[modality],
            "elements": "H-Lr",
            "max_atoms": None,
            "min_atoms": 1,
            "periodicity": None,
        },
        "checkpoint": {
            "obtained": "package" if learned else "none",
            "package": f"{family}==1.0" if learned else None,
            "path": "weights.bin" if learned else None,
            "revision": None,
            "sha256": sha(family) if learned else None,
            "unpickles": False,
        },
        "licence": {"code": "MIT", "weights": "CC-BY-4.0" if learned else None},
        "adapter": "invented:Model",
        "options": None,
        "layers": [
            {"name": "last", "dim": 64 + index, "level": "atom", "irreps": None, "where": "here"}
        ],
        "default_layer": "last",
        "pooling": "mean",
        "invariances": ["permutation"],
        "tolerance": 1e-5,
        "energy": None,
        "environment": {"numpy": "2.0"},
        "authors": ["A. Nonymous"],
        "paper": {"title": f"On {family}", "doi": "10.1000/xyz123", "arxiv": None},
        "performance": None,
        "notes": "Invented.",
    }
    # A real card gives the keys that do not matter here.
    base = catalog.model("random-128").model_dump(mode="json")
    return ModelCard.model_validate({**base, **content, **changes})


def set_card(set_id: str, **changes: Any) -> StructureSetCard:
    """One of the invented structure sets."""
    kind, strata, count = SETS_MADE[set_id]
    content: dict[str, Any] = {
        "id": set_id,
        "name": set_id.title(),
        "version": "1.0.0",
        "kinds": [kind],
        "description": f"Invented {kind}s.",
        "loader": "invented:load",
        "sources": [
            {"package": "invented==1.0", "kind": "wheel", "path": "data", "sha256": sha(set_id)}
        ],
        "selection": "all of them",
        "strata": {
            name: {
                "description": f"The {name}.",
                "domains": domains,
                "count": count,
                "starter": count // 2,
            }
            for name, domains in strata.items()
        },
        "elements": ELEMENTS[kind],
        "labels": {
            "energy": {
                "description": "total energy",
                "unit": "eV",
                "level_of_theory": "PBE",
                "shape": "scalar",
            }
        },
        "licence": "CC0-1.0",
        "licence_note": "invented",
        "redistribute_coordinates": True,
        "citation": "nobody",
    }
    base = catalog.structure_set("g2").model_dump(mode="json")
    return StructureSetCard.model_validate({**base, **content, **changes})


def make_atlas(
    root: Path,
    *,
    models: int = 12,
    permutations: int = 200,
    seed: int = 0,
    card_changes: dict[int, dict[str, Any]] | None = None,
    scored: bool = True,
    version: str = "1.2.3",
) -> Made:
    """Write an atlas of ``models`` invented models with all its scores."""
    random = np.random.default_rng(seed)
    cards = [model_card(i, **(card_changes or {}).get(i, {})) for i in range(models)]
    made = Made(root, cards=cards)
    root.mkdir(parents=True)
    frames = {s: _structures(s, random) for s in SETS_MADE}
    for set_id, frame in frames.items():
        path, card = root / "structures" / f"{set_id}.parquet", set_card(set_id)
        write_table(frame, path, schema=structure_arrow_schema(card), version=card.version)
    _write_units(made, frames, random)
    # Cards the catalogue does not know stay as they are when the index is written.
    write_table(models_table(cards), root / MODELS)
    write_table(sets_table([set_card(s) for s in SETS_MADE]), root / SETS)
    write_index(root, version=version)
    if scored:
        made.tables = score_tables(cards, frames, permutations=permutations, random=random)
        for path, table in made.tables.items():
            write_table(SCORE_TABLES[path].validate(table), root / path)
        analysis = {
            "release": "1.2.3",
            "created": "2026-01-02T03:04:05Z",
            "parameters": {"k": 10, "permutations": permutations, "seed": seed},
            "versions": {"matteratlas": "0.1.0", "numpy": "2.0"},
            "skipped": [{"selection": "drugs:odd_ones", "reason": "3 rows, 30 needed"}],
            "tables": {
                path: {"rows": len(table), **file_entries(root, [root / path])[path]}
                for path, table in made.tables.items()
            },
        }
        write_json(seal(analysis), root / ANALYSIS)
    return made


def _structures(set_id: str, random: np.random.Generator) -> pd.DataFrame:
    kind, strata, count = SETS_MADE[set_id]
    names = list(strata)
    rows = []
    for i in range(count):
        digest = "".join("abcdefghijklmnopqrstuvwxyz234567"[v] for v in random.integers(0, 32, 26))
        elements = sorted(random.choice(ELEMENTS[kind], size=3, replace=False))
        atoms = int(random.integers(1, 40))
        rows.append(
            {
                "id": f"ma1-{digest}",
                "set": set_id,
                "source_id": f"{set_id}-{i}",
                "stratum": names[i % len(names)],
                "kind": kind,
                "name": None,
                "formula": "".join(elements),
                "elements": elements,
                "n_atoms": atoms,
                "periodicity": 3 if kind == "crystal" else 0,
                "pbc": [kind == "crystal"] * 3,
                "charge": 0,
                "multiplicity": None,
                "smiles": None,
                "sequence": None,
                "description": f"invented {kind} {i}",
                "numbers": [ATOMIC_NUMBERS[elements[j % 3]] for j in range(atoms)],
                "positions": random.uniform(0, 9, 3 * atoms).tolist(),
                "cell": np.diag([9.0, 10.0, 11.0]).ravel().tolist() if kind == "crystal" else None,
                "backbone": None,
                "source": "invented==1.0:data",
                "licence": None,
                "label_energy": None,
            }
        )
    return pd.DataFrame(rows)


def _write_units(made: Made, frames: dict[str, pd.DataFrame], random: np.random.Generator) -> None:
    for card in made.cards:
        runs = {}
        for set_id, frame in frames.items():
            fits = frame["kind"].isin(card.supports.kinds)
            refused = frame["elements"].map(lambda e: "U" in e) & (card.modality == "atoms3d")
            reason = np.where(~fits, "wrong_modality", np.where(refused, "unsupported_element", ""))
            with UnitWriter(
                made.root,
                card,
                set_card(set_id),
                fingerprint=sha(card.id),
                model_fingerprint=sha(card.id),
                build_version="0",
                keep_nodes=False,
            ) as writer:
                for structure_id, text in zip(frame["id"], reason, strict=True):
                    vector = random.normal(size=card.layer().dim).astype(np.float32)
                    row = Embedded(pooled={"last": vector})
                    writer.append(structure_id, Missing(str(text)) if text else row)
                embedded = writer.finish().embedded
            runs[set_id] = {
                "model": card.id,
                "set": set_id,
                "model_seconds": float(random.uniform(0.1, 2)),
                "embedded": embedded,
                "carried": 0,
                "peak_rss_mb": 512.0,
            }
        if card.modality == "atoms3d":
            costs = seal({"model": card.id, "sets": runs})
            write_json(costs, made.root / RUNS / f"{card.id}.json")


def score_tables(
    cards: list[ModelCard],
    frames: dict[str, pd.DataFrame],
    *,
    permutations: int,
    random: np.random.Generator,
) -> dict[str, pd.DataFrame]:
    """Every score table, valid under its schema."""
    plan = _plan(cards)
    by_id = {c.id: c for c in cards}
    selections, pairs, singles = [], [], []
    for selection in plan:
        name, models, n = selection["selection"], selection["models"], selection["n"]
        selections.append(
            {
                "selection_sha256": sha(name),
                "parent": None,
                "contrast": None,
                "group": None,
                "side": None,
                "draw": None,
                "available": 2 * n,
                "ids": [],
                **{k: v for k, v in selection.items() if k != "pairs"},
            }
        )
        provenance = {
            "release": "1.2.3",
            "selection": name,
            "selection_sha256": sha(name),
            "n": n,
            "metric_version": "1",
            "seed": 0,
        }
        for a, b in selection.get("pairs") or combinations(models, 2):
            for metric in METRICS:
                both = [(a, b), (b, a)] if metric == "information_imbalance" else [(a, b)]
                for x, y in both:
                    score = _score(by_id[x], by_id[y], name, metric, permutations, random)
                    pairs.append({**provenance, **score})
        if selection["role"] in ("kind", "stratum"):
            for model in models:
                singles.append(
                    {
                        **provenance,
                        "k": None,
                        "metric": "intrinsic_dimension",
                        "normalise": "none",
                        "value": float(random.uniform(2, 40)),
                        "standard_error": float(random.uniform(0.1, 2)),
                        "model": model,
                        "version": by_id[model].version,
                        "layer": "last",
                        "pooling": "mean",
                    }
                )
    tables = {
        "scores/selections.parquet": pd.DataFrame(selections),
        "scores/pairs.parquet": pd.DataFrame(pairs),
        "scores/models.parquet": pd.DataFrame(singles),
        "scores/coverage.parquet": _coverage(cards, frames),
        "scores/gaps.parquet": _gaps(cards, plan, random),
        **_maps(cards, frames, random),
    }
    return {path: _typed(path, table) for path, table in tables.items()}


def _maps(
    cards: list[ModelCard], frames: dict[str, pd.DataFrame], random: np.random.Generator
) -> dict[str, pd.DataFrame]:
    """Maps of three models on forty structures of each kind, with four nearest each."""
    places, near = [], []
    for frame in frames.values():
        kind, ids = frame["kind"].iloc[0], sorted(frame["id"])[:40]
        for card in [c for c in cards if c.learned and kind in c.supports.kinds][:3]:
            common = {"release": "1.2.3", "kind": kind, "model": card.id, "layer": "last"}
            flat = random.normal(size=(len(ids), 2)) * 20
            for i, name in enumerate(ids):
                places.append(
                    {
                        **common,
                        "method": "t-sne",
                        "id": name,
                        "x": flat[i, 0],
                        "y": flat[i, 1],
                        "n": len(ids),
                        "available": 60,
                        "seed": 0,
                    }
                )
                apart = np.linalg.norm(flat - flat[i], axis=1)
                near += [
                    {
                        **common,
                        "id": name,
                        "rank": rank,
                        "neighbour": ids[j],
                        "distance": apart[j],
                        "n": len(ids),
                    }
                    for rank, j in enumerate(np.argsort(apart)[1:5], start=1)
                ]
    return {
        "scores/map.parquet": pd.DataFrame(places),
        "scores/nearest.parquet": pd.DataFrame(near),
    }


def _typed(path: str, table: pd.DataFrame) -> pd.DataFrame:
    """Columns of the schema with its types, whatever of them is null or absent."""
    schema = SCORE_TABLES[path]
    table = table.reindex(columns=list(schema.columns))
    for name, column in schema.columns.items():
        kind = str(column.dtype)
        table[name] = table[name].astype(kind if kind in ("float64", "int64", "Int64") else object)
    return table


def _plan(cards: list[ModelCard]) -> list[dict[str, Any]]:
    plan: list[dict[str, Any]] = []
    for set_id, (kind, strata, count) in SETS_MADE.items():
        able = [c.id for c in cards if kind in c.supports.kinds]
        if len(able) < 2:
            continue
        core = able[:-1] if len(able) > 3 else able
        plan.append({"selection": f"{kind}s", "role": "kind", "models": core, "n": count})
        for model in able[len(core) :]:
            plan.append(
                {
                    "selection": f"{kind}s|{model}",
                    "role": "partial",
                    "parent": f"{kind}s",
                    "models": [*core, model],
                    "pairs": [(c, model) for c in core],
                    "n": count // 2,
                }
            )
        plan += [
            {"selection": f"{set_id}:{s}", "role": "stratum", "models": core, "n": count // 2}
            for s in strata
        ]
    crystal = [c.id for c in cards if "inorganic_crystal" in (c.training.domains or [])]
    if len(crystal) > 1:
        contrast = "in:crystal~out:crystal"
        for side, draw in [*(("in", d) for d in range(3)), ("out", 0)]:
            plan.append(
                {
                    "selection": f"{contrast}|abc123|{side}.{draw}",
                    "role": "contrast",
                    "models": crystal,
                    "pairs": list(combinations(crystal, 2)),
                    "n": 35,
                    "contrast": contrast,
                    "group": "abc123",
                    "side": side,
                    "draw": draw,
                }
            )
    return plan


def _score(
    a: ModelCard,
    b: ModelCard,
    selection: str,
    metric: str,
    permutations: int,
    random: np.random.Generator,
) -> dict[str, Any]:
    close = 0.1 + 0.25 * (a.modality == b.modality) + 0.3 * (a.family == b.family)
    close *= 0.6 if "|out." in selection else 1.0
    close = 0.02 if "random" in (a.family, b.family) else close
    value = float(np.clip(close + random.normal(0, 0.05), 0, 1))
    lower = metric == "information_imbalance"
    value = 1.0 - value if lower else value
    quantile = float(random.uniform(0.88, 0.95) if lower else random.uniform(0.05, 0.12))
    beyond = (quantile - value) / quantile if lower else (value - quantile) / (1 - quantile)
    tested = permutations > 0
    p = 1 / (permutations + 1) if beyond > 0 else float(random.uniform(0.06, 1))
    return {
        "k": 1 if lower else (10 if metric in ("mutual_knn", "cknna") else None),
        "metric": metric,
        "normalise": "l2",
        "value": value,
        "standard_error": float(random.uniform(0.005, 0.03)),
        **{f"{key}_a": value for key, value in _side(a).items()},
        **{f"{key}_b": value for key, value in _side(b).items()},
        "permutations": permutations,
        "null_mean": quantile - 0.01 if tested else None,
        "null_quantile": quantile if tested else None,
        "p_value": p if tested else None,
        "q_value": min(1.0, 1.3 * p) if tested else None,
        "calibrated": float(np.clip(beyond, 0, 1)) if tested else None,
    }


def _side(card: ModelCard) -> dict[str, str]:
    return {"model": card.id, "version": card.version, "layer": "last", "pooling": "mean"}


def _coverage(cards: list[ModelCard], frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    rows = []
    for card in cards:
        for set_id, frame in frames.items():
            for stratum, part in frame.groupby("stratum", sort=False):
                fits = part["kind"].isin(card.supports.kinds)
                refused = part["elements"].map(lambda e: "U" in e) & (card.modality == "atoms3d")
                missing = {
                    "wrong_modality": int((~fits).sum()),
                    "unsupported_element": int((fits & refused).sum()),
                }
                known = card.training.domains is not None
                rows.append(
                    {
                        "release": "1.2.3",
                        "model": card.id,
                        "set": set_id,
                        "stratum": stratum,
                        "structures": len(part),
                        "embedded": len(part) - sum(missing.values()),
                        "in_distribution": len(part) // 2 if known else 0,
                        "out_of_distribution": len(part) - len(part) // 2 if known else 0,
                        "unknown_distribution": 0 if known else len(part),
                        "reasons": json.dumps({k: v for k, v in missing.items() if v}),
                    }
                )
    return pd.DataFrame(rows)


def _gaps(
    cards: list[ModelCard], plan: list[dict[str, Any]], random: np.random.Generator
) -> pd.DataFrame:
    rows = []
    for kind in ("coverage", "agreement", "distribution", "density"):
        tested = kind != "coverage"
        for rank in range(1, 14):
            rows.append(
                {
                    "release": "1.2.3",
                    "kind": kind,
                    "rank": rank,
                    "region": f"{kind}:region-{rank}",
                    "model": cards[rank % len(cards)].id if kind == "distribution" else None,
                    "selection": plan[0]["selection"] if plan and tested else None,
                    "n": 30 + rank,
                    "reference_n": 90 if tested else None,
                    "statistic": "mutual_knn[last]" if tested else "structures",
                    "value": float(random.uniform(0, 0.4)),
                    "reference": float(random.uniform(0.4, 0.9)),
                    "standard_error": 0.02 if tested else None,
                    "p_value": float(random.uniform(0, 0.2)) if tested else None,
                    "q_value": float(random.uniform(0.2, 0.4)) if tested else None,
                    "severity": 1.0 / rank,
                    "evidence": f"invented evidence number {rank} of {kind}",
                }
            )
    return pd.DataFrame(rows)
