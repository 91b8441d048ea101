# SPDX-License-Identifier: Apache-2.0
"""Checks any adapter must pass, driven by its card; every family's tests can use them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from matteratlas.builders.adapters.base import Adapter, Embedded
from matteratlas.schemas.structures import Structure

Transform = Callable[[Structure, np.random.Generator], Structure]


def permuted(structure: Structure, rng: np.random.Generator) -> Structure:
    """The same matter with its atoms in another order (sequence and backbone keep theirs)."""
    order = rng.permutation(len(structure))
    return dataclasses.replace(
        structure, numbers=structure.numbers[order], positions=structure.positions[order]
    )


def rotated(structure: Structure, rng: np.random.Generator) -> Structure:
    """The same matter turned about a random axis, cell and backbone with it."""
    turn = Rotation.random(random_state=rng).as_matrix().T
    backbone = structure.backbone
    return dataclasses.replace(
        structure,
        positions=structure.positions @ turn,
        cell=structure.cell @ turn,
        backbone=None if backbone is None else backbone @ turn,
    )


def translated(structure: Structure, rng: np.random.Generator) -> Structure:
    """The same matter shifted by a few ångström; a crystal's atoms may leave the cell."""
    shift = rng.uniform(-5.0, 5.0, size=3)
    backbone = structure.backbone
    return dataclasses.replace(
        structure,
        positions=structure.positions + shift,
        backbone=None if backbone is None else backbone + shift,
    )


TRANSFORMS: dict[str, Transform] = {
    "permutation": permuted,
    "rotation": rotated,
    "translation": translated,
}


def deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest component of the difference over the largest component of ``expected``."""
    scale = float(np.abs(expected).max()) or 1.0
    return float(np.abs(np.asarray(found, float) - np.asarray(expected, float)).max()) / scale


def embedded(adapter: Adapter, structures: Sequence[Structure]) -> list[Embedded]:
    """Embed structures the model must be able to take."""
    results = adapter.embed(structures)
    for structure, result in zip(structures, results, strict=True):
        assert isinstance(result, Embedded), f"{structure.source_id}: {result}"
    return [r for r in results if isinstance(r, Embedded)]


def largest_deviation(found: Sequence[Embedded], expected: Sequence[Embedded]) -> float:
    """Over all structures and layers of the pooled vectors."""
    assert found and len(found) == len(expected)
    return max(
        deviation(a.pooled[layer], b.pooled[layer])
        for a, b in zip(found, expected, strict=True)
        for layer in b.pooled
    )


def check_invariances(
    adapter: Adapter,
    structures: Sequence[Structure],
    *,
    names: Sequence[str] | None = None,
    tolerance: float | None = None,
    reference: Sequence[Embedded] | None = None,
    seed: int = 0,
) -> float:
    """Pooled vectors under the transforms the card's ``invariances`` name; the worst deviation."""
    names = adapter.card.invariances if names is None else names
    limit = adapter.card.tolerance if tolerance is None else tolerance
    rng = np.random.default_rng(seed)
    before = embedded(adapter, structures) if reference is None else reference
    worst = 0.0
    for name in names:
        after = embedded(adapter, [TRANSFORMS[name](s, rng) for s in structures])
        off = largest_deviation(after, before)
        assert off <= limit, f"{adapter.card.id}: {name} changes {off:.1e}"
        worst = max(worst, off)
    return worst


def check_batches(
    adapter: Adapter, structures: Sequence[Structure], *, reference: Sequence[Embedded]
) -> float:
    """Again, in reverse order, and alone: the vectors and energies of ``reference``.

    Numerical noise of an invariance is the model's; noise of a batch is the adapter's, and has to
    stay within 1e-4 whatever the card tolerates.
    """
    limit = min(adapter.card.tolerance, 1e-4)
    calls = {
        "a second call": embedded(adapter, structures),
        "the order": embedded(adapter, structures[::-1])[::-1],
        "the batch": [embedded(adapter, [s])[0] for s in structures],
    }
    worst = 0.0
    for what, found in calls.items():
        off = largest_deviation(found, reference)
        assert off <= limit, f"{adapter.card.id}: {what} changes {off:.1e}"
        worst = max(worst, off)
        for a, b in zip(found, reference, strict=True):
            assert (a.energy is None) == (b.energy is None)
            if a.energy is not None and b.energy is not None:
                assert abs(a.energy - b.energy) <= limit * max(1.0, abs(b.energy)), what
    return worst


def check_shapes(
    adapter: Adapter, structures: Sequence[Structure], *, reference: Sequence[Embedded]
) -> None:
    """Dims, dtypes, levels and node counts are the card's."""
    card = adapter.card
    for structure, result in zip(structures, reference, strict=True):
        for layer in card.layers:
            pooled = result.pooled[layer.name]
            assert pooled.shape == (layer.dim,) and pooled.dtype == np.float32
            assert np.isfinite(pooled).all()
            assert (layer.name in result.nodes) == (layer.level != "structure"), layer.name
            if layer.name in result.nodes:
                nodes = result.nodes[layer.name]
                assert nodes.ndim == 2 and nodes.shape[1] == layer.dim
                assert nodes.dtype == np.float32 and np.isfinite(nodes).all() and len(nodes)
                if layer.level == "atom" and card.modality == "atoms3d":
                    assert len(nodes) == len(structure)
                if layer.level == "residue":
                    assert len(nodes) == len(structure.sequence or "")
        assert (result.energy is not None) == (card.energy is not None)
        if result.energy is not None:
            assert np.isfinite(result.energy)


def check_lone_atoms(adapter: Adapter, structures: Sequence[Structure]) -> None:
    """Atoms without neighbours, beside others and by themselves: one answer.

    Graph networks take other paths where a batch has no edges at all; a vector that hangs on what
    else is in the batch is worth less than a refusal that says why. ``structures`` are some that
    the model takes; each atom is of an element it knows.
    """
    assert adapter.card.modality == "atoms3d" and structures
    box = np.eye(3) * 60.0
    first = structures[0]
    single = dataclasses.replace(
        first, numbers=first.numbers[:1], positions=np.zeros((1, 3)), cell=np.zeros((3, 3)),
        pbc=(False, False, False), kind="molecule", charge=0, multiplicity=None,
        smiles=None, sequence=None, backbone=None,
    )  # fmt: skip
    lone = {"atom": {}, "boxed": {"cell": box, "pbc": (True, True, True), "kind": "crystal"}}
    lone["pair"] = {
        "numbers": np.repeat(first.numbers[:1], 2),
        "positions": np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 25.0]]),
    }
    rows = [dataclasses.replace(single, source_id=n, **changes) for n, changes in lone.items()]
    limit = min(adapter.card.tolerance, 1e-4)
    beside = adapter.embed([*structures, *rows])[len(structures) :]
    for row, together in zip(rows, beside, strict=True):
        (alone,) = adapter.embed([row])
        assert type(alone) is type(together), (row.source_id, alone, together)
        if isinstance(alone, Embedded) and isinstance(together, Embedded):
            off = largest_deviation([together], [alone])
            assert off <= limit, (
                f"{adapter.card.id}: the batch changes {off:.1e} of {row.source_id}"
            )
        elif not isinstance(alone, Embedded):
            assert alone == together
            assert alone.reason.partition(":")[0] != "failed", (row.source_id, alone.reason)
