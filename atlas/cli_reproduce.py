# SPDX-License-Identifier: Apache-2.0
"""``matteratlas reproduce``: the study's figures and claims from an atlas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from .console import ProgressReporter, emit_json, emit_table

reproduce_app = typer.Typer()


@reproduce_app.command(epilog="Example: matteratlas reproduce out/starter --out out/study")
def reproduce(
    path: Annotated[str, typer.Argument(help="Analysed atlas, folder or URL.", metavar="PATH")],
    out: Annotated[Path, typer.Option(help="Folder for figures, tables and pages.")] = Path(
        "out/study"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on standard output.")
    ] = False,
) -> None:
    """Make the figures of arXiv:2512.03750 anew (SVG, PDF, CSV), and judge its claims."""
    from .analysis.reproduce import reproduce as run

    with ProgressReporter(quiet=as_json) as reporter:
        figures, verdicts = run(path, out=out, reporter=reporter)
    if as_json:
        emit_json(
            {
                "out": str(out),
                "figures": [
                    {
                        "number": f.number,
                        "title": f.title,
                        "rows": None if f.table is None else len(f.table),
                        "reason": f.reason or None,
                    }
                    for f in figures
                ],
                "claims": [
                    {
                        "claim": v.claim.key,
                        "statement": v.claim.statement,
                        "where": v.claim.where,
                        "finding": v.finding,
                        "evidence": v.evidence,
                    }
                    for v in verdicts
                ],
            }
        )
        return
    emit_table(
        pd.DataFrame([(v.claim.key, v.finding, v.evidence) for v in verdicts],
                     columns=["claim", "finding", "evidence"]),
        title="claims",
    )  # fmt: skip
    made = sum(not f.reason for f in figures)
    print(f"{made} of {len(figures)} figures: {out / 'figures.md'}; claims: {out / 'claims.md'}")
