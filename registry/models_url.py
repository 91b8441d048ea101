# SPDX-License-Identifier: Apache-2.0
"""Weights that are published as one file at an address: fetched once, kept whole.

Part of :mod:`matteratlas.registry.hub`, which is the one door to the network.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from filelock import FileLock

from ..schemas.errors import SourceError
from .models_hub import ALLOWED, downloads_allowed
from .packages import cache_dir

_PIECE = 1 << 20
_SECONDS = 60


def model_url(url: str) -> Path:
    """The file at ``url``, in the cache; downloaded if it is not there and the user allows it.

    The cache is ``<cache>/weights/<hash of the address>/<name>``; the file appears there when it is
    complete.

    Raises
    ------
    SourceError
        One line that says what is missing: consent, network, or the file.
    """
    parts = urlsplit(url)
    name = parts.path.rpartition("/")[2]
    if parts.scheme not in {"http", "https"} or not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
        raise SourceError(f"{url}: not the http(s) address of a file; mend the card's path")
    folder = cache_dir() / "weights" / hashlib.sha256(url.encode()).hexdigest()[:16]
    path = folder / name
    if path.is_file():
        return path
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise SourceError(
            f"{url}: not in the cache and HF_HUB_OFFLINE forbids the network; unset it, or put "
            f"the file at {path}"
        )
    if not downloads_allowed():
        raise SourceError(
            f"{url}: not in the cache; allow its download with --download (or {ALLOWED}=1), or "
            f"put the file at {path}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not path.is_file():
            _download(url, path)
    return path


def _download(url: str, path: Path) -> None:
    """Into a file beside it first; a body shorter than announced is no file."""
    part = tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False)  # noqa: SIM115
    try:
        with part, urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            size = 0
            while piece := answer.read(_PIECE):
                part.write(piece)
                size += len(piece)
            announced = answer.headers.get("Content-Length")
        if announced is not None and size != int(announced):
            raise SourceError(f"{url}: {size} bytes of {announced} came; try again")
        Path(part.name).replace(path)
    except HTTPError as error:
        raise SourceError(f"{url}: HTTP {error.code}; check the address, or try later") from None
    except (OSError, HTTPException) as error:
        raise SourceError(f"{url}: {error}; check the network and the disk, and try again") from (
            error
        )
    finally:
        Path(part.name).unlink(missing_ok=True)
