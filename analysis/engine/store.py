# SPDX-License-Identifier: Apache-2.0
"""Where parts of an analysis lie between its steps: named groups of arrays, whole or absent."""

from __future__ import annotations

import math
import mmap
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, np.ndarray]


class Store(Protocol):
    """Groups of arrays by key; a key holds all its arrays or is absent."""

    def save(self, key: str, arrays: Arrays) -> None:
        """Hold a group; what is made again is equal, and either may stay."""

    def load(self, key: str) -> Arrays:
        """A group, its arrays read-only.

        Raises
        ------
        KeyError
            Nothing is held under the key.
        """

    def __contains__(self, key: str) -> bool: ...

    def drop(self, key: str) -> None:
        """Let go of a group; absent ones are no fault."""


class MemoryStore:
    """Groups held by this process."""

    def __init__(self) -> None:
        self._held: dict[str, Arrays] = {}

    def save(self, key: str, arrays: Arrays) -> None:
        """Hold a group; what is made again is equal, and either may stay."""
        for array in arrays.values():
            array.setflags(write=False)
        self._held[key] = dict(arrays)

    def load(self, key: str) -> Arrays:
        """A group, its arrays read-only."""
        return self._held[key]

    def __contains__(self, key: str) -> bool:
        return key in self._held

    def drop(self, key: str) -> None:
        """Let go of a group; absent ones are no fault."""
        self._held.pop(key, None)


class FolderStore:
    """Groups as folders of ``.npy`` files, mapped rather than read; several processes share it.

    A group is written beside its place and moved there, so that a process that dies leaves none or
    all of it. Processes that make the same group leave equal ones: the first stays.

    Parameters
    ----------
    root : path
        Folder of this store alone; made if absent.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)

    def save(self, key: str, arrays: Arrays) -> None:
        """Hold a group; what is made again is equal, and either may stay."""
        stage = self.root / f".{key}-{uuid.uuid4().hex}"
        stage.mkdir()
        try:
            for name, array in arrays.items():
                np.save(stage / f"{name}.npy", array)
            self._place(stage, self.root / key)
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def load(self, key: str) -> Arrays:
        """A group, its arrays read-only and mapped."""
        folder = self.root / key
        if not folder.is_dir():
            raise KeyError(key)
        return {path.stem: _mapped(path) for path in sorted(folder.glob("*.npy"))}

    def __contains__(self, key: str) -> bool:
        return (self.root / key).is_dir()

    def drop(self, key: str) -> None:
        """Let go of a group; absent ones are no fault."""
        aside = self.root / f".{key}-{uuid.uuid4().hex}"
        try:
            (self.root / key).rename(aside)
        except FileNotFoundError:
            return
        shutil.rmtree(aside, ignore_errors=True)

    def _place(self, stage: Path, place: Path) -> None:
        try:
            stage.rename(place)
        except OSError:
            # Someone else was faster with the same arrays.
            if not place.is_dir():
                raise


def _mapped(path: Path) -> NDArray[Any]:
    # As np.load(path, mmap_mode="r"), which takes ten times as long.
    with path.open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if fortran or dtype.hasobject or 0 in shape:
            array: NDArray[Any] = np.load(path, allow_pickle=False)
            return array
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(content, dtype, math.prod(shape), file.tell()).reshape(shape)
