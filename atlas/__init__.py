# SPDX-License-Identifier: Apache-2.0
"""MatterAtlas: the embedding dataset and registry of matter.

Importing this package loads nothing heavy: models, chemistry toolkits, FAISS and Dask's scheduler
are imported by the function that needs them.

>>> import matteratlas as ma
>>> ma.__version__.count(".")
2
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

__version__ = metadata.version("matteratlas")

if TYPE_CHECKING:
    from .builders.build import build
    from .registry import views
    from .registry.archive import Atlas, open_atlas
    from .registry.pull import pull
    from .registry.validate import validate
    from .schemas.errors import AtlasError

__all__ = ["Atlas", "AtlasError", "__version__", "build", "open_atlas", "pull", "validate", "views"]

_HOME = {
    "Atlas": "registry.archive",
    "open_atlas": "registry.archive",
    "pull": "registry.pull",
    "validate": "registry.validate",
    "AtlasError": "schemas.errors",
    "build": "builders.build",
}
_MODULES = {"views": "registry.views"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f".{_MODULES[name]}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module 'matteratlas' has no attribute '{name}'")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])
