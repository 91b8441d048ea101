# SPDX-License-Identifier: Apache-2.0
"""What a server's answer means: bytes, a passing fault to try again after, or an error to act on.

Pure functions of status, headers and body; :mod:`matteratlas.registry.hub` does the talking.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from ..schemas.errors import ArchiveError, AtlasError, SourceError

#: Statuses that may pass by themselves.
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass
class Web:
    """What reading over HTTP has to remember; it sits on its file system as ``fs.web``.

    Attributes
    ----------
    headers :
        Sent to the location's own host only; on the Hub they hold the token.
    dataset, endpoint :
        The Hub's dataset and address; empty elsewhere.
    redirects :
        Where a file of a commit was found, by URL.
    said :
        Notices already given.
    """

    headers: dict[str, str] = field(default_factory=dict, repr=False)
    dataset: str = ""
    endpoint: str = ""
    redirects: dict[str, Any] = field(default_factory=dict, repr=False)
    said: set[str] = field(default_factory=set)

    @property
    def signed_in(self) -> bool:
        """Whether a token is sent."""
        return "authorization" in self.headers


class PassingFault(Exception):
    """Worth another try, after ``wait`` seconds if the server named a time.

    ``mend`` and ``error`` say what is raised when no try helps.
    """

    def __init__(
        self,
        what: str,
        *,
        wait: float | None = None,
        mend: str = "check the network and try again later",
        error: type[AtlasError] = SourceError,
    ) -> None:
        super().__init__(what)
        self.wait, self.mend, self.error = wait, mend, error


class NoRevisionError(SourceError):
    """The Hub has the dataset but not the revision."""


def content(
    path: str,
    answer: tuple[int, Mapping[str, str], bytes],
    start: int,
    stop: int | None,
    size: int | None,
) -> bytes | None:
    """The bytes asked for, checked; None when the answer is no 200, 206 or 416.

    Parameters
    ----------
    path:
        URL asked for, for messages.
    answer:
        Status, headers, body.
    start, stop:
        The range asked for; ``0, None`` is the whole file.
    size:
        Bytes the whole file is declared to have, if known.

    Raises
    ------
    PassingFault
        Too few bytes came, or of another range.
    ArchiveError
        The file itself is too short, or longer than declared.
    """
    status, headers, body = answer
    if status == 416:
        raise truncated(path, stop or start)
    if status == 200:
        # A server that knows no ranges sends the whole file.
        if size is not None and len(body) < size:
            raise PassingFault(
                f"sent {len(body)} of {size} bytes",
                mend="the file is truncated; fetch or build it again",
                error=ArchiveError,
            )
        check_size(path, len(body), size)
        if len(body) < (stop or start):
            raise truncated(path, stop or start)
        return body[start:stop] if start or stop is not None else body
    if status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        total = int(found[2]) if found and found[2] != "*" else None
        check_size(path, total, size)
        end = total if stop is None else stop
        if total is not None and (total <= start or total < (stop or 0)):
            raise truncated(path, stop or start)
        if not found or int(found[1]) != start or (end is not None and len(body) != end - start):
            raise PassingFault(f"sent {len(body)} bytes for the range {start}:{stop}")
        return body
    return None


def refusal(web: Web, path: str, status: int, headers: Mapping[str, str]) -> Exception:
    """The error that another status means, with its mend."""
    where, code = redacted(path), headers.get("X-Error-Code", "")
    if code == "GatedRepo":
        mend = "wait until access is granted" if web.signed_in else "set HF_TOKEN"
        page = f"{web.endpoint}/datasets/{web.dataset}"
        return SourceError(f"{where}: gated; accept its terms on {page} and {mend}")
    if code == "RevisionNotFound":
        return NoRevisionError(f"{where}: no such revision; check the tag or commit")
    if code == "RepoNotFound" or (web.dataset and status in (401, 403)):
        mend = "that HF_TOKEN may read it" if web.signed_in else "set HF_TOKEN if it is private"
        return SourceError(
            f"{where}: HTTP {status}, no such dataset or no access; check its name and {mend}"
        )
    if status in (404, 410):
        return FileNotFoundError(f"{where}: no such file")
    if status in (401, 403):
        return SourceError(f"{where}: HTTP {status}, access denied; ask its host for access")
    if status not in RETRIED:
        return SourceError(f"{where}: HTTP {status}; check the location")
    what, mend = f"HTTP {status}", "try again later"
    if status == 429:
        limit = re.search(r"q\s*=\s*(\d+).*?w\s*=\s*(\d+)", headers.get("RateLimit-Policy", ""))
        what += ", rate limit" + (f" of {limit[1]} requests in {limit[2]} s" if limit else "")
        if web.dataset and not web.signed_in:
            mend = "set HF_TOKEN, whose limit is higher, or try again later"
    return PassingFault(what, wait=asked_wait(headers), mend=mend)


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds from ``Retry-After`` (number or date) or ``RateLimit`` (IETF draft 9, the Hub's)."""
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # absent, or neither
        found = re.search(r";\s*t\s*=\s*(\d+)", headers.get("RateLimit", ""))
        return float(found[1]) if found else None


def check_size(path: str, actual: int | None, size: int | None) -> None:
    """Raise ArchiveError when a file is known to have another size than declared."""
    if size is not None and actual is not None and actual != size:
        raise ArchiveError(
            f"{redacted(path)}: has {actual} bytes, {size} are declared; fetch or build it again"
        )


def truncated(path: str, stop: int) -> ArchiveError:
    """The error for a file that ends too early."""
    return ArchiveError(
        f"{redacted(path)}: ends before byte {stop}; the file is truncated, fetch or build it again"
    )


def redacted(url: str) -> str:
    """A URL without user, password, query and fragment; a folder as it is."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    host, slash, path = re.split(r"[?#]", rest)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def plain(error: BaseException) -> str:
    """What an error says, without the queries of URLs in it: they may be signatures."""
    text = re.sub(r"\?[^\s'\"<>)]*", "", str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
