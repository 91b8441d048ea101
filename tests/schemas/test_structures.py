# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pandera.errors
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matteratlas.schemas.errors import StructureError
from matteratlas.schemas.structures import (
    ATOMIC_NUMBERS,
    STRUCTURE_TABLE,
    SYMBOLS,
    Structure,
    check_geometry,
    structure_from_row,
    structure_to_row,
)


def make(numbers: Any, positions: Any, **more: Any) -> Structure:
    known: dict[str, Any] = {"source_id": "s1", "kind": "molecule", "stratum": "small"}
    return Structure(
        **(known | more), numbers=np.asarray(numbers), positions=np.asarray(positions, dtype=float)
    )


def crystal(positions: Any, cell: Any, numbers: Any = None, pbc: Any = (True, True, True)) -> Any:
    numbers = [11] * len(positions) if numbers is None else numbers
    return make(numbers, positions, cell=np.asarray(cell, float), pbc=pbc, kind="crystal")


# --- what a structure says of itself -------------------------------------------------------------


def test_symbols_are_the_periodic_table() -> None:
    assert len(SYMBOLS) == 119 and len(ATOMIC_NUMBERS) == 118
    assert [SYMBOLS[z] for z in (1, 6, 26, 57, 71, 92, 103, 118)] == (
        "H C Fe La Lu U Lr Og".split()
    )
    assert all(SYMBOLS[z] == s for s, z in ATOMIC_NUMBERS.items())


@pytest.mark.parametrize(
    ("numbers", "formula"),
    [
        ([8, 1, 1], "H2O"),
        ([1, 6, 1, 8, 1, 1], "CH4O"),
        ([17, 11], "ClNa"),
        ([6, 17, 17, 17, 17], "CCl4"),
        ([26, 6, 7, 1, 8], "CHFeNO"),
        ([1, 35, 7], "BrHN"),
    ],
)
def test_hill_formula(numbers: list[int], formula: str) -> None:
    structure = make(numbers, np.zeros((len(numbers), 3)))
    assert structure.formula == formula
    assert len(structure) == len(numbers) == sum(structure.composition.values())


def test_elements_periodicity_symbols() -> None:
    slab = crystal([[0, 0, 0], [2, 0, 0]], np.eye(3) * 5, numbers=[8, 3], pbc=(True, True, False))
    assert slab.elements == ("Li", "O")
    assert slab.symbols == ["O", "Li"]
    assert slab.periodicity == 2


def test_structures_are_compared_by_identity_not_by_arrays() -> None:
    a, b = (make([1, 1], [[0, 0, 0], [0, 0, 1]]) for _ in range(2))
    assert a == a and a != b
    assert a in [b, a]


# --- geometry ------------------------------------------------------------------------------------

GOOD = make([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])


