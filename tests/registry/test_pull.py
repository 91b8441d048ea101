# SPDX-License-Identifier: Apache-2.0
"""Pulling an atlas or a part of it from a Hub on loopback, with the real clients."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small_atlas
from filelock import FileLock
from servers import faults
from servers.http_base import Request
from servers.hub import Account, HubServer
from servers.hub_client import client_env, connected
from typer.testing import CliRunner

import matteratlas as ma
from matteratlas.builders.release import release
from matteratlas.registry import hub as network
from matteratlas.registry import pull as module
from matteratlas.registry.files import Files
from matteratlas.registry.index import canonical, read_index, seal
from matteratlas.registry.pull import pull
from matteratlas.registry.validate import validate
from matteratlas.schemas.errors import ArchiveError, SourceError

DATASET = "matter/atlas"
ROWS = {"ores": range(300), "salts": range(40)}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """1.0.0 with one model, 1.1.0 with two."""
    folder = tmp_path_factory.mktemp("releases")
    made = []
    with small_atlas.registry():
        for models in (["graph"], ["graph", "plain"]):
            units = [(m, s) for m in models for s in ROWS]
            atlas = folder / f"of-{len(models)}"
            small_atlas.write_small(atlas, rows=ROWS, units=units)
            made.append(release(atlas, out=folder / "releases").path)
    return made[0], made[1]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A cache of one's own; pauses between tries are recorded instead of slept."""
    monkeypatch.setenv("MATTERATLAS_CACHE", str(tmp_path / "cache"))
    seen: list[float] = []
    monkeypatch.setattr(network, "time", SimpleNamespace(sleep=seen.append))
    return seen


@pytest.fixture
def published(hub: HubServer, releases: tuple[Path, Path]) -> HubServer:
    """Both releases, tagged; main is one commit further."""
    publish(hub, releases)
    return hub


def publish(hub: HubServer, releases: tuple[Path, ...]) -> None:
    hub.create(DATASET)
    for path in releases:
        sha = hub.commit(DATASET, small_atlas.tree(path))
        hub.repo(DATASET).refs[f"refs/tags/v{path.name}"] = sha
    hub.commit(DATASET, {"NOTES.md": b"on main only"})


def fetched(hub: HubServer) -> list[str]:
    """Files asked for, each once."""
    seen = [one.path.split("/", 6)[-1] for one in hub.select(path="/datasets/*/resolve/*")]
    return list(dict.fromkeys(seen))


def test_a_release_comes_as_it_is(
    published: HubServer, releases: tuple[Path, Path], tmp_path: Path
) -> None:
    report = pull(f"{DATASET}@v1.1.0", out=tmp_path / "out")
    assert small_atlas.tree(tmp_path / "out") == small_atlas.tree(releases[1])
    assert validate(tmp_path / "out", deep=True).ok
    assert (report.whole, report.version) == (True, "1.1.0")
    assert report.files == len(small_atlas.tree(releases[1]))
    size = sum(len(d) for d in small_atlas.tree(releases[1]).values())
    assert report.bytes == size and size * 0.9 < report.moved <= size
    assert ma.open_atlas(report.path).version == "1.1.0"
    published.clear()
    again = pull(f"{DATASET}@v1.1.0", out=tmp_path / "out")
    assert set(fetched(published)) == {"atlas.json", "manifest.parquet"}
    assert again.present > 0.9 * size - again.moved


