# SPDX-License-Identifier: Apache-2.0
"""Repositories as a Hub keeps them: commits with history, refs, pull requests, stored objects."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from .http_base import Body, Held, OnDisk

#: What a new dataset repository's .gitattributes sends to LFS (the Hub's own list, shortened).
LFS_PATTERNS = (
    "*.7z *.arrow *.avro *.bin *.bz2 *.gz *.h5 *.joblib *.lz4 *.mds *.npy *.npz *.parquet *.pickle "
    "*.pkl *.pt *.pth *.rar *.safetensors *.tar *.tgz *.wasm *.xz *.zip *.zst *.jpg *.png *.mp4"
).split()
GITATTRIBUTES = "".join(f"{one} filter=lfs diff=lfs merge=lfs -text\n" for one in LFS_PATTERNS)
#: Larger files go to LFS whatever they hold.
LFS_FROM_BYTES = 10 * 1024 * 1024


class HubError(Exception):
    """An answer other than success, with the Hub's error headers."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def git_oid(kind: str, data: bytes) -> str:
    """Object id as git computes it."""
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()


class Objects:
    """Contents by SHA-256, in memory or in a folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._held: dict[str, Held] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        if self.folder is None:
            self._held[sha256] = Held(data)
        else:
            (self.folder / sha256).write_bytes(data)
        return sha256

    def get(self, sha256: str) -> Body | None:
        if self.folder is None:
            return self._held.get(sha256)
        path = self.folder / sha256
        return OnDisk(path) if path.is_file() else None


@dataclass(frozen=True)
class Blob:
    """One file of a commit."""

    sha256: str
    size: int
    oid: str  #: git's id: of the content, or of the pointer for LFS files
    lfs: bool
    pointer_size: int = 0

    @property
    def etag(self) -> str:
        """What the Hub gives as ETag: the SHA-256 of LFS files, git's id of others."""
        return f'"{self.sha256 if self.lfs else self.oid}"'


def lfs_blob(sha256: str, size: int) -> Blob:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return Blob(sha256, size, git_oid("blob", pointer.encode()), True, len(pointer))


def is_lfs(path: str, size: int, sample: bytes) -> bool:
    """Whether the Hub stores a new file in LFS: by name, by size, or because it is binary."""
    name = path.rsplit("/", 1)[-1]
    if size == 0:
        return False
    if any(fnmatch.fnmatchcase(name, one) for one in LFS_PATTERNS) or size >= LFS_FROM_BYTES:
        return True
    try:
        sample.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start < len(sample) - 3  # a character cut by the sample's end is text
    return b"\0" in sample


@dataclass(frozen=True)
class Commit:
    """A state of the files and where it came from."""

    sha: str
    parents: tuple[str, ...]
    title: str
    message: str
    author: str
    date: datetime
    files: Mapping[str, Blob]


#: ``("put", path, blob)``, ``("delete", path, None)`` or ``("delete_folder", path, None)``
Operation = tuple[Literal["put", "delete", "delete_folder"], str, Blob | None]


def apply(files: Mapping[str, Blob], operations: Iterable[Operation]) -> dict[str, Blob]:
    """The files after the operations, in their order."""
    after = dict(files)
    for kind, path, blob in operations:
        if kind == "put" and blob is not None:
            after[path] = blob
            continue
        gone = [path] if kind == "delete" else [p for p in after if p.startswith(f"{path}/")]
        if not gone or any(one not in after for one in gone):
            what = "file" if kind == "delete" else "folder"
            raise HubError(404, f"A {what} with this name doesn't exist: {path}", "EntryNotFound")
        for one in gone:
            del after[one]
    return after


def changes(old: Mapping[str, Blob], new: Mapping[str, Blob]) -> dict[str, Blob | None]:
    """Paths whose content differs, with the new content (``None``: gone)."""
    return {p: new.get(p) for p in {*old, *new} if old.get(p) != new.get(p)}


