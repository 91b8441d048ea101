# SPDX-License-Identifier: Apache-2.0
"""Where contributed cards and adapters lie that are not in the registry, or not yet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Environment variable that names the folders, parted as in ``PATH``; worker processes inherit it.
CONTRIB = "MATTERATLAS_CONTRIB"


def contributed_folders() -> tuple[Path, ...]:
    """Folders of contributed cards and adapters, as :data:`CONTRIB` names them.

    What lies there is known on this machine only, and its adapters run here: name folders that
    are your own, or that you have read.
    """
    names = os.environ.get(CONTRIB, "").split(os.pathsep)
    return tuple(Path(n).resolve() for n in names if n)


@contextmanager
def contributed(folder: Path) -> Iterator[None]:
    """Let this process, and those it starts, know one folder more for a while."""
    before = os.environ.get(CONTRIB)
    os.environ[CONTRIB] = os.pathsep.join([*([before] if before else []), str(folder.resolve())])
    try:
        yield
    finally:
        if before is None:
            del os.environ[CONTRIB]
        else:
            os.environ[CONTRIB] = before
