# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from matteratlas.builders.structures.canonical import GRID, OFFSET, canonical_form, structure_id
from matteratlas.schemas.errors import StructureError
from matteratlas.schemas.structures import Structure

#: Coordinates as sources print them: up to five decimals.
DECIMAL = st.integers(-800_000, 800_000).map(lambda k: k / 100_000)
#: Fractions as they occur: simple ones, and decimals that may lie outside the cell.
FRACTION = st.one_of(
    st.sampled_from([p / q for q in (1, 2, 3, 4, 5, 6, 7, 8, 12, 16) for p in range(q + 1)]),
    st.integers(-15_000, 25_000).map(lambda k: k / 10_000),
)
LENGTH = st.integers(2_000, 15_000).map(lambda k: k / 1_000)
ANGLE = st.sampled_from([60.0, 75.5, 90.0, 101.27, 120.0])
NUMBER = st.integers(1, 103)


@st.composite
def molecules(draw) -> Structure:
    n = draw(st.integers(1, 12))
    positions = np.array(
        draw(st.lists(st.tuples(DECIMAL, DECIMAL, DECIMAL), min_size=n, max_size=n))
    )
    return Structure(
        source_id="m",
        kind="molecule",
        stratum="s",
        numbers=np.array(draw(st.lists(NUMBER, min_size=n, max_size=n))),
        positions=positions,
        charge=draw(st.integers(-2, 2)),
        multiplicity=draw(st.sampled_from([None, 1, 2, 3])),
    )


def cell_of(lengths, angles) -> np.ndarray:
    """Lattice vectors from lengths in Å and angles in degrees."""
    alpha, beta, gamma = np.radians(angles)
    c1, c2 = np.cos(beta), (np.cos(alpha) - np.cos(beta) * np.cos(gamma)) / np.sin(gamma)
    rows = [
        [1.0, 0.0, 0.0],
        [np.cos(gamma), np.sin(gamma), 0.0],
        [c1, c2, np.sqrt(1 - c1**2 - c2**2)],
    ]
    return np.array(rows) * np.array(lengths)[:, None]


@st.composite
def crystals(draw, pbc=(True, True, True)) -> Structure:
    n = draw(st.integers(1, 10))
    fractions = np.array(
        draw(st.lists(st.tuples(FRACTION, FRACTION, FRACTION), min_size=n, max_size=n))
    )
    angles = [draw(ANGLE), 90.0, draw(ANGLE)]
    cell = cell_of([draw(LENGTH) for _ in range(3)], angles)
    return Structure(
        source_id="c",
        kind="crystal",
        stratum="s",
        numbers=np.array(draw(st.lists(NUMBER, min_size=n, max_size=n))),
        positions=fractions @ cell,
        cell=cell,
        pbc=pbc,
    )


ANY = st.one_of(molecules(), crystals())
SEED = st.integers(0, 2**32 - 1)


def shuffled(structure: Structure, seed: int) -> Structure:
    order = np.random.default_rng(seed).permutation(len(structure))
    return replace(
        structure, numbers=structure.numbers[order], positions=structure.positions[order]
    )


@given(ANY, SEED)
def test_atom_order_does_not_count(structure, seed):
    assert structure_id(shuffled(structure, seed)) == structure_id(structure)


@given(molecules(), st.tuples(*[st.floats(-100, 100)] * 3))
def test_a_molecules_place_does_not_count(molecule, shift):
    moved = replace(molecule, positions=molecule.positions + np.array(shift))
    assert structure_id(moved) == structure_id(molecule)


@given(ANY, SEED)
def test_float_noise_does_not_count(structure, seed):
    noise = np.random.default_rng(seed).uniform(-1e-9, 1e-9, structure.positions.shape)
    assert structure_id(replace(structure, positions=structure.positions + noise)) == structure_id(
        structure
    )


@given(ANY)
def test_printed_coordinates_give_the_same_id(structure):
    text = [[f"{x:.9f}" for x in row] for row in structure.positions]
    assert structure_id(replace(structure, positions=np.array(text, dtype=float))) == structure_id(
        structure
    )


@given(crystals(), SEED)
def test_a_turned_lattice_frame_does_not_count(crystal, seed):
    turn = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    turned = replace(crystal, positions=crystal.positions @ turn.T, cell=crystal.cell @ turn.T)
    assert structure_id(turned) == structure_id(crystal)


@given(crystals(), SEED)
def test_periodic_images_do_not_count(crystal, seed):
    shifts = np.random.default_rng(seed).integers(-2, 3, crystal.positions.shape)
    image = replace(crystal, positions=crystal.positions + shifts @ crystal.cell)
    assert structure_id(image) == structure_id(crystal)


def test_zero_and_one_are_the_same_fraction():
    def at(fraction: float) -> str:
        return structure_id(
            Structure(
                source_id="c",
                kind="crystal",
                stratum="s",
                numbers=np.array([14]),
                positions=np.array([[fraction * 5.43, 0.0, 0.0]]),
                cell=np.eye(3) * 5.43,
                pbc=(True, True, True),
            )
        )

    assert len({at(f) for f in (0.0, 1.0, -1e-12, 1e-12, 1 - 1e-12, 3.0)}) == 1
    assert at(0.5) != at(0.0)


@given(crystals(pbc=(True, True, False)), SEED, st.floats(-20, 20))
def test_a_layer_may_be_turned_and_lifted(layer, seed, lift):
    turn = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    normal = np.cross(layer.cell[0], layer.cell[1])
    lifted = layer.positions + lift * normal / np.linalg.norm(normal)
    turned = replace(layer, positions=lifted @ turn.T, cell=layer.cell @ turn.T)
    assert structure_id(turned) == structure_id(layer)
    without = replace(layer, cell=np.vstack([layer.cell[:2], np.zeros(3)]))
    assert structure_id(without) == structure_id(layer)