@dataclass
class Discussion:
    """A discussion or, with ``ref``, a pull request."""

    num: int
    title: str
    author: str
    created: datetime
    status: str = "open"
    ref: str | None = None
    merge_commit: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)


def moment(when: datetime) -> str:
    """A date as the Hub writes it."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class Repo:
    """One repository. Every commit stays readable for ever."""

    def __init__(
        self,
        kind: str,
        id: str,
        *,
        private: bool = False,
        gated: str | bool = False,
        author: str = "tester",
        attributes: Blob | None = None,
    ) -> None:
        self.kind, self.id, self.private, self.gated = kind, id, private, gated
        self.allowed: set[str] = set()  #: names of users that passed the gate
        self.commits: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}
        self.discussions: dict[int, Discussion] = {}
        self.lock = threading.RLock()
        self.created = self._last = datetime.now(UTC)
        files = {".gitattributes": attributes} if attributes else {}
        self._add("refs/heads/main", (), files, "initial commit", "", author)

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def now(self) -> datetime:
        """A date later than any given before."""
        self._last = max(datetime.now(UTC), self._last + timedelta(milliseconds=1))
        return self._last

    def ref_of(self, revision: str) -> str | None:
        """Full name of the branch, tag or other ref that `revision` names."""
        names = (f"refs/heads/{revision}", f"refs/tags/{revision}", revision)
        return next((one for one in names if one in self.refs), None)

    def resolve(self, revision: str) -> Commit:
        """The commit of a branch, tag, ref or full commit id."""
        ref = self.ref_of(revision)
        sha = self.refs[ref] if ref else revision
        if sha not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def history(self, sha: str) -> list[Commit]:
        """First parents from `sha` back."""
        found = [self.commits[sha]]
        while found[-1].parents:
            found.append(self.commits[found[-1].parents[0]])
        return found

    def commit(
        self,
        revision: str,
        operations: Iterable[Operation],
        *,
        title: str,
        message: str = "",
        author: str = "tester",
        parent: str | None = None,
        pull_request: bool = False,
    ) -> tuple[Commit, Discussion | None]:
        """Commit onto a branch, or onto a new pull request.

        With `parent`, a branch must still be there (compare and swap, 412 if it moved), and a pull
        request starts there.
        """
        with self.lock:
            base = self.resolve(revision)
            if parent is not None and not pull_request and not base.sha.startswith(parent):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            discussion = None
            if pull_request:
                if parent is not None:
                    found = [sha for sha in self.commits if sha.startswith(parent)]
                    base = self.resolve(found[0] if found else parent)
                files = apply(base.files, operations)
                discussion = self.open(title, author, pull_request=True, base=base.sha)
                ref: str | None = discussion.ref
            else:
                files = apply(base.files, operations)
                ref = self.ref_of(revision)
            if ref is None or ref.startswith("refs/tags/"):
                raise HubError(400, f"Cannot commit to {revision}: it is not a branch")
            made = self._add(ref, (base.sha,), files, title, message, author)
            for one in self.discussions.values():
                if one.ref == ref:
                    self.event(one, "commit", author, {"subject": title, "oid": made.sha})
            return made, discussion

    def open(
        self,
        title: str,
        author: str,
        *,
        pull_request: bool,
        base: str | None = None,
        status: str = "open",
        description: str = "",
    ) -> Discussion:
        """Open a discussion or a pull request, which gets a ref of its own."""
        with self.lock:
            num = len(self.discussions) + 1
            found = Discussion(num, title, author, self.now(), status)
            if pull_request:
                found.ref = f"refs/pr/{num}"
                self.refs[found.ref] = base or self.refs["refs/heads/main"]
            self.discussions[num] = found
            self.comment(found, author, description)
            return found

    def comment(self, discussion: Discussion, author: str, text: str) -> dict[str, Any]:
        when = moment(self.now())
        latest = {"raw": text, "html": text, "updatedAt": when, "author": {"name": author}}
        data = {"edited": False, "hidden": False, "latest": latest, "history": []}
        return self.event(discussion, "comment", author, data)

    def event(
        self, discussion: Discussion, kind: str, author: str, data: dict[str, Any]
    ) -> dict[str, Any]:
        made = {
            "id": f"{discussion.num:012x}{len(discussion.events):012x}",
            "type": kind,
            "createdAt": moment(self.now()),
            "author": {"name": author},
            "data": data,
        }
        discussion.events.append(made)
        return made

    def conflicts(self, discussion: Discussion) -> list[str]:
        """Files that both the pull request and main have changed since it branched off."""
        _, ours, theirs = self._sides(discussion)
        return sorted(p for p in theirs if p in ours and ours[p] != theirs[p])

    def merge(self, discussion: Discussion, author: str, note: str = "") -> Commit:
        """Merge an open pull request into main."""
        with self.lock:
            if discussion.ref is None or discussion.status != "open":
                raise HubError(400, f"Cannot merge: status is {discussion.status}")
            if clash := self.conflicts(discussion):
                raise HubError(409, f"Merge conflicts in: {', '.join(clash)}")
            main, _, theirs = self._sides(discussion)
            files = dict(main.files)
            for path, blob in theirs.items():
                if blob is None:
                    files.pop(path, None)
                else:
                    files[path] = blob
            title = f"{discussion.title} (#{discussion.num})"
            parents = (main.sha, self.refs[discussion.ref])
            made = self._add("refs/heads/main", parents, files, title, note, author)
            discussion.merge_commit = made.sha
            self.set_status(discussion, "merged", author)
            return made

    def set_status(self, discussion: Discussion, status: str, author: str) -> dict[str, Any]:
        discussion.status = status
        return self.event(discussion, "status-change", author, {"status": status})

    def _sides(
        self, discussion: Discussion
    ) -> tuple[Commit, dict[str, Blob | None], dict[str, Blob | None]]:
        """Main, and what main and the pull request each changed since they parted."""
        main = self.resolve("main")
        head = self.resolve(discussion.ref or "main")
        ancestors = {one.sha for one in self.history(main.sha)}
        base = next(one for one in self.history(head.sha) if one.sha in ancestors)
        return main, changes(base.files, main.files), changes(base.files, head.files)

    def _add(
        self,
        ref: str,
        parents: tuple[str, ...],
        files: Mapping[str, Blob],
        title: str,
        message: str,
        author: str,
    ) -> Commit:
        date = self.now()
        oids = sorted((path, blob.oid) for path, blob in files.items())
        facts = json.dumps([parents, oids, title, message, author, moment(date)])
        sha = git_oid("commit", facts.encode())
        made = Commit(sha, parents, title, message, author, date, dict(files))
        self.commits[sha] = made
        self.refs[ref] = sha
        return made


def entries(commit: Commit, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Files and folders below `folder` as the tree endpoint lists them, sorted by path."""
    prefix = f"{folder}/" if folder else ""
    inside = {p: blob for p, blob in commit.files.items() if p.startswith(prefix)}
    if folder and not inside:
        raise HubError(404, f'{folder} does not exist on "{commit.sha}"', "EntryNotFound")
    folders: set[str] = set()
    found: dict[str, dict[str, Any]] = {}
    for path, blob in inside.items():
        steps = path[len(prefix) :].split("/")[:-1]
        folders.update(prefix + "/".join(steps[: n + 1]) for n in range(len(steps)))
        if recursive or not steps:
            found[path] = file_entry(path, blob)
    for one in folders:
        if recursive or "/" not in one[len(prefix) :]:
            found[one] = folder_entry(commit, one)
    return [found[path] for path in sorted(found)]


def file_entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": blob.pointer_size}
    return entry


def folder_entry(commit: Commit, path: str) -> dict[str, Any]:
    inside = sorted((p, b.oid) for p, b in commit.files.items() if p.startswith(f"{path}/"))
    oid = git_oid("tree", json.dumps(inside).encode())
    return {"type": "directory", "oid": oid, "size": 0, "path": path}
