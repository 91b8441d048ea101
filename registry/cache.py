# SPDX-License-Identifier: Apache-2.0
"""A bounded folder of byte strings read before; what it gives back is what was put in, or nothing.

There is no index to go stale: an entry is one file that names its key and carries its own length
and hash, and its modification time says when it was last read. Several processes share a folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from . import hub

logger = logging.getLogger("matteratlas")

_MAGIC = b"MATLAS1\n"
#: Magic, length of the data, SHA-256 of key and data.
_HEADER = len(_MAGIC) + 8 + 32
_FOLDER = re.compile(r"[0-9a-f]{2}")
_ENTRY = re.compile(r"[0-9a-f]{62}")
_SCRATCH = re.compile(r"\.put-[0-9a-f]{32}")
#: A put that waits longer than this for other processes leaves its bytes uncached.
_PATIENCE = 30.0
#: A full cache is brought down to this part of its bound, so that not every put has to look round.
_ROOM = 7 / 8


class _Entry(NamedTuple):
    used: int
    path: Path
    size: int


class Cache:
    """Byte strings by key, least recently used out first.

    Parameters
    ----------
    folder:
        Where entries are kept; ``hub.cache_dir() / "ranges"`` by default.
    max_bytes:
        Entries, headers included, never take more than this together; 0 keeps nothing.

    Notes
    -----
    Nothing here fails: a folder that cannot be written, or a full disk, means no caching, said
    once in the log.
    """

    def __init__(self, folder: Path | None = None, *, max_bytes: int = 5 * 2**30) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}; give 0 or more")
        self.folder = Path(folder) if folder is not None else hub.cache_dir() / "ranges"
        self.max_bytes = max_bytes
        self._looked = False  # whether this object has seen what the folder holds
        self._writes = True

    def get(self, key: str) -> bytes | None:
        """The bytes put under ``key``; None when there are none, or they are damaged."""
        path = self._path(key)
        try:
            blob = path.read_bytes()
        except OSError:
            return None
        data = blob[_HEADER:]
        if blob[:_HEADER] != _header(key, data):
            with suppress(OSError):  # another process may have dropped it, or the folder is fixed
                path.unlink()
            return None
        with suppress(OSError):  # a read-only cache still serves
            os.utime(path)
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep ``data`` under ``key``, dropping entries long unread to make room."""
        size = _HEADER + len(data)
        if size > self.max_bytes or not self._writes:
            return
        try:
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock", timeout=_PATIENCE):
                self._make_room(size)
                self._write(path, _header(key, data), data)
        except Timeout:
            return
        except (OSError, NotImplementedError) as error:
            self._writes = False
            logger.warning(
                "cache %s cannot be written (%s); going on without it", self.folder, error
            )

    def fetch(self, key: str, loader: Callable[[], bytes]) -> bytes:
        """The bytes under ``key``; the loader's, kept for the next time, when there are none."""
        data = self.get(key)
        if data is None:
            data = loader()
            self.put(key, data)
        return data

    def clear(self) -> None:
        """Drop every entry; other files in the folder stay."""
        for entry in self._entries():
            with suppress(OSError):
                entry.path.unlink()

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / name[2:]

    def _write(self, path: Path, header: bytes, data: bytes) -> None:
        scratch = path.with_name(f".put-{uuid.uuid4().hex}")
        try:
            with scratch.open("wb") as handle:
                handle.write(header)
                handle.write(data)
            now = time.time_ns()  # the clock that reads use; the kernel's own is coarser
            os.utime(scratch, ns=(now, now))
            scratch.replace(path)
        except BaseException:
            with suppress(OSError):
                scratch.unlink()
            raise

    def _make_room(self, size: int) -> None:
        """Evict until ``size`` more bytes fit; the caller holds the lock.

        The running total in ``.total`` only saves looking round at every put. It is raised before
        a write and never lowered but by a count, so that after a crash it is too high at worst.
        """
        counter = self.folder / ".total"
        total = self._total(counter)
        if total + size > self.max_bytes:
            entries = sorted(self._entries(sweep=True))
            total = sum(entry.size for entry in entries)
            target = max(0, int(self.max_bytes * _ROOM) - size)
            if total + size > self.max_bytes:
                for entry in entries:
                    if total <= target:
                        break
                    entry.path.unlink(missing_ok=True)
                    total -= entry.size
        counter.write_text(str(total + size), encoding="ascii")

    def _total(self, counter: Path) -> int:
        if self._looked:
            with suppress(OSError, ValueError):
                return max(0, int(counter.read_text(encoding="ascii")))
        self._looked = True
        return sum(entry.size for entry in self._entries(sweep=True))

    def _entries(self, *, sweep: bool = False) -> Iterator[_Entry]:
        """Every entry there is; with ``sweep``, what killed writers left is removed on the way."""
        for folder in _scan(self.folder):
            if _FOLDER.fullmatch(folder.name) and folder.is_dir(follow_symlinks=False):
                for file in _scan(Path(folder.path)):
                    if sweep and _SCRATCH.fullmatch(file.name):
                        # Whoever writes holds the lock, and that is the caller.
                        Path(file.path).unlink(missing_ok=True)
                    elif _ENTRY.fullmatch(file.name):
                        with suppress(FileNotFoundError):
                            stat = file.stat(follow_symlinks=False)
                            yield _Entry(stat.st_mtime_ns, Path(file.path), stat.st_size)

    @property
    def bytes(self) -> int:  # last, for its name hides the type's
        """Size of all entries now, headers included."""
        return sum(entry.size for entry in self._entries())


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _header(key: str, data: bytes) -> bytes:
    digest = hashlib.sha256(hashlib.sha256(key.encode()).digest())
    digest.update(data)
    return _MAGIC + len(data).to_bytes(8, "little") + digest.digest()
