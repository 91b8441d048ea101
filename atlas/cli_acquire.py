# SPDX-License-Identifier: Apache-2.0
"""``matteratlas sets add``, ``locate`` and ``expand``: one's own structures, and more of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from .console import ProgressReporter, emit_json, emit_table

acquire_app = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Column = Annotated[
    str | None, typer.Option(help="Column of SMILES in .csv and .tsv; default: 'smiles'.")
]


def _names(values: list[str] | None) -> list[str] | None:
    """Names from repeated options, comma-separated lists, or both."""
    return [v for value in values or [] for v in value.replace(",", " ").split()] or None


def sets_add(
    name: Annotated[str, typer.Argument(help="Id of the set.", metavar="NAME")],
    source: Annotated[
        Path, typer.Option("--from", help="Folder of structure files, one file, or SMILES list.")
    ],
    stratum: Annotated[
        str | None, typer.Option(help="Of all rows; default: their folder's name.")
    ] = None,
    domains: Annotated[
        list[str] | None,
        typer.Option(help="Of all rows, comma-separated; default: from kind and elements."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(help="SPDX expression; without one atlases keep the coordinates back."),
    ] = None,
    column: Column = None,
    as_json: Json = False,
) -> None:
    """Make a structure set of your own files; run it again to make its next version."""
    from .builders.structures.brought import bring

    made = bring(
        source,
        name=name,
        stratum=stratum,
        domains=_names(domains),
        licence=licence,
        column=column,
    )
    if as_json:
        emit_json(
            {
                "card": made.card.model_dump(mode="json"),
                "folder": str(made.folder),
                "outcome": made.outcome,
                "rejected": made.rejected,
                "duplicates": made.duplicates,
                "passed_over": made.passed_over,
            }
        )
        return
    for reason in made.rejected.values():
        print(f"left out: {reason}")
    strata = ", ".join(f"{n} {k}" for k, n in ((k, s.count) for k, s in made.card.strata.items()))
    print(
        f"{made.card.id} {made.card.version} ({made.outcome}): {made.card.count} structures "
        f"({strata}); {len(made.rejected)} left out, {len(made.duplicates)} repeats, "
        f"{len(made.passed_over)} other files; {made.folder}"
    )
    print(f"then run: matteratlas build --sets {made.card.id} --out FOLDER")


@acquire_app.command(
    epilog="Example: matteratlas locate out/starter --structures my-cifs --out where.csv"
)
def locate(
    path: Annotated[str, typer.Argument(help="Atlas folder or URL.", metavar="PATH")],
    structures: Annotated[
        Path, typer.Option(help="Folder of structure files, one file, or a list of SMILES.")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "--models", help="Models of the atlas, comma-separated; default: one a kind."
        ),
    ] = None,
    nearest: Annotated[int, typer.Option(min=1, help="Known structures told with each.")] = 3,
    column: Column = None,
    out: Annotated[Path | None, typer.Option(help="CSV to write.")] = None,
    as_json: Json = False,
) -> None:
    """Tell where your structures fall: covered, gap or unknown, with what is known nearby."""
    from .locate import locate_files

    with ProgressReporter(quiet=as_json) as reporter:
        found = locate_files(
            path,
            structures,
            models=_names(model),
            column=column,
            count=nearest,
            reporter=reporter,
        )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        found.table.to_csv(out, index=False)
    if as_json:
        emit_json(found.summary())
        return
    table = found.table
    shown = pd.DataFrame(
        {
            "structure": table["source_id"],
            "status": table["status"],
            "p": table["p_value"].round(3),
            "distance": table["distance"].round(4),
            "times": table["relative"].round(2),
            "nearest": table["nearest_name"].fillna(""),
            "in": (table["nearest_set"] + ":" + table["nearest_stratum"]).fillna(""),
            "why": table["reason"],
            "model": table["model"].fillna(""),
        }
    )
    emit_table(shown, title=f"where {structures} falls in {path}")
    for row in found.rejected.itertuples():
        print(f"left out: {row.reason}")
    for row in found.duplicates.itertuples():
        print(f"repeat: {row.source_id} is {row.kept}")
    counts = ", ".join(f"{n} {status}" for status, n in found.counts.items())
    print(f"{counts}; {len(found.rejected)} left out, {len(found.duplicates)} repeats")


@acquire_app.command(
    epilog="Example: matteratlas expand out/starter --suggestions picks.parquet --top 20"
)
def expand(
    path: Annotated[Path, typer.Argument(help="Atlas folder, not a release.", metavar="PATH")],
    suggestions: Annotated[
        Path | None, typer.Option(help="Parquet or CSV with a column 'id', as suggest writes it.")
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(help="Where they are to be had: set, atlas, folder of files, or list."),
    ] = None,
    ids: Annotated[list[str] | None, typer.Option(help="Ids, comma-separated.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="First so many suggestions.")] = None,
    name: Annotated[
        str, typer.Option("--set", help="Set that takes them: new, or your own, which grows.")
    ] = "expansion",
    models: Annotated[
        list[str] | None, typer.Option(help="Ids, comma-separated; default: all of the atlas.")
    ] = None,
    permutations: Annotated[
        int | None, typer.Option(min=0, help="Null draws; default: as the last analysis.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Local processes; 0 = this one.")] = 0,
    as_json: Json = False,
) -> None:
    """Add picked structures, embed the new ones, analyse again; the gaps before and after."""
    from .expand import expand as run

    with ProgressReporter(quiet=as_json) as reporter:
        report = run(
            path,
            suggestions=suggestions,
            pool=pool,
            ids=_names(ids),
            top=top,
            name=name,
            models=_names(models),
            workers=workers,
            parameters={} if permutations is None else {"permutations": permutations},
            reporter=reporter,
        )
    if as_json:
        emit_json(report.summary())
    else:
        emit_table(report.gaps.head(20).round(4), title="gaps before and after")
        print(
            f"{report.card.id} {report.card.version} ({report.outcome}): {len(report.added)} "
            f"structures added, {len(report.known)} were in the atlas; {report.embedded} vectors "
            f"embedded, {report.carried} carried over; {len(report.gaps)} gaps concerned"
        )
        for model, error in report.failed.items():
            print(f"{model} failed: {error}")
    if report.failed:
        raise typer.Exit(9)
