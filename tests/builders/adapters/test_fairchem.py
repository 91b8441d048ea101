# SPDX-License-Identifier: Apache-2.0
"""What the fairchem adapters decide without the package; the models are in ``tests/families``."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from matteratlas.builders.adapters.fairchem import has_edges


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (Atoms(), False),
        (Atoms("H"), False),
        (Atoms("He2", [[0, 0, 0], [0, 0, 5.9]]), True),
        (Atoms("He2", [[0, 0, 0], [0, 0, 6.1]]), False),
        (bulk("Cu"), True),
        (Atoms("Cu", cell=[20, 20, 5], pbc=True), True),
        (Atoms("Cu", cell=[20, 20, 5]), False),
        (Atoms("Cu", cell=[20, 20, 20], pbc=True), False),
        # Neighbours across the boundary alone, and a short diagonal of a long cell.
        (Atoms("He2", [[0, 0, 1], [0, 0, 19]], cell=[20, 20, 20], pbc=True), True),
        (Atoms("Ar", cell=[[20, 0, 0], [18, 3, 0], [0, 0, 20]], pbc=True), True),
        (molecule("C6H6", vacuum=12.0, pbc=True), True),
    ],
)
def test_edges_are_those_of_the_neighbour_list(atoms: Atoms, expected: bool) -> None:
    assert has_edges(atoms, 6.0) is expected
    assert expected == (len(atoms) > 0 and len(neighbor_list("i", atoms, 6.0)) > 0)


def test_edges_of_random_cells() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        cell = rng.uniform(4, 14, size=3) * np.eye(3) + rng.normal(size=(3, 3))
        pbc = rng.random(3) < 0.5
        atoms = Atoms("Ar2", rng.random((2, 3)) @ cell, cell=cell, pbc=pbc)
        expected = len(neighbor_list("i", atoms, 6.0)) > 0
        assert has_edges(atoms, 6.0) is expected
        seen.add(expected)
    assert seen == {True, False}
