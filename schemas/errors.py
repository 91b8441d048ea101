# SPDX-License-Identifier: Apache-2.0
"""Errors a user can act on: one line that names the culprit (file, key or row) and the mend."""

from __future__ import annotations


class AtlasError(Exception):
    """Base of every error raised on purpose. ``exit_code`` is what the command line returns."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


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


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """Build the error for an absent optional package."""
    return MissingExtraError(
        f"package '{package}' is not installed; run: pip install 'matteratlas[{extra}]'"
    )
