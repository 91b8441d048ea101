# SPDX-License-Identifier: Apache-2.0
"""Reading datasets of a Hub on loopback."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
from remote_tools import DATA, Odd, one_line
from servers import faults
from servers.http_base import Answer, Held
from servers.hub import Account, HubServer
from servers.hub_client import connected

from matteratlas.registry import hub as network
from matteratlas.schemas.errors import SourceError

DATASET = "hf://datasets/matter/atlas"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between tries, recorded instead of slept."""
    seen: list[float] = []
    monkeypatch.setattr(network, "time", SimpleNamespace(sleep=seen.append))
    return seen


@pytest.fixture
def atlas(hub: HubServer) -> dict[str, str]:
    """A dataset with three tagged commits; commit ids by name."""
    hub.create("matter/atlas")
    repo, commits = hub.repo("matter/atlas"), {}
    for tag in ("v1.0.0", "v1.1.0", "v1.2.0-rc.1", ""):
        files = {
            "atlas.json": json.dumps({"version": tag}).encode(),
            "shard.bin": tag.encode() + DATA,
        }
        sha = hub.commit("matter/atlas", files)
        commits[tag or "main"] = sha
        if tag:
            repo.refs[f"refs/tags/{tag}"] = sha
    repo.refs["refs/tags/draft"] = commits["v1.0.0"]
    repo.refs["refs/pr/1"] = commits["v1.1.0"]
    repo.refs["refs/heads/fix/typo"] = commits["v1.1.0"]
    return commits


@pytest.mark.parametrize(
    ("revision", "commit", "calls"),
    [
        ("", "v1.2.0-rc.1", ["/refs"]),
        ("@latest", "v1.2.0-rc.1", ["/refs"]),
        ("@stable", "v1.1.0", ["/refs"]),
        ("@v1.0.0", "v1.0.0", ["/revision/v1.0.0"]),
        ("@draft", "v1.0.0", ["/revision/draft"]),
        ("@main", "main", ["/revision/main"]),
        ("@refs/pr/1", "v1.1.0", ["/revision/refs/pr/1"]),
        ("@fix%2Ftypo", "v1.1.0", ["/revision/fix/typo"]),
    ],
)
def test_revisions(
    hub: HubServer, atlas: dict[str, str], revision: str, commit: str, calls: list[str]
) -> None:
    location = f"{DATASET}{revision}"
    assert network.pinned(location) == f"{DATASET}@{atlas[commit]}"
    assert [one.path for one in hub.log] == [f"/api/datasets/matter/atlas{c}" for c in calls]
    hub.clear()
    assert network.pinned(f"{DATASET}@{atlas[commit]}/sub") == f"{DATASET}@{atlas[commit]}/sub"
    assert not hub.log
    fs, root = network.filesystem(location)
    assert fs.revision == atlas[commit]
    assert root == f"{hub.url}/datasets/matter/atlas/resolve/{atlas[commit]}"
    version = json.loads(network.fetch(fs, f"{root}/atlas.json"))["version"]
    assert version == ("" if commit == "main" else commit)


def test_without_version_tags_main_is_read(hub: HubServer) -> None:
    hub.create("matter/atlas", {"f": b"1"})
    assert network.filesystem(DATASET)[0].revision == hub.head("matter/atlas")
    assert [one.path for one in hub.log] == ["/api/datasets/matter/atlas/refs"]
    for alias in ("latest", "stable"):
        with pytest.raises(SourceError, match=f"no version tag for '@{alias}'; its tags are none"):
            network.pinned(f"{DATASET}@{alias}")


def test_a_branch_that_moves_is_not_mixed(hub: HubServer, atlas: dict[str, str]) -> None:
    fs, root = network.filesystem(f"{DATASET}@main")
    old = network.fetch(fs, f"{root}/shard.bin", 0, 100)
    hub.commit("matter/atlas", {"shard.bin": b"new" + DATA, "atlas.json": b"{}"})
    assert network.fetch(fs, f"{root}/shard.bin", 0, 100) == old == DATA[:100]
    assert json.loads(network.fetch(fs, f"{root}/atlas.json")) == {"version": ""}
    fs, root = network.filesystem(f"{DATASET}@main")
    assert network.fetch(fs, f"{root}/shard.bin", 0, 3) == b"new"


