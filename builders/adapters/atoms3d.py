# SPDX-License-Identifier: Apache-2.0
"""What the adapters of 3D atomistic models share: copies of hidden tensors, batches, centring."""

from __future__ import annotations

import dataclasses
import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...schemas.structures import Structure
from .base import Adapter, Embedded

if TYPE_CHECKING:
    import torch


class Capture:
    """Copies of the tensors that pass through modules during one forward call.

    Every tensor is cloned as it passes: several packages update features in place, so a reference
    would show a later layer's values.
    """

    def __init__(self) -> None:
        self._tensors: dict[str, torch.Tensor] = {}

    def output_of(
        self, module: torch.nn.Module, name: str, pick: Callable[[Any], torch.Tensor]
    ) -> None:
        """Keep ``pick(output)`` of ``module`` under ``name``."""

        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            self._tensors[name] = pick(output).detach().clone()

        module.register_forward_hook(hook)

    def input_of(self, module: torch.nn.Module, name: str) -> None:
        """Keep the first positional input of ``module`` under ``name``."""

        def hook(_module: Any, inputs: tuple[Any, ...]) -> None:
            self._tensors[name] = inputs[0].detach().clone()

        module.register_forward_pre_hook(hook)

    def take(self) -> dict[str, np.ndarray]:
        """Hand over what was kept, as float32 arrays, and forget it."""
        taken, self._tensors = self._tensors, {}
        return {name: t.to("cpu").float().numpy() for name, t in taken.items()}


def split_rows(arrays: dict[str, np.ndarray], counts: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Cut each (sum(counts), dim) array into one (count, dim) piece a structure.

    Raises
    ------
    ValueError
        An array has another number of rows: it would be cut between structures.
    """
    bounds = np.cumsum([0, *counts])
    for name, values in arrays.items():
        if len(values) != bounds[-1]:
            raise ValueError(f"layer '{name}' has {len(values)} rows for {bounds[-1]} atoms")
    return [
        {name: values[start:stop] for name, values in arrays.items()}
        for start, stop in itertools.pairwise(bounds)
    ]


def packs(costs: Sequence[int], *, limit: int) -> Iterator[list[int]]:
    """Group consecutive indices so that a group's cost stays within ``limit``.

    An index that alone exceeds the limit gets a group of its own. Bounding edges rather than
    structures keeps the memory of a batch flat, whatever its mixture of sizes.
    """
    group: list[int] = []
    total = 0
    for index, cost in enumerate(costs):
        if group and total + cost > limit:
            yield group
            group, total = [], 0
        group.append(index)
        total += cost
    if group:
        yield group


class PackedGraphs(Adapter):
    """An adapter that makes a PyG graph of each structure and runs several as one batch."""

    #: Edges in one forward call.
    edges_at_once: ClassVar[int]

    def forward(self, structures: Sequence[Structure]) -> list[Embedded]:
        """Embed as batched graphs of at most :attr:`edges_at_once` edges."""
        graphs = [self._graph(s) for s in structures]
        edges = [g.edge_index.shape[1] for g in graphs]
        return [
            result
            for group in packs(edges, limit=self.edges_at_once)
            for result in self._run([graphs[i] for i in group])
        ]

    @abstractmethod
    def _graph(self, structure: Structure) -> Any:
        """The graph of one structure, with ``edge_index`` of shape (2, edges)."""

    @abstractmethod
    def _run(self, graphs: list[Any]) -> list[Embedded]:
        """Embed graphs in one forward call."""


def centred(structure: Structure) -> Structure:
    """A non-periodic structure with its centroid at the origin; a periodic one unchanged.

    Positions far from the origin lose digits in float32 graphs and make the cell lists of some
    neighbour searches needlessly large.
    """
    if structure.periodicity:
        return structure
    positions = np.asarray(structure.positions, dtype=float)
    return dataclasses.replace(structure, positions=positions - positions.mean(axis=0))
