# SPDX-License-Identifier: Apache-2.0
"""Pull requests on a Hub dataset: open one, see what one changes, fetch its files, answer it.

Everything is read at full commit ids, so that what was checked is what is taken.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schemas.errors import ArchiveError, SourceError
from . import hub

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: Bytes of a file fetched at once, and files at the same time.
PIECE = 64 * 2**20
STREAMS = 8

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_SECRET = re.compile(r"hf_[A-Za-z0-9]{8,}|(?<=[?&])[^\s'\"]+")


@dataclass(frozen=True)
class PullRequest:
    """What a pull request changes.

    Attributes
    ----------
    base, head :
        Commits of the dataset it grew from, and of itself.
    added :
        Size in bytes of every file that is new, by path.
    touched :
        Files of the dataset that it changes or removes.
    """

    number: int
    title: str
    status: str
    base: str
    head: str
    added: Mapping[str, int]
    touched: tuple[str, ...]


def repo_name(text: str) -> str:
    """``ORG/NAME`` of a dataset, however it is given.

    Raises
    ------
    SourceError
        It is no such name.
    """
    name = text.removeprefix("hf://").removeprefix("datasets/").partition("@")[0]
    if not _REPO.fullmatch(name):
        raise SourceError(f"--repo '{text[:80]}': write ORG/NAME")
    return name


def head_of(repo: str, revision: str = "main") -> str:
    """Full commit id that a branch, tag or ``refs/pr/N`` of a dataset names now."""
    with _explained(repo):
        return str(_api().dataset_info(repo, revision=revision).sha)


def open_pull_request(
    repo: str, files: Mapping[str, Path], *, title: str, description: str, parent: str
) -> tuple[int, str]:
    """Propose new files; number and address of the pull request.

    Parameters
    ----------
    files:
        Local file of each path in the dataset.
    parent:
        Commit of ``main`` that it grows from.

    Raises
    ------
    SourceError
        The Hub cannot be reached, or does not let this account propose.
    """
    from huggingface_hub import CommitOperationAdd

    operations = [
        CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(local))
        for path, local in sorted(files.items())
    ]
    with _explained(repo):
        made = _api().create_commit(
            repo_id=repo,
            repo_type="dataset",
            operations=operations,
            commit_message=title,
            commit_description=description,
            parent_commit=parent,
            create_pr=True,
        )
    if made.pr_num is None or made.pr_url is None:
        raise SourceError(f"datasets/{repo}: the Hub opened no pull request; try again")
    return int(made.pr_num), str(made.pr_url)


def own_pull_request(repo: str, *, title: str) -> tuple[int, str] | None:
    """Number and address of the newest open pull request of this account with this title.

    Titles name model and version. None also where nobody is logged in.

    Raises
    ------
    SourceError
        The Hub cannot be reached.
    """
    from huggingface_hub import get_token

    if not get_token():
        return None
    with _explained(repo):
        api = _api()
        own = str(api.whoami()["name"])
        for one in api.get_repo_discussions(repo, repo_type="dataset"):
            mine = one.is_pull_request and one.status in ("open", "draft") and one.author == own
            if mine and one.title == title:
                return int(one.num), str(one.url)
    return None


def holds(repo: str, number: int, files: Mapping[str, Path]) -> bool:
    """Whether a pull request holds just these contents at the paths where a model's files go."""
    from huggingface_hub import RepoFile

    head = head_of(repo, f"refs/pr/{number}")
    with _explained(repo):
        entries = _api().list_repo_tree(repo, repo_type="dataset", revision=head, recursive=True)
        found = {e.path: e for e in entries if isinstance(e, RepoFile)}
    for path, local in files.items():
        entry = found.get(path)
        if entry is None or entry.size != local.stat().st_size:
            return False
        if entry.lfs is not None:
            same = entry.lfs.sha256 == hub.sha256_of(local)
        else:
            data = local.read_bytes()
            same = entry.blob_id == hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        if not same:
            return False
    return True


