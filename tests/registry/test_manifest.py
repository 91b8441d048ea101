# SPDX-License-Identifier: Apache-2.0
"""The manifest names every fault of a folder, and of itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from matteratlas.registry import manifest as module
from matteratlas.registry.digest import table_digest
from matteratlas.registry.hub import sha256_of
from matteratlas.registry.manifest import (
    check_manifest,
    parse_manifest,
    read_manifest,
    tool_versions,
    write_manifest,
)
from matteratlas.schemas.archive import FORMAT_VERSION
from matteratlas.schemas.errors import ArchiveError
from matteratlas.schemas.manifest import CARD_FILES, place_of

UNIT = "embeddings.zarr/soap/ores"


def make_tree(root: Path) -> Path:
    """A folder with one file of every kind."""
    texts = {name: name for name in ("atlas.json", *CARD_FILES, "scores/analysis.json")}
    texts["embeddings.zarr/soap/zarr.json"] = "{}"
    texts[f"{UNIT}/zarr.json"] = json.dumps(
        {"attributes": {"matemb": {"content_sha256": "a" * 64}}}
    )
    texts[f"{UNIT}/last/zarr.json"] = "{}"
    texts[f"{UNIT}/last/c/0/0"] = "vectors " * 40
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for i, path in enumerate(
        ["structures/ores", "registry/models", "scores/pairs", "parquet/soap/ores"]
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": [i, None]}), root / f"{path}.parquet")
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "release")


def test_a_manifest_lists_every_file_with_size_hash_and_content(tree: Path) -> None:
    written = write_manifest(tree, version="1.0.0")
    found = read_manifest(tree)
    assert found.version == "1.0.0" and found.parent is None
    assert found.format_version == FORMAT_VERSION and found.tools == tool_versions()
    assert set(found.tools) == {"python", "zarr", "numcodecs", "pyarrow", "numpy", "matteratlas"}
    assert found.sha256 == written.sha256 == sha256_of(tree / "manifest.parquet")
    pd.testing.assert_frame_equal(found.files, written.files)
    on_disk = sorted(p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file())
    assert [*found.files["path"], "manifest.parquet"] == sorted(
        on_disk, key=lambda p: (p == "manifest.parquet", p)
    )
    rows = found.files.set_index("path")
    for path, row in rows.iterrows():
        assert row["bytes"] == (tree / str(path)).stat().st_size
        assert row["sha256"] == sha256_of(tree / str(path))
    assert set(rows["kind"]) == {
        "card", "index", "structures", "embeddings", "parquet", "scores", "registry",
    }  # fmt: skip
    twin = rows.loc["parquet/soap/ores.parquet"]
    assert (twin["model"], twin["set"]) == ("soap", "ores")
    assert twin["content_sha256"] == table_digest(tree / "parquet/soap/ores.parquet")
    assert rows.loc[f"{UNIT}/zarr.json", "content_sha256"] == "a" * 64
    assert pd.isna(rows.loc[f"{UNIT}/last/c/0/0", "content_sha256"])
    assert check_manifest(tree) == []


def test_equal_folders_give_equal_manifests(tree: Path, tmp_path: Path) -> None:
    other = make_tree(tmp_path / "elsewhere" / "b")
    first, second = (write_manifest(p, version="1.0.0") for p in (tree, other))
    assert first.sha256 == second.sha256
    again = write_manifest(tree, version="1.0.0")
    assert again.sha256 == first.sha256
    assert write_manifest(tree, version="1.0.1").sha256 != first.sha256


def test_a_child_names_its_parent_and_reads_only_what_is_new(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = write_manifest(tree, version="1.0.0")
    child = Path(shutil.copytree(tree, tmp_path / "child"))
    pq.write_table(pa.table({"x": [9]}), child / "scores/gaps.parquet")
    read = []
    monkeypatch.setattr(module, "table_digest", lambda p: read.append(p.name) or table_digest(p))
    found = write_manifest(child, version="1.1.0", parent=parent)
    assert read == ["gaps.parquet"]
    assert found.parent is not None
    assert (found.parent.version, found.parent.manifest_sha256) == ("1.0.0", parent.sha256)
    monkeypatch.undo()
    alone = write_manifest(child, version="1.1.0")
    pd.testing.assert_frame_equal(found.files, alone.files)


def files_of(tree: Path) -> list[str]:
    return sorted(p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file())


def test_every_damaged_file_is_named_with_its_fault(tree: Path) -> None:
    write_manifest(tree, version="1.0.0")
    names = [f for f in files_of(tree) if f != "manifest.parquet"]
    assert len(names) == 13
    for name in names:
        path, data = tree / name, (tree / name).read_bytes()
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        for damage, fault in (
            (bytes(flipped), "altered"),
            (data[:-1], "truncated"),
            (b"", "truncated"),
            (data + b"x", "too long"),
            (None, "missing"),
        ):
            if damage is None:
                path.unlink()
            else:
                path.write_bytes(damage)
            (line,) = check_manifest(tree)
            assert line.startswith(f"{name}: {fault}") and "1.0.0" in line
            path.write_bytes(data)
    assert check_manifest(tree) == []


def test_foreign_files_renamed_folders_and_links_are_named(tree: Path, tmp_path: Path) -> None:
    write_manifest(tree, version="1.0.0")
    (tree / "structures/extra.parquet").write_bytes(b"x")
    (tree / ".lock").write_bytes(b"")
    assert [f.split(",")[0] for f in check_manifest(tree)] == [
        ".lock: foreign", "structures/extra.parquet: foreign",
    ]  # fmt: skip
    (tree / "structures/extra.parquet").unlink()
    (tree / ".lock").unlink()
    (tree / "parquet/soap").rename(tree / "parquet/soup")
    faults = check_manifest(tree)
    assert [f.split(":")[0] for f in faults] == [
        "parquet/soap/ores.parquet", "parquet/soup/ores.parquet",
    ]  # fmt: skip
    (tree / "parquet/soup").rename(tree / "parquet/soap")
    (tree / "scores").rename(tmp_path / "scores")
    (tree / "scores").symlink_to(tmp_path / "scores")
    assert any(f.startswith("scores: foreign") for f in check_manifest(tree))


def test_two_swapped_files_are_both_named(tree: Path) -> None:
    other = tree / UNIT / "last/c/1/0"
    other.parent.mkdir()
    other.write_text("vectors of " * 30)
    write_manifest(tree, version="1.0.0")
    shard = tree / UNIT / "last/c/0/0"
    shard.rename(tree / "t"), other.rename(shard), (tree / "t").rename(other)
    assert [f.split(":")[0] for f in check_manifest(tree)] == [
        f"{UNIT}/last/c/0/0", f"{UNIT}/last/c/1/0",
    ]  # fmt: skip


def test_what_hosts_add_is_no_fault_and_a_part_can_be_checked(tree: Path) -> None:
    write_manifest(tree, version="1.0.0")
    (tree / ".gitattributes").write_text("*.parquet filter=lfs")
    (tree / ".cache/huggingface").mkdir(parents=True)
    (tree / ".cache/huggingface/x.lock").write_text("")
    assert check_manifest(tree) == []
    shutil.rmtree(tree / "embeddings.zarr")
    assert len(check_manifest(tree)) == 4
    assert check_manifest(tree, partial=True) == []
    (tree / "atlas.json").write_text("another!!!")
    assert [f.split(":")[0] for f in check_manifest(tree, partial=True)] == ["atlas.json"]


def test_one_changed_byte_anywhere_breaks_the_seal(tree: Path) -> None:
    write_manifest(tree, version="1.0.0")
    data = (tree / "manifest.parquet").read_bytes()
    assert parse_manifest(data, where="m").version == "1.0.0"
    for i in range(len(data)):
        damaged = bytearray(data)
        damaged[i] ^= 1 << (i % 8)
        with pytest.raises(ArchiveError, match=r"^m: "):
            parse_manifest(bytes(damaged), where="m")
    for cut in (0, 3, 8, len(data) // 2, len(data) - 1):
        with pytest.raises(ArchiveError, match=r"^m: "):
            parse_manifest(data[:cut], where="m")


def test_a_damaged_or_absent_manifest_is_named(tree: Path) -> None:
    write_manifest(tree, version="1.0.0")
    path = tree / "manifest.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    (line,) = check_manifest(tree)
    assert "manifest.parquet: not a manifest" in line and "restore" in line
    pq.write_table(pa.table({"path": ["a"]}), path)
    (line,) = check_manifest(tree)
    assert "manifest.parquet: not a manifest" in line
    path.unlink()
    (line,) = check_manifest(tree)
    assert "manifest.parquet: missing" in line


def test_files_no_release_has_are_refused(tree: Path, tmp_path: Path) -> None:
    for name in ("notes.txt", "structures/ores.csv", "units/a/b.json", f"{UNIT}/.x.part", "runs/a"):
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        with pytest.raises(ArchiveError, match=f"{name}: no file of a release"):
            write_manifest(tree, version="1.0.0")
        path.unlink()
    (tmp_path / "x").write_text("x")
    (tree / "scores/gaps.parquet").symlink_to(tmp_path / "x")
    with pytest.raises(ArchiveError, match=r"scores/gaps\.parquet: no file of a release"):
        write_manifest(tree, version="1.0.0")
    assert not (tree / "manifest.parquet").exists()


def test_a_unit_without_a_commit_record_is_refused(tree: Path) -> None:
    (tree / UNIT / "zarr.json").write_text("{}")
    with pytest.raises(ArchiveError, match=r"soap/ores/zarr\.json: no commit"):
        write_manifest(tree, version="1.0.0")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("embeddings.zarr/a-1.0/zarr.json", ("embeddings", "a-1.0", None)),
        ("embeddings.zarr/a/s/last.nodes/c/0/0", ("embeddings", "a", "s")),
        ("parquet/a/s.parquet", ("parquet", "a", "s")),
        ("structures/s.parquet", ("structures", None, "s")),
        ("registry/models.parquet", ("registry", None, None)),
        ("scores/analysis.json", ("scores", None, None)),
        ("README.md", ("card", None, None)),
        ("atlas.json", ("index", None, None)),
        ("manifest.parquet", None),
        ("report.html", None),
        ("structures/a/b.parquet", None),
        ("embeddings.zarr/zarr.json", None),
        ("parquet/../atlas.json", None),
        ("../atlas.json", None),
        ("/atlas.json", None),
    ],
)
def test_places(path: str, place: tuple[str, str | None, str | None] | None) -> None:
    assert place_of(path) == place
