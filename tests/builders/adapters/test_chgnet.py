# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.collections import dcdft
from chgnet.graph import CrystalGraphConverter
from invariance import check_batches, check_invariances, deviation, embedded
from probes import from_ase, to_ase_atoms
from published import REFERENCES
from pymatgen.io.ase import AseAtomsAdaptor

from matteratlas.builders.adapters.base import Adapter, Embedded, Missing, load_adapter
from matteratlas.builders.adapters.chgnet_graph import bond_graph
from matteratlas.registry import catalog
from matteratlas.schemas.structures import Structure

IDS = ["chgnet-0.3.0", "chgnet-0.2.0", "chgnet-r2scan"]
#: H2 and O2 have no angle; the rest have.
STRUCTURES = (
    [from_ase(molecule(n), n) for n in ("H2", "CH3CH2OH", "O2", "SiCl4")]
    + [from_ase(dcdft[n], n) for n in ("Fe", "O", "B")]
    + [from_ase(fcc111("Cu", (1, 1, 3), vacuum=6.0, periodic=False), "slab")]
)
outside = bulk("NaCl", "rocksalt", a=5.64)
outside.positions += [[17.0, -9.0, 4.0], [-30.0, 2.0, 11.0]]
#: One atom that bonds to its own images, a skewed cell, atoms outside their cell, surfaces.
GRAPHS = [
    *STRUCTURES, from_ase(bulk("Cu"), "cu"), from_ase(bulk("ZnS", "zincblende", a=5.41), "zns"),
    from_ase(outside, "outside"), from_ase(fcc111("Al", (2, 1, 2), vacuum=8.0), "al"),
]  # fmt: skip


@pytest.fixture(
    scope="module", params=[pytest.param(i, marks=pytest.mark.xdist_group(i)) for i in IDS]
)
def adapter(request: pytest.FixtureRequest) -> Iterator[Adapter]:
    yield load_adapter(catalog.model(request.param))


def test_vectors_and_energies_are_the_published_ones(adapter: Adapter) -> None:
    reference = REFERENCES[adapter.card.id]()
    for structure, result in zip(STRUCTURES, embedded(adapter, STRUCTURES), strict=True):
        expected = reference(to_ase_atoms(structure))
        assert set(expected.pooled) == {"conv_3", "conv_4"}
        for layer, values in expected.pooled.items():
            assert deviation(result.pooled[layer], values) < 1e-5, (structure.source_id, layer)
        assert result.energy == pytest.approx(expected.energy, abs=1e-5 * len(structure))


@pytest.mark.parametrize("structure", GRAPHS, ids=lambda s: s.source_id)
def test_graphs_are_those_of_the_package(structure: Structure) -> None:
    """Bond by bond and angle by angle, in the package's numbering of undirected bonds."""
    converter = CrystalGraphConverter(
        atom_graph_cutoff=6, bond_graph_cutoff=3, algorithm="legacy", verbose=False
    )
    atoms = to_ase_atoms(structure)
    if not atoms.pbc.all():
        atoms.center(vacuum=10.0, axis=[i for i in range(3) if not atoms.pbc[i]])
        atoms.pbc = True
    theirs = converter(AseAtomsAdaptor.get_structure(atoms))
    ours = bond_graph(structure, vacuum=10.0, bonds=6.0, angles=3.0)
    assert np.array_equal(ours.numbers, theirs.atomic_number.numpy())
    assert np.array_equal(ours.ends, theirs.atom_graph.numpy())
    assert np.array_equal(ours.undirected, theirs.directed2undirected.numpy())
    assert np.array_equal(ours.first, theirs.undirected2directed.numpy())
    both = [tuple(row) for row in theirs.bond_graph.reshape(-1, 5)[:, [2, 4]].tolist()]
    assert sorted(map(tuple, ours.angles.tolist())) == sorted(both)
    place = atoms.get_scaled_positions(wrap=False) @ atoms.cell.array
    far = place[ours.ends[:, 1]] + theirs.neighbor_image.numpy() @ atoms.cell.array
    assert np.allclose(ours.vectors, place[ours.ends[:, 0]] - far, atol=1e-5)


def test_invariances_and_batches(adapter: Adapter) -> None:
    results = embedded(adapter, STRUCTURES)
    assert check_invariances(adapter, STRUCTURES, reference=results) > 0
    check_batches(adapter, STRUCTURES, reference=results)


