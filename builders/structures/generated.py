# SPDX-License-Identifier: Apache-2.0
"""Generated crystals, as candidates only: simple structure types over ions, swaps, rattled frames.

Nothing here was found in nature or relaxed. Every name, file and folder says ``generated``, and
what :func:`.generated_filters.fault` finds absurd is left out. The same call gives the same
crystals.

- ``rocksalt``, ``zincblende``, ``wurtzite``, ``cesiumchloride``, ``fluorite``, ``perovskite``: all
  pairs (triples) of a cation and an anion whose charges balance, cells from ionic radii in contact
  (Shannon, Acta Cryst. A 32, 751 (1976), as pymatgen has them); perovskites of a Goldschmidt
  tolerance factor from 0.8 to 1.05.
- ``substituted``: small AFLOW prototypes and minerals with one element swapped for another of its
  group, the cell scaled by covalent radii.
- ``rattled``: such crystals with every atom moved (0.05 Å, normal) and the cell strained (2 %).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np

from ...registry import catalog
from ...registry.hub import cache_dir, sha256_of
from ...schemas.errors import SourceError
from ...schemas.structures import ATOMIC_NUMBERS, SYMBOLS, Structure
from .canonical import structure_id
from .fingerprint import module_closure
from .generated_filters import fault, oxidation_states
from .sets import load_set

#: ase.build's name -> ions a formula unit (cations, anions), factor of the ionic contact that is a.
SIMPLE: dict[str, tuple[tuple[int, int], float]] = {
    "rocksalt": ((1, 1), 2.0),
    "zincblende": ((1, 1), 4.0 / np.sqrt(3.0)),
    "wurtzite": ((1, 1), np.sqrt(8.0 / 3.0)),
    "cesiumchloride": ((1, 1), 2.0 / np.sqrt(3.0)),
    "fluorite": ((1, 2), 4.0 / np.sqrt(3.0)),
}
FAMILIES = (*SIMPLE, "perovskite", "substituted", "rattled")

ANIONS: dict[str, int] = {
    "N": -3, "O": -2, "F": -1, "P": -3, "S": -2, "Cl": -1, "Se": -2, "Br": -1, "Te": -2, "I": -1,
}  # fmt: skip

#: Range of Goldschmidt's tolerance factor.
TOLERANCE = (0.8, 1.05)

#: Crystals of a family at most, and atoms of those that are changed.
LIMIT = 200
PARENT_ATOMS = 20
PARENTS = ("prototypes", "minerals")

RATTLE = 0.05
STRAIN = 0.02


def generate(
    families: Sequence[str] = FAMILIES, *, limit: int = LIMIT, seed: int = 0
) -> Iterator[Structure]:
    """Yield generated crystals, family by family; no two are equal.

    Parameters
    ----------
    families : sequence of str
        Of :data:`FAMILIES`.
    limit : int
        Crystals of a family at most: those with the smallest hashes of seed and name.
    seed : int
        Of that choice, and of rattling.

    Raises
    ------
    SourceError
        A family is unknown, or ``limit`` is below 1.
    """
    strange = [f for f in families if f not in FAMILIES]
    if strange:
        raise SourceError(
            f"generated family '{strange[0]}' is not known; use {', '.join(FAMILIES)}"
        )
    if limit < 1:
        raise SourceError(f"{limit} crystals a family are asked for; at least 1 is needed")
    seen: set[str] = set()
    for family in dict.fromkeys(families):
        made = sorted(_proposals(family), key=lambda item: _hash(f"{seed}:{family}:{item[0]}"))
        count = 0
        for name, make in made:
            if count == limit:
                break
            structure = make(seed)
            if structure is None or fault(structure) is not None:
                continue
            title = f"generated {family} {name}"
            named = replace(
                structure, source_id=title, name=title, stratum=f"generated_{family}", labels={}
            )
            own = structure_id(named)
            if own not in seen:
                seen.add(own)
                count += 1
                yield replace(named, id=own)


def write_generated(
    out: Path, families: Sequence[str] = FAMILIES, *, limit: int = LIMIT, seed: int = 0
) -> Path:
    """Write generated crystals as extended XYZ, a folder and a file a family; return ``out``.

    Raises
    ------
    SourceError
        As :func:`generate`.
    """
    from ase import Atoms
    from ase.io import write

    frames: dict[str, list[Atoms]] = {}
    for s in generate(families, limit=limit, seed=seed):
        atoms = Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc)
        atoms.info["name"] = s.name
        frames.setdefault(s.stratum, []).append(atoms)
    for stratum, images in frames.items():
        folder = out / stratum
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / f"{stratum}.extxyz", images, format="extxyz")
    return out


def generated_pool(
    families: Sequence[str] = FAMILIES, *, limit: int = LIMIT, seed: int = 0
) -> Path:
    """Folder of generated crystals in the cache, by the settings and by the code that makes them.

    Raises
    ------
    SourceError
        As :func:`generate`.
    """
    code = module_closure([__name__])
    text = " ".join(sha256_of(path) for _, path in sorted(code.items()))
    digest = _hash(f"{text} {','.join(families)} {limit} {seed}")[:16]
    home = cache_dir() / "generated" / digest
    if not home.is_dir():
        scratch = home.with_name(f".{digest}.{os.getpid()}.part")
        scratch.mkdir(parents=True)
        try:
            write_generated(scratch, families, limit=limit, seed=seed)
            scratch.rename(home)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return home


Make = Callable[[int], Structure | None]


def _proposals(family: str) -> Iterable[tuple[str, Make]]:
    """Names and makers of all crystals of a family."""
    if family in SIMPLE:
        return _simple(family)
    if family == "perovskite":
        return _perovskites()
    return _swaps() if family == "substituted" else _rattled()


def _simple(family: str) -> Iterator[tuple[str, Make]]:
    (cations, anions), factor = SIMPLE[family]
    for (cation, charge), (anion, minus) in product(_cations(), ANIONS.items()):
        if cations * charge + anions * minus:
            continue

        def make(
            _: int, cation: str = cation, charge: int = charge, anion: str = anion
        ) -> Structure | None:
            from ase.build import bulk

            first, second = radius(cation, charge), radius(anion, ANIONS[anion])
            if first is None or second is None:
                return None
            formula = cation + anion + ("" if anions == 1 else str(anions))
            return _crystal(bulk(formula, family, a=factor * (first + second)))

        yield f"{cation}{anion}{anions if anions > 1 else ''} ({cation}{charge:+d})", make


def _perovskites() -> Iterator[tuple[str, Make]]:
    sites = list(_cations())
    for (a, plus), (b, other), x in product(sites, sites, ("O", "F", "Cl", "Br", "I")):
        if a == b or plus > other or plus + other + 3 * ANIONS[x]:
            continue

        def make(
            _: int, a: str = a, plus: int = plus, b: str = b, other: int = other, x: str = x
        ) -> Structure | None:
            from ase import Atoms

            radii = radius(a, plus), radius(b, other), radius(x, ANIONS[x])
            if None in radii:
                return None
            first, second, third = (float(r) for r in radii if r is not None)
            tolerance = (first + third) / (np.sqrt(2.0) * (second + third))
            if not TOLERANCE[0] <= tolerance <= TOLERANCE[1]:
                return None
            edge = max(2.0 * (second + third), np.sqrt(2.0) * (first + third))
            scaled = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
            return _crystal(
                Atoms(f"{a}{b}{x}3", scaled_positions=scaled, cell=[edge] * 3, pbc=True)
            )

        yield f"{a}{b}{x}3", make


def _swaps() -> Iterator[tuple[str, Make]]:
    from ase.data import covalent_radii

    for parent in _parents():
        for old in parent.elements:
            for new in _group(old):
                if new in parent.elements:
                    continue

                def make(
                    _: int, parent: Structure = parent, old: str = old, new: str = new
                ) -> Structure | None:
                    before, after = ATOMIC_NUMBERS[old], ATOMIC_NUMBERS[new]
                    numbers = np.where(parent.numbers == before, after, parent.numbers)
                    ratio = float(
                        covalent_radii[numbers].sum() / covalent_radii[parent.numbers].sum()
                    )
                    return replace(
                        parent,
                        numbers=numbers,
                        positions=parent.positions * ratio,
                        cell=parent.cell * ratio,
                    )

                yield f"{old}>{new} in {parent.source_id}", make


def _rattled() -> Iterator[tuple[str, Make]]:
    for parent in _parents():

        def make(seed: int, parent: Structure = parent) -> Structure | None:
            random = np.random.default_rng(int(_hash(f"{seed}:{parent.id}")[:16], 16))
            strain = random.normal(scale=STRAIN, size=(3, 3))
            frame = np.eye(3) + (strain + strain.T) / 2.0
            moved = parent.positions + random.normal(scale=RATTLE, size=parent.positions.shape)
            return replace(parent, positions=moved @ frame, cell=parent.cell @ frame)

        yield f"{parent.source_id}", make


@lru_cache(maxsize=1)
def _parents() -> tuple[Structure, ...]:
    """Small ordered crystals of the sets :data:`PARENTS`, in their order."""
    return tuple(
        s
        for set_id in PARENTS
        for s in load_set(catalog.structure_set(set_id))
        if len(s) <= PARENT_ATOMS and s.periodicity == 3
    )


@lru_cache(maxsize=1)
def _cations() -> tuple[tuple[str, int], ...]:
    """Elements up to plutonium with each of their common positive states."""
    return tuple(
        (symbol, state)
        for symbol in SYMBOLS[1:95]
        if symbol not in ANIONS and symbol != "H"
        for state in oxidation_states(symbol)
        if state > 0
    )


@lru_cache(maxsize=256)
def _group(symbol: str) -> tuple[str, ...]:
    """Other elements of the same group up to bismuth (lanthanides are one)."""
    from pymatgen.core import Element

    def key(name: str) -> tuple[int, bool]:
        element = Element(name)
        return element.group, element.is_lanthanoid

    noble = 18
    own = key(symbol)
    if own[0] == noble or ATOMIC_NUMBERS[symbol] > ATOMIC_NUMBERS["Bi"]:
        return ()
    return tuple(s for s in SYMBOLS[1:84] if s != symbol and key(s) == own)


@lru_cache(maxsize=1024)
def radius(symbol: str, charge: int) -> float | None:
    """Ionic radius in Å: Shannon's for six neighbours, else pymatgen's of the state, else None."""
    import warnings

    from pymatgen.core import Element, Species

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of radii taken for another spin
        try:
            return float(Species(symbol, charge).get_shannon_radius("VI"))
        except (KeyError, ValueError):
            found = Element(symbol).ionic_radii.get(charge)
    return None if found is None else float(found)


def _crystal(atoms: object) -> Structure:
    from ase import Atoms

    assert isinstance(atoms, Atoms)
    return Structure(
        source_id="",
        kind="crystal",
        stratum="",
        numbers=np.asarray(atoms.numbers, dtype=np.int64),
        positions=np.asarray(atoms.positions, dtype=float),
        cell=np.asarray(atoms.cell[:], dtype=float),
        pbc=(True, True, True),
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
