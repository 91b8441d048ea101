# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from matteratlas.registry.catalog import structure_set
from matteratlas.schemas.cards import StructureSetCard
from matteratlas.schemas.errors import SourceError
from matteratlas.schemas.structure_sets import (
    check_structure_table,
    label_columns,
    structure_arrow_schema,
    structure_table_schema,
)
from matteratlas.schemas.structures import STRUCTURE_TABLE, Structure, structure_to_row


@pytest.fixture
def card() -> StructureSetCard:
    """The G2 card, cut to two rows of one stratum."""
    data = structure_set("g2").model_dump()
    stratum = {**data["strata"]["organic"], "count": 2, "starter": 1}
    return StructureSetCard.model_validate({**data, "strata": {"organic": stratum}})


def row(i: int) -> dict[str, Any]:
    structure = Structure(
        source_id=f"row{i}",
        kind="molecule",
        stratum="organic",
        numbers=np.array([6, 8]),
        positions=np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.1 + i]]),
        labels={"atomization_energy": 1.0, "formation_enthalpy": -1.0},
        set="g2",
        id="ma1-" + "abcdefgh"[i] * 26,
    )
    extra = {"description": "text", "source": "s", "licence": "L"}
    return {**structure_to_row(structure), **extra}


@pytest.fixture
def table(card) -> pd.DataFrame:
    arrow = pa.Table.from_pylist([row(0), row(1)], schema=structure_arrow_schema(card))
    return arrow.to_pandas().astype({"multiplicity": "Int64"})


def test_a_good_table_passes(table, card):
    check_structure_table(table, card)
    STRUCTURE_TABLE.validate(table)


def test_schemas_name_the_same_columns_in_the_same_order(card):
    names = structure_arrow_schema(card).names
    assert names == list(structure_table_schema(card).columns)
    assert names[-2:] == label_columns(card)


def test_null_columns_keep_their_type(table, card):
    schema = structure_arrow_schema(card)
    assert table["backbone"].isna().all() and "linked" not in table
    assert schema.field("backbone").type == pa.list_(pa.float64())
    assert schema.field("licence").type == pa.string()
    assert "linked" not in schema.names


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("id", "ma1-short", "column 'id'"),
        ("stratum", "Bad stratum", "column 'stratum'"),
        ("kind", "gas", "column 'kind'"),
        ("n_atoms", 0, "column 'n_atoms'"),
        ("set", "other", "row 'row1' is of another set"),
        ("stratum", "radical", "stratum 'radical' is not on the card"),
        ("elements", ["C", "Fe"], "structure 'row1' has element Fe"),
    ],
)
def test_a_bad_value_is_an_error_by_name(table, card, column, value, message):
    table.at[1, column] = value
    with pytest.raises(SourceError, match=f"set 'g2'.*{message}"):
        check_structure_table(table, card)


def test_columns_that_are_missing_or_too_many_are_errors_by_name(table, card):
    with pytest.raises(SourceError, match="label_formation_enthalpy"):
        check_structure_table(table.drop(columns="label_formation_enthalpy"), card)
    with pytest.raises(SourceError, match="label_gap"):
        check_structure_table(table.assign(label_gap=1.0), card)


def test_a_count_that_differs_is_an_error_by_name(table, card):
    with pytest.raises(
        SourceError, match=r"stratum 'organic': found 1 structures, the card says 2"
    ):
        check_structure_table(table.iloc[:1], card)
