# SPDX-License-Identifier: Apache-2.0
"""A new contributor who has docs/how-to/add-a-model.md and nothing else."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from typer.testing import CliRunner

from matteratlas.cli import app
from matteratlas.schemas.errors import AtlasError

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "add-a-model.md"


def blocks(language: str) -> list[str]:
    """Code blocks of the page in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def command(name: str) -> list[str]:
    """Arguments of the page's command of this name."""
    lines = [line for kind in ("console", "text") for b in blocks(kind) for line in b.splitlines()]
    (found,) = [x for x in lines if re.match(rf"(\$ )?matteratlas {name} \S*[-/\d]", x)]
    return found.removeprefix("$ ").split()[1:]


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and output of ``matteratlas``, as its ``main`` gives them."""
    done = CliRunner().invoke(app, list(arguments))
    if isinstance(done.exception, AtlasError):
        return done.exception.exit_code, f"matteratlas: {done.exception}"
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def fill_card(path: Path, lines: Sequence[str]) -> None:
    """Put the given lines in place of those with the same key, nothing else."""
    text = path.read_text(encoding="utf-8")
    for line in lines:
        key = re.match(r"\s*(- )?\w+:", line)
        assert key is not None
        pattern = rf"^{re.escape(key[0])} .*CHOOSE.*$"
        assert len(re.findall(pattern, text, re.M)) == 1, line
        text = re.sub(pattern, lambda _, new=line: new, text, flags=re.M)
    path.write_text(text, encoding="utf-8")


def write_by_the_page(folder: Path) -> int:
    """Write what the page says into a scaffold; lines of the contributor's own."""
    before = {p: p.read_text(encoding="utf-8") for p in folder.iterdir()}
    card, adapter, test = (folder / n for n in (
        "autocorr2d.yaml", "autocorrelation.py", "test_autocorrelation.py"))  # fmt: skip
    fill_card(card, blocks("yaml")[0].splitlines())
    python_class, docstring, expected = blocks("py")
    text = before[adapter]
    text = re.sub(r'^"""CHOOSE.*"""\n', lambda _: docstring, text, count=1, flags=re.M)
    adapter.write_text(text[: text.index("class ")] + python_class, encoding="utf-8")
    start, stop = before[test].index("def expected"), before[test].index("\n\ndef test_")
    test.write_text(before[test][:start] + expected + before[test][stop:], encoding="utf-8")
    return sum(
        line.startswith("+ ") and bool(line[2:].strip())
        for path, old in before.items()
        for line in difflib.ndiff(old.splitlines(), path.read_text("utf-8").splitlines())
    )
