# SPDX-License-Identifier: Apache-2.0
"""Replies are read as far as they may go: what is declared, or a stated maximum."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers import faults
from servers.faults import Fault
from servers.files import FileServer

from matteratlas.registry import hub, streams
from matteratlas.schemas.errors import ArchiveError, AtlasError, SourceError

DATA = bytes(range(256)) * 40
LONG = faults.replace(b"x" * 2_000_000)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PAUSE", 0.0)
    monkeypatch.setattr(hub, "TRIES", 2)
    monkeypatch.setattr(streams, "MOST_BYTES", 100_000)


def read(folder: Path, fault: Fault | None, *asked: int, size: int | None = None) -> bytes:
    (folder / "data").write_bytes(DATA)
    with FileServer(folder) as server:
        server.fault = lambda request: fault
        fs, root = hub.filesystem(server.url)
        return hub.fetch(fs, f"{root}/data", *asked, size=size)


def test_what_fits_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, None) == DATA == read(tmp_path, None, size=len(DATA))
    assert read(tmp_path, None, 10, 20) == DATA[10:20]
    assert read(tmp_path, None, 10) == DATA[10:]


@pytest.mark.parametrize("honest", [True, False])
def test_more_than_declared(tmp_path: Path, honest: bool) -> None:
    """Named with both sizes; of what comes without a length no more is read than tells."""
    headers = {} if honest else {"Transfer-Encoding": "chunked"}
    assert LONG.edit is not None
    fault = Fault("long", edit=LONG.edit, headers=headers)
    with pytest.raises((ArchiveError, SourceError)) as error:
        read(tmp_path, fault, size=len(DATA))
    if honest:
        assert "2000000 bytes, 10240 are declared" in str(error.value)


def test_more_than_is_read_of_what_nothing_declares(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"/data: larger than 100,000 bytes.*; check the loc"):
        read(tmp_path, LONG)


def test_more_than_the_range(tmp_path: Path) -> None:
    """Tried again, as other wrong ranges are, then told."""
    with pytest.raises(AtlasError, match="range") as error:
        read(tmp_path, Fault("long", status=206, edit=LONG.edit,
                             headers={"Content-Range": "bytes 10-19/10240"}), 10, 20)  # fmt: skip
    assert "\n" not in str(error.value)


def test_long_errors_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="HTTP 418"):
        read(tmp_path, Fault("long", status=418, edit=LONG.edit))
    with pytest.raises(FileNotFoundError):
        read(tmp_path, Fault("long", status=404, edit=LONG.edit))
