# SPDX-License-Identifier: Apache-2.0
"""Two pages in Markdown: the figures with their tables, and the claims with what was found."""

from __future__ import annotations

from collections.abc import Sequence

from ...registry.replies import redacted
from .claims import Verdict
from .figure import Figure
from .study import Study

STUDY = "arXiv:2512.03750"


def figures_page(study: Study, figures: Sequence[Figure]) -> str:
    """Every figure made, and those that were not with the reason."""
    made = [f for f in figures if not f.reason]
    lines = [
        f"# The figures of {STUDY}, made anew",
        "",
        _source(study),
        "",
        f"{len(made)} of {len(figures)} figures. Each has a table with every number it shows.",
        "",
    ]
    for figure in figures:
        lines += [f"## {figure.number}: {figure.title}", ""]
        if figure.reason:
            lines += [f"Not made: {figure.reason}.", ""]
            continue
        lines += [figure.caption, ""]
        if figure.chart is not None:
            lines += [f"![{figure.title}]({figure.stem}.svg)", ""]
            lines += [f"[PDF]({figure.stem}.pdf) · [table]({figure.stem}.csv)", ""]
        else:
            lines += [f"[table]({figure.stem}.csv)", ""]
    return "\n".join(lines)


def claims_page(study: Study, verdicts: Sequence[Verdict]) -> str:
    """The study's claims one by one."""
    lines = [
        f"# What {STUDY} says, and what this atlas finds",
        "",
        _source(study),
        "",
        "The models and structures differ from the study's, so agreement is support, and "
        "disagreement a question, not a refutation. Intervals are 95 %; pairs share models, which "
        "makes intervals over pairs too narrow.",
        "",
        "| the study says | in | here | evidence |",
        "|---|---|---|---|",
    ]
    for v in verdicts:
        cells = (v.claim.statement, v.claim.where, f"**{v.finding}**", v.evidence)
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join([*lines, ""])


def _source(study: Study) -> str:
    atlas = study.atlas
    structures = int(atlas.structures["id"].nunique())
    name = redacted(atlas.location).rstrip("/").rsplit("/", 1)[-1]
    return (
        f"From the atlas `{name}` ({atlas.version}): {len(study.models)} models, {structures} "
        f"structures of {len(atlas.set_ids)} sets."
    )
