# SPDX-License-Identifier: Apache-2.0
"""``matteratlas sweep``: scores of some models at several numbers of rows and of neighbours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .console import ProgressReporter, emit_json, emit_table
from .schemas.errors import ArchiveError, AtlasError

sweep_app = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def _names(values: list[str] | None) -> list[str] | None:
    """Names from repeated options, comma-separated lists, or both."""
    return [v for value in values or [] for v in value.replace(",", " ").split()] or None


def _numbers(values: list[str] | None, option: str) -> list[int] | None:
    names = _names(values)
    try:
        return None if names is None else [int(name) for name in names]
    except ValueError as error:
        raise AtlasError(f"{option} {','.join(names or [])}: whole numbers are needed") from error


@sweep_app.command(
    epilog="Example: matteratlas sweep out/starter --models chgnet-0.3.0,soap --sizes 50,100 --ks 5"
)
def sweep(
    path: Annotated[str, typer.Argument(help="Atlas folder or URL.", metavar="PATH")],
    models: Annotated[list[str], typer.Option(help="Model ids, comma-separated.")],
    sizes: Annotated[
        list[str] | None,
        typer.Option(help="Numbers of rows, comma-separated; default: 250,500,1000."),
    ] = None,
    ks: Annotated[
        list[str] | None,
        typer.Option(help="Numbers of neighbours, comma-separated; default: 5,10,25."),
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(help="Metrics, comma-separated; default: all.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option(help="Set ids, comma-separated; default: all.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Query over structures, as \"kind == 'crystal'\".")
    ] = None,
    permutations: Annotated[int, typer.Option(min=0, help="Null draws a comparison.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of samples and null draws.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Samples of each size.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Parquet table to write.")] = None,
    as_json: Json = False,
) -> None:
    """Score models on nested samples of their common rows, at each size and neighbour count."""
    import numpy as np

    from .analysis.metrics import METRICS
    from .analysis.sweeps import KS, SIZES
    from .analysis.sweeps import sweep as run
    from .registry.archive import open_atlas
    from .registry.tables import write_table

    names = list(dict.fromkeys(_names(models) or []))
    common = open_atlas(path).aligned(names, sets=_names(sets), where=where)
    if not common.sizes["structure"]:
        raise ArchiveError(f"{path}: {', '.join(names)} embedded no structure in common here")
    rows = {name: common[name].values for name in names}
    finite = np.logical_and.reduce([np.isfinite(x).all(axis=1) for x in rows.values()])
    with ProgressReporter(quiet=as_json) as reporter:
        if not finite.all():
            rows = {name: x[finite] for name, x in rows.items()}
            reporter.note(f"{int((~finite).sum())} rows with vectors not finite are left out")
        table = run(
            rows,
            sizes=_numbers(sizes, "--sizes") or SIZES,
            ks=_numbers(ks, "--ks") or KS,
            metrics=_names(metrics) or METRICS,
            permutations=permutations,
            seed=seed,
            repeats=repeats,
            reporter=reporter,
        )
    if out is not None:
        write_table(table, out)
    if as_json:
        emit_json(json.loads(table.to_json(orient="records", double_precision=15)))
    else:
        emit_table(table.round(4), title="sweep")