def test_requests_of_a_cold_open(hub: HubServer, atlas: dict[str, str]) -> None:
    """One call for the commit; redirects are paid once a file, and none by a second range."""
    fs, root = network.filesystem(f"{DATASET}@v1.1.0")
    network.fetch(fs, f"{root}/atlas.json")
    shard = b"v1.1.0" + DATA
    assert network.fetch(fs, f"{root}/shard.bin", 100, 200) == shard[100:200]
    assert network.fetch(fs, f"{root}/shard.bin", 5000, 6000) == shard[5000:6000]
    where = [(one.origin, one.method, one.path.split("/")[1:3][-1], one.status) for one in hub.log]
    assert where == [
        ("main", "GET", "datasets", 200),  # /api/datasets/.../revision/v1.1.0
        ("main", "GET", "matter", 307),  # /datasets/matter/atlas/resolve/...
        ("main", "GET", "resolve-cache", 200),
        ("main", "GET", "matter", 302),
        ("cdn", "GET", "datasets", 206),
        ("cdn", "GET", "datasets", 206),
    ]
    network.fetch(fs, f"{root}/atlas.json")
    assert len(hub.log) == 7
    assert hub.sent(origin="cdn") == 1100


def test_an_expired_address_is_asked_for_again(hub: HubServer, atlas: dict[str, str]) -> None:
    fs, root = network.filesystem(f"{DATASET}@main")
    path = f"{root}/shard.bin"
    network.fetch(fs, path, 0, 10)
    hub._secret = "another"
    hub.clear()
    assert network.fetch(fs, path, 10, 20) == DATA[10:20]
    assert [(one.origin, one.status) for one in hub.log] == [
        ("cdn", 403), ("main", 302), ("cdn", 206),
    ]  # fmt: skip
    assert network.fetch(fs, path, 20, 30) == DATA[20:30]
    assert len(hub.log) == 4


def test_an_ill_storage_host_is_not_insisted_on(
    hub: HubServer, atlas: dict[str, str], waits: list[float]
) -> None:
    fs, root = network.filesystem(f"{DATASET}@main")
    path = f"{root}/shard.bin"
    network.fetch(fs, path, 0, 10)
    for fault in (faults.fail(503), faults.cut(3)):
        hub.clear()
        hub.fault = faults.plan(fault, origin="cdn", times=1)
        assert network.fetch(fs, path, 10, 20) == DATA[10:20]
        assert [one.origin for one in hub.log] == ["cdn", "main", "cdn"]
    assert len(waits) == 2


def test_the_token_stays_with_the_hub(hub: HubServer, atlas: dict[str, str]) -> None:
    token = hub.token
    fs, root = network.filesystem(f"{DATASET}@main")
    for _ in range(2):
        network.fetch(fs, f"{root}/shard.bin", 0, 10)
    network.fetch(fs, f"{root}/atlas.json")
    sent = {(one.origin, "authorization" in one.headers) for one in hub.log}
    assert sent == {("main", True), ("cdn", False)}
    with pytest.raises(FileNotFoundError) as caught:
        network.fetch(fs, f"{root}/none")
    shown = [str(caught.value), repr(caught.value), repr(fs), str(fs), repr(fs.web), fs.to_json(),
             repr(fs.storage_options), repr(fs.open(f"{root}/atlas.json", size=5))]  # fmt: skip
    assert token and all(token not in text for text in shown)
    assert token.encode() not in pickle.dumps(fs)


def test_without_a_token_none_is_sent(
    hub: HubServer, atlas: dict[str, str], tmp_path: Path
) -> None:
    with connected(hub, home=tmp_path / "anonymous", token=""):
        fs, root = network.filesystem(f"{DATASET}@main")
        network.fetch(fs, f"{root}/shard.bin", 0, 10)
    assert hub.log and all("authorization" not in one.headers for one in hub.log)


