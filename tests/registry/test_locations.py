# SPDX-License-Identifier: Apache-2.0
"""Folders, releases, other file systems and an object store."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from remote_tools import DATA, one_line
from servers.files import FileServer

from matteratlas.registry import hub as network
from matteratlas.schemas.errors import ArchiveError, MissingExtraError, SourceError


def releases(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    (folder / "releases.json").write_text(json.dumps({"releases": names}))
    for name in names:
        (folder / name).mkdir()
        (folder / name / "which").write_text(name)
    return folder


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("latest", "1.3.0-rc.1"), ("stable", "1.2.0"), ("1.0.0", "1.0.0"), ("v1.2.0", "1.2.0")],
)
def test_releases_of_a_folder_and_of_its_server(tmp_path: Path, wanted: str, found: str) -> None:
    folder = releases(tmp_path / "atlas", ["1.0.0", "1.2.0", "1.3.0-rc.1"])
    assert network.pinned(f"{folder}@{wanted}") == f"{folder}/{found}"
    fs, root = network.filesystem(f"{folder}@{wanted}")
    assert "file" in fs.protocol and network.fetch(fs, f"{root}/which") == found.encode()
    with FileServer(folder) as server:
        fs, root = network.filesystem(f"{server.url}/@{wanted}")
        assert root == f"{server.url}/{found}"
        assert [one.path for one in server.log] == ["/releases.json"]
        assert network.fetch(fs, f"{root}/which") == found.encode()


def test_what_stays_as_it_is(tmp_path: Path) -> None:
    named = tmp_path / "atlas@1.2.0"
    named.mkdir()
    for location in (str(named), str(tmp_path / "absent"), "http://host/a", "s3://bucket/a@b/c"):
        assert network.pinned(location) == location
    assert network.filesystem(str(named))[1] == str(named)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "has no releases.json to look 'latest' up in; name the folder"),
        ("[]", "not a list of versions"),
        ("{", "not a list of versions"),
        ('{"releases": ["1.0"]}', "'1.0' is not a semantic version"),
        ('{"releases": ["../1.0.0"]}', "is not a semantic version"),
        ('{"releases": [7]}', "not a list of versions"),
        ('{"releases": []}', "has no release 'latest'; it lists none"),
    ],
)
def test_releases_that_cannot_be_told(tmp_path: Path, content: str | None, match: str) -> None:
    if content is not None:
        (tmp_path / "releases.json").write_text(content)
    with pytest.raises(SourceError, match=re.escape(match)) as caught:
        network.pinned(f"{tmp_path}@latest")
    assert str(tmp_path) in one_line(caught)


def test_release_that_is_not_listed(tmp_path: Path) -> None:
    folder = releases(tmp_path / "atlas", ["1.0.0", "1.2.0"])
    with pytest.raises(SourceError, match=r"has no release '1\.2\.1'; it lists 1\.2\.0") as caught:
        network.filesystem(f"{folder}@1.2.1")
    one_line(caught)


def test_any_other_place_fsspec_knows(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/place/1.0.0/f": DATA, "/place/releases.json": b'{"releases": ["1.0.0"]}'})
    (tmp_path / "f").write_bytes(DATA)
    for location in ("memory://place@latest", f"file://{tmp_path}"):
        fs, root = network.filesystem(location)
        assert network.fetch(fs, f"{root}/f") == DATA
        assert network.fetch(fs, f"{root}/f", 5, 9) == DATA[5:9]
        assert network.fetch(fs, f"{root}/f", 19_990) == DATA[19_990:]
        assert network.fetch(fs, f"{root}/f", size=20_000) == DATA
        with pytest.raises(FileNotFoundError, match="none: no such file"):
            network.fetch(fs, f"{root}/none")
        with pytest.raises(ArchiveError, match="ends before byte 20001; the file is truncated"):
            network.fetch(fs, f"{root}/f", 0, 20_001)
        with pytest.raises(ArchiveError, match="has 20000 bytes, 7 are declared"):
            network.fetch(fs, f"{root}/f", size=7)


@pytest.mark.parametrize(
    ("location", "match"),
    [
        ("nonsense://x/y", "nonsense://x/y: Protocol not known"),
        ("http://me:pw@host/a?token=s3cret", "http://host/a: files are found below a plain URL"),
        ("hf://matter/atlas", "write hf://datasets/ORG/NAME"),
        ("hf://datasets/atlas", "write hf://datasets/ORG/NAME"),
        ("hf://datasets/a/b@", "write hf://datasets/ORG/NAME"),
    ],
)
def test_locations_that_are_none(location: str, match: str) -> None:
    with pytest.raises(SourceError, match=match) as caught:
        network.filesystem(location)
    assert "s3cret" not in one_line(caught) and "pw" not in str(caught.value)


def test_s3_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for scheme in ("s3", "s3a"):
        monkeypatch.delitem(fsspec.registry, scheme, raising=False)  # type: ignore[arg-type]
    with pytest.raises(MissingExtraError, match=r"'s3fs' is not installed.*matteratlas\[s3\]"):
        network.filesystem("s3://bucket/atlas")


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """A bucket that the real client sees; yields its file system."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "s3cret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        fs, _ = network.filesystem("s3://atlases/x")
        assert isinstance(fs, s3fs.S3FileSystem)
        fs.call_s3("create_bucket", Bucket="atlases")
        fs.pipe(
            {
                "atlases/set/1.0.0/data.bin": DATA,
                "atlases/set/1.0.0/empty": b"",
                "atlases/set/releases.json": b'{"releases": ["0.9.0", "1.0.0"]}',
            }
        )
        yield fs
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_s3(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    call = type(bucket)._call_s3

    async def counted(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        calls.append(method)
        return await call(self, method, *args, **kwargs)

    monkeypatch.setattr(type(bucket), "_call_s3", counted)
    fs, root = network.filesystem("s3://atlases/set/@latest")
    assert root == "atlases/set/1.0.0"
    assert network.fetch(fs, f"{root}/data.bin") == DATA
    assert network.fetch(fs, f"{root}/data.bin", 100, 300) == DATA[100:300]
    assert network.fetch(fs, f"{root}/data.bin", 19_000, size=20_000) == DATA[19_000:]
    assert network.fetch(fs, f"{root}/empty") == b""
    assert calls == ["get_object"] * 5  # releases.json and one for each read
    with network.open_file(fs, f"{root}/data.bin", size=len(DATA)) as handle:
        assert handle.read() == DATA


def test_s3_that_fails(bucket: Any) -> None:
    fs, root = network.filesystem("s3://atlases/set/1.0.0/")
    for path in (f"{root}/none", "nobucket/none"):
        with pytest.raises(FileNotFoundError, match=r"none: no such file"):
            network.fetch(fs, path)
    for start, stop in ((0, 20_001), (20_000, 20_001), (30_000, None)):
        with pytest.raises(ArchiveError, match="the file is truncated"):
            network.fetch(fs, f"{root}/data.bin", start, stop)
    with pytest.raises(ArchiveError, match="has 20000 bytes, 5 are declared"):
        network.fetch(fs, f"{root}/data.bin", size=5)
    with pytest.raises(ArchiveError, match="the file is truncated"):
        network.fetch(fs, f"{root}/empty", size=5)


def test_s3_that_is_not_there(monkeypatch: pytest.MonkeyPatch, bucket: Any) -> None:
    with FileServer(Path()) as server:
        url = server.url
    monkeypatch.setattr(type(bucket), "retries", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    type(bucket).clear_instance_cache()
    fs, root = network.filesystem("s3://atlases/set")
    with pytest.raises(SourceError, match="check the network and the credentials") as caught:
        network.fetch(fs, f"{root}/data.bin", 0, 5)
    assert "s3cret" not in one_line(caught)
    type(bucket).clear_instance_cache()
