# SPDX-License-Identifier: Apache-2.0
"""The Hub's JSON API: repositories, trees, commits, refs, discussions, the card check."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlencode

import yaml

from . import hub_card, hub_discussions
from .http_base import Answer, Request, as_json
from .hub_repos import (
    Commit,
    HubError,
    Operation,
    Repo,
    entries,
    file_entry,
    folder_entry,
    is_lfs,
    lfs_blob,
    moment,
)

if TYPE_CHECKING:
    from .hub import HubServer

_PLACE = re.compile(r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)(?:/(?P<rest>.+))?")
_SPECIAL = re.compile(r"refs/(?:pr|convert)/[^/]+")


def answer(hub: HubServer, request: Request) -> Answer:
    """Answer a request below ``/api/``."""
    if found := _GLOBAL.get((request.method, request.target)):
        return found(hub, request)
    place = _PLACE.fullmatch(request.target)
    if place is None:
        raise HubError(404, "Sorry, we can't find the page you are looking for.")
    kind, id = place["kind"].removesuffix("s"), unquote(place["id"])
    verb, _, rest = (place["rest"] or "").partition("/")
    need, act = _REPO_ACTS.get((request.method, verb), ("", None))
    if act is None:
        raise HubError(404, f"{request.method} {request.path} is not an address of this Hub")
    pull = verb in {"commit", "preupload"} and _split(rest)[0].startswith("refs/pr/")
    if pull or request.query.get("create_pr") == ["1"]:
        need = "propose"
    elif (verb == "discussions" and rest.endswith(("/merge", "/status"))) or (
        verb == "auth-check" and rest == "write"
    ):
        need = "write"
    repo, caller = hub.find(request, kind, id, need)
    who = caller.name if caller else ""
    refs = {one.ref for one in repo.discussions.values() if one.author == who}
    if pull and _split(rest)[0] not in refs:  # a pull request is its author's, and the owners'
        hub.find(request, kind, id, "write")
    return act(hub, request, repo, rest, who)


def _split(rest: str) -> tuple[str, str]:
    """Revision and path of ``<revision>[/<path>]``."""
    special = _SPECIAL.match(rest)
    head = special[0] if special else rest.split("/", 1)[0]
    return unquote(head), unquote(rest[len(head) + 1 :])


def _paged(hub: HubServer, request: Request, items: list[Any]) -> Answer:
    """One page, with a Link to the next."""
    start = int(request.query.get("cursor", ["0"])[0])
    stop = start + hub.page_size
    headers = {}
    if stop < len(items):
        query = {**request.query, "cursor": [str(stop)]}
        link = f"{hub.url}{request.target}?{urlencode(query, doseq=True)}"
        headers["Link"] = f'<{link}>; rel="next"'
    return as_json(items[start:stop], 200, headers)


def _truth(values: list[str] | None) -> bool:
    return (values or [""])[0].lower() in {"1", "true"}


# Not about one repository.


def _create(hub: HubServer, request: Request) -> Answer:
    caller = hub.caller(request)
    wanted = json.loads(request.body)
    if caller is None:
        raise HubError(401, "Invalid username or password.")
    namespace = wanted.get("organization") or caller.name
    kind = wanted.get("type") or "model"
    if hub.tokens is not None and not (caller.write and namespace in (caller.name, *caller.orgs)):
        raise HubError(
            403,
            f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"',
        )
    id = f"{namespace}/{wanted['name']}"
    private = wanted.get("private") or wanted.get("visibility") == "private"
    url = f"{hub.url}/{'' if kind == 'model' else f'{kind}s/'}{id}"
    if (kind, id) in hub.repos:
        message = f"You already created this {kind} repo: {id}"
        return as_json({"error": message, "url": url}, 409, {"X-Error-Message": message})
    hub.create(id, kind=kind, private=bool(private))
    return as_json({"url": url, "name": id, "id": id})


def _delete(hub: HubServer, request: Request) -> Answer:
    caller = hub.caller(request)
    wanted = json.loads(request.body)
    kind = wanted.get("type") or "model"
    namespace = wanted.get("organization") or (caller.name if caller else "")
    repo, _ = hub.find(request, kind, f"{namespace}/{wanted['name']}", "write")
    del hub.repos[kind, repo.id]
    return as_json({})


def _whoami(hub: HubServer, request: Request) -> Answer:
    caller = hub.caller(request)
    if caller is None:
        raise HubError(401, "Invalid username or password.")
    role = "write" if caller.write else "read"
    return as_json(
        {
            "type": "user",
            "name": caller.name,
            "orgs": [{"type": "org", "name": one} for one in caller.orgs],
            "auth": {"type": "access_token", "accessToken": {"role": role}},
        }
    )


def _check_card(hub: HubServer, request: Request) -> Answer:
    wanted = json.loads(request.body)
    errors, warnings = hub_card.check(wanted["content"], wanted.get("repoType") or "model")
    return as_json(
        {
            "errors": [{"message": one} for one in errors],
            "warnings": [{"message": one} for one in warnings],
        },
        400 if errors else 200,
    )


# About one repository: (hub, request, repository, rest of the path, caller's name) -> answer.


def _info(hub: HubServer, request: Request, repo: Repo, rest: str, who: str) -> Answer:
    commit = repo.resolve(unquote(rest) if rest else "main")
    blobs = _truth(request.query.get("blobs"))
    siblings = []
    for path, blob in sorted(commit.files.items()):
        entry: dict[str, Any] = {"rfilename": path}
        if blobs:
            entry |= {"size": blob.size, "blobId": blob.oid}
            if blob.lfs:
                facts = {"size": blob.size, "sha256": blob.sha256}
                entry["lfs"] = {**facts, "pointerSize": blob.pointer_size}
        siblings.append(entry)
    value = {
        "_id": repo.id,
        "id": repo.id,
        "author": repo.namespace,
        "sha": commit.sha,
        "createdAt": moment(repo.created),
        "lastModified": moment(commit.date),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": siblings,
    }
    if repo.kind == "model":
        value["modelId"] = repo.id
    if (card := commit.files.get("README.md")) and not repo.gated:
        text = hub.body(card).read(0, card.size).decode(errors="replace")
        block = hub_card._BLOCK.match(text)
        value["cardData"] = (yaml.safe_load(block[2]) if block else None) or None
    return as_json(value)


def _tree(hub: HubServer, request: Request, repo: Repo, rest: str, who: str) -> Answer:
    revision, folder = _split(rest)
    commit = repo.resolve(revision)
    found = entries(commit, folder, recursive=_truth(request.query.get("recursive")))
    if _truth(request.query.get("expand")):
        found = [_with_last_commit(repo, commit, one) for one in found]
    return _paged(hub, request, found)


def _paths_info(hub: HubServer, request: Request, repo: Repo, rest: str, who: str) -> Answer:
    commit = repo.resolve(_split(rest)[0])
    if "json" in request.headers.get("content-type", ""):
        sent = json.loads(request.body)
        paths, expand = sent["paths"], bool(sent.get("expand"))
    else:
        form = parse_qs(request.body.decode())
        paths, expand = form.get("paths", []), _truth(form.get("expand"))
    found = []
    for path in (one.strip("/") for one in paths):
        if path in commit.files:
            found.append(file_entry(path, commit.files[path]))
        elif any(one.startswith(f"{path}/") for one in commit.files):
            found.append(folder_entry(commit, path))
    return as_json([_with_last_commit(repo, commit, one) if expand else one for one in found])


def _with_last_commit(repo: Repo, commit: Commit, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with the commit that last changed it."""
    path = entry["path"]
    last = commit
    for older in repo.history(commit.sha):
        now = {p: b for p, b in commit.files.items() if p == path or p.startswith(f"{path}/")}
        if any(older.files.get(p) != b for p, b in now.items()):
            break
        last = older
    facts = {"id": last.sha, "title": last.title, "date": moment(last.date)}
    return {**entry, "lastCommit": facts}


