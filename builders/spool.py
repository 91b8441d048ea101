# SPDX-License-Identifier: Apache-2.0
"""Where rows wait until a unit is complete: vectors on disk, the other columns packed in memory."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..schemas.errors import ArchiveError

#: Length of a structure id.
_ID_BYTES = 30
#: Distinct reasons kept in full; the rest of the 16-bit codes is for their leading words.
_MOST_REASONS = 65000


@dataclass
class Spool:
    """An append-only float32 matrix on disk."""

    path: Path
    dim: int
    rows: int = 0
    handle: Any = field(init=False)

    def __post_init__(self) -> None:
        self.handle = self.path.open("wb")

    def append(self, values: np.ndarray) -> None:
        """Add (m, dim) rows."""
        self.handle.write(np.ascontiguousarray(values, dtype="<f4").tobytes())
        self.rows += len(values)

    def close(self) -> None:
        """No more rows; from here on they can be read."""
        self.handle.close()

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows of the closed spool, read from the file: a memory map would count as memory."""
        start, stop, _ = rows.indices(self.rows)
        count = max(0, stop - start)  # below 0 would be read as all there is
        values = np.fromfile(
            self.path, dtype="<f4", count=count * self.dim, offset=start * self.dim * 4
        )
        return values.reshape(-1, self.dim)


class Rows:
    """The columns that every row has, at about 50 bytes a row."""

    def __init__(self) -> None:
        self._ids = bytearray()
        self._reasons: dict[str, int] = {}
        self._codes = array("H")
        self._has_energy = self._has_nodes = False
        self._energy = array("d")
        self._sizes = array("q")

    def __len__(self) -> int:
        return len(self._codes)

    def append(self, structure_id: str, reason: str, energy: float, size: int) -> None:
        """Add the next row; an empty ``reason`` means embedded."""
        packed = structure_id.encode("ascii", "replace").ljust(_ID_BYTES)
        if len(packed) > _ID_BYTES or packed.decode("ascii").rstrip() != structure_id:
            raise ArchiveError(
                f"structure id '{structure_id}': ids are up to {_ID_BYTES} ASCII characters, none "
                "blank at the end; mend the loader"
            )
        self._ids += packed
        if reason not in self._reasons and len(self._reasons) >= _MOST_REASONS:
            reason = reason.partition(":")[0]  # more texts than codes: the particulars go
        self._codes.append(self._reasons.setdefault(reason, len(self._reasons)))
        self._has_energy |= not np.isnan(energy)
        self._has_nodes |= size > 0
        self._energy.append(energy)
        self._sizes.append(size)

    def columns(self) -> dict[str, np.dtype]:
        """Columns that hold something, and their dtypes; object is text.

        ``reason`` is left out when all rows share one, ``energy`` and ``row_size`` when there is
        none.
        """
        kinds = {"structure_id": np.dtype(object)}
        if len(self.distinct_reasons()) > 1:
            kinds["reason"] = np.dtype(np.uint16)
        if self._has_energy:
            kinds["energy"] = np.dtype(np.float64)
        if self._has_nodes:
            kinds["row_size"] = np.dtype(np.int64)
        return kinds

    def column(self, name: str, rows: slice) -> np.ndarray:
        """These rows of one column; text as Python strings, reasons as codes."""
        if name == "reason":
            return np.array(self._codes[rows], dtype=np.uint16)
        if name == "energy":
            return self.energy(rows)
        if name == "row_size":
            return np.array(self._sizes[rows], dtype=np.int64)
        start, stop, _ = rows.indices(len(self))
        text = self._ids[start * _ID_BYTES : stop * _ID_BYTES].decode("ascii")
        ids = [text[i : i + _ID_BYTES].rstrip() for i in range(0, len(text), _ID_BYTES)]
        return np.array(ids, dtype=object)

    def energy(self, rows: slice) -> np.ndarray:
        """Energies of these rows, float64, NaN where there is none."""
        return np.array(self._energy[rows], dtype=np.float64)

    def reasons(self, rows: slice) -> np.ndarray:
        """Missing reasons of these rows as text, object array."""
        return np.array(self.distinct_reasons(), dtype=object)[np.array(self._codes[rows], int)]

    def distinct_reasons(self) -> list[str]:
        """Reasons in order of first appearance; codes index them."""
        return list(self._reasons)

    def missing(self) -> dict[str, int]:
        """Rows without an embedding by the leading word of their reason."""
        reasons = list(self._reasons)
        counts: Counter[str] = Counter()
        for code, n in Counter(self._codes).items():
            if reasons[code]:
                counts[reasons[code].split(":")[0]] += n
        return dict(sorted(counts.items()))