@pytest.mark.parametrize(
    ("structure", "complaint"),
    [
        (make([], np.zeros((0, 3))), "has no atoms; remove it"),
        (make([1, 119], np.eye(3)[:2]), "unknown atomic number 119; use 1 to 118"),
        (make([0, 1], np.eye(3)[:2]), "unknown atomic number 0"),
        (make([-1, 1], np.eye(3)[:2]), "unknown atomic number -1"),
        (make([1, 1], np.eye(3)), r"positions of shape \(3, 3\); expected \(2, 3\)"),
        (make([1, 1], [[0, 0, 0], [0, np.nan, 1]]), "non-finite position at atom 1"),
        (make([1, 1], [[np.inf, 0, 0], [0, 0, 1]]), "non-finite position at atom 0"),
        (make([1, 1], [[0, 0, 0], [0, 0, 0.2]]), r"overlapping atoms 0 and 1 \(0\.200 Å apart\)"),
        (make([1, 1], [[0, 0, 0], [0, 0, 0]]), r"overlapping atoms 0 and 1 \(0\.000 Å apart\)"),
        (crystal([[0, 0, 0]], np.zeros((3, 3))), "its cell has no volume"),
        (crystal([[0, 0, 0]], np.diag([0.9, 0.9, 0.9])), r"0\.73 Å³ an atom, below 1"),
        (crystal([[0, 0, 0]], [[3, 0, 0], [0, 3, 0], [3, 3, 0]]), "its cell has no volume"),
        (crystal([[0, 0, 0]], np.full((3, 3), np.nan)), "its cell has no volume"),
        # across a face, an edge and a corner of the cell
        (crystal([[0.05, 2, 2], [3.95, 2, 2]], np.eye(3) * 4), r"\(0\.100 Å apart\)"),
        (crystal([[0.05, 0, 2], [3.95, 4, 2]], np.eye(3) * 4), r"\(0\.100 Å apart\)"),
        (crystal([[0, 0, 0.1], [4, 4, 4]], np.eye(3) * 4), r"\(0\.100 Å apart\)"),
        # given in far images of the cell
        (crystal([[0, 0, 0], [40.1, -80, 12]], np.eye(3) * 4), r"\(0\.100 Å apart\)"),
        # an atom and its own image
        (crystal([[0, 0, 0]], np.diag([0.2, 9, 9])), "overlapping atoms 0 and 0 "),
        # a sliver of a cell: the near image is four cells away
        (
            crystal([[0, 0, 0]], [[1, 0, 0], [4.05, 0.1, 0], [0, 0, 20]]),
            r"overlapping atoms 0 and 0 \(0\.112 Å apart\)",
        ),
    ],
)
def test_bad_geometry_is_named(structure: Structure, complaint: str) -> None:
    with pytest.raises(StructureError, match=f"^structure 's1' .*{complaint}") as caught:
        check_geometry(structure)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "structure",
    [
        GOOD,
        make([1], [[0, 0, 0]]),
        crystal([[0, 0, 0]], np.eye(3) * 2.5),
        crystal([[0, 0, 0], [2, 2, 2]], np.eye(3) * 4),
        # periodic in two directions: along the third the faces are not neighbours
        crystal([[0, 0, 0.05], [0, 0, 3.95]], np.eye(3) * 4, pbc=(True, True, False)),
        crystal([[1, 1, 500.0], [1, 1, 498.0]], np.eye(3) * 4, pbc=(True, True, False)),
    ],
)
def test_good_geometry_passes(structure: Structure) -> None:
    check_geometry(structure)


def test_least_distance_can_be_chosen() -> None:
    check_geometry(GOOD, min_distance=0.9)
    with pytest.raises(StructureError, match=r"at least 1\.0 Å is needed"):
        check_geometry(GOOD, min_distance=1.0)


def test_more_atoms_than_one_block() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(11.0)] * 3), -1).reshape(-1, 3)
    check_geometry(make([6] * 1331, grid))
    grid[1300] = grid[7] + [0.1, 0, 0]
    with pytest.raises(StructureError, match=r"overlapping atoms 7 and 1300 \(0\.100 Å"):
        check_geometry(make([6] * 1331, grid))


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(float, (3, 3), elements=st.floats(-3, 3)),
    hnp.arrays(float, (2, 3), elements=st.floats(-6, 6)),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_overlaps_equal_a_search_over_many_images(
    cell: np.ndarray, positions: np.ndarray, pbc: tuple[bool, bool, bool]
) -> None:
    assume(abs(np.linalg.det(cell)) > 2.0)  # two atoms of the least volume
    wrapped = np.linalg.solve(cell.T, positions.T).T
    wrapped -= np.floor(wrapped) * pbc
    images = [range(-12, 13) if p else (0,) for p in pbc]
    shifts = np.array(list(product(*images))) @ cell
    between = np.linalg.norm(shifts + (wrapped[1] - wrapped[0]) @ cell, axis=1).min()
    itself = np.sort(np.linalg.norm(shifts, axis=1))[1:2].min(initial=np.inf)
    nearest = min(between, itself)
    assume(abs(nearest - 0.8) > 1e-6)
    structure = crystal(positions, cell, pbc=pbc)
    if nearest > 0.8:
        check_geometry(structure, min_distance=0.8)
    else:
        with pytest.raises(StructureError, match=f"{nearest:.3f}"[:-1]):
            check_geometry(structure, min_distance=0.8)


# --- rows ----------------------------------------------------------------------------------------

finite = st.floats(-1e6, 1e6, allow_nan=False)
texts = st.none() | st.text(min_size=1, max_size=12)


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    n = draw(st.integers(1, 6))
    pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    residues = draw(st.none() | st.integers(1, 4))
    return Structure(
        id=f"ma1-{draw(st.text('abcdefghijklmnopqrstuvwxyz234567', min_size=26, max_size=26))}",
        set=draw(st.sampled_from(["g2", "ccd"])),
        source_id=draw(st.text(min_size=1, max_size=12)),
        kind=draw(st.sampled_from(["molecule", "crystal", "protein"])),
        stratum="small",
        numbers=np.array(draw(st.lists(st.integers(1, 118), min_size=n, max_size=n))),
        positions=draw(hnp.arrays(float, (n, 3), elements=finite)),
        cell=draw(hnp.arrays(float, (3, 3), elements=finite)) if any(pbc) else np.zeros((3, 3)),
        pbc=pbc,
        smiles=draw(texts),
        sequence=draw(texts),
        name=draw(texts),
        backbone=None
        if residues is None
        else draw(hnp.arrays(float, (residues, 4, 3), elements=finite)),
        charge=draw(st.integers(-9, 9)),
        multiplicity=draw(st.none() | st.integers(1, 9)),
        labels=draw(st.dictionaries(st.sampled_from(["energy", "gap"]), finite)),
    )


