# SPDX-License-Identifier: Apache-2.0
"""The command line: ``matteratlas``. Results on standard output, progress on standard error."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from .cli_acquire import acquire_app, sets_add
from .cli_contribute import contribute_app
from .cli_env import env_app
from .cli_gaps import gaps_app
from .cli_hub import hub_app
from .cli_reproduce import reproduce_app
from .cli_scorecard import scorecard_app
from .cli_suggest import suggest_app
from .cli_sweep import sweep_app
from .console import ProgressReporter, emit_json, emit_table
from .schemas.errors import AtlasError

app = typer.Typer(
    name="matteratlas",
    help="The embedding dataset and registry of matter.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(no_args_is_help=True, help="Models the registry knows.")
sets_app = typer.Typer(no_args_is_help=True, help="Structure sets the registry knows.")
app.add_typer(models_app, name="models")
app.add_typer(sets_app, name="sets")
app.add_typer(env_app, name="env")
app.add_typer(contribute_app, name="contribute")
app.add_typer(hub_app)
app.add_typer(gaps_app)
app.add_typer(reproduce_app)
app.add_typer(scorecard_app)
app.add_typer(sweep_app)
app.add_typer(acquire_app)
app.add_typer(suggest_app)
sets_app.command("add", epilog="Example: matteratlas sets add mine --from my-cifs")(sets_add)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
AtlasPath = Annotated[Path, typer.Argument(help="Atlas folder.", metavar="PATH")]


def _split(values: list[str] | None) -> list[str] | None:
    """Names from repeated options, comma-separated lists, or both."""
    names = [v for value in values or [] for v in value.replace(",", " ").split()]
    return names or None


@models_app.command("list", epilog="Example: matteratlas models list --json")
def models_list(as_json: Json = False) -> None:
    """List every model card."""
    from .registry import catalog

    cards = catalog.models().values()
    rows = [
        {
            "id": c.id,
            "family": c.family,
            "modality": c.modality,
            "learned": c.learned,
            "layers": len(c.layers),
            "dim": c.layer().dim,
            "parameters": c.parameters,
            "weights": c.checkpoint.obtained,
            "status": str(catalog.status(c)),
            "licence": c.licence.weights,
            "tested": catalog.status(c).tested,
        }
        for c in cards
    ]
    emit_json(rows) if as_json else emit_table(pd.DataFrame(rows).convert_dtypes())


@models_app.command("show", epilog="Example: matteratlas models show chgnet-0.3.0")
def models_show(model: str, as_json: Json = False) -> None:
    """Show one model card."""
    from .registry import catalog

    _show(catalog.model(model).model_dump(mode="json"), as_json)


@sets_app.command("list", epilog="Example: matteratlas sets list")
def sets_list(as_json: Json = False) -> None:
    """List every structure set."""
    from .registry import catalog

    rows = [
        {
            "id": c.id,
            "version": c.version,
            "kinds": "+".join(c.kinds),
            "strata": len(c.strata),
            "structures": c.count,
            "starter": c.starter,
            "labels": ", ".join(f"{k} [{v.unit}]" for k, v in c.labels.items()),
            "licence": c.licence,
        }
        for c in catalog.structure_sets().values()
    ]
    emit_json(rows) if as_json else emit_table(pd.DataFrame(rows))


@sets_app.command("show", epilog="Example: matteratlas sets show minerals")
def sets_show(structure_set: str, as_json: Json = False) -> None:
    """Show one structure-set card."""
    from .registry import catalog

    _show(catalog.structure_set(structure_set).model_dump(mode="json"), as_json)


def _show(card: dict[str, Any], as_json: bool) -> None:
    import yaml

    emit_json(card) if as_json else print(yaml.safe_dump(card, sort_keys=False, allow_unicode=True))


@app.command(epilog="Example: matteratlas build --sets starter --models sevennet-0,chgnet-0.3.0")
def build(
    models: Annotated[
        list[str] | None,
        typer.Option(
            help="Ids or families, comma-separated; 'starter', or 'all' (default): those whose "
            "weights come with packages. Models from a hub are taken by name, with --download."
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(help="Set ids or 'all': full sets. 'starter' (default): some rows of each."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Atlas folder.")] = Path("out/starter"),
    resume: Annotated[bool, typer.Option(help="Keep complete units; --no-resume redoes.")] = True,
    workers: Annotated[int, typer.Option(min=0, help="Local processes; 0 = this one.")] = 2,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Existing Dask scheduler.", envvar="DASK_SCHEDULER_ADDRESS"),
    ] = None,
    nodes: Annotated[bool, typer.Option(help="Keep atom, residue and token vectors.")] = True,
    precision: Annotated[
        str, typer.Option(help="Stored precision: float32, float16 or bitround-N.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    download: Annotated[
        bool,
        typer.Option(
            "--download", help="Let weights be fetched from a hub.", envvar="MATTERATLAS_DOWNLOADS"
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Embed structure sets with models. Exits 9 if some unit failed; the rest is complete."""
    from .builders.build import build as run

    if download:  # in the environment, so that worker processes have it too
        os.environ["MATTERATLAS_DOWNLOADS"] = "1"
    wanted = _split(sets)
    starter = wanted in (None, ["starter"])
    with ProgressReporter(quiet=as_json) as reporter:
        report = run(
            out,
            models=_split(models),
            sets=None if starter else wanted,
            selection="starter" if starter else "full",
            resume=resume,
            workers=workers,
            scheduler=scheduler,
            keep_nodes=nodes,
            precision=precision,
            device=device,
            reporter=reporter,
        )
    outcomes = pd.Series([u.outcome for u in report.units]).value_counts().to_dict()
    missing: dict[str, int] = {}
    for unit in report.units:
        for reason, n in (unit.missing or {}).items():
            missing[reason] = missing.get(reason, 0) + n
    if as_json:
        emit_json(
            {
                "path": str(out),
                "outcomes": outcomes,
                "structures": report.structures,
                "rejected": report.rejected,
                "duplicates": report.duplicates,
                "linked": report.linked,
                "missing": missing,
                "units": [vars(u) for u in report.units],
            }
        )
    else:
        emit_table(report.counts().reset_index(), title="rows embedded")
        done = ", ".join(f"{n} {k}" for k, n in sorted(outcomes.items()))
        gone = ", ".join(f"{n} {k}" for k, n in sorted(missing.items())) or "none"
        faulty = f"{sum(report.rejected.values())} rejected, {sum(report.duplicates.values())}"
        print(f"units: {done}; rows missing: {gone}; structures: {faulty} duplicate; atlas: {out}")
    if report.failed:
        raise typer.Exit(9)


