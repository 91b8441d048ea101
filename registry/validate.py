# SPDX-License-Identifier: Apache-2.0
"""Validate an atlas folder in two tiers: structure always, values blockwise when asked.

Structure: index, tables, commit records, hashes of all files, group schemas, ids against the
structures tables, and every file accounted for. Values: every vector read once, in blocks, and
reduced to one row a structure before pandera sees it, so that a fault names its row and memory
stays small.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from pandera.errors import SchemaErrors

from ..schemas.archive import (
    ATLAS_FILE,
    LOCK,
    MANIFEST,
    PARQUET,
    RUNS,
    STAGING,
    STORE,
    UNRELEASED,
    check_dataset,
    unit_rows_schema,
    unit_schema,
)
from ..schemas.errors import ArchiveError
from ..schemas.scores import ANALYSIS, SCORE_TABLES
from ..schemas.structures import STRUCTURE_TABLE
from .files import Files
from .hub import sha256_of
from .index import (
    PENDING,
    canonical,
    current_state,
    model_entry_of,
    read_index,
    unit_names,
    unseal,
)
from .manifest import check_manifest
from .tables import MODELS, SETS, read_structures_table
from .unit import Documents, Unit, grouped_documents, open_unit

#: What may lie beside the data without being part of it.
ASIDE = (STAGING, LOCK, RUNS, "report.html")
#: What a release adds, accounted for by its manifest.
RELEASE_FILES = (MANIFEST, "README.md", "croissant.json", "CITATION.cff")


@dataclass
class Validation:
    """What was checked and what is wrong; empty ``faults`` means valid.

    Attributes
    ----------
    notes : list of str
        Leftovers of a build that was interrupted: no reader sees them, the next build clears them.
    """

    units: int = 0
    files: int = 0
    rows: int = 0
    tables: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """No fault found."""
        return not self.faults


def validate(
    path: str | Path, *, deep: bool = False, progress: Callable[[str], None] | None = None
) -> Validation:
    """Check an atlas folder; collects every fault instead of stopping at the first.

    Parameters
    ----------
    path:
        Atlas folder.
    deep:
        Also read every vector (finite, non-zero, missing exactly where a reason says so).
    progress:
        Called with the name of each thing about to be checked.

    Returns
    -------
    Validation
        Counts and one line a fault, naming the file and the mend.

    Raises
    ------
    ArchiveError
        The folder is no atlas at all, or one of another format.
    """
    return _Check(Path(path), deep, progress or (lambda _: None)).run()


class _Check:
    def __init__(self, root: Path, deep: bool, progress: Callable[[str], None]) -> None:
        self.root, self.deep, self.progress = root, deep, progress
        self.result = Validation()
        self.files = Files(str(root))
        self.accounted: set[str] = {ATLAS_FILE}

    def run(self) -> Validation:
        try:
            index = read_index(self.files)
        except ArchiveError as error:
            if "altered" not in str(error) and "not JSON" not in str(error):
                raise
            self.fault(str(error).removeprefix(f"{self.root}/"))
            index = {"models": {}, "files": {}, "version": UNRELEASED, "damaged": True}
        else:
            if (self.root / ATLAS_FILE).read_bytes() != canonical(index):
                self.fault(f"{ATLAS_FILE}: not as it was written; restore the file")
        self.pending(index)
        structures, learned = self.tables(index)
        found = unit_names(self.root)
        released = index["version"] != UNRELEASED or (
            "damaged" in index and (self.root / MANIFEST).exists()
        )
        for model, set_id in found:
            self.progress(f"{model}/{set_id}")
            self.unit(model, set_id, structures, learned)
        if "damaged" not in index:
            self.models(index, found)
        self.runs()
        if released:
            self.accounted |= set(RELEASE_FILES)
            for fault in check_manifest(self.root):
                if fault not in self.result.faults:
                    self.fault(fault)
        self.strangers(released)
        return self.result

    def fault(self, text: str) -> None:
        self.result.faults.append(text)

    def pending(self, index: dict[str, Any]) -> None:
        """Files that a build was moving when it was killed, each in a state the index allows."""
        for path, states in sorted(index.get(PENDING, {}).items()):
            self.accounted.add(path)
            self.result.notes.append(
                f"{path}: a build was interrupted while it moved into place; build again"
            )
            if (self.root / path).exists() or None not in states:
                if current_state(self.files, index, path) is None:
                    self.fault(f"{path}: neither the old nor the new file; build it again")

    def runs(self) -> None:
        """Costs lie beside the data; one that is damaged is told all the same."""
        for path in sorted((self.root / RUNS).glob("**/*")):
            name = path.relative_to(self.root).as_posix()
            mend = "remove it; the costs are then unknown"
            if path.is_dir() or (path.name.startswith(".") and path.suffix == ".part"):
                continue
            if path.parent.name != RUNS or path.suffix != ".json" or path.is_symlink():
                self.fault(f"{name}: foreign file, nothing vouches for it; remove it")
                continue
            try:
                record = unseal(path.read_bytes(), where=name, mend=mend)
            except ArchiveError as error:
                self.fault(str(error))
                continue
            if canonical(record) != path.read_bytes() or record.get("model") != path.stem:
                self.fault(f"{name}: altered since it was written; {mend}")

    def tables(self, index: dict[str, Any]) -> tuple[dict[str, list[str] | None], set[str]]:
        """Every table against its hash and schema; returns ids by set, learned models.

        The ids of a set whose table is at fault are None: that is told, once.
        """
        ids: dict[str, list[str] | None] = {}
        learned: set[str] = set()
        listed = dict(index["files"])
        if "damaged" in index:
            known = [*self.root.glob("structures/*.parquet"), *self.root.glob("registry/*.parquet")]
            listed = {p.relative_to(self.root).as_posix(): None for p in known}
        for name in index.get(PENDING, {}):
            state = current_state(self.files, index, name)
            if state is not None and not name.startswith((f"{STORE}/", f"{PARQUET}/")):
                listed[name] = state
        for name, declared in sorted(listed.items()):
            self.progress(name)
            self.accounted.add(name)
            table = self.table(name, declared)
            set_id = Path(name).stem
            if table is None:
                ids |= {set_id: None} if name.startswith("structures/") else {}
                continue
            if name.startswith("structures/"):
                self.schema(table, STRUCTURE_TABLE, name)
                if "set" in table and set(table["set"]) - {set_id}:
                    self.fault(f"{name}: column 'set' names another set; rename the file back")
                ids[set_id] = list(table["id"]) if "id" in table else []
            elif name == MODELS and "learned" in table:
                learned = set(table.loc[table["learned"].astype(bool), "id"])
        self.scores()
        return ids, learned

    def scores(self) -> None:
        """Score tables against the analysis's own record."""
        if not (self.root / "scores").is_dir():
            return
        try:
            data = (self.root / ANALYSIS).read_bytes()
            record = unseal(data, where=ANALYSIS, mend="run matteratlas analyze again")
            listed = dict(record.get("tables", {}))
        except FileNotFoundError:
            listed = {}
            for path in sorted((self.root / "scores").glob("*.parquet")):
                self.result.notes.append(
                    f"scores/{path.name}: no {ANALYSIS} vouches for it; run matteratlas analyze"
                )
                self.accounted.add(f"scores/{path.name}")
        except ArchiveError as error:
            self.fault(str(error))
            listed = {}
        self.accounted.add(ANALYSIS)
        for name, declared in sorted(listed.items()):
            self.progress(name)
            self.accounted.add(name)
            table = self.table(name, declared)
            if table is not None and name in SCORE_TABLES:
                self.schema(table, SCORE_TABLES[name], name)

    def table(self, name: str, declared: dict[str, Any] | None) -> pd.DataFrame | None:
        """A table, hashed first; None when it is not there or not readable."""
        verb = "analyze" if name.startswith("scores/") else "build"
        if declared is not None and not self.file(name, declared, f"run matteratlas {verb} again"):
            return None
        try:
            read = read_structures_table if name.startswith("structures/") else pd.read_parquet
            table = read(self.root / name)
        except FileNotFoundError:
            self.fault(f"{name}: missing; run matteratlas {verb} again")
        except Exception as error:
            text = " ".join(str(error).split())[:160]
            self.fault(f"{name}: unreadable ({text}); run matteratlas {verb} again")
        else:
            self.result.tables += 1
            return table
        return None

    def file(self, name: str, declared: dict[str, Any], mend: str) -> bool:
        """Whether a file is there with the size and hash declared."""
        path = self.root / name
        self.result.files += 1
        if ".." in Path(name).parts or Path(name).is_absolute():
            self.fault(f"{name}: leaves the atlas; the record that lists it is not to be trusted")
        elif path.is_symlink():
            self.fault(f"{name}: a link, not a file; {mend}")
        elif not path.is_file():
            self.fault(f"{name}: missing; {mend}")
        elif path.stat().st_size != declared["bytes"]:
            self.fault(f"{name}: {path.stat().st_size} bytes, {declared['bytes']} declared; {mend}")
        elif sha256_of(path) != declared["sha256"]:
            self.fault(f"{name}: sha256 differs from the declared one; {mend}")
        else:
            return True
        return False

    def schema(self, table: pd.DataFrame, schema: Any, name: str) -> None:
        try:
            schema.validate(table, lazy=True)
        except SchemaErrors as error:
            cases = error.failure_cases.drop_duplicates(["check", "index"])
            for case in cases.head(5).itertuples():
                row = "" if pd.isna(case.index) else f", row {case.index}"
                if case.schema_context == "DataFrameSchema" and row:  # a fault of the whole row
                    self.fault(f"{name}{row}: {case.check}")
                    continue
                self.fault(
                    f"{name}{row}: column '{case.column}' fails {case.check} "
                    f"(value {str(case.failure_case)[:60]!r})"
                )

    def unit(
        self, model: str, set_id: str, structures: dict[str, list[str] | None], learned: set[str]
    ) -> None:
        """One unit: its record, every file of it, its schema and, if asked, its values."""
        name = f"{STORE}/{model}/{set_id}"
        self.accounted.add(f"{name}/zarr.json")
        try:
            unit = open_unit(self.files, model, set_id)
        except ArchiveError as error:
            # Its files are its own whatever is wrong with its metadata; name those that differ.
            self.fault(str(error).removeprefix(f"{self.root}/"))
            self.adopt(model, set_id)
            return
        record = unit.record
        self.accounted |= {f.path for f in record.files}
        self.result.units += 1
        mend = f"run matteratlas build again for {model} on {set_id}"
        sound = [self.file(f.path, f.model_dump(), mend) for f in record.files]
        if not all(sound):
            return  # damaged files are not worth opening
        try:
            self.contents(unit, name, structures, learned)
        except ArchiveError as error:
            self.fault(str(error).removeprefix(f"{self.root}/"))
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self.fault(f"{name}: unreadable ({text}); {mend}")

    def adopt(self, model: str, set_id: str) -> None:
        """Take all files of a unit that cannot be opened for its own."""
        folder = self.root / STORE / model / set_id
        for path in folder.rglob("*"):
            self.accounted.add(path.relative_to(self.root).as_posix())
        self.accounted.add(f"{PARQUET}/{model}/{set_id}.parquet")

    def contents(
        self, unit: Unit, name: str, structures: dict[str, list[str] | None], learned: set[str]
    ) -> None:
        record = unit.record
        dataset = xr.open_zarr(self.root / name, consolidated=False, zarr_format=3)
        nodes = {
            layer: int(unit.row_size().sum())
            for layer in record.layers
            if unit.nodes(layer) is not None
        }
        check_dataset(dataset, unit_schema(record, nodes=nodes), where=name)
        ids, reasons = unit.ids(), unit.reasons()
        known = structures.get(record.structure_set)
        if record.structure_set not in structures:
            self.fault(f"{name}: set '{record.structure_set}' has no structures table")
        elif known is not None and not set(ids) <= set(known):
            strange = sorted(set(ids) - set(known))[0]
            self.fault(f"{name}: row '{strange}' is not in the structures table; rebuild it")
        embedded = int((reasons == "").sum())
        if embedded != record.embedded:
            self.fault(
                f"{name}: {embedded} rows embedded, its record says {record.embedded}; rebuild it"
            )
        if self.deep:
            schema = unit_rows_schema(learned=record.model in learned)
            for layer in record.layers:
                self.schema(_summarise(unit, layer, ids, reasons), schema, f"{name}/{layer}")
        self.result.rows += record.rows

    def models(self, index: dict[str, Any], found: list[tuple[str, str]]) -> None:
        """The index against the units on disk, and each model's consolidated metadata."""
        listed = {(m, s) for m, e in index["models"].items() for s in e["units"]}
        for model, set_id in sorted(listed - set(found)):
            self.fault(
                f"{STORE}/{model}/{set_id}: listed in {ATLAS_FILE} but absent; "
                "run matteratlas build again"
            )
        pending = {p.split("/")[1] for p in index.get(PENDING, {}) if p.startswith(f"{STORE}/")}
        pending |= {p.split("/")[1] for p in index.get(PENDING, {}) if p.startswith(f"{PARQUET}/")}
        for model, set_id in sorted(set(found) - listed):
            name = f"{STORE}/{model}/{set_id}"
            if model in pending:
                self.result.notes.append(f"{name}: complete but not listed yet; build again")
            else:
                self.fault(f"{name}: not listed in {ATLAS_FILE}; remove it, or build to take it up")
        for model, entry in index["models"].items():
            name = f"{STORE}/{model}/zarr.json"
            self.accounted.add(name)
            if not (self.root / name).exists():
                self.fault(f"{name}: missing; run matteratlas build again")
            elif (state := current_state(self.files, index, name)) is None:
                self.fault(f"{name}: sha256 differs from the declared one; run matteratlas build")
            else:
                document = json.loads((self.root / name).read_bytes())
                units = grouped_documents(document, where=name)
                self.metadata(model, entry, {s: d for s, d in units.items() if s in entry["units"]},
                              state["sha256"])  # fmt: skip

    def metadata(
        self, model: str, entry: dict[str, Any], units: dict[str, Documents], sha256: str
    ) -> None:
        """The index says of a model what its metadata say, and those what its units' own say."""
        name = f"{STORE}/{model}/zarr.json"
        if not units or model_entry_of(units, sha256)["units"] != entry["units"]:
            self.fault(f"{ATLAS_FILE}: model '{model}' is not what {name} says; run build")
        for set_id, documents in units.items():
            folder = self.root / STORE / model / set_id
            for array, document in documents.items():
                path = folder / array / "zarr.json"
                if not path.is_file() or not _same(path, document, exactly=not array):
                    own = path.relative_to(self.root).as_posix()
                    self.fault(f"{own}: not what {name} says; run matteratlas build again")

    def strangers(self, released: bool) -> None:
        """Every file that nothing vouches for."""
        for path in _walk(self.root):
            name = path.relative_to(self.root).as_posix()
            if name in self.accounted or name.split("/")[0] in ASIDE:
                continue
            if path.name.startswith(".") and path.name.endswith(".part"):
                self.result.notes.append(f"{name}: left by an interrupted write; remove it")
            elif not released or not any(f.startswith(f"{name}:") for f in self.result.faults):
                self.fault(f"{name}: foreign file, nothing vouches for it; remove it")


