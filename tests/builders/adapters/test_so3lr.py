# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.collections import dcdft
from invariance import check_batches, check_invariances, deviation, embedded
from probes import from_ase, to_ase_atoms
from published import REFERENCES

from matteratlas.builders.adapters.base import Adapter, Missing, load_adapter
from matteratlas.registry import catalog

pytestmark = pytest.mark.xdist_group("so3lr")

HYDROXIDE = from_ase(Atoms("OH", positions=[[0, 0, 0], [0, 0, 0.97]]), "hydroxide", charge=-1)
STRUCTURES = [
    *[from_ase(molecule(n), n) for n in ("H", "CH3CH2OH", "C6H6", "CH3Cl", "PH3")],
    HYDROXIDE,
    *[from_ase(dcdft[n], n) for n in ("C", "O", "S")],
]


@pytest.fixture(scope="module")
def adapter() -> Iterator[Adapter]:
    yield load_adapter(catalog.model("so3lr"))


def test_vectors_and_energies_are_the_published_ones(adapter: Adapter) -> None:
    reference = REFERENCES["so3lr"]()
    for structure, result in zip(STRUCTURES, embedded(adapter, STRUCTURES), strict=True):
        expected = reference(to_ase_atoms(structure))
        assert deviation(result.pooled["layer_3"], expected.pooled["layer_3"]) < 1e-5
        assert result.energy == pytest.approx(expected.energy, abs=1e-4 * len(structure))


def test_invariances_and_batches(adapter: Adapter) -> None:
    results = embedded(adapter, STRUCTURES)
    assert check_invariances(adapter, STRUCTURES, reference=results) > 0
    check_batches(adapter, STRUCTURES, reference=results)


def test_far_from_the_origin(adapter: Adapter) -> None:
    """Coordinates are float32 in the graph; the adapter centres what has no cell."""
    near = molecule("C6H6")
    far = near.copy()
    far.translate((1000.0, -2000.0, 500.0))
    a, b = embedded(adapter, [from_ase(near, "near"), from_ase(far, "far")])
    assert deviation(b.pooled["layer_3"], a.pooled["layer_3"]) < 1e-5


def test_charge_enters_and_spin_does_not(adapter: Adapter) -> None:
    neutral = dataclasses.replace(HYDROXIDE, charge=0)
    doublet = dataclasses.replace(neutral, multiplicity=2)
    anion, plain, spin = embedded(adapter, [HYDROXIDE, neutral, doublet])
    assert deviation(anion.pooled["layer_3"], plain.pooled["layer_3"]) > 0.01
    assert deviation(spin.pooled["layer_3"], plain.pooled["layer_3"]) < 1e-6


def test_the_spin_embedding_was_never_trained(adapter: Adapter) -> None:
    """Its queries keep their initial norms, near 1; those of the charge embedding do not."""
    trained = [1, 7, 8, 9, 15, 16, 17]
    spin = adapter._model.spin_embedding.Wq.weight[:, [z - 1 for z in trained]].norm(dim=0)  # type: ignore[attr-defined]
    charge = adapter._model.charge_embedding.Wq.weight[:, [z - 1 for z in trained]].norm(dim=0)  # type: ignore[attr-defined]
    assert float(spin.min()) > 0.8 and float(spin.max()) < 1.2
    assert float(charge.min()) > 3.0


def test_the_elements_are_those_with_trained_energy_scales(adapter: Adapter) -> None:
    from matteratlas.schemas.cards import elements_of
    from matteratlas.schemas.structures import SYMBOLS

    scales = adapter._model.atomic_energy_output_block.energy_scales.weight[0]  # type: ignore[attr-defined]
    trained = {SYMBOLS[z] for z in range(1, 119) if abs(float(scales[z - 1]) - 1.0) > 1e-6}
    assert trained == elements_of(adapter.card.supports.elements)
    (salt,) = adapter.embed([from_ase(bulk("NaCl", "rocksalt", a=5.64), "nacl")])
    assert isinstance(salt, Missing) and salt.reason == "unsupported_element: Na"


def test_the_long_range_cutoff_follows_periodicity(adapter: Adapter) -> None:
    """Water alone and in a wide periodic box: the same vectors, energies cut off elsewhere."""
    water = molecule("H2O")
    boxed = water.copy()
    boxed.set_cell([40.0] * 3)
    boxed.pbc = True
    free, caged = embedded(adapter, [from_ase(water, "free"), from_ase(boxed, "caged")])
    assert deviation(caged.pooled["layer_3"], free.pooled["layer_3"]) < 1e-4
    assert abs(float(free.energy or 0) - float(caged.energy or 0)) > 0.1
