# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a server and its client, as values a test plans for a request."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .http_base import Request


@dataclass(frozen=True)
class Fault:
    """One way of answering badly. Build it with the functions below.

    ``status`` and ``headers`` replace the answer; ``edit`` changes the body's bytes; ``delay``
    waits before the first byte; ``pause`` waits after every ``block`` bytes; ``keep`` ends the
    connection after that many bytes of the body, by a reset (``reset``) or an orderly close, under
    the full Content-Length or (``honest``) one that agrees with the bytes kept; ``drop`` closes
    without a word.
    """

    name: str
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    pause: float = 0.0
    block: int = 65536
    keep: int | None = None
    reset: bool = False
    honest: bool = False
    drop: bool = False
    edit: Callable[[bytes], bytes] | None = None


#: A server asks this for every request, before it answers; ``None`` answers well.
Planner = Callable[["Request"], "Fault | None"]


def cut(after: int = 0) -> Fault:
    """The connection is reset after `after` bytes of the body."""
    return Fault("cut", keep=after, reset=True)


def truncate(after: int = 0) -> Fault:
    """The body ends after `after` bytes, under the full Content-Length."""
    return Fault("truncate", keep=after)


def shorten(keep: int = 0) -> Fault:
    """Only `keep` bytes of the body, under a Content-Length that says so."""
    return Fault("shorten", keep=keep, honest=True)


def refuse() -> Fault:
    """The connection closes without any answer."""
    return Fault("refuse", drop=True)


def fail(status: int = 500, **headers: str) -> Fault:
    """An error status; ``Header_Name="value"`` adds headers."""
    return Fault(
        f"fail {status}",
        status=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def rate_limit(seconds: int = 0) -> Fault:
    """429 with Retry-After and the Hub's RateLimit headers (clients wait one second more)."""
    return Fault(
        "rate limit",
        status=429,
        headers={
            "Retry-After": str(seconds),
            "RateLimit": f'"resolvers";r=0;t={seconds}',
            "RateLimit-Policy": '"fixed window";"resolvers";q=3000;w=300',
        },
    )


def corrupt(position: int = 0, mask: int = 0x01) -> Fault:
    """One byte of the body is flipped; negative positions count from its end."""

    def edit(body: bytes) -> bytes:
        if not body:
            return body
        place = position % len(body)
        return body[:place] + bytes([body[place] ^ mask]) + body[place + 1 :]

    return Fault("corrupt", edit=edit)


def replace(body: bytes) -> Fault:
    """Another body altogether (another length too, if so)."""
    return Fault("replace", edit=lambda _: body)


def slow(seconds: float) -> Fault:
    """The answer starts `seconds` late."""
    return Fault("slow", delay=seconds)


def drip(pause: float, block: int = 1024) -> Fault:
    """The body comes `block` bytes at a time, with a pause after each."""
    return Fault("drip", pause=pause, block=block)


def plan(
    fault: Fault,
    *,
    method: str | None = None,
    path: str = "*",
    origin: str | None = None,
    skip: int = 0,
    times: int | None = None,
) -> Planner:
    """Plan a fault for the requests that match, after the first `skip`, at most `times` times.

    Parameters
    ----------
    method:
        ``GET``, ``HEAD``, ...; any if absent.
    path:
        Shell pattern over the unquoted path (``*`` spans slashes).
    origin:
        ``main`` or ``cdn``; any if absent.
    """
    seen = 0
    lock = threading.Lock()

    def planner(request: Request) -> Fault | None:
        nonlocal seen
        if method not in (None, request.method) or origin not in (None, request.origin):
            return None
        if not fnmatch.fnmatchcase(request.path, path):
            return None
        with lock:
            seen += 1
            number = seen - skip
        return fault if number >= 1 and (times is None or number <= times) else None

    return planner


def first_of(*planners: Planner) -> Planner:
    """Several plans at once: every one sees the request, the first fault given is used."""

    def planner(request: Request) -> Fault | None:
        found = [one(request) for one in planners]
        return next((fault for fault in found if fault is not None), None)

    return planner
