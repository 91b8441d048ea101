# SPDX-License-Identifier: Apache-2.0
"""One unit: what was appended comes back, whatever of it is missing."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matteratlas.builders.adapters.base import Embedded, Missing
from matteratlas.builders.writer import UnitWriter
from matteratlas.registry import catalog
from matteratlas.registry.files import Files
from matteratlas.registry.index import write_index
from matteratlas.registry.unit import Nothing, open_unit, open_units
from matteratlas.schemas.archive import STORE
from matteratlas.schemas.cards import ModelCard
from matteratlas.schemas.errors import ArchiveError

GROUP = f"{STORE}/two/elements"
DIMS = {"last": 4, "first": 2}


def model_card() -> ModelCard:
    """A model of two layers with atoms and an energy."""
    content = catalog.model("chgnet-0.3.0").model_dump(mode="json")
    layers = [{**content["layers"][0], "name": n, "dim": d} for n, d in DIMS.items()]
    return ModelCard.model_validate(
        {**content, "id": "two", "layers": layers, "default_layer": "last"}
    )


def identify(i: int) -> str:
    return "ma1-" + "abcdefghijklmnop"[i] * 26


def answers(reasons: list[str]) -> list[Embedded | Missing]:
    """An answer a reason; embedded ones have i + 1 atoms."""
    random = np.random.default_rng(0)
    out: list[Embedded | Missing] = []
    for i, reason in enumerate(reasons):
        nodes = {n: random.normal(size=(i + 1, d)).astype(np.float32) for n, d in DIMS.items()}
        pooled = {n: v.mean(axis=0) for n, v in nodes.items()}
        row = Embedded(nodes=nodes, pooled=pooled, energy=None if i == 1 else float(i))
        out.append(Missing(reason) if reason else row)
    return out


def write(root: Path, reasons: list[str], *, keep_nodes: bool = True) -> list[Embedded | Missing]:
    rows = answers(reasons)
    with UnitWriter(
        root,
        model_card(),
        catalog.structure_set("elements"),
        fingerprint="f",
        model_fingerprint="m",
        build_version="0",
        keep_nodes=keep_nodes,
    ) as writer:
        for i, row in enumerate(rows):
            writer.append(identify(i), row)
        writer.finish()
    return rows


PATTERNS = {
    "all embedded": ["", "", "", ""],
    "partly missing": ["", "", "failed: a", "", "too_large: 9 atoms", "failed: a"],
    "all missing for one reason": ["wrong_modality"] * 3,
    "all missing for several": ["wrong_modality", "failed: x", "failed: y"],
    "first row missing": ["failed: x", "", ""],
    "no rows": [],
}


@pytest.mark.parametrize("keep_nodes", [True, False], ids=["nodes", "pooled"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_was_appended_comes_back(tmp_path: Path, pattern: str, keep_nodes: bool) -> None:
    reasons = PATTERNS[pattern]
    rows = write(tmp_path, reasons, keep_nodes=keep_nodes)
    unit = open_unit(Files(str(tmp_path)), "two", "elements")
    n = len(rows)
    assert len(unit) == n == unit.record.rows
    assert unit.record.embedded == reasons.count("")
    assert unit.ids().tolist() == [identify(i) for i in range(n)]
    assert unit.reasons().tolist() == reasons
    sizes = [len(r.nodes["last"]) if isinstance(r, Embedded) and keep_nodes else 0 for r in rows]
    assert unit.row_size().tolist() == sizes and unit.row_size().dtype == np.int64
    energies = [r.energy if isinstance(r, Embedded) else None for r in rows]
    np.testing.assert_array_equal(
        unit.energy(), np.array([np.nan if e is None else e for e in energies], dtype=float)
    )
    for layer, dim in DIMS.items():
        empty = np.full(dim, np.nan, np.float32)
        wanted = [r.pooled[layer] if isinstance(r, Embedded) else empty for r in rows]
        vectors = unit.vectors(layer)
        assert vectors.shape == (n, dim) and vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors.read(), np.array(wanted).reshape(n, dim))
        assert isinstance(vectors, Nothing) == ("" not in reasons)
        nodes = unit.nodes(layer)
        if not keep_nodes or "" not in reasons:
            assert nodes is None
            continue
        kept = [r.nodes[layer] for r in rows if isinstance(r, Embedded)]
        assert nodes is not None
        np.testing.assert_array_equal(nodes.read(), np.concatenate(kept))
        assert unit.matemb(layer)["layer"] == layer and unit.matemb(layer)["dim"] == dim
    if "" not in reasons:
        assert unit.matemb("last") == {}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_columns_by_range_are_slices_of_the_whole(tmp_path: Path, pattern: str) -> None:
    write(tmp_path, PATTERNS[pattern])
    unit = open_unit(Files(str(tmp_path)), "two", "elements")
    n = len(unit)
    for column in (unit.ids, unit.reasons, unit.energy, unit.row_size):
        whole: np.ndarray = column()
        for start in range(n + 1):
            for stop in [*range(start, n + 1), None]:
                part = column(start, stop)
                assert part.dtype == whole.dtype
                np.testing.assert_array_equal(part, whole[start:stop])


def test_nothing_is_nan_everywhere() -> None:
    nothing = Nothing((5, 3))
    for part, shape in (
        (nothing.read(), (5, 3)),
        (nothing.read(2), (3, 3)),
        (nothing.read(1, 99), (4, 3)),
        (nothing.read(4, 4), (0, 3)),
        (nothing.take(np.array([4, 0, 0])), (3, 3)),
        (nothing[1:3], (2, 3)),
        (nothing[[0, 4], :2], (2, 2)),
    ):
        assert part.shape == shape and part.dtype == np.float32 and np.isnan(part).all()
    assert pickle.loads(pickle.dumps(nothing)).shape == (5, 3)
    assert nothing.chunk_rows >= 1 and nothing.shard_rows >= nothing.chunk_rows


def test_consolidated_metadata_give_the_same_units(tmp_path: Path) -> None:
    write(tmp_path, PATTERNS["partly missing"])
    write_index(tmp_path)
    files = Files(str(tmp_path))
    one, two = open_unit(files, "two", "elements"), open_units(files, "two")["elements"]
    assert one.record == two.record and set(one.arrays) == set(two.arrays)
    for name in one.arrays:
        assert one.arrays[name].attributes == two.arrays[name].attributes
        wanted = one.arrays[name].read()
        np.testing.assert_array_equal(two.arrays[name].read(), wanted)


def document(root: Path, name: str = "") -> tuple[Path, dict[str, Any]]:
    path = root / GROUP / name / "zarr.json"
    return path, json.loads(path.read_text())


def without_record(content: dict[str, Any]) -> None:
    del content["attributes"]["matemb"]


def without_rows(content: dict[str, Any]) -> None:
    del content["attributes"]["matemb"]["rows"]


def with_more(content: dict[str, Any]) -> None:
    content["attributes"]["matemb"]["mood"] = "good"


def of_major(version: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["attributes"]["matemb"]["format_version"] = version

    return change


def renamed(content: dict[str, Any]) -> None:
    content["attributes"]["matemb"]["model"] = "three"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_record, "no readable commit record"),
        (without_rows, "no readable commit record.*rows"),
        (with_more, "no readable commit record.*mood"),
        (of_major("3.0"), r"3\.0 is newer .* pip install --upgrade"),
        (of_major("1.0"), r"1\.0 was never released"),
        (of_major("two"), "'two' is not a number"),
        (renamed, "holds the unit 'three/elements'; rename its folder back"),
    ],
)
def test_a_record_that_is_none_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    write(tmp_path, ["", "failed: x"])
    path, content = document(tmp_path)
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ArchiveError, match=says) as caught:
        open_unit(Files(str(tmp_path)), "two", "elements")
    assert f"{GROUP}/zarr.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "array", ["structure_id", "reason", "energy", "row_size", "last", "first.nodes"]
)
def test_an_array_that_is_gone_is_no_missing_value(tmp_path: Path, array: str) -> None:
    write(tmp_path, ["", "failed: x", ""])
    shutil.rmtree(tmp_path / GROUP / array)
    with pytest.raises(ArchiveError, match=rf"elements/zarr\.json: no array '{array}'"):
        open_unit(Files(str(tmp_path)), "two", "elements")


def test_an_array_that_nobody_wrote_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ["", "failed: x", ""])
    shutil.copytree(tmp_path / GROUP / "energy", tmp_path / GROUP / "mood")
    with pytest.raises(ArchiveError, match="a foreign array 'mood'"):
        open_unit(Files(str(tmp_path)), "two", "elements")


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_metadata_that_are_no_object_are_named(tmp_path: Path, text: str) -> None:
    write(tmp_path, ["", ""])
    write_index(tmp_path)
    files = Files(str(tmp_path))
    path, _ = document(tmp_path, "last")
    path.write_text(text)
    with pytest.raises(ArchiveError, match=rf"{GROUP}/last/zarr\.json: not JSON"):
        open_unit(files, "two", "elements")
    (tmp_path / STORE / "two" / "zarr.json").write_text(text)
    with pytest.raises(ArchiveError, match=rf"{STORE}/two/zarr\.json: not JSON"):
        open_units(files, "two")


def test_metadata_of_a_model_are_held_against_the_index(tmp_path: Path) -> None:
    write(tmp_path, ["", ""])
    write_index(tmp_path)
    files = Files(str(tmp_path))
    with pytest.raises(ArchiveError, match=rf"{STORE}/two/zarr\.json: sha256 differs"):
        open_units(files, "two", sha256="0" * 64)
    path = tmp_path / STORE / "two" / "zarr.json"
    content = json.loads(path.read_text())
    del content["consolidated_metadata"]
    path.write_text(json.dumps(content))
    with pytest.raises(ArchiveError, match="no consolidated metadata"):
        open_units(files, "two")


def test_a_unit_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"missing; .*build"):
        open_unit(Files(str(tmp_path)), "two", "elements")
