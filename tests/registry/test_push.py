# SPDX-License-Identifier: Apache-2.0
"""Pushing releases to a Hub on loopback with the real client: one commit, the tag last."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_atlas
from servers import faults
from servers.faults import Fault
from servers.http_base import Request
from servers.hub import Account, HubServer
from servers.hub_client import connected
from typer.testing import CliRunner

import matteratlas as ma
from matteratlas.builders.merge import merge
from matteratlas.builders.release import release
from matteratlas.registry import hub as network
from matteratlas.registry import hub_push
from matteratlas.registry.pull import pull
from matteratlas.registry.push import push
from matteratlas.registry.validate import validate
from matteratlas.schemas.errors import ArchiveError, AtlasError, SourceError

DATASET = "matter/atlas"
BASE = [("plain", "ores"), ("plain", "salts")]
UNITS = {
    "base": BASE,
    "ours": [*BASE, ("graph", "ores")],
    "theirs": [*BASE, ("graph", "salts")],
    "fewer": BASE[:1],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Atlases by name, and releases: 1.0.0, two of 1.1.0 that grew from it, and 2.0.0 of ours."""
    folder = tmp_path_factory.mktemp("made")
    with small_atlas.registry():
        for name, units in UNITS.items():
            rows = {s: small for s, small in (("ores", range(7)), ("salts", range(4)))
                    if s in {one for _, one in units}}  # fmt: skip
            small_atlas.write_small(folder / name, units=units, rows=rows)
        found = {"base": release(folder / "base", out=folder / "r").path}
        for name, parent in (("ours", "base"), ("theirs", "base"), ("fewer", "ours")):
            out = folder / f"r-{name}"
            found[name] = release(folder / name, out=out, parent=found[parent]).path
    return {**found, **{f"atlas {name}": folder / name for name in UNITS}}


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """Pauses between tries, recorded instead of slept."""
    from huggingface_hub.utils import _http

    monkeypatch.setenv("MATTERATLAS_CACHE", str(tmp_path / "cache"))
    seen: list[float] = []
    still = SimpleNamespace(sleep=seen.append)
    for module in (network, hub_push, _http):
        monkeypatch.setattr(module, "time", still)
    return seen


@pytest.fixture
def pushed(hub: HubServer, made: dict[str, Path]) -> HubServer:
    """A dataset with the first release."""
    push(made["base"], DATASET, create=True)
    hub.clear()
    return hub


def held(hub: HubServer, revision: str = "main") -> dict[str, bytes]:
    files = hub.files(DATASET, revision)
    del files[".gitattributes"]
    return files


def refs(hub: HubServer) -> dict[str, str]:
    return dict(hub.repo(DATASET).refs)


