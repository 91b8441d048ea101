# SPDX-License-Identifier: Apache-2.0
"""Diffs in data terms: every kind of change is found, counted, named and judged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_atlas import (
    identify,
    model_cards,
    registry,
    score,
    set_cards,
    write_scores,
    write_small,
)

from matteratlas.builders.adapters.base import Embedded, Missing
from matteratlas.registry import compare
from matteratlas.registry.compare import rows_equal
from matteratlas.registry.diff import diff
from matteratlas.registry.index import write_index
from matteratlas.schemas.archive import STORE
from matteratlas.schemas.errors import ArchiveError


@pytest.fixture(autouse=True)
def cards() -> Iterator[None]:
    with registry():
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with registry():
        return write_small(tmp_path_factory.mktemp("base") / "atlas")


def test_an_atlas_does_not_differ_from_itself_or_its_copy(base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    for new in (base, copy, write_small(tmp_path / "again")):
        found = diff(base, new)
        assert (found.step, found.why) == ("none", ["the same files"])
        assert found.sets == found.units == found.scores == found.cards == {}
        assert found.lagging == [] and set(found.files.values()) == {0}


def test_growth_of_a_set_is_an_addition_and_names_who_lags(base: Path, tmp_path: Path) -> None:
    new = write_small(
        tmp_path / "new",
        rows={"ores": range(12), "salts": range(4)},
        units=[("plain", "ores"), ("plain", "salts"), ("graph", "salts")],
    )
    shutil.copytree(base / STORE / "graph/ores", new / STORE / "graph/ores")
    shutil.copy(base / "parquet/graph/ores.parquet", new / "parquet/graph/ores.parquet")
    write_index(new)
    found = diff(base, new)
    assert found.step == "minor"
    assert "set ores: 5 rows added" in found.why and "unit plain/ores: 5 rows added" in found.why
    assert (found.sets["ores"].added, found.sets["ores"].changed) == (5, 0)
    assert list(found.units) == ["plain/ores"] and found.units["plain/ores"].added == 5
    assert found.lagging == [{"model": "graph", "set": "ores", "rows": 7, "structures": 12}]
    assert "graph lags behind on ores: 7 of 12 structures" in found.text()


def test_shrinking_is_loss(base: Path, tmp_path: Path) -> None:
    new = write_small(tmp_path / "new", rows={"ores": range(5), "salts": range(4)})
    found = diff(base, new)
    assert found.step == "major"
    assert found.sets["ores"].removed == found.units["graph/ores"].removed == 2
    gone = [identify("ores", 5), identify("ores", 6)]
    assert found.units["plain/ores"].examples == gone and gone[0] in found.text()


def test_models_sets_and_units_come_and_go(base: Path, tmp_path: Path) -> None:
    part = write_small(tmp_path / "part", rows={"ores": range(7)}, units=[("plain", "ores")])
    more, less = diff(part, base), diff(base, part)
    assert (more.step, less.step) == ("minor", "major")
    assert more.sets_added == {"salts": 4} == less.sets_removed
    assert more.models_added == {"graph": 11} and less.models_removed == ["graph"]
    assert more.units_added == {"plain/salts": 4} and less.units_removed == ["plain/salts"]
    assert more.files["added"] == less.files["removed"] > 0 == more.files["removed"]
    assert {"set salts added (4 structures)", "model graph added (11 rows embedded)"} <= {*more.why}
    assert less.why[:3] == [
        "set salts went away", "model graph went away", "unit plain/salts went away",
    ]  # fmt: skip


def test_a_changed_vector_is_found_by_row_layer_and_size(base: Path, tmp_path: Path) -> None:
    def edit(model: str, set_id: str, i: int, row: Embedded) -> Embedded:
        if (model, set_id, i) == ("graph", "ores", 2):
            row.pooled["last"] = -row.pooled["last"]
        if (model, set_id, i) == ("graph", "ores", 5):
            row.pooled["first"][1] += 0.25
        return row

    found = diff(base, write_small(tmp_path / "new", edit=edit))
    change = found.units["graph/ores"]
    assert found.step == "major" and list(found.units) == ["graph/ores"]
    assert (change.changed, change.columns) == (2, {"first": 1, "last": 1})
    assert change.examples == [identify("ores", 2), identify("ores", 5)]
    assert change.largest is not None and change.largest >= 0.25
    assert "2 rows changed (first: 1, last: 1, by" in found.why[0]


@pytest.mark.parametrize(("i", "node"), [(0, 0), (2, 1), (6, 0)])
def test_a_changed_node_vector_is_found(base: Path, tmp_path: Path, i: int, node: int) -> None:
    def edit(model: str, set_id: str, j: int, row: Embedded) -> Embedded:
        if (model, set_id, j) == ("graph", "ores", i):
            row.nodes["last"][node, 3] += 0.5
        return row

    # One node a run, then all at once: cuts must not move the blame.
    for budget in (1, compare.BLOCK_BYTES):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compare, "BLOCK_BYTES", budget)
            root = tmp_path / str(budget)
            found = diff(base, write_small(root, edit=edit))
        change = found.units["graph/ores"]
        assert (change.changed, change.columns) == (1, {"last.nodes": 1})
        assert change.examples == [identify("ores", i)]
        assert change.largest == pytest.approx(0.5, rel=1e-5)
        assert found.step == "major"


def test_energies_reasons_and_what_is_missing(base: Path, tmp_path: Path) -> None:
    def missing(model: str, set_id: str, i: int, row: Embedded) -> Embedded | Missing:
        return Missing("too_large: 9") if (model, set_id, i) == ("graph", "ores", 3) else row

    def other(model: str, set_id: str, i: int, row: Embedded) -> Embedded | Missing:
        return Missing("failed: x") if (model, set_id, i) == ("graph", "ores", 3) else row

    def warmer(model: str, set_id: str, i: int, row: Embedded) -> Embedded:
        if (model, set_id, i) == ("graph", "salts", 1):
            row = Embedded(pooled=row.pooled, nodes=row.nodes, energy=7.0)
        return row

    a, b = write_small(tmp_path / "a", edit=missing), write_small(tmp_path / "b", edit=other)
    now = diff(a, base)
    assert (now.step, now.units["graph/ores"].now_embedded) == ("minor", 1)
    assert now.units["graph/ores"].changed == 0
    lost = diff(base, a)
    assert (lost.step, lost.units["graph/ores"].now_missing) == ("major", 1)
    assert lost.units["graph/ores"].examples == [identify("ores", 3)]
    said = diff(a, b)
    assert (said.step, said.units["graph/ores"].columns) == ("major", {"missing_reason": 1})
    warm = diff(base, write_small(tmp_path / "c", edit=warmer))
    assert (warm.step, warm.units["graph/salts"].columns) == ("major", {"energy": 1})


def test_a_unit_in_which_nothing_is_embedded(base: Path, tmp_path: Path) -> None:
    def nothing(model: str, set_id: str, i: int, row: Embedded) -> Embedded | Missing:
        return Missing("wrong_modality") if (model, set_id) == ("graph", "salts") else row

    empty = write_small(tmp_path / "empty", edit=nothing)
    up, down = diff(empty, base), diff(base, empty)
    assert (up.step, up.units["graph/salts"].now_embedded) == ("minor", 4)
    assert (down.step, down.units["graph/salts"].now_missing) == ("major", 4)
    assert not up.units["graph/salts"].columns_removed
    assert not up.units["graph/salts"].columns_added


def test_layers_nodes_and_default_layer(base: Path, tmp_path: Path) -> None:
    bare = write_small(tmp_path / "bare", keep_nodes=False)
    gone = diff(base, bare)
    assert gone.step == "major"
    assert gone.units["graph/ores"].columns_removed == ["first.nodes", "last.nodes"]
    assert diff(bare, base).step == "minor"
    layers = model_cards()["graph"].model_dump(mode="json")["layers"]
    with registry(model_cards(graph={"default_layer": "first"})):
        turned = diff(base, write_small(tmp_path / "turned"))
    assert turned.step == "major" and turned.default_layers == {"graph": ("last", "first")}
    assert turned.units == {} and turned.cards == {"model graph": ["default_layer"]}
    wider = [layers[0], {**layers[1], "dim": 6}]
    with registry(model_cards(graph={"layers": wider})):
        wide = diff(base, write_small(tmp_path / "wide"))
    assert wide.step == "major"
    assert wide.units["graph/ores"].columns_retyped == ["last", "last.nodes"]


def test_other_precision_of_other_values_is_a_change_and_repacking_is_not(
    base: Path, tmp_path: Path
) -> None:
    half = diff(base, write_small(tmp_path / "half", precision="float16"))
    assert half.step == "major" and half.units["plain/ores"].changed == 7
    assert half.units["plain/ores"].largest is not None
    assert 0 < half.units["plain/ores"].largest < 2e-3
    packed = Path(shutil.copytree(base, tmp_path / "packed"))
    path = packed / "structures/ores.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path, compression="none", row_group_size=2)
    write_index(packed)
    found = diff(base, packed)
    assert (found.step, found.sets) == ("patch", {})
    assert found.why == ["files: 0 added, 1 replaced, 0 removed"]


def test_rows_in_another_order_are_the_same_rows(base: Path, tmp_path: Path) -> None:
    order = {"ores": [6, 0, 5, 1, 4, 2, 3], "salts": [0, 1, 2, 3]}
    turned = write_small(tmp_path / "turned", rows=order)
    found = diff(base, turned)
    assert (found.step, found.units, found.sets) == ("patch", {}, {})

    def edit(model: str, set_id: str, i: int, row: Embedded) -> Embedded:
        if (model, set_id, i) == ("graph", "ores", 4):
            row.nodes["first"][1] += 1.0
        return row

    changed = diff(turned, write_small(tmp_path / "changed", edit=edit))
    assert changed.units["graph/ores"].examples == [identify("ores", 4)]
    assert changed.units["graph/ores"].columns == {"first.nodes": 1}


def test_structures_change_by_column(base: Path, tmp_path: Path) -> None:
    def tables(table: pd.DataFrame) -> pd.DataFrame:
        if table["set"].iloc[0] == "ores":
            table.loc[1, "formula"] = "Fe9"
            table.at[2, "positions"] = [*table.at[2, "positions"][:-1], 99.0]
            table.loc[2, "formula"] = "Fe8"
            table.at[3, "elements"] = ["Fe", "O"]
            table["label_density"] = 1.0
        return table

    found = diff(base, write_small(tmp_path / "new", tables=tables))
    change = found.sets["ores"]
    assert found.step == "major" and change.changed == 3
    retyped = {"name", "multiplicity", "smiles", "sequence", "backbone", "licence"}
    assert change.columns == {"formula": 2, "elements": 1, "positions": 1}
    assert change.columns_added == ["label_density"] and set(change.columns_retyped) <= retyped
    assert change.examples == [identify("ores", i) for i in (1, 2, 3)]
    back = diff(tmp_path / "new", base)
    assert back.sets["ores"].columns_removed == ["label_density"]


def test_cards_change_by_field_and_make_a_patch(base: Path, tmp_path: Path) -> None:
    models = model_cards(plain={"notes": "more", "authors": ["A. Person"]})
    sets = set_cards(salts={"citation": "elsewhere"})
    with registry(models, sets):
        found = diff(base, write_small(tmp_path / "new"))
    assert found.step == "patch"
    assert found.cards == {"model plain": ["authors", "notes"], "set salts": ["citation"]}
    assert "model plain: card changed in authors, notes" in found.why
    with registry(sets=set_cards(ores={"version": "1.1.0"})):
        newer = diff(base, write_small(tmp_path / "newer"))
    assert newer.set_versions == {"ores": ("1.0.0", "1.1.0")}
    assert newer.step == "patch" and "set ores: version 1.0.0 became 1.1.0" in newer.why


@pytest.mark.parametrize(
    ("changes", "step", "counts"),
    [
        ({}, "none", {}),
        ({"release": "9.9.9"}, "none", {}),
        ({"value": 0.5 + 1e-9}, "minor", {"changed": 1, "moved": 0}),
        ({"q_value": 0.9}, "minor", {"changed": 1, "moved": 0}),
        ({"value": 0.7}, "major", {"changed": 1, "moved": 1, "overruled": 1}),
        ({"value": None}, "major", {"changed": 1, "moved": 1, "overruled": 1}),
        ({"value": 0.7, "n": 8}, "minor", {"changed": 1, "moved": 1, "overruled": 0}),
        ({"value": 0.7, "metric_version": "2"}, "minor", {"moved": 1, "overruled": 0}),
        ({"k": 4}, "major", {"added": 1, "removed": 1, "withdrawn": 1}),
    ],
)
def test_scores_are_joined_on_their_keys(
    base: Path, tmp_path: Path, changes: dict[str, Any], step: str, counts: dict[str, int]
) -> None:
    a, b = (Path(shutil.copytree(base, tmp_path / n)) for n in "ab")
    still = [score(metric="linear_cka", k=None)]
    write_scores(a, [score(), *still])
    write_scores(b, [score(**changes), *still])
    found = diff(a, b)
    change = found.scores.get("scores/pairs.parquet")
    assert {k: getattr(change, k) for k in counts} == counts
    assert found.step == step and set(found.scores) <= {"scores/pairs.parquet"}
    if counts.get("moved") and changes["value"] is not None:
        assert change is not None
        (largest,) = change.largest
        assert (largest["old"], largest["new"]) == (0.5, 0.7)
        assert largest["same_inputs"] == bool(counts.get("overruled"))
        assert "0.5 -> 0.7" in found.text() and "metric=mutual_knn k=3:" in found.text()


def test_scores_of_selections_that_are_no_longer_what_they_were(base: Path, tmp_path: Path) -> None:
    a, b = (Path(shutil.copytree(base, tmp_path / n)) for n in "ab")
    rows = [score(), score(selection="other", selection_sha256="b" * 64)]
    write_scores(a, rows, other="b" * 64)
    for hashes in ({"other": "c" * 64}, {}):
        write_scores(b, rows[:1], **hashes)
        found = diff(a, b)
        change = found.scores["scores/pairs.parquet"]
        assert (change.removed, change.withdrawn, found.step) == (1, 0, "minor")
    write_scores(b, rows[:1], other="b" * 64)
    found = diff(a, b)
    assert found.scores["scores/pairs.parquet"].withdrawn == 1 and found.step == "major"


def test_score_tables_come_and_go(base: Path, tmp_path: Path) -> None:
    scored = Path(shutil.copytree(base, tmp_path / "scored"))
    write_scores(scored, [score()])
    more, less = diff(base, scored), diff(scored, base)
    names = ["scores/pairs.parquet", "scores/selections.parquet"]
    assert (more.step, more.scores_added) == ("minor", names)
    assert (less.step, less.scores_removed) == ("major", names)


def test_a_diff_is_data_for_machines(base: Path, tmp_path: Path) -> None:
    new = write_small(tmp_path / "new", rows={"ores": range(9), "salts": range(4)})
    found = json.loads(json.dumps(diff(base, new).summary()))
    assert found["step"] == "minor" and found["units"]["graph/ores"]["added"] == 2
    assert found["old_version"] == "unreleased" and found["format_versions"][0] == "2.0"


def test_equal_units_are_not_read_and_damage_is_named(base: Path, tmp_path: Path) -> None:
    new = write_small(tmp_path / "new", rows={"ores": range(9), "salts": range(4)})
    shutil.rmtree(new / STORE / "plain/salts/last/c")  # content digests agree: nobody looks
    assert diff(base, new).step == "minor"
    path = new / STORE / "plain/ores/last/c/0/0"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ArchiveError, match=r"plain/ores/last/c/0/0"):
        diff(base, new)
    (new / "structures/ores.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArchiveError, match=r"structures/ores\.parquet: unreadable"):
        diff(base, new)
    with pytest.raises(ArchiveError, match=r"no atlas\.json"):
        diff(base, tmp_path)


VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.float64(): st.floats(),
    pa.int64(): st.integers(-5, 5),
    pa.string(): st.text(max_size=2),
    pa.list_(pa.float32()): st.lists(st.floats(width=32), max_size=2),
    pa.list_(pa.float32(), 2): st.lists(st.floats(width=32), min_size=2, max_size=2),
    pa.list_(pa.list_(pa.int64())): st.lists(st.none() | st.lists(st.integers(0, 2)), max_size=2),
    pa.struct([("a", pa.int64())]): st.fixed_dictionaries({"a": st.none() | st.integers(0, 2)}),
}


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(list(VALUES)))
def test_rows_are_equal_exactly_where_their_values_are(
    data: st.DataObject, kind: pa.DataType
) -> None:
    values = st.none() | VALUES[kind]
    a = data.draw(st.lists(values, max_size=8))
    b = [data.draw(st.one_of(st.just(v), values)) for v in a]
    x, y = pa.array(a, kind), pa.array(b, kind)
    expected = [repr(p) == repr(q) for p, q in zip(x.to_pylist(), y.to_pylist(), strict=True)]
    assert rows_equal(x, y).tolist() == expected
    assert rows_equal(pa.chunked_array([x[:3], x[3:]]), y).tolist() == expected
    assert rows_equal(x[2:], y[2:]).tolist() == expected[2:]
