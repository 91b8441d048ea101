# SPDX-License-Identifier: Apache-2.0
"""The loopback Hub under the real `huggingface_hub` and `datasets`: commits, refs, reading."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    constants,
    hf_hub_download,
    list_repo_files,
    snapshot_download,
)
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError
from servers.faults import Fault
from servers.http_base import Request
from servers.hub import HubServer
from servers.hub_client import client_env, connected

REPO = "matter/emb"
CARD = """---
license: cc-by-4.0
configs:
- config_name: m1
  data_files:
  - split: ores
    path: parquet/m1/ores.parquet
  - split: organics
    path: parquet/m1/organics.parquet
- config_name: structures
  data_files: structures/*.parquet
---
# Embeddings
"""


def add(path: str, data: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, data)


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    """A client of the Hub, where one dataset repository exists."""
    client = HfApi()
    client.create_repo(REPO, repo_type="dataset")
    return client


def commit(api: HfApi, *operations: Any, **options: Any) -> Any:
    options = {"repo_type": "dataset", "commit_message": "a change", **options}
    return api.create_commit(REPO, operations, **options)


def test_upload_tag_and_download_at_the_tag(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    (folder / "deep" / "c").mkdir(parents=True)
    contents = {
        "README.md": CARD.encode(),
        "deep/c/0": bytes(range(256)) * 20,  # binary without a suffix, as Zarr chunks are
        "deep/zarr.json": b"{}",
        "table.parquet": b"PAR1 not really",
    }
    for path, data in contents.items():
        (folder / path).write_bytes(data)
    first = api.upload_folder(repo_id=REPO, repo_type="dataset", folder_path=folder)
    api.create_tag(REPO, repo_type="dataset", tag="v1.0.0")
    assert api.list_repo_files(REPO, repo_type="dataset", revision="v1.0.0") == sorted(
        [".gitattributes", *contents]
    )
    second = commit(api, add("deep/zarr.json", b'{"new": 1}'), add("table.parquet", b"other"))

    # Reached without any endpoint given, through functions bound to one when imported.
    assert list_repo_files(REPO, repo_type="dataset") == sorted([".gitattributes", *contents])
    for revision, expected in (
        ("v1.0.0", contents),
        (first.oid, contents),
        ("main", {**contents, "deep/zarr.json": b'{"new": 1}', "table.parquet": b"other"}),
    ):
        for path, data in expected.items():
            found = Path(hf_hub_download(REPO, path, repo_type="dataset", revision=revision))
            assert found.read_bytes() == data
            assert found.is_relative_to(tmp_path / "hf-home" / "hub")
    sha = {r: api.dataset_info(REPO, revision=r).sha for r in ("v1.0.0", "main", first.oid)}
    assert sha == {"v1.0.0": first.oid, "main": second.oid, first.oid: first.oid}
    assert hub.head(REPO) == second.oid and hub.files(REPO, "v1.0.0")["README.md"] == CARD.encode()
    titles = [one.title for one in api.list_repo_commits(REPO, repo_type="dataset")]
    assert titles == ["a change", "Upload folder using huggingface_hub", "initial commit"]


def test_large_and_binary_files_go_to_lfs(hub: HubServer, api: HfApi) -> None:
    data = bytes(range(256)) * 4
    commit(api, add("c/0", data), add("note.txt", "Ångström".encode()), add("a.parquet", b"x"))
    found: dict[str, Any] = {
        one.path: one
        for one in api.get_paths_info(REPO, ["c/0", "note.txt", "a.parquet", "c", "none"],
                                      repo_type="dataset", expand=True)
    }  # fmt: skip
    assert set(found) == {"c/0", "note.txt", "a.parquet", "c"}
    assert found["c/0"].lfs.sha256 == hashlib.sha256(data).hexdigest()
    assert found["c/0"].size == found["c/0"].lfs.size == len(data)
    assert found["note.txt"].lfs is None and found["a.parquet"].lfs is not None
    blob = b"blob 10\0" + "Ångström".encode()
    assert found["note.txt"].blob_id == hashlib.sha1(blob).hexdigest()
    assert found["c/0"].last_commit.title == "a change"
    assert len(hub.select(method="PUT")) == 2
    hub.clear()
    commit(api, add("c/0", data), add("copy", data), add("note.txt", b"new"))
    assert hub.select(method="PUT") == []  # the content is there already
    before = hub.head(REPO)
    assert commit(api, add("note.txt", b"new")).oid == before  # nothing changed: no commit


def test_deletes(hub: HubServer, api: HfApi) -> None:
    commit(api, *(add(path, b"x") for path in ("a", "b/1", "b/2", "c/1")))
    commit(api, CommitOperationDelete("a"), CommitOperationDelete("b/"), add("b/3", b"y"))
    assert set(hub.files(REPO)) == {".gitattributes", "b/3", "c/1"}
    before = hub.head(REPO)
    for path in ("a", "b/"):
        if path == "b/":
            commit(api, CommitOperationDelete("b/"))
            before = hub.head(REPO)
        with pytest.raises(EntryNotFoundError, match="with this name doesn't exist"):
            commit(api, CommitOperationDelete(path), add("never", b""))
    assert hub.head(REPO) == before and "never" not in hub.files(REPO)


def test_stale_parent_is_refused(hub: HubServer, api: HfApi) -> None:
    start = hub.head(REPO)
    ours = commit(api, add("a", b"1"), parent_commit=start)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as caught:
        commit(api, add("a", b"2"), parent_commit=start)
    assert caught.value.response.status_code == 412
    assert hub.head(REPO) == ours.oid and hub.files(REPO)["a"] == b"1"
    assert commit(api, add("a", b"2"), parent_commit=ours.oid).oid == hub.head(REPO)


def test_someone_else_commits_in_between(hub: HubServer, api: HfApi) -> None:
    start = hub.head(REPO)
    others: list[str] = []

    def meddle(request: Request) -> Fault | None:
        if request.method == "POST" and "/commit/" in request.path and not others:
            others.append(hub.commit(REPO, {"theirs": b"1"}))
        return None

    hub.fault = meddle
    with pytest.raises(HfHubHTTPError, match="412"):
        commit(api, add("ours", b"1"), parent_commit=start)
    assert others == [hub.head(REPO)] and set(hub.files(REPO)) == {".gitattributes", "theirs"}
    commit(api, add("ours", b"1"), parent_commit=others[0])
    assert {"ours", "theirs"} < set(hub.files(REPO))


def test_tags_and_branches(hub: HubServer, api: HfApi) -> None:
    start = hub.head(REPO)
    api.create_tag(REPO, repo_type="dataset", tag="v1", tag_message="first")
    with pytest.raises(HfHubHTTPError, match="Tag reference exists already"):
        api.create_tag(REPO, repo_type="dataset", tag="v1")
    api.create_tag(REPO, repo_type="dataset", tag="v1", exist_ok=True)
    api.create_branch(REPO, repo_type="dataset", branch="dev/x")
    there = commit(api, add("a", b"1"), revision="dev/x").oid
    api.create_tag(REPO, repo_type="dataset", tag="v2", revision="dev/x")
    refs = api.list_repo_refs(REPO, repo_type="dataset", include_pull_requests=True)
    assert {one.ref: one.target_commit for one in refs.branches} == {
        "refs/heads/main": start,
        "refs/heads/dev/x": there,
    }
    assert {one.name: one.target_commit for one in refs.tags} == {"v1": start, "v2": there}
    assert refs.pull_requests == []
    with pytest.raises(HfHubHTTPError, match="it is not a branch"):
        commit(api, add("a", b"2"), revision="v1")
    api.delete_tag(REPO, repo_type="dataset", tag="v2")
    api.delete_branch(REPO, repo_type="dataset", branch="dev/x")
    with pytest.raises(RevisionNotFoundError):
        api.dataset_info(REPO, revision="v2")
    assert api.dataset_info(REPO, revision=there).sha == there  # commits stay


def test_pull_request_with_its_commit_and_merge(hub: HubServer, api: HfApi) -> None:
    commit(api, add("kept", b"0"), add("gone", b"0"))
    start = hub.head(REPO)
    made = commit(api, add("a", b"1"), CommitOperationDelete("gone"), create_pr=True)
    assert (made.pr_num, made.pr_revision) == (1, "refs/pr/1")
    assert hub.head(REPO) == start and hub.head(REPO, "refs/pr/1") == made.oid
    more = commit(api, add("b", b"2"), revision="refs/pr/1").oid
    path = hf_hub_download(REPO, "b", repo_type="dataset", revision="refs/pr/1")
    assert Path(path).read_bytes() == b"2"
    hub.commit(REPO, {"meanwhile": b"3"})
    details = api.get_discussion_details(REPO, 1, repo_type="dataset")
    assert details.status == "open" and details.is_pull_request
    assert details.conflicting_files == []
    assert [getattr(one, "oid", None) for one in details.events if one.type == "commit"] == [
        made.oid,
        more,
    ]
    api.merge_pull_request(REPO, 1, repo_type="dataset", comment="fine")
    details = api.get_discussion_details(REPO, 1, repo_type="dataset")
    assert details.status == "merged" and details.merge_commit_oid == hub.head(REPO)
    assert set(hub.files(REPO)) == {".gitattributes", "kept", "a", "b", "meanwhile"}
    refs = api.list_repo_refs(REPO, repo_type="dataset", include_pull_requests=True)
    assert [(one.ref, one.target_commit) for one in refs.pull_requests or []] == [
        ("refs/pr/1", more)
    ]
    with pytest.raises(HfHubHTTPError, match="status is merged"):
        api.merge_pull_request(REPO, 1, repo_type="dataset")


def test_pull_request_drafts_bases_and_conflicts(hub: HubServer, api: HfApi) -> None:
    start = hub.head(REPO)
    hub.commit(REPO, {"a": b"main"})
    old = commit(api, add("a", b"proposed"), create_pr=True, parent_commit=start)
    assert hub.repo(REPO).resolve(old.oid).parents == (start,)
    assert api.get_discussion_details(REPO, 1, repo_type="dataset").conflicting_files == ["a"]
    with pytest.raises(HfHubHTTPError, match="Merge conflicts in: a"):
        api.merge_pull_request(REPO, 1, repo_type="dataset")
    api.change_discussion_status(REPO, 1, "closed", repo_type="dataset")

    draft = api.create_pull_request(REPO, "A new model", repo_type="dataset")
    assert (draft.num, draft.status) == (2, "draft")
    commit(api, add("model", b"x"), revision="refs/pr/2")
    with pytest.raises(HfHubHTTPError, match="status is draft"):
        api.merge_pull_request(REPO, 2, repo_type="dataset")
    api.change_discussion_status(REPO, 2, "open", repo_type="dataset")
    api.merge_pull_request(REPO, 2, repo_type="dataset")
    assert hub.files(REPO)["model"] == b"x"
    found = api.get_repo_discussions(REPO, repo_type="dataset")
    assert {one.num: one.status for one in found} == {1: "closed", 2: "merged"}


def test_snapshot_of_patterns(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    hub.commit(REPO, {f"{m}/{s}.parquet": f"{m}{s}".encode() for m in "ab" for s in "xy"})
    api.create_tag(REPO, repo_type="dataset", tag="v1")
    hub.commit(REPO, {"a/x.parquet": b"later"})
    hub.clear()
    place = Path(snapshot_download(REPO, repo_type="dataset", revision="v1",
                                   allow_patterns=["a/*"], ignore_patterns="*y*"))  # fmt: skip
    assert [p.relative_to(place).as_posix() for p in place.rglob("*.*")] == ["a/x.parquet"]
    assert (place / "a/x.parquet").read_bytes() == b"ax"
    assert len(hub.select(origin="cdn")) == 1
    target = tmp_path / "here"
    snapshot_download(REPO, repo_type="dataset", local_dir=target)
    found = {p.relative_to(target).as_posix() for p in target.glob("[!.]*/*")}
    assert found == {f"{m}/{s}.parquet" for m in "ab" for s in "xy"}
    assert (target / "a/x.parquet").read_bytes() == b"later"


