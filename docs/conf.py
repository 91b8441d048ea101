# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration: Diataxis pages in MyST Markdown, API from docstrings."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

project = "MatterAtlas"
author = "The MatterAtlas developers"
release = metadata.version("matteratlas")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "MatterAtlas"
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
suppress_warnings = ["myst.xref_missing"]


def _write_cli_reference(_app: object) -> None:
    """Every command's own help, so that the page cannot disagree with the program."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from matteratlas.cli import app

    runner, lines = CliRunner(), ["# Command line", ""]
    lines += ["Results go to standard output, progress to standard error. Exit codes:", ""]
    lines += ["| code | meaning |", "|---|---|", "| 0 | done |"]
    from matteratlas.schemas import errors

    kinds = {e.exit_code: (e.__doc__ or "").splitlines()[0] for e in vars(errors).values()
             if isinstance(e, type) and issubclass(e, errors.AtlasError)}  # fmt: skip
    lines += [f"| {code} | {text} |" for code, text in sorted(kinds.items())]
    lines += ["| 9 | Some unit of a build failed; the rest is complete. |"]
    lines += ["| 130 | Interrupted; complete units are kept. |", ""]

    def describe(command: list[str], node: object) -> None:
        children = getattr(node, "commands", {})
        if not children:
            text = runner.invoke(app, [*command, "--help"], env={"TERM": "dumb", "COLUMNS": "96"})
            lines.extend([f"## matteratlas {' '.join(command)}", "", "```text"])
            lines.extend(line.rstrip() for line in text.output.strip().splitlines())
            lines.extend(["```", ""])
        for name, child in children.items():
            describe([*command, name], child)

    describe([], get_command(app))
    target = Path(__file__).parent / "reference" / "cli.md"
    text = "\n".join(lines) + "\n"
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")


def setup(app: object) -> None:
    """Sphinx hook."""
    app.connect("builder-inited", _write_cli_reference)  # type: ignore[attr-defined]
