# SPDX-License-Identifier: Apache-2.0
"""Versions of releases: Semantic Versioning 2.0.0 (semver.org), and the aliases of a location."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import total_ordering
from typing import Literal

from ..schemas.errors import ArchiveError

Step = Literal["major", "minor", "patch", "pre-release"]

#: ``latest`` is the highest version there is, ``stable`` the highest without a pre-release part.
ALIASES: tuple[str, ...] = ("latest", "stable")

_NUMBER = r"0|[1-9][0-9]*"
_PRE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER = re.compile(
    rf"v?(?P<major>{_NUMBER})\.(?P<minor>{_NUMBER})\.(?P<patch>{_NUMBER})"
    rf"(?:-(?P<pre>{_PRE}(?:\.{_PRE})*))?"
    r"(?:\+(?P<build>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)
#: No tag is longer, and Python refuses to read numbers of thousands of digits.
_LONGEST = 255


@total_ordering
@dataclass(frozen=True)
class Version:
    """A semantic version; comparisons are by precedence (semver.org, section 11).

    Build metadata is kept but takes no part: ``1.0.0+a == 1.0.0+b``.
    """

    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()
    build: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read ``1.2.0``, ``v1.2.0`` or ``1.2.0-rc.1+build``.

        Raises
        ------
        ArchiveError
            The text is no semantic version.
        """
        found = _SEMVER.fullmatch(text) if len(text) <= _LONGEST else None
        if found is None:
            raise ArchiveError(
                f"version '{text[:_LONGEST]}' is not a semantic version; give MAJOR.MINOR.PATCH, "
                "for example 1.2.0 or 1.2.0-rc.1"
            )
        return cls(
            int(found["major"]),
            int(found["minor"]),
            int(found["patch"]),
            tuple(found["pre"].split(".")) if found["pre"] else (),
            found["build"] or "",
        )

    @property
    def core(self) -> tuple[int, int, int]:
        """Major, minor, patch."""
        return self.major, self.minor, self.patch

    def compare(self, other: Version) -> int:
        """-1, 0 or 1: this version comes before, equals or comes after the other."""
        return (self > other) - (self < other)

    def bump(self, step: Literal["major", "minor", "patch"]) -> Version:
        """The next release after this one; of a pre-release, at least the one it leads to."""
        core = list(self.core)
        at = ("major", "minor", "patch").index(step)
        if not (self.pre and not any(core[at + 1 :])):
            core[at] += 1
            core[at + 1 :] = [0] * (2 - at)
        return Version(core[0], core[1], core[2])

    def __lt__(self, other: Version) -> bool:
        return self._key() < other._key()

    def _key(self) -> tuple[tuple[int, int, int], bool, tuple[tuple[bool, int, str], ...]]:
        # A release follows its pre-releases; in these, numbers come before words.
        parts = tuple((False, int(p), "") if p.isdigit() else (True, 0, p) for p in self.pre)
        return self.core, not self.pre, parts

    def __str__(self) -> str:
        pre = f"-{'.'.join(self.pre)}" if self.pre else ""
        build = f"+{self.build}" if self.build else ""
        return f"{self.major}.{self.minor}.{self.patch}{pre}{build}"


def is_version(text: str) -> bool:
    """Whether the text is a semantic version, ``v`` before it allowed."""
    return len(text) <= _LONGEST and _SEMVER.fullmatch(text) is not None


def split(location: str) -> tuple[str, str | None]:
    """Take ``@latest``, ``@stable`` or ``@1.2.0`` off a location's end; any other ``@`` stays.

    >>> split("data/atlas@1.2.0")
    ('data/atlas', '1.2.0')
    >>> split("team@home/atlas")
    ('team@home/atlas', None)
    """
    folder, at, wanted = location.rpartition("@")
    if at and folder and (wanted in ALIASES or is_version(wanted)):
        return folder.rstrip("/") or "/", wanted
    return location, None


def latest(versions: Iterable[str]) -> str | None:
    """The text of the highest version, pre-releases included; texts that are none are passed over.

    Of equal ones (``1.0.0`` and ``v1.0.0``) the last in text order, whatever order they come in.
    """
    known = [text for text in versions if is_version(text)]
    return max(known, key=lambda text: (Version.parse(text), text), default=None)


def stable(versions: Iterable[str]) -> str | None:
    """The text of the highest version that is no pre-release."""
    return latest(text for text in versions if is_version(text) and not Version.parse(text).pre)


def select(wanted: str, versions: Iterable[str]) -> str | None:
    """The text among ``versions`` that an alias or a version means; None when there is none."""
    known = list(versions)
    if wanted == "latest":
        return latest(known)
    if wanted == "stable":
        return stable(known)
    if wanted in known or not is_version(wanted):
        return wanted if wanted in known else None
    exact = Version.parse(wanted)
    same = [v for v in known if is_version(v) and Version.parse(v) == exact]
    return max((v for v in same if Version.parse(v).build == exact.build), default=None)


def step(old: str, new: str) -> Step:
    """The most significant part in which a later version differs from an earlier one.

    Raises
    ------
    ArchiveError
        A text is no version, or ``new`` does not come after ``old``.
    """
    before, after = Version.parse(old), Version.parse(new)
    if not after > before:
        raise ArchiveError(f"version {new} does not come after {old}; give a higher one")
    names: tuple[Step, ...] = ("major", "minor", "patch")
    for name, a, b in zip(names, before.core, after.core, strict=True):
        if a != b:
            return name
    return "pre-release"
