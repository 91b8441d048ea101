# SPDX-License-Identifier: Apache-2.0
"""``matteratlas env``: environments of the families that cannot share the main one."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import pandas as pd
import typer

from .console import emit_json, emit_table
from .schemas.errors import SourceError

env_app = typer.Typer(no_args_is_help=True, help="Environments of models that run on their own.")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Ids = Annotated[list[str] | None, typer.Argument(help="Environment ids.", metavar="[ID]...")]


@env_app.command("prepare", epilog="Example: matteratlas env prepare hienet")
def env_prepare(
    ids: Ids = None,
    retry: Annotated[bool, typer.Option(help="Try again what failed before.")] = False,
    as_json: Json = False,
) -> None:
    """Make environments (all, or those named). Exits 9 if one cannot be made; the others are."""
    from .builders.environments import prepare
    from .registry.environment_cards import environment, environments

    cards = [environment(i) for i in ids] if ids else list(environments().values())
    rows: list[dict[str, Any]] = []
    failed = False
    for card in cards:
        print(f"{card.id}: preparing", file=sys.stderr)
        try:
            made = prepare(card, retry=retry)
        except SourceError as error:
            failed = True
            rows.append({"id": card.id, "state": "failed", "reason": str(error)})
            continue
        rows.append(
            {
                "id": made.id, "state": made.state, "megabytes": made.megabytes,
                "seconds": made.seconds, "folder": str(made.folder),
            }
        )  # fmt: skip
    emit_json(rows) if as_json else emit_table(pd.DataFrame(rows).convert_dtypes())
    if failed:
        raise typer.Exit(9)


@env_app.command("list", epilog="Example: matteratlas env list --json")
def env_list(as_json: Json = False) -> None:
    """List every environment: state, size, packages, models, and why it is apart."""
    from .builders.environments import environment_state
    from .registry.catalog import models
    from .registry.environment_cards import environments

    users = [m.isolation for m in models().values()]
    rows = []
    for card in environments().values():
        state = environment_state(card)
        rows.append(
            {
                "id": card.id,
                "state": state.state,
                "megabytes": state.megabytes,
                "models": users.count(card.id),
                "packages": " ".join(f"{n}=={v}" for n, v in state.packages.items()),
                "apart": state.reason or card.apart,
            }
        )
    emit_json(rows) if as_json else emit_table(pd.DataFrame(rows).convert_dtypes())


@env_app.command("clean", epilog="Example: matteratlas env clean hienet")
def env_clean(
    ids: Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    as_json: Json = False,
) -> None:
    """Remove environments: those named, all, or by default those no card describes any more."""
    from .builders.environments import clean
    from .registry.environment_cards import environment

    for environment_id in ids or []:
        environment(environment_id)
    gone = [str(p) for p in clean(ids or None, everything=everything)]
    emit_json(gone) if as_json else print("\n".join(gone) or "nothing to remove")
