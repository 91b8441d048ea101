# SPDX-License-Identifier: Apache-2.0
"""``matteratlas contribute``: a model from scaffold to pull request."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .console import ProgressReporter, emit_json
from .schemas.errors import AtlasError

contribute_app = typer.Typer(
    no_args_is_help=True, help="Contribute a model: scaffold, check, pull request."
)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Folder = Annotated[Path, typer.Argument(help="Contribution folder, or its card.", metavar="PATH")]
Repo = Annotated[str, typer.Option(help="Hub dataset, ORG/NAME.")]
Number = Annotated[int, typer.Argument(min=1, help="Number of the pull request.", metavar="N")]
Work = Annotated[
    Path | None, typer.Option(help="Folder of embeddings and report; default: the contribution's.")
]


@contribute_app.command("new", epilog="Example: matteratlas contribute new mymodel --family mine")
def contribute_new(
    model: Annotated[str, typer.Argument(help="Id of the model.", metavar="MODEL")],
    family: Annotated[str, typer.Option(help="Family; models of one share an adapter.")],
    modality: Annotated[
        str, typer.Option(help="What it reads: atoms3d, smiles, graph2d, protein_sequence ...")
    ] = "atoms3d",
    learned: Annotated[
        bool, typer.Option("--learned/--descriptor", help="Trained, or computed by a rule.")
    ] = True,
    brought: Annotated[
        bool, typer.Option("--brought", help="The model stays away; vectors are brought.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where its folder goes.")] = Path("contrib"),
    as_json: Json = False,
) -> None:
    """Write card, adapter and test of a new model; what is yours to choose says CHOOSE."""
    from .builders.contribute.folder import open_choices
    from .builders.contribute.scaffold import scaffold

    files = scaffold(
        model, family=family, modality=modality, learned=learned, brought=brought, out=out
    )
    if as_json:
        emit_json({str(p): open_choices(p) for p in files})
        return
    for path in files:
        print(f"{path}: {len(open_choices(path))} to choose")
    if brought:
        print(f"put vectors.parquet, .npy with ids.txt, or .zarr into {files[0].parent}")
    print(f"then run: matteratlas contribute check {files[0].parent}")


@contribute_app.command("check", epilog="Example: matteratlas contribute check contrib/mymodel")
def contribute_check(
    path: Annotated[
        Path | None, typer.Argument(help="Contribution folder, or its card.", metavar="[PATH]")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Atlas to compare with: folder or hf://datasets/ORG/NAME.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option(help="Set ids; default: those of --against, or all.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="All rows, not the starter's only.")] = False,
    nodes: Annotated[bool, typer.Option(help="Keep atom, residue and token vectors.")] = True,
    precision: Annotated[str, typer.Option(help="Stored precision.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    card_only: Annotated[bool, typer.Option("--card-only", help="Run nothing.")] = False,
    pull_request: Annotated[
        int | None, typer.Option(min=1, help="Check this pull request of --repo, as data.")
    ] = None,
    repo: Annotated[str | None, typer.Option(help="Hub dataset, ORG/NAME.")] = None,
    work: Work = None,
    as_json: Json = False,
) -> None:
    """Build a contribution and check what CI checks; writes report.md. Exits 1 if one fails."""
    from . import contribute
    from .builders.contribute.folder import open_contribution

    with ProgressReporter(quiet=as_json) as reporter:
        if pull_request is not None:
            if repo is None or path is not None:
                raise AtlasError("--pull-request: give --repo ORG/NAME and no PATH")
            folder = work or Path(f"out/pull-request-{pull_request}")
            report = contribute.check_pull_request(
                repo, pull_request, out=folder, reporter=reporter
            )
        else:
            if path is None:
                raise AtlasError("PATH is missing: give a contribution folder or a card")
            names = [n for value in sets or [] for n in value.replace(",", " ").split()]
            folder = open_contribution(path, work=work).work
            report = contribute.check(
                path,
                against=against,
                sets=names or None,
                full=full,
                nodes=nodes,
                precision=precision,
                device=device,
                card_only=card_only,
                work=work,
                reporter=reporter,
            )
    if as_json:
        emit_json({**report.model_dump(mode="json"), "ok": report.ok})
    else:
        for one in report.checks:
            mend = f"\n      -> {one.mend}" if one.mend else ""
            print(f"{one.outcome:8}{one.name}: {one.evidence}{mend}")
        state = "all checks passed" if report.ok else "not ready"
        print(f"{report.model}: {state}; report: {_short(folder / 'report.md')}")
    if not report.ok:
        raise typer.Exit(1)


def _short(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


@contribute_app.command(
    "submit", epilog="Example: matteratlas contribute submit contrib/mymodel --repo ORG/NAME"
)
def contribute_submit(path: Folder, repo: Repo, work: Work = None, as_json: Json = False) -> None:
    """Open the pull request with the embeddings, and write the patch for the code repository."""
    from . import contribute

    made = contribute.submit(path, repo=repo, work=work)
    if as_json:
        emit_json({**vars(made), "patch": str(made.patch)})
        return
    state = ", open already with these files" if made.again else ""
    print(
        f"pull request {made.number}{state}: {made.url} ({made.files} files, {made.bytes:,} bytes)"
    )
    print(f"code: git am {made.patch}, in a fork of the code repository; then open its request")


@contribute_app.command(
    "take", epilog="Example: matteratlas contribute take 12 --repo ORG/NAME --out out/pr-12"
)
def contribute_take(
    number: Number,
    repo: Repo,
    out: Annotated[Path, typer.Option(help="New folder.")],
    as_json: Json = False,
) -> None:
    """Fetch a pull request as an atlas to merge (for maintainers); nothing of it is run."""
    from .builders.contribute.proposal import take
    from .registry.hub_contribute import repo_name

    taken, found = take(repo_name(repo), number, out)
    if as_json:
        emit_json({"model": taken.model_id, "atlas": str(taken.atlas), "commit": found.head})
        return
    print(f"{taken.model_id}: commit {found.head}, {len(found.added)} new files")
    print(f"then run: matteratlas merge ATLAS {taken.atlas}")


@contribute_app.command("comment", epilog="Example: matteratlas contribute comment report.json")
def contribute_comment(
    report: Annotated[Path, typer.Argument(help="report.json", metavar="REPORT")],
    pull_request: Annotated[
        int | None, typer.Option(min=1, help="Post it to this pull request of --repo.")
    ] = None,
    repo: Annotated[str | None, typer.Option(help="Hub dataset, ORG/NAME.")] = None,
) -> None:
    """Write a report as a comment, on standard output or to a pull request on the Hub.

    The report is read as data, wherever it comes from.
    """
    from .builders.contribute.report import markdown, read_report
    from .registry import hub_contribute

    text = f"{markdown(read_report(report))}\n{MARKER}\n"
    if pull_request is None:
        sys.stdout.write(text)
        return
    if repo is None:
        raise AtlasError("--pull-request: give --repo ORG/NAME")
    hub_contribute.comment(hub_contribute.repo_name(repo), pull_request, text)
    print(f"told pull request {pull_request}")


@contribute_app.command(
    "unanswered", epilog="Example: matteratlas contribute unanswered --repo ORG/NAME"
)
def contribute_unanswered(repo: Repo) -> None:
    """List, as JSON, pull requests on the Hub whose newest commit has no report yet."""
    from .registry import hub_contribute

    emit_json(hub_contribute.unanswered(hub_contribute.repo_name(repo), marker=MARKER))


#: By which comments of this tool are known again; Markdown does not show it.
MARKER = "<!-- matteratlas contribute -->"
