# SPDX-License-Identifier: Apache-2.0
"""Frames between a build and a model in another process: a JSON header and plain arrays.

``magic, header bytes, body bytes, CRC-32`` (little-endian), the header, then the arrays one after
the other. Nothing in a frame can be executed; one that is cut, foreign or altered is refused.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...schemas.structures import Structure
from .base import Embedded, Missing

_MAGIC = b"MatterF1"
_PREFIX = struct.Struct("<8sIQI")
PREFIX_BYTES = _PREFIX.size
#: Largest header and body: a length beyond is no length.
_MOST_HEADER, _MOST_BODY = 1 << 28, 1 << 34
_DTYPES = {"<f4", "<f8", "<i8"}

Arrays = Mapping[str, np.ndarray]


class FrameError(Exception):
    """What was read is no frame."""


def pack(header: Mapping[str, Any], arrays: Arrays | None = None) -> bytes:
    """One frame."""
    parts, listed = [], []
    for name, values in (arrays or {}).items():
        flat = np.ascontiguousarray(values)
        flat = flat.astype(flat.dtype.newbyteorder("<"), copy=False)
        if flat.dtype.str not in _DTYPES:
            raise FrameError(f"array '{name}' has dtype {flat.dtype}; send float or int64")
        listed.append([name, flat.dtype.str, list(flat.shape)])
        parts.append(flat.tobytes())
    head = json.dumps({"header": header, "arrays": listed}).encode()
    body = b"".join(parts)
    crc = zlib.crc32(body, zlib.crc32(head))
    return _PREFIX.pack(_MAGIC, len(head), len(body), crc) + head + body


def sizes(prefix: bytes) -> tuple[int, int, int]:
    """Bytes of the header and of the body, and the CRC, from the first bytes of a frame."""
    magic, head, body, crc = _PREFIX.unpack(prefix)
    if magic != _MAGIC or head > _MOST_HEADER or body > _MOST_BODY:
        raise FrameError("what came is no frame")
    return head, body, crc


def unpack(head: bytes, body: bytes, crc: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a frame; arrays are read-only views."""
    if zlib.crc32(body, zlib.crc32(head)) != crc:
        raise FrameError("a frame is damaged")
    try:
        content = json.loads(head)
        arrays, start = {}, 0
        for name, dtype, shape in content["arrays"]:
            if dtype not in _DTYPES:
                raise FrameError(f"array '{name}' has dtype {dtype}")
            count = math.prod(shape)
            arrays[name] = np.frombuffer(body, dtype, count, start).reshape(shape)
            start += arrays[name].nbytes
        header = content["header"]
    except (ValueError, KeyError, TypeError) as error:
        raise FrameError(f"a frame cannot be read: {error}") from error
    if start != len(body) or not isinstance(header, dict):
        raise FrameError("a frame holds more or less than it says")
    return header, arrays


class _Flat:
    """Arrays of any shape, one after the other in a flat one."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._parts: list[np.ndarray] = []

    def add(self, values: np.ndarray | None) -> list[int] | None:
        if values is None:
            return None
        array = np.asarray(values, dtype=self._dtype)
        self._parts.append(array.ravel())
        return list(array.shape)

    def array(self) -> np.ndarray:
        return self.join(self._dtype, [self])

    @staticmethod
    def join(dtype: str, flats: Sequence[_Flat]) -> np.ndarray:
        """All arrays of some, one after the other."""
        parts = [part for flat in flats for part in flat._parts]
        return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)


class _Cursor:
    """Takes arrays off a flat one, in the order they were added."""

    def __init__(self, flat: np.ndarray) -> None:
        self._flat, self._at = flat, 0

    def take(self, shape: Sequence[int]) -> np.ndarray:
        start, self._at = self._at, self._at + math.prod(shape)
        if self._at > len(self._flat):
            raise FrameError("a frame lacks values")
        return self._flat[start : self._at].reshape(shape)


_PLAIN = (
    "source_id", "kind", "stratum", "pbc", "smiles", "sequence", "charge", "multiplicity", "name",
    "id", "set",
)  # fmt: skip


class Part(NamedTuple):
    """One structure, ready for a frame: its header row, its real and its integer arrays."""

    row: dict[str, Any]
    reals: _Flat
    integers: _Flat


def structure_part(structure: Structure) -> Part:
    """All of a structure but its labels, which no model may see."""
    s, reals, integers = structure, _Flat("<f8"), _Flat("<i8")
    row = {name: getattr(s, name) for name in _PLAIN}
    row["pbc"] = [bool(p) for p in s.pbc]
    row["charge"] = int(s.charge)
    row["multiplicity"] = None if s.multiplicity is None else int(s.multiplicity)
    row["numbers"] = integers.add(s.numbers)
    row["positions"] = reals.add(s.positions)
    row["cell"] = reals.add(s.cell)
    row["backbone"] = reals.add(s.backbone)
    return Part(row, reals, integers)


def join_parts(parts: Sequence[Part]) -> tuple[dict[str, Any], Arrays]:
    """Header and arrays of structures."""
    return {"structures": [p.row for p in parts]}, {
        "reals": _Flat.join("<f8", [p.reals for p in parts]),
        "integers": _Flat.join("<i8", [p.integers for p in parts]),
    }


def structures_to_frame(structures: Sequence[Structure]) -> tuple[dict[str, Any], Arrays]:
    """Header and arrays of structures; see :func:`structure_part`."""
    return join_parts([structure_part(s) for s in structures])


def structures_from_frame(header: Mapping[str, Any], arrays: Arrays) -> list[Structure]:
    """The structures of a frame; the inverse of :func:`structures_to_frame`."""
    reals, integers = _Cursor(arrays["reals"]), _Cursor(arrays["integers"])
    found = []
    for row in header["structures"]:
        numbers = integers.take(row["numbers"]).copy()
        positions, cell = reals.take(row["positions"]).copy(), reals.take(row["cell"]).copy()
        backbone = None if row["backbone"] is None else reals.take(row["backbone"]).copy()
        plain = {name: row[name] for name in _PLAIN} | {"pbc": tuple(row["pbc"])}
        found.append(
            Structure(numbers=numbers, positions=positions, cell=cell, backbone=backbone, **plain)
        )
    return found


def results_to_frame(results: Sequence[Embedded | Missing]) -> tuple[dict[str, Any], Arrays]:
    """Header and arrays of what a model says of structures."""
    flat = _Flat("<f4")
    rows: list[dict[str, Any]] = []
    for result in results:
        if isinstance(result, Missing):
            rows.append({"missing": result.reason})
            continue
        rows.append(
            {
                "energy": None if result.energy is None else float(result.energy),
                "pooled": {k: flat.add(v) for k, v in result.pooled.items()},
                "nodes": {k: flat.add(v) for k, v in result.nodes.items()},
            }
        )
    return {"results": rows}, {"values": flat.array()}


def results_from_frame(header: Mapping[str, Any], arrays: Arrays) -> list[Embedded | Missing]:
    """The results of a frame; the inverse of :func:`results_to_frame`."""
    try:
        values = _Cursor(arrays["values"])
        found: list[Embedded | Missing] = []
        for row in header["results"]:
            if "missing" in row:
                found.append(Missing(str(row["missing"])))
                continue
            pooled = {k: values.take(shape) for k, shape in row["pooled"].items()}
            nodes = {k: values.take(shape) for k, shape in row["nodes"].items()}
            found.append(Embedded(nodes=nodes, pooled=pooled, energy=row["energy"]))
    except (KeyError, TypeError, ValueError) as error:
        raise FrameError(f"a frame cannot be read: {error}") from error
    return found
