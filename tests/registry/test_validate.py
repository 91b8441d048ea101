# SPDX-License-Identifier: Apache-2.0
"""Every planted fault is named: the file and what is wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from matteratlas.builders.adapters.base import Embedded, Missing
from matteratlas.builders.writer import UnitWriter
from matteratlas.registry import catalog
from matteratlas.registry.files import Files
from matteratlas.registry.index import read_index, seal, write_index, write_json
from matteratlas.registry.tables import read_structures_table, table_version, write_table
from matteratlas.registry.unit import open_unit
from matteratlas.registry.validate import validate
from matteratlas.schemas.archive import ATLAS_FILE, STORE
from matteratlas.schemas.errors import ArchiveError

MODEL = "chgnet-0.3.0"
UNIT = f"{STORE}/{MODEL}/g2"
TWIN = f"parquet/{MODEL}/g2.parquet"


def test_a_fresh_atlas_is_valid(built_atlas: Path) -> None:
    heard: list[str] = []
    result = validate(built_atlas, deep=True, progress=heard.append)
    assert result.faults == [] and result.notes == [] and result.ok
    assert result.units == 8 and result.files > 80 and result.rows > 300 and result.tables == 6
    assert {f"{MODEL}/g2", "structures/g2.parquet"} <= set(heard)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x01
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def spoil(path: Path) -> None:
    path.write_text("{")


def reformat(path: Path) -> None:
    """The same content in other bytes."""
    path.write_text(json.dumps(json.loads(path.read_text()), indent=2))


LAYER = f"{UNIT}/{catalog.model(MODEL).default_layer}"
METADATA = f"{STORE}/{MODEL}/zarr.json"


@pytest.mark.parametrize(
    ("fault", "name", "says"),
    [
        (flip, f"{LAYER}/c/0/0", "sha256 differs"),
        (truncate, f"{LAYER}/c/0/0", "bytes,"),
        (Path.unlink, f"{LAYER}/c/0/0", "missing"),
        (replace_by_link, f"{LAYER}/c/0/0", "a link, not a file"),
        (flip, f"{UNIT}/structure_id/c/0", "sha256 differs"),
        (reformat, f"{LAYER}/zarr.json", "bytes,"),
        (spoil, f"{LAYER}/zarr.json", "not JSON"),
        (Path.unlink, f"{LAYER}/zarr.json", ""),
        (flip, f"{UNIT}/zarr.json", ""),
        (spoil, f"{UNIT}/zarr.json", "not JSON"),
        (Path.unlink, f"{UNIT}/zarr.json", ""),
        (flip, METADATA, "sha256 differs"),
        (reformat, METADATA, "sha256 differs"),
        (Path.unlink, METADATA, "missing"),
        (flip, TWIN, "sha256 differs"),
        (Path.unlink, TWIN, "missing"),
        (flip, "structures/g2.parquet", "sha256 differs"),
        (truncate, "structures/g2.parquet", "bytes,"),
        (Path.unlink, "structures/g2.parquet", "missing"),
        (flip, "registry/models.parquet", "sha256 differs"),
        (Path.unlink, "registry/sets.parquet", "missing"),
        (truncate, "registry/rejected.parquet", "bytes,"),
        (flip, ATLAS_FILE, ""),
        (spoil, ATLAS_FILE, "not JSON"),
        (lambda p: p.write_text("x"), f"{UNIT}/extra.bin", "foreign"),
        (lambda p: p.write_text("x"), f"{LAYER}/c/1", "foreign"),
        (lambda p: p.write_text("x"), "thesis.tex", "foreign"),
        (lambda p: p.write_text("x"), "registry/extra.parquet", "foreign"),
    ],
)
def test_damage_is_named(
    atlas_copy: Path, fault: Callable[[Path], object], name: str, says: str
) -> None:
    fault(atlas_copy / name)
    faults = validate(atlas_copy).faults
    wanted = name.removesuffix("/zarr.json")  # of a group without metadata its folder is named
    assert any(f.startswith(wanted) and says in f for f in faults), faults
    assert all("\n" not in f and str(atlas_copy) not in f for f in faults), faults


def test_one_fault_is_told_once(atlas_copy: Path) -> None:
    """A table that four models' units point at is one fault, not five."""
    flip(atlas_copy / "structures" / "g2.parquet")
    flip(atlas_copy / LAYER / "c" / "0" / "0")
    faults = validate(atlas_copy).faults
    assert sorted(f.partition(":")[0] for f in faults) == [
        f"{LAYER}/c/0/0",
        "structures/g2.parquet",
    ]


