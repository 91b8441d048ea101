# SPDX-License-Identifier: Apache-2.0
"""A set's own table schema: the structures table with the label columns its card declares."""

from __future__ import annotations

import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow

from .cards import StructureSetCard, elements_of
from .errors import SourceError
from .structures import LABEL_PREFIX, STRUCTURE_TABLE, _is_list_like

_LISTS: dict[str, arrow.DataType] = {
    "elements": arrow.list_(arrow.string()),
    "pbc": arrow.list_(arrow.bool_()),
    "numbers": arrow.list_(arrow.int64()),
    "positions": arrow.list_(arrow.float64()),
    "cell": arrow.list_(arrow.float64()),
    "backbone": arrow.list_(arrow.float64()),
}
_INTEGERS: frozenset[str] = frozenset({"n_atoms", "periodicity", "charge", "multiplicity"})


def label_columns(card: StructureSetCard) -> list[str]:
    """Names of the table's label columns, in the card's order."""
    return [f"{LABEL_PREFIX}{name}" for name in card.labels]


def structure_table_schema(card: StructureSetCard) -> pa.DataFrameSchema:
    """Pandera schema of one set's table: scalar labels float64, array labels flat lists."""
    labels = {
        f"{LABEL_PREFIX}{name}": (
            pa.Column("float64", nullable=True)
            if label.shape == "scalar"
            else pa.Column(object, pa.Check(_is_list_like, element_wise=False), nullable=True)
        )
        for name, label in card.labels.items()
    }
    own = {k: v for k, v in STRUCTURE_TABLE.columns.items() if not v.regex}
    return pa.DataFrameSchema({**own, **labels}, strict=True, name=f"structures of '{card.id}'")


def structure_arrow_schema(card: StructureSetCard) -> arrow.Schema:
    """Arrow schema of one set's table; the same whatever columns happen to be null."""
    fields = []
    for name, column in STRUCTURE_TABLE.columns.items():
        if column.regex:
            continue
        kind = arrow.int64() if name in _INTEGERS else _LISTS.get(name, arrow.string())
        fields.append(arrow.field(name, kind))
    for name, label in card.labels.items():
        scalar = label.shape == "scalar"
        kind = arrow.float64() if scalar else arrow.list_(arrow.float64())
        fields.append(arrow.field(f"{LABEL_PREFIX}{name}", kind))
    return arrow.schema(fields)


def check_structure_table(table: pd.DataFrame, card: StructureSetCard) -> None:
    """Hold a set's table against its schema and its card.

    Checks: column names and types, values, strata and their counts, elements, set id.

    Raises
    ------
    SourceError
        One line naming the set, the culprit (column, row, stratum or element) and the mend.
    """
    who = f"set '{card.id}'"
    schema = structure_table_schema(card)
    missing = [c for c in schema.columns if c not in table]
    if missing:
        raise SourceError(f"{who}: column '{missing[0]}' is missing; mend the loader or the card")
    foreign = [str(c) for c in table if c not in schema.columns]
    if foreign:
        raise SourceError(f"{who}: column '{foreign[0]}' is not on the card; declare or drop it")
    try:
        schema.validate(table)
    except pa.errors.SchemaError as error:
        column = getattr(error.schema, "name", None)
        cases = getattr(error, "failure_cases", None)
        case = cases.iloc[0].to_dict() if isinstance(cases, pd.DataFrame) and len(cases) else {}
        row = case.get("index")
        at = "" if row is None or pd.isna(row) else f", row {row}"
        raise SourceError(
            f"{who}: column '{column}'{at}: {str(case.get('failure_case', error))[:120]} fails "
            f"{error.check}; mend the loader or the card"
        ) from error
    known = table["set"] == card.id
    if not known.all():
        raise SourceError(
            f"{who}: row '{table.loc[~known, 'source_id'].iloc[0]}' is of another set"
        )
    allowed = elements_of(card.elements) or frozenset()
    for source_id, elements in zip(table["source_id"], table["elements"], strict=True):
        outside = [e for e in elements if e not in allowed]
        if outside:
            raise SourceError(
                f"{who}: structure '{source_id}' has element {outside[0]}, which the card's "
                "'elements' leaves out; add it there"
            )
    counts = table["stratum"].value_counts()
    unknown = sorted(set(counts.index) - set(card.strata))
    if unknown:
        raise SourceError(f"{who}: stratum '{unknown[0]}' is not on the card; add it there")
    for name, stratum in card.strata.items():
        found = int(counts.get(name, 0))
        if found != stratum.count:
            raise SourceError(
                f"{who}, stratum '{name}': found {found} structures, the card says "
                f"{stratum.count}; check the source's version, the loader or the card"
            )
