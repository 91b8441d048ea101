# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from matteratlas.builders.adapters.base import Adapter, Embedded, Missing, load_adapter
from matteratlas.builders.adapters.descriptors import (
    CHANNELS,
    SPECIES,
    element_weights,
    mend_dscribe_system,
)
from matteratlas.registry import catalog
from matteratlas.schemas.errors import CardError
from matteratlas.schemas.structures import Structure

IDS = ["soap", "acsf", "coulomb-eigenspectrum"]
MOLECULES = ["H2O", "CH3CH2OH", "C6H6", "SO2", "SiH4", "CH3Cl", "C4H4S", "isobutane"]


def crystals() -> dict[str, Atoms]:
    low = Atoms("TiO2", cell=[[4.1, 0.1, 0.2], [0.3, 4.6, -0.4], [0.5, 0.7, 5.2]], pbc=True)
    low.set_scaled_positions([[0.02, 0.01, 0.05], [0.31, 0.36, 0.44], [0.68, 0.71, 0.81]])
    return {
        "Si": bulk("Si"),
        "NaCl": bulk("NaCl", "rocksalt", 5.64, cubic=True),
        "Cu": bulk("Cu"),
        "CsCl": bulk("CsCl", "cesiumchloride", 4.12),
        "Ti": bulk("Ti"),
        "triclinic": low,
    }


def structure(atoms: Atoms, *, kind: str | None = None) -> Structure:
    return Structure(
        source_id=str(atoms.symbols),
        kind=kind or ("crystal" if atoms.pbc.any() else "molecule"),  # type: ignore[arg-type]
        stratum="made",
        numbers=atoms.numbers.copy(),
        positions=atoms.positions.copy(),
        cell=np.array(atoms.cell),
        pbc=tuple(bool(p) for p in atoms.pbc),  # type: ignore[arg-type]
    )


ADAPTERS: dict[str, Adapter] = {i: load_adapter(catalog.model(i)) for i in IDS}


def embed(model_id: str, atoms: Atoms) -> Embedded:
    (result,) = ADAPTERS[model_id].embed([structure(atoms)])
    assert isinstance(result, Embedded), result
    return result


def pooled(model_id: str, atoms: Atoms) -> np.ndarray:
    return embed(model_id, atoms).pooled[ADAPTERS[model_id].card.default_layer]


def close(model_id: str, a: np.ndarray, b: np.ndarray) -> None:
    """Relative to the vector's size, by the tolerance of the card."""
    assert np.linalg.norm(a) > 0
    error = np.linalg.norm(a.astype(float) - b) / np.linalg.norm(a)
    assert error < ADAPTERS[model_id].card.tolerance, error


SAMPLES = [molecule(m) for m in MOLECULES] + list(crystals().values())
LABELS = MOLECULES + list(crystals())


# --- the element weights -------------------------------------------------------------------------


def test_element_weights_by_hand() -> None:
    period, position = element_weights("period"), element_weights("position")
    assert (period[1], position[1]) == (1 / 7, 1 / 2)  # H
    assert (period[10], position[10]) == (2 / 7, 1.0)  # Ne
    assert (period[11], position[11]) == (3 / 7, 1 / 8)  # Na
    assert (period[26], position[26]) == (4 / 7, 8 / 18)  # Fe
    assert (period[103], position[103]) == (1.0, 17 / 32)  # Lr
    assert set(element_weights("one").values()) == {1.0}


def test_period_and_position_name_the_element() -> None:
    pairs = {(element_weights("period")[z], element_weights("position")[z]) for z in SPECIES}
    assert len(pairs) == len(SPECIES) == 103


# --- exactness against the package's own path ----------------------------------------------------


