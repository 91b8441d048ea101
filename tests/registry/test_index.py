# SPDX-License-Identifier: Apache-2.0
"""The index: sealed, derived from what the folder holds, refused when it is not ours."""

from __future__ import annotations

import json
import os
import shutil
import string
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import matteratlas as ma
from matteratlas.builders.build import build
from matteratlas.registry import catalog
from matteratlas.registry.files import Files
from matteratlas.registry.hub import sha256_of
from matteratlas.registry.index import (
    SEAL,
    file_entries,
    read_index,
    read_runs,
    seal,
    start_index,
    unit_records,
    unseal,
    write_index,
    write_json,
)
from matteratlas.registry.tables import MODELS, SETS
from matteratlas.registry.validate import validate
from matteratlas.schemas.archive import ATLAS_FILE, STORE, UNRELEASED
from matteratlas.schemas.errors import ArchiveError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(string.printable), inner),
    max_leaves=8,
)
DOCUMENT = st.dictionaries(st.text(st.characters(codec="utf-8")), JSON)


@given(DOCUMENT)
def test_what_is_sealed_is_unsealed(content: dict[str, Any]) -> None:
    sealed = seal(content)
    assert {k: v for k, v in sealed.items() if k != SEAL} == {
        k: v for k, v in content.items() if k != SEAL
    }
    assert unseal(json.dumps(sealed).encode(), where="x") == sealed
    assert seal(sealed) == sealed
    assert seal(dict(reversed(list(content.items()))))[SEAL] == sealed[SEAL]


@given(DOCUMENT, st.text(st.characters(codec="utf-8")), JSON)
def test_what_is_altered_is_refused(content: dict[str, Any], key: str, value: Any) -> None:
    sealed = seal(content)
    altered = {**sealed, key: value}
    if json.dumps(altered, sort_keys=True) == json.dumps(sealed, sort_keys=True):
        return
    with pytest.raises(ArchiveError, match=r"atlas\.json: altered since it was written; restore"):
        unseal(json.dumps(altered).encode(), where="a/atlas.json")


def test_no_byte_of_a_sealed_document_may_change(tmp_path: Path) -> None:
    content = seal({"models": {"a": 1.5}, "name": "é"})
    path = tmp_path / "x.json"
    write_json(content, path)
    good = path.read_bytes()
    assert good.endswith(b"\n") and unseal(good, where="x") == content
    for at in range(len(good) - 1):
        for bit in (0x01, 0x10):
            data = bytearray(good)
            data[at] ^= bit
            with pytest.raises(ArchiveError, match=r"x: (altered|not JSON)"):
                unseal(bytes(data), where="x")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"7", b"{}", b"\xff\xfe", b'{"a":1}'])
def test_what_was_never_sealed_is_refused_with_its_mend(text: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"x: (altered.*|not JSON.*); do this"):
        unseal(text, where="x", mend="do this")


def test_json_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "x.json"
    write_json({"b": 1, "a": [1, 2]}, path)
    assert path.read_text() == '{"a":[1,2],"b":1}\n'

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_json({"a": 2}, path)
    monkeypatch.undo()
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]
    assert path.read_text() == '{"a":[1,2],"b":1}\n'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not JSON"),
        ("[]", "not a matteratlas archive"),
        ('{"format": "zarr"}', "not a matteratlas archive"),
        ('{"format": "matteratlas"}', "'None' is not a number"),
        (seal({"format": "matteratlas", "format_version": "3.0"}), r"3\.0 is newer .* pip install"),
        (seal({"format": "matteratlas", "format_version": "10.2"}), r"10\.2 is newer"),
        (seal({"format": "matteratlas", "format_version": "1.0"}), r"1\.0 was never released"),
        (seal({"format": "matteratlas", "format_version": "two"}), "'two' is not a number"),
        ({"format": "matteratlas", "format_version": "3.0"}, "newer"),  # whatever newer ones seal
        ({"format": "matteratlas", "format_version": "2.0"}, "altered"),
    ],
)
def test_an_index_that_is_not_ours_is_refused(tmp_path: Path, content: Any, says: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / ATLAS_FILE).write_text(text)
    for read in (lambda: read_index(Files(str(tmp_path))), lambda: ma.open_atlas(tmp_path)):
        with pytest.raises(ArchiveError, match=says) as caught:
            read()
        assert f"{tmp_path}/{ATLAS_FILE}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_newer_minor_is_read(tmp_path: Path) -> None:
    start_index(tmp_path)
    content = read_index(Files(str(tmp_path)))
    write_json(seal({**content, "format_version": "2.9", "mood": "good"}), tmp_path / ATLAS_FILE)
    assert read_index(Files(str(tmp_path)))["mood"] == "good"
    assert ma.open_atlas(tmp_path).units.empty


def test_an_empty_folder_is_told_from_an_empty_atlas(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no atlas\.json there"):
        read_index(Files(str(tmp_path)))
    start_index(tmp_path)
    found = read_index(Files(str(tmp_path)))
    assert (found["models"], found["files"], found["version"]) == ({}, {}, UNRELEASED)
    assert unit_records(tmp_path) == []


def content_of(root: Path) -> dict[str, bytes]:
    """Every file but the costs, which are times."""
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in root.rglob("*")
        if p.is_file() and p.relative_to(root).parts[0] not in ("runs", ".lock")
    }


