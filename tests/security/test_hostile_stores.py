# SPDX-License-Identifier: Apache-2.0
"""Stores whose hashes are right: metadata that lie, chunks that unpack to more than they should."""

from __future__ import annotations

import base64
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from numcodecs import blosc, zstd

from matteratlas.registry.files import Files
from matteratlas.registry.packages import _unpack
from matteratlas.registry.shards import ShardedArray, _zstd_size
from matteratlas.schemas.archive import CHECKSUMS
from matteratlas.schemas.errors import ArchiveError


def shard(body: bytes) -> tuple[bytes, str]:
    """A shard of one chunk and what its array's metadata say of it."""
    crc = google_crc32c.value(body)
    index = (0).to_bytes(8, "little") + (len(body) + 4).to_bytes(8, "little")
    tag = google_crc32c.value(index)
    data = body + crc.to_bytes(4, "little") + index + tag.to_bytes(4, "little")
    return data, base64.b64encode(np.array([tag, crc, len(body) + 4], "<u4").tobytes()).decode()


def array(
    folder: Path, body: bytes, *, rows: int = 8, text: bool = False,
    change: Callable[[dict[str, Any]], Any] | None = None,
) -> ShardedArray:  # fmt: skip
    data, tag = shard(body)
    key = "c/0" if text else "c/0/0"
    (folder / "x" / key).parent.mkdir(parents=True, exist_ok=True)
    (folder / "x" / key).write_bytes(data)
    shape = [rows] if text else [rows, 4]
    packed = (
        [{"name": "vlen-utf8"}, {"name": "zstd"}]
        if text
        else [{"name": "bytes"}, {"name": "blosc"}]
    )
    inner = {"chunk_shape": shape, "codecs": [*packed, {"name": "crc32c"}], "index_location": "end"}
    metadata = {
        "shape": list(shape),
        "data_type": "string" if text else "float32",
        "chunk_grid": {"configuration": {"chunk_shape": list(shape)}},
        "codecs": [{"name": "sharding_indexed", "configuration": inner}],
        "attributes": {CHECKSUMS: [tag]},
    }  # fmt: skip
    if change:
        change(metadata)
    return ShardedArray(Files(str(folder)), "x", metadata, {f"x/{key}": (len(data), "0" * 64)})


RAW = np.arange(32, dtype="<f4").tobytes()
GOOD = blosc.Blosc("zstd").encode(
    np.arange(32, dtype="<f4")
)  # fmt: skip


def test_the_sound_one_is_read(tmp_path: Path) -> None:
    assert array(tmp_path, bytes(GOOD)).read().tobytes() == RAW


