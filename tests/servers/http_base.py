# SPDX-License-Identifier: Apache-2.0
"""A threaded HTTP server on loopback that keeps a log and misbehaves when told to."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import socket
import struct
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import parse_qs, unquote, urlsplit

from .faults import Fault, Planner

_BLOCK = 1 << 20


@dataclass
class Request:
    """One request. ``status``, ``sent`` and ``fault`` are filled in as it is answered."""

    method: str
    path: str  #: unquoted, without the query
    target: str = field(repr=False)  #: path as sent
    query: dict[str, list[str]] = field(repr=False)
    headers: dict[str, str] = field(repr=False)  #: lower-case names
    body: bytes = field(repr=False)
    origin: str  #: ``main``, or ``cdn`` for the second origin of a Hub
    nth: int  #: 1 for the first request of this method and path
    range: str | None = None
    status: int = 0
    sent: int = 0  #: bytes of body handed to the socket
    fault: str | None = None


class Body(Protocol):
    """Bytes of known size that can be read in part."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, stop: int) -> bytes: ...


@dataclass(frozen=True)
class Held:
    """A body in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        return self.data[start:stop]


@dataclass(frozen=True)
class OnDisk:
    """A body in a file."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def read(self, start: int, stop: int) -> bytes:
        with self.path.open("rb") as handle:
            handle.seek(start)
            return handle.read(stop - start)


@dataclass
class Answer:
    """What a server means to say; Range applies where ``ranged``."""

    status: int = 200
    body: Body = Held(b"")
    headers: dict[str, str] = field(default_factory=dict)
    ranged: bool = False


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """A JSON answer."""
    kind = {"Content-Type": "application/json; charset=utf-8"}
    return Answer(status, Held(json.dumps(value).encode()), {**kind, **(headers or {})})


