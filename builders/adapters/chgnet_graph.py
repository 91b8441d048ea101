# SPDX-License-Identifier: Apache-2.0
"""CHGNet's graphs, made with arrays where the package makes an object a bond.

Same bonds, same angles, numbered as the package numbers bonds; a batch becomes one disconnected
graph whose bond and angle expansions are evaluated once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...schemas.structures import Structure
from .base import to_ase

#: Closer than this an atom is itself, in Å; the package's tolerance.
_SELF = 1e-8


@dataclass(frozen=True, slots=True)
class BondGraph:
    """Directed bonds of one structure, the undirected ones they belong to, and pairs of them.

    Attributes
    ----------
    numbers:
        (atoms,) int32 atomic numbers.
    ends:
        (bonds, 2) int32: the atom a directed bond leaves and the one it reaches.
    vectors:
        (bonds, 3) float32, from the second end to the first, in Å.
    undirected:
        (bonds,) int32: the undirected bond of each directed one.
    first:
        (bonds / 2,) int32: of each undirected bond the directed one that came first.
    angles:
        (angles, 2) int32: two directed bonds that leave one atom, both short.
    """

    numbers: np.ndarray
    ends: np.ndarray
    vectors: np.ndarray
    undirected: np.ndarray
    first: np.ndarray
    angles: np.ndarray


def bond_graph(structure: Structure, *, vacuum: float, bonds: float, angles: float) -> BondGraph:
    """The graph of a structure in a periodic cell.

    Parameters
    ----------
    vacuum:
        Added on both sides along directions that are not periodic, in Å.
    bonds, angles:
        Longest bond, and longest bond that takes part in an angle, in Å.

    Raises
    ------
    ValueError
        An atom has no bond: the network has nothing to say of it.
    """
    from pymatgen.optimization.neighbors import find_points_in_spheres

    positions, cell = _periodic(structure, vacuum)
    start, end, image, length = find_points_in_spheres(
        positions, positions, r=bonds, pbc=np.ones(3, dtype=np.int64), lattice=cell, tol=_SELF
    )
    other = (start != end) | (length > _SELF)
    start, end, image, length = start[other], end[other], image[other], length[other]
    if lone := len(structure) - len(np.unique(start)):
        raise ValueError(f"{lone} isolated atom(s) within {bonds:g} Å")
    # As the package does: fractional coordinates and cell are rounded, then multiplied.
    cell32 = cell.astype(np.float32)
    placed = (positions @ np.linalg.inv(cell)).astype(np.float32) @ cell32
    vectors = placed[start] - (placed[end] + image.astype(np.float32) @ cell32)
    undirected, first = _pairs(start, end, image.astype(np.int64))
    return BondGraph(
        numbers=np.asarray(structure.numbers, dtype=np.int32),
        ends=np.stack([start, end], axis=1).astype(np.int32),
        vectors=vectors,
        undirected=undirected,
        first=first,
        angles=_angles(start, length[first][undirected] <= angles, length < angles),
    )


def _periodic(structure: Structure, vacuum: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions and cell, periodic in all directions."""
    if structure.periodicity == 3:
        positions, cell = structure.positions, structure.cell
    elif structure.periodicity == 0 and not np.any(structure.cell):
        low = structure.positions.min(axis=0)
        positions = structure.positions - low + vacuum
        cell = np.diag(np.ptp(structure.positions, axis=0) + 2 * vacuum)
    else:
        atoms = to_ase(structure, box=vacuum)
        positions, cell = atoms.positions, atoms.cell.array
    return (
        np.ascontiguousarray(positions, dtype=np.float64),
        np.ascontiguousarray(cell, dtype=np.float64),
    )


def _pairs(start: np.ndarray, end: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Undirected bond of each directed one, and the first directed bond of each undirected one."""
    span = 2 * int(np.abs(image).max(initial=0)) + 1
    base = np.array([span * span, span, 1])

    def key(a: np.ndarray, b: np.ndarray, shift: np.ndarray) -> np.ndarray:
        return (a * (int(max(a.max(), b.max())) + 1) + b) * span**3 + (shift + span // 2) @ base

    there, back = key(start, end, image), key(end, start, -image)
    _, first, inverse, counts = np.unique(
        np.minimum(there, back), return_index=True, return_inverse=True, return_counts=True
    )
    if (counts != 2).any():
        raise ValueError("a bond has no counterpart in the other direction")
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[inverse].astype(np.int32), first[order].astype(np.int32)


def _angles(start: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Pairs of different directed bonds from one atom, the first of ``left``, then ``right``."""
    ones, others = np.flatnonzero(left), np.flatnonzero(right)
    others = others[np.argsort(start[others], kind="stable")]
    low = np.searchsorted(start[others], start[ones], side="left")
    count = np.searchsorted(start[others], start[ones], side="right") - low
    ends = np.cumsum(count)
    place = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - count - low, count)
    pairs = np.stack([np.repeat(ones, count), others[place]], axis=1)
    return pairs[pairs[:, 0] != pairs[:, 1]].astype(np.int32)


def batched_graph(graphs: Sequence[BondGraph], model: Any, device: str) -> tuple[Any, list[Any]]:
    """What ``CHGNet._compute`` reads, and what its composition model reads."""
    import torch
    from chgnet.model.model import BatchedGraph

    def starts(counts: list[int]) -> np.ndarray:
        return np.cumsum([0, *counts[:-1]], dtype=np.int32)

    def join(parts: Sequence[np.ndarray], shifts: np.ndarray | None = None) -> Any:
        if shifts is not None:
            parts = [part + shift for part, shift in zip(parts, shifts, strict=True)]
        return torch.from_numpy(np.concatenate(parts)).to(device)

    sizes = [len(g.numbers) for g in graphs]
    atom = starts(sizes)
    directed = starts([len(g.ends) for g in graphs])
    ends = join([g.ends for g in graphs], atom)
    undirected = join([g.undirected for g in graphs], starts([len(g.first) for g in graphs]))
    zeros = torch.zeros(1, 3, device=device)
    bases, short_bases, vectors = model.bond_basis_expansion(
        center=join([g.vectors for g in graphs]),
        neighbor=zeros,
        undirected2directed=join([g.first for g in graphs], directed),
        image=zeros,
        lattice=torch.eye(3, device=device),
    )
    pairs = join([g.angles for g in graphs], directed)
    angle_bases, angle_graph = torch.tensor([]), torch.tensor([])
    if len(pairs):
        left, right = pairs[:, 0], pairs[:, 1]
        angle_bases = model.angle_basis_expansion(vectors[left], vectors[right])
        angle_graph = torch.stack([ends[left, 0], undirected[left], undirected[right]], dim=1)
    numbers = join([g.numbers for g in graphs])
    owners = np.repeat(np.arange(len(graphs), dtype=np.int32), sizes)
    batch = BatchedGraph(
        atomic_numbers=numbers,
        bond_bases_ag=bases,
        bond_bases_bg=short_bases,
        angle_bases=angle_bases,
        batched_atom_graph=ends,
        batched_bond_graph=angle_graph,
        atom_owners=torch.from_numpy(owners).to(device),
        directed2undirected=undirected,
        atom_positions=[],
        strains=[],
        volumes=torch.ones(len(graphs), device=device),
    )
    return batch, [SimpleNamespace(atomic_number=n) for n in torch.split(numbers, sizes)]