def test_swapped_shards_are_found(atlas_copy: Path) -> None:
    a = atlas_copy / LAYER / "c" / "0" / "0"
    b = Path(str(a).replace("/g2/", "/elements/"))
    one, two = a.read_bytes(), b.read_bytes()
    assert one != two
    a.write_bytes(two)
    b.write_bytes(one)
    faults = validate(atlas_copy).faults
    assert len([f for f in faults if "/c/" in f]) == 2


def test_a_renamed_model_folder_is_found(atlas_copy: Path) -> None:
    shutil.move(atlas_copy / STORE / "mat2vec", atlas_copy / STORE / "skipatom")
    faults = " | ".join(validate(atlas_copy).faults)
    assert f"{STORE}/skipatom/g2/zarr.json: holds the unit 'mat2vec/g2'; rename" in faults
    assert f"{STORE}/mat2vec/g2: listed in atlas.json but absent" in faults


def test_a_renamed_set_is_found(atlas_copy: Path) -> None:
    folder = atlas_copy / STORE / MODEL
    (folder / "g2").rename(folder / "spare")
    (folder / "elements").rename(folder / "g2")
    (folder / "spare").rename(folder / "elements")
    faults = " | ".join(validate(atlas_copy).faults)
    for own, other in (("g2", "elements"), ("elements", "g2")):
        assert f"{MODEL}/{own}/zarr.json: holds the unit '{MODEL}/{other}'" in faults


def test_a_unit_nobody_lists_is_told(atlas_copy: Path) -> None:
    index = read_index(Files(str(atlas_copy)))
    del index["models"]["mat2vec"]["units"]["g2"]
    write_json(seal(index), atlas_copy / ATLAS_FILE)
    result = validate(atlas_copy)
    said = " | ".join(result.faults + result.notes)
    assert f"{STORE}/mat2vec/g2: " in said


def edit_record(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a unit's commit record and make all that hangs on it agree, as a careless tool may."""
    path = root / UNIT / "zarr.json"
    document = json.loads(path.read_text())
    edit(document["attributes"]["matemb"])
    write_json(document, path)
    write_index(root)


@pytest.mark.parametrize("path", ["../../outside", "/etc/hostname"])
def test_a_record_that_points_outside_is_not_followed(atlas_copy: Path, path: str) -> None:
    extra = {"path": path, "bytes": 1, "sha256": "0" * 64}
    edit_record(atlas_copy, lambda record: record["files"].append(extra))
    assert any(f"{path}: leaves the atlas" in f for f in validate(atlas_copy).faults)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"embedded": 7}, "rows embedded, its record says 7"),
        ({"rows": 3}, "structure"),
        ({"structure_set": "elements"}, f"holds the unit '{MODEL}/elements'"),
        ({"format_version": "3.0"}, "newer"),
    ],
)
def test_a_record_that_lies_is_found(atlas_copy: Path, edit: dict[str, Any], says: str) -> None:
    try:
        edit_record(atlas_copy, lambda record: record.update(edit))
    except ArchiveError as error:  # the index is not even written
        assert says in str(error)
    faults = validate(atlas_copy).faults
    assert any(f.startswith(UNIT) and says in f for f in faults), faults


def rewrite(root: Path, change: Callable[[int, Embedded], Embedded]) -> int:
    """Write the unit anew, its first embedded row changed; returns that row's number."""
    unit = open_unit(Files(str(root)), MODEL, "g2")
    reasons, sizes = unit.reasons(), unit.row_size()
    first = int(np.flatnonzero(reasons == "")[0])
    ends = np.cumsum(sizes)
    with UnitWriter(
        root,
        catalog.model(MODEL),
        catalog.structure_set("g2"),
        fingerprint=unit.record.fingerprint,
        model_fingerprint=unit.record.model_fingerprint,
        build_version=unit.record.build_version,
    ) as writer:
        for i, (structure_id, reason) in enumerate(zip(unit.ids(), reasons, strict=True)):
            if reason:
                writer.append(structure_id, Missing(reason))
                continue
            nodes = {
                layer: array.read(int(ends[i] - sizes[i]), int(ends[i]))
                for layer in unit.record.layers
                if (array := unit.nodes(layer)) is not None
            }
            pooled = {layer: unit.vectors(layer).read(i, i + 1)[0] for layer in unit.record.layers}
            row = Embedded(nodes=nodes, pooled=pooled, energy=float(unit.energy(i, i + 1)[0]))
            writer.append(structure_id, change(i, row) if i == first else row)
        writer.finish()
    return first


