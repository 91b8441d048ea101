# SPDX-License-Identifier: Apache-2.0
"""Typed steps into a Zarr store: whether a child is an array or a group is checked here."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
import zarr

from ..schemas.errors import ArchiveError


def group(parent: zarr.Group, name: str) -> zarr.Group:
    """The child group ``name``; ArchiveError if it is something else or absent."""
    child = parent.get(name)
    if not isinstance(child, zarr.Group):
        raise ArchiveError(f"{parent.store_path}: no group '{name}'; rebuild the unit")
    return child


def array(parent: zarr.Group, name: str) -> zarr.Array[Any]:
    """The child array ``name``; ArchiveError if it is something else or absent."""
    child = parent.get(name)
    if not isinstance(child, zarr.Array):
        raise ArchiveError(f"{parent.store_path}: no array '{name}'; rebuild the unit")
    return child


def read(parent: zarr.Group, name: str, rows: slice | SupportsIndex | None = None) -> np.ndarray:
    """Rows of the child array ``name`` (all by default); text comes as Python strings."""
    wanted: Any = slice(None) if rows is None else rows
    values = np.asarray(array(parent, name)[wanted])
    return values.astype(object) if values.dtype.kind in "TU" else values


def matemb(layer: zarr.Group) -> dict[str, Any]:
    """The layer group's ``matemb`` attribute."""
    found = layer.attrs.get("matemb", {})
    return dict(found) if isinstance(found, dict) else {}
