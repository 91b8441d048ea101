# SPDX-License-Identifier: Apache-2.0
"""Names of Hub datasets and revisions, and where what was pulled of them is kept."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from ..schemas.errors import SourceError
from . import versions
from .packages import cache_dir

SCHEME = "hf://datasets/"
COMMIT = re.compile(r"[0-9a-f]{40}")
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_SHORT = re.compile(rf"{_PART}/{_PART}(?:@[^\s]+)?")
_HUB = re.compile(
    r"hf://datasets/(?P<id>[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?P<folder>/.*)?"
)


def dataset_parts(location: str) -> tuple[str, str | None, str]:
    """Dataset, revision and folder of ``hf://datasets/ORG/NAME[@REVISION][/FOLDER]``.

    Raises
    ------
    SourceError
        It is written otherwise.
    """
    found = _HUB.fullmatch(location.rstrip("/"))
    if found is None:
        raise SourceError(f"{location}: write hf://datasets/ORG/NAME or ...@REVISION")
    revision = found["revision"]
    return found["id"], revision and unquote(revision), found["folder"] or ""


def location_of(text: str) -> str:
    """``ORG/NAME[@REVISION]`` is a Hub dataset; URLs and paths (``./out``, ``/out``) stay."""
    return f"{SCHEME}{text}" if _SHORT.fullmatch(text) else text


def near(wanted: str, known: Iterable[str]) -> str:
    """Names like one that is not there, for its error."""
    names = list(known)
    found = difflib.get_close_matches(wanted, names, n=5, cutoff=0.4) or names[-5:]
    return ", ".join(found) or "none"


# --- what was pulled -----------------------------------------------------------------------------


def kept_folder(dataset: str, commit: str) -> Path:
    """Where a commit of a dataset is pulled to unless another folder is named."""
    if not _SHORT.fullmatch(dataset) or not COMMIT.fullmatch(commit):
        raise SourceError(f"{dataset}@{commit}: no name of a dataset and commit; check both")
    return cache_dir() / "datasets" / dataset / commit


def remember(dataset: str, revision: str | None, commit: str) -> None:
    """Note which commit a revision was, for when there is no network."""
    path = kept_folder(dataset, commit).parent / "revisions.json"
    known = {**_revisions(path), revision or "": commit}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        scratch.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def recall(dataset: str, revision: str | None) -> Path | None:
    """The folder that a revision was last pulled to; None where it was not, or is gone."""
    commit = revision if revision and COMMIT.fullmatch(revision) else None
    if commit is None:
        known = _revisions(kept_folder(dataset, "0" * 40).parent / "revisions.json")
        tags = [one for one in known if versions.is_version(one)]
        names = [revision or "", versions.select(revision or "latest", tags)]
        commit = next((known[one] for one in names if one in known), None)
    if commit is None:
        return None
    folder = kept_folder(dataset, commit)
    return folder if folder.is_dir() else None


def _revisions(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(k): str(v) for k, v in found.items() if COMMIT.fullmatch(str(v))}
    except (OSError, ValueError, AttributeError):
        return {}  # nothing pulled yet, or a damaged note: both mean nothing is known
