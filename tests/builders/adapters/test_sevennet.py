# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.collections import dcdft
from invariance import check_batches, check_invariances, deviation, embedded
from probes import from_ase, to_ase_atoms
from published import REFERENCES

from matteratlas.builders.adapters.atoms3d import packs
from matteratlas.builders.adapters.base import Adapter, load_adapter
from matteratlas.registry import catalog
from matteratlas.schemas.errors import CardError, SourceError

IDS = ["sevennet-0", "sevennet-0-22may2024", "sevennet-l3i5", "sevennet-mf-0"]
#: An isolated atom, a radical, rings; metals, a molecular crystal and 12-atom boron; a slab.
STRUCTURES = (
    [from_ase(molecule(n), n) for n in ("H", "OH", "CH3CH2OH", "SiCl4")]
    + [from_ase(dcdft[n], n) for n in ("Fe", "O", "B")]
    + [from_ase(fcc111("Cu", (1, 1, 3), vacuum=6.0, periodic=False), "slab")]
)


@pytest.fixture(
    scope="module", params=[pytest.param(i, marks=pytest.mark.xdist_group(i)) for i in IDS]
)
def adapter(request: pytest.FixtureRequest) -> Iterator[Adapter]:
    yield load_adapter(catalog.model(request.param))


def test_vectors_and_energies_are_the_published_ones(adapter: Adapter) -> None:
    reference = REFERENCES[adapter.card.id]()
    for structure, result in zip(STRUCTURES, embedded(adapter, STRUCTURES), strict=True):
        expected = reference(to_ase_atoms(structure))
        assert set(expected.pooled) == set(result.pooled) == set(result.nodes)
        for layer, values in expected.pooled.items():
            assert deviation(result.pooled[layer], values) < 1e-5, (structure.source_id, layer)
        assert result.energy == pytest.approx(expected.energy, abs=1e-5 * len(structure))


def test_invariances_and_batches(adapter: Adapter) -> None:
    results = embedded(adapter, STRUCTURES)
    assert check_invariances(adapter, STRUCTURES, reference=results) > 0
    check_batches(adapter, STRUCTURES, reference=results)


def test_atoms_are_told_apart_and_keep_their_order(adapter: Adapter) -> None:
    structure = from_ase(molecule("CH3CH2OH"), "ethanol")
    (result,) = embedded(adapter, [structure])
    nodes = result.nodes["block_5"]
    assert nodes.shape == (9, 128)
    carbons, oxygen = nodes[structure.numbers == 6], nodes[structure.numbers == 8]
    assert deviation(carbons[0], oxygen[0]) > 0.05
    assert deviation(carbons[0], carbons[1]) > 1e-3
    np.testing.assert_allclose(result.pooled["block_5"], nodes.mean(axis=0), rtol=0, atol=1e-6)


def test_a_large_structure_gets_a_call_of_its_own(adapter: Adapter) -> None:
    small, large = from_ase(bulk("Si"), "si"), from_ase(bulk("Al", cubic=True) * (3, 3, 3), "al")
    mixed = embedded(adapter, [small, large, small])
    assert len(mixed[1].nodes["block_5"]) == 108
    assert deviation(mixed[0].pooled["block_5"], mixed[2].pooled["block_5"]) < 1e-6
    # Every atom of the supercell is the atom of the primitive cell.
    (primitive,) = embedded(adapter, [from_ase(bulk("Al"), "al1")])
    assert deviation(mixed[1].pooled["block_5"], primitive.pooled["block_5"]) < 1e-4
    assert mixed[1].energy == pytest.approx(108 * float(primitive.energy or 0), abs=1e-3)


def test_far_from_the_origin(adapter: Adapter) -> None:
    near = molecule("C6H6")
    far = near.copy()
    far.translate((1000.0, -2000.0, 500.0))
    a, b = embedded(adapter, [from_ase(near, "near"), from_ase(far, "far")])
    assert deviation(b.pooled["block_5"], a.pooled["block_5"]) < 1e-5


def test_the_channels_of_the_multi_fidelity_model_differ() -> None:
    card = catalog.model("sevennet-mf-0")
    structure = from_ase(bulk("Si"), "si")
    found = {
        modal: embedded(
            load_adapter(card.model_copy(update={"options": {"modal": modal}})), [structure]
        )[0]
        for modal in ("PBE", "R2SCAN")
    }
    assert deviation(found["PBE"].pooled["block_5"], found["R2SCAN"].pooled["block_5"]) > 0.01
    assert found["PBE"].energy == pytest.approx(2 * -5.4, abs=0.2)
    with pytest.raises(CardError, match="choose from"):
        load_adapter(card.model_copy(update={"options": {"modal": "B3LYP"}}))
    with pytest.raises(CardError, match=r"options\.modal"):
        single = catalog.model("sevennet-0").model_copy(update={"options": {"modal": "PBE"}})
        load_adapter(single)


def test_wrong_weights_are_never_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def opened(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("the file was read before its hash was checked")

    monkeypatch.setattr(torch, "load", opened)
    monkeypatch.setattr("sevenn.checkpoint.torch_load", opened)
    card = catalog.model("sevennet-0")
    other = card.checkpoint.model_copy(update={"sha256": "f" * 64})
    with pytest.raises(SourceError, match=r"sevennet-0.*checkpoint_sevennet_0\.pth.*sha256"):
        load_adapter(card.model_copy(update={"checkpoint": other}))


def test_packs() -> None:
    assert list(packs([], limit=10)) == []
    assert list(packs([4, 4, 4], limit=8)) == [[0, 1], [2]]
    assert list(packs([20, 1, 1, 20], limit=8)) == [[0], [1, 2], [3]]


def test_probe_atoms_survive_the_way_to_a_structure() -> None:
    atoms = Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]])
    back = to_ase_atoms(from_ase(atoms, "co"))
    assert back.get_chemical_formula() == "CO" and not back.pbc.any()
