# SPDX-License-Identifier: Apache-2.0
"""``matteratlas gaps``: the gaps of the last analysis with their evidence, proven ones first."""

from __future__ import annotations

import json
import sys
import textwrap
from typing import Annotated, Any

import pandas as pd
import typer

from .console import emit_json
from .schemas.errors import AtlasError

gaps_app = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]

#: False discovery rate below which a tested gap counts as proven, as the analysis holds it.
_LEVEL = 0.05


@gaps_app.command(epilog="Example: matteratlas gaps out/starter --kind coverage --top 10")
def gaps(
    path: Annotated[str, typer.Argument(help="Atlas folder or URL.", metavar="PATH")],
    kind: Annotated[
        str | None,
        typer.Option(
            help="coverage, agreement, distribution, density, retention or collapse; default: all."
        ),
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Only regions whose name holds this, such as element:Li.")
    ] = None,
    structure_set: Annotated[
        str | None, typer.Option("--set", help="Only gaps of this set and of its strata.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows of each kind.")] = 10,
    as_json: Json = False,
) -> None:
    """List the gaps found by the last analysis: proven, then counted, most severe first."""
    from .registry.archive import open_atlas

    atlas = open_atlas(path)
    table = atlas.table("scores/gaps.parquet")
    kinds = list(dict.fromkeys(table["kind"]))
    if kind is not None and kind not in kinds:
        raise AtlasError(f"--kind {kind}: this atlas has gaps of kind {', '.join(kinds)}")
    if structure_set is not None and structure_set not in atlas.set_ids:
        raise AtlasError(f"--set {structure_set}: this atlas has {', '.join(atlas.set_ids)}")
    table = table.assign(state=_states(table)).sort_values(["kind", "rank"], kind="stable")
    if kind is not None:
        table = table[table["kind"] == kind]
    if region is not None:
        table = table[table["region"].str.contains(region, regex=False)]
    if structure_set is not None:
        table = table[_of_set(table, structure_set)]
    totals = table.groupby("kind")["state"].value_counts()
    shown = table.groupby("kind", sort=False).head(top)
    if as_json:
        emit_json(json.loads(shown.to_json(orient="records")))
        return
    if shown.empty:
        print("no gap of this description")
    width = 100 if sys.stdout.isatty() else 10**6
    for name in [k for k in kinds if k in set(shown["kind"])]:
        part = shown[shown["kind"] == name]
        states = (s for s in ("proven", "counted", "not proven") if (name, s) in totals.index)
        print(f"{name}: {', '.join(f'{totals[name, s]} {s}' for s in states)}")
        for row in part.to_dict("records"):
            print("\n".join(_lines(row, width)))


def _states(table: pd.DataFrame) -> pd.Series:
    """``proven``: passed its test; ``counted``: nothing was tested; ``not proven``."""
    states = pd.Series("not proven", index=table.index)
    states[table["p_value"].isna()] = "counted"
    states[(table["q_value"] < _LEVEL) & (table["severity"] > 0)] = "proven"
    return states


def _of_set(table: pd.DataFrame, name: str) -> pd.Series:
    """Gaps whose region is a stratum of the set, or whose scope or selection it is."""
    selection = table["selection"].fillna("").astype(str)
    return (
        table["region"].str.startswith(f"{name}:")
        | selection.str.startswith(f"{name}~")
        | selection.str.startswith(f"{name}:")
    )


def _lines(row: dict[Any, Any], width: int) -> list[str]:
    """A gap in two lines or more: what and how sure, then its evidence."""
    about = [f"severity {row['severity']:.2f}", str(row["state"])]
    if pd.notna(row["q_value"]):
        about.append(f"q = {row['q_value']:.2g}")
    where = [str(row[c]) for c in ("model", "selection") if pd.notna(row[c])]
    name = f"{row['rank']:>4}. {row['region']}  {row['statistic']}"
    head = f"{name} [{', '.join(where)}]" if where else name
    evidence = textwrap.wrap(
        str(row["evidence"]), width, initial_indent=" " * 6, subsequent_indent=" " * 6
    )
    return [f"{head}  ({', '.join(about)})", *evidence]
