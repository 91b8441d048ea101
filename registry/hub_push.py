# SPDX-License-Identifier: Apache-2.0
"""Writing to a dataset of the Hub: beside :mod:`matteratlas.registry.hub`, which reads.

The Hub's own client does it, so access tokens are taken from where that client keeps them
(``$HF_TOKEN`` or ``hf auth login``). Its errors become one line each, without addresses' queries.
"""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..schemas.errors import SourceError
from . import hub
from .hub_names import SCHEME
from .replies import RETRIED, asked_wait, plain

T = TypeVar("T")

#: Times a question is asked; uploads and commits are tried again by the client itself.
TRIES = 5
#: Files, and bytes, that are announced and sent together: between two such groups progress is told.
GROUP_FILES, GROUP_BYTES = 128, 2**30


#: What the client raises over an answer that is not the Hub's.
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError)


class _NoQueries(logging.Filter):
    """What the client logs of a try that failed, without signatures in its addresses."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record stays."""
        record.msg, record.args = re.sub(r"\?[^\s'\"<>)]*", "", record.getMessage()), ()
        return True


_NO_QUERIES = _NoQueries()


class MovedError(SourceError):
    """The branch is no longer at the commit that was seen: nothing was written."""


@dataclass(frozen=True)
class Refs:
    """Where a dataset stands: the commit of ``main``, and commits of tags by name."""

    head: str
    tags: dict[str, str]


@dataclass(frozen=True)
class HeldFile:
    """A file of a commit: ``sha256`` of one in large-file storage, git's ``oid`` of any other."""

    size: int
    sha256: str | None
    oid: str


