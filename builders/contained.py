# SPDX-License-Identifier: Apache-2.0
"""Whether all rows of one table or unit are in another, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..registry.parquet import read_arrow
from ..registry.unit import Unit

#: Rows compared at a time.
_BLOCK = 1024


def differing_structure(small: Path, big: Path) -> str | None:
    """Id of the first row of a structures table that another lacks or has otherwise, or None."""
    one, two = read_arrow(small), read_arrow(big)
    names = sorted(set(one.schema.names) | set(two.schema.names))
    place = {structure_id: i for i, structure_id in enumerate(two["id"].to_pylist())}
    for batch in one.to_batches(max_chunksize=_BLOCK):
        rows = batch.to_pylist()
        known = [r for r in rows if r["id"] in place]
        others = iter(two.take([place[r["id"]] for r in known]).to_pylist())
        for row in rows:
            if row["id"] not in place:
                return str(row["id"])
            other = next(others)
            # Texts, because NaN is equal to NaN here.
            if [repr(row.get(n)) for n in names] != [repr(other.get(n)) for n in names]:
                return str(row["id"])
    return None


def differing_row(small: Unit, big: Unit) -> str | None:
    """What a unit has that another of the same model and set lacks, or None.

    Raises
    ------
    ArchiveError
        A row cannot be read.
    """
    if str(small.record.precision) != str(big.record.precision):
        return f"precision {small.record.precision}"
    if small.record.energy != big.record.energy:
        return "the energy's unit or reference"
    ids = small.ids()
    place = pd.Series(np.arange(len(big)), index=big.ids()).reindex(ids).to_numpy()
    absent = np.flatnonzero(np.isnan(place))
    if len(absent):
        return f"row '{ids[absent[0]]}'"
    rows = place.astype(np.int64)
    same = (small.reasons() == big.reasons()[rows]) & (small.row_size() == big.row_size()[rows])
    same &= _equal(small.energy()[:, None], big.energy()[rows][:, None])
    for layer in small.record.layers:
        one, two = small.vectors(layer), big.vectors(layer)
        for start in range(0, len(ids), _BLOCK):
            part = slice(start, min(start + _BLOCK, len(ids)))
            same[part] &= _equal(one.read(part.start, part.stop), two.take(rows[part]))
        if (small.nodes(layer) is None) != (big.nodes(layer) is None):
            return f"layer '{layer}', whose node vectors only one of them keeps,"
    if same.all():
        same &= _same_nodes(small, big, rows)
    differing = np.flatnonzero(~same)
    return f"row '{ids[differing[0]]}'" if len(differing) else None


def _same_nodes(small: Unit, big: Unit, rows: np.ndarray) -> np.ndarray:
    """Rows whose node vectors are equal, bool; node counts are equal already."""
    same = np.ones(len(rows), dtype=bool)
    starts = np.concatenate([[0], np.cumsum(small.row_size())])
    others = np.concatenate([[0], np.cumsum(big.row_size())])[rows]
    for layer in small.record.layers:
        one, two = small.nodes(layer), big.nodes(layer)
        if one is None or two is None:
            continue
        for first in range(0, len(rows), _BLOCK):
            last = min(first + _BLOCK, len(rows))
            sizes = np.diff(starts[first : last + 1])
            owner = np.repeat(np.arange(first, last), sizes)
            within = np.arange(starts[first], starts[last]) - starts[owner]
            equal = _equal(one.read(starts[first], starts[last]), two.take(others[owner] + within))
            same[owner[~equal]] = False
    return same


def _equal(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Rows that hold the same values, NaN equal to NaN; bool, (rows,)."""
    return np.asarray(((one == two) | ((one != one) & (two != two))).all(axis=1))
