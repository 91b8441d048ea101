# SPDX-License-Identifier: Apache-2.0
"""The tree of models: distances against SciPy's, joining against trees that are known."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from matteratlas.analysis.trees import (
    EPSILON,
    Node,
    layout,
    neighbour_joining,
    profile_distances,
)
from matteratlas.schemas.errors import MetricError


def random_tree(leaves: int, rng: np.random.Generator) -> Node:
    """An unrooted tree with branches of 0.1 to 1."""
    nodes = [Node(f"m{i}", rng.uniform(0.1, 1.0)) for i in range(leaves)]
    while len(nodes) > 3:
        i, j = sorted(rng.choice(len(nodes), 2, replace=False))
        joined = Node(length=rng.uniform(0.1, 1.0), children=[nodes[i], nodes[j]])
        nodes = [n for place, n in enumerate(nodes) if place not in (i, j)] + [joined]
    return Node(children=nodes)


def path_lengths(root: Node, names: list[str]) -> np.ndarray:
    """Distances between leaves along the branches."""
    ways: dict[str, dict[int, float]] = {}

    def walk(node: Node, way: dict[int, float]) -> None:
        own = {**way, id(node): node.length}
        if not node.children:
            ways[node.name] = own
        for child in node.children:
            walk(child, own)

    walk(root, {})
    out = np.zeros((len(names), len(names)))
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            apart = set(ways[a]) ^ set(ways[b])
            out[i, j] = sum({**ways[a], **ways[b]}[node] for node in apart)
    return out


@given(leaves=st.integers(3, 12), seed=st.integers(0, 10_000))
def test_a_tree_is_recovered_from_its_path_lengths(leaves: int, seed: int) -> None:
    tree = random_tree(leaves, np.random.default_rng(seed))
    names = sorted(tree.leaves())
    lengths = path_lengths(tree, names)
    found = neighbour_joining(lengths, names)
    assert sorted(found.leaves()) == names
    np.testing.assert_allclose(path_lengths(found, names), lengths, atol=1e-9)


@given(
    size=st.integers(2, 9),
    seed=st.integers(0, 10_000),
    alpha=st.floats(0.0, 1.0),
)
def test_distances_are_as_scipy_has_them(size: int, seed: int, alpha: float) -> None:
    similarity = np.random.default_rng(seed).uniform(-0.1, 1.0, (size, size))
    found = profile_distances(similarity, alpha=alpha)
    positive = np.maximum(similarity, 0.0) + EPSILON
    rows = positive / positive.sum(axis=1, keepdims=True)
    columns = (positive / positive.sum(axis=0)).T
    for i in range(size):
        for j in range(i):
            expected = alpha * jensenshannon(rows[i], rows[j], 2) + (1 - alpha) * jensenshannon(
                columns[i], columns[j], 2
            )
            assert found[i, j] == pytest.approx(expected, abs=1e-7)
    assert np.array_equal(found, found.T)
    assert (np.diag(found) == 0).all()
    assert found.max() <= 1.0


def test_a_drawing_ends_in_every_leaf_and_the_text_names_it() -> None:
    tree = random_tree(7, np.random.default_rng(0))
    names = {s["name"] for s in layout(tree)} - {""}
    assert names == set(tree.leaves())
    assert set(re.findall(r"m\d+", tree.newick())) == names
    assert tree.newick().count("(") == tree.newick().count(")")


@pytest.mark.parametrize(
    ("distances", "names"),
    [
        (np.zeros((2, 2)), ["a", "b"]),
        (np.zeros((3, 2)), ["a", "b", "c"]),
        (np.triu(np.ones((3, 3))), ["a", "b", "c"]),
    ],
)
def test_what_is_no_distance_matrix_is_refused(distances: np.ndarray, names: list[str]) -> None:
    with pytest.raises(MetricError):
        neighbour_joining(distances, names)


def test_a_missing_similarity_is_refused() -> None:
    with pytest.raises(MetricError, match="leave out"):
        profile_distances([[1.0, np.nan], [np.nan, 1.0]])
