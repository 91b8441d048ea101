# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.collections import dcdft
from invariance import check_batches, check_invariances, deviation, embedded
from probes import from_ase, to_ase_atoms
from published import REFERENCES

from matteratlas.builders.adapters.base import Adapter, Missing, load_adapter
from matteratlas.registry import catalog
from matteratlas.schemas.errors import SourceError

IDS = [c.id for c in catalog.models().values() if c.family == "cgcnn"]
#: The last has fewer than twelve neighbours within the radius.
STRUCTURES = [
    from_ase(bulk("NaCl", "rocksalt", a=5.64), "NaCl"),
    from_ase(bulk("ZnO", "wurtzite", a=3.25, c=5.2), "ZnO"),
    *[from_ase(dcdft[n], n) for n in ("Si", "Fe", "O", "B", "Rn")],
    from_ase(Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]], cell=[7, 7, 9], pbc=True), "sparse"),
]


@pytest.fixture(
    scope="module", params=[pytest.param(i, marks=pytest.mark.xdist_group(i)) for i in IDS]
)
def adapter(request: pytest.FixtureRequest) -> Iterator[Adapter]:
    yield load_adapter(catalog.model(request.param))


def test_all_eight_heads_have_a_card() -> None:
    assert len(IDS) == 8 and set(IDS) <= set(REFERENCES)


def test_vectors_and_energies_are_the_published_ones(adapter: Adapter) -> None:
    reference = REFERENCES[adapter.card.id]()
    for structure, result in zip(STRUCTURES, embedded(adapter, STRUCTURES), strict=True):
        expected = reference(to_ase_atoms(structure))
        assert set(expected.pooled) == set(result.pooled) == {*result.nodes, "crystal"}
        for layer, values in expected.pooled.items():
            assert deviation(result.pooled[layer], values) < 5e-5, (structure.source_id, layer)
        assert (expected.energy is None) == (result.energy is None) == (adapter.card.energy is None)
        if expected.energy is not None:
            assert result.energy == pytest.approx(expected.energy, abs=1e-5 * len(structure))


def test_batches(adapter: Adapter) -> None:
    check_batches(adapter, STRUCTURES, reference=embedded(adapter, STRUCTURES))


def test_crystals_without_ties_are_invariant(adapter: Adapter) -> None:
    """The card claims no invariance because of ties at the twelfth neighbour; here are none."""
    rng = np.random.default_rng(3)
    crystals = []
    for i in range(4):
        atoms = bulk("NaCl", "rocksalt", a=5.64) * (2, 1, 1)
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
        crystals.append(from_ase(atoms, f"rattled-{i}"))
    names = ["permutation", "rotation", "translation"]
    check_invariances(adapter, crystals, names=names, tolerance=1e-4)
    assert adapter.card.invariances == []


def test_formation_energies_are_sensible() -> None:
    adapter = load_adapter(catalog.model("cgcnn-formation-energy"))
    salt, oxide = embedded(
        adapter,
        [from_ase(bulk(n, "rocksalt", a=a), n) for n, a in (("NaCl", 5.64), ("MgO", 4.21))],
    )
    # Experiment: -2.13 and -3.12 eV/atom.
    assert salt.energy == pytest.approx(-2.1, abs=0.15)
    assert oxide.energy == pytest.approx(-3.1, abs=0.15)


def test_molecules_and_layers_are_refused(adapter: Adapter) -> None:
    layer = bulk("Cu", cubic=True)
    layer.pbc = (True, True, False)
    sheet, water = adapter.embed([from_ase(layer, "sheet"), from_ase(Atoms("He"), "he")])
    assert isinstance(sheet, Missing) and sheet.reason == "unsupported_periodicity: 2"
    assert isinstance(water, Missing) and water.reason.startswith("wrong_modality")


def test_the_element_table_is_checked() -> None:
    card = catalog.model("cgcnn-metal")
    options = {**(card.options or {}), "atom_init_sha256": "0" * 64}
    with pytest.raises(SourceError, match=r"atom_init\.json.*sha256"):
        load_adapter(card.model_copy(update={"options": options}))


def test_nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    load = torch.load

    def guarded(*args: object, **kwargs: object) -> object:
        assert kwargs["weights_only"] is True
        return load(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "load", guarded)
    # This file carries a numpy scalar, which plain safe loading refuses.
    card = catalog.model("cgcnn-metal")
    assert not card.checkpoint.unpickles
    assert embedded(load_adapter(card), STRUCTURES[:1])[0].energy is None
