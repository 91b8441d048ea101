# SPDX-License-Identifier: Apache-2.0
"""A seekable binary handle over ranges that are fetched as they are read."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any


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
