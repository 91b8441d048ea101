# SPDX-License-Identifier: Apache-2.0
"""``matteratlas scorecard``: what the last analysis says of each model, or all it says of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import emit_json, emit_table
from .schemas.errors import AtlasError

if TYPE_CHECKING:
    import pandas as pd

scorecard_app = typer.Typer()

#: Columns of the overview -> measure, region; where no region is named, the mean over all.
OVERVIEW = {
    "crystals": ("alignment_local", "crystals"),
    "molecules": ("alignment_local", "molecules"),
    "proteins": ("alignment_local", "proteins"),
    "best": ("best_performer_local", None),
    "out/in": ("distribution_local", None),
    "cues kept": ("cue_retention", None),
    "maps from": ("transfer_from", None),
    "maps to": ("transfer_to", None),
    "probes": ("probe_transfer", None),
    "elements": ("elements", "atlas"),
    "rank share": ("mean_rank_share", "all"),
}


@scorecard_app.command(epilog="Example: matteratlas scorecard out/starter --model sevennet-0")
def scorecard(
    path: Annotated[str, typer.Argument(help="Atlas folder or URL.", metavar="PATH")],
    model: Annotated[str | None, typer.Option(help="One model: every measure, a verdict.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on standard output.")
    ] = False,
) -> None:
    """Is it a foundation model of matter? Measures of each model, with intervals and ranks."""
    from .registry.archive import open_atlas

    table = open_atlas(path).table("scores/scorecard.parquet")
    if model is not None:
        if model not in set(table["model"]):
            raise AtlasError(
                f"--model {model}: no card in {path}; choose from "
                f"{', '.join(dict.fromkeys(table['model']))}"
            )
        table = table[table["model"] == model]
    costs = milliseconds(Path(path))
    if as_json:
        cards = json.loads(table.to_json(orient="records", double_precision=15))
        emit_json({"path": path, "scorecard": cards, "ms_per_structure": costs})
    elif model is None:
        emit_table(overview(table, costs), title="scorecard")
    else:
        shown = table[table["measure"] != "verdict"]
        columns = ["measure", "region", "value", "low", "high", "n", "rank", "of", "note"]
        whole = dict.fromkeys(("n", "rank", "of"), "Int64")
        emit_table(shown[columns].astype(whole).round(3), title=model)
        for note in table.loc[table["measure"] == "verdict", "note"]:
            print(f"{model}: {note}")
        if model in costs:
            print(f"{model}: {costs[model]:.1f} ms per structure when this atlas was built")


def overview(table: pd.DataFrame, costs: dict[str, float]) -> pd.DataFrame:
    """One row a model, best mean rank first; ``value [low, high]``, empty where there is none."""
    import pandas as pd

    rows = []
    for name, card in table.groupby("model", sort=False):
        row: dict[str, object] = {"model": name, "ranked": bool(card["ranked"].iloc[0])}
        for column, (measure, region) in OVERVIEW.items():
            own = card[(card["measure"] == measure) & card["value"].notna()]
            own = own if region is None else own[own["region"] == region]
            row[column] = told(own)
        shares = card.loc[card["measure"] == "mean_rank_share", "value"]
        row["_order"] = float(shares.iloc[0]) if len(shares) else float("nan")
        row["ms"] = f"{costs[str(name)]:.1f}" if name in costs else ""
        rows.append(row)
    if not rows:
        return pd.DataFrame(columns=["model", "ranked", *OVERVIEW, "ms"])
    made = pd.DataFrame(rows)
    made = made.sort_values(
        ["ranked", "_order"], ascending=[False, False], kind="stable", na_position="last"
    ).drop(columns="_order")
    filled = [c for c in made.columns if not (made[c] == "").all()]
    return made[filled].reset_index(drop=True)


def told(rows: pd.DataFrame) -> str:
    """Value and interval, means where there are several regions; counted shares have none."""
    if rows.empty:
        return ""
    value, low, high = (float(rows[c].mean()) for c in ("value", "low", "high"))
    text = f"{value:.2f}"
    if low == low and (low, high) != (value, value):
        text += f" [{low:.2f}, {high:.2f}]"
    return text if len(rows) == 1 else f"{text} of {len(rows)}"


def milliseconds(root: Path) -> dict[str, float]:
    """Time a structure by model, over all sets, from ``runs/``; releases and URLs have none.

    The time hangs on the machine and is no score, so that no score table holds it.
    """
    found: dict[str, float] = {}
    for file in sorted((root / "runs").glob("*.json")):
        try:
            sets = json.loads(file.read_text())["sets"].values()
            done = [s for s in sets if s["embedded"] and s["model_seconds"] is not None]
            count = sum(s["embedded"] - s["carried"] for s in done)
            seconds = sum(s["model_seconds"] for s in done)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AtlasError(f"{file}: not a record of a run ({error}); delete it") from error
        if count > 0:
            found[file.stem] = 1000.0 * seconds / count
    return found