def _same(path: Path, document: dict[str, Any], *, exactly: bool) -> bool:
    data = path.read_bytes()
    if exactly:
        return data == canonical(document)
    try:
        return bool(json.loads(data) == document)
    except ValueError:
        return False


def _walk(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _summarise(unit: Unit, layer: str, ids: np.ndarray, reasons: np.ndarray) -> pd.DataFrame:
    """One row a structure from one pass over the vectors, block by block."""
    n = len(ids)
    finite, norm, present = np.zeros(n, bool), np.full(n, np.nan), np.zeros(n, bool)
    vectors = unit.vectors(layer)
    for start in range(0, n, vectors.chunk_rows):
        block = vectors.read(start, min(start + vectors.chunk_rows, n)).astype(np.float64)
        rows = slice(start, start + len(block))
        finite[rows] = np.isfinite(block).all(axis=1)
        present[rows] = ~np.isnan(block).all(axis=1)
        norm[rows] = np.linalg.norm(block, axis=1)
    nodes_finite = np.ones(n, bool)
    nodes = unit.nodes(layer)
    if nodes is not None:
        owner = np.repeat(np.arange(n), unit.row_size())
        for rows, block in nodes.blocks():
            bad = ~np.isfinite(block).all(axis=1)
            nodes_finite[owner[rows][bad]] = False
    return pd.DataFrame(
        {
            "structure_id": ids.astype(object),
            "reason": reasons.astype(object),
            "embedded": present,
            "finite": finite,
            "norm": norm,
            "nodes_finite": nodes_finite,
        }
    )
