# SPDX-License-Identifier: Apache-2.0
"""Push a release to a dataset of the Hub: changed files only, one commit, the tag last.

The commit is made only if ``main`` is where it was when the push began and holds the release that
this one grew from: two pushes cannot overwrite each other. A push that is cut is run again; what
was sent stays sent, and a commit that lacks its tag gets it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..schemas.archive import MANIFEST
from ..schemas.errors import ArchiveError, SourceError
from ..schemas.manifest import CARD_FILES, HOST_FILES
from ..schemas.progress import Reporter, Silent
from . import versions
from .hub_push import HeldFile, MovedError, Refs, Remote, addition, deletion
from .manifest import Manifest, parse_manifest, read_manifest
from .validate import validate

_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass
class PushReport:
    """What a push did, or would do.

    Attributes
    ----------
    outcome :
        ``pushed``; ``tagged``, where the commit was there and only its tag was not; or ``nothing``,
        where both were.
    sent, removed, same :
        Files of the commit, files that are no longer in it, and files that did not change.
    bytes :
        Of the files of the commit; contents that the Hub knows already do not move.
    left :
        Files of the dataset that no release has, left alone.
    """

    dataset: str
    version: str
    tag: str
    page: str
    dry_run: bool
    outcome: str = "pushed"
    created: bool = False
    commit: str | None = None
    parent: str | None = None
    sent: int = 0
    bytes: int = 0
    removed: int = 0
    same: int = 0
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return dict(vars(self))

    def text(self) -> str:
        """A few lines for a reader."""
        if self.outcome == "nothing":
            return f"{self.page}: {self.tag} is there, with the same content; nothing to do"
        would = "would be " if self.dry_run else ""
        if self.outcome == "tagged":
            return f"{self.page}: the commit was there; {would}tagged {self.tag}"
        lines = [
            f"{self.page}: {would}pushed as {self.tag}"
            + (f", commit {self.commit[:12]}" if self.commit else ""),
            f"  {self.sent} files, {self.bytes:,} bytes; {self.same} files as they were, "
            f"{self.removed} removed",
        ]
        if self.left:
            lines.append(
                f"  left alone: {', '.join(self.left[:5])}" + ", ..." * (self.left[5:] != [])
            )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


@dataclass
class _Changes:
    """What a commit has to hold for the dataset to be the release."""

    put: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)


def push(
    release: str | Path,
    dataset: str,
    *,
    create: bool = False,
    private: bool = False,
    dry_run: bool = False,
    reporter: Reporter | None = None,
) -> PushReport:
    """Make a dataset of the Hub hold a release, under the tag ``v<version>``.

    Parameters
    ----------
    release :
        A release folder. It is validated first.
    dataset :
        ``ORG/NAME``.
    create, private :
        Make the dataset if there is none, to be seen by its members only.
    dry_run :
        Only say what would be done.

    Raises
    ------
    ArchiveError
        The folder is no release, or not a sound one.
    SourceError
        The Hub refuses; the version is taken; or ``main`` holds another release than the one this
        grew from, or changes of its own. Nothing is overwritten.
    """
    root, told = Path(release), reporter or Silent()
    if not _DATASET.fullmatch(dataset):
        raise SourceError(f"{dataset}: no name of a dataset; write ORG/NAME")
    manifest = read_manifest(root)
    told.note(f"validate {root}")
    found = validate(root)
    wrong = [*found.faults, *found.notes]
    if wrong:
        more = f" (and {len(wrong) - 1} more; run: matteratlas validate {root})"
        raise ArchiveError(f"{root}: {wrong[0]}{more if len(wrong) > 1 else ''}")
    remote = Remote(dataset)
    tag = f"v{manifest.version}"
    report = PushReport(dataset, manifest.version, tag, remote.page, dry_run)
    refs = remote.refs()
    if refs is None:
        if not create:
            raise SourceError(
                f"{remote.page}: no such dataset or no access; check HF_TOKEN, or make it with "
                "--create"
            )
        report.created = True
        if dry_run:
            _count(root, manifest, _compare(root, manifest, {}), report)
            return report
        remote.create(private=private)
        refs = remote.refs()
        if refs is None:
            raise SourceError(f"{remote.page}: made, and not to be seen; check HF_TOKEN")
    return _Push(root, manifest, remote, refs, report, told).run()


class _Push:
    """One release on its way into one dataset."""

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        remote: Remote,
        refs: Refs,
        report: PushReport,
        reporter: Reporter,
    ) -> None:
        self.root, self.manifest, self.remote, self.refs = root, manifest, remote, refs
        self.report, self.reporter = report, reporter

    def run(self) -> PushReport:
        """Compare, send, commit, tag."""
        report, refs = self.report, self.refs
        taken = versions.select(self.manifest.version, refs.tags)
        if taken is not None:
            self.refuse_other(taken)
            report.outcome, report.commit, report.tag = "nothing", refs.tags[taken], taken
            return report
        tree = self.remote.tree(refs.head)
        held = self.held(tree, refs.head)
        changes = _compare(self.root, self.manifest, tree)
        if held is not None and held.sha256 == self.manifest.sha256:
            if changes.put:
                raise self.conflict(held, f"{changes.put[0]} was changed since")
            report.outcome, report.commit = "tagged", refs.head
        else:
            self.refuse_foreign_parent(held)
            self.refuse_loss(tree, held, changes)
            if held is not None:
                kept = {*self.manifest.files["path"], MANIFEST}
                changes.gone = [p for p in held.files["path"] if p in tree and p not in kept]
        _count(self.root, self.manifest, changes, report)
        known = {*changes.put, *changes.same, *changes.gone}
        report.left = sorted(
            p for p in tree if p not in known and p.split("/")[0] not in HOST_FILES
        )
        report.parent = refs.head
        if report.dry_run:
            return report
        if report.outcome == "pushed":
            report.commit = self.send(changes)
        self.remote.tag(report.tag, str(report.commit))
        return report

    def held(self, tree: dict[str, HeldFile], commit: str) -> Manifest | None:
        """Manifest of the release that a commit holds."""
        if MANIFEST not in tree:
            return None
        where = f"{self.remote.page}, {MANIFEST}"
        return parse_manifest(self.remote.read(MANIFEST, commit), where=where)

    def refuse_other(self, tag: str) -> None:
        """The version is taken: it must be this release."""
        tree = self.remote.tree(self.refs.tags[tag])
        changes = _compare(self.root, self.manifest, tree)
        if changes.put:
            raise SourceError(
                f"{self.remote.page}: has {tag} already with other content, and releases never "
                "change; " + self.rebase(f"{self.report.dataset}@{versions.latest(self.refs.tags)}")
            )

    def refuse_foreign_parent(self, held: Manifest | None) -> None:
        """A release goes onto the one it grew from, a first push onto none."""
        parent = self.manifest.parent
        if held is None:
            newest = versions.latest(self.refs.tags)
            if newest is not None:
                raise SourceError(
                    f"{self.remote.page}: has {newest} and no release on main; put main back there"
                )
        elif parent is None or parent.manifest_sha256 != held.sha256:
            grew = f"grew from {parent.version}" if parent else "is a first release"
            raise self.conflict(held, f"release {self.manifest.version} {grew}")

    def refuse_loss(
        self, tree: dict[str, HeldFile], held: Manifest | None, changes: _Changes
    ) -> None:
        """What others changed on ``main`` since its release is not overwritten."""
        columns = ("path", "bytes", "sha256")
        rows = zip(*(held.files[c] for c in columns), strict=True) if held is not None else ()
        released = {str(path): (int(size), str(sha256)) for path, size, sha256 in rows}
        for path in changes.put:
            if path not in tree or path == MANIFEST:
                continue
            known = released.get(path)
            if known is not None and tree[path].sha256 == known[1]:
                continue
            if known is not None and tree[path].sha256 is None:
                data = self.remote.read(path, self.refs.head)
                if hashlib.sha256(data).hexdigest() == known[1]:
                    continue
            if path in CARD_FILES:
                self.report.notes.append(f"{path} on main was edited by hand and is replaced")
                continue
            raise self.conflict(held, f"{path} was changed there without a release")

    def conflict(self, held: Manifest | None, why: str) -> SourceError:
        """The refusal, and the way on."""
        what = f"main holds release {held.version}" if held is not None else "main was changed"
        return SourceError(
            f"{self.remote.page}: {what}, and {why}; another push landed, nothing was "
            f"overwritten: {self.rebase(f'{self.report.dataset}@main')}"
        )

    def rebase(self, origin: str) -> str:
        """What to do when others were first."""
        return (
            f"run matteratlas pull {origin} --out theirs, matteratlas merge both theirs ATLAS, "
            "matteratlas release both --parent theirs, and push that"
        )

    def send(self, changes: _Changes) -> str:
        """Contents, then the commit; returns it."""
        declared = dict(
            zip(self.manifest.files["path"], self.manifest.files["sha256"], strict=True)
        )
        additions = [addition(path, self.root / path) for path in changes.put]
        for one in additions:
            path = one.path_in_repo
            if one.upload_info.sha256.hex() != declared.get(path, self.manifest.sha256):
                raise ArchiveError(f"{self.root / path}: changed while it was pushed; restore it")
        self.reporter.stage("push", len(additions))
        self.remote.upload(additions, done=lambda one: self.reporter.advance(one.path_in_repo, 1))
        parent = self.manifest.parent
        text = f"Grew from {parent.version}." if parent else "The first release."
        text += f" {MANIFEST}: sha256 {self.manifest.sha256}"
        try:
            return self.remote.commit(
                [*additions, *(deletion(path) for path in changes.gone)],
                title=f"Release {self.manifest.version}",
                text=text,
                parent=self.refs.head,
            )
        except SourceError as error:
            # The answer may have been lost, not the commit; a second try then meets the first.
            refs = self.remote.refs()
            if refs is None or refs.head == self.refs.head:
                raise
            tree = self.remote.tree(refs.head)
            if not _compare(self.root, self.manifest, tree).put:
                return refs.head
            held = self.held(tree, refs.head)
            if isinstance(error, MovedError):
                raise self.conflict(held, "it came while this push was under way") from None
            raise


def _compare(root: Path, manifest: Manifest, tree: dict[str, HeldFile]) -> _Changes:
    """Files of a release against those of a commit."""
    changes = _Changes()
    rows = zip(*(manifest.files[c] for c in ("path", "bytes", "sha256")), strict=True)
    size = (root / MANIFEST).stat().st_size
    for path, length, sha256 in [*rows, (MANIFEST, size, manifest.sha256)]:
        held = tree.get(path)
        same = held is not None and held.size == length and _equal(root / path, held, str(sha256))
        (changes.same if same else changes.put).append(str(path))
    return changes


def _equal(file: Path, held: HeldFile, sha256: str) -> bool:
    if held.sha256 is not None:
        return held.sha256 == sha256
    digest = hashlib.sha1(b"blob %d\0" % held.size, usedforsecurity=False)
    digest.update(file.read_bytes())  # of files that the Hub keeps in git itself: small ones
    return digest.hexdigest() == held.oid


def _count(root: Path, manifest: Manifest, changes: _Changes, report: PushReport) -> None:
    sizes = dict(zip(manifest.files["path"], manifest.files["bytes"], strict=True))
    sizes[MANIFEST] = (root / MANIFEST).stat().st_size
    report.sent, report.removed, report.same = map(len, (changes.put, changes.gone, changes.same))
    report.bytes = int(sum(sizes[path] for path in changes.put))
