# SPDX-License-Identifier: Apache-2.0
"""Cards tell the truth, and the page prints them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ortho_group

from matteratlas.analysis import metrics

PAGE = Path(__file__).parents[3] / "docs/reference/metrics.md"
PAIRED = [name for name in metrics.ALL_METRICS if metrics.CARDS[name].pairwise]
CHANGES = ("rotations", "scale", "translations", "lengths of rows")


def score(name, x, y):
    """The metric with its default settings, as one number."""
    if name == "intrinsic_dimension":
        return metrics.intrinsic_dimension(x)
    options = {"k": 3} if name == "cycle_knn" else {}  # at k = 25 nearly every row comes back
    value = getattr(metrics, name)(x, y, **options)
    if name in ("information_imbalance", "idcor"):
        return value[0]
    return float(np.mean(value))


def change(what, x, random):
    if what == "rotations":
        return x @ ortho_group.rvs(x.shape[1], random_state=random)
    if what == "scale":
        return 7.3 * x
    if what == "translations":
        return x + random.normal(size=x.shape[1])
    return x * random.uniform(0.3, 3.0, size=(len(x), 1))


@pytest.fixture(scope="module")
def pair():
    random = np.random.default_rng(8)
    source = random.normal(size=(120, 4))
    x, y = (
        source @ random.normal(size=(4, d)) + 0.3 * random.normal(size=(120, d)) for d in (6, 9)
    )
    return x, y


def test_names_are_those_of_the_functions():
    assert tuple(metrics.CARDS) == metrics.ALL_METRICS
    assert metrics.ALL_METRICS[: len(metrics.METRICS)] == metrics.METRICS == metrics.DEFAULT_METRICS
    assert len(metrics.ALL_METRICS) == 13
    for name, card in metrics.CARDS.items():
        assert card.name == name
        assert callable(getattr(metrics, name))
    assert {name: metrics.CARDS[name].version for name in metrics.METRICS} == metrics.VERSIONS


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("name", metrics.ALL_METRICS)
def test_unchanged_by_what_the_card_says_and_by_nothing_else(name, what, pair):
    x, y = pair
    random = np.random.default_rng(1)
    moved = score(name, change(what, x, random), y)
    same = moved == pytest.approx(score(name, x, y), abs=1e-9, rel=1e-9)
    assert same == (what in metrics.CARDS[name].invariant_to)


@pytest.mark.parametrize("name", PAIRED)
def test_symmetry_best_and_range(name, pair):
    x, y = pair
    card = metrics.CARDS[name]
    value, back = score(name, x, y), score(name, y, x)
    assert (value == pytest.approx(back, abs=1e-12)) == card.symmetric
    own = score(name, x, x)
    best = card.best(len(x), 1 if name == "information_imbalance" else 25)
    assert np.isnan(best) == (name == "cycle_knn")
    if np.isfinite(best):
        assert own == pytest.approx(best, abs=1e-9)
    assert (own > value) == card.larger_is_similar
    for found in (value, back, own):
        assert card.lower is None or found >= card.lower - 1e-12
        assert card.upper is None or found <= card.upper + 1e-12


NULLS = {
    "mutual_knn": lambda n: 25 / (n - 1),
    "local_knn_agreement": lambda n: 25 / (n - 1),
    "linear_cka": lambda n: 0.0,
    "distance_correlation": lambda n: 0.0,
    "rbf_cka": lambda n: 0.0,
    "rsa": lambda n: 0.0,
    "information_imbalance": lambda n: 1.0,
}


@pytest.mark.parametrize("name", sorted(NULLS))
def test_expectation_over_relabelings(name, pair):
    x, y = (z[:60] for z in pair)
    random = np.random.default_rng(3)
    values = [score(name, x, y[random.permutation(60)]) for _ in range(60)]
    error = np.std(values, ddof=1) / np.sqrt(60)
    assert error < 0.02
    assert np.mean(values) == pytest.approx(NULLS[name](60), abs=4 * error)


def test_approximate_nulls():
    random = np.random.default_rng(4)
    n, k = 200, 10
    x = random.normal(size=(n, 6))
    cycles = [metrics.cycle_knn(x, random.normal(size=(n, 6)), k=k) for _ in range(10)]
    assert np.mean(cycles) == pytest.approx(1.0 - (1.0 - k / (n - 1)) ** k, abs=0.05)
    alike = [metrics.svcca(x, random.normal(size=(n, 30)), keep=1.0) for _ in range(10)]
    assert np.mean(alike) == pytest.approx(np.sqrt(30 / (n - 1)), abs=0.03)


def table() -> list[str]:
    """The cards as the page prints them."""
    head = (
        "| metric | version | symmetric | larger = more alike | range | row scaling | unchanged by "
        "| x = y | unrelated | computed from | source |"
    )
    out = [head, "|" + "---|" * 11]
    best = {"information_imbalance": "(k+1)/n", "cycle_knn": "depends"}
    for card in metrics.CARDS.values():
        low = "" if card.lower is None else f"{card.lower:g}"
        high = "" if card.upper is None else f"{card.upper:g}"
        span = f"{low} to {high}" if low and high else f"at most {high}" if high else "not bounded"
        if low and not high:
            span = f"above {low}"
        cells = [
            f"`{card.name}`",
            card.version,
            ("yes" if card.symmetric else "no") if card.pairwise else "-",
            ("yes" if card.larger_is_similar else "**no**") if card.pairwise else "-",
            span,
            f"`{card.normalise}`",
            ", ".join(card.invariant_to),
            best.get(card.name, "1") if card.pairwise else "-",
            card.null,
            card.computed_from,
            card.source,
        ]
        out.append("| " + " | ".join(cells) + " |")
    return out


def test_the_page_prints_the_cards():
    assert "\n".join(table()) in PAGE.read_text()
