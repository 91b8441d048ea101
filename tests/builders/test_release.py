# SPDX-License-Identifier: Apache-2.0
"""Releases: whole or not at all, equal inputs to equal bytes, numbered by what changed."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from small_atlas import registry, score, tree, write_scores, write_small

from matteratlas.builders import release as module
from matteratlas.builders.adapters.base import Embedded
from matteratlas.builders.release import list_releases, release
from matteratlas.registry.archive import open_atlas
from matteratlas.registry.digest import table_digest
from matteratlas.registry.files import Files
from matteratlas.registry.index import read_index, seal, unseal, write_index, write_json
from matteratlas.registry.manifest import check_manifest, read_manifest
from matteratlas.registry.validate import validate
from matteratlas.schemas.errors import ArchiveError

SMALLER = {"ores": range(5), "salts": range(4)}


@pytest.fixture(autouse=True)
def cards() -> Iterator[None]:
    with registry():
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with registry():
        root = write_small(tmp_path_factory.mktemp("written") / "atlas", rows=SMALLER)
    write_scores(root, [score()])
    return root


@pytest.fixture
def atlas(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "atlas"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "releases"


def data_of(atlas: Path) -> dict[str, bytes]:
    """All files but the lock."""
    return {path: data for path, data in tree(atlas).items() if path != ".lock"}


def test_a_first_release_is_complete_and_validates(atlas: Path, out: Path) -> None:
    write_json(seal({"model": "plain", "sets": {}}), atlas / "runs/plain.json")
    for name in ("report.html", ".staging/x/y"):
        (atlas / name).parent.mkdir(parents=True, exist_ok=True)
        (atlas / name).write_text("x")
    before = data_of(atlas)
    report = release(atlas, out=out)
    root = out / "1.0.0"
    assert (report.version, report.path, report.parent, report.step) == (
        "1.0.0", root, None, "first",
    )  # fmt: skip
    assert data_of(atlas) == before
    found = tree(root)
    data = {p for p in before if p.split("/")[0] not in ("runs", "report.html", ".staging")}
    made = {"README.md", "croissant.json", "CITATION.cff", "manifest.parquet"}
    assert set(found) == data | made
    written = {"atlas.json", "scores/pairs.parquet", "scores/analysis.json"}
    assert all(found[p] == before[p] for p in data - written)
    assert read_index(Files(str(root)))["version"] == "1.0.0" == open_atlas(str(root)).version
    assert validate(root, deep=True).ok and check_manifest(root) == []
    assert json.loads((out / "releases.json").read_text()) == {"releases": ["1.0.0"]}
    assert not (out / ".staging").exists() and list_releases(out) == ["1.0.0"]
    assert report.files == len(found) and report.bytes == sum(map(len, found.values()))
    assert report.manifest_sha256 == read_manifest(root).sha256
    assert json.loads(json.dumps(report.summary()))["version"] == "1.0.0"
    assert "release 1.0.0, the first release" in report.text()


def test_data_files_are_shared_until_the_atlas_is_built_further(atlas: Path, out: Path) -> None:
    report = release(atlas, out=out)
    frozen = tree(out / "1.0.0")
    shared = [p for p in frozen if (out / "1.0.0" / p).stat().st_nlink > 1]
    assert len(shared) == report.linked > 20
    assert not any(p.startswith(("scores/pairs", "atlas.json")) for p in shared)
    assert not any((out / "1.0.0" / p).is_symlink() for p in frozen)

    def edit(model: str, set_id: str, i: int, row: Embedded) -> Embedded:
        row.pooled["last"] += 1.0
        return row

    write_small(atlas, edit=edit)
    assert tree(out / "1.0.0") == frozen and check_manifest(out / "1.0.0") == []
    assert validate(atlas).faults == []


def test_equal_inputs_give_equal_bytes(atlas: Path, out: Path, tmp_path: Path) -> None:
    release(atlas, out=out, date="2026-11-22")
    again = write_small(tmp_path / "other/place", rows=SMALLER)
    write_scores(again, [score()])
    for file in sorted(again.rglob("*")):
        os.utime(file, (1, 1))
    release(again, out=tmp_path / "second", date="2026-11-22")
    first, second = tree(out / "1.0.0"), tree(tmp_path / "second/1.0.0")
    assert first == second and len(first) > 40
    assert not any(b"/atlas" in d or str(tmp_path).encode() in d for d in first.values())


def test_dates_come_from_the_caller_or_the_environment(
    atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cited(name: str, **options: Any) -> dict[str, Any]:
        release(atlas, out=tmp_path / name, **options)
        root = tmp_path / name / "1.0.0"
        croissant = json.loads((root / "croissant.json").read_text())
        content = yaml.safe_load((root / "CITATION.cff").read_text())
        found = content.get("date-released")
        assert croissant.get("datePublished") == (str(found) if found else None)
        assert content["version"] == croissant["version"] == "1.0.0"
        return dict(content)

    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert "date-released" not in cited("a")
    assert str(cited("b", date="2026-11-22")["date-released"]) == "2026-11-22"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert str(cited("c")["date-released"]) == "1970-01-02"
    assert str(cited("d", date="2026-11-22")["date-released"]) == "2026-11-22"
    for date in ("22.11.2026", "2026-13-01", "20261122"):
        with pytest.raises(ArchiveError, match="give YYYY-MM-DD"):
            release(atlas, out=tmp_path / "e", date=date)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(ArchiveError, match="SOURCE_DATE_EPOCH 'soon'"):
        release(atlas, out=tmp_path / "e")
    assert not (tmp_path / "e").exists()


def grow(root: Path, **options: Any) -> Path:
    """Build the atlas further, and score it again."""
    shutil.rmtree(root / "scores", ignore_errors=True)
    write_small(root, **options)
    write_scores(root, [score()])
    return root


def change_one(model: str, set_id: str, i: int, row: Embedded) -> Embedded:
    if (model, set_id, i) == ("plain", "ores", 1):
        row.pooled["last"][0] += 0.5
    return row


def test_versions_follow_what_changed(atlas: Path, out: Path) -> None:
    release(atlas, out=out)
    with pytest.raises(ArchiveError, match=r"holds what release 1\.0\.0 holds; nothing to"):
        release(atlas, out=out)
    grown = release(grow(atlas), out=out)
    assert (grown.version, grown.step, grown.parent) == ("1.1.0", "minor", "1.0.0")
    assert "set ores: 2 rows added" in grown.why
    table = pq.read_table(atlas / "structures/ores.parquet")
    scratch = atlas / "structures/.x"
    pq.write_table(table, scratch, compression="none")
    scratch.rename(atlas / "structures/ores.parquet")
    write_index(atlas)
    packed = release(atlas, out=out)
    assert (packed.version, packed.step) == ("1.1.1", "patch")
    changed = release(grow(atlas, edit=change_one), out=out)
    assert (changed.version, changed.step) == ("2.0.0", "major")
    assert "unit plain/ores: 1 rows changed (last: 1, by 0.5" in changed.why[0]
    assert list_releases(out) == ["1.0.0", "1.1.0", "1.1.1", "2.0.0"]
    assert json.loads((out / "releases.json").read_text())["releases"] == list_releases(out)
    chain = [read_manifest(out / v) for v in list_releases(out)]
    assert chain[0].parent is None
    for parent, child in itertools.pairwise(chain):
        assert child.parent is not None
        assert child.parent.version == parent.version
        assert child.parent.manifest_sha256 == parent.sha256
    for version in list_releases(out):
        assert validate(out / version).ok


def test_a_version_may_be_higher_but_not_lower_than_the_changes_call_for(
    atlas: Path, out: Path
) -> None:
    assert release(atlas, out=out, version="v0.3.0").version == "0.3.0"
    grow(atlas)
    with pytest.raises(
        ArchiveError, match=r"0\.3\.1 is too low after 0\.3\.0: .*minor step; .*0\.4"
    ):
        release(atlas, out=out, version="0.3.1")
    for low in ("0.2.9", "0.3.0-rc.1"):
        with pytest.raises(ArchiveError, match=r"does not come after its parent 0\.3\.0"):
            release(atlas, out=out, version=low)
    for taken in ("0.3.0", "0.3.0+other"):
        with pytest.raises(ArchiveError, match=r"releases/0\.3\.0: exists, and releases never"):
            release(atlas, out=out, version=taken)
    with pytest.raises(ArchiveError, match="not a semantic version"):
        release(atlas, out=out, version="next")
    assert release(atlas, out=out, version="0.4.0-rc.1").version == "0.4.0-rc.1"
    assert release(atlas, out=out, version="0.4.0").step == "none"
    assert release(grow(atlas, edit=change_one), out=out, version="3.0.0").version == "3.0.0"
    assert list_releases(out) == ["0.3.0", "0.4.0-rc.1", "0.4.0", "3.0.0"]


def test_the_parent_can_be_named(atlas: Path, out: Path, tmp_path: Path) -> None:
    release(atlas, out=out)
    grow(atlas, edit=change_one)
    release(atlas, out=out)
    assert list_releases(out) == ["1.0.0", "2.0.0"]
    other = grow(tmp_path / "other", rows=SMALLER)
    grown = release(grow(other), out=out, parent="1.0.0")
    assert (grown.version, grown.parent) == ("1.1.0", "1.0.0")
    elsewhere = release(other, out=tmp_path / "elsewhere", parent=out / "1.0.0")
    assert (elsewhere.version, elsewhere.parent) == ("1.1.0", "1.0.0")
    with pytest.raises(ArchiveError, match=r"9\.9\.9: no release there; .* holds 1\.0\.0, 1\.1\.0"):
        release(other, out=out, parent="9.9.9")


def test_scores_name_the_release_they_are_in(atlas: Path, out: Path) -> None:
    release(atlas, out=out)
    root = out / "1.0.0"
    pairs = pd.read_parquet(root / "scores/pairs.parquet")
    assert set(pairs["release"]) == {"1.0.0"}
    plain = pd.read_parquet(atlas / "scores/pairs.parquet")
    assert set(plain["release"]) == {"unreleased"}
    pd.testing.assert_frame_equal(pairs.drop(columns="release"), plain.drop(columns="release"))
    record = unseal((root / "scores/analysis.json").read_bytes(), where="x")
    assert record["release"] == "1.0.0"
    rows = read_manifest(root).files.set_index("path")
    for name, held in record["tables"].items():
        assert (held["sha256"], held["bytes"]) == tuple(rows.loc[name, ["sha256", "bytes"]])
        assert rows.loc[name, "content_sha256"] == table_digest(root / name)


def test_an_atlas_with_a_fault_is_refused_by_name(atlas: Path, out: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(ArchiveError, match=match) as caught:
            release(atlas, out=out)
        assert "\n" not in str(caught.value)
        assert list_releases(out) == [] and not (out / ".staging").exists()

    shard = atlas / "embeddings.zarr/plain/ores/last/c/0/0"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused(r"plain/ores/last/c/0/0")
    shard.write_bytes(data)
    for name in ("notes.txt", "structures/ores.csv", "manifest.txt"):
        (atlas / name).write_text("x")
        refused(name)
        (atlas / name).unlink()
    (atlas / "parquet/plain/new.parquet").symlink_to(atlas / "parquet/plain/ores.parquet")
    refused(r"parquet/plain/new\.parquet")
    (atlas / "parquet/plain/new.parquet").unlink()
    record = atlas / "scores/analysis.json"
    text = record.read_bytes()
    record.unlink()
    refused("scores/pairs.parquet: no scores/analysis.json")
    record.write_bytes(text)
    write_small(atlas, rows=SMALLER, edit=change_one)
    refused(r"scores/analysis\.json: scores are of other embeddings than are here")


def test_what_is_no_atlas_to_release_is_refused(atlas: Path, out: Path, tmp_path: Path) -> None:
    release(atlas, out=out)
    with pytest.raises(ArchiveError, match=r"is release 1\.0\.0 already"):
        release(out / "1.0.0", out=out)
    with pytest.raises(ArchiveError, match=r"no atlas\.json"):
        release(tmp_path, out=out)
    with pytest.raises(ArchiveError, match="lies inside the atlas"):
        release(atlas, out=atlas / "releases")
    empty = write_small(tmp_path / "empty", units=[("plain", "ores")])
    shutil.rmtree(empty / "embeddings.zarr"), shutil.rmtree(empty / "parquet")
    write_index(empty)
    with pytest.raises(ArchiveError, match="holds no embeddings"):
        release(empty, out=out)


def test_a_damaged_parent_is_named(atlas: Path, out: Path) -> None:
    release(atlas, out=out)
    path = out / "1.0.0/manifest.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:-30])
    with pytest.raises(ArchiveError, match=r"1\.0\.0/manifest\.parquet: not a manifest"):
        release(grow(atlas), out=out)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_without_hard_links_files_are_copied(
    atlas: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    release(atlas, out=out)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module.os, "link", refuse)
    report = release(atlas, out=tmp_path / "copied")
    assert report.linked == 0
    assert tree(tmp_path / "copied/1.0.0") == tree(out / "1.0.0")


def test_a_full_disk_leaves_nothing_and_is_said(
    atlas: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "link", full)
    with pytest.raises(ArchiveError, match="No space left on device; make room"):
        release(atlas, out=out)
    assert list_releases(out) == [] and not (out / ".staging").exists()
    monkeypatch.undo()
    assert release(atlas, out=out).version == "1.0.0"


def test_the_list_of_releases_is_derived(atlas: Path, out: Path) -> None:
    release(atlas, out=out)
    for text in ("", '{"releases": ["7.0.0"]}'):
        (out / "releases.json").write_text(text)
        (out / "notes").mkdir(exist_ok=True)
        (out / "notes/manifest.parquet").write_text("no version, no release")
        with pytest.raises(ArchiveError, match="nothing to release"):
            release(atlas, out=out)
        assert json.loads((out / "releases.json").read_text()) == {"releases": ["1.0.0"]}


def release_until(moment: int, atlas: Path, out: Path) -> int:
    """Release in a child that kills itself at its n-th act below ``out``; its acts if it lives."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        acts = 0

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal acts
            if event in ("open", "os.link", "os.rename", "os.mkdir", "os.rmdir", "os.remove"):
                acts += any(str(a).startswith(str(out)) for a in arguments[:2])
                if acts == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            signal.alarm(120)  # a fork that hangs fails the test, not the run
            sys.addaudithook(watch)
            release(atlas, out=out)
            os.write(writer, str(acts).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as found:
        return int(found.read() or 0)


def test_a_killed_release_leaves_none_or_all(atlas: Path, out: Path, tmp_path: Path) -> None:
    acts = release_until(-1, atlas, out)
    assert acts > 100
    expected = tree(out / "1.0.0")
    assert validate(out / "1.0.0").ok
    shutil.rmtree(out)
    source = data_of(atlas)
    outcomes = set()
    # The last acts are the move into place and the list, where most can go wrong.
    for moment in [1, acts // 3, acts - 12, *range(acts - 7, acts + 1)]:
        assert release_until(moment, atlas, out) == 0
        complete = list_releases(out)
        outcomes.add((bool(complete), (out / ".staging").exists()))
        assert all(tree(out / version) == expected for version in complete)
        assert data_of(atlas) == source
        if complete:  # what was cut off after the move is mended by whoever comes next
            with pytest.raises(ArchiveError, match="nothing to release"):
                release(atlas, out=out)
        else:
            release(atlas, out=out)
        assert tree(out / "1.0.0") == expected
        assert json.loads((out / "releases.json").read_text()) == {"releases": ["1.0.0"]}
        assert not (out / ".staging").exists()
        shutil.rmtree(out)
    assert {(False, True), (True, False)} <= outcomes
