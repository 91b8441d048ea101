# SPDX-License-Identifier: Apache-2.0
"""Validate an atlas folder in two tiers: structure always, values blockwise when asked.

Structure: index, tables, commit records, hashes of all files, group schemas, ids against the
structures tables, and every file accounted for. Values: every vector read once, in blocks, and
reduced to one row a structure before pandera sees it, so that a fault names its row and memory
stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..schemas.archive import (
    ATLAS_FILE,
    MANIFEST,
    PARQUET,
    RUNS,
    STORE,
    UNRELEASED,
    check_dataset,
    unit_rows_schema,
    unit_schema,
)
from ..schemas.documents import parse_json
from ..schemas.errors import ArchiveError
from ..schemas.manifest import CARD_FILES, HOST_FILES, PRIVATE
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
from .table_checks import TableChecks, Validation
from .unit import Documents, Unit, grouped_documents, open_unit, read_document


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


class _Check(TableChecks):
    def __init__(self, root: Path, deep: bool, progress: Callable[[str], None]) -> None:
        super().__init__(root, progress)
        self.deep = deep

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
        if (self.root / ATLAS_FILE).is_symlink():
            self.fault(f"{ATLAS_FILE}: a link, not a file; put the file there")
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
            self.accounted |= {MANIFEST, *CARD_FILES}
            for fault in check_manifest(self.root):
                if fault not in self.result.faults:
                    self.fault(fault)
        self.strangers(released)
        return self.result

    def pending(self, index: dict[str, Any]) -> None:
        """Files that a build was moving when it was killed, each in a state the index allows."""
        for path, states in sorted(index.get(PENDING, {}).items()):
            self.accounted.add(path)
            self.result.notes.append(
                f"{path}: a build was interrupted while it moved into place; build again"
            )
            wanted = (self.root / path).exists() or None not in states
            if wanted and current_state(self.files, index, path) is None:
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
                document = read_document(self.root / name)
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
            aside = (*PRIVATE, *(HOST_FILES if released else CARD_FILES[:1]))
            if name in self.accounted or name.split("/")[0] in aside:
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
        return bool(parse_json(data) == document)
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
