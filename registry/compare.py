# SPDX-License-Identifier: Apache-2.0
"""Compare two versions of a unit, or of a structures table, row by row and by id.

Rows are read in blocks through the checked readers, so memory stays bounded whatever the size, and
only columns whose content digests differ are read at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.archive import nodes_name
from ..schemas.errors import ArchiveError
from .files import Files
from .parquet import UNREADABLE, decoded, opened, plain
from .unit import Unit

#: Bytes of vectors read at once from either side.
BLOCK_BYTES = 16 * 2**20
#: Ids named of each kind of change.
EXAMPLES = 5


@dataclass
class RowChanges:
    """What happened to the rows of a table or unit, by id.

    Attributes
    ----------
    changed : int
        Rows in both whose values differ; ``columns`` counts them by column.
    now_embedded, now_missing : int
        Rows in both that only the new, or only the old, has a vector of (units only).
    largest : float
        Largest absolute difference of a vector's component; None where none can be taken.
    examples : list of str
        First ids that changed, went missing or went away.
    columns_added, columns_removed, columns_retyped : list of str
        Columns of tables; layers, and layers' node vectors, of units.
    """

    added: int = 0
    removed: int = 0
    changed: int = 0
    now_embedded: int = 0
    now_missing: int = 0
    largest: float | None = None
    columns: dict[str, int] = field(default_factory=dict)
    columns_added: list[str] = field(default_factory=list)
    columns_removed: list[str] = field(default_factory=list)
    columns_retyped: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    @property
    def destructive(self) -> bool:
        """Something that was there changed or went away."""
        gone = self.removed or self.changed or self.now_missing
        return bool(gone or self.columns_removed or self.columns_retyped)

    @property
    def additive(self) -> bool:
        """Something is there that was not."""
        return bool(self.added or self.now_embedded or self.columns_added)


class _Pairing:
    """Which row of the new is each row of the old."""

    def __init__(self, old: np.ndarray, new: np.ndarray) -> None:
        self.old, self.new = old, new
        index = pd.Index(new)
        if not index.is_unique:
            raise ArchiveError(f"id '{index[index.duplicated()][0]}' stands in two rows of a table")
        self.position = np.asarray(index.get_indexer(pd.Index(old)))
        self.common = self.position >= 0

    def start(self) -> RowChanges:
        kept = int(self.common.sum())
        gone = self.old[~self.common]
        return RowChanges(
            added=len(self.new) - kept,
            removed=len(self.old) - kept,
            examples=[str(i) for i in gone[:EXAMPLES]],
        )


def compare_units(old: Unit, new: Unit) -> RowChanges:
    """What happened to one model's rows of one set.

    Raises
    ------
    ArchiveError
        A file of either side is absent or damaged.
    """
    pairs = _Pairing(old.ids(), new.ids())
    out = pairs.start()
    here, there = np.flatnonzero(pairs.common), pairs.position[pairs.common]
    before, after = old.reasons()[here], new.reasons()[there]
    both = (before == "") & (after == "")
    out.now_embedded = int(((before != "") & (after == "")).sum())
    lost = (before == "") & (after != "")
    out.now_missing = int(lost.sum())
    changed = (before != after) & (before != "") & (after != "")
    _count(out, "missing_reason", changed)
    energy = _differ(old.energy()[here], new.energy()[there]) & both
    _count(out, "energy", energy)
    changed |= energy
    same_ids = old.record.content["structure_id"] == new.record.content["structure_id"]
    rows_a, rows_b = here[both], there[both]
    arrays = _arrays(old, new, out)
    for name in arrays:
        a, b = old.record.content.get(name), new.record.content.get(name)
        if a is None or b is None or (a == b and same_ids):
            continue
        nodes = name not in old.record.layers
        layer = name.removesuffix(nodes_name("")) if nodes else name
        compare = _compare_nodes if nodes else _compare_vectors
        differ, largest = compare(old, new, layer, rows_a, rows_b)
        if largest is not None:
            out.largest = max(largest, out.largest or 0.0)
        mask = np.zeros(len(here), bool)
        mask[both] = differ
        _count(out, name, mask)
        changed |= mask
    out.changed = int(changed.sum())
    ids = pairs.old[here]
    out.examples = [*out.examples, *map(str, ids[lost]), *map(str, ids[changed])][:EXAMPLES]
    return out


def _arrays(old: Unit, new: Unit, out: RowChanges) -> list[str]:
    """Names of vector arrays of both sides; notes those that only one has."""
    a, b = (
        {**u.record.layers, **{nodes_name(n): d for n, d in u.record.layers.items() if u.nodes(n)}}
        for u in (old, new)
    )
    if not old.record.embedded:  # without a vector, whether nodes are kept cannot be told
        a |= {n: d for n, d in b.items() if n not in new.record.layers}
    if not new.record.embedded:
        b |= {n: d for n, d in a.items() if n not in old.record.layers}
    out.columns_added = sorted(set(b) - set(a))
    out.columns_removed = sorted(set(a) - set(b))
    out.columns_retyped = sorted(n for n in set(a) & set(b) if a[n] != b[n])
    return [n for n in a if n in b and a[n] == b[n]]


def _compare_vectors(
    old: Unit, new: Unit, layer: str, rows_a: np.ndarray, rows_b: np.ndarray
) -> tuple[np.ndarray, float | None]:
    """Which of the paired rows differ, and by how much at most."""
    a, b = old.vectors(layer), new.vectors(layer)
    differ, largest = np.zeros(len(rows_a), bool), None
    step = max(1, BLOCK_BYTES // (4 * max(1, old.record.layers[layer])))
    for start in range(0, len(rows_a), step):
        part = slice(start, start + step)
        x, y = _take(a, rows_a[part]), _take(b, rows_b[part])
        differ[part] = _differ(x, y).any(axis=1)
        largest = _further(largest, x, y)
    return differ, largest


def _compare_nodes(
    old: Unit, new: Unit, layer: str, rows_a: np.ndarray, rows_b: np.ndarray
) -> tuple[np.ndarray, float | None]:
    """The same for node vectors: runs of structures whose nodes adjoin on both sides at a time."""
    a, b = old.nodes(layer), new.nodes(layer)
    if a is None or b is None:
        return np.zeros(len(rows_a), bool), None
    ends_a, ends_b = np.cumsum(old.row_size()), np.cumsum(new.row_size())
    sizes_a, sizes_b = old.row_size()[rows_a], new.row_size()[rows_b]
    differ = sizes_a != sizes_b
    same = np.flatnonzero(~differ & (sizes_a > 0))
    first_a, first_b = ends_a[rows_a] - sizes_a, ends_b[rows_b] - sizes_b
    largest = None
    budget = max(1, BLOCK_BYTES // (4 * max(1, old.record.layers[layer])))
    for run in _runs(same, first_a, first_b, sizes_a, budget):
        size = int(sizes_a[run].sum())
        x = a.read(int(first_a[run[0]]), int(first_a[run[0]]) + size)
        y = b.read(int(first_b[run[0]]), int(first_b[run[0]]) + size)
        starts = np.cumsum(sizes_a[run]) - sizes_a[run]
        differ[run] = np.logical_or.reduceat(_differ(x, y).any(axis=1), starts)
        largest = _further(largest, x, y)
    return differ, largest


def _runs(
    rows: np.ndarray, first_a: np.ndarray, first_b: np.ndarray, sizes: np.ndarray, budget: int
) -> Iterator[np.ndarray]:
    """Rows cut where nodes stop adjoining on a side, and at about ``budget`` nodes."""
    if not len(rows):
        return
    stops = sizes[rows[:-1]]
    apart = (first_a[rows[1:]] != first_a[rows[:-1]] + stops) | (
        first_b[rows[1:]] != first_b[rows[:-1]] + stops
    )
    filled = np.diff(np.cumsum(sizes[rows]) // budget) > 0
    yield from np.split(rows, np.flatnonzero(apart | filled) + 1)


def _take(array: Any, rows: np.ndarray) -> np.ndarray:
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
        return np.asarray(array.read(int(rows[0]), int(rows[-1]) + 1))
    return np.asarray(array.take(rows))


def _differ(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Elementwise: other values, where every NaN is one and -0.0 is not 0.0."""
    unequal = (x != y) | (np.signbit(x) != np.signbit(y))
    return np.asarray(unequal & ~(np.isnan(x) & np.isnan(y)))


