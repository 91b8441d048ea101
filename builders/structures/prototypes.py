# SPDX-License-Identifier: Apache-2.0
"""AFLOW crystal prototypes, as pymatgen ships them for structure matching."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import reduce
from math import gcd
from typing import Any

import numpy as np

from ...schemas.cards import StructureSetCard
from ...schemas.errors import SourceError
from ...schemas.structures import Structure
from .crystals import PERIODIC, atomic_numbers, source_file

#: Strata by number of elements; four and more share one.
STRATA = ("unary", "binary", "ternary", "quaternary_plus")


def load(card: StructureSetCard) -> Iterator[Structure]:
    """Yield the prototypes in source order, each decorated with the elements of its namesake.

    ``source_id`` is the AFLOW label and the reduced formula (``AB_cF8_225_a_b:ClNa``): a label
    alone is shared by several entries. ``name`` is the label, with the Strukturbericht symbol and
    the mineral or common name where the source has them.

    Raises
    ------
    SourceError
        An entry has a disordered site: the set is documented as ordered.
    """
    with gzip.open(source_file(card), "rt", encoding="utf-8") as handle:
        entries = json.load(handle)
    for entry in entries:
        label, snl = entry["tags"]["aflow"], entry["snl"]
        symbols = [_ordered(site, label) for site in snl["sites"]]
        source_id = f"{label}:{reduced_formula(symbols)}"
        cell = np.asarray(snl["lattice"]["matrix"], dtype=float)
        yield Structure(
            source_id=source_id,
            kind="crystal",
            stratum=STRATA[min(len(set(symbols)), len(STRATA)) - 1],
            numbers=atomic_numbers(symbols, source_id=source_id),
            positions=np.array([site["abc"] for site in snl["sites"]], dtype=float) @ cell,
            cell=cell,
            pbc=PERIODIC,
            name=prototype_name(entry["tags"]),
        )


def prototype_name(tags: dict[str, str]) -> str:
    """Join label, Strukturbericht symbol and mineral: ``AB_cF8_225_a_b (B1; Halite, Rock Salt)``.

    The source writes a missing Strukturbericht symbol as ``"None"`` and a missing mineral as "".
    """
    details = [t for t in (tags["strukturbericht"], tags["mineral"]) if t not in ("", "None")]
    return tags["aflow"] + (f" ({'; '.join(details)})" if details else "")


def reduced_formula(symbols: Sequence[str]) -> str:
    """Formula in smallest whole numbers, elements in alphabetical order, e.g. ``ClNa``."""
    counts = Counter(symbols)
    divisor = reduce(gcd, counts.values())
    return "".join(
        f"{s}{counts[s] // divisor if counts[s] > divisor else ''}" for s in sorted(counts)
    )


def _ordered(site: dict[str, Any], label: str) -> str:
    species = site["species"]
    if len(species) != 1 or species[0]["occu"] != 1:
        raise SourceError(
            f"prototype '{label}' has a disordered site {species}; leave it out in the card's "
            "selection and the loader"
        )
    return str(species[0]["element"])
