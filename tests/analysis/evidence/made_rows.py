# SPDX-License-Identifier: Apache-2.0
"""Evidence of made-up rows: embeddings and structures as a test says, no archive behind them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from atlas_factory import identify, make_cards

from matteratlas.analysis.charts import Chart
from matteratlas.analysis.evidence.context import Evidence

ELEMENTS = ("Li", "O", "Si")


def structures(n: int, seed: int, *, strata: Sequence[str], target: np.ndarray) -> pd.DataFrame:
    """Crystals of three elements with ``target`` an atom as labelled energy, strata in turn."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 9, (n, 3)) + np.eye(3, dtype=int)[random.integers(0, 3, n)]
    formulas = ["".join(f"{e}{c}" for e, c in zip(ELEMENTS, row, strict=True) if c)
                for row in counts]  # fmt: skip
    atoms = counts.sum(axis=1)
    return pd.DataFrame(
        {
            "id": [identify(f"{seed}/{i}") for i in range(n)],
            "set": "made",
            "stratum": [strata[i % len(strata)] for i in range(n)],
            "kind": "crystal",
            "formula": formulas,
            "n_atoms": atoms,
            "charge": 0,
            "smiles": None,
            "label_energy": target * atoms,
        }
    )


def evidence(
    table: pd.DataFrame, models: dict[str, dict[str, Any]], *, outside: Sequence[str] = ()
) -> Evidence:
    """Evidence of these models: ``rows``, and what differs from a learned 3D model's card."""
    base = make_cards()[0]["lattice-a"]
    charts, vectors, learned = {}, {}, []
    for model, about in models.items():
        changes = {k: v for k, v in about.items() if k != "rows"}
        card = base.model_copy(
            update={"id": model, "family": model, "architecture": "invariant", **changes}
        )
        charts[model] = Chart(card, card.layer())
        vectors[model] = np.asarray(about["rows"], dtype=np.float32)
        learned += [model] if card.learned and not card.context_free else []
    ids = pd.Index(table["id"])
    place = pd.Series(np.arange(len(ids)), index=ids)
    reader = SimpleNamespace(
        structures=table,
        charts=charts,
        presence=pd.DataFrame(True, index=ids, columns=list(charts)),
        rows=lambda key, wanted: vectors[key][place.loc[list(wanted)].to_numpy()],
    )
    relation = np.where(table["stratum"].isin(outside), "out", "in")
    relations = pd.DataFrame(dict.fromkeys(learned, relation), index=ids, dtype=object)
    atlas = SimpleNamespace(version="1.0.0", set_ids=())
    return Evidence(atlas, reader, relations, {}, 10, 99, 0, 2000, 30)  # type: ignore[arg-type]