@pytest.mark.parametrize(
    ("value", "says"), [(np.nan, "missing reason"), (0.0, "all zero"), (np.inf, "not finite")]
)
def test_deep_names_the_row_of_a_bad_value(atlas_copy: Path, value: float, says: str) -> None:
    layer = catalog.model(MODEL).default_layer

    def spoil(_: int, row: Embedded) -> Embedded:
        vector = np.full_like(row.pooled[layer], value)
        return Embedded(nodes=row.nodes, pooled={**row.pooled, layer: vector}, energy=row.energy)

    row = rewrite(atlas_copy, spoil)
    assert validate(atlas_copy).faults == []
    faults = validate(atlas_copy, deep=True).faults
    assert any(says in f and f.startswith(f"{LAYER}, row {row}:") for f in faults), faults


def test_deep_names_the_row_of_a_bad_node(atlas_copy: Path) -> None:
    layer = catalog.model(MODEL).default_layer

    def spoil(_: int, row: Embedded) -> Embedded:
        nodes = row.nodes[layer].copy()
        nodes[-1, 0] = np.nan
        return Embedded(nodes={**row.nodes, layer: nodes}, pooled=row.pooled, energy=row.energy)

    row = rewrite(atlas_copy, spoil)
    assert validate(atlas_copy).faults == []
    (fault,) = validate(atlas_copy, deep=True).faults
    assert fault.startswith(f"{LAYER}, row {row}:") and "node vector is not finite" in fault


def edit_table(root: Path, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Change the structures of g2 and list what was written."""
    path = root / "structures" / "g2.parquet"
    schema, version = pq.read_schema(path), table_version(path)
    write_table(edit(read_structures_table(path)), path, schema=schema, version=version)
    write_index(root)


def test_rows_of_unknown_structures_are_found(atlas_copy: Path) -> None:
    edit_table(atlas_copy, lambda table: table.iloc[1:])
    faults = validate(atlas_copy).faults
    assert len(faults) == 4  # one a model
    assert all("not in the structures table" in f for f in faults)


def test_rows_a_model_does_not_have_yet_are_no_fault(atlas_copy: Path) -> None:
    def grow(table: pd.DataFrame) -> pd.DataFrame:
        extra = table.iloc[[0]].assign(id="ma1-" + "z" * 26, source_id="new")
        return pd.concat([table, extra], ignore_index=True)

    edit_table(atlas_copy, grow)
    assert validate(atlas_copy, deep=True).faults == []


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("kind", "gas", "gas"),
        ("set", "elements", "names another set"),
        ("id", "ma1-short", "ma1-short"),
    ],
)
def test_a_table_that_breaks_its_schema_is_named(
    atlas_copy: Path, column: str, value: str, says: str
) -> None:
    def spoil(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[3, column] = value
        return table

    edit_table(atlas_copy, spoil)
    faults = validate(atlas_copy).faults
    assert any(
        f.startswith("structures/g2.parquet") and f"'{column}'" in f and says in f for f in faults
    ), faults


def test_no_atlas_and_newer_formats_are_refused(tmp_path: Path, atlas_copy: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no atlas\.json"):
        validate(tmp_path)
    marker = atlas_copy / ATLAS_FILE
    content = json.loads(marker.read_text())
    for version, says in (("3.0", r"3\.0 is newer .* pip install --upgrade"), ("1.0", "no longer")):
        write_json(seal({**content, "format_version": version}), marker)
        with pytest.raises(ArchiveError, match=says):
            validate(atlas_copy)
    marker.write_text("[]")
    with pytest.raises(ArchiveError, match="not a matteratlas archive"):
        validate(atlas_copy)