class LoopbackServer:
    """Base of the servers: subclasses say :meth:`answer`.

    Use it as a context manager. ``log`` holds every request in order of arrival; ``fault`` may be
    set at any time to a callable that is asked before each answer (it runs without locks held, so
    it may also act on the server: what happens between two requests of a client). An exception
    inside :meth:`answer` gives the client a 500 and is raised again when the server closes.
    """

    origins: tuple[str, ...] = ("main",)

    def __init__(self) -> None:
        self.log: list[Request] = []
        self.fault: Planner | None = None
        self.urls: dict[str, str] = {}
        self._listeners: list[ThreadingHTTPServer] = []
        self._sockets: set[socket.socket] = set()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._errors: list[str] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()

    @property
    def url(self) -> str:
        """``http://127.0.0.1:<port>``, no slash at the end."""
        return self.urls["main"]

    def answer(self, request: Request) -> Answer:
        raise NotImplementedError

    def __enter__(self) -> Self:
        for origin in self.origins:
            bound = type("Bound", (_Handler,), {"owner": self, "origin": origin})
            listener = _Listener(("127.0.0.1", 0), bound)
            self._listeners.append(listener)
            self.urls[origin] = f"http://127.0.0.1:{listener.server_address[1]}"
            threading.Thread(
                target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
            ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if self._errors and error is None:
            raise RuntimeError(f"{type(self).__name__} failed:\n{self._errors[0]}")

    def close(self) -> None:
        """Stop: later connections are refused and open ones end."""
        self._closed.set()
        while self._listeners:
            listener = self._listeners.pop()
            listener.shutdown()
            listener.server_close()
        with self._lock:
            open_sockets = list(self._sockets)
        for one in open_sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:  # the client was first
                continue

    def select(
        self,
        *,
        method: str | None = None,
        path: str = "*",
        status: int | None = None,
        origin: str | None = None,
    ) -> list[Request]:
        """Requests of the log that match; `path` is a shell pattern over the unquoted path."""
        return [
            one
            for one in list(self.log)
            if method in (None, one.method)
            and status in (None, one.status)
            and origin in (None, one.origin)
            and fnmatch.fnmatchcase(one.path, path)
        ]

    def sent(self, **wanted: Any) -> int:
        """Bytes of body sent for the requests that :meth:`select` gives."""
        return sum(one.sent for one in self.select(**wanted))

    def clear(self) -> None:
        """Forget the log."""
        with self._lock:
            self.log.clear()
            self._seen.clear()

    def _arrived(self, request: Request) -> None:
        with self._lock:
            self._seen[request.method, request.path] += 1
            request.nth = self._seen[request.method, request.path]
            self.log.append(request)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else the owner raises when it closes."""
        if not isinstance(sys.exception(), OSError):
            self.RequestHandlerClass.owner._errors.append(traceback.format_exc())  # type: ignore[attr-defined]


class _Handler(BaseHTTPRequestHandler):
    owner: LoopbackServer
    origin: str
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer on a kept connection waits for an ACK

    def setup(self) -> None:
        super().setup()
        with self.owner._lock:
            self.owner._sockets.add(self.connection)

    def finish(self) -> None:
        with self.owner._lock:
            self.owner._sockets.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """The owner keeps the log."""

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(
            method=self.command,
            path=unquote(parts.path),
            target=parts.path,
            query=parse_qs(parts.query, keep_blank_values=True),
            headers=headers,
            body=self._read_body(headers),
            origin=self.origin,
            nth=0,
            range=headers.get("range"),
        )
        self.owner._arrived(request)
        if self.owner._closed.is_set():
            self.close_connection = True
            return
        fault: Fault | None = None
        try:
            fault = self.owner.fault(request) if self.owner.fault else None
            if fault and fault.status:
                message = f"planned fault: {fault.name}".encode()
                answer = Answer(fault.status, Held(message), dict(fault.headers))
            elif fault and fault.drop:
                answer = Answer()
            else:
                answer = self.owner.answer(request)
        except Exception:
            # A request that arrives at a broken server must not hang; the owner raises it later.
            self.owner._errors.append(traceback.format_exc())
            answer = Answer(500, Held(traceback.format_exc().encode()))
        request.fault = fault.name if fault else None
        self._send(request, answer, fault or Fault("none"))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

    def _read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self._read_exactly(int(headers.get("content-length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0] or b"-1", 16):
            pieces.append(self._read_exactly(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            continue
        return b"".join(pieces)

    def _read_exactly(self, size: int) -> bytes:
        data = self.rfile.read(max(size, 0))
        if len(data) != size:
            raise ConnectionError("the client left in the middle of its request")
        return data

    def _send(self, request: Request, answer: Answer, fault: Fault) -> None:
        if fault.delay:
            self.owner._closed.wait(fault.delay)
        if fault.drop:
            return self._hang_up(reset=False)
        body, headers = answer.body, dict(answer.headers)
        start, stop, request.status = 0, body.size, answer.status
        if answer.ranged and answer.status == 200:
            headers.setdefault("Accept-Ranges", "bytes")
            wanted = request.range if request.method == "GET" else None
            start, stop, request.status = chosen_range(wanted, body.size)
            if request.status == 206:
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{body.size}"
            elif request.status == 416:
                headers["Content-Range"] = f"bytes */{body.size}"
        if fault.edit:
            body = Held(fault.edit(body.read(start, stop)))
            start, stop = 0, body.size
        keep = stop - start if fault.keep is None else min(fault.keep, stop - start)
        headers["Content-Length"] = str(keep if fault.honest else stop - start)
        lines = [f"HTTP/1.1 {request.status} {self.responses.get(request.status, ('',))[0]}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        blocks = () if request.method == "HEAD" else _blocks(body, start, start + keep, fault)
        try:
            for block in blocks:
                # Counted first: a client may look at the log as soon as it has the bytes.
                request.sent += len(block)
                self.wfile.write(head + block)
                head = b""
                if fault.pause:
                    self.owner._closed.wait(fault.pause)
            if head:
                self.wfile.write(head)
        except OSError:  # the client hung up
            self.close_connection = True
            return None
        if request.method != "HEAD" and fault.keep is not None and not fault.honest:
            self._hang_up(reset=fault.reset)
        return None

    def _hang_up(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:  # lingering for no time at all makes close() send a reset
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            with self.owner._lock:
                self.owner._sockets.discard(self.connection)
            os.close(self.connection.detach())


def _blocks(body: Body, start: int, stop: int, fault: Fault) -> Iterator[bytes]:
    step = fault.block if fault.pause else _BLOCK
    for at in range(start, stop, step):
        yield body.read(at, min(at + step, stop))


def chosen_range(header: str | None, size: int) -> tuple[int, int, int]:
    """Start, stop and status that a Range header asks for (RFC 9110, one range at most)."""
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", header or "", re.IGNORECASE)
    if not match or match[1] == match[2] == "":
        return 0, size, 200
    if match[1] == "":
        start, stop = max(0, size - int(match[2])), size
    else:
        start, stop = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
        if match[2] and int(match[2]) < int(match[1]):
            return 0, size, 200  # not a range at all: ignored
    return (start, stop, 206) if start < stop else (0, 0, 416)