def _further(largest: float | None, x: np.ndarray, y: np.ndarray) -> float | None:
    gap = np.abs(x.astype(np.float64) - y.astype(np.float64))
    gap = gap[np.isfinite(gap)]
    return max(largest or 0.0, float(gap.max())) if len(gap) else largest


def _count(out: RowChanges, column: str, mask: np.ndarray) -> None:
    if mask.any():
        out.columns[column] = out.columns.get(column, 0) + int(mask.sum())


class TableRows:
    """Rows of a Parquet table by number; keeps the row groups it read last."""

    def __init__(self, files: Files, path: str, *, key: str) -> None:
        self.where = f"{files.location}/{path}"
        self._kept: dict[int, pa.Table] = {}
        try:
            self._file, self._size = opened(files.open(path))
            self.schema = plain(self._file.schema_arrow)
            self.ids = decoded(self._file.read([key]), size=self._size)[key].to_numpy()
        except (*UNREADABLE, KeyError) as error:
            raise ArchiveError(f"{self.where}: unreadable ({error}); restore the file") from error
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self.edges = np.cumsum([0, *sizes])

    def group(self, number: int) -> pa.Table:
        """One row group."""
        if number not in self._kept:
            if len(self._kept) > 1:
                self._kept.pop(next(iter(self._kept)))
            try:
                found = decoded(self._file.read_row_group(number), size=self._size)
                self._kept[number] = found.combine_chunks()
            except UNREADABLE as error:
                raise ArchiveError(
                    f"{self.where}: unreadable ({error}); restore the file"
                ) from error
        return self._kept[number]

    def take(self, rows: np.ndarray) -> pa.Table:
        """Rows by number, in the order given."""
        owner = np.searchsorted(self.edges, rows, side="right") - 1
        parts, order = [], []
        for number in np.unique(owner):
            mine = np.flatnonzero(owner == number)
            parts.append(self.group(int(number)).take(pa.array(rows[mine] - self.edges[number])))
            order.append(mine)
        if not parts:
            return self.schema.empty_table()
        back = np.argsort(np.concatenate(order), kind="stable")
        return pa.concat_tables(parts).take(pa.array(back))


