# SPDX-License-Identifier: Apache-2.0
"""Manifests, indexes and records whose seals are right and whose content is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_atlas as made

from matteratlas.builders.build import open_root
from matteratlas.builders.locking import root_lock
from matteratlas.builders.release import release
from matteratlas.registry.archive import open_atlas
from matteratlas.registry.commit import settle
from matteratlas.registry.files import Files
from matteratlas.registry.index import canonical, read_index, seal
from matteratlas.registry.manifest import _sealed, check_manifest, read_manifest
from matteratlas.registry.validate import validate
from matteratlas.schemas.errors import ArchiveError, AtlasError


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An atlas and its release, in one folder."""
    folder = tmp_path_factory.mktemp("sound")
    with made.registry():
        made.write_small(folder / "atlas")
        release(folder / "atlas", out=folder / "releases")
        yield folder


@pytest.fixture
def released(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base / "releases/1.0.0", tmp_path / "release"))


@pytest.fixture
def atlas(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base / "atlas", tmp_path / "atlas"))


def line(error: pytest.ExceptionInfo[AtlasError]) -> str:
    said = str(error.value)
    assert said.isprintable()
    return said


def forge_manifest(
    root: Path, change: Callable[[list[dict[str, Any]], dict[str, Any]], Any]
) -> None:
    file = pq.ParquetFile(root / "manifest.parquet")
    rows, about = file.read().to_pylist(), json.loads(file.metadata.metadata[b"matteratlas"])
    change(rows, about)
    rows.sort(key=lambda row: row["path"])
    table = pa.Table.from_pylist(rows, schema=file.schema_arrow)
    (root / "manifest.parquet").write_bytes(_sealed(table, about))


@pytest.mark.parametrize(
    "path",
    ["../victim.txt", "/etc/passwd", "structures/../../victim.parquet", "structures/con.parquet",
     "structures\\ores.parquet", "structures/ores.parquet.", "structures/ores\u202e.parquet",
     "structures/ores .parquet", "STRUCTURES/ores.parquet", "structures/ORES.parquet",
     "embeddings.zarr/plain/ores/../../../x", "embeddings.zarr/plain/ores/a\nb", "runs/x.json",
     "C:/x.parquet", ".git/hooks/post-checkout", "embeddings.zarr/plain/ores/.hidden",
     "parquet/a:b/c.parquet",
     "manifest.parquet", "", "setup.py", "structures/" + "a" * 500 + ".parquet"],
)  # fmt: skip
def test_paths_that_no_release_has(released: Path, path: str) -> None:
    def change(rows: list[dict[str, Any]], _about: Any) -> None:
        model = next(r for r in rows if r["kind"] == "structures")
        rows.append({**model, "path": path})

    forge_manifest(released, change)
    with pytest.raises(ArchiveError) as error:
        read_manifest(released)
    assert "manifest.parquet" in line(error)
    assert check_manifest(released) == [str(error.value)]


@pytest.mark.parametrize(
    ("key", "value"),
    [("format_version", 7), ("format_version", "9" * 5000), ("format_version", "2.0\n"),
     ("version", None), ("version", "../1.0.0"), ("version", ["1.0.0"]), ("version", "<script>"),
     ("parent", "x"),
     ("parent", {"version": "1", "manifest_sha256": 3}), ("parent", {"evil": 1}), ("parent", []),
     ("tools", None), ("tools", {"numpy": 2}), ("tools", {"numpy": "\x1b[31m"})],
)  # fmt: skip
def test_what_a_manifest_says_of_itself(released: Path, key: str, value: Any) -> None:
    forge_manifest(released, lambda _, about: about.update({key: value}))
    with pytest.raises(ArchiveError) as error:
        read_manifest(released)
    line(error)


