# SPDX-License-Identifier: Apache-2.0
"""Errors a user can act on: one line that names the culprit (file, key or row) and the mend."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

#: User and password of a URL, and tokens of the Hub: in no message, whoever wrote it.
_SECRET = re.compile(r"(?<=://)[^/\s'\"]*@|(?<=\bhf_)[A-Za-z0-9]{20,}")


class AtlasError(Exception):
    """Base of every error raised on purpose. ``exit_code`` is what the command line returns."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())
        if not (line.isascii() and line.isprintable()):
            # What foreign data say must not steer a terminal, nor turn its line round.
            line = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in line)
        super().__init__(_SECRET.sub("", line))


class CardError(AtlasError):
    """A model or structure-set card is malformed, or no card has the id asked for."""

    exit_code = 3


class StructureError(AtlasError):
    """A structure cannot be represented: bad geometry, unknown element, invalid SMILES."""

    exit_code = 4


class ArchiveError(AtlasError):
    """An archive is missing, damaged, incomplete, or of a newer format."""

    exit_code = 5


class MissingExtraError(AtlasError):
    """An optional dependency is needed; the message names the extra to install."""

    exit_code = 6


class SourceError(AtlasError):
    """A package, file or checkpoint could not be fetched or its hash does not match its card."""

    exit_code = 7


class MetricError(AtlasError):
    """A metric was asked for something it does not define (shape, k, metric name)."""

    exit_code = 8


@contextmanager
def of_sound_data(where: object, mend: str) -> Iterator[None]:
    """Turn what code trips over in data of the wrong form into one :class:`ArchiveError`.

    For work over whole archives that other hands made: hashes prove that their tables are whole,
    not that they make sense.
    """
    try:
        yield
    except AtlasError:
        raise
    except (
        LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError,
        MemoryError,
    ) as error:  # fmt: skip
        text = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        text = text.encode("ascii", "backslashreplace").decode()
        raise ArchiveError(f"{where}: its data make no sense ({text}); {mend}") from error


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """Build the error for an absent optional package."""
    return MissingExtraError(
        f"package '{package}' is not installed; run: pip install 'matteratlas[{extra}]'"
    )
