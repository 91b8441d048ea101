# SPDX-License-Identifier: Apache-2.0
"""Elemental ground-state crystals of the delta test of DFT codes, as ASE ships them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from ...schemas.cards import StructureSetCard
from ...schemas.structures import ATOMIC_NUMBERS, Structure
from .crystals import PERIODIC, source_file

_NOBLE_GASES = (2, 10, 18, 36, 54, 86)


def block(symbol: str) -> str:
    """Block of the periodic table: ``s_block``, ``p_block``, ``d_block`` or ``f_block``.

    ``f_block`` is the lanthanides La to Lu and the actinides Ac to Lr, as everywhere in the
    project; helium, an s-element by its electrons, counts as ``s_block``.
    """
    z = ATOMIC_NUMBERS[symbol]
    if 57 <= z <= 71 or 89 <= z <= 103:
        return "f_block"
    start = max((g for g in _NOBLE_GASES if g < z), default=0)
    end = next((g for g in _NOBLE_GASES if g >= z), 118)
    if z - start <= 2:
        return "s_block"
    return "p_block" if end - z < 6 else "d_block"


def load(card: StructureSetCard) -> Iterator[Structure]:
    """Yield the crystals by atomic number; ``source_id`` is the chemical symbol.

    Labels: ``volume`` (Å³/atom), ``bulk_modulus`` (GPa) and ``bulk_modulus_derivative``
    (dimensionless), the WIEN2k equation of state; the cell is the one the test starts from, not
    scaled to ``volume`` (they differ by up to 3.4 %).
    """
    data = json.loads(source_file(card).read_text(encoding="utf-8"))
    rows = [data[str(i)] for i in data["ids"]]
    for row in sorted(rows, key=lambda r: ATOMIC_NUMBERS[r["key_value_pairs"]["name"]]):
        values = row["key_value_pairs"]
        yield Structure(
            source_id=values["name"],
            kind="crystal",
            stratum=block(values["name"]),
            numbers=np.asarray(row["numbers"], dtype=np.int64),
            positions=np.asarray(row["positions"], dtype=float),
            cell=np.asarray(row["cell"], dtype=float),
            pbc=PERIODIC,
            name=values["name"],
            labels={
                "volume": float(values["wien2k_volume"]),
                "bulk_modulus": float(values["wien2k_B"]),
                "bulk_modulus_derivative": float(values["wien2k_Bp"]),
            },
        )