def test_the_default_layer_feeds_the_readout(adapter: Adapter) -> None:
    """The package's MLP on conv_4 sums to the energy, so conv_4 is the last hidden layer."""
    import torch
    from chgnet.model import CHGNet

    name = adapter.card.version
    model = CHGNet.load(model_name=name, use_device="cpu", verbose=False)
    structure = from_ase(bulk("NaCl", "rocksalt", a=5.64), "nacl")
    (result,) = embedded(adapter, [structure])
    with torch.no_grad():
        own = model.mlp(torch.from_numpy(np.array(result.nodes["conv_4"]))).sum().item()
        shift = model.composition_model.fc.weight[0, [10, 16]].sum().item()
    assert result.energy == pytest.approx(own + shift, abs=1e-4)


def test_structures_without_angles_do_not_feel_their_batch() -> None:
    """Version 0.2.0 adds a bias to bonds once any structure of the batch has an angle."""
    adapter = load_adapter(catalog.model("chgnet-0.2.0"))
    hydrogen, ethanol = from_ase(molecule("H2"), "h2"), from_ase(molecule("CH3CH2OH"), "ethanol")
    mixed, alone = embedded(adapter, [ethanol, hydrogen])[1], embedded(adapter, [hydrogen])[0]
    for layer in alone.pooled:
        assert deviation(mixed.pooled[layer], alone.pooled[layer]) < 1e-6
    assert mixed.energy == pytest.approx(alone.energy, abs=1e-5)


def test_isolated_atoms_are_missing_with_the_reason() -> None:
    adapter = load_adapter(catalog.model("chgnet-0.3.0"))
    atom = from_ase(Atoms("He"), "he")
    apart = from_ase(Atoms("HeHe", positions=[[0, 0, 0], [0, 0, 7.0]]), "he2")
    good = from_ase(molecule("H2O"), "water")
    lone, far, water = adapter.embed([atom, apart, good])
    assert isinstance(lone, Missing) and lone.reason.startswith("too_small: ")
    assert isinstance(far, Missing) and far.reason.startswith("failed: ")
    assert "2 isolated atom(s)" in far.reason
    assert isinstance(water, Embedded)
    # One atom to a cell is a crystal like any other.
    assert embedded(adapter, [from_ase(bulk("Cu"), "cu")])[0].nodes["conv_4"].shape == (1, 64)


def test_elements_the_training_lacked_are_refused() -> None:
    polonium = from_ase(bulk("Po", "sc", a=3.35), "po")
    ytterbium = from_ase(bulk("Yb", "fcc", a=5.49), "yb")
    for model_id, reasons in {
        "chgnet-0.3.0": ["unsupported_element: Po", None],
        "chgnet-r2scan": ["unsupported_element: Po", "unsupported_element: Yb"],
    }.items():
        found = load_adapter(catalog.model(model_id)).embed([polonium, ytterbium])
        assert [getattr(r, "reason", None) for r in found] == reasons


@pytest.mark.parametrize("control", ["chgnet-0.3.0-random", "chgnet-0.3.0-random-1"])
def test_the_control_is_the_architecture_without_its_training(control: str) -> None:
    import torch

    trained = load_adapter(catalog.model("chgnet-0.3.0"))
    before = torch.random.get_rng_state()
    random = load_adapter(catalog.model(control))
    assert torch.equal(torch.random.get_rng_state(), before)
    theirs, ours = trained._model.state_dict(), random._model.state_dict()  # type: ignore[attr-defined]
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}
    # Reference energies, radial basis and angular basis are no weights of the network.
    kept = {k for k in ours if torch.equal(ours[k], theirs[k])}
    matrices = {k for k, v in ours.items() if v.ndim == 2 and not k.startswith("composition_")}
    assert len(matrices) > 30 and not matrices & kept

    again = load_adapter(catalog.model(control))
    first, second = embedded(random, STRUCTURES), embedded(again, STRUCTURES)
    for one, two, said in zip(first, second, embedded(trained, STRUCTURES), strict=True):
        for layer, values in one.pooled.items():
            assert np.array_equal(values, two.pooled[layer])
            assert deviation(values, said.pooled[layer]) > 0.1


def test_the_two_controls_are_two_draws() -> None:
    cards = [catalog.model(f"chgnet-0.3.0-random{s}") for s in ("", "-1")]
    one, two = (embedded(load_adapter(c), STRUCTURES[:2]) for c in cards)
    assert deviation(one[1].pooled["conv_4"], two[1].pooled["conv_4"]) > 0.1
    assert cards[0].supports == cards[1].supports == catalog.model("chgnet-0.3.0").supports
