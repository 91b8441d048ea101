# SPDX-License-Identifier: Apache-2.0
"""Matter far from training data: benchmark sets of the Grimme group's mstore, as tad-mctc ships it.

The package's data modules are parsed, never imported, so that torch is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...registry.hub import package_file
from ...schemas.cards import StructureSetCard
from ...schemas.errors import SourceError
from ...schemas.structures import ATOMIC_NUMBERS, Structure
from .literals import read_assignment
from .smiles import smiles_from_geometry

#: Bohr radius in ångström (CODATA 2018).
BOHR = 0.529177210903
#: The records are in bohr, all but these, which the package leaves in ångström: read as bohr,
#: every N-H bond of polyalanine would be 0.52 Å long.
IN_ANGSTROM: frozenset[str] = frozenset({"polyalanine"})
#: Most atoms of a structure; cuts the polyalanine ladder (43 to 1,003 atoms).
MAX_ATOMS = 300
#: Gas-phase water among the ices: neither a crystal nor exotic.
LEFT_OUT: frozenset[str] = frozenset({"ice10/gas"})


def load(card: StructureSetCard) -> Iterator[Structure]:
    """The records of each stratum (one data module each), in the package's order."""
    source = card.sources[0]
    folder = package_file(source.package, source.path, kind=source.kind, sha256=source.sha256)
    for stratum in card.strata:
        records = read_assignment(
            folder / f"{stratum}.py",
            stratum,
            calls={"torch.tensor": lambda value: value, "symbol_to_number": lambda names: names},
        )
        for key, record in records.items():
            source_id = f"{stratum}/{key}"
            if source_id not in LEFT_OUT and len(record["numbers"]) <= MAX_ATOMS:
                yield _structure(source_id, stratum, record)


def _structure(source_id: str, stratum: str, record: dict[str, Any]) -> Structure:
    unknown = sorted(set(record) - {"numbers", "positions", "lattice", "periodic", "charge", "uhf"})
    if unknown:
        raise SourceError(f"structure '{source_id}': field '{unknown[0]}' is not understood")
    unit = 1.0 if stratum in IN_ANGSTROM else BOHR
    # Most records name symbols, a few give atomic numbers.
    numbers = np.array([z if isinstance(z, int) else ATOMIC_NUMBERS[z] for z in record["numbers"]])
    positions = np.array(record["positions"], dtype=float) * unit
    charge = int(record.get("charge", 0))
    common: dict[str, Any] = {
        "source_id": source_id,
        "stratum": stratum,
        "numbers": numbers,
        "positions": positions,
        "charge": charge,
        "name": source_id.partition("/")[2],
    }
    if "lattice" in record:
        a, b, c = (bool(p) for p in record["periodic"])
        return Structure(
            **common,
            kind="crystal",
            cell=np.array(record["lattice"], dtype=float) * unit,
            pbc=(a, b, c),
        )
    multiplicity = multiplicity_of(int(numbers.sum()) - charge, record.get("uhf"))
    smiles = None
    if not _is_mindless(source_id):
        smiles = smiles_from_geometry(numbers, positions, charge=charge, multiplicity=multiplicity)
    return Structure(**common, kind="molecule", multiplicity=multiplicity, smiles=smiles)


def _is_mindless(source_id: str) -> bool:
    """The 43 artificial molecules of MB16-43 (``01`` to ``43``): no bond order is agreed there."""
    stratum, _, key = source_id.partition("/")
    return stratum == "mb16_43" and key.isdigit()


def multiplicity_of(electrons: int, unpaired: int | None) -> int | None:
    """2S+1 from the record's count of unpaired electrons (none given: zero, as the source has it).

    None where that cannot be right.
    The f-block records count valence electrons only (4f in the core): their parity may contradict
    the all-electron count, and then the record does not say what the molecule's spin is.
    """
    spin = unpaired or 0
    return spin + 1 if spin % 2 == electrons % 2 else None
