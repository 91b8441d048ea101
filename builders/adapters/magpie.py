# SPDX-License-Identifier: Apache-2.0
"""Magpie: statistics of tabulated element properties over a composition.

Six statistics (minimum, maximum, range, mean, average deviation, mode) of 22 element properties,
as the ``magpie`` preset of matminer's ``ElementProperty``: 132 numbers, a function of composition
alone. Elements for which a property is not tabulated are recorded as unsupported; imputing the
periodic table's average would make noble gases look like a typical metal.

Source: L. Ward et al., npj Comput. Mater. 2, 16028 (2016), doi:10.1038/npjcompumats.2016.28.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from math import gcd
from typing import ClassVar

import numpy as np

from ...schemas.cards import elements_of
from ...schemas.errors import CardError
from ...schemas.structures import Structure
from .base import Adapter, Embedded


class Magpie(Adapter):
    """matminer's ``ElementProperty`` with the ``magpie`` preset."""

    batch_size: ClassVar[int] = 256

    def load(self) -> None:
        """Read the property tables matminer ships; nothing is fetched or imputed."""
        from matminer.featurizers.composition import ElementProperty

        self._featurizer = ElementProperty.from_preset("magpie", impute_nan=False)
        known = tabulated_elements(self._featurizer)
        if elements_of(self.card.supports.elements) != known:
            raise CardError(
                f"model '{self.card.id}': key 'supports.elements' differs from the elements with "
                f"all properties tabulated; correct the card ({len(known)} elements)"
            )

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Featurise each reduced composition once."""
        from pymatgen.core import Composition

        name = self.card.default_layer
        done: dict[tuple[tuple[str, int], ...], np.ndarray] = {}
        for structure in structures:
            # The reduced formula, so that a supercell has the very bits of its unit cell.
            counts = structure.composition
            shared = reduce(gcd, counts.values())
            key = tuple((symbol, n // shared) for symbol, n in counts.items())
            if key not in done:
                done[key] = np.asarray(self._featurizer.featurize(Composition(dict(key))))
            yield Embedded(pooled={name: done[key]})


def tabulated_elements(featurizer: object) -> frozenset[str]:
    """Elements for which every property of an ``ElementProperty`` featuriser is known."""
    properties = featurizer.data_source.all_elemental_props  # type: ignore[attr-defined]
    names = featurizer.features  # type: ignore[attr-defined]
    return frozenset(
        symbol
        for symbol in properties[names[0]]
        if all(np.isfinite(properties[name].get(symbol, np.nan)) for name in names)
    )