def _at(*way: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(doc: Any) -> None:
        for key in way[:-1]:
            doc = doc[key]
        doc[way[-1]] = to

    return change


INNER = ("codecs", 0, "configuration")


@pytest.mark.parametrize(
    "change",
    [
        _at("shape", to=[10**15, 4]), _at("shape", to=[-8, 4]), _at("shape", to=[8, 10**9]),
        _at("shape", to=[]), _at("shape", to=[8, 4, 1]), _at("shape", to="8"),
        _at("data_type", to="object"), _at("data_type", to="O"), _at("data_type", to="V1000000000"),
        _at("data_type", to="M8[ns]"), _at("data_type", to={"name": "numpy.void"}),
        _at("chunk_grid", "configuration", "chunk_shape", to=[10**15, 4]),
        _at("chunk_grid", "configuration", "chunk_shape", to=[0, 4]),
        _at("chunk_grid", "configuration", "chunk_shape", to=[8, 2]),
        _at(*INNER, "chunk_shape", to=[0, 4]), _at(*INNER, "chunk_shape", to=[-8, 4]),
        _at(*INNER, "chunk_shape", to=[10**15, 4]), _at(*INNER, "chunk_shape", to=[3, 4]),
        _at(*INNER, "codecs", 0, "name", to="numcodecs.pickle"),
        _at(*INNER, "codecs", 1, "name", to="numcodecs.json2"), _at(*INNER, "codecs", to=[]),
        _at(*INNER, "index_location", to="start"), _at("codecs", to=[{"name": "pickle"}]),
        _at("attributes", CHECKSUMS, to=["!!"]), _at("attributes", CHECKSUMS, to=[]),
        _at("attributes", CHECKSUMS, to=[base64.b64encode(b"\xff" * 12).decode()]),
        _at("attributes", CHECKSUMS, to=3), _at("attributes", to=None),
    ],
)  # fmt: skip
def test_metadata_that_lie_are_refused_before_anything_is_read(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(ArchiveError, match="metadata is damaged or foreign") as error:
        array(tmp_path, bytes(GOOD), change=change)
    assert str(error.value).isprintable()


def _header(at: int, value: int) -> bytes:
    data = bytearray(GOOD)
    data[at : at + 4] = value.to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize(
    "body",
    [_header(4, 2**31 - 1), _header(4, 0), _header(4, 2**32 - 1), _header(12, 2**31 - 1),
     _header(12, 16), _header(8, 0), _header(8, 2**31), bytes(GOOD)[:16], bytes(GOOD)[:-1],
     b"", b"\x02\x01",
     bytes(blosc.Blosc("zstd").encode(np.zeros(2**24, "<f4"))), pickle.dumps({"a": 1}),
     b"\xff" * 64],
)  # fmt: skip
def test_blosc_chunks_that_claim_another_size(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"x/c/0/0: a chunk"):
        array(tmp_path, body).read()


def _texts(count: int, *texts: bytes) -> bytes:
    parts = [len(t).to_bytes(4, "little") + t for t in texts]
    return count.to_bytes(4, "little") + b"".join(parts)


@pytest.mark.parametrize(
    "raw",
    [_texts(2**32 - 1, b"a"), _texts(2**31 - 1), _texts(7, *[b"a"] * 7), _texts(9, *[b"a"] * 9),
     _texts(8, *[b"\xff"] * 8), _texts(8, b"a"), b"", b"\x08\x00",
     (8).to_bytes(4, "little") + b"\xff" * 32, bytes(2**27)],
)  # fmt: skip
def test_texts_that_claim_more_than_there_is(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"x/c/0: a chunk cannot be decoded"):
        array(tmp_path, bytes(zstd.compress(raw, 3)), text=True).read()


def test_sizes_of_zstd_frames_are_read_as_the_library_reads_them() -> None:
    for size in (0, 1, 255, 256, 257, 65_791, 65_792, 2**20):
        assert _zstd_size(bytes(zstd.compress(b"x" * size, 3))[:18]) == size
    assert _zstd_size(b"") is None and _zstd_size(b"\x28\xb5\x2f\xfd\x00\x58") is None


def _zip(path: Path, *names: str, data: bytes = b"x") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name in names:
            bundle.writestr(name, data)
    return path


def _tar(path: Path, name: str, **facts: Any) -> Path:
    with tarfile.open(path, "w:gz") as bundle:
        member = tarfile.TarInfo(name)
        for key, value in facts.items():
            setattr(member, key, value)
        bundle.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def test_package_archives_stay_in_their_folder(tmp_path: Path) -> None:
    """Members that would leave it are refused by name, and nothing lies outside."""
    inside = tmp_path / "in"
    inside.mkdir()
    bad = [
        _zip(inside / "a.whl", "../victim"), _zip(inside / "b.whl", "/victim"),
        _zip(inside / "c.zip", "a/../../victim"), _tar(inside / "d.tar.gz", "../victim", size=1),
        _tar(inside / "e.tar.gz", "x", type=tarfile.SYMTYPE, linkname="../../victim"),
        _tar(inside / "f.tar.gz", "x", type=tarfile.LNKTYPE, linkname="../../victim"),
        _tar(inside / "g.tar.gz", "x", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        _tar(inside / "h.tar.gz", "x", type=tarfile.CHRTYPE),
        _tar(inside / "i.tar.gz", "x", type=tarfile.FIFOTYPE),
    ]  # fmt: skip
    for archive in bad:
        with pytest.raises((ValueError, tarfile.TarError)):
            _unpack(archive, tmp_path / "out" / archive.name)
    assert not list(tmp_path.rglob("victim"))


def test_package_archives_that_unpack_to_far_too_much(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unpacks to"):
        _unpack(_zip(tmp_path / "a.whl", "z", data=bytes(2**28)), tmp_path / "out")
    _unpack(_zip(tmp_path / "b.whl", "z", data=b"y"), tmp_path / "fine")
    assert (tmp_path / "fine" / "z").read_bytes() == b"y"