def _refs(hub: HubServer, request: Request, repo: Repo, rest: str, who: str) -> Answer:
    groups = {"branches": "refs/heads/", "tags": "refs/tags/", "converts": "refs/convert/"}
    if _truth(request.query.get("include_prs")):
        groups["pullRequests"] = "refs/pr/"
    return as_json(
        {
            group: [
                {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha}
                for ref, sha in repo.refs.items()
                if ref.startswith(prefix)
            ]
            for group, prefix in groups.items()
        }
    )


def _commits(hub: HubServer, request: Request, repo: Repo, rest: str, who: str) -> Answer:
    found = [
        {
            "id": one.sha,
            "title": one.title,
            "message": one.message,
            "authors": [{"user": one.author}],
            "date": moment(one.date),
        }
        for one in repo.history(repo.resolve(_split(rest)[0]).sha)
    ]
    return _paged(hub, request, found)


def _preupload(hub: HubServer, request: Request, repo: Repo, rest: str, who: str) -> Answer:
    commit = repo.resolve(_split(rest)[0])
    found = []
    for one in json.loads(request.body)["files"]:
        path, sample = one["path"], base64.b64decode(one.get("sample", ""))
        held = commit.files.get(path)
        entry = {
            "path": path,
            "uploadMode": "lfs" if is_lfs(path, one["size"], sample) else "regular",
            "shouldIgnore": False,
        }
        if held is not None:
            entry["oid"] = held.etag.strip('"')
        found.append(entry)
    return as_json({"files": found})


