# SPDX-License-Identifier: Apache-2.0
"""Locks that let several builders work on one archive: on the atlas, on a unit, on being alive.

All are advisory file locks that the kernel drops when their process dies, however it dies.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..schemas.archive import LOCK, STAGING
from ..schemas.errors import ArchiveError

#: What a disk says that is full, or will not be written.
_DISK = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM",
                                           "EIO") if hasattr(errno, name)}  # fmt: skip


def root_lock(root: Path) -> FileLock:
    """The atlas's lock: hold it while files move into place and while the index is written."""
    return FileLock(root / LOCK)


def unit_lock(root: Path, model_id: str, set_id: str) -> FileLock:
    """A builder's claim on one unit: whoever holds it embeds it, others wait or go elsewhere."""
    folder = root / STAGING / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{model_id}.{set_id}.lock")


@contextmanager
def workspace(root: Path) -> Iterator[Path]:
    """A staging folder of one's own inside the atlas, gone afterwards.

    What builders that died left behind is removed on the way in and out; when the last one leaves,
    the staging folder goes too.
    """
    staging = root / STAGING
    own = staging / f"builder-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    with root_lock(root):
        _sweep(staging)
        own.mkdir(parents=True)
        alive = FileLock(own / "alive.lock")
        alive.acquire()
    try:
        yield own
    finally:
        with root_lock(root):
            alive.release()
            shutil.rmtree(own, ignore_errors=True)
            _sweep(staging)
            if not any(staging.glob("builder-*")):
                shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def told_in_a_line(root: Path, verb: str) -> Iterator[None]:
    """A full or forbidding disk ends the work with one line; what was there before stays.

    Raises
    ------
    ArchiveError
        Naming the atlas, what the disk says, and the mend.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno not in _DISK:
            raise
        raise ArchiveError(
            f"{error.filename or root}: {os.strerror(error.errno)}; make room or access, and "
            f"{verb} again"
        ) from error


def _sweep(staging: Path) -> None:
    """Remove the folders of builders that no longer live; hold the atlas's lock."""
    for folder in staging.glob("builder-*"):
        lock = FileLock(folder / "alive.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)
