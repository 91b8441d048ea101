# SPDX-License-Identifier: Apache-2.0
"""Reading over HTTP: ranges, faults on the way, and what is said of them."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from remote_tools import DATA, Odd, one_line
from servers import faults
from servers.faults import Fault
from servers.files import FileServer
from servers.http_base import Answer, Held, LoopbackServer

from matteratlas.registry import hub as network
from matteratlas.schemas.errors import ArchiveError, SourceError


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between tries, recorded instead of slept."""
    seen: list[float] = []
    monkeypatch.setattr(network, "time", SimpleNamespace(sleep=seen.append))
    return seen


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "data.bin").write_bytes(DATA)
    (folder / "empty").write_bytes(b"")
    with FileServer(folder) as server:
        yield server


@pytest.fixture
def web(files: FileServer) -> Iterator[FileServer]:
    files.clear()
    yield files
    files.fault = None


def opened(server: LoopbackServer) -> tuple[Any, str]:
    fs, root = network.filesystem(server.url)
    return fs, f"{root}/data.bin"


def asked(server: LoopbackServer) -> list[str]:
    return [f"{one.method} {one.range or 'all'}" for one in server.log]


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_ranges_are_slices_in_one_request(files: FileServer, data: st.DataObject) -> None:
    start = data.draw(st.none() | st.integers(0, len(DATA) - 1))
    stop = data.draw(st.none() | st.integers(start or 0, len(DATA)))
    fs, path = opened(files)
    files.clear()
    assert network.fetch(fs, path, start, stop, size=len(DATA)) == DATA[start:stop]
    assert len(files.log) == (0 if stop is not None and stop == (start or 0) else 1)
    assert all(one.method == "GET" for one in files.log)
    assert files.sent() == len(DATA[start:stop])


@pytest.mark.parametrize("bad", [(-1, None), (None, -1), (5, 4)])
def test_ranges_that_are_none(web: FileServer, bad: tuple[int | None, int | None]) -> None:
    with pytest.raises(ValueError, match="give absolute, rising positions"):
        network.fetch(*opened(web), *bad)
    assert not web.log


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "fault",
    [faults.cut(), faults.cut(3000), faults.truncate(3000), faults.shorten(3000), faults.refuse(),
     faults.fail(500), faults.fail(503), faults.fail(408), faults.rate_limit(0)],
    ids=lambda fault: fault.name,
)  # fmt: skip
def test_faults_that_pass(web: FileServer, waits: list[float], fault: Fault, whole: bool) -> None:
    web.fault = faults.plan(fault, times=2)
    fs, path = opened(web)
    start, stop = (None, None) if whole else (1000, 9000)
    assert network.fetch(fs, path, start, stop, size=len(DATA)) == DATA[start:stop]
    assert len(web.log) == 3
    if fault.name == "refuse":  # aiohttp itself knocks again at a door closed without a word
        assert len(waits) == 1
    else:
        assert 0.25 <= waits[0] <= 0.75 and 0.5 <= waits[1] <= 1.5 and len(waits) == 2