@given(crystals(pbc=(True, False, False)), SEED)
def test_a_chain_may_be_turned(chain, seed):
    turn = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    turned = replace(chain, positions=chain.positions @ turn.T, cell=chain.cell @ turn.T)
    assert structure_id(turned) == structure_id(chain)


@given(ANY, st.integers(0, 100), st.integers(0, 2), st.sampled_from([-0.05, 0.05]))
def test_a_moved_atom_counts(structure, which, axis, by):
    positions = structure.positions.copy()
    positions[which % len(structure), axis] += by
    # A lone atom moved is a molecule moved; equal atoms could also swap places.
    assume(structure.periodicity or len(structure) > 1)
    moved = replace(structure, positions=positions)
    assume(not _same_up_to_translation(structure, moved))
    assert structure_id(moved) != structure_id(structure)


def _same_up_to_translation(first: Structure, second: Structure) -> bool:
    """Whether two molecules' sorted atoms differ by one translation."""
    if first.periodicity:
        return False

    def rows(s: Structure) -> np.ndarray:
        placed = np.round(s.positions - s.positions.min(axis=0), 6)
        return np.array(sorted(map(tuple, np.c_[s.numbers, placed])))

    return bool(np.allclose(rows(first), rows(second), atol=1e-6))


@given(ANY, st.integers(0, 100))
def test_elements_charge_spin_and_kind_count(structure, which):
    numbers = structure.numbers.copy()
    numbers[which % len(structure)] = 1 + numbers[which % len(structure)] % 103
    other_spin = 4 if structure.multiplicity is None else None
    other_kind = "protein" if structure.kind == "molecule" else "molecule"
    different = [
        replace(structure, numbers=numbers),
        replace(structure, charge=structure.charge + 1),
        replace(structure, multiplicity=other_spin),
        replace(structure, kind=other_kind),
    ]
    ids = {structure_id(s) for s in [structure, *different]}
    assert len(ids) == 5


@given(crystals())
@settings(max_examples=50)
def test_cell_periodicity_and_hand_count(crystal):
    longer = replace(crystal, cell=crystal.cell * np.array([[1.01], [1.0], [1.0]]))
    layer = replace(crystal, pbc=(True, True, False))
    mirror = np.diag([1.0, 1.0, -1.0])
    mirrored = replace(crystal, cell=crystal.cell @ mirror, positions=crystal.positions @ mirror)
    assert len({structure_id(s) for s in (crystal, longer, layer, mirrored)}) == 4


@given(molecules())
@settings(max_examples=20)
def test_labels_names_and_places_in_sets_do_not_count(molecule):
    dressed = replace(
        molecule,
        labels={"energy": 1.0},
        name="x",
        smiles="C",
        set="other",
        stratum="t",
        source_id="z",
        id="ma1-x",
    )
    assert structure_id(dressed) == structure_id(molecule)


def test_a_proteins_sequence_and_backbone_count():
    rng = np.random.default_rng(0)
    backbone = rng.normal(size=(3, 4, 3)) * 5
    protein = Structure(
        source_id="p",
        kind="protein",
        stratum="s",
        numbers=np.array([7, 6, 6, 8] * 3),
        positions=backbone.reshape(-1, 3),
        sequence="ACD",
        backbone=backbone,
    )
    shift = np.array([10.0, -3.0, 0.5])
    moved = replace(protein, positions=protein.positions + shift, backbone=backbone + shift)
    assert structure_id(moved) == structure_id(protein)
    assert structure_id(replace(protein, sequence="ACE")) != structure_id(protein)
    assert structure_id(replace(protein, backbone=backbone[::-1])) != structure_id(protein)


@given(ANY)
def test_ids_look_as_documented(structure):
    assert re.fullmatch(r"ma1-[a-z2-7]{26}", structure_id(structure))
    lines = canonical_form(structure).splitlines()
    assert lines[0] == f"kind {structure.kind}"
    assert sum(line.startswith("atom ") for line in lines) == len(structure)


def test_the_documented_water_keeps_its_id():
    water = Structure(
        source_id="water",
        kind="molecule",
        stratum="example",
        numbers=np.array([8, 1, 1]),
        positions=np.array(
            [[0.0, 0.0, 0.119262], [0.0, 0.763239, -0.477047], [0.0, -0.763239, -0.477047]]
        ),
    )
    assert structure_id(water) == "ma1-huq7zjw3jzngow4wg6a4gwjalw"


def test_boundaries_keep_away_from_decimals_and_fractions():
    values = [k / 10**5 for k in range(1000)]
    values += [p / q * 4.123 for q in range(1, 25) for p in range(q)]
    gap = [abs((v / GRID + OFFSET) - round(v / GRID + OFFSET)) * GRID for v in values]
    assert min(gap) > 5e-7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.full((1, 3), np.nan)}, "not finite"),
        ({"positions": np.zeros((2, 3))}, "one position an atom"),
        ({"pbc": (True, True, True)}, "lattice vector"),
    ],
)
def test_what_has_no_canonical_form_is_refused_by_name(change, message):
    atom = Structure(
        source_id="bad-one",
        kind="molecule",
        stratum="s",
        numbers=np.array([6]),
        positions=np.zeros((1, 3)),
    )
    with pytest.raises(StructureError, match=f"bad-one.*{message}"):
        structure_id(replace(atom, **change))