def said(call: Callable[[], Any], kind: type[AtlasError] = SourceError) -> str:
    """The one line of a refusal."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and "hf_" not in text and "Signature" not in text
    return text


def commits(hub: HubServer) -> list[Request]:
    return hub.select(method="POST", path="*/commit/*")


def test_first_push(hub: HubServer, made: dict[str, Path]) -> None:
    assert "or make it with --create" in said(lambda: push(made["base"], DATASET))
    dry = push(made["base"], DATASET, create=True, dry_run=True)
    assert dry.created and not hub.repos and "would be pushed as v1.0.0" in dry.text()
    report = push(made["base"], DATASET, create=True, private=True)
    assert hub.repo(DATASET).private
    assert held(hub) == held(hub, "v1.0.0") == small_atlas.tree(made["base"])
    assert {"README.md", "croissant.json"} <= held(hub).keys()
    assert (report.sent, report.bytes, report.same) == (dry.sent, dry.bytes, 0)
    assert report.bytes == sum(map(len, small_atlas.tree(made["base"]).values()))
    assert len(commits(hub)) == 1 and report.commit == hub.head(DATASET)
    paths = [one.path for one in hub.log if one.method == "POST"]
    assert paths.index(commits(hub)[0].path) < paths.index(hub.select(path="*/tag/*")[0].path)
    assert ma.open_atlas(f"hf://datasets/{DATASET}@v1.0.0").version == "1.0.0"
    hub.clear()
    again = push(made["base"], DATASET)
    assert again.outcome == "nothing" and "nothing to do" in again.text()
    assert not [one for one in hub.log if one.method != "GET"]


def test_only_what_changed(pushed: HubServer, made: dict[str, Path]) -> None:
    before, new = small_atlas.tree(made["base"]), small_atlas.tree(made["ours"])
    changed = {path for path, data in new.items() if before.get(path) != data}
    dry = push(made["ours"], DATASET, dry_run=True)
    assert not [
        one for one in pushed.log if one.method in ("PUT", "DELETE") or "/commit" in one.path
    ]
    report = push(made["ours"], DATASET)
    assert held(pushed) == held(pushed, "v1.1.0") == new
    assert held(pushed, "v1.0.0") == before
    assert report.sent == dry.sent == len(changed) and report.same == len(new) - len(changed)
    lines = [json.loads(line) for line in commits(pushed)[0].body.splitlines()]
    assert {one["value"]["path"] for one in lines if one["key"] != "header"} == changed
    assert lines[0]["value"]["parentCommit"] == refs(pushed)["refs/tags/v1.0.0"]
    assert 0 < len(pushed.select(method="PUT")) <= len(changed)


def test_what_a_major_release_drops(pushed: HubServer, made: dict[str, Path]) -> None:
    pushed.commit(DATASET, {"NOTES.md": b"of the members", "docs/more.md": b"too"})
    push(made["ours"], DATASET)
    assert made["fewer"].name == "2.0.0"
    report = push(made["fewer"], DATASET)
    files = held(pushed)
    assert (files.pop("NOTES.md"), files.pop("docs/more.md")) == (b"of the members", b"too")
    assert files == small_atlas.tree(made["fewer"])
    assert report.left == ["NOTES.md", "docs/more.md"] and "left alone: NOTES.md" in report.text()
    gone = small_atlas.tree(made["ours"]).keys() - files.keys()
    assert report.removed == len(gone) > 10
    assert "graph" in ma.open_atlas(f"hf://datasets/{DATASET}@v1.1.0").index["models"]


def test_two_pushes_race_and_nothing_is_lost(
    pushed: HubServer, made: dict[str, Path], tmp_path: Path
) -> None:
    """Both grew from 1.0.0: one wins, the other does as it is told."""
    push(made["ours"], DATASET)
    before = refs(pushed)
    text = said(lambda: push(made["theirs"], DATASET))
    assert "has v1.1.0 already with other content, and releases never change" in text
    assert f"matteratlas pull {DATASET}@v1.1.0 --out theirs, matteratlas merge both theirs" in text
    assert refs(pushed) == before
    with small_atlas.registry():
        pull(f"{DATASET}@v1.1.0", out=tmp_path / "theirs")
        merge(tmp_path / "both", [tmp_path / "theirs", made["atlas theirs"]])
        path = release(tmp_path / "both", out=tmp_path / "r", parent=tmp_path / "theirs").path
    report = push(path, DATASET)
    assert report.tag == "v1.2.0"
    atlas = ma.open_atlas(f"hf://datasets/{DATASET}")
    pairs = zip(atlas.units["model"], atlas.units["set"], strict=True)
    assert set(pairs) == {*UNITS["ours"], *UNITS["theirs"]}
    pull(DATASET, out=tmp_path / "all")
    assert validate(tmp_path / "all", deep=True).ok


def test_a_push_that_lands_in_between(pushed: HubServer, made: dict[str, Path]) -> None:
    """The commit names its parent: the Hub refuses it (412) once main has moved."""

    def rival(request: Request) -> Fault | None:
        if request.method == "POST" and "/commit/" in request.path:
            pushed.fault = None
            pushed.commit(DATASET, dict(small_atlas.tree(made["theirs"])))
        return None

    pushed.fault = rival
    text = said(lambda: push(made["ours"], DATASET))
    assert commits(pushed)[0].status == 412
    assert "main holds release 1.1.0, and it came while this push was under way" in text
    assert "another push landed, nothing was overwritten: run matteratlas pull" in text
    assert held(pushed) == small_atlas.tree(made["theirs"])
    assert "refs/tags/v1.1.0" not in refs(pushed)
    # The rival dies before it tags: the next push is refused all the same, the rival's finishes.
    assert "main holds release 1.1.0, and release 1.1.0 grew from 1.0.0" in said(
        lambda: push(made["ours"], DATASET)
    )
    assert push(made["theirs"], DATASET).outcome == "tagged"


def test_a_version_of_another_parent(pushed: HubServer, made: dict[str, Path]) -> None:
    text = said(lambda: push(made["fewer"], DATASET))
    assert "main holds release 1.0.0, and release 2.0.0 grew from 1.1.0" in text
    with small_atlas.registry():
        first = release(made["atlas ours"], out=made["ours"].parent / "first", version="3.0.0")
    assert "release 3.0.0 is a first release" in said(lambda: push(first.path, DATASET))
    assert len(refs(pushed)) == 2
    shutil.rmtree(first.path.parent)


def test_a_later_release_may_be_the_first_push(hub: HubServer, made: dict[str, Path]) -> None:
    hub.create(DATASET, {"README.md": b"a page made by hand"})
    report = push(made["ours"], DATASET)
    assert report.notes == ["README.md on main was edited by hand and is replaced"]
    assert held(hub, "v1.1.0") == small_atlas.tree(made["ours"])


def test_changes_of_others_are_not_overwritten(pushed: HubServer, made: dict[str, Path]) -> None:
    unit = "embeddings.zarr/graph/ores/zarr.json"
    pushed.commit(DATASET, {unit: b"{}"})
    text = said(lambda: push(made["ours"], DATASET))
    assert f"{unit} was changed there without a release" in text
    assert held(pushed)[unit] == b"{}"
    pushed.commit(DATASET, {unit: small_atlas.tree(made["ours"])[unit]})  # merged, the same bytes
    assert push(made["ours"], DATASET).outcome == "pushed"
    assert held(pushed) == small_atlas.tree(made["ours"])


@pytest.mark.parametrize("path", ["atlas.json", "registry/models.parquet"])
def test_an_edit_of_a_released_file_is_not_overwritten(
    pushed: HubServer, made: dict[str, Path], path: str
) -> None:
    pushed.commit(DATASET, {path: b"edited"})
    assert f"{path} was changed there" in said(lambda: push(made["ours"], DATASET))
    assert held(pushed)[path] == b"edited"


def test_cut_uploads_go_on(pushed: HubServer, made: dict[str, Path]) -> None:
    pushed.fault = faults.plan(faults.fail(503), method="PUT", skip=3)
    text = said(lambda: push(made["ours"], DATASET))
    assert "HTTP 503" in text and "push again: what was sent is not sent twice" in text
    assert held(pushed) == small_atlas.tree(made["base"])
    done = {one.path for one in pushed.select(method="PUT", status=200)}
    pushed.fault = None
    pushed.clear()
    assert push(made["ours"], DATASET).outcome == "pushed"
    later = [one.path for one in pushed.select(method="PUT")]
    assert len(done) == 3 and len(later) == len(set(later)) and not done & set(later)
    assert held(pushed, "v1.1.0") == small_atlas.tree(made["ours"])


def test_signatures_are_not_logged(
    pushed: HubServer, made: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("huggingface_hub.utils._http")
    logger.addHandler(caplog.handler)
    pushed.fault = faults.plan(faults.fail(503), method="PUT", times=2)
    push(made["ours"], DATASET)
    logger.removeHandler(caplog.handler)
    assert f"requesting PUT {pushed.cdn_url}/lfs/" in caplog.text
    assert "Signature" not in caplog.text and pushed.token not in caplog.text


def test_a_commit_whose_answer_is_lost(pushed: HubServer, made: dict[str, Path]) -> None:
    """The commit is made and its answer cut: what main holds then says whose it is."""
    pushed.fault = faults.plan(faults.cut(0), method="POST", path="*/commit/*", times=1)
    assert push(made["ours"], DATASET).outcome == "pushed"
    assert held(pushed, "v1.1.0") == small_atlas.tree(made["ours"])
    assert len(pushed.repo(DATASET).history(pushed.head(DATASET))) == 3


def test_a_tag_that_was_not_made(pushed: HubServer, made: dict[str, Path]) -> None:
    pushed.fault = faults.plan(faults.fail(500), method="POST", path="*/tag/*")
    assert "HTTP 500" in said(lambda: push(made["ours"], DATASET))
    assert held(pushed) == small_atlas.tree(made["ours"])
    assert "refs/tags/v1.1.0" not in refs(pushed)
    pushed.fault = None
    pushed.clear()
    dry = push(made["ours"], DATASET, dry_run=True)
    assert "the commit was there; would be tagged v1.1.0" in dry.text()
    assert push(made["ours"], DATASET).outcome == "tagged"
    assert not commits(pushed) and held(pushed, "v1.1.0") == small_atlas.tree(made["ours"])


def test_a_rate_limit_is_waited_for(
    pushed: HubServer, made: dict[str, Path], waits: list[float]
) -> None:
    pushed.fault = faults.first_of(
        faults.plan(faults.rate_limit(30), method="GET", path="*/refs", times=2),
        faults.plan(faults.rate_limit(30), method="POST", path="*/preupload/*", times=1),
    )
    push(made["ours"], DATASET)
    assert waits[:2] == [30, 30] and max(waits) >= 30
    pushed.fault = faults.plan(faults.rate_limit(900))
    assert "HTTP 429, rate limit; push again" in said(lambda: push(made["fewer"], DATASET))


@pytest.mark.parametrize(
    ("token", "says"),
    [("", "set HF_TOKEN"), ("hf_reader", "HF_TOKEN may write there"), ("hf_bad", "renew HF_TOKEN")],
)
def test_tokens(made: dict[str, Path], tmp_path: Path, token: str, says: str) -> None:
    tokens = {"hf_owner": Account("matter"), "hf_reader": Account("matter", write=False)}
    with HubServer(tokens=tokens) as hub:
        with connected(hub, home=tmp_path / "owner"):
            push(made["base"], DATASET, create=True)
        before = refs(hub)
        with (
            connected(hub, home=tmp_path / "other", token=token),
            pytest.raises(SourceError) as caught,
        ):
            push(made["ours"], DATASET)
        assert says in str(caught.value) and "\n" not in str(caught.value)
        assert token == "" or token not in str(caught.value)
        assert refs(hub) == before


def test_what_is_no_release_is_not_pushed(
    hub: HubServer, made: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(made["base"], broken)
    (broken / "structures" / "ores.parquet").write_bytes(b"PAR1")
    for path, dataset, kind, match in (
        (made["atlas base"], DATASET, ArchiveError, "is not a release, run: matteratlas release"),
        (broken, DATASET, ArchiveError, "structures/ores.parquet"),
        (tmp_path / "none", DATASET, ArchiveError, "is not a release"),
        (made["base"], "atlas", SourceError, "write ORG/NAME"),
        (made["base"], "matter/../x", SourceError, "write ORG/NAME"),
    ):
        assert match in said(lambda p=path, d=dataset: push(p, d, create=True), kind)  # type: ignore[misc]
    assert not hub.log and not hub.repos


def test_the_hub_is_not_asked_when_offline(
    hub: HubServer, made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids the Hub" in said(lambda: push(made["base"], DATASET))
    assert not hub.log


def test_the_command(hub: HubServer, made: dict[str, Path]) -> None:
    from matteratlas.cli import app

    command = ["push", str(made["base"]), DATASET, "--create"]
    dry = CliRunner().invoke(app, [*command, "--dry-run"])
    assert dry.exit_code == 0 and "would be pushed as v1.0.0" in dry.stdout and not hub.repos
    done = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(done.stdout)["outcome"] == "pushed"
    assert held(hub, "v1.0.0") == small_atlas.tree(made["base"])
