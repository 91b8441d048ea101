# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest
from ase.build import bulk, fcc111, molecule
from ase.collections import dcdft
from invariance import check_batches, check_invariances, deviation, embedded
from probes import from_ase, to_ase_atoms
from published import REFERENCES

from matteratlas.builders.adapters.base import Adapter, load_adapter
from matteratlas.registry import catalog
from matteratlas.schemas.errors import CardError, SourceError

pytestmark = pytest.mark.xdist_group("diep")

STRUCTURES = (
    [from_ase(molecule(n), n) for n in ("H", "OH", "CH3CH2OH", "SiCl4")]
    + [from_ase(dcdft[n], n) for n in ("Fe", "O", "B")]
    + [from_ase(fcc111("Cu", (1, 1, 3), vacuum=6.0, periodic=False), "slab")]
)


@pytest.fixture(scope="module")
def adapter() -> Iterator[Adapter]:
    yield load_adapter(catalog.model("diep"))


def test_vectors_and_energies_are_the_published_ones(adapter: Adapter) -> None:
    reference = REFERENCES["diep"]()
    compared = 0
    for structure, result in zip(STRUCTURES, embedded(adapter, STRUCTURES), strict=True):
        expected = reference(to_ase_atoms(structure))
        for layer, values in expected.pooled.items():
            assert deviation(result.pooled[layer], values) < 1e-4, (structure.source_id, layer)
            compared += 1
        assert result.energy == pytest.approx(expected.energy, abs=1e-5 * len(structure))
    assert compared == 3 * 7  # the package's own features know no slabs


def test_invariances_and_batches(adapter: Adapter) -> None:
    results = embedded(adapter, STRUCTURES)
    # The card's tolerance covers ties of edge lengths; these structures have none that matter.
    assert check_invariances(adapter, STRUCTURES, reference=results, tolerance=2e-4) > 0
    check_batches(adapter, STRUCTURES, reference=results)


def test_atoms_outside_the_cell_are_the_same_crystal(adapter: Adapter) -> None:
    inside = bulk("NaCl", "rocksalt", a=5.64)
    outside = inside.copy()
    outside.positions += 3 * outside.cell[0] - 7 * outside.cell[2]
    a, b = embedded(adapter, [from_ase(inside, "in"), from_ase(outside, "out")])
    assert deviation(b.pooled["block_3"], a.pooled["block_3"]) < 1e-4
    assert b.energy == pytest.approx(a.energy, abs=1e-4)


def test_far_from_the_origin(adapter: Adapter) -> None:
    """Coordinates are float32 in the graph; the adapter centres what has no cell."""
    near = molecule("C6H6")
    far = near.copy()
    far.translate((1000.0, -2000.0, 500.0))
    a, b = embedded(adapter, [from_ase(near, "near"), from_ase(far, "far")])
    assert deviation(b.pooled["block_3"], a.pooled["block_3"]) < 1e-5


def test_both_files_of_the_model_are_checked() -> None:
    card = catalog.model("diep")
    with pytest.raises(SourceError, match=r"model\.pt.*sha256"):
        load_adapter(card.model_copy(update={"options": {"model_sha256": "0" * 64}}))
    other = card.checkpoint.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(SourceError, match=r"model 'diep': state\.pt has sha256"):
        load_adapter(card.model_copy(update={"checkpoint": other}))
    with pytest.raises(CardError, match="options"):
        load_adapter(card.model_copy(update={"options": None}))