def test_soap_equals_dscribe() -> None:
    from dscribe.descriptors import SOAP

    for atoms in (molecule("CH3CH2OH"), crystals()["NaCl"]):
        species = sorted(set(atoms.numbers.tolist()))
        parts = [
            SOAP(
                r_cut=5.0, n_max=8, l_max=6, sigma=0.5, species=species,
                periodic=bool(atoms.pbc.any()),
                compression={"mode": "mu2",
                             "species_weighting": {z: element_weights(c)[z] for z in species}},
            ).create(atoms)
            for c in CHANNELS
        ]  # fmt: skip
        nodes = embed("soap", atoms).nodes["power_spectrum"]
        expected = np.concatenate(parts, axis=1)
        np.testing.assert_allclose(nodes, expected, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(pooled("soap", atoms), nodes.mean(0), rtol=1e-5, atol=1e-6)


def test_soap_channels_are_weighted_sums_of_the_full_spectrum() -> None:
    from dscribe.descriptors import SOAP

    atoms = molecule("CH3CH2OH")
    species, n_max, l_max = [1, 6, 8], 8, 6
    full = SOAP(r_cut=5.0, n_max=n_max, l_max=l_max, sigma=0.5, species=species)
    spectrum = full.create(atoms)
    upper = np.triu_indices(n_max)
    for channel, got in zip(
        CHANNELS, np.split(embed("soap", atoms).nodes["power_spectrum"], 3, axis=1), strict=True
    ):
        w = element_weights(channel)
        expected = np.zeros((len(atoms), l_max + 1, len(upper[0])))
        for i, a in enumerate(species):
            for b in species[i:]:
                block = spectrum[:, full.get_location((a, b))].reshape(len(atoms), l_max + 1, -1)
                if a == b:
                    expected += w[a] ** 2 * block
                else:
                    square = block.reshape(len(atoms), l_max + 1, n_max, n_max)
                    both = square + square.transpose(0, 1, 3, 2)
                    expected += w[a] * w[b] * both[:, :, upper[0], upper[1]]
        close("soap", got.ravel(), expected.ravel())


def wacsf(atoms: Atoms, centre: int, options: dict) -> np.ndarray:
    """The docstring's formulas, term by term."""
    z, x, rc = atoms.numbers, atoms.positions, options["r_cut"]
    others = [j for j in range(len(atoms)) if j != centre]

    def r(a: int, b: int) -> float:
        return float(np.linalg.norm(x[a] - x[b]))

    def fc(d: float) -> float:
        return 0.5 * (np.cos(np.pi * d / rc) + 1) if d < rc else 0.0

    out = []
    for channel in CHANNELS:
        w = element_weights(channel)
        g1 = sum(w[z[j]] * fc(r(centre, j)) for j in others)
        g2 = [
            sum(w[z[j]] * np.exp(-e * (r(centre, j) - s) ** 2) * fc(r(centre, j)) for j in others)
            for e, s in options["g2"]
        ]
        g4 = np.zeros(len(options["g4"]))
        for j, k in combinations(others, 2):
            a, b, c = r(centre, j), r(centre, k), r(j, k)
            cosine = (a**2 + b**2 - c**2) / (2 * a * b)
            g4 += [
                w[z[j]] * w[z[k]] * 2 ** (1 - zeta) * (1 + lam * cosine) ** zeta
                * np.exp(-eta * (a**2 + b**2 + c**2)) * fc(a) * fc(b) * fc(c)
                for eta, zeta, lam in options["g4"]
            ]  # fmt: skip
        out += [g1, *g2, *g4]
    return np.array(out)


@pytest.mark.parametrize("name", ["H2O", "CH3CH2OH", "SO2", "CH3Cl"])
def test_acsf_equals_its_formula(name: str) -> None:
    atoms = molecule(name)
    nodes = embed("acsf", atoms).nodes["symmetry_functions"]
    for i in range(len(atoms)):
        expected = wacsf(atoms, i, catalog.model("acsf").options or {})
        np.testing.assert_allclose(nodes[i], expected, rtol=2e-5, atol=1e-6)


def test_acsf_of_one_element_equals_dscribe() -> None:
    from dscribe.descriptors import ACSF

    options = catalog.model("acsf").options or {}
    for atoms in (crystals()["Cu"], crystals()["Si"]):
        theirs = ACSF(
            r_cut=options["r_cut"], g2_params=options["g2"], g4_params=options["g4"],
            species=atoms.numbers[:1].tolist(), periodic=True,
        ).create(atoms)  # fmt: skip
        nodes = embed("acsf", atoms).nodes["symmetry_functions"]
        np.testing.assert_array_equal(nodes[:, :33], np.float32(theirs))
        w = element_weights("position")[int(atoms.numbers[0])]
        np.testing.assert_allclose(nodes[:, 66:83], w * theirs[:, :17], rtol=1e-6)
        np.testing.assert_allclose(nodes[:, 83:], w**2 * theirs[:, 17:], rtol=1e-6)


def test_coulomb_equals_dscribe_and_hand() -> None:
    from dscribe.descriptors import CoulombMatrix

    atoms = molecule("CH3CH2OH")
    theirs = CoulombMatrix(n_atoms_max=300, permutation="eigenspectrum").create(atoms)
    np.testing.assert_array_equal(pooled("coulomb-eigenspectrum", atoms), np.float32(theirs))
    pair = pooled("coulomb-eigenspectrum", Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.8]]))
    np.testing.assert_allclose(pair[:2], [0.5 + 1 / 0.8, 0.5 - 1 / 0.8], rtol=1e-6)
    assert not pair[2:].any()


