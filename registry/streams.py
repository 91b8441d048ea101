# SPDX-License-Identifier: Apache-2.0
"""Bytes as they come: replies read up to what they may hold, and files as handles over ranges."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from ..schemas.errors import SourceError
from .replies import PassingFault, check_size, redacted

#: Start, stop and whole size that a reply is asked for; None where it is not known.
Asked = tuple[int, int | None, int | None]
#: Bytes that are read of a reply of which nothing is declared, and of one that is an error.
MOST_BYTES, MOST_ERROR = 2**30, 2**16


async def read_bounded(answer: Any, url: str, asked: Asked) -> bytes:
    """The body of a reply (aiohttp's), as far as it may go: never more than was asked for.

    Raises
    ------
    ArchiveError
        The whole file is larger than declared.
    SourceError
        It is larger than :data:`MOST_BYTES`, and nothing is declared.
    PassingFault
        More bytes come than the range has.
    """
    start, stop, size = asked
    failed = answer.status >= 400
    most = MOST_BYTES if size is None else size
    if failed:
        most = MOST_ERROR
    elif answer.status == 206:
        most = stop - start if stop is not None else max(0, most - start)
    coming = answer.content_length or 0
    parts, held = [], 0
    async for part in answer.content.iter_chunked(2**18) if coming <= most or failed else _none():
        parts.append(part)
        held += len(part)
        if held > most:
            break
    if max(coming, held) > most and not failed:
        if answer.status == 206 and stop is not None:
            raise PassingFault(f"sent more than {most} bytes for the range {start}:{stop}")
        check_size(url, max(coming, held), size)
        raise SourceError(
            f"{redacted(url)}: larger than {most:,} bytes, which is the most that is read of what "
            "nothing declares; check the location"
        )
    return b"".join(parts)[:most]


async def _none() -> Any:
    """No parts: what is too long by its own word is not begun."""
    nothing: tuple[bytes, ...] = ()
    for part in nothing:
        yield part


class RangeStream(io.RawIOBase):
    """A read-only file of known size; each read is one range.

    Parameters
    ----------
    read:
        Gives the bytes from a start to a stop, exactly.
    size:
        Bytes the file has.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._read, self._size, self._at = read, size, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move from the start, the position or the end; reading past the end gives nothing."""
        place = offset + (0, self._at, self._size)[whence]
        if place < 0:
            raise ValueError(f"position {place}: give one in the file")
        self._at = place
        return place

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the file goes."""
        stop = min(self._size, self._at + len(buffer))
        if stop <= self._at:
            return 0
        data = self._read(self._at, stop)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
