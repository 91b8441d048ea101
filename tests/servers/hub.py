# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face Hub on loopback, for the real clients: repositories, commits, downloads, gates.

What the Hub's clients need of repositories, over HTTP with LFS storage (no Xet): the JSON API is in
`hub_api`, what repositories are in `hub_repos`, the card rules in `hub_card`.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from . import hub_api
from .http_base import Answer, Body, Held, LoopbackServer, Request, as_json
from .hub_repos import GITATTRIBUTES, Blob, HubError, Objects, Repo, git_oid, is_lfs, lfs_blob

_REPO = r"/(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+?)"
_REVISION = r"(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+)"
_RESOLVE = re.compile(rf"{_REPO}/resolve/{_REVISION}/(?P<path>.+)")
_CACHED = re.compile(
    r"/api/resolve-cache/(?P<kind>datasets|spaces|models)/(?P<id>[^/]+/[^/]+)/"
    r"(?P<revision>[0-9a-f]{40})/(?P<path>.+)"
)
_LFS = re.compile(rf"{_REPO}\.git/info/lfs/objects/(?P<step>batch|verify)")


@dataclass(frozen=True)
class Account:
    """Who a token stands for; a token without `write` only reads."""

    name: str
    orgs: tuple[str, ...] = ()
    write: bool = True

    def owns(self, repo: Repo) -> bool:
        return repo.namespace in (self.name, *self.orgs)


