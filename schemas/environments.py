# SPDX-License-Identifier: Apache-2.0
"""Environment cards: what a family that cannot share the main environment is run with.

``registry/environments/<id>.yaml``, as closed as the other cards: every key is there, ``null``
where it does not apply. A model's card names its environment under ``isolation``.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .cards import Id

#: Always the main environment's: another build is gigabytes, and two in one process is none.
SHARED = frozenset({"torch", "matteratlas"})

Project = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$")]
Version = Annotated[str, Field(pattern=r"^[0-9][A-Za-z0-9.!+_-]*$")]
Module = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Package(_Closed):
    """One pinned package of an environment's own."""

    name: Project
    version: Version
    no_deps: bool = Field(description="installed without what it asks for")
    why: str | None = Field(
        description="why it is pinned, or why its requirements are not followed"
    )


class EnvironmentCard(_Closed):
    """An environment, as the registry knows it (``registry/environments/<id>.yaml``).

    ``packages`` lie over those of the main environment: a pinned one wins, everything else is the
    main environment's.
    """

    id: Id
    python: str = Field(description="version range, as in requires-python")
    packages: list[Package]
    imports: list[Module] = Field(description="modules that must import before it counts as ready")
    stand_ins: dict[Module, str] = Field(description="module: why it is replaced")
    timeout: Annotated[float, Field(gt=0)] = Field(description="seconds for one batch")
    apart: str = Field(description="why the family is kept out of the main environment")
    notes: str | None

    @field_validator("python")
    @classmethod
    def _range(cls, value: str) -> str:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet

        try:
            SpecifierSet(value)
        except InvalidSpecifier as error:
            raise ValueError(f"{value!r} is no version range; write it like '>=3.11'") from error
        return value

    @model_validator(mode="after")
    def _consistent(self) -> EnvironmentCard:
        names = [p.name for p in self.packages]
        if len(set(names)) != len(names):
            raise ValueError("packages: names must be distinct")
        if shared := SHARED & set(names):
            raise ValueError(f"packages: {min(shared)} is the main environment's; remove it")
        return self

    @property
    def fingerprint(self) -> str:
        """Hash of what is installed and imported; prose and the time limit do not count."""
        content = {
            "python": self.python,
            "packages": sorted([p.name, p.version, p.no_deps] for p in self.packages),
            "imports": sorted(self.imports),
            "stand_ins": sorted(self.stand_ins),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def pins(self) -> dict[str, str]:
        """Package: version."""
        return {p.name: p.version for p in self.packages}
