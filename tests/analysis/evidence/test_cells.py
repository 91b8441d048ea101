# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import faiss
import numpy as np
import pytest

from matteratlas.analysis.evidence.cells import cut_cells, occupancy
from matteratlas.analysis.evidence.reach import family_q


def clusters(n: int = 1200, centres: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows around far points, and which; the first clusters are the largest."""
    random = np.random.default_rng(seed)
    sizes = np.linspace(2, 1, centres)
    own = random.choice(centres, n, p=sizes / sizes.sum())
    places = random.normal(size=(centres, 16)) * 5
    return (places[own] + 0.1 * random.normal(size=(n, 16))).astype(np.float32), own


def test_cells_are_the_clusters_and_do_not_hang_on_threads() -> None:
    rows, own = clusters()
    labels, centres = cut_cells(rows, 12, seed=0)
    # Cells are whole clusters, or parts of one; few starts leave two clusters in one cell.
    pairs = {(a, b) for a, b in zip(labels, own, strict=True)}
    assert len(pairs) <= 15
    sizes = np.bincount(labels, minlength=12)
    assert (np.diff(sizes) <= 0).all()  # numbered by size
    assert (labels[centres] == np.arange(12)).all()
    threads = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(2)
        again = cut_cells(rows, 12, seed=0)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(threads)
    np.testing.assert_array_equal(labels, again[0])
    np.testing.assert_array_equal(centres, again[1])


def test_length_does_not_make_a_cell() -> None:
    rows, _ = clusters()
    scaled = rows * np.random.default_rng(1).uniform(0.5, 4, (len(rows), 1)).astype(np.float32)
    np.testing.assert_array_equal(cut_cells(rows, 12, seed=0)[0], cut_cells(scaled, 12, seed=0)[0])


def test_a_cell_taken_out_of_a_set_is_found_and_no_other() -> None:
    rows, own = clusters()
    labels, _ = cut_cells(rows, 12, seed=0)
    random = np.random.default_rng(2)
    inside = random.random(len(rows)) < 0.5
    table = occupancy(labels, inside & (own != 4), 12)
    table["q"] = family_q([table["p_value"]])[0]
    missing = [c for c in range(12) if (own[labels == c] == 4).mean() > 0.5]
    assert missing and sorted(table.loc[table["q"] < 0.05, "cell"]) == missing
    gone = table.set_index("cell").loc[missing]
    assert gone["observed"].sum() == 0 and gone["in_universe"].sum() == (own == 4).sum()
    assert table["observed"].sum() == (inside & (own != 4)).sum()
    assert table["expected"].sum() == pytest.approx(table["observed"].sum())


def test_a_random_set_leaves_no_cell_thin() -> None:
    rows, _ = clusters()
    labels, _ = cut_cells(rows, 12, seed=0)
    random = np.random.default_rng(3)
    named = 0
    for _ in range(200):
        inside = np.zeros(len(rows), dtype=bool)
        inside[random.choice(len(rows), 400, replace=False)] = True
        named += bool((family_q([occupancy(labels, inside, 12)["p_value"]])[0] < 0.05).any())
    assert named / 200 <= 0.05 + 2 * (0.05 * 0.95 / 200) ** 0.5


def test_a_set_that_is_all_there_is_has_no_test() -> None:
    labels = np.repeat([0, 1], 30)
    table = occupancy(labels, np.ones(60, dtype=bool), 3)
    assert table["p_value"].isna().all()
    assert list(table["cell"]) == [0, 1]  # a cell without rows is none
