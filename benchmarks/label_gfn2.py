# SPDX-License-Identifier: Apache-2.0
"""GFN2-xTB energies of molecules of the set `ccd`: makes `builders/structures/ccd_gfn2.csv` anew.

    OMP_NUM_THREADS=1 python benchmarks/label_gfn2.py --out builders/structures/ccd_gfn2.csv

Needs tblite 0.8.0 beside `matteratlas[sources]`. Taken are organic molecules (neutral, an even
number of electrons, at most 60 atoms): all of the starter selection, then those with the smallest
SHA-256 of "gfn2:" and the component id. One single point each at the dictionary's ideal
coordinates, all electrons paired. A molecule whose charges do not converge is named and left out.
`--check N` computes N of the file's molecules anew instead and prints how far they differ.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
import time
from importlib import metadata
from pathlib import Path

from matteratlas.builders.structures.ccd import METAL
from matteratlas.builders.structures.sets import load_set, starter_rows
from matteratlas.registry.catalog import structure_set
from matteratlas.schemas.structures import Structure, structure_from_row

#: CODATA 2018.
BOHR, HARTREE = 0.529177210903, 27.211386245988
#: The version whose energies the file holds.
TBLITE = "0.8.0"
#: Of tblite: scales the thresholds of convergence (1 is its default).
ACCURACY = 0.1


def chosen(count: int) -> list[Structure]:
    """The molecules to label, in the set's order."""
    card = structure_set("ccd")
    table = load_set(card).table
    table = table.assign(starter=starter_rows(table, card))
    table = table[table["stratum"] != METAL]
    key = table["source_id"].map(lambda i: hashlib.sha256(f"gfn2:{i}".encode()).hexdigest())
    order = (~table["starter"]).map({False: "0:", True: "1:"}) + key
    rows = table.loc[sorted(order.sort_values().index[:count])]
    return [structure_from_row(row) for row in rows.to_dict("records")]


def energy(structure: Structure) -> float:
    """Total energy in eV.

    Raises
    ------
    RuntimeError
        The charges do not converge.
    """
    from tblite.interface import Calculator

    calculator = Calculator("GFN2-xTB", structure.numbers, structure.positions / BOHR, 0.0, 0)
    calculator.set("verbosity", 0)
    calculator.set("accuracy", ACCURACY)
    return float(calculator.singlepoint().get("energy")) * HARTREE


def label(out: Path, count: int) -> None:
    structures, failed, start = chosen(count), 0, time.perf_counter()
    part = out.with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["component", "energy_ev"])
        for i, structure in enumerate(structures, 1):
            try:
                writer.writerow([structure.source_id, f"{energy(structure):.5f}"])
            except RuntimeError as error:
                failed += 1
                print(f"{structure.source_id}: left out: {error}", file=sys.stderr)
            if i % 100 == 0:
                print(f"{i} of {len(structures)}, {time.perf_counter() - start:.0f} s", flush=True)
    part.replace(out)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    print(f"{out}: {len(structures) - failed} energies, {failed} left out, sha256 {digest}")


def check(file: Path, count: int) -> None:
    with file.open(encoding="utf-8", newline="") as handle:
        known = {row["component"]: float(row["energy_ev"]) for row in csv.DictReader(handle)}
    structures = {s.source_id: s for s in chosen(10**6)}
    names = list(known)[:: max(len(known) // count, 1)][:count]
    worst = max(abs(energy(structures[name]) - known[name]) for name in names)
    print(f"{len(names)} molecules computed anew: largest difference {worst:.6f} eV")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--check", type=int, default=0, metavar="N")
    args = parser.parse_args()
    found = metadata.version("tblite")
    if found != TBLITE:
        raise SystemExit(f"tblite {found} is installed; the energies are those of {TBLITE}")
    if args.check:
        check(args.out, args.check)
    else:
        label(args.out, args.count)


if __name__ == "__main__":
    main()
