# SPDX-License-Identifier: Apache-2.0
"""Files of an atlas in a folder: exact bytes, or an error that names the file."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matteratlas.registry.files import Files
from matteratlas.schemas.errors import ArchiveError

DATA = bytes(range(256)) * 3


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "data").write_bytes(DATA)
    (tmp_path / "empty").write_bytes(b"")
    return Files(f"{tmp_path}/")


def test_a_folder_is_local_and_has_no_slash_at_its_end(files: Files, tmp_path: Path) -> None:
    assert files.location == str(tmp_path) and files.local == tmp_path
    assert Files(f"file://{tmp_path}").local == tmp_path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.none() | st.integers(0, len(DATA)), length=st.none() | st.integers(0, len(DATA)))
def test_ranges_are_slices(files: Files, start: int | None, length: int | None) -> None:
    stop = None if length is None else min(len(DATA), (start or 0) + length)
    assert files.read("deep/data", start, stop) == DATA[start:stop]


def test_a_range_beyond_the_end_is_an_error_not_less(files: Files) -> None:
    with pytest.raises(ArchiveError, match=r"deep/data: ends before byte 769.*truncated"):
        files.read("deep/data", 0, 769)
    with pytest.raises(ArchiveError, match="empty: ends before byte 1"):
        files.read("empty", 0, 1)
    assert files.read("empty") == b"" == files.read("empty", 0, 0)


def test_a_whole_read_is_held_against_its_hash(files: Files) -> None:
    good = hashlib.sha256(DATA).hexdigest()
    assert files.read("deep/data", sha256=good) == DATA
    with pytest.raises(ArchiveError, match="deep/data: sha256 differs from the declared one"):
        files.read("deep/data", sha256="0" * 64)
    # Of a part no hash is known: its reader checks it.
    assert files.read("deep/data", 4, 8, sha256="0" * 64) == DATA[4:8]


@pytest.mark.parametrize("path", ["absent", "deep/absent", "empty/below", "deep"])
def test_what_is_no_file_is_named(files: Files, path: str) -> None:
    with pytest.raises(
        ArchiveError, match=rf"/{path}: (missing|cannot be read .Is a dir)"
    ) as caught:
        files.read(path)
    assert "\n" not in str(caught.value)
    assert files.exists(path) == (path == "deep")


def test_a_handle_seeks_and_tells_of_nothing_there(files: Files) -> None:
    with files.open("deep/data") as handle:
        handle.seek(-4, 2)
        assert handle.read() == DATA[-4:]
    with pytest.raises(FileNotFoundError):
        files.open("absent")


def test_it_travels_to_other_processes(files: Files) -> None:
    copy = pickle.loads(pickle.dumps(files))
    assert (copy.location, copy.local) == (files.location, files.local)
    assert copy.read("deep/data", 10, 20) == DATA[10:20]