def _commit(hub: HubServer, request: Request, repo: Repo, rest: str, who: str) -> Answer:
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    header = next(one["value"] for one in lines if one["key"] == "header")
    operations: list[Operation] = []
    for one in lines:
        value = one["value"]
        if one["key"] == "file":
            data = base64.b64decode(value["content"])
            operations.append(("put", value["path"], hub.store(value["path"], data)))
        elif one["key"] == "lfsFile":
            held = hub.objects.get(value["oid"])
            if held is None:
                raise HubError(400, f"LFS pointer to a file that does not exist: {value['path']}")
            operations.append(("put", value["path"], lfs_blob(value["oid"], held.size)))
        elif one["key"] == "deletedFile":
            operations.append(("delete", value["path"], None))
        elif one["key"] == "deletedFolder":
            operations.append(("delete_folder", value["path"].rstrip("/"), None))
    made, discussion = repo.commit(
        _split(rest)[0],
        operations,
        title=header["summary"],
        message=header.get("description") or "",
        author=who,
        parent=header.get("parentCommit"),
        pull_request=_truth(request.query.get("create_pr")),
    )
    page = f"{hub.url}/{'' if repo.kind == 'model' else f'{repo.kind}s/'}{repo.id}"
    value = {"success": True, "commitOid": made.sha, "commitUrl": f"{page}/commit/{made.sha}"}
    if discussion:
        value["pullRequestUrl"] = f"{page}/discussions/{discussion.num}"
    return as_json(value)


def _add_tag(hub: HubServer, request: Request, repo: Repo, rest: str, who: str) -> Answer:
    tag = json.loads(request.body)["tag"]
    with repo.lock:
        if f"refs/tags/{tag}" in repo.refs:
            raise HubError(409, "Tag reference exists already")
        repo.refs[f"refs/tags/{tag}"] = repo.resolve(_split(rest)[0]).sha
    return as_json({})


def _add_branch(hub: HubServer, request: Request, repo: Repo, rest: str, who: str) -> Answer:
    start = json.loads(request.body or b"{}").get("startingPoint", "main")
    with repo.lock:
        if f"refs/heads/{unquote(rest)}" in repo.refs:
            raise HubError(409, "Reference already exists")
        repo.refs[f"refs/heads/{unquote(rest)}"] = repo.resolve(start).sha
    return as_json({})


def _remove(prefix: str) -> Callable[..., Answer]:
    def act(hub: HubServer, request: Request, repo: Repo, rest: str, who: str) -> Answer:
        name = unquote(rest)
        if (prefix, name) == ("refs/heads/", "main"):
            raise HubError(403, "Cannot delete the main branch")
        if repo.refs.pop(f"{prefix}{name}", None) is None:
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return as_json({})

    return act


def _settings(hub: HubServer, request: Request, repo: Repo, rest: str, who: str) -> Answer:
    wanted = json.loads(request.body)
    repo.gated = wanted.get("gated", repo.gated)
    if "visibility" in wanted or "private" in wanted:
        repo.private = wanted.get("private", wanted.get("visibility") == "private")
    return as_json({"private": repo.private, "gated": repo.gated})


def _auth_check(hub: HubServer, request: Request, repo: Repo, rest: str, who: str) -> Answer:
    return as_json({})


_GLOBAL: dict[tuple[str, str], Callable[[HubServer, Request], Answer]] = {
    ("POST", "/api/repos/create"): _create,
    ("DELETE", "/api/repos/delete"): _delete,
    ("GET", "/api/whoami-v2"): _whoami,
    ("POST", "/api/validate-yaml"): _check_card,
}
_REPO_ACTS: dict[tuple[str, str], tuple[str, Callable[..., Answer]]] = {
    ("GET", ""): ("see", _info),
    ("GET", "revision"): ("see", _info),
    ("GET", "tree"): ("see", _tree),
    ("POST", "paths-info"): ("see", _paths_info),
    ("GET", "refs"): ("see", _refs),
    ("GET", "commits"): ("see", _commits),
    ("POST", "preupload"): ("write", _preupload),
    ("POST", "commit"): ("write", _commit),
    ("POST", "tag"): ("write", _add_tag),
    ("DELETE", "tag"): ("write", _remove("refs/tags/")),
    ("POST", "branch"): ("write", _add_branch),
    ("DELETE", "branch"): ("write", _remove("refs/heads/")),
    ("PUT", "settings"): ("write", _settings),
    ("GET", "auth-check"): ("read", _auth_check),
    ("GET", "discussions"): ("see", hub_discussions.show),
    ("POST", "discussions"): ("propose", hub_discussions.act),
}
