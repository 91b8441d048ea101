# SPDX-License-Identifier: Apache-2.0
"""Weights from the model hub: files of one revision, in the cache the hub's own clients share.

Part of :mod:`matteratlas.registry.hub`, which is the one door to the network.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from ..schemas.errors import SourceError
from .replies import plain

#: Set to 1, models may be downloaded; without it only what is in the cache is read.
ALLOWED = "MATTERATLAS_DOWNLOADS"


def downloads_allowed() -> bool:
    """Whether the user lets models be downloaded (``$MATTERATLAS_DOWNLOADS`` is 1)."""
    return os.environ.get(ALLOWED, "") == "1"


def model_files(repo: str, revision: str, patterns: Sequence[str]) -> Path:
    """A folder with the files of a model on the hub, downloaded where they are not cached.

    The cache is the one every client of the hub uses (``$HF_HOME``); access tokens are taken from
    where those clients keep them (``$HF_TOKEN`` or ``hf auth login``). Nothing in the files runs.

    Parameters
    ----------
    repo:
        ``ORG/NAME``.
    revision:
        A commit (40 hex digits), so that the files can never change; or a tag or branch.
    patterns:
        Names or shell patterns of the files wanted; the first one must match some file.

    Returns
    -------
    Path
        The snapshot's folder. It may hold further files of the same revision.

    Raises
    ------
    SourceError
        One line that says what is missing: consent, network, access to a gated model, a token, the
        repository, the revision, or a file.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    name = f"{repo}@{revision[:12]}"
    wanted = list(patterns)
    try:
        folder = Path(
            snapshot_download(repo, revision=revision, allow_patterns=wanted, local_files_only=True)
        )
        if _holds(folder, wanted[0]):
            return folder
    except LocalEntryNotFoundError:
        pass  # not in the cache, or not all of it
    except HFValidationError as error:
        raise SourceError(f"{name}: {plain(error)}; write ORG/NAME") from None
    if constants.is_offline_mode():
        raise SourceError(
            f"{name}: not in the cache and HF_HUB_OFFLINE forbids the network; unset it, or fetch "
            f"the model where there is one: hf download {repo} --revision {revision}"
        )
    if not downloads_allowed():
        raise SourceError(
            f"{name}: not in the cache; allow its download with --download (or {ALLOWED}=1), or "
            f"fetch it yourself: hf download {repo} --revision {revision}"
        )
    folder = _download(repo, revision, wanted, name)
    if not _holds(folder, wanted[0]):
        raise SourceError(f"{name}: the revision holds no '{wanted[0]}'; mend the card's path")
    return folder


def _download(repo: str, revision: str, patterns: list[str], name: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,  # of the client's HTTP library, whichever it is
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import get_token

    signed_in = get_token() is not None
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except GatedRepoError:  # a kind of RepositoryNotFoundError
        mend = "wait until access is granted" if signed_in else "set HF_TOKEN"
        page = f"{constants.ENDPOINT}/{repo}"
        raise SourceError(f"{name}: gated; accept its terms on {page} and {mend}") from None
    except RepositoryNotFoundError:
        mend = "that HF_TOKEN may read it" if signed_in else "set HF_TOKEN if it is private"
        raise SourceError(
            f"{name}: no such model or no access; check its name and {mend}"
        ) from None
    except RevisionNotFoundError:
        raise SourceError(
            f"{name}: the model has no revision '{revision}'; mend the card's revision"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        what = "the token is not valid; renew HF_TOKEN" if status == 401 else "try again later"
        raise SourceError(f"{name}: HTTP {status} from {constants.ENDPOINT}; {what}") from None
    except (OSError, HTTPError) as error:  # no connection, a cut download, a full disk
        cause = error.__cause__ or error
        raise SourceError(
            f"{name}: {plain(cause)}; check the network and the disk, and try again"
        ) from error


def _holds(folder: Path, pattern: str) -> bool:
    return any(fnmatch(p.relative_to(folder).as_posix(), pattern) for p in folder.rglob("*"))