def test_an_index_kept_step_by_step_is_that_of_the_folder(tmp_path: Path) -> None:
    """Three builds, then all of it scanned, then all of it in one go: one and the same bytes."""
    steps = tmp_path / "steps"
    starter: dict[str, Any] = {"selection": "starter", "workers": 0}
    build(steps, models=["random-128"], sets=["elements"], **starter)
    build(steps, models=["mat2vec"], sets=["elements", "g2"], **starter)
    build(steps, models=["random-128"], sets=["g2"], **starter)
    scanned = Path(shutil.copytree(steps, tmp_path / "scanned"))
    (scanned / ATLAS_FILE).unlink()
    write_index(scanned)
    once = tmp_path / "once"
    build(once, models=["random-128", "mat2vec"], sets=["elements", "g2"], **starter)
    assert content_of(steps) == content_of(scanned) == content_of(once)
    found = read_index(Files(str(steps)))
    assert set(found["models"]) == {"random-128", "mat2vec"}
    assert set(found["files"]) == {
        "structures/elements.parquet", "structures/g2.parquet", MODELS, SETS,
        "registry/rejected.parquet", "registry/duplicates.parquet",
    }  # fmt: skip


def test_every_byte_hangs_on_the_index(built_atlas: Path) -> None:
    """Index -> metadata of models and tables -> files of units: all hashes hold, none lacks."""
    found = read_index(Files(str(built_atlas)))
    covered = {ATLAS_FILE} | set(found["files"])
    listed = [built_atlas / name for name in found["files"]]
    assert found["files"] == file_entries(built_atlas, listed)
    for model, entry in found["models"].items():
        path = built_atlas / STORE / model / "zarr.json"
        assert sha256_of(path) == entry["metadata_sha256"]
        covered.add(path.relative_to(built_atlas).as_posix())
        metadata = json.loads(path.read_text())["consolidated_metadata"]["metadata"]
        for name, document in metadata.items():
            own = path.parent / name / "zarr.json"
            assert json.loads(own.read_text()) == document
            covered.add(own.relative_to(built_atlas).as_posix())
    for record in unit_records(built_atlas):
        unit = found["models"][record.model]["units"][record.structure_set]
        assert unit == {
            "set_version": record.structure_set_version,
            "rows": record.rows,
            "embedded": record.embedded,
            "missing": record.missing,
            "precision": "float32",
            "content_sha256": record.content_sha256,
        }
        for file in record.files:
            assert sha256_of(built_atlas / file.path) == file.sha256
            covered.add(file.path)
    # The card is made anew from all this; a release's manifest covers it.
    assert set(content_of(built_atlas)) - {"README.md"} == covered


def test_metadata_other_than_the_index_declares_are_not_read(atlas_copy: Path) -> None:
    path = atlas_copy / STORE / "mat2vec" / "zarr.json"
    content = json.loads(path.read_text())
    unit = content["consolidated_metadata"]["metadata"]["g2"]["attributes"]["matemb"]
    unit["energy"] = None if unit["energy"] else {"unit": "eV"}
    path.write_text(json.dumps(content))
    atlas = ma.open_atlas(atlas_copy)
    with pytest.raises(ArchiveError, match=r"mat2vec/zarr\.json: sha256 differs"):
        atlas.embeddings("mat2vec").load()
    assert atlas.embeddings("morgan").load().sizes["structure"] > 0  # others are no worse
    assert any("mat2vec/zarr.json" in fault for fault in validate(atlas_copy).faults)


def test_cards_of_another_version_stay_as_the_data_have_them(
    atlas_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer catalogue on an older atlas: rows of cards are those its units were made under."""
    before = pd.read_parquet(atlas_copy / MODELS)
    models = dict(catalog.models())
    models["mat2vec"] = models["mat2vec"].model_copy(update={"version": "99.0", "name": "New"})
    del models["morgan"]
    monkeypatch.setattr(catalog, "models", lambda folder=None: models)
    sets = dict(catalog.structure_sets())
    sets["g2"] = sets["g2"].model_copy(update={"version": "99.0.0", "name": "New"})
    monkeypatch.setattr(catalog, "structure_sets", lambda folder=None: sets)
    held = pd.read_parquet(atlas_copy / SETS)
    write_index(atlas_copy)
    after = pd.read_parquet(atlas_copy / MODELS)
    pd.testing.assert_frame_equal(
        before.sort_values("id", ignore_index=True), after.sort_values("id", ignore_index=True)
    )
    by = ["id", "stratum"]
    pd.testing.assert_frame_equal(
        held.sort_values(by, ignore_index=True),
        pd.read_parquet(atlas_copy / SETS).sort_values(by, ignore_index=True),
    )


def test_costs_are_unknown_where_they_are_damaged(atlas_copy: Path) -> None:
    files = Files(str(atlas_copy))
    assert set(read_runs(files, "mat2vec")) == {"g2", "elements"}
    path = atlas_copy / "runs" / "mat2vec.json"
    path.write_text(path.read_text().replace('"rows":', '"rows" :1,"x":'))
    assert read_runs(files, "mat2vec") == {} == read_runs(files, "absent")


def test_documents_are_made_under_names_of_their_own(tmp_path: Path) -> None:
    """Two processes that write one document do not share the scrap they write it in."""
    seen = []
    real = Path.replace

    def spy(path: Path, target: Path) -> Path:
        seen.append(path.name)
        return real(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", spy)
        write_json({}, tmp_path / "x.json")
    assert str(os.getpid()) in seen[0] and seen[0].startswith(".x.json")
