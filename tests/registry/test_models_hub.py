# SPDX-License-Identifier: Apache-2.0
"""Weights from a loopback Hub, by the real client: what is fetched, and every way it is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from servers import faults
from servers.hub import Account, HubServer
from servers.hub_client import connected

from matteratlas.registry import hub as network
from matteratlas.registry.models_hub import downloads_allowed
from matteratlas.schemas.errors import SourceError

REPO = "matter/model"
WEIGHTS = bytes(range(256)) * 40
FILES = {
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"not wanted",
    "vocab.txt": b"C\nN\n",
}
WANTED = ["model.safetensors", "*.json", "*.txt"]
NOWHERE = "0" * 40


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATTERATLAS_DOWNLOADS", "1")


@pytest.fixture
def commit(hub: HubServer) -> str:
    hub.create(REPO, FILES, kind="model")
    return hub.head(REPO, kind="model")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[HubServer]:
    """A Hub where tokens count; this process has none."""
    tokens = {"hf_owner": Account("owner", orgs=("matter",)), "hf_guest": Account("guest")}
    with HubServer(tokens=tokens) as server, connected(server, home=tmp_path / "home", token=""):
        yield server


def refusal(repo: str = REPO, revision: str = "main", patterns: list[str] | None = None) -> str:
    with pytest.raises(SourceError) as caught:
        network.model_files(repo, revision, patterns or WANTED)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(f"{repo}@{revision[:12]}: ")
    return text.partition(": ")[2]


def test_files_wanted_and_no_others(commit: str) -> None:
    folder = network.model_files(REPO, commit, WANTED)
    found = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert found == {
        name: FILES[name] for name in ("config.json", "model.safetensors", "vocab.txt")
    }
    assert folder.name == commit and folder.is_relative_to(constants.HF_HUB_CACHE)


def test_a_revision_stays_what_it_is(hub: HubServer, commit: str) -> None:
    later = hub.commit(REPO, {"model.safetensors": b"retrained"}, kind="model")
    old = network.model_files(REPO, commit, WANTED)
    new = network.model_files(REPO, later, WANTED)
    assert (old / "model.safetensors").read_bytes() == WEIGHTS
    assert (new / "model.safetensors").read_bytes() == b"retrained"


def test_the_cache_answers_without_network_or_leave(
    hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = network.model_files(REPO, commit, WANTED)
    hub.clear()
    monkeypatch.delenv("MATTERATLAS_DOWNLOADS")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert network.model_files(REPO, commit, WANTED) == folder
    assert network.model_files(REPO, commit, ["config.json"]) == folder
    assert not hub.log
    assert "HF_HUB_OFFLINE" in refusal(revision=commit, patterns=["pytorch_model.bin"])


def test_what_the_cache_lacks_is_fetched(commit: str) -> None:
    folder = network.model_files(REPO, commit, ["config.json"])
    assert not (folder / "model.safetensors").exists()
    assert network.model_files(REPO, commit, WANTED) == folder
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("value", [None, "", "0", "yes"])
def test_nothing_is_fetched_without_leave(
    hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("MATTERATLAS_DOWNLOADS")
    if value is not None:
        monkeypatch.setenv("MATTERATLAS_DOWNLOADS", value)
    assert not downloads_allowed()
    assert refusal(revision=commit) == (
        "not in the cache; allow its download with --download (or MATTERATLAS_DOWNLOADS=1), or "
        f"fetch it yourself: hf download {REPO} --revision {commit}"
    )
    assert not hub.log


def test_offline(hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(revision=commit) == (
        "not in the cache and HF_HUB_OFFLINE forbids the network; unset it, or fetch the model "
        f"where there is one: hf download {REPO} --revision {commit}"
    )
    assert not hub.log


@pytest.mark.parametrize("revision", [NOWHERE, "v9"])
def test_unknown_revision(commit: str, revision: str) -> None:
    assert refusal(revision=revision) == (
        f"the model has no revision '{revision}'; mend the card's revision"
    )


def test_a_file_the_revision_lacks(commit: str) -> None:
    assert refusal(revision=commit, patterns=["weights-*.pt", "*.json"]) == (
        "the revision holds no 'weights-*.pt'; mend the card's path"
    )


def test_gated(guarded: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = guarded.create(REPO, FILES, kind="model", gated="manual")
    commit = guarded.head(REPO, kind="model")
    page = f"gated; accept its terms on {guarded.url}/{REPO} and"
    assert refusal(revision=commit) == f"{page} set HF_TOKEN"
    monkeypatch.setenv("HF_TOKEN", "hf_guest")
    assert refusal(revision=commit) == f"{page} wait until access is granted"
    repo.allowed.add("guest")
    folder = network.model_files(REPO, commit, WANTED)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_private_or_not_there(guarded: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded.create(REPO, FILES, kind="model", private=True)
    for repo in (REPO, "matter/none"):
        assert refusal(repo) == (
            "no such model or no access; check its name and set HF_TOKEN if it is private"
        )
    monkeypatch.setenv("HF_TOKEN", "hf_guest")
    assert refusal() == "no such model or no access; check its name and that HF_TOKEN may read it"
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    said = refusal()
    assert "HF_TOKEN" in said and "hf_expired" not in said
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    assert (network.model_files(REPO, "main", WANTED) / "config.json").is_file()


def test_a_name_that_is_none() -> None:
    assert "write ORG/NAME" in refusal("a/b/c")


@pytest.mark.parametrize("status", [500, 418])
def test_a_hub_that_fails(
    hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    # The client tries again by itself, with pauses that need not be waited for here.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.fault = faults.plan(faults.fail(status))
    said = refusal(revision=commit)
    assert str(status) in said and "try again" in said
    hub.fault = None
    assert network.model_files(REPO, commit, WANTED).is_dir()


def test_a_hub_that_is_not_there(
    hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.close()
    assert "check the network and the disk, and try again" in refusal(revision=commit)


def test_a_download_cut_short_is_no_model(
    hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.fault = faults.plan(faults.cut(100), origin="cdn")
    refusal(revision=commit)
    hub.fault = None
    folder = network.model_files(REPO, commit, WANTED)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
