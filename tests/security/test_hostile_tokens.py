# SPDX-License-Identifier: Apache-2.0
"""Tokens, passwords and signatures: in no message, log, cause or file, whatever goes wrong."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
from servers import faults
from servers.files import FileServer
from servers.hub import HubServer

from matteratlas.registry import hub as network
from matteratlas.registry.archive import open_atlas
from matteratlas.registry.replies import plain, redacted

#: Looks like one of the Hub's; parts of it must not show either.
TOKEN = "hf_" + "QzXwVuTsRqPoNmLkJiHgFeDcBaZyXwVuTs"
PASSWORD, SIGNATURE = "pa55w0rd-QzXw", "sigQzXwVuTsRqPo"
SECRETS = (TOKEN, TOKEN[3:15], PASSWORD, SIGNATURE)
FAULTS = {
    "401": faults.fail(401), "403": faults.fail(403), "404": faults.fail(404),
    "gated": faults.fail(403, X_Error_Code="GatedRepo"),
    "no repo": faults.fail(401, X_Error_Code="RepoNotFound"),
    "429": faults.rate_limit(0), "500": faults.fail(500), "503": faults.fail(503),
    "cut": faults.cut(3), "refused": faults.refuse(), "short": faults.shorten(3),
}  # fmt: skip


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "PAUSE", 0.0)
    monkeypatch.setattr(network, "TRIES", 2)
    monkeypatch.setattr(network.time, "sleep", lambda seconds: None)


def told(error: BaseException) -> str:
    """All that an error and what it came from may show."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in seen:
            seen.append(one)
            # What is suppressed is not shown by Python, but by tools that look at it.
            waiting += [one.__cause__, one.__context__ if not one.__suppress_context__ else None]
    return " ".join(f"{e!r} {e} {e.args} {getattr(e, '__notes__', '')}" for e in seen)


def check(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text


def check_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            for secret in SECRETS:
                assert secret.encode() not in path.read_bytes(), path
        check(path.name)


@pytest.mark.parametrize("name", FAULTS)
def test_the_hub_token(
    name: str, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("MATTERATLAS_CACHE", str(tmp_path / "cache"))
    hub.fault = lambda request: FAULTS[name]
    with caplog.at_level(logging.DEBUG), pytest.raises(Exception) as error:
        open_atlas("hf://datasets/matter/atlas@v1.0.0")
    assert hub.log and any(TOKEN in r.headers.get("authorization", "") for r in hub.log)
    out, err = capfd.readouterr()
    check(told(error.value) + caplog.text + out + err)
    assert "\n" not in str(error.value)
    check_files(tmp_path / "cache")


@pytest.mark.parametrize("name", FAULTS)
def test_passwords_and_signatures_in_urls(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served/atlas.json").write_text("{}")
    with FileServer(tmp_path / "served") as server:
        server.fault = lambda request: FAULTS[name]
        host = server.url.removeprefix("http://")
        for url in (f"http://me:{PASSWORD}@{host}", f"{server.url}?X-Signature={SIGNATURE}"):
            with caplog.at_level(logging.DEBUG), pytest.raises(Exception) as error:
                open_atlas(url, cache=tmp_path / "cache")
            check(str(error.value) + repr(error.value))
    out, err = capfd.readouterr()
    check(out + err)
    check_files(tmp_path / "cache")


def test_a_pickled_file_system_holds_no_token(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fs, _ = network.filesystem(f"hf://datasets/matter/atlas@{'a' * 40}")
    check(repr(fs) + repr(fs.web) + str(vars(fs.web)["dataset"]) + fs.to_json())
    assert TOKEN.encode() not in pickle.dumps(fs)


def test_what_is_shown_of_addresses_and_errors() -> None:
    url = f"https://me:{PASSWORD}@host/a/b?sig={SIGNATURE}#x"
    assert redacted(url) == "https://host/a/b"
    check(plain(OSError(f"cannot reach https://host/a?sig={SIGNATURE}")))