def test_filesystem(hub: HubServer, api: HfApi) -> None:
    data = bytes(range(256)) * 64
    hub.commit(REPO, {"z/c/0": data, "z/zarr.json": b"{}", "README.md": b"hi"})
    api.create_tag(REPO, repo_type="dataset", tag="v1")
    api.create_branch(REPO, repo_type="dataset", branch="other")
    remote = HfFileSystem()
    root = f"datasets/{REPO}@v1"
    assert sorted(map(str, remote.ls(root, detail=False))) == [
        f"{root}/{name}" for name in (".gitattributes", "README.md", "z")
    ]
    assert remote.glob(f"{root}/**/zarr.json") == [f"{root}/z/zarr.json"]
    assert remote.info(f"{root}/z/c/0")["size"] == len(data)
    assert remote.isdir(f"{root}/z/c") and not remote.exists(f"{root}/z/none")
    with pytest.raises(FileNotFoundError):
        remote.ls(f"datasets/{REPO}@v9")
    hub.clear()
    with remote.open(f"{root}/z/c/0", "rb", cache_type="none") as handle:
        handle.seek(1000)
        assert handle.read(24) == data[1000:1024]
    first, second = hub.log
    assert (first.origin, first.status, first.range) == ("main", 302, "bytes=1000-1023")
    assert (second.origin, second.status, second.sent) == ("cdn", 206, 24)
    with remote.open(f"datasets/{REPO}@other/new.txt", "wb") as handle:
        handle.write(b"written")
    assert hub.files(REPO, "other")["new.txt"] == b"written"


