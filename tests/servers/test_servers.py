# SPDX-License-Identifier: Apache-2.0
"""The servers that tests trust: files, ranges, the log, and every planned fault."""

from __future__ import annotations

import http.client
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import faults
from servers.faults import Fault
from servers.files import FileServer
from servers.http_base import Request, chosen_range

DATA = bytes(range(256)) * 40


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    folder = tmp_path / "served"
    (folder / "deep er").mkdir(parents=True)
    (folder / "data.bin").write_bytes(DATA)
    (folder / "empty").touch()
    (folder / "deep er" / "ä.txt").write_text("far")
    (tmp_path / "secret").write_text("not served")
    with FileServer(folder) as running:
        yield running


def ask(
    server: FileServer, path: str, *, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body, by the plainest client there is."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=names)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found, answer.read()
    finally:
        connection.close()


def test_whole_files(server: FileServer) -> None:
    status, headers, body = ask(server, "/data.bin")
    assert (status, body) == (200, DATA)
    assert headers["content-length"] == str(len(DATA)) and headers["accept-ranges"] == "bytes"
    assert ask(server, "/data.bin", method="HEAD") == (200, headers, b"")
    assert ask(server, "/deep%20er/%C3%A4.txt")[2] == b"far"
    assert ask(server, "/empty")[::2] == (200, b"")
    assert [ask(server, path)[0] for path in ("/none", "/deep%20er", "/")] == [404] * 3
    assert ask(server, "/data.bin", method="POST")[0] == 405


def test_etag_follows_the_content(server: FileServer) -> None:
    tag = ask(server, "/data.bin")[1]["etag"]
    assert ask(server, "/data.bin")[1]["etag"] == tag
    assert ask(server, "/data.bin", If_None_Match=tag)[::2] == (304, b"")
    (server.folder / "data.bin").write_bytes(b"other")
    status, headers, body = ask(server, "/data.bin", If_None_Match=tag)
    assert (status, body) == (200, b"other") and headers["etag"] != tag


@pytest.mark.parametrize(
    ("header", "status", "start", "stop"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=5-99", 206, 5, 100),
        ("bytes=10200-", 206, 10200, len(DATA)),
        ("bytes=-7", 206, len(DATA) - 7, len(DATA)),
        ("bytes=-99999", 206, 0, len(DATA)),
        ("bytes=10-99999", 206, 10, len(DATA)),
        ("Bytes = 3 - 4", 206, 3, 5),
        ("bytes=10240-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=9-3", 200, 0, len(DATA)),
        ("bytes=-", 200, 0, len(DATA)),
        ("bytes=0-1,4-5", 200, 0, len(DATA)),
        ("rows=0-1", 200, 0, len(DATA)),
    ],
)
def test_ranges(server: FileServer, header: str, status: int, start: int, stop: int) -> None:
    found, headers, body = ask(server, "/data.bin", Range=header)
    assert (found, body) == (status, DATA[start:stop])
    assert headers["content-length"] == str(stop - start)
    says = {206: f"bytes {start}-{stop - 1}/{len(DATA)}", 416: f"bytes */{len(DATA)}", 200: None}
    assert headers.get("content-range") == says[status]
    (logged,) = server.log
    assert (logged.range, logged.status, logged.sent) == (header, status, stop - start)


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_range_is_a_slice(size: int, first: int, last: int) -> None:
    data = bytes(range(size))
    for header, expected in (
        (f"bytes={first}-{last}", data[first : last + 1]),
        (f"bytes={first}-", data[first:]),
        (f"bytes=-{last}", data[max(0, size - last) :] if last else b""),
    ):
        start, stop, status = chosen_range(header, size)
        if header == f"bytes={first}-{last}" and last < first:
            assert (start, stop, status) == (0, size, 200)
        else:
            assert data[start:stop] == expected
            assert status == (206 if expected else 416)


def test_nothing_outside_the_folder(server: FileServer, tmp_path: Path) -> None:
    (server.folder / "link").symlink_to(tmp_path / "secret")
    for path in ("/../secret", "/%2e%2e/secret", "/deep%20er/../../secret", "/link"):
        assert ask(server, path)[0] == 404, path


def test_log_and_what_it_counts(server: FileServer) -> None:
    ask(server, "/data.bin?x=1", Range="bytes=0-9")
    ask(server, "/data.bin", method="HEAD")
    ask(server, "/deep%20er/%C3%A4.txt")
    ask(server, "/none")
    ask(server, "/data.bin", Range="bytes=4-5")
    assert [(r.method, r.path, r.range, r.status, r.sent) for r in server.log] == [
        ("GET", "/data.bin", "bytes=0-9", 206, 10),
        ("HEAD", "/data.bin", None, 200, 0),
        ("GET", "/deep er/ä.txt", None, 200, 3),
        ("GET", "/none", None, 404, 9),
        ("GET", "/data.bin", "bytes=4-5", 206, 2),
    ]
    assert [r.nth for r in server.log] == [1, 1, 1, 1, 2]
    assert server.log[0].query == {"x": ["1"]}
    assert len(server.select(method="GET", path="*.bin")) == 2
    assert len(server.select(status=404)) == 1 and server.select(origin="cdn") == []
    assert server.sent(path="/data.bin") == 12
    server.clear()
    assert server.log == []


def test_real_filesystem_reads_what_it_asks_for(server: FileServer) -> None:
    remote = fsspec.filesystem("http", skip_instance_cache=True)
    place = f"{server.url}/data.bin"
    assert remote.cat_file(place, start=1000, end=1010) == DATA[1000:1010]
    (logged,) = server.log
    assert (logged.range, logged.status, logged.sent) == ("bytes=1000-1009", 206, 10)
    assert remote.info(place)["size"] == len(DATA)
    assert remote.cat_ranges([place] * 2, [0, 50], [5, 60]) == [DATA[:5], DATA[50:60]]


def test_many_clients_at_once(server: FileServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: ask(server, "/data.bin", Range=f"bytes={n}-{n}"),
                                range(200)))  # fmt: skip
    assert [body for _, _, body in answers] == [DATA[n : n + 1] for n in range(200)]
    assert sorted(r.nth for r in server.log) == list(range(1, 201))


