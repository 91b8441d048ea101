# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest

from matteratlas.builders.structures.crystals import source_named
from matteratlas.builders.structures.mof import LABELS, _parse, load, metal_class
from matteratlas.registry.catalog import structure_set
from matteratlas.schemas.errors import StructureError
from matteratlas.schemas.structures import Structure, check_geometry

CARD = structure_set("mof")


@pytest.fixture(scope="module")
def frameworks() -> dict[str, Structure]:
    found = list(load(CARD))
    assert len({s.source_id for s in found}) == len(found)
    return {s.source_id: s for s in found}


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, str]]:
    with source_named(CARD, ".csv").open(encoding="utf-8-sig", newline="") as handle:
        return {row["filename"]: row for row in csv.DictReader(handle)}


def test_counts_are_the_cards(frameworks):
    assert len(frameworks) == 500
    assert Counter(s.stratum for s in frameworks.values()) == {
        name: stratum.count for name, stratum in CARD.strata.items()
    }
    assert max(map(len, frameworks.values())) <= 100


@pytest.mark.parametrize(
    ("metals", "expected"),
    [
        (["Zn"], "first_row"), (["K", "Fe"], "first_row"), (["Cu", "Ag"], "heavy_d"),
        (["Y"], "heavy_d"), (["Mg", "Al"], "main_group"), (["Cu", "Eu"], "f_block"),
        (["U"], "f_block"), (["Lu"], "f_block"), (["Hf"], "heavy_d"), (["Tl"], "main_group"),
    ],
)  # fmt: skip
def test_metal_class(metals, expected):
    assert metal_class(metals) == expected


def test_rows_are_what_the_table_allows_and_their_metals_are_there(frameworks, table):
    for name, s in frameworks.items():
        row = table[name]
        assert (row["public"], row["DISORDER"].strip(), row["Extension"]) == ("Y", "", "clean")
        assert {"C", *row["All_Metals"].split(",")} <= set(s.elements), name


def test_density_of_every_cell_is_the_tables(frameworks, table):
    # Independent of the reader: the table's densities were computed by the database's authors.
    # A lost symmetry operation, a doubled site or a wrong cell would show at once.
    from ase.data import atomic_masses

    for name, s in frameworks.items():
        density = atomic_masses[s.numbers].sum() / abs(np.linalg.det(s.cell)) * 1.66053907
        assert density == pytest.approx(float(table[name]["cm3_g"]), rel=0.01), name


def test_labels_are_the_tables_and_make_sense(frameworks, table):
    for name, s in frameworks.items():
        assert set(s.labels) == set(CARD.labels)
        assert {label: s.labels[label] for label in LABELS.values()} == {
            label: float(table[name][column]) for column, label in LABELS.items()
        }
        assert s.labels["pore_limiting_diameter"] <= s.labels["largest_cavity_diameter"]
        assert 0 < s.labels["void_fraction"] < 1
    assert {s.labels["open_metal_site"] for s in frameworks.values()} == {0.0, 1.0}


def test_every_framework_is_readable_and_free_of_overlaps(frameworks):
    for s in frameworks.values():
        assert s.kind == "crystal"
        assert s.pbc == (True, True, True)
        check_geometry(s, min_distance=0.6)


def test_too_high_a_count_is_refused_by_stratum(monkeypatch):
    monkeypatch.setattr("matteratlas.builders.structures.mof._read_small", lambda *a: {})
    with pytest.raises(StructureError, match=r"stratum 'first_row' has 0 frameworks.* says 180"):
        list(load(CARD))


def test_a_file_that_cannot_be_read_is_named():
    import gemmi

    with pytest.raises(StructureError, match="framework 'ABCDEF_clean' cannot be read"):
        _parse(gemmi, "ABCDEF_clean", b"data_x\nloop_\n_atom_site_label\n_cell_length_a\nC1\n")


CIF = b"""data_x
_cell_length_a 10
_cell_length_b 10
_cell_length_c 10
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P -1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_occupancy
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Zn1 Zn 1.0 0.5 0.5 0.5
C1 C %s 0.1 0.2 0.3
"""


def test_symmetry_is_applied_and_special_positions_are_merged():
    import gemmi

    numbers, positions, cell = _parse(gemmi, "x", CIF % b"1.0")
    assert sorted(numbers) == [6, 6, 30]
    assert np.allclose(cell, 10 * np.eye(3))
    carbon = positions[numbers == 6] % 10
    assert np.allclose(carbon[np.argsort(carbon[:, 0])], [[1, 2, 3], [9, 8, 7]])
    assert np.allclose(positions[numbers == 30], [[5, 5, 5]])


def test_partly_occupied_and_carbon_free_files_are_left_out():
    import gemmi

    assert _parse(gemmi, "x", CIF % b"0.5") is None
    assert _parse(gemmi, "x", (CIF % b"1.0").replace(b"C1 C ", b"O1 O ")) is None


def test_two_loads_are_equal(frameworks):
    again = list(load(CARD))
    assert [s.source_id for s in again] == list(frameworks)
    assert all(np.array_equal(s.positions, frameworks[s.source_id].positions) for s in again)
