# SPDX-License-Identifier: Apache-2.0
"""The tables of an opened atlas: units, cards, structures, scores; each checked as it is read."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..schemas.errors import ArchiveError
from ..schemas.index import check_analysis
from ..schemas.names import check_texts, is_portable
from ..schemas.scores import ANALYSIS
from ..schemas.structures import Structure, structure_from_row
from .files import Files
from .index import PENDING, current_state, read_index, unseal
from .parquet import UNREADABLE, WHOLE_BYTES, decoded, open_parquet
from .tables import MODELS, SETS, link_sets

#: Columns left out of ``Atlas.structures``; ``Atlas.structure`` returns them.
GEOMETRY = ("numbers", "positions", "cell", "pbc", "backbone")
#: Rows a table of cards has at most: each is a card somebody wrote.
MOST_CARDS = 20_000


class Contents:
    """What an atlas holds, as pandas tables.

    Attributes
    ----------
    files : Files
        Where the atlas is.
    index : dict
        Its checked ``atlas.json``.
    version : str
        Of the release; ``unreleased`` while it is being built.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self.location = files.location
        self.index = read_index(files)
        self.version = str(self.index["version"])

    def table(self, path: str, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Any Parquet table of the atlas by its path, e.g. ``scores/pairs.parquet``.

        Raises
        ------
        ArchiveError
            The atlas has no such table, or it is damaged.
        """
        try:
            frame = self._arrow(path, columns=columns).to_pandas(ignore_metadata=True)
            return frame.astype({c: "Int64" for c in ("multiplicity",) if c in frame})
        except UNREADABLE as error:
            raise self._unlike(path, error) from error

    def _unlike(self, path: str, error: Exception) -> ArchiveError:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        return ArchiveError(
            f"{self.location}/{path}: not the table it should be ({text}); fetch or build it again"
        )

    def _arrow(
        self, path: str, *, columns: Sequence[str] | None = None, without: Sequence[str] = ()
    ) -> pa.Table:
        with self._parquet(path) as table:
            names = [n for n in table.schema_arrow.names if n not in without]
            found = table.read(columns=list(columns) if columns is not None else names)
            return decoded(found, size=self._declared(path)["bytes"])

    @contextmanager
    def _parquet(self, path: str) -> Iterator[pq.ParquetFile]:
        """An open table; what its reader trips over becomes one line."""
        declared = self._declared(path)
        try:
            if declared["bytes"] <= WHOLE_BYTES:
                source: Any = io.BytesIO(self.files.read(path, sha256=declared["sha256"]))
            else:
                source = self.files.open(path)
        except OSError as error:
            text = "missing" if isinstance(error, FileNotFoundError) else f"unreadable ({error})"
            raise ArchiveError(
                f"{self.location}/{path}: {text}; fetch or build it again"
            ) from error
        try:
            # Up to WHOLE_BYTES read whole and checked by the hash; of larger ones only the columns
            # asked for move, checked page by page.
            with source, open_parquet(source, size=declared["bytes"]) as table:
                yield table
        except (*UNREADABLE, KeyError) as error:
            text = " ".join(str(error).split())[:160]
            raise ArchiveError(
                f"{self.location}/{path}: damaged ({text}); fetch or build it again"
            ) from error

    def _declared(self, path: str) -> dict[str, Any]:
        """Size and hash that the index declares of a table, the analysis's record of scores.

        Raises
        ------
        ArchiveError
            Nothing vouches for such a table, whether or not it is there.
        """
        listed = self._score_tables if path.startswith("scores/") else self.index["files"]
        found = listed.get(path) or self._moving(path)
        if not found:
            verb = "analyze" if path.startswith("scores/") else "build"
            raise ArchiveError(
                f"{self.location}: no {path}; run: matteratlas {verb} {self.location}"
            )
        return dict(found)

    def _moving(self, path: str) -> dict[str, Any] | None:
        """Which of its states a file is in that a build is moving, or left so by a crash.

        Raises
        ------
        ArchiveError
            It is in none of them.
        """
        if path not in self.index.get(PENDING, {}):
            return None
        state = current_state(self.files, self.index, path)
        if state is None:
            raise ArchiveError(
                f"{self.location}/{path}: neither the old nor the new file of an interrupted "
                "build; run matteratlas build again"
            )
        return state

    @cached_property
    def _score_tables(self) -> dict[str, Any]:
        try:
            data = self.files.read(ANALYSIS)
        except ArchiveError:
            return {}  # not analysed yet, or not to the end: no table is declared
        where = f"{self.location}/{ANALYSIS}"
        mend = f"run: matteratlas analyze {self.location}"
        record = unseal(data, where=where, mend=mend)
        check_analysis(record, where=where, mend=mend)
        return dict(record["tables"])

    @cached_property
    def units(self) -> pd.DataFrame:
        """One row a complete (model, set), from the index."""
        rows = [
            {
                "model": model,
                "set": set_id,
                "set_version": unit["set_version"],
                "rows": unit["rows"],
                "embedded": unit["embedded"],
                "missing": json.dumps(unit["missing"], sort_keys=True),
                "layers": json.dumps(entry["layers"], sort_keys=True),
                "precision": unit["precision"],
                "content_sha256": unit["content_sha256"],
            }
            for model, entry in self.index["models"].items()
            for set_id, unit in entry["units"].items()
        ]
        names = ["model", "set", "set_version", "rows", "embedded", "missing", "layers"]
        return pd.DataFrame(rows, columns=[*names, "precision", "content_sha256"])

    @cached_property
    def models(self) -> pd.DataFrame:
        """One row a model held."""
        totals = self.units.groupby("model")[["rows", "embedded"]].sum()
        cards = self._cards(MODELS)
        return cards.merge(totals, left_on="id", right_index=True)

    @cached_property
    def sets(self) -> pd.DataFrame:
        """One row a stratum of every set held."""
        return self._cards(SETS)

    def _cards(self, path: str) -> pd.DataFrame:
        """A table of cards, which names what it describes and shows what it says."""
        with self._parquet(path) as found:
            if found.metadata.num_rows > MOST_CARDS:
                raise ValueError(f"claims {found.metadata.num_rows:,} cards")
        cards = self.table(path)
        try:
            if len(set(cards)) < cards.shape[1]:
                raise ValueError("a column is there twice")
            if path == MODELS and not cards["id"].is_unique:
                raise ValueError("a model's card is there twice")
            for card_id in dict.fromkeys(cards["id"]) if len(cards) else ():
                if not (isinstance(card_id, str) and is_portable(card_id)):
                    raise ValueError(f"id {card_id!r:.60} is none")
            check_texts([*cards, *(_distinct(cards[name]) for name in cards)])
        except (KeyError, ValueError) as error:
            raise self._unlike(path, error) from error
        return cards

    @cached_property
    def structures(self) -> pd.DataFrame:
        """One row a structure, coordinates left out.

        ``linked`` names the earlier set that holds the same structure.
        """
        if not self.set_ids:
            raise ArchiveError(f"{self.location}: {SETS} names no set; fetch or build it again")
        tables = link_sets({s: self._structures(s) for s in self.set_ids})
        # Sets declare different labels: the union, NaN where a set has none.
        frames = [t.dropna(axis=1, how="all") for t in tables.values()]
        return pd.concat(frames, ignore_index=True).reindex(
            columns=list(dict.fromkeys(c for t in tables.values() for c in t.columns))
        )

    @cached_property
    def set_ids(self) -> list[str]:
        """Ids of the structure sets held, in registry order."""
        return list(dict.fromkeys(self.sets["id"]))

    def _structures(self, set_id: str) -> pd.DataFrame:
        path = f"structures/{set_id}.parquet"
        try:
            frame = self._arrow(path, without=GEOMETRY).to_pandas(ignore_metadata=True)
            absent = {"id", "set", "stratum", "kind"} - set(frame)
            if absent or len(set(frame)) < frame.shape[1]:
                raise ValueError(f"columns {sorted(absent)} are absent, or some are there twice")
            for name in ("id", "set"):
                if not frame[name].map(lambda v: isinstance(v, str)).all():
                    raise ValueError(f"column '{name}' is no text")
            if not frame["id"].is_unique or set(frame["set"]) - {set_id}:
                raise ValueError("ids twice, or rows of another set")
            return frame.astype({"multiplicity": "Int64"})
        except (*UNREADABLE, KeyError) as error:
            raise self._unlike(path, error) from error

    def structure(self, structure_id: str) -> Structure:
        """One structure with its coordinates.

        Raises
        ------
        ArchiveError, StructureError
            No such id, or a set whose coordinates may not be passed on.
        """
        for set_id in self.set_ids:
            path = f"structures/{set_id}.parquet"
            row = pc.index(self._arrow(path, columns=["id"])["id"], structure_id).as_py()
            if row < 0:
                continue
            with self._parquet(path) as table:
                for group in range(table.num_row_groups):
                    size = table.metadata.row_group(group).num_rows
                    if row < size:
                        (found,) = table.read_row_group(group).slice(row, 1).to_pylist()
                        try:
                            return structure_from_row(found)
                        except (*UNREADABLE, KeyError) as error:
                            raise self._unlike(path, error) from error
                    row -= size
        raise ArchiveError(f"{self.location}: no structure '{structure_id}'; see Atlas.structures")

    def select(
        self, *, sets: Sequence[str] | None = None, where: str | None = None
    ) -> pd.DataFrame:
        """Rows of the structures table by set and pandas query.

        Raises
        ------
        ArchiveError
            Naming the query and what is wrong with it.
        """
        table = self.structures
        if sets is not None:
            table = table[table["set"].isin(list(sets))]
        if where:
            try:
                table = table.query(where, engine="python")
            except Exception as error:
                raise ArchiveError(
                    f"where={where!r}: {error}; columns are {', '.join(table.columns)}"
                ) from error
        return table


def _distinct(column: pd.Series) -> list[Any]:
    """Each text of a column once; lists as they are."""
    try:
        return list(column.unique())
    except TypeError:
        return column.tolist()