@pytest.mark.parametrize("name", ["CsCl", "NaCl", "triclinic"])
def test_sine_spectrum_equals_its_formula(name: str) -> None:
    atoms = crystals()[name]
    z, cell = atoms.numbers.astype(float), np.array(atoms.cell)
    matrix = np.diag(0.5 * z**2.4)
    fractional = atoms.get_scaled_positions()
    for i, j in combinations(range(len(atoms)), 2):
        d = np.sin(np.pi * (fractional[j] - fractional[i])) ** 2 @ cell
        matrix[i, j] = matrix[j, i] = z[i] * z[j] / np.linalg.norm(d)
    values = np.linalg.eigvalsh(matrix)
    values = values[np.argsort(-np.abs(values))]
    got = pooled("coulomb-eigenspectrum", atoms)
    np.testing.assert_allclose(got[: len(atoms)], values, rtol=1e-5)
    assert not got[len(atoms) :].any()


# --- invariances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model_id", IDS)
@pytest.mark.parametrize("atoms", SAMPLES, ids=LABELS)
def test_rotation_translation_permutation(model_id: str, atoms: Atoms) -> None:
    reference = embed(model_id, atoms)
    vector = pooled(model_id, atoms)
    moved = atoms.copy()
    moved.rotate(71.0, (1, -2, 0.5), rotate_cell=True)
    moved.positions += [3.3, -1.7, 0.4]
    close(model_id, vector, pooled(model_id, moved))
    order = np.random.default_rng(0).permutation(len(atoms))
    shuffled = embed(model_id, atoms[order])
    close(model_id, vector, pooled(model_id, atoms[order]))
    for layer, nodes in reference.nodes.items():
        close(model_id, nodes[order].ravel(), shuffled.nodes[layer].ravel())


@pytest.mark.parametrize("model_id", IDS)
@pytest.mark.parametrize("name", list(crystals()))
def test_choice_of_periodic_image(model_id: str, name: str) -> None:
    atoms = crystals()[name]
    other = atoms.copy()
    other.positions[-1] += atoms.cell[0] - 2 * atoms.cell[2]
    close(model_id, pooled(model_id, atoms), pooled(model_id, other))


@pytest.mark.parametrize("model_id", ["soap", "acsf"])
@pytest.mark.parametrize("name", list(crystals()))
def test_supercell_has_the_mean_of_its_unit_cell(model_id: str, name: str) -> None:
    atoms = crystals()[name]
    close(model_id, pooled(model_id, atoms), pooled(model_id, atoms * (2, 2, 2)))


@pytest.mark.parametrize("model_id", ["soap", "acsf"])
def test_molecule_in_a_large_box_is_the_molecule(model_id: str) -> None:
    for name in ("CH3CH2OH", "C6H6"):
        boxed = molecule(name, vacuum=15.0)
        boxed.pbc = True
        close(model_id, pooled(model_id, molecule(name)), pooled(model_id, boxed))


@pytest.mark.parametrize("model_id", ["soap", "acsf"])
def test_slab_periodic_in_two_directions(model_id: str) -> None:
    slab = fcc111("Al", (1, 1, 3), vacuum=12.0)
    assert slab.pbc.tolist() == [True, True, False]
    full = slab.copy()
    full.pbc = True
    close(model_id, pooled(model_id, slab), pooled(model_id, full))
    alone = slab.copy()
    alone.pbc = False
    assert np.abs(pooled(model_id, slab) - pooled(model_id, alone)).max() > 0.01


