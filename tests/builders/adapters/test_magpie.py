# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket

import numpy as np
import pytest

from matteratlas.builders.adapters.base import Embedded, Missing, load_adapter
from matteratlas.builders.adapters.magpie import Magpie
from matteratlas.registry import catalog
from matteratlas.schemas.errors import CardError
from matteratlas.schemas.structures import ATOMIC_NUMBERS, Structure


def structure(counts: dict[str, int]) -> Structure:
    numbers = np.array([ATOMIC_NUMBERS[s] for s, n in counts.items() for _ in range(n)])
    return Structure(
        source_id="x", kind="crystal", stratum="made", numbers=numbers,
        positions=2.0 * np.arange(3 * len(numbers)).reshape(-1, 3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def adapter() -> Magpie:
    loaded = load_adapter(catalog.model("magpie"))
    assert isinstance(loaded, Magpie)
    return loaded


def pooled(adapter: Magpie, counts: dict[str, int]) -> np.ndarray:
    (result,) = adapter.embed([structure(counts)])
    assert isinstance(result, Embedded), result
    return result.pooled["statistics"]


@pytest.mark.parametrize(
    "counts",
    [{"Na": 1, "Cl": 1}, {"Fe": 2, "O": 3}, {"C": 6, "H": 6}, {"U": 1}, {"K": 1, "Xe": 1}],
)
def test_equals_matminer(adapter: Magpie, counts: dict[str, int]) -> None:
    from matminer.featurizers.composition import ElementProperty
    from pymatgen.core import Composition

    # The package's default imputes; for supported elements there is nothing to impute.
    theirs = ElementProperty.from_preset("magpie").featurize(Composition(counts))
    np.testing.assert_array_equal(pooled(adapter, counts), np.float32(theirs))


def test_atomic_number_statistics_by_hand(adapter: Magpie) -> None:
    # minimum, maximum, range, mean, average deviation, mode of Z
    np.testing.assert_allclose(pooled(adapter, {"Na": 4, "Cl": 4})[:6], [11, 17, 6, 14, 3, 11])
    mean = (2 * 1 + 8) / 3
    deviation = (2 * (mean - 1) + (8 - mean)) / 3
    np.testing.assert_allclose(
        pooled(adapter, {"H": 2, "O": 1})[:6], [1, 8, 7, mean, deviation, 1], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("counts", "named"), [({"H": 1, "He": 1}, "He"), ({"Cf": 1, "O": 1}, "Cf"), ({"Og": 1}, "Og")]
)
def test_untabulated_elements_are_named_not_imputed(
    adapter: Magpie, counts: dict[str, int], named: str
) -> None:
    assert adapter.embed([structure(counts)]) == [Missing(f"unsupported_element: {named}")]


def test_card_with_other_elements_is_refused() -> None:
    card = catalog.model("magpie")
    supports = card.supports.model_copy(update={"elements": "H-U"})
    with pytest.raises(CardError, match=r"supports\.elements.*90 elements"):
        load_adapter(card.model_copy(update={"supports": supports}))


def test_each_composition_is_computed_once_a_batch(
    adapter: Magpie, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    featurize = adapter._featurizer.featurize

    def counted(composition: object) -> list[float]:
        seen.append(str(composition))
        return featurize(composition)

    monkeypatch.setattr(adapter._featurizer, "featurize", counted)
    unit, supercell, other = {"Na": 1, "Cl": 1}, {"Na": 8, "Cl": 8}, {"Na": 1, "Cl": 3}
    results = adapter.embed([structure(c) for c in (unit, supercell, other, unit)])
    values = [r.pooled["statistics"].tobytes() for r in results if isinstance(r, Embedded)]
    assert len(values) == 4
    assert len(seen) == 2
    assert values[0] == values[1] == values[3] != values[2]


def test_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    fresh = load_adapter(catalog.model("magpie"))
    assert isinstance(fresh.embed([structure({"Si": 2})])[0], Embedded)
