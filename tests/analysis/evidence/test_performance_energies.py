# SPDX-License-Identifier: Apache-2.0
"""Eqs 1-4 against plain numpy, and the laws they obey."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matteratlas.analysis.evidence.energies import (
    composition_counts,
    deviations,
    energy_errors,
    fit_parameters,
    informative_rows,
    jackknife_error,
)


def matter(seed: int, n: int = 40, elements: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Element counts, reference energies and a model's."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 9, size=(n, elements)).astype(float)
    counts[:, 0] += 1
    true = counts @ random.normal(-200.0, 80.0, size=elements) + random.normal(size=n)
    model = counts @ random.normal(-9.0, 3.0, size=elements) + random.normal(size=n) + 0.3 * true
    return counts, true, model


def by_the_paper(true: np.ndarray, model: np.ndarray, counts: np.ndarray) -> float:
    """Eqs 1-4 by normal equations, one at a time."""
    x = np.column_stack([counts, np.ones(len(counts))])
    w_true = np.linalg.solve(x.T @ x, x.T @ true)
    w_model = np.linalg.solve(x.T @ x, x.T @ model)
    delta_true = true - x @ w_true
    delta_model = model - x @ w_model
    return float(np.mean(np.abs(delta_true - delta_model)))


@pytest.mark.parametrize("seed", range(5))
def test_the_error_is_that_of_the_equations(seed: int) -> None:
    counts, true, model = matter(seed)
    error = np.abs(energy_errors(true, model, counts)).mean()
    assert error == pytest.approx(by_the_paper(true, model, counts), rel=1e-9)


shifts = st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), shift=shifts)
def test_energies_an_element_and_constants_do_not_matter(seed: int, shift: list[float]) -> None:
    counts, true, model = matter(seed)
    error = energy_errors(true, model, counts)
    linear = counts @ np.array(shift[:3]) + shift[3]
    np.testing.assert_allclose(energy_errors(true, model + linear, counts), error, atol=1e-7)
    np.testing.assert_allclose(energy_errors(true + linear, model, counts), error, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_order_of_rows_and_elements_does_not_matter(seed: int) -> None:
    counts, true, model = matter(seed)
    order = np.random.default_rng(seed).permutation(len(true))
    error = energy_errors(true, model, counts)
    mixed = energy_errors(true[order], model[order], counts[order][:, ::-1])
    np.testing.assert_allclose(mixed, error[order], atol=1e-8)


def test_a_model_of_composition_alone_has_the_error_of_the_baseline() -> None:
    counts, true, _ = matter(0)
    errors = energy_errors(true, counts @ [1.0, -7.0, 300.0] + 4.0, counts)
    np.testing.assert_allclose(errors, -deviations(true, counts), atol=1e-9)


def test_a_perfect_model_on_another_zero_has_none() -> None:
    counts, true, _ = matter(1)
    atoms = counts @ [-1.5, -2.5, -3.5]
    np.testing.assert_allclose(energy_errors(true, true - atoms, counts), 0.0, atol=1e-9)


def test_atomisation_energies_count_downwards() -> None:
    """The negative of an atomisation energy is a total energy less those of the atoms."""
    counts, true, model = matter(2)
    atomisation = counts @ [-13.6, -1030.0, -2040.0] - true
    np.testing.assert_allclose(
        energy_errors(-atomisation, model, counts), energy_errors(true, model, counts), atol=1e-7
    )


def test_formulas_are_read() -> None:
    counts, elements = composition_counts(["CH4", "C2H6O", "ClNa", "Cu108"])
    assert elements == ["C", "Cl", "Cu", "H", "Na", "O"]
    assert counts.tolist() == [
        [1, 0, 0, 4, 0, 0],
        [2, 0, 0, 6, 0, 1],
        [0, 1, 0, 0, 1, 0],
        [0, 0, 108, 0, 0, 0],
    ]
    assert composition_counts([])[0].shape == (0, 0)


def test_parameters_are_the_independent_ones() -> None:
    assert fit_parameters(matter(0)[0]) == 4
    assert fit_parameters([[1, 2], [2, 1], [3, 0], [0, 3]]) == 2  # always three atoms


def test_rows_that_the_fit_goes_through_are_left_out_in_turn() -> None:
    counts, _, _ = matter(3, n=12, elements=2)
    alone = np.zeros((14, 4))
    alone[:12, :2] = counts
    alone[12, [0, 2]] = 1, 2  # the only row of the third element, once the next is out
    alone[13, [0, 2, 3]] = 1, 1, 1  # the only row of the fourth
    kept = informative_rows(alone)
    assert kept[:12].all() and not kept[12:].any()
    np.testing.assert_allclose(deviations(np.arange(14.0) ** 2, alone)[12:], 0.0, atol=1e-8)


def test_the_standard_error_is_the_jackknifes_over_groups() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=50)
    single = jackknife_error(values, np.arange(50))
    assert single == pytest.approx(values.std(ddof=1) / np.sqrt(50))
    # Copies of every row, each group kept together, say nothing new.
    again = jackknife_error(np.repeat(values, 4), np.repeat(np.arange(50), 4))
    assert again == pytest.approx(single)
    assert np.isnan(jackknife_error(values, np.zeros(50)))