def forge_index(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads((root / "atlas.json").read_bytes())
    change(index)
    (root / "atlas.json").write_bytes(canonical(seal(index)))


def _set(*way: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(index: dict[str, Any]) -> None:
        for key in way[:-1]:
            index = index[key]
        index[way[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (_set("models", to=3), "models"),
        (_set("models", to=[]), "models"),
        (_set("models", "../up", to={}), "models"),
        (_set("models", "plain", "layers", "last", to=10**15), "layers"),
        (_set("models", "plain", "layers", "last", to=-1), "layers"),
        (_set("models", "plain", "layers", "last", to="5"), "layers"),
        (_set("models", "plain", "default_layer", to="x"), "default_layer"),
        (_set("models", "plain", "units", "ores", "rows", to=-1), "rows"),
        (_set("models", "plain", "units", "ores", "rows", to=2**60), "rows"),
        (_set("models", "plain", "units", "ores", "rows", to=True), "rows"),
        (_set("models", "plain", "units", "../../x", to={}), "units"),
        (_set("models", "plain", "metadata_sha256", to="x"), "metadata_sha256"),
        (_set("files", "../victim.parquet", to={"bytes": 1, "sha256": "0" * 64}), "files"),
        (_set("files", "/etc/passwd", to={"bytes": 1, "sha256": "0" * 64}), "files"),
        (_set("files", "structures/nul.parquet", to={"bytes": 1, "sha256": "0" * 64}), "files"),
        (_set("files", "structures/ores.parquet", "bytes", to=-5), "files"),
        (_set("version", to="../1.0.0"), "version"),
        (_set("version", to="<b>"), "version"),
        (_set("pending", to={"parquet/../../victim.parquet": [None]}), "pending"),
        (_set("pending", to={"embeddings.zarr/../../x/zarr.json": [None]}), "pending"),
        (_set("pending", to={"embeddings.zarr/plain/ores/zarr.json": [None]}), "pending"),
        (_set("pending", to={"registry/models.parquet": "x"}), "pending"),
        (_set("pending", to=[1]), "pending"),
    ],
)
def test_indexes_that_say_what_none_does(
    atlas: Path, change: Callable[[dict[str, Any]], None], key: str
) -> None:
    forge_index(atlas, change)
    before = {p: p.read_bytes() for p in atlas.parent.rglob("*") if p.is_file()}
    for ask in (open_atlas, validate, open_root, lambda root: settle(root, scratch=root / ".s")):
        with pytest.raises(ArchiveError) as error:
            ask(atlas)
        assert key in line(error) and "atlas.json" in line(error)
    assert before == {p: p.read_bytes() for p in atlas.parent.rglob("*") if p.is_file()}


def test_a_pending_file_elsewhere_is_not_removed(atlas: Path) -> None:
    """What an interrupted build left to do is done inside the atlas only."""
    victim = atlas.parent / "victim.parquet"
    victim.write_text("here")
    for path in ("parquet/../../victim.parquet", "parquet/x/../../../victim.parquet", str(victim)):
        forge_index(atlas, _set("pending", to={path: [None]}))
        with pytest.raises(ArchiveError), root_lock(atlas):
            settle(atlas, scratch=atlas / ".staging" / "x")
        assert victim.read_text() == "here"


@pytest.mark.parametrize("path", ["structures", "parquet/plain", "embeddings.zarr", "atlas.json"])
def test_an_atlas_with_links_is_not_built_into(atlas: Path, path: str) -> None:
    elsewhere = atlas.parent / "elsewhere"
    (atlas / path).rename(elsewhere)
    (atlas / path).symlink_to(elsewhere)
    with pytest.raises(ArchiveError, match="a link"):
        open_root(atlas)
    assert any(path in fault for fault in validate(atlas).faults)


def test_a_link_in_a_release_is_no_file_of_it(released: Path) -> None:
    target = released / "structures/ores.parquet"
    elsewhere = released.parent / "elsewhere"
    target.rename(elsewhere)
    target.symlink_to(elsewhere)
    assert any("not a plain file" in fault for fault in check_manifest(released))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b'"models":', b'"models":{},"models":', "twice"),
        (b'"files":', b'"x":' + b"[" * 5000 + b"]" * 5000 + b',"files":', "deeply"),
        (b'"files":', b'"x":NaN,"files":', "NaN"),
        (b'"files":', b'"x":' + b"9" * 5000 + b',"files":', "too large"),
        (b'"files":', b'"x":"\\ud800","files":', "surrogates"),
    ],
)
def test_json_that_readers_disagree_on(atlas: Path, old: bytes, new: bytes, says: str) -> None:
    data = (atlas / "atlas.json").read_bytes()
    (atlas / "atlas.json").write_bytes(data.replace(old, new, 1))
    with pytest.raises(ArchiveError, match=says) as error:
        read_index(Files(str(atlas)))
    line(error)


@pytest.mark.parametrize(
    "change",
    [_set("tables", to=[1]), _set("tables", to={"../x.parquet": {"bytes": 1, "sha256": "0" * 64}}),
     _set("tables", "scores/pairs.parquet", to=4),
     _set("tables", "scores/pairs.parquet", "sha256", to=None),
     _set("inputs", to="x"), _set("notes", to=3), _set("skipped", to=[1])],
)  # fmt: skip
def test_records_of_analyses(atlas: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with made.registry():
        made.write_scores(atlas, [made.score()])
    path = atlas / "scores/analysis.json"
    record = json.loads(path.read_bytes())
    change(record)
    path.write_bytes(canonical(seal(record)))
    with pytest.raises(ArchiveError, match=r"analysis\.json: key '"):
        open_atlas(atlas).table("scores/pairs.parquet")
    assert any("analysis.json" in fault for fault in validate(atlas).faults)