PARTS: list[dict[str, Any]] = [
    {"models": ["graph"], "sets": ["ores"]},
    {"models": ["plain", "graph"], "sets": ["salts"]},
    {"sets": ["ores"]},
    {"models": ["graph"], "layers": ["first"]},
    {"layers": ["default"], "sets": ["salts"]},
    {"models": ["plain"], "layers": ["last"]},
]


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_part_is_an_atlas(
    published: HubServer, releases: tuple[Path, Path], tmp_path: Path, part: dict[str, Any]
) -> None:
    out, whole = tmp_path / "out", ma.open_atlas(releases[1])
    report = pull(f"{DATASET}@v1.1.0", out=out, **part)
    found = validate(out, deep=True)
    assert found.ok, found.faults
    assert found.notes == []
    atlas = ma.open_atlas(out)
    models = part.get("models") or ["graph", "plain"]
    sets = part.get("sets") or ["ores", "salts"]
    assert sorted(atlas.models["id"]) == sorted(models) and atlas.set_ids == sets
    assert report.units.keys() == {f"{m}/{s}" for m in models for s in sets}
    pairs = zip(atlas.units["model"], atlas.units["set"], strict=True)
    assert {f"{m}/{s}" for m, s in pairs} == report.units.keys()
    for model in models:
        entry, every = atlas.index["models"][model], whole.index["models"][model]
        wanted = part.get("layers") or list(every["layers"])
        assert list(entry["layers"]) == [
            every["default_layer"] if name == "default" else name for name in wanted
        ]
        for layer in entry["layers"]:
            ours = atlas.embeddings(model, layer=layer)
            theirs = whole.embeddings(model, layer=layer, sets=sets)
            np.testing.assert_array_equal(ours.values, theirs.values)
            if model == "graph":
                one = small_atlas.identify(sets[0], 1)
                nodes = atlas.nodes(model, one, layer=layer).values
                np.testing.assert_array_equal(nodes, whole.nodes(model, one, layer=layer).values)
        assert (out / f"parquet/{model}/{sets[0]}.parquet").exists() == (
            len(entry["layers"]) == len(every["layers"])
        )
    commit = published.head(DATASET, "v1.1.0")
    assert atlas.index["subset_of"] == {
        "location": f"hf://datasets/{DATASET}@{commit}",
        "version": "1.1.0",
        "sha256": whole.index["sha256"],
    }
    assert atlas.version == "unreleased" and not report.whole


def test_only_what_is_asked_for_moves(hub: HubServer, vector_atlas: Path, tmp_path: Path) -> None:
    """One model and one set: at most 1.05 times the bytes of its files, redirects and all."""
    hub.create(DATASET, small_atlas.tree(vector_atlas))
    report = pull(f"{DATASET}@main", models=["wide"], sets=["early"], out=tmp_path / "out")
    folders = ("embeddings.zarr/wide/early/", "parquet/wide/early", "structures/early")
    tree = small_atlas.tree(vector_atlas)
    own = sum(len(data) for path, data in tree.items() if path.startswith(folders))
    assert own > 5e6 and report.units == {"wide/early": pytest.approx(own, rel=0.05)}
    assert hub.sent() <= 1.05 * own
    assert report.moved <= hub.sent()
    assert not [p for p in fetched(hub) if "late" in p or "/wider/" in p or "/spare/" in p]
    assert validate(tmp_path / "out", deep=True).ok


def test_a_part_grows_to_what_one_pull_gives(
    published: HubServer, releases: tuple[Path, Path], tmp_path: Path
) -> None:
    out, at_once = tmp_path / "grown", tmp_path / "at-once"
    pull(f"{DATASET}@v1.1.0", models=["graph"], sets=["ores"], layers=["first"], out=out)
    pull(f"{DATASET}@v1.1.0", models=["graph"], sets=["ores"], layers=["last"], out=out)
    published.clear()
    pull(f"{DATASET}@v1.1.0", models=["plain"], sets=["salts"], out=out)
    assert not [p for p in fetched(published) if "graph/ores" in p or "structures/ores" in p]
    assert validate(out, deep=True).ok
    pull(f"{DATASET}@v1.1.0", models=["graph"], sets=["ores"], out=at_once)
    pull(f"{DATASET}@v1.1.0", models=["plain"], sets=["salts"], out=at_once)
    grown, expected = small_atlas.tree(out), small_atlas.tree(at_once)
    assert {p: grown[p] for p in expected if p in grown} == {
        p: d for p, d in expected.items() if p in grown
    }
    assert expected.keys() - grown.keys() <= {"parquet/graph/ores.parquet"}
    pull(f"{DATASET}@v1.1.0", out=out)
    assert small_atlas.tree(out) == small_atlas.tree(releases[1])
    before = small_atlas.tree(out)
    pull(f"{DATASET}@v1.1.0", models=["plain"], out=out)  # it is there, whole
    assert small_atlas.tree(out) == before