def test_kept_connection_serves_again(server: FileServer) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    for _ in range(3):
        connection.request("GET", "/data.bin", headers={"Range": "bytes=0-3"})
        assert connection.getresponse().read() == DATA[:4]
    server.close()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        connection.request("GET", "/data.bin")
        connection.getresponse()
    with pytest.raises(ConnectionRefusedError):
        ask(server, "/data.bin")
    assert len(server.log) == 3


def test_chunked_uploads_are_read(tmp_path: Path) -> None:
    bodies: list[bytes] = []

    def keep(request: Request) -> None:
        bodies.append(request.body)

    with FileServer(tmp_path) as server:
        server.fault = keep
        wanted = urllib.request.Request(
            f"{server.url}/x", data=iter([b"ab", b"", b"cde"]), method="PUT"
        )
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(wanted, timeout=10)
    assert bodies == [b"abcde"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.cut(100), (ConnectionResetError, http.client.IncompleteRead)),
        (faults.cut(), (ConnectionResetError, http.client.IncompleteRead)),
        (faults.truncate(100), http.client.IncompleteRead),
        (faults.truncate(), http.client.IncompleteRead),
        (faults.refuse(), http.client.RemoteDisconnected),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_broken_transfers(server: FileServer, fault: Fault, error: Any) -> None:
    server.fault = faults.plan(fault, times=1)
    with pytest.raises(error) as caught:
        ask(server, "/data.bin")
    if isinstance(caught.value, http.client.IncompleteRead) and not fault.reset:
        assert caught.value.partial == DATA[: fault.keep]
        assert caught.value.expected == len(DATA) - (fault.keep or 0)
    assert server.log[0].fault == fault.name and server.log[0].sent == (fault.keep or 0)
    assert ask(server, "/data.bin")[2] == DATA


def test_a_cut_is_a_reset(server: FileServer) -> None:
    server.fault = faults.plan(faults.cut(10))
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"GET /data.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            while client.recv(4096):
                time.sleep(0.01)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (faults.shorten(100), lambda data: data[:100]),
        (faults.corrupt(7), lambda data: data[:7] + bytes([data[7] ^ 1]) + data[8:]),
        (faults.corrupt(-1, 0xFF), lambda data: data[:-1] + bytes([data[-1] ^ 0xFF])),
        (faults.replace(b"zeros"), lambda data: b"zeros"),
        (faults.drip(0.001, 1000), lambda data: data),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("span", [None, "bytes=100-299"])
def test_wrong_bodies_that_look_right(
    server: FileServer, fault: Fault, expected: Callable[[bytes], bytes], span: str | None
) -> None:
    server.fault = faults.plan(fault)
    whole = DATA if span is None else DATA[100:300]
    status, headers, body = ask(server, "/data.bin", **({"Range": span} if span else {}))
    assert body == expected(whole)
    assert status == (206 if span else 200)
    assert headers["content-length"] == str(len(body))
    assert server.log[0].sent == len(body)


def test_error_answers(server: FileServer) -> None:
    server.fault = faults.first_of(
        faults.plan(faults.rate_limit(3), path="/data*", times=1),
        faults.plan(faults.fail(503, Retry_After="9"), path="/data*", skip=1, times=1),
        faults.plan(faults.fail(500), path="/data*", skip=2, times=1),
    )
    answers = [ask(server, "/data.bin") for _ in range(4)]
    assert [status for status, _, _ in answers] == [429, 503, 500, 200]
    assert answers[0][1]["retry-after"] == "3"
    assert answers[0][1]["ratelimit"] == '"resolvers";r=0;t=3'
    assert answers[1][1]["retry-after"] == "9"
    assert b"planned fault" in answers[2][2] and answers[3][2] == DATA
    assert [r.fault for r in server.log] == ["rate limit", "fail 503", "fail 500", None]


def test_slow_answer_waits(server: FileServer) -> None:
    server.fault = faults.plan(faults.slow(0.2), method="HEAD")
    started = time.monotonic()
    assert ask(server, "/data.bin", method="HEAD")[0] == 200
    assert time.monotonic() - started >= 0.2


def test_plans_choose_their_requests(server: FileServer) -> None:
    server.fault = faults.plan(faults.fail(500), method="GET", path="*/ä.txt", skip=1, times=2)
    seen = [ask(server, "/deep%20er/%C3%A4.txt")[0] for _ in range(4)]
    assert seen == [200, 500, 500, 200]
    assert ask(server, "/data.bin")[0] == 200
    server.fault = faults.plan(faults.fail(500), origin="cdn")
    assert ask(server, "/data.bin")[0] == 200


def test_a_broken_server_says_so(tmp_path: Path) -> None:
    def broken(request: Request) -> Fault | None:
        raise ZeroDivisionError("in the test's own plan")

    def run() -> None:
        with FileServer(tmp_path) as server:
            server.fault = broken
            assert ask(server, "/x")[0] == 500

    with pytest.raises(RuntimeError, match="in the test's own plan"):
        run()
