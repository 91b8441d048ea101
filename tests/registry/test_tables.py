# SPDX-License-Identifier: Apache-2.0
"""Tables: equal tables are equal bytes, written whole, and linked by what stands beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matteratlas.registry import catalog, tables
from matteratlas.registry.tables import (
    link_sets,
    read_structures_table,
    table_version,
    write_table,
)


def ids(*names: str) -> pd.DataFrame:
    return pd.DataFrame({"id": list(names)})


def test_sets_that_share_structures_are_linked_to_the_first() -> None:
    # Given out of the catalogue's order, with a set the catalogue does not know.
    given_tables = {"mine": ids("a", "d", "e"), "minerals": ids("b", "c", "d"), "g2": ids("a", "b")}
    linked = link_sets(given_tables)
    assert list(linked) == list(given_tables)
    assert linked["g2"]["linked"].tolist() == [None, None]
    assert linked["minerals"]["linked"].tolist() == ["g2", None, None]
    assert linked["mine"]["linked"].tolist() == ["g2", "minerals", None]
    assert all("linked" not in table for table in given_tables.values())


@given(
    st.dictionaries(
        st.sampled_from([*catalog.SET_ORDER[:3], "mine", "yours"]),
        st.lists(st.sampled_from("abcdefg"), unique=True),
    )
)
def test_every_structure_has_one_owner(held: dict[str, list[str]]) -> None:
    linked = link_sets({s: ids(*names) for s, names in held.items()})
    owned = [i for t in linked.values() for i in t.loc[t["linked"].isna(), "id"]]
    assert sorted(owned) == sorted({i for names in held.values() for i in names})
    for set_id, table in linked.items():
        for name, owner in zip(table["id"], table["linked"], strict=True):
            if owner is not None:
                assert owner != set_id and name in held[owner]


def test_equal_tables_are_equal_bytes_and_keep_their_version(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["a", "b"], "multiplicity": pd.array([1, None], dtype="Int64")})
    schema = pa.schema([("id", pa.string()), ("multiplicity", pa.int64())])
    for name in ("one", "two"):
        write_table(table, tmp_path / name / "t.parquet", schema=schema, version="1.2.0")
    one, two = tmp_path / "one" / "t.parquet", tmp_path / "two" / "t.parquet"
    assert one.read_bytes() == two.read_bytes()
    assert table_version(one) == "1.2.0"
    assert set(pq.read_schema(one).metadata) == {tables.VERSION_KEY.encode()}
    pd.testing.assert_frame_equal(read_structures_table(one), table, check_dtype=False)
    assert read_structures_table(one)["multiplicity"].dtype == "Int64"
    write_table(table, two, schema=schema)
    assert table_version(two) is None


def test_a_flipped_byte_of_a_page_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(pd.DataFrame({"x": np.random.default_rng(0).normal(size=5000)}), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(OSError, match="CRC checksum"):
        pq.read_table(path, page_checksum_verification=True)


def test_a_write_that_fails_leaves_the_old_table_and_no_scrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.parquet"
    write_table(ids("a"), path)
    before = path.read_bytes()

    def full(table: pa.Table, where: Path, **_: object) -> None:
        where.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables.pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write_table(ids("b"), path)
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]
    assert path.read_bytes() == before
