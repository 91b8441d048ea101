# SPDX-License-Identifier: Apache-2.0
"""What changed between two atlases or releases, in data terms, and the version step that makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from ..schemas.errors import ArchiveError, of_sound_data
from ..schemas.scores import ANALYSIS, SCORE_TABLES
from .compare import RowChanges, TableRows, compare_tables, compare_units
from .files import Files
from .index import read_index, unseal
from .parquet import UNREADABLE, decoded, opened
from .score_changes import ScoreChanges, compare_scores, texts
from .tables import MODELS, SETS, VERSION_KEY
from .unit import Unit, open_units
from .verdict import Step, describe, judge


@dataclass
class ReleaseDiff:
    """Everything that differs between two releases.

    Attributes
    ----------
    step : str
        ``major``: data changed or went away; ``minor``: only additions; ``patch``: the same data
        packed or described anew; ``none``: the same files.
    why : list of str
        One line a reason for the step, the weightiest first.
    sets, units : dict
        Row changes by set, and by ``model/set``, of those that both have and that differ.
    cards : dict
        Fields that differ by ``model <id>`` or ``set <id>``.
    scores : dict
        Changes by score table.
    lagging : list of dict
        ``model``, ``set``, ``rows``, ``structures``: models of the new release that have not
        looked at all structures of a set.
    files : dict
        ``added``, ``removed``, ``replaced``: counts, and the bytes of ``added`` and ``replaced``.
    """

    old: str
    new: str
    old_version: str
    new_version: str
    format_versions: tuple[str, str]
    step: Step = "none"
    why: list[str] = field(default_factory=list)
    sets_added: dict[str, int] = field(default_factory=dict)
    sets_removed: dict[str, int] = field(default_factory=dict)
    set_versions: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    sets: dict[str, RowChanges] = field(default_factory=dict)
    models_added: dict[str, int] = field(default_factory=dict)
    models_removed: list[str] = field(default_factory=list)
    default_layers: dict[str, tuple[str, str]] = field(default_factory=dict)
    units_added: dict[str, int] = field(default_factory=dict)
    units_removed: list[str] = field(default_factory=list)
    units: dict[str, RowChanges] = field(default_factory=dict)
    cards: dict[str, list[str]] = field(default_factory=dict)
    scores: dict[str, ScoreChanges] = field(default_factory=dict)
    scores_added: list[str] = field(default_factory=list)
    scores_removed: list[str] = field(default_factory=list)
    lagging: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The diff as JSON-able data."""
        return asdict(self)

    def text(self) -> str:
        """The diff for a reader, one line a fact."""
        return describe(self)


def diff(old: str | Path, new: str | Path) -> ReleaseDiff:
    """Compare two atlases or releases, in folders or behind URLs.

    Units whose content digests agree are not read. Others are compared by id, block by block.

    Raises
    ------
    ArchiveError
        One of them is no atlas, or a file that has to be read is damaged.
    """
    with of_sound_data(f"{old} or {new}", "run: matteratlas validate on each"):
        return _diff(old, new)


def _diff(old: str | Path, new: str | Path) -> ReleaseDiff:
    a, b = _Side(old), _Side(new)
    out = ReleaseDiff(
        old=a.files.location,
        new=b.files.location,
        old_version=str(a.index["version"]),
        new_version=str(b.index["version"]),
        format_versions=(str(a.index["format_version"]), str(b.index["format_version"])),
    )
    _compare_sets(a, b, out)
    _compare_models(a, b, out)
    _compare_cards(a, b, out)
    _compare_scores(a, b, out)
    for model, entry in sorted(b.index["models"].items()):
        for set_id, structures in b.sets.items():
            rows = entry["units"].get(set_id, {"rows": 0})["rows"]
            if rows < structures:
                out.lagging.append(
                    {"model": model, "set": set_id, "rows": rows, "structures": structures}
                )
    # Score tables name the release they are in; that alone is no difference.
    same = {p for p in a.score_tables if p in b.score_tables and p not in out.scores}
    out.files = _compare_files(a.inventory(b), b.inventory(a), same)
    out.step, out.why = judge(out)
    return out


class _Side:
    """One of the two: its index, and its tables on demand."""

    def __init__(self, location: str | Path) -> None:
        self.files = Files(str(location))
        self.index = read_index(self.files)
        paths = sorted(p for p in self.index["files"] if p.startswith("structures/"))
        self.paths = {Path(p).stem: p for p in paths}
        self.sets: dict[str, int] = {}
        self.set_versions: dict[str, str | None] = {}
        for set_id, path in self.paths.items():
            file = self._parquet(path)
            version = (file.schema_arrow.metadata or {}).get(VERSION_KEY.encode())
            self.sets[set_id] = file.metadata.num_rows
            self.set_versions[set_id] = version.decode() if version else None
        self.score_tables = self._score_tables()
        self._units: dict[str, dict[str, Unit]] = {}

    def _parquet(self, path: str) -> pq.ParquetFile:
        try:
            return opened(self.files.open(path))[0]
        except UNREADABLE as error:
            raise ArchiveError(
                f"{self.files.location}/{path}: unreadable ({error}); restore the file"
            ) from error

    def _score_tables(self) -> dict[str, dict[str, Any]]:
        if not self.files.exists(ANALYSIS):
            return {}
        record = unseal(self.files.read(ANALYSIS), where=f"{self.files.location}/{ANALYSIS}")
        return {p: dict(t) for p, t in record["tables"].items() if p in SCORE_TABLES}

    def frame(self, path: str) -> pd.DataFrame:
        try:
            file, size = opened(self.files.open(path))
            return decoded(file.read(), size=size).to_pandas(ignore_metadata=True)
        except UNREADABLE as error:
            raise ArchiveError(
                f"{self.files.location}/{path}: unreadable ({error}); restore the file"
            ) from error

    def content(self, model: str) -> dict[str, str]:
        units = self.index["models"][model]["units"]
        return {s: unit["content_sha256"] for s, unit in units.items()}

    def inventory(self, other: _Side) -> dict[str, tuple[int, str]]:
        """Size and hash of the files that index and records vouch for.

        Left out are models whose metadata, and with it all files, the other side has too.
        """
        found = {p: (f["bytes"], f["sha256"]) for p, f in self.index["files"].items()}
        for model, entry in self.index["models"].items():
            same = other.index["models"].get(model, {})
            if same.get("metadata_sha256") != entry["metadata_sha256"]:
                for unit in self.units(model).values():
                    found |= {f.path: (f.bytes, f.sha256) for f in unit.record.files}
        for path, table in self.score_tables.items():
            found[path] = (int(table["bytes"]), table["sha256"])
        return found

    def units(self, model: str) -> dict[str, Unit]:
        """Units of a model, from its metadata."""
        if model not in self._units:
            sha256 = self.index["models"][model]["metadata_sha256"]
            self._units[model] = open_units(self.files, model, sha256=sha256)
        return self._units[model]