def compare_tables(old: TableRows, new: TableRows) -> RowChanges:
    """What happened to the rows of a table, column by column."""
    pairs = _Pairing(old.ids, new.ids)
    out = pairs.start()
    a, b = ({f.name: f.type for f in t.schema} for t in (old, new))
    out.columns_added = sorted(set(b) - set(a))
    out.columns_removed = sorted(set(a) - set(b))
    out.columns_retyped = sorted(n for n in set(a) & set(b) if a[n] != b[n])
    names = [n for n in a if n in b and a[n] == b[n]]
    for number in range(len(old.edges) - 1):
        rows = np.arange(old.edges[number], old.edges[number + 1])
        rows = rows[pairs.common[rows]]
        if not len(rows):
            continue
        mine = old.group(number).take(pa.array(rows - old.edges[number]))
        theirs = new.take(pairs.position[rows])
        changed = np.zeros(len(rows), bool)
        for name in names:
            differ = ~rows_equal(mine[name], theirs[name])
            _count(out, name, differ)
            changed |= differ
        out.changed += int(changed.sum())
        out.examples = [*out.examples, *map(str, pairs.old[rows[changed]][:EXAMPLES])][:EXAMPLES]
    return out


def rows_equal(a: Any, b: Any) -> np.ndarray:
    """Row by row, whether two Arrow columns of one type hold the same; bool, (rows,)."""
    a, b = (c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in (a, b))
    valid_a, valid_b = (np.asarray(c.is_valid()) for c in (a, b))
    equal = valid_a == valid_b
    rows = np.flatnonzero(valid_a & valid_b)
    if not len(rows):
        return equal
    x, y = (c.take(pa.array(rows)) for c in (a, b))
    types = pa.types
    if types.is_struct(x.type):
        pairs = zip(x.flatten(), y.flatten(), strict=True)
        equal[rows] = np.logical_and.reduce([rows_equal(p, q) for p, q in pairs])
    elif types.is_fixed_size_list(x.type):
        items = rows_equal(x.flatten(), y.flatten())
        equal[rows] = items.reshape(len(rows), -1).all(axis=1)
    elif types.is_list(x.type) or types.is_large_list(x.type):
        sizes_x, sizes_y = (np.asarray(pc.list_value_length(c)) for c in (x, y))
        equal[rows] = sizes_x == sizes_y
        alike = np.flatnonzero(sizes_x == sizes_y)
        items = rows_equal(*(c.take(pa.array(alike)).flatten() for c in (x, y)))
        owner = np.repeat(alike, sizes_x[alike])
        equal[rows[owner[~items]]] = False
    elif types.is_floating(x.type):
        equal[rows] = ~_differ(*(c.to_numpy(zero_copy_only=False) for c in (x, y)))
    else:
        equal[rows] = np.asarray(pc.equal(x, y))
    return equal
