# SPDX-License-Identifier: Apache-2.0
"""Weights from an address on loopback: fetched once and whole, or refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import faults
from servers.files import FileServer

from matteratlas.registry import hub as network
from matteratlas.schemas.errors import SourceError

WEIGHTS = bytes(range(256)) * 8_000


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MATTERATLAS_DOWNLOADS", "1")
    monkeypatch.setenv("MATTERATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    folder = tmp_path / "public"
    folder.mkdir()
    (folder / "model-v1.ckpt").write_bytes(WEIGHTS)
    with FileServer(folder) as server:
        yield server


def refusal(url: str) -> str:
    with pytest.raises(SourceError) as caught:
        network.model_url(url)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(f"{url}: ")
    return text.removeprefix(f"{url}: ")


def in_the_cache(tmp_path: Path) -> list[Path]:
    return [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_fetched_once_and_whole(server: FileServer, tmp_path: Path) -> None:
    url = f"{server.url}/model-v1.ckpt"
    path = network.model_url(url)
    assert path.name == "model-v1.ckpt" and path.read_bytes() == WEIGHTS
    assert in_the_cache(tmp_path) == [path]
    assert server.sent(method="GET") == len(WEIGHTS)
    assert network.model_url(url) == path
    assert server.sent(method="GET") == len(WEIGHTS)


def test_the_same_name_elsewhere_is_another_file(server: FileServer, tmp_path: Path) -> None:
    other = tmp_path / "public" / "other"
    other.mkdir()
    (other / "model-v1.ckpt").write_bytes(b"another")
    first = network.model_url(f"{server.url}/model-v1.ckpt")
    second = network.model_url(f"{server.url}/other/model-v1.ckpt")
    assert (first.read_bytes(), second.read_bytes()) == (WEIGHTS, b"another")


def test_nothing_is_asked_without_leave(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = f"{server.url}/model-v1.ckpt"
    monkeypatch.delenv("MATTERATLAS_DOWNLOADS")
    text = refusal(url)
    assert text.startswith("not in the cache; allow its download with --download")
    monkeypatch.setenv("MATTERATLAS_DOWNLOADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE forbids the network" in refusal(url)
    assert not server.sent() and not in_the_cache(tmp_path)
    # The file put where the refusal says is taken as it is.
    place = Path(text.rpartition(" at ")[2])
    place.parent.mkdir(parents=True)
    place.write_bytes(WEIGHTS)
    assert network.model_url(url) == place


def test_what_is_not_there(server: FileServer, tmp_path: Path) -> None:
    assert refusal(f"{server.url}/nothing.ckpt") == "HTTP 404; check the address, or try later"
    address = server.url
    server.close()
    assert refusal(f"{address}/model-v1.ckpt").endswith(
        "check the network and the disk, and try again"
    )
    assert not in_the_cache(tmp_path)


@pytest.mark.parametrize(
    "fault", [faults.cut(1_000), faults.truncate(70_000)], ids=["cut", "short"]
)
def test_half_a_file_is_none(server: FileServer, tmp_path: Path, fault: faults.Fault) -> None:
    url = f"{server.url}/model-v1.ckpt"
    server.fault = faults.plan(fault)
    assert "try again" in refusal(url)
    assert not in_the_cache(tmp_path)
    server.fault = None
    assert network.model_url(url).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    "url",
    ["file:///weights.ckpt", "https://example.org/", "https://example.org/..", "weights.ckpt"],
)
def test_addresses_of_no_file(url: str) -> None:
    assert refusal(url) == "not the http(s) address of a file; mend the card's path"
