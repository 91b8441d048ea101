# SPDX-License-Identifier: Apache-2.0
"""``README.md`` of an atlas: the project's dataset card, with what this folder holds filled in.

The YAML head tells ``datasets`` and the Hub which files make which configuration, so that
``load_dataset(folder, "<model>")`` works on a release, a repository and a folder still being built.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ..registry.files import Files
from ..registry.index import read_index
from ..registry.parquet import read_frame
from ..registry.tables import MODELS, SETS
from ..schemas.archive import PARQUET, UNRELEASED
from ..schemas.errors import ArchiveError, of_sound_data
from ..schemas.structures import KINDS
from .citation import bibtex, template

CARD = "README.md"
#: Configurations that are no model; models may not take these names, nor begin with one and a dash.
STRUCTURES, SCORES = "structures", "scores"
#: The score table that plain ``scores`` means.
MAIN_SCORES = "pairs"


def write_card(root: Path, *, date: str | None = None) -> Path:
    """Write ``README.md`` whole or not at all; call it again when the atlas has changed.

    Raises
    ------
    ArchiveError
        No atlas there, a damaged table, or a model whose id a configuration needs.
    """
    path = root / CARD
    scratch = path.with_name(f".{CARD}.{os.getpid()}.part")
    try:
        scratch.write_text(card(root, date=date), encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def card(root: Path, *, date: str | None = None) -> str:
    """Text of the dataset card of an atlas or release; equal atlases give equal text."""
    with of_sound_data(root, f"run: matteratlas validate {root}"):
        return _card(root, date)


def _card(root: Path, date: str | None) -> str:
    index = read_index(Files(str(root)))
    version = str(index["version"])
    models, sets = _table(root, MODELS), _table(root, SETS)
    _, head, body = template("dataset_card.md").split("---\n", 2)
    rows = {s: _rows(root / f"structures/{s}.parquet") for s in _set_ids(root)}
    units = [u for entry in index["models"].values() for u in entry["units"].values()]
    first = next(iter(sorted(index["models"])), "MODEL")
    held = sorted(index["models"][first]["units"]) if first in index["models"] else sorted(rows)
    front = {
        **yaml.safe_load(head),
        "size_categories": [size_category(sum(rows.values()))],
        "configs": configs(root),
    }
    front["tags"] = [*front["tags"], *_kinds(sets)]
    text = Template(body).substitute(
        release=f"release {version}" if version != UNRELEASED else "an unreleased atlas",
        n_models=len(index["models"]),
        n_sets=len(rows),
        n_structures=f"{sum(rows.values()):,}",
        n_vectors=f"{sum(u['embedded'] for u in units):,}",
        model=first,
        split=split_name(held[0]) if held else "SET",
        models=_models_text(index["models"], models),
        sets=_sets_text(rows, sets),
        citation=bibtex(version=version, date=date),
    )
    dumped = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{dumped}---\n{text}"


def configs(root: Path) -> list[dict[str, Any]]:
    """Configurations of the dataset, as the card's YAML head lists them.

    Tables without rows are left out: ``datasets`` cannot read them.
    """
    index = read_index(Files(str(root)))
    tables = {s: f"structures/{s}.parquet" for s in _set_ids(root)}
    tables = {s: path for s, path in tables.items() if _rows(root / path)}
    out: list[dict[str, Any]] = []
    if tables:
        shared = common_columns(root / path for path in tables.values())
        config: dict[str, Any] = {"config_name": STRUCTURES, "default": True}
        if any(pq.read_schema(root / p).names != shared for p in tables.values()):
            # Sets have labels of their own; a configuration has one schema for all its splits.
            config["columns"] = shared
        out.append({**config, "data_files": _splits(tables)})
    for model_id, entry in sorted(index["models"].items()):
        if model_id.split("-")[0] in (STRUCTURES, SCORES):
            raise ArchiveError(
                f"{root}: model id '{model_id}' is taken by a configuration; rename the model"
            )
        twins = {s: f"{PARQUET}/{model_id}/{s}.parquet" for s in sorted(entry["units"])}
        twins = {s: path for s, path in twins.items() if _rows(root / path)}
        if twins:
            out.append({"config_name": model_id, "data_files": _splits(twins)})
    for set_id, path in tables.items():
        out.append({"config_name": f"{STRUCTURES}-{set_id}", "data_files": _splits({set_id: path})})
    scores = sorted(p.stem for p in root.glob("scores/*.parquet") if _rows(p))
    for table in sorted(scores, key=lambda t: (t != MAIN_SCORES, t)):
        name = SCORES if table == MAIN_SCORES else f"{SCORES}-{table}"
        files = _splits({table: f"scores/{table}.parquet"})
        out.append({"config_name": name, "data_files": files})
    return out


def split_name(name: str) -> str:
    """A name as ``datasets`` accepts it for a split: letters, digits and underscores."""
    return re.sub(r"\W", "_", name)


def common_columns(paths: Iterable[Path]) -> list[str]:
    """Columns that all tables have, with one type, in the order of the first."""
    schemas = [pq.read_schema(path) for path in paths]
    first, *others = schemas

    def shared(field: pa.Field) -> bool:
        return all(
            field.name in other.names and other.field(field.name).type == field.type
            for other in others
        )

    return [field.name for field in first if shared(field)]


def size_category(n: int) -> str:
    """The Hub's name for a number of rows."""
    bounds = [("1K", 10**3), ("10K", 10**4), ("100K", 10**5), ("1M", 10**6), ("10M", 10**7)]
    bounds += [("100M", 10**8), ("1B", 10**9), ("10B", 10**10), ("100B", 10**11), ("1T", 10**12)]
    below = ""
    for name, bound in bounds:
        if n < bound:
            return f"{below}<n<{name}" if below else f"n<{name}"
        below = name
    return "n>1T"