def same(a: Structure, b: Structure) -> None:
    for name in ("id", "set", "source_id", "kind", "stratum", "pbc", "smiles", "sequence", "name",
                 "charge", "multiplicity", "formula", "elements"):  # fmt: skip
        assert getattr(a, name) == getattr(b, name), name
    for name in ("numbers", "positions", "cell"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert (a.backbone is None) == (b.backbone is None)
    if a.backbone is not None:
        np.testing.assert_array_equal(a.backbone, b.backbone)
    assert dict(a.labels) == dict(b.labels)


@settings(max_examples=100, deadline=None)
@given(structures())
def test_row_round_trip(structure: Structure) -> None:
    same(structure_from_row(structure_to_row(structure)), structure)


@settings(max_examples=40, deadline=None)
@given(st.lists(structures(), min_size=1, max_size=4))
def test_round_trip_through_arrow_and_pandas(many: list[Structure]) -> None:
    rows = [structure_to_row(s) for s in many]
    keys = list(dict.fromkeys(k for row in rows for k in row))
    table = pa.Table.from_pylist([{k: row.get(k) for k in keys} for row in rows])
    for structure, row in zip(many, table.to_pylist(), strict=True):
        same(structure_from_row(row), structure)
    # pandas turns nulls among numbers into NaN: that is still "no value".
    for structure, row in zip(many, table.to_pandas().to_dict("records"), strict=True):
        same(structure_from_row(row), structure)


def test_array_labels_are_kept() -> None:
    forces = np.arange(6.0).reshape(2, 3)
    row = structure_to_row(make([1, 1], np.eye(3)[:2], labels={"forces": forces, "energy": -1.5}))
    back = structure_from_row(row)
    np.testing.assert_array_equal(back.labels["forces"], forces)
    assert back.labels["energy"] == -1.5


def test_row_without_coordinates_says_so() -> None:
    row = structure_to_row(replace(GOOD, smiles="O"), coordinates=False)
    assert row["numbers"] is row["positions"] is row["cell"] is row["backbone"] is None
    assert (row["formula"], row["n_atoms"], row["smiles"]) == ("H2O", 3, "O")
    with pytest.raises(StructureError, match=r"^structure 's1' has no coordinates"):
        structure_from_row(row)


def table(**changes: Any) -> pd.DataFrame:
    row = structure_to_row(replace(GOOD, id="ma1-" + "a" * 26, set="g2", labels={"energy": 1.0}))
    row |= {"description": "water", "source": "x==1", "licence": None}
    frame = pd.DataFrame([row | changes])
    return frame.astype({"multiplicity": "Int64"}) if "multiplicity" in frame else frame


def test_table_schema_takes_a_row() -> None:
    STRUCTURE_TABLE.validate(table())


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"id": "ma1-short"}, "id"),
        ({"kind": "surface"}, "kind"),
        ({"formula": "h2o"}, "formula"),
        ({"n_atoms": 0}, "n_atoms"),
        ({"periodicity": 4}, "periodicity"),
        ({"source_id": ""}, "source_id"),
        ({"stratum": "Big One"}, "stratum"),
        ({"elements": "H"}, "elements"),
        ({"multiplicity": 0}, "multiplicity"),
        ({"description": ""}, "description"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_table_schema_refuses(changes: dict[str, Any], column: str) -> None:
    # An unexpected column comes as SchemaErrors, all else as SchemaError.
    refused = (pandera.errors.SchemaError, pandera.errors.SchemaErrors)
    with pytest.raises(refused, match=column):
        STRUCTURE_TABLE.validate(table(**changes))


def test_table_schema_refuses_repeated_ids() -> None:
    twice = pd.concat([table(), table(source_id="s2")], ignore_index=True)
    with pytest.raises(pandera.errors.SchemaError, match="id"):
        STRUCTURE_TABLE.validate(twice)