@pytest.mark.parametrize("part", [{}, PARTS[0]], ids=str)
def test_sizes_first(published: HubServer, tmp_path: Path, part: dict[str, Any]) -> None:
    out = tmp_path / "out"
    said = pull(f"{DATASET}@v1.0.0", out=out, dry_run=True, **part)
    assert not out.exists() and not [p for p in fetched(published) if "/c/" in p]
    done = pull(f"{DATASET}@v1.0.0", out=out, **part)
    assert (said.bytes, said.files, said.units) == (done.bytes, done.files, done.units)
    assert said.bytes == sum(map(len, small_atlas.tree(out).values()))
    assert "would move" in said.text() and "moved" in done.text()


def test_a_cut_pull_goes_on(
    published: HubServer,
    releases: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shards come in blocks; a block that came is not asked for again."""
    monkeypatch.setattr(module, "BLOCK", 1000)
    monkeypatch.setattr(module, "THREADS", 1)
    out = tmp_path / "out"
    published.fault = faults.plan(faults.cut(10), origin="cdn", skip=30)
    with pytest.raises(SourceError, match="check the network and try again later") as caught:
        pull(f"{DATASET}@v1.1.0", out=out)
    assert "\n" not in str(caught.value)
    assert not (out / "atlas.json").exists() and list(out.glob(".staging/pull/*.part"))
    first = published.sent()
    published.fault = None
    published.clear()
    report = pull(f"{DATASET}@v1.1.0", out=out)
    assert small_atlas.tree(out) == small_atlas.tree(releases[1])
    size = report.bytes
    assert 0 < report.present < size and first > 1000
    metadata = len((out / "atlas.json").read_bytes() + (out / "manifest.parquet").read_bytes())
    assert first + published.sent() - 2 * metadata < 1.05 * size + 8000  # blocks that were cut


def test_a_killed_pull_goes_on(
    published: HubServer, releases: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    published.fault = faults.plan(faults.slow(0.05), origin="cdn")
    command = [sys.executable, "-m", "matteratlas.cli", "pull", f"{DATASET}@v1.1.0"]
    env = client_env(published, home=tmp_path / "hf")
    process = subprocess.Popen([*command, "--out", str(out)], env=env, stderr=subprocess.DEVNULL)
    while len(published.select(origin="cdn", status=206)) < 12 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert not (out / "atlas.json").exists() and any((out / ".staging" / "pull").iterdir())
    published.fault = None
    report = pull(f"{DATASET}@v1.1.0", out=out)
    assert report.present > 0 and small_atlas.tree(out) == small_atlas.tree(releases[1])


def test_wrong_bytes_are_fetched_again_or_refused(published: HubServer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    published.fault = faults.plan(faults.corrupt(5), path="*/cdn/*", skip=1, times=3)
    pull(f"{DATASET}@v1.0.0", out=tmp_path / "first")
    assert validate(tmp_path / "first", deep=True).ok
    shard = "*/embeddings.zarr/graph/ores/last/zarr.json"
    published.fault = faults.plan(faults.corrupt(5), path=shard)
    with pytest.raises(ArchiveError, match=r"SHA-256 of what came is not the declared one, 3 t"):
        pull(f"{DATASET}@v1.0.0", out=out)
    assert [p.name for p in out.iterdir() if not p.name.startswith(".")] == []
    published.fault = None
    pull(f"{DATASET}@v1.0.0", out=out)
    assert validate(out, deep=True).ok


def test_equal_contents_come_once(hub: HubServer, tmp_path: Path) -> None:
    with small_atlas.registry():
        sets = {"ores": range(5), "salts": range(5)}
        path = release(small_atlas.write_small(tmp_path / "a", rows=sets), out=tmp_path / "r").path
    publish(hub, (path,))
    report = pull(f"{DATASET}@latest", out=tmp_path / "out")
    assert small_atlas.tree(tmp_path / "out") == small_atlas.tree(path)
    hashes = {hash(data) for data in small_atlas.tree(path).values()}
    assert len(fetched(hub)) == len(hashes) < report.files


@pytest.mark.parametrize(
    ("revision", "version"),
    [("@v1.0.0", "1.0.0"), ("@1.0.0", "1.0.0"), ("@latest", "1.1.0"), ("@stable", "1.1.0"),
     ("", "1.1.0"), ("@main", "1.1.0"), ("@COMMIT", "1.0.0")],
)  # fmt: skip
def test_revisions_and_the_default_folder(
    published: HubServer, tmp_path: Path, revision: str, version: str
) -> None:
    revision = revision.replace("COMMIT", published.head(DATASET, "v1.0.0"))
    report = pull(f"{DATASET}{revision}", models=["graph"], sets=["salts"])
    commit = published.head(DATASET, "main" if revision == "@main" else f"v{version}")
    assert report.version == version
    assert report.path == tmp_path / "cache" / "datasets" / DATASET / commit
    assert validate(report.path).ok


def test_another_commit_takes_over_what_did_not_change(
    published: HubServer, releases: tuple[Path, Path]
) -> None:
    pull(f"{DATASET}@v1.0.0")
    published.clear()
    report = pull(f"{DATASET}@v1.1.0")
    assert small_atlas.tree(report.path) == small_atlas.tree(releases[1])
    assert not [p for p in fetched(published) if "/graph/" in p and "/c/" in p]
    assert report.present > 0.4 * report.bytes


def test_without_a_network_what_was_pulled(
    published: HubServer, releases: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    path = pull(f"{DATASET}@latest", models=["plain"]).path
    pull(f"{DATASET}@v1.0.0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    published.clear()
    assert pull(f"{DATASET}@latest", models=["plain"], sets=["ores"]).path == path
    assert ma.open_atlas(f"hf://datasets/{DATASET}@latest").index["models"].keys() == {"plain"}
    whole = ma.open_atlas(f"hf://datasets/{DATASET}@1.0.0")
    assert whole.version == "1.0.0"
    copy = pull(f"{DATASET}@v1.0.0", out=path.parent / "copy")
    assert small_atlas.tree(copy.path) == small_atlas.tree(releases[0])
    for call, says in (
        (lambda: pull(f"{DATASET}@latest"), "only a part of it was pulled"),
        (lambda: pull(f"{DATASET}@latest", models=["graph"]), "no model 'graph'"),
        (lambda: pull(f"{DATASET}@v9"), "HF_HUB_OFFLINE forbids the Hub; unset it"),
        (lambda: ma.open_atlas("hf://datasets/other/one"), "HF_HUB_OFFLINE forbids the Hub"),
    ):
        with pytest.raises((SourceError, ArchiveError), match=says):
            call()
    assert not published.log


@pytest.mark.parametrize(
    ("source", "part", "says"),
    [
        (f"{DATASET}@v1.0.1", {}, r"no revision 'v1\.0\.1'; tags like it: v1\.1\.0, v1\.0\.0|v1"),
        ("matter/absent", {}, "no such dataset or no access"),
        ("matter/text", {}, r"no atlas\.json there, so no atlas; check the name"),
        (DATASET, {"models": ["grpah"]}, "no model 'grpah'; like it: graph"),
        (DATASET, {"sets": ["salt"]}, "no set 'salt'; like it: salts"),
        (DATASET, {"models": ["plain"], "layers": ["x"]}, "has no layer 'x'; it has last"),
        ("http://127.0.0.1:1/x", {"models": ["a"]}, "127.0.0.1:1/x"),
    ],
)
def test_what_is_not_there(
    published: HubServer, tmp_path: Path, source: str, part: dict[str, Any], says: str
) -> None:
    published.create("matter/text", {"README.md": b"no atlas"})
    with pytest.raises((SourceError, ArchiveError), match=says) as caught:
        pull(source, out=tmp_path / "out", **part)
    assert "\n" not in str(caught.value) and published.token not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("token", ["", "hf_stranger"])
@pytest.mark.parametrize("kind", ["gated", "private"])
def test_what_may_not_be_read(
    releases: tuple[Path, Path], tmp_path: Path, token: str, kind: str
) -> None:
    tokens = {"hf_owner": Account("matter"), "hf_stranger": Account("stranger")}
    with HubServer(tokens=tokens) as hub, connected(hub, home=tmp_path, token=token):
        hub.create(DATASET, small_atlas.tree(releases[0]), private=kind == "private",
                   gated="manual" if kind == "gated" else False)  # fmt: skip
        with pytest.raises(SourceError) as caught:
            pull(f"{DATASET}@main", out=tmp_path / "out")
        text = str(caught.value)
        assert "hf_stranger" not in text and "\n" not in text
        assert ("set HF_TOKEN" in text) == (token == "")
        assert (
            "accept its terms on" if kind == "gated" else "no such dataset or no access"
        ) in text
        hub.repo(DATASET).allowed.add("stranger")
        if kind == "gated" and token:
            assert pull(f"{DATASET}@main", out=tmp_path / "out").whole


def test_a_rate_limit_is_waited_for(
    published: HubServer, tmp_path: Path, place: list[float]
) -> None:
    published.fault = faults.plan(faults.rate_limit(40), path="*/resolve/*", skip=3, times=2)
    pull(f"{DATASET}@v1.0.0", out=tmp_path / "out")
    assert place == [40, 40] and validate(tmp_path / "out").ok


def test_no_room(published: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(ArchiveError, match=r"bytes are to come and 1,000 are free; make room"):
            pull(f"{DATASET}@v1.0.0", out=out)
    assert not [p for p in fetched(published) if "/c/" in p]

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(ArchiveError, match="No space left on device; make room or access"):
            pull(f"{DATASET}@v1.0.0", out=out)
    pull(f"{DATASET}@v1.0.0", out=out)
    assert validate(out).ok


def test_folders_of_others(published: HubServer, tmp_path: Path) -> None:
    strange, other, link = tmp_path / "strange", tmp_path / "other", tmp_path / "link"
    strange.mkdir()
    (strange / "thesis.tex").write_text("mine")
    with pytest.raises(ArchiveError, match=r"holds thesis\.tex and no atlas; choose another --out"):
        pull(DATASET, out=strange)
    pull(f"{DATASET}@v1.0.0", out=other)
    with pytest.raises(ArchiveError, match="holds another atlas than"):
        pull(f"{DATASET}@v1.1.0", out=other)
    with pytest.raises(ArchiveError, match="not a folder"):
        pull(DATASET, out=strange / "thesis.tex")
    (link / ".staging").mkdir(parents=True)
    (link / "structures").symlink_to(strange)
    with pytest.raises(ArchiveError, match="its folder is a link out of"):
        pull(DATASET, out=link)
    assert [p.name for p in strange.iterdir()] == ["thesis.tex"]
    lock = FileLock(tmp_path / "busy" / ".lock")
    lock.lock_file and Path(lock.lock_file).parent.mkdir()
    with lock, pytest.raises(ArchiveError, match="a pull or a build is at work there"):
        pull(DATASET, out=tmp_path / "busy")


@pytest.mark.parametrize(
    "path",
    [
        "../../evil", "/evil", "embeddings.zarr/graph/ores/../../../../evil",
        "embeddings.zarr/graph/ores//evil", "embeddings.zarr/graph/ores/a\\..\\evil", "README.md",
        "embeddings.zarr/plain/ores/zarr.json", "embeddings.zarr/graph/ores/a\nb",
    ],
)  # fmt: skip
def test_records_that_lead_elsewhere(
    hub: HubServer, releases: tuple[Path, Path], tmp_path: Path, path: str
) -> None:
    """All seals hold; the paths do not."""
    import hashlib

    atlas = tmp_path / "evil"
    shutil.copytree(releases[0], atlas)
    store = atlas / "embeddings.zarr" / "graph" / "zarr.json"
    document = json.loads(store.read_bytes())
    record = document["consolidated_metadata"]["metadata"]["ores"]["attributes"]["matemb"]
    sha256 = hashlib.sha256(b"evil").hexdigest()
    record["files"].append({"path": path, "bytes": 4, "sha256": sha256})
    store.write_bytes(canonical(document))
    index = read_index(Files(str(atlas)))
    index["models"]["graph"]["metadata_sha256"] = hashlib.sha256(store.read_bytes()).hexdigest()
    (atlas / "atlas.json").write_bytes(canonical(seal(index)))
    hub.create(DATASET, small_atlas.tree(atlas))
    before = small_atlas.tree(tmp_path / "evil")
    with pytest.raises(
        ArchiveError, match=r"no file of an atlas|of this unit|leaves the atlas"
    ) as caught:
        pull(f"{DATASET}@main", models=["graph"], out=tmp_path / "out" / "deep")
    assert "\n" not in str(caught.value)
    assert small_atlas.tree(tmp_path / "evil") == before
    assert not (tmp_path / "out").exists()


def test_a_push_in_between_is_noticed(
    published: HubServer, releases: tuple[Path, Path], tmp_path: Path
) -> None:
    """An index of one release beside the manifest of another is refused."""
    mixed = {**small_atlas.tree(releases[1])}
    mixed["atlas.json"] = (releases[0] / "atlas.json").read_bytes()
    published.commit(DATASET, mixed)
    with pytest.raises(ArchiveError, match="are of different releases; pull a tag"):
        pull(f"{DATASET}@main", out=tmp_path / "out")


def test_from_elsewhere_than_the_hub(releases: tuple[Path, Path], tmp_path: Path) -> None:
    from servers.files import FileServer

    with FileServer(releases[1]) as server:
        pull(server.url, models=["plain"], out=tmp_path / "web")
        with pytest.raises(ArchiveError, match="say where to with --out"):
            pull(server.url, models=["plain"])
    report = pull(str(releases[1]), models=["plain"], out=tmp_path / "disk")
    assert validate(tmp_path / "web", deep=True).ok and validate(tmp_path / "disk", deep=True).ok
    assert report.moved == 0


def test_the_command(published: HubServer, tmp_path: Path) -> None:
    from matteratlas.cli import app

    out = tmp_path / "out"
    command = ["pull", f"{DATASET}@v1.1.0", "--models", "graph,plain", "--sets", "salts",
               "--layers", "last", "--out", str(out)]  # fmt: skip
    said = CliRunner().invoke(app, [*command, "--dry-run"])
    assert said.exit_code == 0 and "2 models x 1 sets, 2 units" in said.stdout
    done = CliRunner().invoke(app, [*command, "--json"])
    found = json.loads(done.stdout)
    assert found["path"] == str(out) and found["units"].keys() == {"graph/salts", "plain/salts"}
    assert ma.open_atlas(found["path"]).set_ids == ["salts"]


def test_requests_carry_the_token_to_the_hub_alone(published: HubServer, tmp_path: Path) -> None:
    pull(f"{DATASET}@v1.0.0", out=tmp_path / "out")

    def signed(one: Request) -> bool:
        return "authorization" in one.headers

    assert all(map(signed, published.select(origin="main")))
    cdn = published.select(origin="cdn")
    assert cdn and not any(map(signed, cdn))
