# SPDX-License-Identifier: Apache-2.0
"""Static files over HTTP on loopback."""

from __future__ import annotations

from email.utils import formatdate
from pathlib import Path

from .http_base import Answer, Held, LoopbackServer, OnDisk, Request


class FileServer(LoopbackServer):
    """Serve a folder's files: HEAD, GET with Range, ETag. Folders are not listed.

    >>> with FileServer(folder) as server:
    ...     fetch(f"{server.url}/atlas.json")
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder).resolve()

    def answer(self, request: Request) -> Answer:
        if request.method not in {"GET", "HEAD"}:
            return Answer(405, Held(b"only GET and HEAD"), {"Allow": "GET, HEAD"})
        path = (self.folder / request.path.lstrip("/")).resolve()
        if not path.is_relative_to(self.folder) or not path.is_file():
            return Answer(404, Held(b"not found"))
        facts = path.stat()
        tag = f'"{facts.st_size:x}-{facts.st_mtime_ns:x}"'
        headers = {
            "Content-Type": "application/octet-stream",
            "ETag": tag,
            "Last-Modified": formatdate(facts.st_mtime, usegmt=True),
        }
        if request.headers.get("if-none-match") == tag:
            return Answer(304, headers=headers)
        return Answer(200, OnDisk(path), headers, ranged=True)
