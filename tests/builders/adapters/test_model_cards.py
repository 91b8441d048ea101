# SPDX-License-Identifier: Apache-2.0
"""Every model card: it validates, it sits where it says, and its adapter exists."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from matteratlas.builders.adapters import base
from matteratlas.registry import catalog
from matteratlas.schemas.cards import ModelCard, elements_of, read_card

PATHS = catalog.model_card_paths()


def test_there_are_cards() -> None:
    assert len(PATHS) == len(catalog.models()) >= 17


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_card(path: Path) -> None:
    card = read_card(path, ModelCard)
    assert card.family == path.parent.name
    assert catalog.model(card.id) == card

    module, _, name = card.adapter.partition(":")
    adapter = getattr(importlib.import_module(f"{base.__package__}.{module}"), name)
    assert issubclass(adapter, base.Adapter) and adapter is not base.Adapter

    supported = elements_of(card.supports.elements)
    assert supported is None or supported
    if card.supports.max_atoms is not None:
        assert card.supports.max_atoms >= card.supports.min_atoms
    # A layer of nodes is pooled by the base class, which must know how.
    assert card.pooling != "none" or all(layer.level == "structure" for layer in card.layers)
    if card.checkpoint.obtained == "package":
        assert card.learned and (card.parameters is None or card.parameters > 0)
    if card.energy is not None:
        unit = {"total_energy": "eV", "formation_energy_per_atom": "eV/atom"}
        assert card.energy.unit == unit[card.energy.quantity]
