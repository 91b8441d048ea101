# SPDX-License-Identifier: Apache-2.0
"""What every stage of gap evidence is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from ...registry.archive import Atlas
from ...schemas.errors import StructureError
from ...schemas.structures import Structure, structure_from_row
from ..charts import Chart, ChartReader
from ..gaps import Gap


@dataclass
class Evidence:
    """An opened atlas and all that was found in it so far.

    Attributes
    ----------
    atlas, reader
        Tables, and the charts and rows of every model; vectors are float32, shape (n, d).
    relations : DataFrame of str
        Structures (index: ids) x charts of learned models whose training domains are known:
        ``in``, ``out`` or ``unknown``.
    tables : dict of str to DataFrame
        Score tables by their path in the atlas: those of the pass over all pairs (``pairs``,
        ``models``, ``selections``, ``local``, ``coverage``) and of earlier stages.
    k, permutations, seed : int
        Neighbours a row, null draws, seed of all that is random.
    max_rows, min_rows : int
        Rows of a sample at most (by :func:`..selections.subsample`), and fewest worth a number.
    """

    atlas: Atlas
    reader: ChartReader
    relations: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    k: int
    permutations: int
    seed: int
    max_rows: int
    min_rows: int

    @property
    def release(self) -> str:
        """Version of the atlas, as every score row carries it."""
        return self.atlas.version

    @cached_property
    def structures(self) -> pd.DataFrame:
        """One row a structure, indexed by id; linked ones once."""
        return self.reader.structures.set_index("id", drop=False)

    @cached_property
    def charts(self) -> dict[str, Chart]:
        """Charts of the models' default layers, by model id, in registry order."""
        return {k: c for k, c in self.reader.charts.items() if k == c.card.id}

    @cached_property
    def geometries(self) -> dict[str, Structure]:
        """Structures with their coordinates by id; those of sets that keep theirs back are absent.

        Raises
        ------
        ArchiveError
            A structures table is damaged.
        """
        found: dict[str, Structure] = {}
        for set_id in self.atlas.set_ids:
            for row in self.atlas.table(f"structures/{set_id}.parquet").to_dict("records"):
                if row["id"] in found:
                    continue
                try:
                    found[row["id"]] = structure_from_row({str(k): v for k, v in row.items()})
                except StructureError:  # its coordinates may not be passed on
                    continue
        return found


@dataclass
class Findings:
    """What a stage found: score tables by path, gaps, and lines on what was left out and why."""

    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Stage = Callable[[Evidence], Findings]