@pytest.mark.parametrize("model_id", IDS)
def test_geometry_and_elements_are_seen(model_id: str) -> None:
    water = molecule("H2O")
    bent = water.copy()
    bent.set_angle(1, 0, 2, 120.0)
    sulphide = water.copy()
    sulphide.numbers[0] = 16
    vector = pooled(model_id, water)
    for other in (bent, sulphide):
        assert np.linalg.norm(pooled(model_id, other) - vector) > 1e-3 * np.linalg.norm(vector)


# --- range, reasons, batches ---------------------------------------------------------------------


@pytest.mark.parametrize("model_id", IDS)
def test_every_element_from_h_to_lr_is_told_apart(model_id: str) -> None:
    dimers = [Atoms([z, z], positions=[[0, 0, 0], [0, 0, 2.0]]) for z in SPECIES]
    rows = np.stack([pooled(model_id, d) for d in dimers])
    assert np.isfinite(rows).all()
    assert len({row.tobytes() for row in rows}) == 103


@pytest.mark.parametrize("model_id", IDS)
def test_reasons(model_id: str) -> None:
    adapter = ADAPTERS[model_id]
    cases = [
        (structure(Atoms("Rf2", positions=[[0, 0, 0], [0, 0, 2]])), "unsupported_element: Rf"),
        (structure(Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.1]])), "invalid: structure 'H2' has"),
    ]
    if model_id == "coulomb-eigenspectrum":
        line = Atoms("H301", positions=np.arange(903).reshape(301, 3))
        slab = fcc111("Al", (1, 1, 3), vacuum=12.0)
        cases += [
            (structure(line), "too_large: 301 > 300"),
            (structure(slab), "unsupported_periodicity: 2"),
            (structure(molecule("CH4"), kind="protein"), "wrong_modality: atoms3d model"),
        ]
    for one, reason in cases:
        bad, good = adapter.embed([one, structure(molecule("H2O"))])
        assert isinstance(bad, Missing), one.source_id
        assert bad.reason.startswith(reason)
        assert isinstance(good, Embedded)


@pytest.mark.parametrize("model_id", IDS)
def test_deterministic_and_independent_of_batch(model_id: str) -> None:
    fresh = load_adapter(catalog.model(model_id))
    layer = fresh.card.default_layer
    together = fresh.embed([structure(a) for a in SAMPLES[::-1]])[::-1]
    for atoms, result in zip(SAMPLES, together, strict=True):
        assert isinstance(result, Embedded)
        assert result.pooled[layer].tobytes() == pooled(model_id, atoms).tobytes()


def test_layers_are_as_the_cards_say() -> None:
    ethanol = molecule("CH3CH2OH")
    assert embed("soap", ethanol).nodes["power_spectrum"].shape == (9, 756)
    assert embed("acsf", ethanol).nodes["symmetry_functions"].shape == (9, 99)
    assert not embed("coulomb-eigenspectrum", ethanol).nodes


@pytest.mark.parametrize("model_id", ["soap", "acsf"])
def test_options_are_checked(model_id: str) -> None:
    card = catalog.model(model_id)
    options = {**(card.options or {}), "rcut": 4.0}
    with pytest.raises(CardError, match=f"model '{model_id}': key 'options' must hold r_cut"):
        load_adapter(card.model_copy(update={"options": options}))
    with pytest.raises(CardError, match="it holds nothing"):
        load_adapter(card.model_copy(update={"options": None}))


def test_padding_must_match_the_size_limit() -> None:
    card = catalog.model("coulomb-eigenspectrum")
    supports = card.supports.model_copy(update={"max_atoms": 400})
    with pytest.raises(CardError, match=r"supports\.max_atoms.* 300"):
        load_adapter(card.model_copy(update={"supports": supports}))


def test_mended_system_keeps_the_atoms() -> None:
    from dscribe.core.system import System

    mend_dscribe_system()
    assert mend_dscribe_system() is False
    atoms = crystals()["NaCl"]
    system = System.from_atoms(atoms)
    np.testing.assert_array_equal(system.numbers, atoms.numbers)
    np.testing.assert_array_equal(system.positions, atoms.positions)
    np.testing.assert_array_equal(system.cell, atoms.cell)
    assert system.pbc.all()
    assert not system.get_momenta().any()
    assert system.get_distance_matrix()[0, 1] == pytest.approx(atoms.get_distance(0, 1, mic=True))