class Remote:
    """One dataset, by ``ORG/NAME``."""

    def __init__(self, dataset: str) -> None:
        from huggingface_hub import HfApi, constants

        if hub.offline():
            raise SourceError(f"{dataset}: HF_HUB_OFFLINE forbids the Hub; unset it to push")
        logging.getLogger("huggingface_hub.utils._http").addFilter(_NO_QUERIES)
        endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self.dataset = dataset
        self.page = f"{endpoint}/datasets/{dataset}"
        self.api = HfApi(endpoint=endpoint, library_name="matteratlas")
        self._about: dict[str, Any] = {"repo_id": dataset, "repo_type": "dataset"}

    def refs(self) -> Refs | None:
        """Tags and the head of ``main``; None when there is no such dataset, or none to be seen."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            found = self._told(lambda: self.api.list_repo_refs(**self._about), tries=TRIES)
        except _Told as told:
            if isinstance(told.error, RepositoryNotFoundError) and not _denied(told.error):
                return None
            raise told.plainly() from None
        heads = {one.name: one.target_commit for one in found.branches}
        if "main" not in heads:
            raise SourceError(f"{self.page}: has no branch 'main'; make one, or another dataset")
        return Refs(heads["main"], {one.name: one.target_commit for one in found.tags})

    def tree(self, commit: str) -> dict[str, HeldFile]:
        """Every file of a commit, by path."""

        def listing() -> dict[str, HeldFile]:
            from huggingface_hub import RepoFile

            found = self.api.list_repo_tree(**self._about, revision=commit, recursive=True)
            return {
                one.path: HeldFile(one.size, one.lfs.sha256 if one.lfs else None, one.blob_id)
                for one in found
                if isinstance(one, RepoFile)
            }

        return self._plainly(listing)

    def read(self, path: str, commit: str) -> bytes:
        """A file of a commit."""
        fs, root = hub.filesystem(f"{SCHEME}{self.dataset}@{commit}")
        return hub.fetch(fs, f"{root}/{path}")

    def create(self, *, private: bool) -> None:
        """Make the dataset."""
        self._plainly(
            lambda: self.api.create_repo(**self._about, private=private or None, exist_ok=True)
        )

    def upload(self, additions: Sequence[Any], *, done: Callable[[Any], None]) -> None:
        """Send contents that the dataset does not hold, ahead of the commit that will name them.

        Raises
        ------
        SourceError
            It stopped; what was sent is kept there and is not sent again.
        """
        for group in _groups(additions):
            self._plainly(
                lambda group=group: self.api.preupload_lfs_files(  # type: ignore[misc]
                    self.dataset, group, repo_type="dataset", free_memory=False
                ),
                tries=1,
            )
            for one in group:
                done(one)

    def commit(self, operations: Sequence[Any], *, title: str, text: str, parent: str) -> str:
        """Commit onto ``main`` if it is still at ``parent``; returns the new commit.

        Raises
        ------
        MovedError
            It is not.
        """
        try:
            made = self._told(
                lambda: self.api.create_commit(
                    **self._about,
                    operations=operations,
                    commit_message=title,
                    commit_description=text,
                    parent_commit=parent,
                )
            )
        except _Told as told:
            if _status(told.error) == 412:
                raise MovedError(f"{self.page}: another commit landed since") from None
            raise told.plainly() from None
        return str(made.oid)

    def tag(self, name: str, commit: str) -> None:
        """Tag a commit; a tag that is there already must be of this commit."""
        try:
            self._told(
                lambda: self.api.create_tag(**self._about, tag=name, revision=commit), tries=TRIES
            )
        except _Told as told:
            if _status(told.error) != 409:
                raise told.plainly() from None
            refs = self.refs()
            if refs is None or refs.tags.get(name) != commit:
                raise SourceError(
                    f"{self.page}: tag '{name}' exists and is of another commit; tags never move, "
                    "release a higher version"
                ) from None

    def _plainly(self, call: Callable[[], T], *, tries: int = TRIES) -> T:
        try:
            return self._told(call, tries=tries)
        except _Told as told:
            raise told.plainly() from None

    def _told(self, call: Callable[[], T], *, tries: int = 1) -> T:
        """What the call gives; tried again after what may pass by itself."""
        from huggingface_hub.errors import HfHubHTTPError, HTTPError

        for attempt in range(1, tries + 1):
            try:
                return call()
            except (HfHubHTTPError, HTTPError, OSError, RuntimeError, *_MALFORMED) as error:
                # The client wraps what went wrong with one of several uploads.
                cause = error.__cause__ if isinstance(error, RuntimeError) else error
                if not isinstance(cause, (HfHubHTTPError, HTTPError, OSError, *_MALFORMED)):
                    raise
                status = _status(cause)
                passing = status in RETRIED if status else not isinstance(cause, _MALFORMED)
                wait = asked_wait(cause.response.headers) if status else None  # type: ignore[union-attr]
                pause = max(wait or 0.0, hub.PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
                if not passing or attempt == tries or pause > hub.LONGEST_WAIT:
                    raise _Told(self, cause) from None
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")


class _Told(Exception):
    """An error of the client, on its way to become a line."""

    def __init__(self, remote: Remote, error: BaseException) -> None:
        super().__init__()
        self.remote, self.error = remote, error

    def plainly(self) -> SourceError:
        """The line: what, and the mend."""
        from huggingface_hub.utils import get_token

        page, status = self.remote.page, _status(self.error)
        again = "push again: what was sent is not sent twice"
        if status in (401, 403, 404):
            if get_token() is None:
                mend = "set HF_TOKEN to a token that may write there"
            elif status == 401:
                mend = "the token is not valid, renew HF_TOKEN"
            else:
                mend = "check the name, and that HF_TOKEN may write there"
            return SourceError(f"{page}: HTTP {status}, no access; {mend}")
        if status == 429:
            return SourceError(f"{page}: HTTP 429, rate limit; {again} in a few minutes")
        if status:
            said = self.error.response.headers.get("X-Error-Message", "")  # type: ignore[attr-defined]
            what = f" ({' '.join(said.split())[:200]})" if said else ""
            return SourceError(f"{page}: HTTP {status}{what}; {again}")
        return SourceError(f"{page}: {plain(self.error)[:300]}; check the network and {again}")


def _status(error: BaseException) -> int:
    """HTTP status of a client's error, 0 where there was no answer."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _denied(error: BaseException) -> bool:
    from huggingface_hub.utils import get_token

    return _status(error) == 401 and get_token() is not None


def _groups(additions: Sequence[Any]) -> Iterator[list[Any]]:
    group: list[Any] = []
    size = 0
    for one in additions:
        if group and (len(group) >= GROUP_FILES or size + one.upload_info.size > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(one)
        size += one.upload_info.size
    if group:
        yield group


def addition(path: str, file: Path) -> Any:
    """A file to be in a commit; its hash is taken now."""
    from huggingface_hub import CommitOperationAdd

    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(file))


def deletion(path: str) -> Any:
    """A file to be in no later commit."""
    from huggingface_hub import CommitOperationDelete

    return CommitOperationDelete(path_in_repo=path)
