# SPDX-License-Identifier: Apache-2.0
"""Files of an atlas by relative path, on a local disk or behind a URL, checked as they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from fsspec.implementations.local import LocalFileSystem

from ..schemas.errors import ArchiveError
from . import hub

if TYPE_CHECKING:
    from .cache import Cache


class Files:
    """Byte access to an atlas; picklable, so that Dask workers open it for themselves.

    Parameters
    ----------
    location:
        A folder, or a URL that :func:`matteratlas.registry.hub.filesystem` knows.
    cache:
        Keeps what is read from a URL whose content hash is known; None keeps nothing.
    """

    def __init__(self, location: str, *, cache: Cache | None = None) -> None:
        self.location = str(location).rstrip("/")
        if not Path(self.location).is_dir():
            # A tag or `latest` becomes one commit here: workers that unpickle this read the same.
            self.location = hub.pinned(self.location)
        self.cache = cache
        self._open()

    def _open(self) -> None:
        if Path(self.location).is_dir():
            self._fs, self._root = LocalFileSystem(), self.location
        else:
            self._fs, self._root = hub.filesystem(self.location)
        self.local = Path(self._root) if "file" in _protocols(self._fs) else None

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "cache": self.cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.location, self.cache = state["location"], state["cache"]
        self._open()

    def read(
        self,
        path: str,
        start: int | None = None,
        stop: int | None = None,
        *,
        sha256: str | None = None,
        check: Callable[[bytes], None] | None = None,
    ) -> bytes:
        """Bytes ``start`` to ``stop`` of a file, all by default.

        Parameters
        ----------
        sha256:
            Hash of the whole file as declared. A whole read is checked against it; ranges are
            cached under it.
        check:
            Raises ArchiveError where the bytes are not those declared: they are then not cached.

        Raises
        ------
        ArchiveError
            The file is absent, shorter than asked for, or not the declared one.
        """
        if self.local is not None:
            data = self._read_local(self.local / path, start or 0, stop)
            self._check(path, data, start, stop, sha256, check)
            return data

        def fetched() -> bytes:
            data = self._fetch(path, start, stop)
            self._check(path, data, start, stop, sha256, check)
            return data

        if self.cache is None or sha256 is None:
            return fetched()
        key = sha256 if start is None and stop is None else f"{sha256}:{start}:{stop}"
        return self.cache.fetch(key, fetched)

    def _check(
        self,
        path: str,
        data: bytes,
        start: int | None,
        stop: int | None,
        sha256: str | None,
        check: Callable[[bytes], None] | None,
    ) -> None:
        """Raise ArchiveError where these are not the bytes asked for."""
        if stop is not None and len(data) != stop - (start or 0):
            raise ArchiveError(
                f"{self.location}/{path}: ends before byte {stop}; the file is truncated, "
                "fetch or build it again"
            )
        whole = start is None and stop is None
        if whole and sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise ArchiveError(
                f"{self.location}/{path}: sha256 differs from the declared one; "
                "fetch or build it again"
            )
        if check is not None:
            check(data)

    def _read_local(self, path: Path, start: int, stop: int | None) -> bytes:
        try:
            with path.open("rb") as handle:
                handle.seek(start)
                return handle.read() if stop is None else handle.read(stop - start)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ArchiveError(f"{path}: missing; fetch or build it again") from error
        except OSError as error:  # a folder in its place, no permission, a bad disk
            text = error.strerror or error
            raise ArchiveError(f"{path}: cannot be read ({text}); check the disk") from error

    def _fetch(self, path: str, start: int | None, stop: int | None) -> bytes:
        try:
            return hub.fetch(self._fs, f"{self._root}/{path}", start, stop)
        except FileNotFoundError as error:
            raise ArchiveError(
                f"{self.location}/{path}: missing; fetch or build it again"
            ) from error

    def exists(self, path: str) -> bool:
        """Whether the file is there."""
        return bool(self._fs.exists(f"{self._root}/{path}"))

    def open(self, path: str, *, size: int | None = None) -> IO[bytes]:
        """A seekable handle; FileNotFoundError when absent. ``size`` in bytes saves asking."""
        if self.local is None and size is not None:
            return hub.open_file(self._fs, f"{self._root}/{path}", size=size)
        return cast("IO[bytes]", self._fs.open(f"{self._root}/{path}", "rb"))


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
