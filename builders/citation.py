# SPDX-License-Identifier: Apache-2.0
"""How to cite a release: CITATION.cff and BibTeX, from the project's own citation file."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from ..schemas.errors import ArchiveError

_TEMPLATE = "CITATION.cff"


def release_date(date: str | None) -> str | None:
    """A checked ``YYYY-MM-DD``; without one, the day of ``$SOURCE_DATE_EPOCH`` if that is set.

    Raises
    ------
    ArchiveError
        Neither a date nor seconds since 1970.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        if date is not None:
            if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
                raise ValueError("wrong form")
            return datetime.date.fromisoformat(date).isoformat()
        if epoch:
            moment = datetime.datetime.fromtimestamp(int(epoch), tz=datetime.UTC)
            return moment.date().isoformat()
    except (ValueError, OverflowError, OSError) as error:
        what = f"date '{date}'" if date is not None else f"SOURCE_DATE_EPOCH '{epoch}'"
        mend = "give YYYY-MM-DD" if date is not None else "give seconds since 1970"
        raise ArchiveError(f"{what} is not a date; {mend}") from error
    return None


def template(name: str) -> str:
    """Text of a file of the project that travels with this package."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


@cache
def project() -> Mapping[str, Any]:
    """The project's citation file as data."""
    return MappingProxyType(yaml.safe_load(template(_TEMPLATE)))


def project_url() -> str | None:
    """Where the project says its data live."""
    for entry in metadata.metadata("matteratlas").get_all("Project-URL") or []:
        _, _, url = entry.partition(", ")
        if "/datasets/" in url:
            return str(url)
    return None


def authors() -> list[str]:
    """Names of the authors as the citation file has them."""
    people = project()["authors"]
    return [p["name"] if "name" in p else f"{p['given-names']} {p['family-names']}" for p in people]


def citation(*, version: str, date: str | None = None) -> str:
    """Text of a release's CITATION.cff (Citation File Format 1.2.0)."""
    content = {**project(), "type": "dataset", "version": version}
    content.pop("date-released", None)
    if date is not None:
        content["date-released"] = datetime.date.fromisoformat(date)
    url = project_url()
    if url:
        content["url"] = url
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def bibtex(*, version: str, date: str | None = None) -> str:
    """A BibTeX entry for a release."""
    key = "matteratlas_" + re.sub(r"\W", "_", version)
    fields = {
        "title": "{" + str(project()["title"]) + "}",
        "author": " and ".join("{" + name + "}" for name in authors()),
        "version": version,
        **({"year": date[:4]} if date else {}),
        **({"url": project_url()} if project_url() else {}),
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@misc{{{key},", *lines, "}"])


def write_citation(root: Path, *, version: str, date: str | None = None) -> None:
    """Write ``CITATION.cff`` into a release."""
    (root / _TEMPLATE).write_text(citation(version=version, date=date), encoding="utf-8")
