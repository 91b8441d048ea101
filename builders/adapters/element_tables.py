# SPDX-License-Identifier: Apache-2.0
"""Element tables: one learned vector an element, averaged over a structure's atoms.

The tables ship as CSV or JSON inside the ElementEmbeddings wheel and are read from there; the
package itself is never imported. A row knows its element and nothing of where the atom sits, so
the pooled vector is a function of composition alone,

    v = sum_e n_e t_e / sum_e n_e,

with n_e the count of element e and t_e its row. Node vectors would only repeat the rows, hence the
layer exists at structure level alone.

Source: A. Onwuli et al., Digital Discovery 2, 1558 (2023), doi:10.1039/D3DD00121K.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from ...schemas.cards import elements_of
from ...schemas.errors import CardError, SourceError
from ...schemas.structures import ATOMIC_NUMBERS, SYMBOLS, Structure
from .base import Adapter, Embedded


def read_table(path: Path) -> dict[str, np.ndarray]:
    """Read an element table.

    Parameters
    ----------
    path:
        ``.csv`` with the element symbol in the first column and a header line, or ``.json``
        mapping symbols to lists of numbers. Keys that are no element (megnet's ``Null``) are left
        out.

    Returns
    -------
    dict
        Symbol -> (dim,) float64, by atomic number.

    Raises
    ------
    SourceError
        Rows of unequal length, a repeated element, a value that is no finite number.
    """
    if path.suffix == ".json":
        rows = [(k, v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()]
    else:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = [(row[0], row[1:]) for row in list(csv.reader(handle))[1:] if row]
    table: dict[str, np.ndarray] = {}
    for symbol, values in rows:
        if symbol not in ATOMIC_NUMBERS:
            continue
        try:
            vector = np.asarray(values, dtype=np.float64)
        except ValueError as error:
            raise SourceError(f"{path.name}: row '{symbol}' is not numeric: {error}") from error
        if symbol in table:
            raise SourceError(f"{path.name}: element '{symbol}' is given twice; keep one row")
        if vector.ndim != 1 or not np.isfinite(vector).all():
            raise SourceError(f"{path.name}: row '{symbol}' is no vector of finite numbers")
        table[symbol] = vector
    if len({v.size for v in table.values()}) != 1:
        raise SourceError(f"{path.name}: rows must be of one length and at least one an element")
    return {s: table[s] for s in SYMBOLS if s in table}


class ElementTable(Adapter):
    """Composition-weighted mean of a learned element table."""

    batch_size: ClassVar[int] = 1024

    def load(self) -> None:
        """Read the table and hold it against the card's dimension and elements."""
        table = read_table(self.checkpoint())
        layer = self.card.layer()
        dim = next(iter(table.values())).size
        if dim != layer.dim:
            raise CardError(
                f"model '{self.card.id}': layer '{layer.name}' has dim {layer.dim}, "
                f"the table has {dim} columns; correct the card"
            )
        if elements_of(self.card.supports.elements) != frozenset(table):
            raise CardError(
                f"model '{self.card.id}': key 'supports.elements' differs from the table's rows; "
                f"correct the card ({len(table)} elements: {' '.join(table)})"
            )
        self._rows = np.full((len(SYMBOLS), dim), np.nan)
        for symbol, vector in table.items():
            self._rows[ATOMIC_NUMBERS[symbol]] = vector

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Mean of the atoms' rows, summed by element in order of atomic number in float64."""
        name = self.card.default_layer
        for structure in structures:
            z, counts = np.unique(np.asarray(structure.numbers), return_counts=True)
            yield Embedded(pooled={name: (counts / counts.sum()) @ self._rows[z]})