@pytest.mark.parametrize(
    ("fault", "match", "error"),
    [
        (faults.fail(500), r"HTTP 500 \(tried 5 times\); try again later", SourceError),
        (faults.cut(100), r"\(tried 5 times\); check the network", SourceError),
        (faults.refuse(), r"disconnected.*\(tried 5 times\); check the network", SourceError),
        (faults.shorten(10), r"sent 10 .*\(tried 5 times\)", (SourceError, ArchiveError)),
        (faults.rate_limit(2), r"rate limit of 3000 requests in 300 s \(tried 5", SourceError),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("whole", [True, False])
def test_faults_that_stay(
    web: FileServer, waits: list[float], fault: Fault, match: str, error: Any, whole: bool
) -> None:
    web.fault = faults.plan(fault)
    fs, path = opened(web)
    with pytest.raises(error, match=match) as caught:
        network.fetch(fs, path, None if whole else 0, None if whole else 500, size=len(DATA))
    assert one_line(caught).startswith(path)
    assert len(waits) == 4
    assert 5 <= len(web.log) <= (10 if fault.name == "refuse" else 5)


def test_a_file_shorter_than_asked_is_no_passing_fault(web: FileServer, waits: list[float]) -> None:
    fs, path = opened(web)
    for start, stop in ((0, 20_001), (19_999, 20_001), (20_000, 20_001), (30_000, None)):
        web.clear()
        with pytest.raises(ArchiveError, match="the file is truncated, fetch or build") as caught:
            network.fetch(fs, path, start, stop)
        assert len(web.log) == 1 and one_line(caught).startswith(path)
    for start, stop in ((None, None), (0, 10)):
        with pytest.raises(ArchiveError, match="has 20000 bytes, 19999 are declared"):
            network.fetch(fs, path, start, stop, size=19_999)
    assert not waits


def test_an_empty_file(web: FileServer) -> None:
    fs, root = network.filesystem(web.url)
    assert network.fetch(fs, f"{root}/empty") == b"" == network.fetch(fs, f"{root}/empty", size=0)


def test_a_server_that_knows_no_ranges(caplog: pytest.LogCaptureFixture) -> None:
    with Odd() as server:
        server.say = lambda request: Answer(200, Held(DATA))
        fs, path = opened(server)
        for start, stop in ((0, 10), (500, 20_000), (19_000, None)):
            assert network.fetch(fs, path, start, stop) == DATA[start:stop]
        with pytest.raises(ArchiveError, match="ends before byte 20001"):
            network.fetch(fs, path, 0, 20_001)
    (said,) = caplog.records
    assert "ignores byte ranges" in said.getMessage() and said.name == "matteratlas"


@pytest.mark.parametrize("header", ["bytes 5-14/20000", "bytes */20000", "", "bytes 0-9/*"])
def test_a_server_that_answers_another_range(waits: list[float], header: str) -> None:
    with Odd() as server:
        server.say = lambda request: Answer(206, Held(DATA[:10]), {"Content-Range": header})
        fs, path = opened(server)
        if header == "bytes 0-9/*":
            assert network.fetch(fs, path, 0, 10) == DATA[:10]
            return
        with pytest.raises(SourceError, match="sent 10 bytes for the range 0:10"):
            network.fetch(fs, path, 0, 10)
        assert len(server.log) == 5


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After": "date"}, 28, 30),
        ({"RateLimit": '"api";r=0;t=55'}, 55, 55),
        ({"Retry-After": "soon"}, 0.25, 0.75),
    ],
)
def test_the_server_says_how_long(
    waits: list[float],
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str],
    least: float,
    most: float,
) -> None:
    if headers.get("Retry-After") == "date":
        later = datetime.now(UTC) + timedelta(seconds=30)
        headers = {"Retry-After": format_datetime(later, usegmt=True)}
    with Odd() as server:
        server.say = lambda r: (
            Answer(429, headers=headers) if r.nth % 2 else Answer(200, Held(DATA))
        )
        fs, path = opened(server)
        assert [network.fetch(fs, path) for _ in range(3)] == [DATA] * 3
    assert len(waits) == 3 and all(least <= wait <= most for wait in waits)
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == (0 if headers.get("Retry-After") == "soon" else 1)
    assert all("HTTP 429" in text and "waiting" in text and "127.0.0.1" in text for text in said)


def test_a_wait_beyond_reason_is_not_waited(waits: list[float]) -> None:
    with Odd() as server:
        server.say = lambda request: Answer(429, headers={"Retry-After": "86400"})
        with pytest.raises(SourceError, match=r"HTTP 429, rate limit \(tried once\)"):
            network.fetch(*opened(server))
    assert not waits


