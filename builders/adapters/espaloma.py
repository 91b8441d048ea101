# SPDX-License-Identifier: Apache-2.0
"""Espaloma-charge: a graph network that gives partial charges, in its JAX port.

Wang et al., J. Phys. Chem. A 128, 4160 (2024), doi:10.1021/acs.jpca.4c01287. Weights are the
published ones of version 0.0.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from ...schemas.structures import Structure
from .base import Embedded
from .smiles import SmilesAdapter, read_smiles

#: Atoms and directed bonds are padded to multiples, so that few shapes are compiled.
_PAD = 256


class Espaloma(SmilesAdapter):
    """The graph network before the charge readout.

    Layers ``sage_i`` are (n_atoms, 128) after the i-th convolution, hydrogens included: heavy atoms
    in the order of the SMILES, then their hydrogens.
    """

    batch_size: ClassVar[int] = 32

    def load(self) -> None:
        """Read the weights: plain arrays, not a pickle."""
        import equinox
        import jax
        from expaloma.nn.model import load_eqx

        model = load_eqx(self.checkpoint())
        gnn = model.gnn

        def run(x: Any, senders: Any, receivers: Any) -> list[Any]:
            h = jax.numpy.tanh(x @ gnn.w_f_in.T + gnn.b_f_in)
            states = []
            for sage in gnn.sages:
                h = jax.nn.relu(sage(h, senders, receivers, zero_edges=False))
                states.append(h)
            return states

        self.model = model
        self.parameters = sum(
            leaf.size for leaf in jax.tree_util.tree_leaves(equinox.filter(model, equinox.is_array))
        )
        self._run = jax.jit(run)

    def forward(self, structures: Sequence[Structure]) -> list[Embedded]:
        """Run the molecules as one disconnected graph, padded with atoms bound to themselves."""
        from expaloma.featurize import from_rdkit_mol
        from rdkit import Chem

        graphs = [from_rdkit_mol(Chem.AddHs(read_smiles(s.smiles or ""))) for s in structures]
        counts = [len(g.h0) for g in graphs]
        bonds = sum(len(g.senders) for g in graphs)
        n, e = _padded(sum(counts) + 1), _padded(bonds + 1)
        x = np.zeros((n, graphs[0].h0.shape[1]), dtype=np.float32)
        senders, receivers = (np.full(e, n - 1, dtype=np.int32) for _ in range(2))
        starts = np.concatenate([[0], np.cumsum(counts)])
        at = 0
        for graph, start in zip(graphs, starts, strict=False):
            x[start : start + len(graph.h0)] = graph.h0
            stop = at + len(graph.senders)
            senders[at:stop], receivers[at:stop] = graph.senders + start, graph.receivers + start
            at = stop
        states = [np.asarray(h) for h in self._run(x, senders, receivers)]
        return [
            Embedded(nodes={f"sage_{i + 1}": h[a:b] for i, h in enumerate(states)})
            for a, b in pairwise(starts)
        ]


def _padded(count: int) -> int:
    return -(-count // _PAD) * _PAD
