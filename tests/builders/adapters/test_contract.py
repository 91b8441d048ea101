# SPDX-License-Identifier: Apache-2.0
"""What the adapter contract promises, held against every card; each model loads once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import probes
import pytest
from invariance import check_batches, check_invariances, check_shapes, deviation
from tiny_weights import TINY, hub_of_its_own, publish, tiny_adapter

from matteratlas.builders.adapters.base import Adapter, Embedded, Missing, load_adapter
from matteratlas.registry import catalog
from matteratlas.schemas.archive import REASONS
from matteratlas.schemas.cards import ModelCard, elements_of
from matteratlas.schemas.errors import SourceError
from matteratlas.schemas.structures import ATOMIC_NUMBERS, KINDS, Structure

#: Families with an environment of their own have the same tests in ``tests/families``.
CARDS = {
    i: card
    for i, card in catalog.models().items()
    if card.isolation is None and card.checkpoint.obtained != "brought"
}
FORMS = {
    "smiles": "smiles",
    "selfies": "smiles",
    "graph2d": "smiles",
    "protein_sequence": "sequence",
    "protein_structure": "backbone",
}


class Loaded(NamedTuple):
    """A model, the probes it can take, and what it says of them."""

    adapter: Adapter
    structures: list[Structure]
    results: list[Embedded]


# Parallel runs keep a card's tests in one process.
@pytest.fixture(
    scope="module",
    params=[pytest.param(c, marks=pytest.mark.xdist_group(c)) for c in CARDS],
)
def loaded(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    # Weights on a hub are too far away and too large: the same classes, small, stand in for them.
    load = tiny_adapter if request.param in TINY else load_adapter
    adapter = load(CARDS[request.param])
    everything = probes.everything()
    results = adapter.embed(everything)
    assert len(results) == len(everything)
    pairs = list(zip(everything, results, strict=True))
    for structure, result in pairs:
        if isinstance(result, Missing):
            # The card excludes the structure; nothing it admits may fail.
            assert adapter.missing_reason(structure) == result.reason
            assert result.reason.partition(":")[0] in REASONS
    kept = [(s, r) for s, r in pairs if isinstance(r, Embedded)]
    assert len(kept) >= 2, f"{adapter.card.id} takes too few probes: {results}"
    yield Loaded(adapter, [s for s, _ in kept], [r for _, r in kept])


def test_shapes(loaded: Loaded) -> None:
    check_shapes(loaded.adapter, loaded.structures, reference=loaded.results)
    default = loaded.adapter.card.default_layer
    first, second = (r.pooled[default] for r in loaded.results[:2])
    assert deviation(first, second) > 1e-3, "two different structures, one vector"


def test_invariances(loaded: Loaded) -> None:
    check_invariances(loaded.adapter, loaded.structures, reference=loaded.results)


def test_batches_and_repetition(loaded: Loaded) -> None:
    check_batches(loaded.adapter, loaded.structures, reference=loaded.results)


def test_unsuitable_structures_do_not_harm_the_rest(loaded: Loaded) -> None:
    adapter, good = loaded.adapter, loaded.structures
    bad = list(unsuitable(adapter.card, good[0]))
    assert {"too_small"} <= {prefix for _, prefix in bad}
    mixed = [s for s, _ in bad] + list(good)
    results = adapter.embed(mixed)
    for (structure, prefix), result in zip(bad, results, strict=False):
        assert isinstance(result, Missing), f"{structure.source_id}: embedded"
        assert result.reason.partition(":")[0] == prefix, (structure.source_id, result.reason)
        assert result.reason.isprintable() and "  " not in result.reason
    for result, expected in zip(results[len(bad) :], loaded.results, strict=True):
        assert isinstance(result, Embedded)
        for layer in expected.pooled:
            limit = min(adapter.card.tolerance, 1e-4)
            assert deviation(result.pooled[layer], expected.pooled[layer]) <= limit


@pytest.mark.parametrize(
    "card", [c for c in CARDS.values() if c.checkpoint.sha256], ids=lambda c: c.id
)
def test_wrong_weights_are_refused(card: ModelCard) -> None:
    with hub_of_its_own() if card.id in TINY else nullcontext() as server:
        card = publish(server, card) if server else card
        other = card.checkpoint.model_copy(update={"sha256": "0" * 64})
        with pytest.raises(SourceError, match="sha256") as caught:
            load_adapter(card.model_copy(update={"checkpoint": other}))
    assert card.id in str(caught.value) or str(card.checkpoint.package) in str(caught.value)


def unsuitable(card: ModelCard, good: Structure) -> Iterator[tuple[Structure, str]]:
    """Variants of a probe that this card must refuse, each with the reason expected."""

    def variant(name: str, **changes: object) -> Structure:
        return dataclasses.replace(good, source_id=f"{name} {good.source_id}", **changes)

    supports = card.supports
    foreign = [k for k in KINDS if k not in supports.kinds]
    if foreign:
        yield variant("foreign", kind=foreign[0]), "wrong_modality"
    form = FORMS.get(card.modality)
    if form:
        yield variant(f"no {form}", **{form: None}), "wrong_modality"
    elements = elements_of(supports.elements)
    outside = sorted(set(ATOMIC_NUMBERS) - elements) if elements is not None else []
    if outside:
        numbers = np.full(len(good), ATOMIC_NUMBERS[outside[0]])
        yield variant("exotic", numbers=numbers), "unsupported_element"
    counted = "sequence" if card.modality.startswith("protein") else "atoms"
    if supports.max_atoms is not None:
        yield _resized(good, supports.max_atoms + 1, counted), "too_large"
    yield _resized(good, 0, counted), "too_small"
    refused = [n for n in (2, 1) if n not in (supports.periodicity or (0, 1, 2, 3))]
    if refused and good.kind == "crystal":
        pbc = tuple(i < refused[0] for i in range(3))
        yield variant("layered", pbc=pbc), "unsupported_periodicity"
    if card.modality == "atoms3d":
        nowhere = good.positions.copy()
        nowhere[-1] = np.nan
        yield variant("nowhere", positions=nowhere), "invalid"
        yield variant("doubled", positions=np.zeros_like(good.positions)), "invalid"


def _resized(good: Structure, size: int, counted: str) -> Structure:
    """The probe with ``size`` residues, or with ``size`` atoms of its first element on a line."""
    name = f"size {size} {good.source_id}"
    if counted == "sequence":
        return dataclasses.replace(
            good, source_id=name, sequence="A" * size, backbone=np.zeros((size, 4, 3))
        )
    line = np.zeros((size, 3))
    line[:, 0] = 2.0 * np.arange(size)
    numbers = np.full(size, good.numbers[0])
    return dataclasses.replace(good, source_id=name, numbers=numbers, positions=line)


def test_probes_cover_every_form() -> None:
    everything: Sequence[Structure] = probes.everything()
    assert {s.kind for s in everything} == set(KINDS)
    assert all(s.smiles for s in everything if s.kind == "molecule")
    assert all(s.sequence and s.backbone is not None for s in probes.proteins())
    assert len({s.id for s in everything}) == len(everything)
