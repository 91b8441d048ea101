# SPDX-License-Identifier: Apache-2.0
"""Mineral crystals of JARVIS and the Materials Project, as jarvis-tools ships them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection, Iterator
from typing import Any

from ...schemas.cards import StructureSetCard
from ...schemas.structures import Structure
from .crystals import PERIODIC, jarvis_geometry, source_file

#: Elements that bind oxygen into an anion of their own (carbonate, sulphate, borate, ...).
OXYANION_FORMERS = frozenset({"B", "C", "N", "P", "S", "As", "Se", "Te"})
HALOGENS = frozenset({"F", "Cl", "Br", "I"})
CHALCOGENS = frozenset({"S", "Se", "Te"})
PNICTOGENS = frozenset({"N", "P", "As", "Sb", "Bi"})


def anion_class(elements: Collection[str]) -> str:
    """Name the stratum of a crystal from its elements alone; the first rule that fits wins.

    1. ``silicates``: O and Si, and at least one element besides O, H and Si.
    2. ``oxysalts``: O and one of B, C, N, P, S, As, Se, Te, and at least two elements besides O
       and H.
    3. ``oxides``: O (oxides, hydroxides, oxyhalides, hydrated halides).
    4. ``halides``: F, Cl, Br or I.
    5. ``chalcogenides``: S, Se or Te, and another element.
    6. ``pnictides``: N, P, As, Sb or Bi, and another element.
    7. ``elements_and_alloys``: the rest (elements, alloys, carbides, silicides).
    """
    found = set(elements)
    if "O" in found:
        others = found - {"O", "H"}
        if "Si" in found and len(others) > 1:
            return "silicates"
        if found & OXYANION_FORMERS and len(others) > 1:
            return "oxysalts"
        return "oxides"
    if found & HALOGENS:
        return "halides"
    if len(found) > 1 and found & CHALCOGENS:
        return "chalcogenides"
    if len(found) > 1 and found & PNICTOGENS:
        return "pnictides"
    return "elements_and_alloys"


def load(card: StructureSetCard) -> Iterator[Structure]:
    """Yield each crystal once, in the order of its first appearance in the source.

    The source lists a crystal under every mineral name it goes by; the names are joined by " / ".
    ``source_id`` is the JARVIS (``JVASP-*``) or Materials Project (``mp-*``) id.
    """
    with zipfile.ZipFile(source_file(card)) as archive:
        (member,) = archive.namelist()
        prototypes: dict[str, list[list[Any]]] = json.loads(archive.read(member))
    names: dict[str, list[str]] = {}
    geometry: dict[str, Any] = {}
    for entries in prototypes.values():
        for name, _fingerprint, source_id, atoms in entries:
            names.setdefault(source_id, []).append(name)
            geometry.setdefault(source_id, atoms)
    for source_id, atoms in geometry.items():
        numbers, positions, cell = jarvis_geometry(atoms, source_id=source_id)
        yield Structure(
            source_id=source_id,
            kind="crystal",
            stratum=anion_class({s.strip() for s in atoms["elements"]}),
            numbers=numbers,
            positions=positions,
            cell=cell,
            pbc=PERIODIC,
            name=" / ".join(names[source_id]),
        )
