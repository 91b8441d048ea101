# SPDX-License-Identifier: Apache-2.0
"""Tables of an atlas: written atomically, and the index of what the atlas holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..schemas.archive import RECORDS, UnitRecord
from . import catalog

#: One row a complete unit.
UNITS = "registry/units.parquet"
MODELS = "registry/models.parquet"
SETS = "registry/sets.parquet"


def write_table(table: pd.DataFrame, path: Path, *, schema: pa.Schema | None = None) -> None:
    """Write a Parquet table whole or not at all; the Hub viewer's page index is included.

    ``schema`` fixes the column types whatever columns happen to be null.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    arrow = pa.Table.from_pandas(table, preserve_index=False, schema=schema)
    # pandas' own metadata names library versions; without it equal tables are equal bytes.
    arrow = arrow.replace_schema_metadata(None)
    try:
        pq.write_table(arrow, scratch, compression="zstd", write_page_index=True)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def read_structures_table(source: Path | IO[bytes], **options: Any) -> pd.DataFrame:
    """Read a structures table; nullable integers stay integers."""
    table = pd.read_parquet(source, **options)
    return table.astype({c: "Int64" for c in ("multiplicity",) if c in table})


def unit_records(root: Path) -> list[UnitRecord]:
    """Commit records of every complete unit, sorted by model and set."""
    paths = sorted((root / RECORDS).glob("*/*.json"))
    return [UnitRecord.model_validate_json(p.read_text(encoding="utf-8")) for p in paths]


def write_index(root: Path) -> None:
    """(Re)write the registry tables: complete units, and the cards of what they name."""
    records = unit_records(root)
    units = pd.DataFrame(
        [
            {
                "model": r.model,
                "set": r.structure_set,
                "set_version": r.structure_set_version,
                "rows": r.rows,
                "embedded": r.embedded,
                "missing": json.dumps(r.missing, sort_keys=True),
                "layers": json.dumps(r.layers, sort_keys=True),
                "fingerprint": r.fingerprint,
                "content_sha256": r.content_sha256,
            }
            for r in records
        ],
        columns=[
            "model",
            "set",
            "set_version",
            "rows",
            "embedded",
            "missing",
            "layers",
            "fingerprint",
            "content_sha256",
        ],
    )
    write_table(units, root / UNITS)
    held = {p.stem for p in (root / "structures").glob("*.parquet")}
    models = {m: c for m, c in catalog.models().items() if m in set(units["model"])}
    sets = {s: c for s, c in catalog.structure_sets().items() if s in held}
    _write_cards(catalog.models_table(models.values()), root / MODELS, set(units["model"]))
    _write_cards(catalog.sets_table(sets.values()), root / SETS, held)


def _write_cards(table: pd.DataFrame, path: Path, held: set[str]) -> None:
    """Write cards; entries held by the atlas but unknown to this registry keep their rows."""
    if path.exists():
        earlier = pd.read_parquet(path)
        kept = earlier[earlier["id"].isin(held - set(table.get("id", [])))]
        if len(kept):
            table = pd.concat([table, kept], ignore_index=True)
    write_table(table, path)
