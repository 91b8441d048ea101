# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from matteratlas.builders.structures.mlearn import load, mended_stress, shear_order
from matteratlas.registry.catalog import structure_set
from matteratlas.schemas.structures import Structure, check_geometry

CARD = structure_set("mlearn")
#: eV/Å³ in kbar.
KBAR = 1602.176634


@pytest.fixture(scope="module")
def cells() -> dict[str, Structure]:
    found = list(load(CARD))
    assert len({s.source_id for s in found}) == len(found)
    return {s.source_id: s for s in found}


def test_counts_are_the_cards(cells):
    assert len(cells) == 1566
    assert Counter(s.stratum for s in cells.values()) == {
        name: stratum.count for name, stratum in CARD.strata.items()
    }
    assert sum(k.endswith("a") for k in cells) == 164


def test_labels_have_their_shapes_and_energies_agree(cells):
    for s in cells.values():
        assert set(s.labels) == set(CARD.labels)
        assert s.labels["forces"].shape == (len(s), 3)
        assert s.labels["stress"].shape == (3, 3)
        assert np.array_equal(s.labels["stress"], s.labels["stress"].T)
        assert s.labels["energy"] == pytest.approx(s.labels["energy_per_atom"] * len(s))


@pytest.mark.parametrize(
    ("element", "lowest", "highest"),
    [
        ("li", -1.899, -1.706), ("si", -5.425, -4.560), ("ni", -5.781, -5.139),
        ("cu", -4.101, -3.515), ("ge", -4.493, -3.881), ("mo", -10.850, -9.408),
    ],
)  # fmt: skip
def test_energy_ranges(cells, element, lowest, highest):
    energies = [s.labels["energy_per_atom"] for s in cells.values() if s.stratum == element]
    assert min(energies) == pytest.approx(lowest, abs=6e-4)
    assert max(energies) == pytest.approx(highest, abs=6e-4)


def test_forces_cancel_as_a_cell_at_rest_demands(cells):
    for s in cells.values():
        assert np.abs(s.labels["forces"].sum(axis=0)).max() < 1e-6


def pure_shear(s: Structure) -> tuple[int, float] | None:
    """Plane (0 yz, 1 xz, 2 xy) and size of a cubic supercell's shear, if it has just one."""
    strain = s.cell / np.linalg.norm(s.cell, axis=1).mean()
    strain = (strain + strain.T) / 2 - np.eye(3)
    shear = strain[[1, 0, 0], [2, 2, 1]]
    plane = int(np.argmax(np.abs(shear)))
    if np.abs(np.diag(strain)).max() > 0.02 or abs(shear[plane]) < 9e-3:
        return None
    return None if np.abs(np.delete(shear, plane)).max() > 1e-4 else (plane, shear[plane])


@pytest.mark.parametrize(
    ("element", "sheared"), [("li", 6), ("si", 24), ("ni", 54), ("cu", 54), ("ge", 24), ("mo", 30)]
)
def test_a_sheared_cell_resists_in_the_plane_of_its_shear(cells, element, sheared):
    # Model-free check of the mended order: a cubic crystal sheared in one plane has its shear
    # stress in that plane, positive (VASP's sign) where the strain is negative.
    planes = []
    for s in cells.values():
        shear = pure_shear(s) if s.stratum == element else None
        if shear is None:
            continue
        plane, strain = shear
        found = s.labels["stress"][[1, 0, 0], [2, 2, 1]]
        assert found[plane] * strain < 0, s.source_id
        assert np.abs(np.delete(found, plane)).max() < 0.05 * abs(found[plane]), s.source_id
        planes.append(plane)
    assert len(planes) == sheared
    assert set(planes) == {0, 1, 2}


def test_only_purposely_sheared_diamond_cells_have_the_other_order(cells):
    other = [
        s
        for s in cells.values()
        if s.stratum in ("si", "ge")
        and shear_order(s.stratum.capitalize(), s.cell, n_atoms=len(s)) == ("xy", "yz", "xz")
    ]
    # 10 strains (2, 4, 6, 8, 10 %, both signs) in each of 3 planes, of 2 elements.
    assert Counter(s.stratum for s in other) == {"si": 30, "ge": 30}


@pytest.mark.parametrize(
    ("element", "steps"), [("li", 4), ("si", 10), ("ni", 20), ("cu", 20), ("ge", 10), ("mo", 9)]
)
def test_stress_is_minus_the_slope_of_the_energy_in_kbar(cells, element, steps):
    # Cells stretched along x alone: minus the rise of the energy from one to the next, over the
    # volume swept, is their mean stress (trapezium rule), up to a constant: a finite plane-wave
    # basis (Pulay stress). No unit but kbar and no other sign gives a line of gradient 1.
    lines: dict[tuple[int, float, float], dict[float, Structure]] = {}
    for s in cells.values():
        a, b, c = np.diag(s.cell)
        still = np.abs(s.labels["forces"]).max() < 0.5
        if s.stratum == element and still and np.allclose(s.cell, np.diag([a, b, c]), atol=1e-4):
            lines.setdefault((len(s), round(b, 3), round(c, 3)), {})[a] = s
    (_, b, c), line = max(lines.items(), key=lambda item: len(item[1]))
    slopes, stresses = [], []
    for low, high in pairwise(sorted(line)):
        rise = line[high].labels["energy"] - line[low].labels["energy"]
        slopes.append(-rise / ((high - low) * b * c) * KBAR)
        stresses.append((line[low].labels["stress"] + line[high].labels["stress"])[0, 0] / 2)
    assert len(slopes) == steps
    gradient, _ = np.polyfit(stresses, slopes, 1)
    assert gradient == pytest.approx(1.0, abs=0.06)
    assert np.corrcoef(stresses, slopes)[0, 1] > 0.99


def test_mended_stress_moves_only_the_shears():
    packaged = [[1, 6, 5], [6, 2, 4], [5, 4, 3]]
    # The six numbers 1 to 6 in the two orders they come in: xx yy zz xy xz yz, and VASP's.
    assert mended_stress(packaged, ("xy", "xz", "yz")).tolist() == [[1, 4, 5], [4, 2, 6], [5, 6, 3]]
    assert mended_stress(packaged, ("xy", "yz", "xz")).tolist() == [[1, 4, 6], [4, 2, 5], [6, 5, 3]]


def test_every_cell_is_one_element_and_readable(cells):
    for s in cells.values():
        assert s.elements == (s.stratum.capitalize(),)
        assert s.pbc == (True, True, True)
    for s in list(cells.values())[::10]:
        check_geometry(s, min_distance=1.7)


def test_two_loads_are_equal(cells):
    again = list(load(CARD))
    assert [s.source_id for s in again] == list(cells)
    assert all(np.array_equal(s.positions, cells[s.source_id].positions) for s in again)
    for s in again:
        for name, value in s.labels.items():
            assert np.array_equal(value, cells[s.source_id].labels[name])