@app.command(epilog="Example: matteratlas merge out/all out/part-1 out/part-2")
def merge(
    out: Annotated[Path, typer.Argument(help="Atlas folder, new or not.", metavar="OUT")],
    sources: Annotated[list[Path], typer.Argument(help="Atlas folders.", metavar="SOURCE...")],
    as_json: Json = False,
) -> None:
    """Merge atlases built apart: every unit of each, or nothing and the reason."""
    from .builders.merge import merge as run

    with ProgressReporter(quiet=as_json) as reporter:
        report = run(out, sources, reporter=reporter)
    emit_json(report.summary()) if as_json else print(report.text())


@app.command(epilog="Example: matteratlas validate out/starter --deep --recompute 4")
def validate(
    path: AtlasPath,
    deep: Annotated[bool, typer.Option(help="Read every vector too.")] = False,
    recompute: Annotated[
        int, typer.Option(min=0, help="Embed N random rows of each unit anew and compare.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of that sample.")] = 0,
    as_json: Json = False,
) -> None:
    """Check an atlas: schemas, hashes, ids, dims; with --deep every value. Exits 5 on a fault."""
    from .registry.validate import validate as run

    result = run(path, deep=deep)
    again = None
    if recompute and result.ok:
        from .builders.recompute import recompute as rerun

        with ProgressReporter(quiet=as_json) as reporter:
            again = rerun(path, sample=recompute, seed=seed, reporter=reporter)
    ok = result.ok and (again is None or again.ok)
    if as_json:
        content = {**vars(result), "ok": ok}
        emit_json(content if again is None else {**content, "recomputed": again.summary()})
    else:
        for line in [*result.faults, *(f"note: {n}" for n in result.notes)]:
            print(line)
        state = "valid" if result.ok else f"{len(result.faults)} faults"
        print(
            f"{path}: {state} ({result.units} units, {result.rows} rows, {result.files} files "
            f"hashed, {result.tables} tables)"
        )
        if again is not None:
            print(again.text())
    if not ok:
        raise typer.Exit(5)