class HubServer(LoopbackServer):
    """The server.

    Parameters
    ----------
    tokens:
        Token -> account. Without it every token is the same user, who may do everything; callers
        without a token may read what is public either way.
    redirects:
        Downloads go as on the real Hub: LFS files by a 302 to signed addresses of another origin
        (``cdn_url``), other files of public repositories by a 307 to ``/api/resolve-cache/...``.
        Without it every file comes straight from its resolve address.
    page_size:
        Entries a page of tree and commit listings.
    folder:
        Where contents are kept; in memory if absent.
    """

    origins = ("main", "cdn")

    def __init__(
        self,
        *,
        tokens: Mapping[str, Account] | None = None,
        redirects: bool = True,
        page_size: int = 1000,
        folder: Path | None = None,
    ) -> None:
        super().__init__()
        self.tokens, self.redirects, self.page_size = tokens, redirects, page_size
        self.objects = Objects(folder)
        self.repos: dict[tuple[str, str], Repo] = {}
        self._secret = secrets.token_hex(8)
        self._home: tempfile.TemporaryDirectory[str] | None = None

    @property
    def cdn_url(self) -> str:
        """Origin that LFS contents come from."""
        return self.urls["cdn"]

    @property
    def token(self) -> str:
        """A token that may write."""
        if self.tokens is None:
            return "hf_loopback"
        return next(token for token, account in self.tokens.items() if account.write)

    @property
    def home(self) -> Path:
        """A folder for clients' caches, removed on close."""
        if self._home is None:
            self._home = tempfile.TemporaryDirectory(prefix="hub-clients-")
        return Path(self._home.name)

    def close(self) -> None:
        super().close()
        if self._home is not None:
            self._home.cleanup()
            self._home = None

    # What tests do behind the clients' backs.

    def create(
        self,
        id: str,
        files: Mapping[str, bytes] | None = None,
        *,
        kind: str = "dataset",
        private: bool = False,
        gated: str | bool = False,
    ) -> Repo:
        """Make a repository, with a commit of `files` if any; 409 if it exists."""
        if (kind, id) in self.repos:
            raise HubError(409, f"You already created this {kind} repo: {id}")
        repo = Repo(
            kind, id, private=private, gated=gated,
            attributes=self.store(".gitattributes", GITATTRIBUTES.encode()),
        )  # fmt: skip
        self.repos[kind, id] = repo
        if files:
            self.commit(id, files, kind=kind)
        return repo

    def repo(self, id: str, kind: str = "dataset") -> Repo:
        """A repository, whoever asks."""
        return self.repos[kind, id]

    def commit(
        self,
        id: str,
        files: Mapping[str, bytes | None],
        *,
        revision: str = "main",
        title: str = "commit",
        kind: str = "dataset",
        author: str = "tester",
    ) -> str:
        """Commit contents (``None`` deletes) and return the new commit's id."""
        operations: list[Any] = [
            ("delete", path, None) if data is None else ("put", path, self.store(path, data))
            for path, data in files.items()
        ]
        made, _ = self.repo(id, kind).commit(revision, operations, title=title, author=author)
        return made.sha

    def head(self, id: str, revision: str = "main", kind: str = "dataset") -> str:
        """Commit id of a revision."""
        return self.repo(id, kind).resolve(revision).sha

    def files(self, id: str, revision: str = "main", kind: str = "dataset") -> dict[str, bytes]:
        """Paths and contents at a revision."""
        found = self.repo(id, kind).resolve(revision).files
        return {path: self.body(blob).read(0, blob.size) for path, blob in sorted(found.items())}

    def store(self, path: str, data: bytes) -> Blob:
        """Keep a content as the Hub would for a file of that name."""
        sha256 = self.objects.put(data)
        if is_lfs(path, len(data), data[:512]):
            return lfs_blob(sha256, len(data))
        return Blob(sha256, len(data), git_oid("blob", data), False)

    def body(self, blob: Blob) -> Body:
        found = self.objects.get(blob.sha256)
        if found is None:
            raise LookupError(f"no content {blob.sha256}")
        return found

    # Who may do what.

    def caller(self, request: Request) -> Account | None:
        """Account of the request's token, ``None`` without one."""
        header = request.headers.get("authorization", "")
        token = header.removeprefix("Bearer ").strip()
        if not token:
            return None
        if self.tokens is None:
            return Account("tester")
        if token not in self.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.tokens[token]

    def find(self, request: Request, kind: str, id: str, need: str) -> tuple[Repo, Account | None]:
        """The repository, if the caller may see it and do what it needs to.

        `need` is ``see`` (metadata and listings), ``read`` (contents), ``propose`` (pull requests
        and discussions) or ``write``.
        """
        caller = self.caller(request)
        repo = self.repos.get((kind, id))
        member = caller is not None and repo is not None and self._owns(caller, repo)
        if repo is None or (repo.private and not member):
            # The real Hub gives strangers a 401 without the code; its clients then go by https://.
            if caller is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        if need == "read" and repo.gated and not member:
            about = f"Access to {kind} {id} is restricted"
            if caller is None:
                raise HubError(
                    401,
                    f"{about}. You must have access to it and be authenticated to access it. "
                    "Please log in.",
                    "GatedRepo",
                )
            if caller.name not in repo.allowed:
                page = f"https://huggingface.co/{'' if kind == 'model' else f'{kind}s/'}{id}"
                raise HubError(
                    403,
                    f"{about} and you are not in the authorized list. Visit {page} to ask for "
                    "access.",
                    "GatedRepo",
                )
        if need in {"propose", "write"} and caller is None:
            raise HubError(401, "Invalid username or password.")
        if need == "write" and not (member and caller is not None and caller.write):
            raise HubError(403, f"You don't have the rights to write to {kind} {id}")
        return repo, caller

    def _owns(self, caller: Account, repo: Repo) -> bool:
        return self.tokens is None or caller.owns(repo)

    # Answers.

    def answer(self, request: Request) -> Answer:
        try:
            if request.origin == "cdn":
                return self._storage(request)
            if match := _CACHED.fullmatch(request.target):
                return self._download(request, match, cached=True)
            if request.target.startswith("/api/"):
                return hub_api.answer(self, request)
            if match := _LFS.fullmatch(request.target):
                return self._lfs(request, match)
            if match := _RESOLVE.fullmatch(request.target):
                return self._download(request, match, cached=False)
            raise HubError(404, "Sorry, we can't find the page you are looking for.")
        except HubError as error:
            headers = {"X-Error-Message": error.message, **error.headers}
            if error.code:
                headers["X-Error-Code"] = error.code
            return as_json({"error": error.message}, error.status, headers)

    def _download(self, request: Request, match: re.Match[str], *, cached: bool) -> Answer:
        kind, id = (match["kind"] or "models").removesuffix("s"), unquote(match["id"])
        repo, _ = self.find(request, kind, id, "read")
        commit = repo.resolve(unquote(match["revision"]))
        path = unquote(match["path"])
        blob = commit.files.get(path)
        headers = {"X-Repo-Commit": commit.sha}
        if blob is None:
            raise HubError(404, "Entry not found", "EntryNotFound", **headers)
        headers |= {"ETag": blob.etag, "Content-Type": "application/octet-stream"}
        if blob.lfs:
            headers |= {"X-Linked-Size": str(blob.size), "X-Linked-Etag": blob.etag}
            if self.redirects:
                headers["Location"] = f"{self.cdn_url}/cdn/{kind}s/{id}/{self._signed(blob.sha256)}"
                return Answer(302, Held(b"Found. Redirecting"), headers)
        elif self.redirects and not cached and blob.size and not (repo.private or repo.gated):
            place = f"/api/resolve-cache/{kind}s/{id}/{commit.sha}/{quote(path)}"
            headers["Location"] = f"{place}?etag={quote(blob.etag)}"
            del headers["ETag"]
            return Answer(307, Held(b"Temporary Redirect"), headers)
        if request.headers.get("if-none-match") == blob.etag:
            return Answer(304, headers=headers)
        return Answer(200, self.body(blob), headers, ranged=True)

    def _signed(self, sha256: str) -> str:
        return f"{sha256}?Signature={hashlib.sha256((self._secret + sha256).encode()).hexdigest()}"

    def _storage(self, request: Request) -> Answer:
        """The second origin: contents under signed addresses, as an object store has them."""
        sha256 = request.target.rsplit("/", 1)[-1]
        if f"{sha256}?Signature={request.query.get('Signature', [''])[0]}" != self._signed(sha256):
            raise HubError(403, "AccessDenied")
        if request.method == "PUT":
            if hashlib.sha256(request.body).hexdigest() != sha256:
                raise HubError(400, "BadDigest: the content does not have the announced SHA-256")
            self.objects.put(request.body)
            return Answer(200, headers={"ETag": f'"{sha256}"'})
        found = self.objects.get(sha256)
        if found is None:
            raise HubError(404, "NoSuchKey")
        headers = {"ETag": f'"{sha256}"', "Content-Type": "application/octet-stream"}
        return Answer(200, found, headers, ranged=True)

    def _lfs(self, request: Request, match: re.Match[str]) -> Answer:
        kind, id = (match["kind"] or "models").removesuffix("s"), unquote(match["id"])
        self.find(request, kind, id, "propose")
        wanted = json.loads(request.body)
        if match["step"] == "verify":
            found = self.objects.get(wanted["oid"])
            if found is None or found.size != wanted["size"]:
                raise HubError(404, "The object was not uploaded")
            return as_json({})
        objects = []
        for one in wanted["objects"]:
            entry = {"oid": one["oid"], "size": one["size"]}
            if self.objects.get(one["oid"]) is None:
                entry["actions"] = {
                    "upload": {"href": f"{self.cdn_url}/lfs/{self._signed(one['oid'])}"},
                    "verify": {"href": self.url + request.target.replace("/batch", "/verify")},
                }
            objects.append(entry)
        return as_json({"transfer": "basic", "objects": objects})