@pytest.mark.parametrize(
    ("revision", "match"),
    [
        (
            "@v1.0.1",
            r"has no revision 'v1\.0\.1'; tags like it: v1\.0\.0, v1\.2\.0-rc\.1, v1\.1\.0",
        ),
        ("@zzz", r"has no revision 'zzz'; tags like it: v1\.0\.0, v1\.1\.0, v1\.2\.0-rc\.1, draft"),
    ],
)
def test_an_unknown_revision(
    hub: HubServer, atlas: dict[str, str], revision: str, match: str
) -> None:
    with pytest.raises(SourceError, match=match) as caught:
        network.filesystem(f"{DATASET}{revision}")
    one_line(caught)


def test_a_commit_that_is_not_there(hub: HubServer, atlas: dict[str, str]) -> None:
    fs, root = network.filesystem(f"{DATASET}@{'0' * 40}")
    with pytest.raises(SourceError, match="no such revision; check the tag or commit"):
        network.fetch(fs, f"{root}/atlas.json")


def test_a_folder_in_the_dataset(hub: HubServer, atlas: dict[str, str]) -> None:
    hub.commit("matter/atlas", {"sub/dir/f.json": b"{}"})
    fs, root = network.filesystem(f"{DATASET}@main/sub/dir")
    assert network.fetch(fs, f"{root}/f.json") == b"{}"
    with pytest.raises(FileNotFoundError, match=r"sub/dir/none\.json: no such file"):
        network.fetch(fs, f"{root}/none.json")


@pytest.mark.parametrize("token", ["", "hf_stranger", "hf_wrong"])
@pytest.mark.parametrize("location", ["private", "absent", "gated"])
def test_what_may_not_be_read(tmp_path: Path, token: str, location: str) -> None:
    tokens = {"hf_owner": Account("matter"), "hf_stranger": Account("stranger")}
    with HubServer(tokens=tokens) as hub, connected(hub, home=tmp_path, token=token):
        hub.create("matter/private", {"f.json": b"{}"}, private=True)
        hub.create("matter/gated", {"f.json": b"{}"}, gated="manual")
        with pytest.raises(SourceError) as caught:
            fs, root = network.filesystem(f"hf://datasets/matter/{location}@main")
            network.fetch(fs, f"{root}/f.json")
    text = one_line(caught)
    assert f"matter/{location}" in text and "hf_" not in text.replace("hf_hub", "")
    if token == "hf_wrong":
        assert "no such dataset or no access; check its name and that HF_TOKEN may read it" in text
    elif location == "gated":
        assert f"accept its terms on {hub.url}/datasets/matter/gated" in text
        assert ("set HF_TOKEN" in text) == (token == "")
    else:
        assert "no such dataset or no access" in text
        assert ("set HF_TOKEN if it is private" in text) == (token == "")


@pytest.mark.parametrize("token", ["", None])
def test_rate_limits_of_the_hub(
    hub: HubServer,
    atlas: dict[str, str],
    waits: list[float],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    token: str | None,
) -> None:
    with connected(hub, home=tmp_path / "other", token=token):
        hub.fault = faults.plan(faults.rate_limit(40), times=2)
        fs, root = network.filesystem(f"{DATASET}@main")
        assert waits == [40, 40] and len(caplog.records) == 1
        hub.fault = faults.plan(faults.rate_limit(40), path="*/resolve/*")
        with pytest.raises(SourceError, match="HTTP 429, rate limit of 3000 requests") as caught:
            network.fetch(fs, f"{root}/atlas.json")
    assert ("set HF_TOKEN" in one_line(caught)) == (token == "")


def test_the_hub_is_not_asked_when_offline(
    hub: HubServer, atlas: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE forbids the Hub; unset it"):
        network.filesystem(DATASET)
    assert not hub.log


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"sha": "../main"}'])
def test_an_endpoint_that_is_no_hub(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with Odd() as server:
        server.say = lambda request: Answer(200, Held(body))
        monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
        for revision in ("@v1", ""):
            with pytest.raises(SourceError, match="check HF_ENDPOINT"):
                network.pinned(f"{DATASET}{revision}")
