# SPDX-License-Identifier: Apache-2.0
"""Names and paths that mean the same file on every system, and texts that show what they say."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
#: What Windows takes for devices, whatever the ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
#: They turn the order of what stands around them, or show nothing.
_UNSEEN = frozenset("\u061c\u200b\u200e\u200f\u2028\u2029\u2060\ufeff") | {
    chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def is_portable(part: str) -> bool:
    """Whether a file may have this name on every system: ASCII, no device, no dot at its ends."""
    return bool(_PART.fullmatch(part)) and part[-1] != "." and not _DEVICES.fullmatch(part)


def is_portable_path(path: str) -> bool:
    """Whether a relative path with slashes stays below its folder and is portable in each part."""
    return len(path) <= 1024 and all(map(is_portable, path.split("/")))


def odd_character(text: str) -> str | None:
    """Name of the first character that a text may not hold (control, direction, surrogate)."""
    if text.isascii() and text.isprintable():
        return None
    for character in text:
        kind = unicodedata.category(character)
        if character in _UNSEEN or kind == "Cs" or (kind == "Cc" and character not in "\n\t"):
            return f"U+{ord(character):04X}"
    return None


def check_texts(content: Any) -> None:
    """Refuse odd characters anywhere in plain data, keys included.

    Raises
    ------
    ValueError
        Naming the character and the beginning of its text.
    """
    waiting = [content]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one
        elif isinstance(one, str) and (odd := odd_character(one)):
            shown = one[:40].encode("ascii", "backslashreplace").decode()
            raise ValueError(f"character {odd} in '{shown}' is not allowed; remove it")


def portable(part: str) -> str:
    """The name itself; ValueError where :func:`is_portable` says no."""
    if not is_portable(part):
        shown = part[:60].encode("ascii", "backslashreplace").decode()
        raise ValueError(f"'{shown}' is no name for a file on every system")
    return part


#: A name that becomes part of a path.
Part = Annotated[str, AfterValidator(portable)]
