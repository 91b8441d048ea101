# SPDX-License-Identifier: Apache-2.0
"""Where sets lie that users brought: ``<folder>/<id>/<id>.yaml``, the card, beside its table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..schemas.errors import CardError

#: Environment variable that names the folders, parted as in ``PATH``; worker processes inherit it.
#: Empty: none.
SETS = "MATTERATLAS_SETS"
#: What the loader of a brought set is on its card.
LOADER = "brought:load"


def brought_folders() -> tuple[Path, ...]:
    """Folders of brought sets: those :data:`SETS` names, else one below the user's data folder.

    What lies there is known on this machine only, and read as data.
    """
    names = os.environ.get(SETS)
    if names is not None:
        return tuple(Path(n).resolve() for n in names.split(os.pathsep) if n)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return (Path(data) / "matteratlas" / "sets",)


def first_folder() -> Path:
    """The folder that new sets are put into.

    Raises
    ------
    CardError
        :data:`SETS` is set and names none.
    """
    folders = brought_folders()
    if not folders:
        raise CardError(f"{SETS} is empty; name the folder that brought sets go into")
    return folders[0]


def brought_cards() -> list[Path]:
    """Cards of all brought sets, folder by folder, sorted by id."""
    return [
        path
        for folder in brought_folders()
        for path in sorted(folder.glob("*/*.yaml"))
        if path.stem == path.parent.name
    ]


def brought_home(set_id: str) -> Path:
    """Folder of one brought set, card and tables.

    Raises
    ------
    CardError
        No folder of brought sets holds it.
    """
    for path in brought_cards():
        if path.stem == set_id:
            return path.parent
    raise CardError(
        f"set '{set_id}' was brought and is not here; set {SETS} to the folder that holds it"
    )


@contextmanager
def brought_from(folder: Path) -> Iterator[None]:
    """Let this process, and those it starts, know one folder more for a while."""
    before = os.environ.get(SETS)
    known = [str(p) for p in brought_folders()]
    os.environ[SETS] = os.pathsep.join([*known, str(folder.resolve())])
    try:
        yield
    finally:
        if before is None:
            del os.environ[SETS]
        else:
            os.environ[SETS] = before