def _splits(files: Mapping[str, str]) -> list[dict[str, str]]:
    names = [split_name(name) for name in files]
    if len(set(names)) < len(names):
        raise ArchiveError(f"sets {', '.join(files)}: two names make one split; rename a set")
    return [{"split": n, "path": path} for n, path in zip(names, files.values(), strict=True)]


def _set_ids(root: Path) -> list[str]:
    return sorted(p.stem for p in (root / "structures").glob("*.parquet"))


def _rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise ArchiveError(
            f"{path}: not readable as Parquet ({error}); run matteratlas build again"
        ) from error


def _table(root: Path, name: str) -> pd.DataFrame:
    _rows(root / name)  # names the file if it is damaged
    table = read_frame(root / name)
    return table.reindex(columns=list(dict.fromkeys([*table.columns, "id"])))


def _kinds(sets: pd.DataFrame) -> list[str]:
    kinds = {str(kind) for kinds in sets.get("kinds", []) for kind in kinds}
    return sorted((kinds - {"other"}) & set(KINDS))


def _models_text(entries: Mapping[str, Any], cards: pd.DataFrame) -> str:
    about = cards.drop_duplicates("id").set_index("id")
    rows = []
    for model_id, entry in sorted(entries.items()):
        units = entry["units"].values()
        layer = entry["default_layer"]
        precision = sorted({u["precision"] for u in units})
        rows.append(
            [
                f"`{model_id}`",
                _cell(about, model_id, "name"),
                _cell(about, model_id, "modality"),
                f"`{layer}` ({entry['layers'][layer]})",
                str(len(entry["layers"])),
                ", ".join(precision),
                f"{sum(u['embedded'] for u in units):,} of {sum(u['rows'] for u in units):,}",
                _cell(about, model_id, "licence.code"),
                _cell(about, model_id, "licence.weights"),
            ]
        )
    head = ["model", "name", "reads", "default layer (width)", "layers", "stored as"]
    return _grid([*head, "embedded", "licence of code", "licence of weights"], rows)


def _sets_text(rows: Mapping[str, int], cards: pd.DataFrame) -> str:
    about = cards.drop_duplicates("id").set_index("id")
    strata = cards.groupby("id")["stratum"].agg(list) if "stratum" in cards else pd.Series()
    lines = []
    for set_id, n in rows.items():
        redistributed = _cell(about, set_id, "redistribute_coordinates")
        lines.append(
            [
                f"`{set_id}`",
                _cell(about, set_id, "name"),
                _cell(about, set_id, "version"),
                f"{n:,}",
                ", ".join(sorted(map(_plain, map(str, strata[set_id]))))
                if set_id in strata
                else "",
                {"True": "yes", "False": "no"}.get(redistributed, redistributed),
                _cell(about, set_id, "licence"),
            ]
        )
    head = ["set", "name", "version", "structures", "strata", "coordinates", "licence"]
    return _grid(head, lines)


def _cell(table: pd.DataFrame, row: str, column: str) -> str:
    value: Any = table.loc[row, column] if row in table.index and column in table else None
    return "not stated" if pd.isna(value) else _plain(str(value))


def _plain(text: str) -> str:
    """A text as Markdown that shows just this: no markup, no HTML, no link, nothing to load."""
    text = "".join(c for c in text if c.isprintable() or c == "\n")
    text = re.sub(r"([\\`*_{}\[\]()<>#+!|~$&])", lambda m: f"&#{ord(m[1])};", text)
    # Bare addresses become links by themselves.
    return re.sub(r"(?<=[A-Za-z])(:)(?=//)|(?<=www)(\.)|(@)", lambda m: f"&#{ord(m[0])};", text)


def _grid(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in line) + " |"
        for line in lines
    )