def pull_request(repo: str, number: int) -> PullRequest:
    """What pull request ``number`` changes, from the commit where it left ``main``.

    Raises
    ------
    SourceError
        There is none, or the Hub cannot be reached.
    """
    with _explained(repo, what=f"pull request {number}"):
        api = _api()
        details = api.get_discussion_details(repo, number, repo_type="dataset")
        if not details.is_pull_request:
            raise SourceError(f"datasets/{repo}: discussion {number} is no pull request")
        commits = [c.commit_id for c in _commits(api, repo, f"refs/pr/{number}")]
        known = {c.commit_id for c in _commits(api, repo, "main")}
        base = next((c for c in commits if c in known), None)
        if base is None:
            raise SourceError(f"datasets/{repo}: pull request {number} did not grow from main")
        before, after = _tree(api, repo, base), _tree(api, repo, commits[0])
    added = {path: size for path, (size, _) in after.items() if path not in before}
    touched = [p for p, (_, oid) in before.items() if p not in after or after[p][1] != oid]
    return PullRequest(
        number, details.title, details.status, base, commits[0], added, tuple(sorted(touched))
    )


def fetch_files(
    repo: str, commit: str, files: Mapping[str, Path], *, sizes: Mapping[str, int]
) -> None:
    """Write files of one commit to disk, piece by piece, several at a time.

    Raises
    ------
    SourceError, ArchiveError
        A file cannot be read, or is not of the size announced.
    """
    fs, root = hub.filesystem(f"hf://datasets/{repo}@{commit}")

    def one(path: str) -> None:
        target, size = files[path], sizes[path]
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as handle:
            for start in range(0, size, PIECE):
                stop = min(size, start + PIECE)
                handle.write(hub.fetch(fs, f"{root}/{path}", start, stop))

    with ThreadPoolExecutor(STREAMS) as pool:
        try:
            list(pool.map(one, files))
        except FileNotFoundError as error:
            raise ArchiveError(f"datasets/{repo}@{commit}: {error}; look at it again") from error


def comment(repo: str, number: int, text: str) -> None:
    """Answer a pull request."""
    with _explained(repo, what=f"pull request {number}"):
        _api().comment_discussion(repo, number, repo_type="dataset", comment=text)


def unanswered(repo: str, *, marker: str) -> list[int]:
    """Open pull requests without a comment that holds ``marker`` and their newest commit."""
    found = []
    with _explained(repo):
        api = _api()
        for one in api.get_repo_discussions(repo, repo_type="dataset"):
            if not one.is_pull_request or one.status not in ("open", "draft"):
                continue
            details = api.get_discussion_details(repo, one.num, repo_type="dataset")
            newest = api.dataset_info(repo, revision=f"refs/pr/{one.num}").sha
            texts = [str(getattr(e, "content", "") or "") for e in details.events]
            if not any(marker in text and str(newest) in text for text in texts):
                found.append(int(one.num))
    return sorted(found)


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="matteratlas")


def _commits(api: HfApi, repo: str, revision: str) -> list[Any]:
    return list(api.list_repo_commits(repo, repo_type="dataset", revision=revision))


def _tree(api: HfApi, repo: str, commit: str) -> dict[str, tuple[int, str]]:
    """Size and git id of every file."""
    from huggingface_hub import RepoFile

    entries = api.list_repo_tree(repo, repo_type="dataset", revision=commit, recursive=True)
    return {e.path: (int(e.size), str(e.blob_id)) for e in entries if isinstance(e, RepoFile)}


@contextmanager
def _explained(repo: str, *, what: str = "dataset") -> Iterator[None]:
    """Errors of the client as one line without tokens and signed addresses."""
    from huggingface_hub import errors

    told: list[tuple[type[Exception], str]] = [
        (errors.GatedRepoError, "is gated; ask for access on its page, and log in"),
        (errors.RepositoryNotFoundError, "is not there; check its name, and HF_TOKEN"),
        (errors.RevisionNotFoundError, f"has no {what}; check its number"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE forbids the Hub; unset it"),
    ]
    try:
        yield
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.HTTPError) as error:
        for kind, text in told:
            if isinstance(error, kind):
                raise SourceError(f"datasets/{repo}: {text}") from None
        status = getattr(getattr(error, "response", None), "status_code", None)
        text = _SECRET.sub("***", " ".join(str(error).split()))[:200]
        mend = {
            401: "log in: hf auth login, or set HF_TOKEN",
            403: "this account may not do that; give HF_TOKEN the right to write",
            404: f"has no {what}; check its number",
            412: "main moved on meanwhile; run it again",
            429: "the Hub asks to wait; run it again later",
        }.get(status or 0, "check the network, and run it again")
        raise SourceError(f"datasets/{repo}: {text}; {mend}") from None
    except (ValueError, LookupError) as error:  # a reply cut short, or not the Hub's
        text = _SECRET.sub("***", " ".join(str(error).split()))[:200]
        raise SourceError(
            f"datasets/{repo}: the Hub's answer is not one ({text}); run it again"
        ) from None