@app.command(epilog="Example: matteratlas release out/starter --out out/releases")
def release(
    path: AtlasPath,
    out: Annotated[Path, typer.Option(help="Folder of releases.")] = Path("out/releases"),
    version: Annotated[
        str | None, typer.Option(help="Semantic version; default: what the changes call for.")
    ] = None,
    parent: Annotated[
        Path | None, typer.Option(help="Release it grew from; default: the newest in --out.")
    ] = None,
    date: Annotated[
        str | None, typer.Option(help="YYYY-MM-DD for CITATION.cff; default: none.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Freeze an atlas as an immutable, versioned release: manifest, card, croissant, citation."""
    from .builders.release import release as run

    report = run(path, out=out, version=version, parent=parent, date=date)
    emit_json(report.summary()) if as_json else print(report.text())


@app.command(epilog="Example: matteratlas diff out/releases/1.0.0 out/releases/1.1.0")
def diff(
    old: Annotated[str, typer.Argument(help="Atlas or release, folder or URL.", metavar="OLD")],
    new: Annotated[str, typer.Argument(help="Atlas or release, folder or URL.", metavar="NEW")],
    as_json: Json = False,
) -> None:
    """Say what changed in data terms, and which version step that makes."""
    from .registry.diff import diff as run

    found = run(old, new)
    emit_json(found.summary()) if as_json else print(found.text())


@app.command(epilog="Example: matteratlas analyze out/starter --k 10 --permutations 200")
def analyze(
    path: AtlasPath,
    k: Annotated[int, typer.Option(min=1, help="Neighbours.")] = 10,
    permutations: Annotated[int, typer.Option(min=0, help="Null draws a pair.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of subsamples and permutations.")] = 0,
    max_rows: Annotated[int, typer.Option(help="Largest selection; above, a sample.")] = 2000,
    within: Annotated[
        str | None,
        typer.Option(help="Null draws keep to equal values of this column, e.g. formula."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Local processes; 0 = this one.")] = 2,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address or file of a Dask scheduler.", envvar="DASK_SCHEDULER_ADDRESS"),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Keep scores whose inputs are unchanged.")] = True,
    as_json: Json = False,
) -> None:
    """Score every pair of models on every selection, and find the gaps."""
    from .analysis.analyze import analyze as run

    with ProgressReporter(quiet=as_json) as reporter:
        report = run(
            path,
            k=k,
            permutations=permutations,
            seed=seed,
            max_rows=max_rows,
            within=within,
            workers=workers,
            scheduler=scheduler,
            resume=resume,
            reporter=reporter,
        )
    if not report.kept:
        _describe(path)
    emit_json(report.summary()) if as_json else print(report.text())


def _describe(path: Path) -> None:
    """The dataset card of an atlas names its score tables too; analyses do not write cards."""
    from .builders.dataset_card import write_card

    write_card(path)


@app.command(epilog="Example: matteratlas report out/starter")
def report(
    path: AtlasPath,
    out: Annotated[Path | None, typer.Option(help="Page; default PATH/report.html.")] = None,
    as_json: Json = False,
) -> None:
    """Write the atlas page: one HTML file that needs no network."""
    from .analysis.report.page import write_report

    page = write_report(path, out=out)
    size = page.stat().st_size
    if as_json:
        emit_json({"page": str(page), "bytes": size})
    else:
        print(f"open {page.resolve().as_uri()} ({size / 1e6:.1f} MB)")


def main() -> None:
    """Entry point: errors made on purpose are one line and a meaningful exit code."""
    try:
        app()
    except AtlasError as error:
        print(f"matteratlas: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("matteratlas: interrupted; complete units are kept, run again", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
