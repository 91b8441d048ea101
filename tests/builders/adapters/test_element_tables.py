# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matteratlas.builders.adapters.base import Embedded, Missing, load_adapter
from matteratlas.builders.adapters.element_tables import read_table
from matteratlas.registry import catalog
from matteratlas.registry.hub import package_file
from matteratlas.schemas.cards import elements_of
from matteratlas.schemas.errors import CardError, SourceError
from matteratlas.schemas.structures import ATOMIC_NUMBERS, Structure

CARDS = [c for c in catalog.models().values() if c.adapter == "element_tables:ElementTable"]
FOLDER = "elementembeddings/data/element_representations"


def structure(counts: dict[str, int], *, kind: str = "crystal") -> Structure:
    numbers = np.array([ATOMIC_NUMBERS[s] for s, n in counts.items() for _ in range(n)])
    return Structure(
        source_id="-".join(f"{s}{n}" for s, n in counts.items()),
        kind=kind,  # type: ignore[arg-type]
        stratum="made",
        numbers=numbers,
        positions=2.0 * np.arange(3 * len(numbers)).reshape(-1, 3),
    )


def raw(name: str) -> dict[str, np.ndarray]:
    """The table as the file has it, by the plainest reading."""
    path = package_file("ElementEmbeddings==0.8.0", f"{FOLDER}/{name}", kind="wheel")
    if name.endswith(".json"):
        return {k: np.array(v) for k, v in json.loads(path.read_text()).items()}
    with path.open(newline="") as handle:
        return {row["element"]: np.array([float(v) for k, v in row.items() if k != "element"])
                for row in csv.DictReader(handle)}  # fmt: skip


def pooled(model_id: str, counts: dict[str, int]) -> np.ndarray:
    (result,) = load_adapter(catalog.model(model_id)).embed([structure(counts)])
    assert isinstance(result, Embedded), result
    return result.pooled["elements"]


@pytest.mark.parametrize(
    ("model_id", "name"), [("mat2vec", "mat2vec.csv"), ("megnet16", "megnet16.json")]
)
def test_composition_mean_by_hand(model_id: str, name: str) -> None:
    rows = raw(name)
    salt = pooled(model_id, {"Na": 4, "Cl": 4})
    water = pooled(model_id, {"H": 2, "O": 1})
    np.testing.assert_allclose(salt, (rows["Na"] + rows["Cl"]) / 2, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(water, (2 * rows["H"] + rows["O"]) / 3, rtol=1e-6, atol=1e-7)
    assert np.abs(salt - water).max() > 0.01


def test_every_table_loads_as_its_card_says() -> None:
    assert len(CARDS) >= 11
    for card in CARDS:
        load_adapter(card)  # compares dim and elements with the file
        assert card.context_free and card.learned and card.modality == "composition"
        elements = elements_of(card.supports.elements)
        assert elements is not None
        if card.parameters is not None:
            assert card.parameters == len(elements) * card.layer().dim


def test_averages_of_potentials_are_labelled_element_level() -> None:
    averages = [c for c in CARDS if "averaged" in (c.notes or "")]
    assert {c.id for c in averages} == {
        "elements-mace-mp0", "elements-sevennet", "elements-orb-v2", "elements-chgnet",
        "elements-chemeleon",
    }  # fmt: skip
    assert all("not structure embeddings" in (c.notes or "") for c in averages)


def test_one_element_gives_its_row() -> None:
    np.testing.assert_array_equal(
        pooled("skipatom", {"Fe": 3}), raw("skipatom_20201009_induced.csv")["Fe"].astype(np.float32)
    )


@pytest.mark.parametrize(
    ("model_id", "counts", "reason"),
    [
        ("skipatom", {"He": 1, "H": 1}, "unsupported_element: He"),
        ("megnet16", {"Cm": 2, "O": 3}, "unsupported_element: Cm"),
        ("crystallm", {"Po": 1, "Rn": 1}, "unsupported_element: Po,Rn"),
        ("elements-chgnet", {"Ar": 4}, "unsupported_element: Ar"),
        ("elements-matscibert", {"Cf": 1}, "unsupported_element: Cf"),
    ],
)
def test_elements_without_a_row_are_named(
    model_id: str, counts: dict[str, int], reason: str
) -> None:
    assert load_adapter(catalog.model(model_id)).embed([structure(counts)]) == [Missing(reason)]


def test_independent_of_batch_and_order() -> None:
    adapter = load_adapter(catalog.model("mat2vec"))
    many = [structure({"C": n, "H": 2 * n + 2, "O": n % 3 + 1}) for n in range(1, 40)]
    together = adapter.embed(many)
    reversed_ = adapter.embed(many[::-1])[::-1]
    for one, a, b in zip(many, together, reversed_, strict=True):
        (alone,) = adapter.embed([one])
        assert isinstance(a, Embedded) and isinstance(b, Embedded) and isinstance(alone, Embedded)
        assert a.pooled["elements"].tobytes() == alone.pooled["elements"].tobytes()
        assert b.pooled["elements"].tobytes() == alone.pooled["elements"].tobytes()
        assert not a.nodes


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["H", "C", "O", "Na", "Fe", "U"]), st.integers(1, 9),
                    min_size=1),
    st.integers(2, 5),
)  # fmt: skip
def test_only_the_ratio_of_elements_matters(counts: dict[str, int], times: int) -> None:
    larger = {s: n * times for s, n in counts.items()}
    np.testing.assert_allclose(
        pooled("megnet16", larger), pooled("megnet16", counts), rtol=1e-6, atol=1e-7
    )


def test_card_that_differs_from_the_file_is_refused() -> None:
    card = catalog.model("megnet16")
    wrong = card.model_copy(
        update={"supports": card.supports.model_copy(update={"elements": "H-Am"})}
    )
    with pytest.raises(CardError, match=r"megnet16.*supports\.elements.*94 elements"):
        load_adapter(wrong)
    layer = card.layers[0].model_copy(update={"dim": 17})
    with pytest.raises(CardError, match="dim 17, the table has 16 columns"):
        load_adapter(card.model_copy(update={"layers": [layer]}))


def test_changed_table_is_refused_by_hash() -> None:
    card = catalog.model("megnet16")
    other = card.checkpoint.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(SourceError, match=r"megnet16\.json has sha256 33f884"):
        load_adapter(card.model_copy(update={"checkpoint": other}))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("element,0,1\nH,1,2\nH,3,4\n", "element 'H' is given twice"),
        ("element,0,1\nH,1,2\nO,3\n", "rows must be of one length"),
        ("element,0\nH,x\n", "row 'H' is not numeric"),
        ("element,0\nH,nan\n", "row 'H' is no vector of finite numbers"),
        ("element,0\nNull,1\n", "at least one an element"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text: str, complaint: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(SourceError, match=complaint) as caught:
        read_table(path)
    assert "table.csv" in str(caught.value)


def test_rows_come_by_atomic_number(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"O": [1.0, 2.0], "Null": [9.0, 9.0], "H": [3.0, 4.0]}))
    assert list(read_table(path)) == ["H", "O"]
