# SPDX-License-Identifier: Apache-2.0
"""Tokens, passwords and signatures: in no message, log, cause or file, whatever goes wrong."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small_atlas
from leaks import FAULTS, PASSWORD, SIGNATURE, TOKEN, check, check_files, told
from servers import faults
from servers.files import FileServer
from servers.hub import HubServer
from servers.hub_client import connected

from matteratlas.builders.release import release
from matteratlas.registry import hub as network
from matteratlas.registry import hub_contribute, hub_push
from matteratlas.registry.archive import open_atlas
from matteratlas.registry.pull import pull
from matteratlas.registry.push import push
from matteratlas.registry.replies import plain, redacted
from matteratlas.schemas.errors import AtlasError


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "PAUSE", 0.0)
    monkeypatch.setattr(network, "TRIES", 2)
    monkeypatch.setattr(network.time, "sleep", lambda seconds: None)


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


# --- pull and push: what they say, keep, send and leave behind ------------------------------------

DATASET = "matter/atlas"


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """1.0.0, and 1.1.0 that grew from it."""
    folder = tmp_path_factory.mktemp("released")
    with small_atlas.registry():
        small_atlas.write_small(folder / "one", units=[("plain", "ores")])
        first = release(folder / "one", out=folder / "r").path
        small_atlas.write_small(folder / "two", units=[("plain", "ores"), ("graph", "ores")])
        second = release(folder / "two", out=folder / "r", parent=first).path
    return first, second


@pytest.fixture
def watched(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Callable[[], None]]:
    """All that is logged at any level by any library, and printed, looked through when asked."""
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("MATTERATLAS_CACHE", str(tmp_path / "cache"))
    loggers = [logging.getLogger(n) for n in ("huggingface_hub", "huggingface_hub.utils._http")]
    for logger in loggers:  # its own handlers only
        logger.addHandler(caplog.handler)

    def look() -> None:
        out, err = capfd.readouterr()
        check(caplog.text + out + err)
        for folder in ("cache", "out"):
            check_files(tmp_path / folder)

    with caplog.at_level(logging.DEBUG):
        yield look
    for logger in loggers:
        logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("part", ["*/refs", "*/resolve/*"])
@pytest.mark.parametrize("name", FAULTS)
def test_pull(
    name: str, part: str, released: tuple[Path, Path], tmp_path: Path,
    watched: Callable[[], None],
) -> None:  # fmt: skip
    with HubServer() as server, connected(server, home=tmp_path / "home", token=TOKEN):
        server.create(DATASET)
        sha = server.commit(DATASET, small_atlas.tree(released[0]))
        server.repo(DATASET).refs["refs/tags/v1.0.0"] = sha
        server.fault = faults.plan(FAULTS[name], path=part)
        try:
            check(repr(pull(DATASET, out=tmp_path / "out")))  # what is cut is gone on with
        except AtlasError as error:
            check(told(error))
            assert str(error).isprintable()
        else:
            assert name in ("cut", "short")
        assert any(TOKEN in r.headers.get("authorization", "") for r in server.log)
        watched()
        server.fault = None
        report = pull(DATASET, out=tmp_path / "out")
        check(repr(report) + repr(vars(report)))
        watched()


@pytest.mark.parametrize(
    "part", ["*/refs", "*/preupload/*", "*/lfs/*", "*/objects/batch", "*/commit/*", "*/tag/*"]
)
@pytest.mark.parametrize("name", ["401", "403", "429", "500", "cut", "refused", "short"])
def test_push(
    name: str, part: str, released: tuple[Path, Path], tmp_path: Path,
    watched: Callable[[], None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(hub_push.time, "sleep", lambda seconds: None)
    with HubServer() as server, connected(server, home=tmp_path / "home", token=TOKEN):
        push(released[0], DATASET, create=True)
        server.fault = faults.plan(FAULTS[name], path=part)
        try:
            check(repr(push(released[1], DATASET)))  # a lost answer may be no loss
        except AtlasError as error:
            check(told(error))
            assert str(error).isprintable()
        assert any(TOKEN in r.headers.get("authorization", "") for r in server.log)
        watched()
        server.fault = None
        report = push(released[1], DATASET)
        check(repr(report) + report.text())
        for revision in server.repo(DATASET).refs.values():
            for path, data in server.files(DATASET, revision).items():
                check(path + data.decode("latin-1"))
        watched()


@pytest.mark.parametrize(
    "part",
    ["*/preupload/*", "*/lfs/*", "*/objects/batch", "*/commit/*", "*/whoami*", "*/discussions*"],
)
@pytest.mark.parametrize("name", ["401", "403", "500", "cut", "short"])
def test_contribute(
    name: str, part: str, tmp_path: Path, watched: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(hub_push.time, "sleep", lambda seconds: None)
    card = tmp_path / "card.yaml"
    card.write_text("id: mine\n")
    files = {"registry/mine.yaml": card}
    with HubServer() as server, connected(server, home=tmp_path / "home", token=TOKEN):
        server.create(DATASET)
        parent = server.commit(DATASET, {"README.md": b"# here"})
        server.fault = faults.plan(FAULTS[name], path=part)
        try:
            own = hub_contribute.own_pull_request(DATASET, title="Add mine 1")
            check(repr(own))
            made = hub_contribute.open_pull_request(
                DATASET, files, title="Add mine 1", description="a model", parent=parent
            )
            check(repr(made))
            hub_contribute.comment(DATASET, made[0], "looked at")
        except AtlasError as error:
            check(told(error))
            assert str(error).isprintable()
        assert any(TOKEN in r.headers.get("authorization", "") for r in server.log)
        watched()
