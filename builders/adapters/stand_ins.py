# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for modules that old packages import and that are gone or cannot be built.

Each is used only in a model's own process, only if its environment card names it, and only where
the real module is absent.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from ...schemas.errors import CardError


def _torch_scatter() -> ModuleType:
    """``torch_scatter``'s reductions by PyTorch Geometric, which took the function over."""
    from torch_geometric.utils import scatter as geometric

    module: Any = ModuleType("torch_scatter")

    def scatter(
        src: Any,
        index: Any,
        dim: int = -1,
        out: Any = None,
        dim_size: int | None = None,
        reduce: str = "sum",
    ) -> Any:
        """Reduce ``src`` over equal ``index`` along ``dim``."""
        if out is not None:
            raise ValueError("scatter into a given tensor is not supported")
        axis = dim % src.dim()
        how = {"add": "sum"}.get(reduce, reduce)
        return geometric(src, index, dim=axis, dim_size=dim_size, reduce=how)

    module.scatter = scatter
    for reduce in ("add", "sum", "mean", "mul", "min", "max"):
        setattr(module, f"scatter_{reduce}", partial(scatter, reduce=reduce))
    return module


def _pkg_resources() -> ModuleType:
    """What packages asked setuptools for before ``importlib.metadata``: a version, or nothing."""
    module: Any = ModuleType("pkg_resources")

    class DistributionNotFound(Exception):
        """No such distribution."""

    class Distribution:
        """Name and version of a distribution."""

        def __init__(self, name: str) -> None:
            try:
                self.version = metadata.version(name)
            except metadata.PackageNotFoundError as error:
                raise DistributionNotFound(name) from error
            self.project_name = name

    module.DistributionNotFound = DistributionNotFound
    module.Distribution = Distribution
    module.get_distribution = Distribution
    return module


def _cached_path() -> ModuleType:
    """``cached_path`` for paths of files that are there; it never fetches anything."""
    module: Any = ModuleType("cached_path")

    def cached_path(path: str) -> Path:
        """The path itself."""
        found = Path(path)
        if not found.is_file():
            raise FileNotFoundError(path)
        return found

    module.cached_path = cached_path
    return module


def _empty(name: str) -> Callable[[], ModuleType]:
    return lambda: ModuleType(name)


#: Module: what makes its stand-in. ``wandb`` and ``torchinfo`` are for training only.
STAND_INS: dict[str, Callable[[], ModuleType]] = {
    "cached_path": _cached_path,
    "torch_scatter": _torch_scatter,
    "pkg_resources": _pkg_resources,
    "wandb": _empty("wandb"),
}


def install_stand_ins(names: Iterable[str]) -> None:
    """Put stand-ins where the named modules are absent.

    Raises
    ------
    CardError
        There is no stand-in of that name.
    """
    for name in names:
        if name not in STAND_INS:
            raise CardError(f"no stand-in for module '{name}'; there is {', '.join(STAND_INS)}")
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = STAND_INS[name]()
