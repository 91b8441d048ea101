# SPDX-License-Identifier: Apache-2.0
"""Check a contribution, compare it with an atlas, propose it: what ``matteratlas contribute`` does.

Here builders and analysis meet: neither imports the other.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .builders.contribute import checks, live
from .builders.contribute.folder import BROUGHT, Contribution, open_contribution
from .builders.contribute.patch import write_patch
from .builders.contribute.proposal import proposed_files, take
from .builders.contribute.report import Alignment, Report, markdown, read_report
from .registry import hub_contribute
from .registry.archive import Atlas, open_atlas
from .registry.contributed import contributed
from .registry.parquet import read_arrow
from .registry.tables import table_version
from .schemas.cards import ModelCard
from .schemas.errors import ArchiveError, AtlasError, SourceError
from .schemas.progress import Reporter, Silent

#: Rows compared with each chart of the reference, neighbours, and null draws.
ROWS, NEIGHBOURS, DRAWS = 400, 10, 100
#: Fewer common rows say too little.
LEAST_ROWS = 30
#: A chart that agrees with another in both is the same chart.
SAME = 0.99

_NOTHING = "0" * 64


def check(
    path: Path,
    *,
    against: str | None = None,
    sets: Sequence[str] | None = None,
    full: bool = False,
    nodes: bool = True,
    precision: str = "float32",
    device: str = "cpu",
    card_only: bool = False,
    work: Path | None = None,
    reporter: Reporter | None = None,
) -> Report:
    """Build a contribution and check all that CI checks; writes ``report.md`` and ``report.json``.

    Parameters
    ----------
    path:
        Contribution folder, or a card.
    against:
        Atlas folder or URL to compare with; None compares with nothing.
    sets:
        Ids of structure sets; None takes those of ``against``, or all.
    full:
        All rows of the sets, not their starter rows only.
    nodes, precision, device:
        As in a build.
    card_only:
        Look at card and licences, and run nothing.
    work:
        Where embeddings and report go; by default the contribution's folder.
    """
    reporter = reporter or Silent()
    contribution = open_contribution(Path(path), work=work)
    report = Report(model=contribution.model_id, version="", digest=_NOTHING)
    card = checks.check_card(report, contribution)
    if card is not None:
        checks.check_licences(report, card)
        if not card_only:
            checks.check_sources(report, contribution, card)
    if card is not None and not card_only and report.ok:
        with _known(contribution):
            reporter.stage("contribution", 4)
            if card.adapter != BROUGHT:
                live.run_test(report, contribution)
            reporter.advance("test", 1)
            reference = None if against is None else open_atlas(against)
            if sets is None and reference is not None:
                sets = reference.set_ids
            options = {"keep_nodes": nodes, "precision": precision, "device": device}
            options |= {"sets": sets, "selection": "full" if full else "starter"}
            if _build(report, contribution, card, options):
                reporter.advance("build", 1)
                _check_data(report, contribution, card, reference, device=device, reporter=reporter)
    report.digest = contribution.digest()
    report.write(contribution.work)
    return report


def check_pull_request(
    repo: str, number: int, *, out: Path, reporter: Reporter | None = None
) -> Report:
    """Check a pull request on a Hub dataset as data; nothing in it is run.

    Parameters
    ----------
    out:
        Folder to fetch it into, which must not exist; also of the report.

    Raises
    ------
    SourceError
        The Hub cannot be reached, or has no such pull request.
    """
    reporter = reporter or Silent()
    repo = hub_contribute.repo_name(repo)
    head = hub_contribute.head_of(repo, f"refs/pr/{number}")
    report = Report(model=f"pull request {number}", version="", digest=_NOTHING, commit=head)
    try:
        contribution, found = take(repo, number, out)
        report.model, report.commit = contribution.model_id, found.head
        report.add("files", "pass", f"{len(found.added)} new files of one model, none changed")
        card = checks.check_card(report, contribution)
        if card is not None:
            checks.check_licences(report, card)
            with _known(contribution):
                reference = open_atlas(f"hf://datasets/{repo}@{hub_contribute.head_of(repo)}")
                _check_data(report, contribution, card, reference, run=False, reporter=reporter)
        report.digest = contribution.digest()
    except SourceError:
        raise  # the network, not the proposal
    except Exception as error:  # made to break readers, or this one's fault
        text = str(error) if isinstance(error, AtlasError) else f"{type(error).__name__}: {error}"
        report.add("files", "fail", text, "propose again with: matteratlas contribute submit")
    report.write(out)
    return report


@dataclass(frozen=True)
class Proposal:
    """A pull request, and the patch for the code repository; ``again`` if it was open already."""

    number: int
    url: str
    files: int
    bytes: int
    patch: Path
    again: bool = False


def submit(path: Path, *, repo: str, work: Path | None = None) -> Proposal:
    """Open a pull request on a Hub dataset with the new files of a checked contribution.

    Where this account has one open for the same model and version, with these files, that is the
    answer, and nothing is sent.

    Raises
    ------
    ArchiveError
        The report is of another state or not all checks passed, the dataset has moved on, or this
        account's open pull request holds other files.
    SourceError
        The Hub cannot be reached, or does not let this account propose.
    """
    contribution = open_contribution(Path(path), work=work)
    repo = hub_contribute.repo_name(repo)
    report = read_report(contribution.work / "report.json")
    again = f"run: matteratlas contribute check {path}"
    if report.digest != contribution.digest():
        raise ArchiveError(f"{contribution.work / 'report.json'}: of another state; {again}")
    if not report.ok:
        first = next(c for c in report.checks if c.outcome == "fail")
        raise ArchiveError(f"{contribution.model_id}: check '{first.name}' failed; {again}")
    if not report.sets:
        raise ArchiveError(f"{contribution.model_id}: only its card was checked; {again}")
    card = contribution.card()
    parent = hub_contribute.head_of(repo)
    trial = report.model_copy(update={"checks": [], "alignment": []}, deep=True)
    check_dataset(
        trial, open_atlas(contribution.atlas), card, open_atlas(f"hf://datasets/{repo}@{parent}")
    )
    if not trial.ok:
        raise ArchiveError(f"datasets/{repo}: {trial.checks[0].evidence}; {trial.checks[0].mend}")
    files = proposed_files(contribution)
    title = f"Add model {card.id} {card.version}"
    before = hub_contribute.own_pull_request(repo, title=title)
    if before is not None and not hub_contribute.holds(repo, before[0], files):
        raise ArchiveError(
            f"datasets/{repo}: your pull request {before[0]} of {card.id} {card.version} is open "
            f"with other files; close it on {before[1]}, then submit again"
        )
    number, url = before or hub_contribute.open_pull_request(
        repo, files, title=title, description=_description(report, repo), parent=parent
    )
    body = f"Embeddings: {url}" if card.adapter != BROUGHT else f"Vectors were brought: {url}"
    return Proposal(
        number,
        url,
        len(files),
        sum(p.stat().st_size for p in files.values()),
        write_patch(contribution, card, body=body),
        again=before is not None,
    )


def _description(report: Report, repo: str) -> str:
    top = report.model_copy(update={"alignment": report.alignment[:40]})
    return "\n".join(
        [
            markdown(top),
            "---",
            "Not to be merged with the button: `atlas.json` and tables are derived. Maintainers "
            f"run `matteratlas contribute take N --repo {repo} --out FOLDER`, then "
            "`matteratlas merge ATLAS FOLDER/atlas`, and release.",
        ]
    )


@contextmanager
def _known(contribution: Contribution) -> Iterator[None]:
    """Let card and adapter be found while they are not in the registry."""
    with nullcontext() if contribution.in_registry else contributed(contribution.folder):
        yield


def _build(
    report: Report,
    contribution: Contribution,
    card: ModelCard,
    options: dict[str, Any],
) -> bool:
    """Embed; units whose card, adapter and vectors are the same are kept."""
    from .builders.build import build

    state, stamp = live.adapter_digest(contribution), contribution.work / ".adapter.sha256"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != state:
        shutil.rmtree(contribution.atlas, ignore_errors=True)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(state, encoding="utf-8")
    try:
        options["keep_nodes"] &= card.adapter != BROUGHT  # one vector a structure is all there is
        found = build(contribution.atlas, models=[card.id], workers=0, **options)
    except AtlasError as error:
        report.add("build", "fail", str(error), "mend it and check again")
        return False
    if found.failed:
        report.add("build", "fail", str(found.failed[0].error), "mend the adapter")
        return False
    report.add("build", "pass", f"{len(found.units)} sets embedded")
    return True


def _check_data(
    report: Report,
    contribution: Contribution,
    card: ModelCard,
    reference: Atlas | None,
    *,
    run: bool = True,
    device: str = "cpu",
    reporter: Reporter,
) -> None:
    """Everything about the vectors; ``run`` allows the adapter to be run."""
    atlas = checks.check_store(report, contribution)
    if atlas is None:
        return
    checks.check_record(report, atlas, card)
    checks.check_missing(report, atlas, card)
    checks.check_values(report, atlas, card)
    checks.check_size(report, contribution)
    reporter.advance("data", 1)
    if card.adapter == BROUGHT:
        text = "vectors are brought: the model is not to be had, so nothing can be recomputed"
        report.add("adapter", "skipped", text)
    elif run:
        live.check_adapter(report, atlas, card, device=device)
        live.check_recomputed(report, atlas, card, device=device)
    else:
        text = "contributed code is never run here; its own pull request shows what it does"
        report.add("adapter", "skipped", text)
    if reference is None:
        text = "nothing to compare with"
        report.add("alignment", "skipped", text, "give --against FOLDER or hf://datasets/ORG/NAME")
        return
    # Reports are posted: of a folder its name is enough.
    where = reference.location
    report.reference = where[-200:] if "://" in where else Path(where).name
    check_dataset(report, atlas, card, reference)
    check_alignment(report, atlas, card, reference)
    reporter.advance("comparison", 1)


def check_dataset(report: Report, atlas: Atlas, card: ModelCard, reference: Atlas) -> None:
    """Whether the units can be added to the reference: new, of its sets, of its structures."""
    wrong: list[tuple[str, str]] = []
    held = reference.index["models"].get(card.id)
    if held is not None and held["version"] != card.version:
        wrong.append((f"the dataset has version {held['version']} of it", "choose another id"))
    for set_id in report.sets:
        path = f"structures/{set_id}.parquet"
        if held is not None and set_id in held["units"]:
            wrong.append((f"the dataset has {card.id} on {set_id}", "choose another id"))
        if path not in reference.index["files"]:
            wrong.append((f"the dataset has no set '{set_id}'", "leave it out with --sets"))
            continue
        data = reference.files.read(path, sha256=reference.index["files"][path]["sha256"])
        theirs, version = _ids_and_version(data)
        own = table_version(Path(atlas.location) / path)
        if own != version:
            text = f"set '{set_id}' is version {version} there and {own} here"
            wrong.append((text, "install the matteratlas of that release"))
        strange = sorted(set(map(str, atlas.unit(card.id, set_id).ids())) - theirs)
        if strange:
            text = f"{len(strange)} structures of set '{set_id}' are not in the dataset"
            wrong.append((f"{text}, first {strange[0]}", "embed the rows it has; leave out --full"))
    if wrong:
        report.add("fits the dataset", "fail", *wrong[0])
    else:
        report.add("fits the dataset", "pass", f"adds {len(report.sets)} units and no structures")


def _ids_and_version(data: bytes) -> tuple[set[str], str | None]:
    table = read_arrow(data, columns=["id"])
    version = (table.schema.metadata or {}).get(b"matteratlas_version")
    return set(table["id"].to_pylist()), version.decode() if version else None


def check_alignment(report: Report, atlas: Atlas, card: ModelCard, reference: Atlas) -> None:
    """How every chart of the reference sees a sample of the rows, and whether one is the same."""
    from .analysis.pairwise import pairwise

    mine = _Chart(atlas, card.id)
    draw = np.random.default_rng(0)
    ids = sorted(mine.places.index)
    sample = [ids[i] for i in sorted(draw.permutation(len(ids))[:ROWS])]
    few = 0
    for model in reference.index["models"]:
        if model == card.id:
            continue
        other = _Chart(reference, model)
        common = [i for i in sample if i in other.places.index]
        if len(common) < LEAST_ROWS:  # look beyond the sample before giving up
            common = [i for i in ids if i in other.places.index][:ROWS]
        if len(common) < LEAST_ROWS:
            few += 1
            continue
        data = {"new": mine.rows(common), "other": other.rows(common)}
        found = pairwise(
            data, metrics=("mutual_knn", "linear_cka"), k=NEIGHBOURS, permutations=DRAWS
        )
        pair = found.sel(model_a="new", model_b="other")
        report.alignment.append(
            Alignment(
                model=model,
                rows=len(common),
                mutual_knn=_finite(pair["mutual_knn"]),
                calibrated=_finite(pair["calibrated"].sel(metric="mutual_knn")),
                linear_cka=_finite(pair["linear_cka"]),
            )
        )
    report.alignment.sort(key=lambda a: -(a.calibrated if a.calibrated is not None else -1.0))
    _tell_alignment(report, card, few)


def _tell_alignment(report: Report, card: ModelCard, few: int) -> None:
    same = [
        a.model
        for a in report.alignment
        if (a.calibrated or 0.0) >= SAME and (a.linear_cka or 0.0) >= SAME
    ]
    aside = f"; {few} charts share fewer than {LEAST_ROWS} rows" if few else ""
    if not report.alignment:
        report.add("alignment", "note", f"no chart to compare with{aside}")
        return
    best = report.alignment[0]
    text = (
        f"{len(report.alignment)} charts; nearest {best.model}: calibrated mutual kNN "
        f"{best.calibrated if best.calibrated is not None else float('nan'):.3f} "
        f"of {best.rows} rows{aside}"
    )
    report.add("alignment", "pass", text)
    unsaid = [m for m in same if m not in (card.notes or "")]
    if unsaid:
        mend = f"leave it out, or say in the card's 'notes' what differs from {unsaid[0]}"
        report.add("near-duplicate", "fail", f"the same chart as {', '.join(same[:5])}", mend)
    elif same:
        report.add("near-duplicate", "note", f"the same chart as {', '.join(same[:5])}, as noted")
    else:
        report.add("near-duplicate", "pass", "no chart of the reference is the same")


class _Chart:
    """Vectors of a model's default layer by structure id, read as they are asked for."""

    def __init__(self, atlas: Atlas, model: str) -> None:
        self._array = atlas.embeddings(model, missing="drop")
        ids = self._array["structure"].to_numpy()
        places = pd.Series(np.arange(len(ids)), index=ids)
        self.places = places[~places.index.duplicated()]

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """(len(ids), dim) float32."""
        wanted = self.places.loc[list(ids)].to_numpy()
        order = np.argsort(wanted)
        taken = np.asarray(self._array.isel(structure=wanted[order]))
        out = np.empty_like(taken)
        out[order] = taken
        return out


def _finite(value: object) -> float | None:
    number = float(np.asarray(value))
    return number if np.isfinite(number) else None
