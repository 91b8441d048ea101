# SPDX-License-Identifier: Apache-2.0
"""Count the shipped reference universes: ``registry/universes/<id>.yaml`` and ``<id>.csv``.

    OMP_NUM_THREADS=1 python benchmarks/universes.py registry ccd mp

Only counts by region are shipped. ``registry``: all rows of all full structure sets. ``ccd``: every
released component of the PDB's Chemical Component Dictionary (biotite). ``mp``: the formulas of the
Materials Project's formation energy task of Matbench (Dunn et al., npj Comput. Mater. 6, 138
(2020)), as the source archive of crabnet ships them; one a material, without structures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from matteratlas.analysis.evidence.chemistry import TYPES, Regions, find_regions
from matteratlas.analysis.evidence.universe import count_regions
from matteratlas.builders.structures.ccd import _Dictionary
from matteratlas.builders.structures.sets import load_set
from matteratlas.registry import catalog
from matteratlas.registry.packages import package_file
from matteratlas.schemas.reach import UniverseCard
from matteratlas.schemas.structures import ATOMIC_NUMBERS, Structure

FOLDER = Path(__file__).resolve().parent.parent / "registry" / "universes"

#: Regions of fewer structures are left out of the counts.
LEAST = {"registry": 5, "ccd": 20, "mp": 40}

CARDS = {
    "registry": {
        "name": "Structure sets of the registry",
        "description": "All structures of all full structure sets this registry knows, each once.",
        "licence": "Apache-2.0 (counts only)",
        "sets": list(catalog.structure_sets()),
    },
    "ccd": {
        "name": "PDB Chemical Component Dictionary",
        "description": (
            "Every released component with ideal coordinates for all atoms and charges that add "
            "up, of any element, size and charge; scaffolds of those with a SMILES."
        ),
        "sources": ["biotite==1.6.0 biotite/structure/info/components.bcif"],
        "licence": "CC0-1.0 (as wwPDB publishes the dictionary); counts only",
        "sets": ["ccd"],
    },
    "mp": {
        "name": "Formulas of the Materials Project",
        "description": (
            "132,752 formulas of computed crystals (formation energy task of Matbench, Materials "
            "Project of 2018), with polymorphs; formulas only, so no sizes and no prototypes. A "
            "record of what was computed, not of what exists."
        ),
        "sources": ["crabnet==1.0.1 (source archive) data/matbench/mp_e_form.csv"],
        "licence": "CC-BY-4.0 (Materials Project); counts only",
        "sets": [],
    },
}


def registry() -> Regions:
    tables, geometries = [], {}
    for card in catalog.structure_sets().values():
        loaded = load_set(card)
        tables.append(loaded.table)
        if card.redistribute_coordinates:  # as an atlas, which has no prototypes of the others
            geometries |= {s.id: s for s in loaded.structures}
    structures = pd.concat(tables, ignore_index=True).drop_duplicates("id")
    return find_regions(structures.reset_index(drop=True), geometries)


def ccd() -> Regions:
    card = catalog.structure_set("ccd").sources[0]
    dictionary = _Dictionary(
        package_file(card.package, card.path, kind=card.kind, sha256=card.sha256)
    )
    missing = np.r_[0, np.cumsum(np.isnan(dictionary._positions).any(axis=1))]
    chosen = [
        c
        for c in dictionary._released()
        if missing[c.stop] == missing[c.start]
        and dictionary._numbers[c.start : c.stop].all()
        and c.charge == int(dictionary._charges[c.start : c.stop].sum())
    ]
    bonds = dictionary.bonds({c.name for c in chosen})
    rows = [
        _row(dictionary.structure(c, "all", bonds.get(c.name, []), {}), f"ccd/{c.name}")
        for c in chosen
    ]
    return find_regions(pd.DataFrame(rows), {}, types=[t for t in TYPES if t != "stratum"])


def _row(structure: Structure, name: str) -> dict[str, object]:
    return {
        "id": name,
        "set": "ccd",
        "stratum": structure.stratum,
        "kind": structure.kind,
        "elements": structure.elements,
        "formula": structure.formula,
        "n_atoms": len(structure),
        "periodicity": structure.periodicity,
        "charge": structure.charge,
        "smiles": structure.smiles,
    }


def mp() -> Regions:
    from ase.formula import Formula

    file = package_file("crabnet==1.0.1", "data/matbench/mp_e_form.csv", kind="sdist")
    rows = []
    for i, text in enumerate(pd.read_csv(file, keep_default_na=False)["formula"]):
        counts = Formula(text).count()
        if not counts or set(counts) - set(ATOMIC_NUMBERS):
            raise SystemExit(f"{file}: row {i + 1}: '{text}' is no formula")
        hill = "".join(f"{s}{n}" for s, n in counts.items())
        rows.append(
            {"id": str(i), "set": "mp", "stratum": "all", "kind": "crystal", "formula": hill,
             "elements": list(counts), "n_atoms": 1, "periodicity": 0, "charge": 0, "smiles": None}
        )  # fmt: skip
    return find_regions(pd.DataFrame(rows), {}, types=["element", "pair", "stoichiometry"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("universes", nargs="+", choices=list(CARDS))
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    for name in options.universes:
        totals, counts = count_regions(globals()[name](), least=LEAST[name])
        said = dict(CARDS[name])
        if name == "registry":
            said["sources"] = [f"{c.id} {c.version}" for c in catalog.structure_sets().values()]
        card = UniverseCard(id=name, least=LEAST[name], totals=totals, **said)  # type: ignore[arg-type]
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"{name}.yaml"
        path.write_text(
            yaml.safe_dump(card.model_dump(), sort_keys=False, allow_unicode=True, width=100)
        )
        counts.to_csv(path.with_suffix(".csv"), index=False, lineterminator="\n")
        print(f"{name}: {len(counts)} regions, {path.with_suffix('.csv').stat().st_size} bytes")
        print(pd.DataFrame(totals).T.to_string())


if __name__ == "__main__":
    main()
