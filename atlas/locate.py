# SPDX-License-Identifier: Apache-2.0
"""Where a user's own structures fall in an atlas: what ``matteratlas locate`` does.

Here builders and analysis meet: neither imports the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .analysis.acquire.locate import COLUMNS, NEAREST, Known, choose_models, known_of, locate
from .builders.pool import FilePool, pool_of_files
from .registry import catalog
from .registry.archive import Atlas, open_atlas
from .registry.brought import brought_from
from .schemas.cards import ModelCard
from .schemas.errors import ArchiveError
from .schemas.progress import Reporter, Silent
from .schemas.structures import KINDS

#: In the order in which they are counted.
STATUSES = ("covered", "gap", "unknown")


@dataclass
class Located:
    """Where structures fall.

    Attributes
    ----------
    table : DataFrame
        A row a structure (and model, where several were asked for), of
        ``analysis.acquire.locate.COLUMNS``.
    models : dict of str to str
        Model by kind, where it was chosen here.
    rejected, duplicates : DataFrame
        What of the files could not be read and why; what repeats another row.
    passed_over : list of str
        Files of formats that are not read.
    """

    table: pd.DataFrame
    models: dict[str, str]
    rejected: pd.DataFrame
    duplicates: pd.DataFrame
    passed_over: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by status."""
        found = self.table["status"].value_counts()
        return {s: int(found.get(s, 0)) for s in STATUSES}

    def summary(self) -> dict[str, Any]:
        """The answer as JSON-able data."""
        import json

        rows = json.loads(self.table.to_json(orient="records", double_precision=10))
        for row in rows:
            row["nearest"] = json.loads(row["nearest"]) if row["nearest"] else []
        return {
            "counts": self.counts,
            "models": self.models,
            "structures": rows,
            "rejected": self.rejected.to_dict("records"),
            "duplicates": self.duplicates.to_dict("records"),
            "passed_over": self.passed_over,
        }


def locate_files(
    location: str | Path,
    structures: Path,
    *,
    models: Sequence[str] | None = None,
    column: str | None = None,
    count: int = NEAREST,
    reporter: Reporter | None = None,
) -> Located:
    """Embed a user's structures and tell where they fall in an atlas.

    Parameters
    ----------
    location:
        Atlas folder or URL; only its rows of the models asked are read.
    structures:
        Folder of structure files, one such file, or a list of SMILES.
    models:
        Models of the atlas, each asked of every structure; by default one a kind
        (:func:`.analysis.acquire.locate.choose_models`).
    column:
        Column of SMILES in a table.
    count:
        Nearest known structures told with each.

    Raises
    ------
    SourceError
        No structure can be read.
    ArchiveError
        Not an atlas, or a model is not in it or cannot be run here.
    """
    said = reporter or Silent()
    atlas = open_atlas(location)
    said.stage("files", 1)
    pool = pool_of_files(Path(structures), column=column)
    said.advance(f"{len(pool.structures)} structures, {len(pool.rejected)} left out", 1)
    table = pool.structures
    kinds = [k for k in KINDS if (table["kind"] == k).any()]
    chosen = {} if models else choose_models(atlas, kinds)
    asked = list(dict.fromkeys(models or chosen.values()))
    for model in asked:
        _check_same(atlas, model)
    pool.embed(asked, reporter=reporter)
    parts = []
    said.stage("places", len(asked))
    for model in asked:
        of = table if models else table[table["kind"].map(chosen) == model]
        parts.append(_place(known_of(atlas, model), pool, of, count=count))
        said.advance(model, 1)
    if not models:
        parts += [_nowhere(table[table["kind"] == k]) for k in kinds if k not in chosen]
    order = {source: i for i, source in enumerate(table["source_id"])}
    told = pd.concat([p for p in parts if len(p)], ignore_index=True)
    told = told.sort_values("source_id", key=lambda c: c.map(order), kind="stable")
    return Located(
        told.reset_index(drop=True), chosen, pool.rejected, pool.duplicates, pool.passed_over
    )


def _check_same(atlas: Atlas, model: str) -> None:
    """Whether the model that would be run here is the one the atlas holds."""
    if model not in atlas.index["models"]:
        atlas.rows(model)  # raises, naming the nearest that it holds
    held, card = atlas.index["models"][model]["version"], catalog.model(model)
    if held != card.version:
        raise ArchiveError(
            f"{atlas.location}: holds version {held} of '{model}' and the registry's is "
            f"{card.version}; choose another model or install the matteratlas that built it"
        )


def _place(known: Known, pool: FilePool, table: pd.DataFrame, *, count: int) -> pd.DataFrame:
    model = known.card.id
    with brought_from(pool.root.parent / "sets"):
        array = open_atlas(pool.root).embeddings(model, sets=[pool.set_id])
        places = pd.Index(array["structure"].to_numpy()).get_indexer(table["id"])
        vectors = np.asarray(array)[places]
        reasons = array["reason"].to_numpy()[places]
    return locate(
        known,
        table.assign(reason=reasons),
        vectors,
        count=count,
        relations=_relations(known.card, pool, table),
    )


def _relations(card: ModelCard, pool: FilePool, table: pd.DataFrame) -> list[str]:
    return [
        catalog.relation(
            card, domains=pool.card.strata[stratum].domains, elements=elements, n_atoms=n_atoms
        )
        for stratum, elements, n_atoms in zip(
            table["stratum"], table["elements"], table["n_atoms"], strict=True
        )
    ]


def _nowhere(table: pd.DataFrame) -> pd.DataFrame:
    """Structures of a kind that no learned model of the atlas takes."""
    rows = table[["source_id", "id", "name", "formula", "kind"]].assign(
        status="unknown",
        reason=[f"no learned model of the atlas takes a {kind}" for kind in table["kind"]],
        training="unknown",
    )
    return rows.reindex(columns=list(COLUMNS))
