# SPDX-License-Identifier: Apache-2.0
"""Every planted fault is named: the file and what is wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

from matteratlas.registry.hub import sha256_of
from matteratlas.registry.tables import write_table
from matteratlas.registry.validate import validate
from matteratlas.schemas.archive import STORE
from matteratlas.schemas.errors import ArchiveError

UNIT = f"{STORE}/chgnet-0.3.0/g2"
RECORD = "units/chgnet-0.3.0/g2.json"


def test_a_fresh_atlas_is_valid(built_atlas: Path) -> None:
    result = validate(built_atlas, deep=True)
    assert result.faults == []
    assert result.units == 8 and result.files > 40 and result.rows > 300 and result.tables >= 5


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x01
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def some_shard(root: Path) -> Path:
    return sorted(p for p in (root / UNIT).rglob("c/*") if p.is_file())[0]


@pytest.mark.parametrize(
    ("fault", "target", "says"),
    [
        (flip, some_shard, "sha256 differs"),
        (truncate, some_shard, "bytes,"),
        (Path.unlink, some_shard, "missing"),
        (flip, lambda r: r / UNIT / "zarr.json", "sha256 differs"),
        (flip, lambda r: r / "parquet/chgnet-0.3.0/g2.parquet", "sha256 differs"),
        (Path.unlink, lambda r: r / "parquet/chgnet-0.3.0/g2.parquet", "missing"),
        (lambda p: p.write_text("{"), lambda r: r / RECORD, "damaged"),
        (Path.unlink, lambda r: r / RECORD, "incomplete"),
        (truncate, lambda r: r / "structures/g2.parquet", "unreadable"),
        (Path.unlink, lambda r: r / "structures/g2.parquet", "no structures table"),
        (truncate, lambda r: r / "registry/units.parquet", "unreadable"),
        (Path.unlink, lambda r: r / "registry/models.parquet", "missing"),
        (lambda p: p.write_text("x"), lambda r: r / UNIT / "extra.bin", "foreign"),
    ],
)
def test_damage_is_named(
    atlas_copy: Path,
    fault: Callable[[Path], object],
    target: Callable[[Path], Path],
    says: str,
) -> None:
    path = target(atlas_copy)
    fault(path)
    faults = validate(atlas_copy).faults
    name = path.relative_to(atlas_copy).as_posix()
    if says == "no structures table":
        name = UNIT
    assert any(name in f and says in f for f in faults), faults


def test_swapped_shards_are_found(atlas_copy: Path) -> None:
    a = some_shard(atlas_copy)
    b = Path(str(a).replace("/g2/", "/elements/"))
    one, two = a.read_bytes(), b.read_bytes()
    assert one != two
    a.write_bytes(two)
    b.write_bytes(one)
    faults = validate(atlas_copy).faults
    assert len([f for f in faults if "/c/" in f]) >= 2


def test_a_renamed_model_folder_is_found(atlas_copy: Path) -> None:
    shutil.move(atlas_copy / STORE / "mat2vec", atlas_copy / STORE / "skipatom")
    faults = " ".join(validate(atlas_copy).faults)
    assert "skipatom/g2: no units/skipatom/g2.json" in faults
    assert "units/mat2vec/g2.json: its unit is missing" in faults


def test_a_record_that_points_outside_is_not_followed(atlas_copy: Path) -> None:
    path = atlas_copy / RECORD
    record = json.loads(path.read_text())
    record["files"][0]["path"] = "../../etc/hostname"
    path.write_text(json.dumps(record))
    assert any("leaves the atlas" in f for f in validate(atlas_copy).faults)


def rehash(root: Path) -> None:
    """Make the record agree with the files again, as a careless tool would."""
    path = root / RECORD
    record = json.loads(path.read_text())
    for file in record["files"]:
        target = root / file["path"]
        file["bytes"], file["sha256"] = target.stat().st_size, sha256_of(target)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("value", "says"), [(np.nan, "missing reason"), (0.0, "all zero"), (np.inf, "not finite")]
)
def test_deep_names_the_row_of_a_bad_value(atlas_copy: Path, value: float, says: str) -> None:
    unit = zarr.open_group(atlas_copy / UNIT, mode="r+")
    layer = next(name for name, _ in unit.groups())
    row = int(np.flatnonzero(np.asarray(unit["reason"][:]) == "")[0])
    block = np.asarray(unit[layer]["embedding"][:])
    block[row] = value
    unit[layer]["embedding"][:] = block
    rehash(atlas_copy)
    assert validate(atlas_copy).faults == []
    faults = validate(atlas_copy, deep=True).faults
    assert any(says in f and UNIT in f and f"row {row}" in f for f in faults), faults


def test_rows_of_unknown_structures_are_found(atlas_copy: Path) -> None:
    path = atlas_copy / "structures/g2.parquet"
    write_table(pd.read_parquet(path).iloc[1:], path)
    assert any("not in the structures table" in f for f in validate(atlas_copy).faults)


def test_a_table_that_breaks_its_schema_is_named(atlas_copy: Path) -> None:
    path = atlas_copy / "structures/g2.parquet"
    table = pd.read_parquet(path)
    table.loc[3, "kind"] = "gas"
    write_table(table, path)
    faults = validate(atlas_copy).faults
    assert any("structures/g2.parquet" in f and "'kind'" in f and "gas" in f for f in faults)


def test_no_atlas_and_newer_formats_are_refused(tmp_path: Path, atlas_copy: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no atlas\.json"):
        validate(tmp_path)
    marker = atlas_copy / "atlas.json"
    content = json.loads(marker.read_text())
    marker.write_text(json.dumps({**content, "format_version": "2.0"}))
    with pytest.raises(ArchiveError, match=r"2\.0 is newer .* pip install --upgrade"):
        validate(atlas_copy)
    marker.write_text("[]")
    with pytest.raises(ArchiveError, match="damaged"):
        validate(atlas_copy)
