# SPDX-License-Identifier: Apache-2.0
"""The discussions and pull requests of the Hub's JSON API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .http_base import Answer, Request, as_json
from .hub_repos import Discussion, HubError, Repo, moment

if TYPE_CHECKING:
    from .hub import HubServer


def _summary(repo: Repo, one: Discussion) -> dict[str, Any]:
    return {
        "num": one.num,
        "title": one.title,
        "author": {"name": one.author},
        "createdAt": moment(one.created),
        "status": one.status,
        "isPullRequest": one.ref is not None,
        "repo": {"name": repo.id, "type": repo.kind},
    }


def _numbered(repo: Repo, rest: str) -> Discussion:
    number = rest.split("/")[0]
    if not number.isdigit() or int(number) not in repo.discussions:
        raise HubError(404, f"Discussion {number} not found")
    return repo.discussions[int(number)]


def show(hub: HubServer, request: Request, repo: Repo, rest: str, who: str) -> Answer:
    if not rest:
        found = [_summary(repo, one) for one in reversed(repo.discussions.values())]
        return as_json({"discussions": found, "count": len(found), "start": 0})
    one = _numbered(repo, rest)
    value = {**_summary(repo, one), "events": one.events, "diff": ""}
    if one.ref is not None:
        value["changes"] = {"base": "refs/heads/main", "mergeCommitId": one.merge_commit}
        value["filesWithConflicts"] = repo.conflicts(one) if one.status == "open" else []
    return as_json(value)


def act(hub: HubServer, request: Request, repo: Repo, rest: str, who: str) -> Answer:
    sent = json.loads(request.body or b"{}") or {}
    if not rest:
        proposed = bool(sent.get("pullRequest"))
        status = "draft" if proposed else "open"
        one = repo.open(
            sent["title"], who, pull_request=proposed, status=status,
            description=sent.get("description", ""),
        )  # fmt: skip
        return as_json({"num": one.num})
    one = _numbered(repo, rest)
    step = rest.split("/")[1]
    if step == "merge":
        repo.merge(one, who, sent.get("comment", ""))
        return as_json({})
    if step == "status":
        return as_json({"newStatus": repo.set_status(one, sent["status"], who)})
    if step == "comment":
        return as_json({"newMessage": repo.comment(one, who, sent["comment"])})
    raise HubError(404, f"{request.path} is not an address of this Hub")
