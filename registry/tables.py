# SPDX-License-Identifier: Apache-2.0
"""Parquet tables of an atlas: written whole, read with their own types."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from . import catalog
from .parquet import read_frame

MODELS = "registry/models.parquet"
SETS = "registry/sets.parquet"
#: Rows a row group holds: what a reader of one row, or the Hub viewer, moves at least.
ROW_GROUP = 16384
VERSION_KEY = "matteratlas_version"
#: How tables are written: with the page index of the Hub viewer, and a checksum a page.
LAYOUT: dict[str, Any] = {
    "row_group_size": ROW_GROUP,
    "compression": "zstd",
    "write_page_index": True,
    "write_page_checksum": True,
    "use_content_defined_chunking": True,
}


def write_table(
    table: pd.DataFrame,
    path: Path,
    *,
    schema: pa.Schema | None = None,
    version: str | None = None,
) -> None:
    """Write a Parquet table whole or not at all; the Hub viewer's page index is included.

    ``schema`` fixes the column types whatever columns happen to be null; ``version`` is kept with
    the file, see :func:`table_version`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    arrow = pa.Table.from_pandas(table, preserve_index=False, schema=schema)
    # pandas' own metadata names library versions; without it equal tables are equal bytes.
    arrow = arrow.replace_schema_metadata({VERSION_KEY: version} if version else None)
    try:
        pq.write_table(arrow, scratch, **LAYOUT)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def table_version(path: Path) -> str | None:
    """Version of the card a table was written under; None where none is kept."""
    found = (pq.read_schema(path).metadata or {}).get(VERSION_KEY.encode())
    return found.decode("utf-8", "backslashreplace") if found else None


def read_structures_table(source: Path, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a structures table; nullable integers stay integers."""
    table = read_frame(source, columns=columns)
    return table.astype({c: "Int64" for c in ("multiplicity",) if c in table})


def link_sets(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Add ``linked``: rows whose id an earlier set holds name the first such set.

    Earlier means in the catalogue's order (sets it does not know come last, in the order given).
    Linked rows keep their place in their own set but are embedded once, with the first. The column
    depends on which sets stand side by side, so it is never stored.
    """
    known = [s for s in catalog.SET_ORDER if s in tables]
    order = known + [s for s in tables if s not in known]
    first: dict[str, str] = {}
    linked: dict[str, pd.DataFrame] = {}
    for set_id in order:
        ids = tables[set_id]["id"]
        column = pd.Series([first.get(i) for i in ids], index=ids.index, dtype=object)
        linked[set_id] = tables[set_id].assign(linked=column)
        for i in ids:
            first.setdefault(i, set_id)
    return {set_id: linked[set_id] for set_id in tables}
