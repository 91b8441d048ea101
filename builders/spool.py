# SPDX-License-Identifier: Apache-2.0
"""Where rows wait until a unit is complete: vectors on disk, the other columns packed in memory."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

#: Length of a structure id.
_ID_BYTES = 30


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
        values = np.fromfile(
            self.path, dtype="<f4", count=(stop - start) * self.dim, offset=start * self.dim * 4
        )
        return values.reshape(-1, self.dim)


class Rows:
    """The columns that every row has, at about 50 bytes a row."""

    def __init__(self) -> None:
        self._ids = bytearray()
        self._reasons: dict[str, int] = {"": 0}
        self._codes = array("I")
        self._energy = array("d")
        self._sizes = array("q")

    def __len__(self) -> int:
        return len(self._codes)

    def append(self, structure_id: str, reason: str, energy: float, size: int) -> None:
        """Add the next row; an empty ``reason`` means embedded."""
        self._ids += structure_id.encode("ascii").ljust(_ID_BYTES)
        self._codes.append(self._reasons.setdefault(reason, len(self._reasons)))
        self._energy.append(energy)
        self._sizes.append(size)

    def block(self, rows: slice) -> dict[str, np.ndarray]:
        """The columns of these rows; text as Python strings."""
        start, stop, _ = rows.indices(len(self))
        text = self._ids[start * _ID_BYTES : stop * _ID_BYTES].decode("ascii")
        ids = [text[i : i + _ID_BYTES].rstrip() for i in range(0, len(text), _ID_BYTES)]
        reasons = list(self._reasons)
        return {
            "structure_id": np.array(ids, dtype=object),
            "reason": np.array([reasons[c] for c in self._codes[start:stop]], dtype=object),
            "energy": np.array(self._energy[start:stop], dtype=np.float64),
            "row_size": np.array(self._sizes[start:stop], dtype=np.int64),
        }

    def missing(self) -> dict[str, int]:
        """Rows without an embedding by the leading word of their reason."""
        reasons = list(self._reasons)
        counts: Counter[str] = Counter()
        for code, n in Counter(self._codes).items():
            if code:
                counts[reasons[code].split(":")[0]] += n
        return dict(sorted(counts.items()))
