# SPDX-License-Identifier: Apache-2.0
"""``matteratlas pull`` and ``matteratlas push``: atlases to and from the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import ProgressReporter, emit_json

hub_app = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def _names(values: list[str] | None) -> list[str] | None:
    """Names from repeated options, comma-separated lists, or both."""
    return [v for value in values or [] for v in value.replace(",", " ").split()] or None


@hub_app.command(epilog="Example: matteratlas pull ORG/NAME@v1.0.0 --models mat2vec --sets g2")
def pull(
    source: Annotated[
        str,
        typer.Argument(
            help="ORG/NAME of the Hub, with @TAG, @COMMIT, @BRANCH, @latest or @stable; or a URL.",
            metavar="SOURCE",
        ),
    ],
    models: Annotated[
        list[str] | None, typer.Option(help="Model ids, comma-separated; default: all.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option(help="Set ids, comma-separated; default: all.")
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="Layers, comma-separated; 'default' is each model's. Default: all."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; default: one in $MATTERATLAS_CACHE.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Fetch a release, or a part of it; goes on where it stopped, moves nothing twice."""
    from .registry.pull import pull as run

    with ProgressReporter(quiet=as_json) as reporter:
        report = run(
            source,
            models=_names(models),
            sets=_names(sets),
            layers=_names(layers),
            out=out,
            dry_run=dry_run,
            reporter=reporter,
        )
    emit_json(report.summary()) if as_json else print(report.text())


@hub_app.command(epilog="Example: matteratlas push out/releases/1.0.0 ORG/NAME --create")
def push(
    release: Annotated[Path, typer.Argument(help="Release folder.", metavar="RELEASE")],
    dataset: Annotated[str, typer.Argument(help="Dataset of the Hub.", metavar="ORG/NAME")],
    create: Annotated[bool, typer.Option("--create", help="Make it if absent.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make it for members only.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Publish a release: changed files in one commit, then the tag; never over another's push."""
    from .registry.push import push as run

    with ProgressReporter(quiet=as_json) as reporter:
        report = run(
            release, dataset, create=create, private=private, dry_run=dry_run, reporter=reporter
        )
    emit_json(report.summary()) if as_json else print(report.text())
