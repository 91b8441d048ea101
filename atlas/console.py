# SPDX-License-Identifier: Apache-2.0
"""What the command line prints: bars on a terminal, plain lines elsewhere, JSON for machines."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

#: Plain progress lines are at least this far apart, in seconds.
_PLAIN_EVERY = 10.0


class ProgressReporter:
    """Shows stages of long work on standard error; results go to standard output."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)
        self._bars = self._console.is_terminal and not quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[last]}"),
            console=self._console,
        )
        self._task: Any = None
        self._name, self._total, self._done, self._printed = "", 0, 0, 0.0

    def __enter__(self) -> ProgressReporter:
        if self._bars:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars:
            self._progress.stop()

    def stage(self, name: str, total: int) -> None:
        """A stage with ``total`` steps begins."""
        self._name, self._total, self._done = name, total, 0
        self._printed = time.monotonic()
        if self._bars:
            self._task = self._progress.add_task(name, total=total, last="")
        elif not self._quiet:
            print(f"{name}: 0/{total}", file=sys.stderr, flush=True)

    def advance(self, what: str, steps: int) -> None:
        """``steps`` more of the current stage are done."""
        self._done += steps
        if self._bars:
            self._progress.update(self._task, advance=steps, last=what)
            return
        late = time.monotonic() - self._printed > _PLAIN_EVERY
        if not self._quiet and (late or self._done >= self._total):
            self._printed = time.monotonic()
            line = f"{self._name}: {self._done}/{self._total} ({what})"
            print(line, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """One line for the user."""
        if self._bars:
            self._progress.console.print(text, markup=False)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)


def emit_json(content: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(content, indent=1, default=str))


def emit_table(table: pd.DataFrame, *, title: str | None = None) -> None:
    """A table on standard output: drawn on a terminal, tab-separated when piped."""
    if not sys.stdout.isatty():
        print(table.to_csv(sep="\t", index=False), end="")
        return
    drawn = Table(title=title)
    for name in table.columns:
        numeric = pd.api.types.is_numeric_dtype(table[name])
        drawn.add_column(str(name), justify="right" if numeric else "left")
    for row in table.itertuples(index=False):
        drawn.add_row(*("" if _absent(v) else str(v) for v in row))
    Console().print(drawn)


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)
