# SPDX-License-Identifier: Apache-2.0
"""Molecules of the PDB's Chemical Component Dictionary, as biotite ships it.

Westbrook et al., Bioinformatics 31, 1274 (2015). Ideal coordinates, hydrogens included. A part of
the organic molecules carries a GFN2-xTB energy (Bannwarth et al., J. Chem. Theory Comput. 15, 1652
(2019)), computed once by ``benchmarks/label_gfn2.py`` and kept beside this file.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...registry.hub import package_file, sha256_of
from ...schemas.cards import StructureSetCard
from ...schemas.errors import SourceError
from ...schemas.structures import ATOMIC_NUMBERS, Structure
from .smiles import smiles_from_bonds

#: Elements of the organic strata.
ORGANIC: frozenset[str] = frozenset("H B C N O F Si P S Cl Br I".split())
#: Elements that make a component metal-bearing.
METALS: frozenset[str] = frozenset(
    "Li Be Na Mg Al K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn "
    "Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi "
    "Th U Pu Am Cm Cf".split()
)
#: Stratum -> heavy atoms, both ends included.
HEAVY: dict[str, tuple[int, int]] = {
    "heavy_1_5": (1, 5),
    "heavy_6_9": (6, 9),
    "heavy_10_15": (10, 15),
    "heavy_16_20": (16, 20),
    "heavy_21_30": (21, 30),
    "heavy_31_up": (31, 60),
}
METAL = "metal"
#: Most atoms of an organic and of a metal-bearing component.
MAX_ATOMS, MAX_ATOMS_METAL = 60, 120
#: Closest two atoms may come, in ångström: some ideal coordinates are collapsed.
MIN_DISTANCE = 0.6

#: The computed energies, and their hash: with it this module's fingerprint covers the file.
ENERGIES = Path(__file__).with_name("ccd_gfn2.csv")
ENERGIES_SHA256 = "1a126cf0ba01fc4fc315d07866e8581c673939a9ad199a65c1e3120528020c20"

_ORDERS = {"SING": 1, "DOUB": 2, "TRIP": 3}


@dataclass(frozen=True, slots=True)
class _Component:
    """Where a component's atoms are in the dictionary's columns."""

    name: str
    start: int
    stop: int
    charge: int


def load(card: StructureSetCard) -> Iterator[Structure]:
    """The card's number of components a stratum, those with the smallest hashes of their id.

    Released components with complete ideal coordinates. Organic: neutral, with carbon, all
    electrons paired, of the organic elements. Metal-bearing: any charge.
    """
    source = card.sources[0]
    path = package_file(source.package, source.path, kind=source.kind, sha256=source.sha256)
    dictionary = _Dictionary(path)
    chosen: list[tuple[str, _Component]] = []
    for stratum, components in dictionary.by_stratum().items():
        if stratum not in card.strata:
            continue
        wanted = card.strata[stratum].count
        taken = 0
        for component in sorted(components, key=_order):
            if taken == wanted:
                break
            if dictionary.closest(component) > MIN_DISTANCE:
                chosen.append((stratum, component))
                taken += 1
    bonds = dictionary.bonds({c.name for _, c in chosen})
    energies = gfn2_energies()
    for stratum, component in chosen:
        labels = {"gfn2_energy": energies[component.name]} if component.name in energies else {}
        yield dictionary.structure(component, stratum, bonds.get(component.name, []), labels)


def gfn2_energies(path: Path = ENERGIES) -> dict[str, float]:
    """GFN2-xTB total energies by component id, in eV.

    Raises
    ------
    SourceError
        The file is not the one this version of the set was made with.
    """
    if not path.is_file() or sha256_of(path) != ENERGIES_SHA256:
        raise SourceError(
            f"{path}: not the energies this set was made with; reinstall matteratlas, or make them "
            "anew with benchmarks/label_gfn2.py and give their hash to ENERGIES_SHA256"
        )
    with path.open(encoding="utf-8", newline="") as handle:
        return {row["component"]: float(row["energy_ev"]) for row in csv.DictReader(handle)}


def _order(component: _Component) -> str:
    return hashlib.sha256(f"ccd:{component.name}".encode()).hexdigest()


class _Dictionary:
    """The columns of ``components.bcif`` that make structures, atoms of a component in a row."""

    def __init__(self, path: Path) -> None:
        from biotite.structure.io.pdbx import BinaryCIFFile

        file = BinaryCIFFile.read(path)
        block = file[next(iter(file.keys()))]
        atoms, self._components = block["chem_comp_atom"], block["chem_comp"]
        self._bond_table = block["chem_comp_bond"]
        self._owner = atoms["comp_id"].as_array(str)
        self._atom_names = atoms["atom_id"].as_array(str)
        symbols, index = np.unique(atoms["type_symbol"].as_array(str), return_inverse=True)
        # Deuterium and dummy atoms have no atomic number here: 0 marks them.
        known = np.array([ATOMIC_NUMBERS.get(str(s).capitalize(), 0) for s in symbols])
        self._numbers = known[index]
        self._charges = atoms["charge"].as_array(int, masked_value=0)
        self._positions = np.stack(
            [
                atoms[f"pdbx_model_Cartn_{axis}_ideal"].as_array(float, masked_value=np.nan)
                for axis in "xyz"
            ],
            axis=1,
        )
        self._names = dict(
            zip(
                self._components["id"].as_array(str).tolist(),
                self._components["name"].as_array(str).tolist(),
                strict=True,
            )
        )

    def by_stratum(self) -> dict[str, list[_Component]]:
        """Every eligible component, by stratum."""
        found: dict[str, list[_Component]] = {s: [] for s in (*HEAVY, METAL)}
        metals = {ATOMIC_NUMBERS[s] for s in METALS}
        organic = {ATOMIC_NUMBERS[s] for s in ORGANIC}
        incomplete = np.r_[0, np.cumsum(np.isnan(self._positions).any(axis=1))]
        for component in self._released():
            start, stop = component.start, component.stop
            numbers = self._numbers[start:stop]
            elements = set(numbers.tolist())
            size = stop - start
            if incomplete[stop] != incomplete[start] or 0 in elements or size < 2:
                continue
            # A component whose atoms' charges do not add up to its own is of unknown charge.
            if component.charge != int(self._charges[start:stop].sum()):
                continue
            if elements & metals:
                if size <= MAX_ATOMS_METAL:
                    found[METAL].append(component)
            elif self._is_organic(elements, organic, component):
                heavy = int((numbers != 1).sum())
                stratum = next(s for s, (low, high) in HEAVY.items() if low <= heavy <= high)
                found[stratum].append(component)
        return found

    def _is_organic(self, elements: set[int], organic: set[int], component: _Component) -> bool:
        numbers = self._numbers[component.start : component.stop]
        return (
            elements <= organic
            and 6 in elements
            and component.charge == 0
            and len(numbers) <= MAX_ATOMS
            and int(numbers.sum()) % 2 == 0
        )

    def _released(self) -> Iterator[_Component]:
        table = self._components
        charges = table["pdbx_formal_charge"].as_array(int, masked_value=0).tolist()
        status = table["pdbx_release_status"].as_array(str).tolist()
        ids = table["id"].as_array(str).tolist()
        released = {i: q for i, q, s in zip(ids, charges, status, strict=True) if s == "REL"}
        edges = np.flatnonzero(self._owner[1:] != self._owner[:-1]) + 1
        for start, stop in zip(
            np.r_[0, edges].tolist(), np.r_[edges, len(self._owner)].tolist(), strict=True
        ):
            name = str(self._owner[start])
            if name in released:
                yield _Component(name, start, stop, released[name])

    def closest(self, component: _Component) -> float:
        """Smallest distance between two atoms, in ångström."""
        from scipy.spatial.distance import pdist

        return float(pdist(self._positions[component.start : component.stop]).min())

    def bonds(self, names: set[str]) -> dict[str, list[tuple[str, str, int]]]:
        """Component -> (atom name, atom name, order), for the components named."""
        table = self._bond_table
        owner = table["comp_id"].as_array(str)
        rows = np.flatnonzero(np.isin(owner, sorted(names)))
        columns = [table[c].as_array(str)[rows] for c in ("atom_id_1", "atom_id_2", "value_order")]
        found: dict[str, list[tuple[str, str, int]]] = {}
        for name, first, second, order in zip(
            owner[rows].tolist(), *(c.tolist() for c in columns), strict=True
        ):
            found.setdefault(name, []).append((first, second, _ORDERS[order]))
        return found

    def structure(
        self,
        component: _Component,
        stratum: str,
        bonds: list[tuple[str, str, int]],
        labels: dict[str, float],
    ) -> Structure:
        """The component as a structure."""
        rows = slice(component.start, component.stop)
        numbers, positions = self._numbers[rows], self._positions[rows]
        index = {str(n): i for i, n in enumerate(self._atom_names[rows])}
        structure: dict[str, Any] = {
            "source_id": component.name,
            "kind": "molecule",
            "stratum": stratum,
            "numbers": numbers.astype(np.int64),
            "positions": positions.copy(),
            "charge": component.charge,
            "name": self._names[component.name].strip(),
            "labels": labels,
        }
        plain = Structure(**structure)
        smiles = smiles_from_bonds(
            plain.symbols,
            self._charges[rows].tolist(),
            [(index[a], index[b], order) for a, b, order in bonds],
            positions=positions,
        )
        return Structure(**structure, smiles=smiles)