def test_waiting_is_heard_by_default(web: FileServer, capfd: pytest.CaptureFixture[str]) -> None:
    """Without any logging set up, the notice is on stderr."""
    web.fault = faults.plan(faults.rate_limit(0), times=1)
    logger = logging.getLogger("matteratlas")
    root, held = logging.getLogger(), list(logging.getLogger().handlers)
    for handler in held:
        root.removeHandler(handler)
    try:
        network.fetch(*opened(web))
    finally:
        for handler in held:
            root.addHandler(handler)
    assert not logger.handlers
    assert "asks to wait" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("status", "error", "match"),
    [
        (401, SourceError, "HTTP 401, access denied"),
        (403, SourceError, "HTTP 403, access denied"),
        (404, FileNotFoundError, "no such file"),
        (410, FileNotFoundError, "no such file"),
        (418, SourceError, "HTTP 418; check the location"),
    ],
)
def test_refusals_are_final(
    web: FileServer, waits: list[float], status: int, error: Any, match: str
) -> None:
    web.fault = faults.plan(faults.fail(status))
    with pytest.raises(error, match=match) as caught:
        network.fetch(*opened(web))
    assert "data.bin" in one_line(caught) and len(web.log) == 1 and not waits


def test_nothing_listens(waits: list[float]) -> None:
    with FileServer(Path()) as server:
        url = server.url
    fs, root = network.filesystem(url.replace("127.0.0.1", "me:s3cret@127.0.0.1"))
    with pytest.raises(SourceError, match=r"tried 5 times\); check the network") as caught:
        network.fetch(fs, f"{root}/f")
    assert "s3cret" not in one_line(caught) and str(caught.value).startswith(url)


def test_a_redirect_without_end() -> None:
    with Odd() as server:
        server.say = lambda request: Answer(302, headers={"Location": f"{request.path}?key=s3cret"})
        with pytest.raises(SourceError, match="TooManyRedirects") as caught:
            network.fetch(*opened(server))
    assert "s3cret" not in one_line(caught) and caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_redirect_that_cannot_be_followed() -> None:
    """A signed address is as good as a password."""
    with Odd() as server:
        elsewhere = {"Location": "ftp://elsewhere/f?Signature=s3cret&x=1"}
        server.say = lambda request: Answer(302, headers=elsewhere)
        with pytest.raises(SourceError, match=r"ftp://elsewhere/f.*check the URL") as caught:
            network.fetch(*opened(server))
    assert "s3cret" not in one_line(caught) and caught.value.__suppress_context__


def test_many_threads(web: FileServer) -> None:
    fs, path = opened(web)
    spans = [(i * 150, i * 150 + 1000) for i in range(100)]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda span: network.fetch(fs, path, *span), spans))
    assert got == [DATA[a:b] for a, b in spans] and len(web.log) == 100


def read_in_child(fs: Any, path: str, answers: Any) -> None:
    answers.put([network.fetch(fs, path, 10, 20), network.fetch(fs, path, 30, 40)])


def test_after_a_fork(web: FileServer) -> None:
    """Loaders of training data fork; a connection shared by two processes would mix answers."""
    fs, path = opened(web)
    network.fetch(fs, path, 0, 10)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=read_in_child, args=(fs, path, answers))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert answers.get() == [DATA[10:20], DATA[30:40]]
    assert network.fetch(fs, path, 50, 60) == DATA[50:60]


def test_a_handle_reads_blocks(web: FileServer) -> None:
    fs, path = opened(web)
    with network.open_file(fs, path, size=len(DATA), block=4096) as handle:
        assert not web.log
        assert handle.seekable() and handle.readable() and not handle.writable()
        handle.seek(-100, 2)
        assert handle.read() == DATA[-100:]
        handle.seek(5000)
        assert handle.read(10) == DATA[5000:5010] and handle.tell() == 5010
        handle.seek(10, 1)
        assert handle.read(10) == DATA[5020:5030]
        handle.seek(30_000)
        assert handle.read(10) == b""
        with pytest.raises(ValueError, match="position -1"):
            handle.seek(-1)
    assert asked(web) == ["GET bytes=19900-19999", "GET bytes=5000-9095"]
    with network.open_file(fs, path, size=len(DATA), block=4096) as handle:
        assert handle.read() == DATA


def test_proxies_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Odd() as proxy:
        proxy.say = lambda request: Answer(200, Held(DATA))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", proxy.url)
        fs, root = network.filesystem("http://atlas.invalid/folder")
        assert network.fetch(fs, f"{root}/f") == DATA
        (asked_for,) = proxy.log
        assert asked_for.headers["host"] == "atlas.invalid"
