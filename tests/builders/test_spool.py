# SPDX-License-Identifier: Apache-2.0
"""Where rows wait: what is read back is what was appended."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matteratlas.builders import spool
from matteratlas.builders.spool import Rows, Spool
from matteratlas.schemas.errors import ArchiveError

REASONS = ["", "failed: a", "failed: b", "too_large: 9 atoms", "wrong_modality", "failed: ∞"]
ROW = st.tuples(
    st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26).map("ma1-{}".format),
    st.sampled_from(REASONS),
    st.one_of(st.just(float("nan")), st.floats()),
    st.integers(0, 2**40),
)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9)), st.integers(1, 5), st.data())
def test_a_spool_gives_its_rows_back(sizes: list[int], dim: int, data: st.DataObject) -> None:
    random = np.random.default_rng(len(sizes))
    blocks = [random.normal(size=(n, dim)) for n in sizes]
    whole = np.concatenate([np.empty((0, dim)), *blocks]).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        spooled = Spool(Path(folder) / "x", dim)
        for block in blocks:
            spooled.append(block)
        spooled.close()
        assert spooled.rows == len(whole)
        for rows in (slice(None), data.draw(st.slices(len(whole)).filter(_forward))):
            np.testing.assert_array_equal(spooled[rows], whole[rows])
            assert spooled[rows].dtype == np.float32


def _forward(rows: slice) -> bool:
    return rows.step in (None, 1)


@given(st.lists(ROW, max_size=30), st.data())
def test_rows_give_every_column_back(given_rows: list[tuple], data: st.DataObject) -> None:
    rows = Rows()
    for row in given_rows:
        rows.append(*row)
    assert len(rows) == len(given_rows)
    part = data.draw(st.slices(len(given_rows)).filter(_forward))
    ids, reasons, energies, sizes = ([row[i] for row in given_rows] for i in range(4))
    assert rows.column("structure_id", part).tolist() == ids[part]
    assert rows.reasons(part).tolist() == reasons[part]
    assert rows.column("row_size", part).tolist() == sizes[part]
    np.testing.assert_array_equal(rows.energy(part), np.array(energies[part], dtype=float))
    np.testing.assert_array_equal(rows.column("energy", part), rows.energy(part))
    distinct = rows.distinct_reasons()
    assert distinct == list(dict.fromkeys(reasons))
    assert [distinct[c] for c in rows.column("reason", part)] == reasons[part]
    assert rows.missing() == Counter(r.split(":")[0] for r in reasons if r)
    held = {"structure_id"}
    held |= {"reason"} if len(distinct) > 1 else set()
    held |= {"energy"} if np.isfinite(energies).any() or np.isinf(energies).any() else set()
    held |= {"row_size"} if any(sizes) else set()
    assert set(rows.columns()) == held


def test_no_rows_have_no_column_but_the_ids() -> None:
    rows = Rows()
    assert set(rows.columns()) == {"structure_id"} and rows.missing() == {}
    assert rows.column("structure_id", slice(None)).tolist() == []
    assert rows.reasons(slice(None)).tolist() == []


def test_more_reasons_than_codes_lose_their_particulars_and_no_row() -> None:
    rows = Rows()
    total = 2**16 + 100
    for i in range(total):
        rows.append(f"ma1-{i:026d}", f"failed: row {i}" if i % 2 else f"too_large: {i}", np.nan, 0)
    rows.append("ma1-" + "z" * 26, "", 1.0, 3)
    assert len(rows) == total + 1
    assert rows.missing() == {"failed": total // 2, "too_large": total // 2}
    texts = rows.reasons(slice(None))
    assert texts[1] == "failed: row 1" and texts[total - 1] == "failed"
    assert texts[total - 2] == "too_large" and texts[-1] == ""
    assert rows.column("reason", slice(None)).dtype == np.uint16


def test_reasons_are_kept_in_full_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_MOST_REASONS", 3)
    rows = Rows()
    reasons = ["", "failed: 1", "failed: 2", "failed: 3", "failed: 1", "invalid: x", "failed: 4"]
    for reason in reasons:
        rows.append("ma1-" + "a" * 26, reason, np.nan, 0)
    assert rows.reasons(slice(None)).tolist() == [
        "", "failed: 1", "failed: 2", "failed", "failed: 1", "invalid", "failed",
    ]  # fmt: skip


@pytest.mark.parametrize("bad", ["ma1-" + "a" * 27, "ma1-" + "é" * 26, "ma1-a "])
def test_an_id_that_would_not_come_back_is_refused(bad: str) -> None:
    rows = Rows()
    rows.append("ma1-" + "a" * 26, "", np.nan, 0)
    with pytest.raises(ArchiveError, match=f"structure id '{bad}'"):
        rows.append(bad, "", np.nan, 0)
    rows.append("ma1-" + "b" * 26, "", np.nan, 0)
    assert rows.column("structure_id", slice(None)).tolist() == [
        "ma1-" + "a" * 26,
        "ma1-" + "b" * 26,
    ]
