# SPDX-License-Identifier: Apache-2.0
"""What a first look at a remote atlas costs: requests and bytes, whatever the number of models."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import vectors
from servers.files import FileServer
from servers.http_base import LoopbackServer
from servers.hub import HubServer
from servers.hub_client import connected

import matteratlas as ma
from matteratlas.builders.adapters.base import Embedded
from matteratlas.builders.writer import UnitWriter
from matteratlas.registry.index import write_index

MODEL, SET, FIRST = "wide", "early", 1000
REPO = "matter/cold"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vectors.write_atlas(tmp_path_factory.mktemp("cold") / "few")


@pytest.fixture(scope="module")
def many(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same atlas with 57 further models, 60 in all."""
    root = Path(shutil.copytree(few, tmp_path_factory.mktemp("cold") / "many"))
    models, sets = vectors.cards()
    card = models["spare"]
    for i in range(57):
        with UnitWriter(
            root,
            card.model_copy(update={"id": f"further-{i:02d}"}),
            sets["late"],
            fingerprint="f",
            model_fingerprint="m",
            build_version="0",
        ) as writer:
            for name in vectors.ids("late")[:3]:
                writer.append(name, Embedded(pooled={"last": np.ones(8, np.float32)}))
            writer.finish()
    write_index(root)
    assert len(ma.open_atlas(root).index["models"]) == 60
    return root


Serve = Callable[[Path], Iterator[tuple[LoopbackServer, str]]]


@contextmanager
def over_http(root: Path) -> Iterator[tuple[LoopbackServer, str]]:
    with FileServer(root) as server:
        yield server, server.url


@contextmanager
def over_hub(root: Path) -> Iterator[tuple[LoopbackServer, str]]:
    files = [p for p in root.rglob("*") if p.is_file() and p.name != ".lock"]
    with HubServer() as hub, connected(hub):
        hub.create(REPO, {p.relative_to(root).as_posix(): p.read_bytes() for p in files})
        yield hub, f"hf://datasets/{REPO}@main"


def touched(root: Path) -> int:
    """Bytes of the chunks that hold the first rows and their ids, by the shards' own indices."""
    unit = ma.open_atlas(root).unit(MODEL, SET)
    total = 0
    for name, key in (("structure_id", "0"), (unit.record.default_layer, "0/0")):
        array = unit.arrays[name]
        assert array.chunk_rows >= FIRST
        data = (root / "embeddings.zarr" / MODEL / SET / name / "c" / key).read_bytes()
        total += int(np.frombuffer(data[-(16 * array.slots + 4) : -4], dtype="<u8")[1])
    return total


def asked(serve: Serve, root: Path) -> list[tuple[str, str, int]]:
    """Open, read, compare with the folder; origin, method and bytes of each request."""
    local = ma.open_atlas(root).read(MODEL, slice(0, FIRST))
    with serve(root) as (server, url):
        found = ma.open_atlas(url, cache=False).read(MODEL, slice(0, FIRST))
        log = [(one.origin, one.method, one.sent) for one in server.log]
    np.testing.assert_array_equal(found.to_numpy(), local.to_numpy())
    assert list(found["structure"].to_numpy()) == list(local["structure"].to_numpy())
    assert list(found["structure"].to_numpy()) == vectors.ids(SET)[:FIRST]
    return log


@pytest.mark.parametrize(("serve", "limit"), [(over_http, 6), (over_hub, 10)], ids=["http", "hub"])
def test_a_cold_open_and_its_first_rows(few: Path, many: Path, serve: Serve, limit: int) -> None:
    logs = [asked(serve, root) for root in (few, many)]
    for log, root in zip(logs, (few, many), strict=True):
        assert 4 <= len(log) <= limit
        assert {method for _, method, _ in log} == {"GET"}
        assert touched(root) < sum(sent for *_, sent in log) <= 1.3 * touched(root)
    assert [one[:2] for one in logs[0]] == [one[:2] for one in logs[1]]


def test_opening_reads_the_index_alone(many: Path) -> None:
    with over_http(many) as (server, url):
        atlas = ma.open_atlas(url, cache=False)
        assert [one.path for one in server.log] == ["/atlas.json"]
        assert len(atlas.units) == 2 * 2 + 1 + 57 and len(server.log) == 1


def test_what_was_read_is_not_asked_for_again(few: Path, tmp_path: Path) -> None:
    with over_http(few) as (server, url):
        first = ma.open_atlas(url, cache=tmp_path).read(MODEL, slice(0, FIRST))
        server.clear()
        again = ma.open_atlas(url, cache=tmp_path).read(MODEL, slice(0, FIRST))
        assert [one.path for one in server.log] == ["/atlas.json"]
    np.testing.assert_array_equal(first.to_numpy(), again.to_numpy())
