# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from matteratlas.analysis.evidence.chemistry import TYPES, Regions, find_regions, stoichiometry
from matteratlas.schemas.structures import Structure, structure_to_row


def crystal(name: str, numbers: list[int], scaled: list[list[float]], side: float) -> Structure:
    cell = np.eye(3) * side
    return Structure(
        id=name,
        set="ores",
        source_id=name,
        kind="crystal",
        stratum="all",
        numbers=np.array(numbers),
        positions=np.array(scaled) @ cell,
        cell=cell,
        pbc=(True, True, True),
    )


def molecule(name: str, numbers: list[int], smiles: str | None, charge: int = 0) -> Structure:
    return Structure(
        id=name,
        set="drops",
        source_id=name,
        kind="molecule",
        stratum="all",
        numbers=np.array(numbers),
        positions=np.arange(3.0 * len(numbers)).reshape(-1, 3),
        smiles=smiles,
        charge=charge,
    )


FCC = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
MADE = [
    crystal("NaCl", [11] * 4 + [17] * 4, FCC + [[x + 0.5, y, z] for x, y, z in FCC], 5.6),
    crystal("MgO", [12] * 4 + [8] * 4, FCC + [[x + 0.5, y, z] for x, y, z in FCC], 4.2),
    crystal("CsCl", [55, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], 4.1),
    molecule("toluene", [6] * 7 + [1] * 8, "Cc1ccccc1"),
    molecule("phenol", [6] * 6 + [8] + [1] * 6, "Oc1ccccc1"),
    molecule("ethanol", [6, 6, 8] + [1] * 6, "CCO"),
    molecule("dication", [6, 1], None, charge=2),
]
TABLE = pd.DataFrame([structure_to_row(s) for s in MADE])
GEOMETRIES = {s.id: s for s in MADE}


def held(regions: Regions, region: str) -> set[str]:
    column = int(np.flatnonzero(regions.table["region"] == region)[0])
    return set(TABLE["id"][regions.member[:, column].toarray().ravel() > 0])


def test_structures_lie_in_their_regions() -> None:
    notes: list[str] = []
    regions = find_regions(TABLE, GEOMETRIES, notes=notes)
    assert notes == []
    assert held(regions, "element:Cl|crystal") == {"NaCl", "CsCl"}
    assert held(regions, "pair:O-Mg|crystal") == {"MgO"}
    assert held(regions, "size:crystal:5-8") == {"NaCl", "MgO"}
    assert held(regions, "size:crystal:2") == {"CsCl"}
    assert held(regions, "stoichiometry:AB|crystal") == {"NaCl", "MgO", "CsCl"}
    # Rock salt is one prototype whatever its elements and cell; caesium chloride is another.
    assert held(regions, "prototype:AB:225|crystal") == {"NaCl", "MgO"}
    assert held(regions, "prototype:AB:221|crystal") == {"CsCl"}
    assert held(regions, "scaffold:c1ccccc1|molecule") == {"toluene", "phenol"}
    assert held(regions, "rings:none|molecule") == {"ethanol"}
    assert held(regions, "charge:+2up|molecule") == {"dication"}
    assert held(regions, "periodicity:3|crystal") == {"NaCl", "MgO", "CsCl"}
    assert held(regions, "stratum:drops:all|molecule") == set(TABLE["id"][3:])
    assert set(regions.table["type"]) == set(TYPES)
    assert regions.table["region"].is_unique


def test_what_is_not_known_is_not_counted() -> None:
    notes: list[str] = []
    regions = find_regions(TABLE, {"NaCl": GEOMETRIES["NaCl"]}, notes=notes)
    assert "2 of 3 crystals have no prototype" in notes[0]
    table = regions.table.assign(n=regions.totals(np.ones(len(TABLE), dtype=bool)))
    assert set(table.loc[table["type"] == "prototype", "n"]) == {1}
    assert set(table.loc[table["type"] == "rings", "n"]) == {3}  # one molecule has no SMILES
    assert set(table.loc[(table["type"] == "element") & (table["kind"] == "molecule"), "n"]) == {4}


@pytest.mark.parametrize(("library", "lost"), [("spglib", "prototype"), ("rdkit", "scaffold")])
def test_without_a_library_its_types_are_left_out(
    library: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    notes: list[str] = []
    regions = find_regions(TABLE, GEOMETRIES, notes=notes)
    assert len(notes) == 1 and library in notes[0]
    assert lost not in set(regions.table["type"]) and "element" in set(regions.table["type"])


def test_counts_follow_the_rows() -> None:
    regions = find_regions(TABLE, GEOMETRIES)
    rows = np.arange(len(TABLE)) < 2
    found = dict(zip(regions.table["region"], regions.counts(rows), strict=True))
    assert found["element:Cl|crystal"] == 1 and found["element:O|crystal"] == 1
    assert found["element:C|molecule"] == 0
    some = regions.kept((regions.table["type"] == "element").to_numpy())
    np.testing.assert_array_equal(
        some.counts(rows), regions.counts(rows)[regions.table["type"] == "element"]
    )


@pytest.mark.parametrize(
    ("counts", "text"), [([4, 4], "AB"), ([8, 4], "AB2"), ([2, 6, 2], "ABC3"), ([5], "A")]
)
def test_stoichiometry_has_no_names_and_no_multiples(counts: list[int], text: str) -> None:
    assert stoichiometry(counts) == text
