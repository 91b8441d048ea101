# SPDX-License-Identifier: Apache-2.0
"""The study's tree of models: distances between alignment profiles, and neighbour joining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..schemas.errors import MetricError

#: Added to every similarity, so that a profile of zeros is a distribution; the study names none.
EPSILON = 1e-6


def profile_distances(similarity: ArrayLike, *, alpha: float = 0.5) -> NDArray[np.float64]:
    """Distances between models by how they align with all others (arXiv:2512.03750, A9-A12).

    Rows and columns of the similarity are made distributions, ``R_i(j) = (C_ij + eps) /
    sum_j' (C_ij' + eps)``, and compared: ``D_ij = alpha sqrt(JSD(R_i, R_j)) + (1 - alpha)
    sqrt(JSD(K_i, K_j))`` with logarithms to base 2.

    Parameters
    ----------
    similarity : array_like, shape (m, m)
        Larger is more alike; below 0 counts as 0. The diagonal takes part.
    alpha : float
        Weight of rows against columns, 0 to 1; without effect where ``similarity`` is symmetric.

    Returns
    -------
    float64 array, shape (m, m)
        In [0, 1], symmetric, 0 on the diagonal.

    Raises
    ------
    MetricError
        Not square, or not finite.
    """
    matrix = np.asarray(similarity, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise MetricError(f"similarity has shape {matrix.shape}; a tree needs a square matrix")
    if not np.isfinite(matrix).all():
        raise MetricError("similarity is not finite; leave out models that lack a score")
    positive = np.maximum(matrix, 0.0) + EPSILON
    rows = positive / positive.sum(axis=1, keepdims=True)
    columns = (positive / positive.sum(axis=0, keepdims=True)).T
    distance = alpha * _root_divergence(rows) + (1.0 - alpha) * _root_divergence(columns)
    return np.asarray(0.5 * (distance + distance.T))


def _root_divergence(profiles: NDArray[np.float64]) -> NDArray[np.float64]:
    entropy = -np.sum(profiles * np.log2(profiles), axis=1)
    out = np.zeros((len(profiles), len(profiles)))
    for i, p in enumerate(profiles):
        middle = 0.5 * (profiles + p)
        mixed = -np.sum(middle * np.log2(middle), axis=1)
        # Rounding may leave a divergence of equal profiles just below 0.
        out[i] = np.sqrt(np.maximum(mixed - 0.5 * (entropy + entropy[i]), 0.0))
        out[i, i] = 0.0
    return out


@dataclass
class Node:
    """A node of an unrooted tree, hung up at its last join.

    Attributes
    ----------
    name : str
        Of a leaf; empty inside.
    length : float
        Of the branch to the parent; never below 0.
    """

    name: str = ""
    length: float = 0.0
    children: list[Node] = field(default_factory=list)

    def newick(self) -> str:
        """The subtree in Newick form, without the closing semicolon."""
        inner = f"({','.join(c.newick() for c in self.children)})" if self.children else ""
        return f"{inner}{self.name}:{self.length:.6g}"

    def leaves(self) -> list[str]:
        """Names of the leaves, in drawing order."""
        return [self.name] if not self.children else [n for c in self.children for n in c.leaves()]


def neighbour_joining(distances: ArrayLike, names: Sequence[str]) -> Node:
    """Tree of shortest total length by neighbour joining (Saitou and Nei 1987).

    Recovers the tree exactly where the distances are those of a tree. Branches that come out
    below 0 are set to 0, as usual.

    Parameters
    ----------
    distances : array_like, shape (m, m)
        Symmetric, 0 on the diagonal; m >= 3.
    names : sequence of str, length m

    Raises
    ------
    MetricError
        Fewer than three models, or not a symmetric matrix.
    """
    matrix = np.array(distances, dtype=np.float64)
    if len(names) < 3 or matrix.shape != (len(names), len(names)):
        raise MetricError(
            f"distances of shape {matrix.shape} for {len(names)} models; a tree needs at least "
            "three, and a square matrix"
        )
    if not np.allclose(matrix, matrix.T):
        raise MetricError("distances are not symmetric; average both directions first")
    nodes = [Node(str(name)) for name in names]
    while len(nodes) > 3:
        count = len(nodes)
        totals = matrix.sum(axis=1)
        criterion = (count - 2) * matrix - totals[:, None] - totals[None, :]
        np.fill_diagonal(criterion, np.inf)
        i, j = sorted(divmod(int(np.argmin(criterion)), count))
        bias = (totals[i] - totals[j]) / (2 * (count - 2))
        nodes[i].length = max(0.0, 0.5 * matrix[i, j] + bias)
        nodes[j].length = max(0.0, 0.5 * matrix[i, j] - bias)
        joined = 0.5 * (matrix[i] + matrix[j] - matrix[i, j])
        rest = [r for r in range(count) if r not in (i, j)]
        nodes = [nodes[r] for r in rest] + [Node(children=[nodes[i], nodes[j]])]
        grown = np.zeros((count - 1, count - 1))
        grown[:-1, :-1] = matrix[np.ix_(rest, rest)]
        grown[-1, :-1] = grown[:-1, -1] = joined[rest]
        matrix = grown
    for i, j, k in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        nodes[i].length = max(0.0, 0.5 * (matrix[i, j] + matrix[i, k] - matrix[j, k]))
    return Node(children=nodes)


def layout(root: Node) -> list[dict[str, float | str]]:
    """Line segments and leaf labels of a tree drawn from left to right.

    Returns
    -------
    list of dict
        ``x``, ``y``, ``x2``, ``y2`` (branch length from the root; leaf number) and ``name`` (of
        the leaf a segment ends in, else empty).
    """
    segments: list[dict[str, float | str]] = []
    heights = {name: float(i) for i, name in enumerate(root.leaves())}

    def draw(node: Node, start: float) -> float:
        end = start + node.length
        if not node.children:
            y = heights[node.name]
        else:
            ys = [draw(child, end) for child in node.children]
            y = 0.5 * (min(ys) + max(ys))
            segments.append({"x": end, "y": min(ys), "x2": end, "y2": max(ys), "name": ""})
        segments.append({"x": start, "y": y, "x2": end, "y2": y, "name": node.name})
        return y

    draw(root, 0.0)
    return segments