def test_listings_come_in_pages(hub: HubServer, api: HfApi) -> None:
    hub.commit(REPO, {f"d{n}/f{n}": b"x" for n in range(6)})
    hub.page_size = 5
    hub.clear()
    found = [one.path for one in api.list_repo_tree(REPO, repo_type="dataset", recursive=True)]
    assert found == [".gitattributes", *(p for n in range(6) for p in (f"d{n}", f"d{n}/f{n}"))]
    assert len(hub.select(path="*/tree/*")) == 3
    top = [one.path for one in api.list_repo_tree(REPO, repo_type="dataset")]
    assert top == [".gitattributes", *(f"d{n}" for n in range(6))]
    below = [one.path for one in api.list_repo_tree(REPO, "d3", repo_type="dataset")]
    assert below == ["d3/f3"]


def table(*rows: int) -> bytes:
    sink = pa.BufferOutputStream()
    vectors = pa.array([[float(n)] * 3 for n in rows], pa.list_(pa.float16(), 3))
    pq.write_table(pa.table({"structure_id": [f"s{n}" for n in rows], "embedding": vectors}), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def tables(hub: HubServer) -> str:
    """Commit id of a card and three tables."""
    hub.create(
        REPO,
        {
            "README.md": CARD.encode(),
            "parquet/m1/ores.parquet": table(1, 2, 3),
            "parquet/m1/organics.parquet": table(4),
            "structures/ores.parquet": table(1, 2, 3),
            "structures/organics.parquet": table(4),
        },
    )
    return hub.head(REPO)


def test_load_dataset(hub: HubServer, tables: str, tmp_path: Path) -> None:
    assert datasets.get_dataset_config_names(REPO) == ["m1", "structures"]
    found = datasets.load_dataset(REPO, "m1")
    assert {split: rows["structure_id"][:] for split, rows in found.items()} == {
        "ores": ["s1", "s2", "s3"],
        "organics": ["s4"],
    }
    assert found["ores"].features["embedding"] == datasets.List(datasets.Value("float16"), length=3)
    HubServer.commit(hub, REPO, {"parquet/m1/ores.parquet": table(9)})
    old = datasets.load_dataset(REPO, "m1", split="ores", revision=tables)
    assert old["structure_id"][:] == ["s1", "s2", "s3"]
    new = datasets.load_dataset(REPO, "m1", split="ores")
    assert new["structure_id"][:] == ["s9"]
    assert (tmp_path / "hf-home" / "datasets").is_dir()


def test_load_dataset_as_a_stream(hub: HubServer, tables: str) -> None:
    rows = datasets.load_dataset(REPO, "structures", split="train", streaming=True)
    assert [row["structure_id"] for row in rows] == ["s1", "s2", "s3", "s4"]
    assert [row["embedding"] for row in rows.take(1)] == [[1.0, 1.0, 1.0]]
    assert hub.select(origin="cdn", status=206) or hub.select(origin="cdn", status=200)


def test_other_processes_speak_to_it(hub: HubServer, tables: str, tmp_path: Path) -> None:
    home = tmp_path / "other-home"
    program = (
        "import datasets, json, huggingface_hub\n"
        f"rows = datasets.load_dataset('{REPO}', 'm1', split='ores', revision='{tables}')\n"
        "print(json.dumps([rows['structure_id'][:], huggingface_hub.get_token()]))\n"
    )
    env = {**client_env(hub, home=home), "HOME": str(tmp_path / "nobody")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["s1", "s2", "s3"], hub.token]
    assert (home / "hub").is_dir() and (home / "datasets").is_dir()
    assert not (tmp_path / "nobody").exists()


def test_connection_is_undone(tmp_path: Path) -> None:
    def facts() -> list[Any]:
        names = [n for n in dir(constants) if n.isupper()]
        return [
            {n: getattr(constants, n) for n in names},
            {n: getattr(datasets.config, n) for n in dir(datasets.config) if n.isupper()},
            dict(os.environ),
            HfApi().endpoint,
            HfFileSystem().endpoint,
        ]

    before = facts()
    with HubServer() as one, connected(one, home=tmp_path / "one"):
        assert HfApi().endpoint == HfFileSystem().endpoint == one.url
        assert facts() != before
        with HubServer() as two, connected(two, home=tmp_path / "two", token=""):
            assert HfApi().endpoint == two.url and "HF_TOKEN" not in os.environ
        assert HfApi().endpoint == one.url and os.environ["HF_TOKEN"] == one.token
    assert facts() == before