def _compare_sets(a: _Side, b: _Side, out: ReleaseDiff) -> None:
    out.sets_added = {s: n for s, n in b.sets.items() if s not in a.sets}
    out.sets_removed = {s: n for s, n in a.sets.items() if s not in b.sets}
    for set_id in sorted(set(a.sets) & set(b.sets)):
        path = a.paths[set_id]
        if a.set_versions[set_id] != b.set_versions[set_id]:
            out.set_versions[set_id] = (a.set_versions[set_id], b.set_versions[set_id])
        if a.index["files"][path]["sha256"] == b.index["files"][path]["sha256"]:
            continue
        rows = (TableRows(side.files, path, key="id") for side in (a, b))
        changes = compare_tables(*rows)
        if changes.destructive or changes.additive:
            out.sets[set_id] = changes


def _compare_models(a: _Side, b: _Side, out: ReleaseDiff) -> None:
    old, new = a.index["models"], b.index["models"]
    for model in sorted(set(new) - set(old)):
        out.models_added[model] = sum(u["embedded"] for u in new[model]["units"].values())
    out.models_removed = sorted(set(old) - set(new))
    for model in sorted(set(old) & set(new)):
        if old[model]["default_layer"] != new[model]["default_layer"]:
            layers = (old[model]["default_layer"], new[model]["default_layer"])
            out.default_layers[model] = layers
        before, after = a.content(model), b.content(model)
        for set_id in sorted(set(after) - set(before)):
            out.units_added[f"{model}/{set_id}"] = new[model]["units"][set_id]["embedded"]
        out.units_removed += [f"{model}/{s}" for s in sorted(set(before) - set(after))]
        for set_id in sorted(set(before) & set(after)):
            if before[set_id] == after[set_id]:
                continue
            changes = compare_units(a.units(model)[set_id], b.units(model)[set_id])
            if changes.destructive or changes.additive:
                out.units[f"{model}/{set_id}"] = changes


def _compare_cards(a: _Side, b: _Side, out: ReleaseDiff) -> None:
    for path, what, keys in ((MODELS, "model", ["id"]), (SETS, "set", ["id", "stratum"])):
        old, new = ({_key(r, keys): r for r in _rows(s.frame(path))} for s in (a, b))
        for key in sorted(set(old) & set(new)):
            names = dict.fromkeys([*old[key], *new[key]])
            fields = [n for n in names if old[key].get(n, "") != new[key].get(n, "")]
            name = f"{what} {key[0]}"
            if fields:
                out.cards[name] = list(dict.fromkeys([*out.cards.get(name, []), *fields]))


def _rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """Rows as text, so that a column's type, which depends on all cards, does not count."""
    columns = {str(c): texts(table[c]) for c in table}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _key(row: Mapping[str, str], keys: list[str]) -> tuple[str, ...]:
    return tuple(row.get(k, "") for k in keys)


def _compare_scores(a: _Side, b: _Side, out: ReleaseDiff) -> None:
    old, new = a.score_tables, b.score_tables
    out.scores_added = sorted(set(new) - set(old))
    out.scores_removed = sorted(set(old) - set(new))
    selections: dict[str, str] | None = None
    for path in sorted(set(old) & set(new)):
        if old[path]["sha256"] == new[path]["sha256"]:
            continue
        if selections is None and "scores/selections.parquet" in new:
            table = b.frame("scores/selections.parquet")
            selections = dict(zip(table["selection"], table["selection_sha256"], strict=True))
        changes = compare_scores(path, a.frame(path), b.frame(path), selections=selections)
        if changes.any:
            out.scores[path] = changes


def _compare_files(
    old: Mapping[str, tuple[int, str]], new: Mapping[str, tuple[int, str]], same: set[str]
) -> dict[str, int]:
    added = [p for p in new if p not in old]
    replaced = [p for p in new if p in old and new[p][1] != old[p][1] and p not in same]
    return {
        "added": len(added),
        "added_bytes": sum(new[p][0] for p in added),
        "replaced": len(replaced),
        "replaced_bytes": sum(new[p][0] for p in replaced),
        "removed": len(set(old) - set(new)),
    }
