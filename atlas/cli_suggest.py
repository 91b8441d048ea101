# SPDX-License-Identifier: Apache-2.0
"""``matteratlas suggest``: which structures of a pool to add next, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import ProgressReporter, emit_json, emit_table
from .schemas.errors import AtlasError

if TYPE_CHECKING:
    from .analysis.acquire.suggest import Rows
    from .registry.archive import Atlas

suggest_app = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]

#: Pool of crystals made here; families may follow behind a colon.
GENERATED = "generated"


@suggest_app.command(epilog="Example: matteratlas suggest out/starter --pool my-cifs --top 20")
def suggest(
    path: Annotated[Path, typer.Argument(help="Analysed atlas folder.", metavar="PATH")],
    pool: Annotated[
        str,
        typer.Option(
            help="Atlas folder; set of PATH, taken as not known; folder of structure files or a "
            "SMILES list; or 'generated[:FAMILY,...]'."
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Structures wanted.")] = 20,
    model: Annotated[
        str | None, typer.Option(help="Model whose chart to choose in; default: a fit one.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="Close gaps of this kind only: coverage, agreement, density ..."),
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Close gaps of this region only, as 'gaps' lists it.")
    ] = None,
    cost: Annotated[
        str, typer.Option(help="Divide gains by: atoms, time (of the model), none.")
    ] = "none",
    method: Annotated[
        str, typer.Option(help="gap_driven, facility, k_centre or random.")
    ] = "gap_driven",
    seed: Annotated[int, typer.Option(min=0, help="Of random and of generated crystals.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Parquet table; default: suggestions.parquet in the working folder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Rank a diverse batch of structures to add, each with the gap it closes."""
    from .analysis.acquire.acquisition import METHODS
    from .analysis.acquire.suggest import COSTS, rows_of, run_record
    from .analysis.acquire.suggest import suggest as run
    from .registry.archive import open_atlas
    from .registry.tables import write_table

    if method not in METHODS:
        raise AtlasError(f"--method {method} is not known; use {', '.join(METHODS)}")
    if cost not in COSTS:
        raise AtlasError(f"--cost {cost} is not known; use {', '.join(COSTS)}")
    target = out or Path("suggestions.parquet")
    if target.resolve().is_relative_to(path.resolve()):
        raise AtlasError(f"{target}: an atlas does not hold suggestions; write them outside {path}")
    atlas = open_atlas(path)
    gaps = atlas.table("scores/gaps.parquet")
    with ProgressReporter(quiet=as_json) as reporter:
        own = pool in atlas.set_ids
        chosen, candidates = _pool(atlas, pool, model, seed, reporter)
        known = [s for s in atlas.set_ids if s != pool] if own else None
        if known == []:
            raise AtlasError(f"{path}: holds no set but '{pool}', so nothing would be known")
        held = rows_of(atlas, chosen, name=str(path), sets=known)
        for note in candidates.notes:
            reporter.note(note)
        table = run(
            held,
            candidates,
            gaps,
            model=chosen,
            release=atlas.version,
            top=top,
            kind=kind,
            region=region,
            cost=cost,  # type: ignore[arg-type]
            run=run_record(atlas, chosen) if cost == "time" else None,
            method=method,  # type: ignore[arg-type]
            seed=seed,
        )
    write_table(table, target)
    if as_json:
        rows = json.loads(table.to_json(orient="records", double_precision=15))
        emit_json({"out": str(target), "model": chosen, "pool": candidates.name, "picks": rows})
        return
    emit_table(table[["rank", "formula", "set", "cost", "score", "reason"]], title=f"add to {path}")
    in_gaps = int(table["region"].notna().sum())
    print(
        f"{len(table)} of {top} asked for, {in_gaps} of them in open gaps, chosen in the space of "
        f"{chosen}; {target}"
    )


def _pool(
    atlas: Atlas, pool: str, model: str | None, seed: int, reporter: ProgressReporter
) -> tuple[str, Rows]:
    """The model to choose with, and the candidates in its chart."""
    from .analysis.acquire.suggest import choose_model, rows_of
    from .builders.pool import pool_of_files
    from .builders.structures.generated import FAMILIES, generated_pool
    from .registry.archive import open_atlas
    from .schemas.archive import ATLAS_FILE

    held = list(atlas.index["models"])
    if model is not None and model not in held:
        raise AtlasError(f"--model {model}: {atlas.location} holds {', '.join(held)}")
    if pool in atlas.set_ids:
        kinds = set(atlas.structures.loc[atlas.structures["set"] == pool, "kind"])
        among = {m for m in held if pool in atlas.index["models"][m]["units"]}
        chosen = model or choose_model(atlas, kinds, among=among)
        return chosen, rows_of(atlas, chosen, name=pool, sets=[pool], geometries=True)
    if (Path(pool) / ATLAS_FILE).exists():
        other = open_atlas(pool)
        among = set(held) & set(other.index["models"])
        chosen = model or choose_model(atlas, set(other.structures["kind"]), among=among)
        return chosen, rows_of(other, chosen, name=pool, geometries=True)
    name, _, families = pool.partition(":")
    files = Path(pool)
    if name == GENERATED and not files.exists():
        wanted = [f for f in families.replace(",", " ").split() if f] or list(FAMILIES)
        files = generated_pool(wanted, seed=seed)
    elif not files.exists():
        raise AtlasError(
            f"--pool {pool}: no set of {atlas.location}, no folder or file, and not '{GENERATED}'; "
            "a set that is not embedded yet: matteratlas build --sets ... and give its folder"
        )
    found = pool_of_files(files)
    chosen = model or choose_model(atlas, set(found.structures["kind"]), among=held)
    found.embed([chosen], reporter=reporter)
    rows = rows_of(open_atlas(found.root), chosen, name=str(files), geometries=True)
    left = [str(reason) for reason in found.rejected["reason"]]
    rows.notes.extend(f"left out: {reason}" for reason in left)
    return chosen, rows
