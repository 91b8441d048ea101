# SPDX-License-Identifier: Apache-2.0
"""Checks of files and tables that validation is made of, and what they found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pandera.errors import SchemaErrors

from ..schemas.archive import ATLAS_FILE, PARQUET, STORE
from ..schemas.errors import ArchiveError
from ..schemas.index import check_analysis
from ..schemas.scores import ANALYSIS, SCORE_TABLES
from ..schemas.structures import STRUCTURE_TABLE
from .files import Files
from .hub import sha256_of
from .index import PENDING, canonical, current_state, unseal
from .parquet import read_frame
from .tables import MODELS, read_structures_table

#: Rows from which on a table is looked through for repeated ones before its cells.
MANY = 10_000


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


class TableChecks:
    """Checks of single files and of all tables; faults gather in ``result``.

    Attributes
    ----------
    accounted : set of str
        Files that something vouches for, by path.
    """

    def __init__(self, root: Path, progress: Callable[[str], None]) -> None:
        self.root, self.progress = root, progress
        self.result = Validation()
        self.files = Files(str(root))
        self.accounted: set[str] = {ATLAS_FILE}

    def fault(self, text: str) -> None:
        """One line more."""
        self.result.faults.append(str(ArchiveError(text)))  # one line, nothing that steers

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
        listed = {}
        try:
            data = self.files.read(ANALYSIS)
            record = unseal(data, where=ANALYSIS, mend="run matteratlas analyze again")
            if data != canonical(record):
                self.fault(f"{ANALYSIS}: not as it was written; run matteratlas analyze again")
            check_analysis(record, where=ANALYSIS, mend="run matteratlas analyze again")
            listed = dict(record["tables"])
        except ArchiveError as error:
            tables = sorted((self.root / "scores").glob("*.parquet"))
            if (self.root / ANALYSIS).exists():
                self.fault(str(error).removeprefix(f"{self.root}/"))
            for path in tables:
                self.fault(
                    f"scores/{path.name}: no {ANALYSIS} vouches for it; run matteratlas analyze"
                )
                self.accounted.add(f"scores/{path.name}")
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
            read = read_structures_table if name.startswith("structures/") else read_frame
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
        """A table against its pandera schema; a few failures of each check."""
        try:
            # First, for it is cheap: one row a million times is not looked at cell by cell.
            own = [c for c in schema.unique or () if c in table]
            if own and len(table) > MANY and table.duplicated(subset=own).sum() > len(table) // 2:
                self.fault(f"{name}: most rows stand in it twice; fetch or build it again")
                return
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
        except (TypeError, ValueError, AttributeError, LookupError, MemoryError) as error:
            # Cells of a kind that the schema's own checks cannot be asked about.
            text = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            self.fault(f"{name}: not the table it should be ({text}); fetch or build it again")
