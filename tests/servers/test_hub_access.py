# SPDX-License-Identifier: Apache-2.0
"""The loopback Hub: who may do what, how contents travel, and what clients make of faults."""

from __future__ import annotations

import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import httpx2
import pytest
from huggingface_hub import HfApi, HfFileSystem, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from servers import faults, hub_card
from servers.hub import Account, HubServer
from servers.hub_client import connected

REPO = "matter/emb"
DATA = bytes(range(256)) * 80
FILES = {"README.md": b"---\nlicense: mit\n---\n", "zarr.json": b"{}", "c/0": DATA, "none": b""}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[HubServer]:
    """A Hub where tokens count; this process has none."""
    tokens = {
        "hf_owner": Account("owner", orgs=("matter",)),
        "hf_reader": Account("owner", orgs=("matter",), write=False),
        "hf_guest": Account("guest"),
    }
    with HubServer(tokens=tokens) as server, connected(server, home=tmp_path / "home", token=""):
        yield server


def fetch(token: str | bool | None = None, path: str = "c/0", revision: str = "main") -> bytes:
    """A download that no cache can answer."""
    cache = Path(constants.HF_HOME) / uuid.uuid4().hex
    place = hf_hub_download(
        REPO, path, repo_type="dataset", revision=revision, token=token, cache_dir=cache
    )
    return Path(place).read_bytes()


def test_gated_repository(guarded: HubServer) -> None:
    repo = guarded.create(REPO, FILES, gated="manual")
    with pytest.raises(GatedRepoError) as caught:
        fetch()
    stranger = str(caught.value)
    assert "401 Client Error" in stranger and "Cannot access gated repo for url" in stranger
    assert (
        f"Access to dataset {REPO} is restricted. You must have access to it and be authenticated "
        "to access it. Please log in." in stranger
    )
    with pytest.raises(GatedRepoError) as caught:
        fetch("hf_guest")
    assert (
        f"Access to dataset {REPO} is restricted and you are not in the authorized list. Visit "
        f"https://huggingface.co/datasets/{REPO} to ask for access." in str(caught.value)
    )
    # What it holds is no secret.
    info = HfApi().dataset_info(REPO)
    assert info.gated == "manual" and info.sha == guarded.head(REPO)
    assert "c/0" in HfApi().list_repo_files(REPO, repo_type="dataset")
    with pytest.raises(GatedRepoError):
        HfApi().auth_check(REPO, repo_type="dataset")
    with pytest.raises(datasets.exceptions.DatasetNotFoundError, match="is a gated dataset"):
        datasets.load_dataset(REPO)
    repo.allowed.add("guest")
    assert fetch("hf_guest") == fetch("hf_reader") == DATA
    HfApi(token="hf_owner").update_repo_settings(REPO, repo_type="dataset", gated=False)
    assert fetch() == DATA


def test_private_repository(guarded: HubServer) -> None:
    HfApi(token="hf_owner").create_repo(REPO, repo_type="dataset", private=True)
    guarded.commit(REPO, dict(FILES))
    for token in (False, "hf_guest"):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(token=token).dataset_info(REPO)
        with pytest.raises(FileNotFoundError, match="repository not found"):
            HfFileSystem(token=token).ls(f"datasets/{REPO}")
    assert fetch("hf_reader") == DATA and fetch("hf_reader", "zarr.json") == b"{}"
    info = HfApi(token="hf_owner").dataset_info(REPO, files_metadata=True)
    assert info.private
    assert {s.rfilename: (s.size, bool(s.lfs)) for s in info.siblings or []} == {
        ".gitattributes": (len(guarded.files(REPO)[".gitattributes"]), False),
        **{path: (len(data), path == "c/0") for path, data in FILES.items()},
    }


def test_writing_needs_the_right(guarded: HubServer) -> None:
    guarded.create(REPO, FILES)
    before = guarded.head(REPO)
    upload: dict[str, Any] = {
        "path_or_fileobj": b"x",
        "path_in_repo": "x",
        "repo_id": REPO,
        "repo_type": "dataset",
    }
    for token, message in (
        (False, "401"),
        ("hf_guest", "You don't have the rights"),
        ("hf_reader", "You don't have the rights"),
        ("hf_forged", "Invalid credentials in Authorization header"),
    ):
        with pytest.raises(HfHubHTTPError, match=message):
            HfApi(token=token).upload_file(**upload)
        with pytest.raises(HfHubHTTPError):
            HfApi(token=token).create_repo("matter/new", repo_type="dataset")
    assert guarded.head(REPO) == before and len(guarded.repos) == 1
    with pytest.raises(HfHubHTTPError, match="401"):
        fetch("hf_forged")

    # Anyone with an account may propose; only owners merge.
    made = HfApi(token="hf_guest").upload_file(**upload, create_pr=True)
    upload["path_in_repo"] = "y"
    HfApi(token="hf_guest").upload_file(**upload, revision="refs/pr/1")
    HfApi(token="hf_owner").upload_file(**upload, create_pr=True)
    with pytest.raises(HfHubHTTPError, match="You don't have the rights"):
        HfApi(token="hf_guest").upload_file(**upload, revision="refs/pr/2")
    with pytest.raises(HfHubHTTPError, match="You don't have the rights"):
        HfApi(token="hf_guest").merge_pull_request(REPO, made.pr_num, repo_type="dataset")
    HfApi(token="hf_owner").merge_pull_request(REPO, made.pr_num, repo_type="dataset")
    assert guarded.files(REPO)["x"] == guarded.files(REPO)["y"] == b"x"
    assert HfApi(token="hf_guest").whoami()["name"] == "guest"
    HfApi(token="hf_owner").delete_repo(REPO, repo_type="dataset")
    assert guarded.repos == {}


def test_what_is_not_there(hub: HubServer) -> None:
    hub.create(REPO, FILES)
    with pytest.raises(RevisionNotFoundError, match="Invalid rev id: v9"):
        fetch(revision="v9")
    with pytest.raises(RevisionNotFoundError):
        HfApi().list_repo_files(REPO, repo_type="dataset", revision="v9")
    with pytest.raises(EntryNotFoundError, match="Entry Not Found"):
        fetch(path="c/1")
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("matter/other", "x", repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match="You already created this dataset repo"):
        HfApi().create_repo(REPO, repo_type="dataset")
    HfApi().create_repo(REPO, repo_type="dataset", exist_ok=True)


def steps(hub: HubServer) -> list[tuple[str, str, int, int]]:
    return [
        (r.method, r.origin, r.status, r.sent) for r in hub.log if "/api/datasets" not in r.path
    ]


def test_contents_travel_as_on_the_real_hub(hub: HubServer) -> None:
    hub.create(REPO, FILES)
    assert fetch() == DATA
    assert steps(hub) == [("HEAD", "main", 302, 0), ("GET", "cdn", 200, len(DATA))]
    assert "authorization" in hub.log[0].headers and "authorization" not in hub.log[1].headers
    hub.clear()
    assert fetch(path="zarr.json") == b"{}"
    assert steps(hub) == [
        ("HEAD", "main", 307, 0), ("HEAD", "main", 200, 0), ("GET", "main", 200, 2),
    ]  # fmt: skip
    hub.clear()
    assert fetch(path="none") == b""
    assert steps(hub) == [("HEAD", "main", 200, 0)]
    hub.clear()
    assert HfFileSystem().cat_file(f"datasets/{REPO}/zarr.json") == b"{}"
    assert [(r.method, r.status) for r in hub.select(path="*zarr.json")] == [
        ("GET", 307), ("GET", 200),
    ]  # fmt: skip


def test_contents_without_redirects(tmp_path: Path) -> None:
    with HubServer(redirects=False, folder=tmp_path / "objects") as hub, connected(hub):
        hub.create(REPO, FILES)
        assert fetch() == DATA and fetch(path="zarr.json") == b"{}"
        assert [status for _, _, status, _ in steps(hub)] == [200] * 4
        assert hub.select(origin="cdn") == []
        assert {p.stat().st_size for p in (tmp_path / "objects").iterdir()} >= {len(DATA), 2, 0}
    assert not hub.log[0].path.startswith("/cdn")


def test_addresses_of_contents_are_signed(hub: HubServer) -> None:
    hub.create(REPO, FILES)
    oid = hub.repo(REPO).resolve("main").files["c/0"].sha256
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{hub.cdn_url}/cdn/datasets/{REPO}/{oid}", timeout=10)
    place = urllib.request.Request(f"{hub.url}/datasets/{REPO}/resolve/main/c/0")
    with urllib.request.urlopen(place, timeout=10) as answer:
        assert answer.url.startswith(hub.cdn_url) and answer.read() == DATA
    wrong = urllib.request.Request(answer.url, data=b"other bytes", method="PUT")
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(wrong, timeout=10)


def test_rate_limit_then_success(hub: HubServer) -> None:
    hub.create(REPO, FILES)
    remote = HfFileSystem()
    with remote.open(f"datasets/{REPO}/c/0", cache_type="none") as handle:
        hub.clear()
        hub.fault = faults.plan(faults.rate_limit(), path="*/resolve/*", times=1)
        handle.seek(10)
        assert handle.read(5) == DATA[10:15]
    assert [(r.status, r.fault) for r in hub.log] == [
        (429, "rate limit"), (302, None), (206, None),
    ]  # fmt: skip


def test_only_some_calls_wait_out_a_limit(hub: HubServer) -> None:
    hub.create(REPO, FILES)
    hub.fault = faults.plan(faults.rate_limit(7), times=1)
    assert fetch() == DATA  # asks again at once
    assert [r.status for r in hub.log] == [429, 302, 200]
    # Metadata is not asked for again: the first touch of an hf:// path can fail so.
    for call in (
        lambda: HfApi().dataset_info(REPO),
        lambda: HfFileSystem().ls(f"datasets/{REPO}"),
    ):
        hub.fault = faults.plan(faults.rate_limit(7), times=1)
        with pytest.raises(HfHubHTTPError, match="Retry after 7 seconds"):
            call()


def test_cut_download_is_resumed(hub: HubServer) -> None:
    block = constants.DOWNLOAD_CHUNK_SIZE  # the client keeps whole blocks only
    data = DATA * (block // len(DATA) + 2)
    hub.create(REPO, {"c/0": data})
    hub.fault = faults.plan(faults.truncate(block + 1000), origin="cdn", times=1)
    assert fetch() == data
    first, second = hub.select(origin="cdn")
    assert (first.fault, first.sent, second.status) == ("truncate", block + 1000, 206)
    assert second.range == f"bytes={block}-" and second.sent == len(data) - block


def test_clients_believe_wrong_bytes_of_the_right_length(hub: HubServer) -> None:
    """Why readers of an atlas verify by themselves."""
    hub.create(REPO, FILES)
    hub.fault = faults.plan(faults.corrupt(500), origin="cdn")
    wrong = fetch()
    assert len(wrong) == len(DATA) and [n for n in range(len(DATA)) if wrong[n] != DATA[n]] == [500]
    hub.fault = faults.plan(faults.shorten(500), origin="cdn")
    with pytest.raises(OSError, match="Consistency check failed"):
        fetch()


def test_a_hub_that_is_gone(hub: HubServer) -> None:
    hub.create(REPO, FILES)
    kept = snapshot_download(REPO, repo_type="dataset")
    hub.close()
    assert snapshot_download(REPO, repo_type="dataset") == kept  # from its cache
    with pytest.raises(httpx2.ConnectError):
        HfApi().dataset_info(REPO)


def upload_card(text: str) -> None:
    HfApi().upload_file(
        path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=REPO, repo_type="dataset"
    )


def test_cards_are_checked_on_upload(hub: HubServer) -> None:
    hub.create(REPO)
    with pytest.raises(ValueError, match=r'Invalid metadata in README.md.\n- "license" must be'):
        upload_card("---\nlicense: Apache-2.0\n---\n")
    with pytest.raises(ValueError, match=r"YAML parsing error: .*\(line 3\)"):
        upload_card("---\nlicense: mit\nconfigs: [\n---\n")
    assert "README.md" not in hub.files(REPO)
    with pytest.warns(UserWarning, match="empty or missing yaml metadata in repo card"):
        upload_card("# Only words\n")
    upload_card("---\nlicense: cc-by-4.0\nlanguage: [en]\n---\n# A card\n")
    card = HfApi().dataset_info(REPO).card_data
    assert card is not None and card.license == "cc-by-4.0"


GOOD = """
license: other
license_name: mixed-1.0
license_link: LICENSE
language: [en]
pretty_name: An atlas
tags: [chemistry, materials]
task_categories: [feature-extraction, graph-ml]
size_categories: [1M<n<10M]
configs:
- {config_name: chgnet-0.3.0, data_files: [{split: g2, path: parquet/chgnet-0.3.0/g2.parquet}]}
- {config_name: structures, data_files: structures/*.parquet, default: true}
- {config_name: scores, data_files: [scores/pairs.parquet, scores/dimensions.parquet]}
dataset_info:
- config_name: structures
  splits: [{name: train, num_examples: 3}]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("license: other", "license: MIT", '"license" must be one of'),
        ("license: other", "license: [mit, gpl-3.0-or-later]", '"license" must be one of'),
        ("license: other", "license: [mit, gpl-3.0]", None),
        ("mixed-1.0", "Mixed Licence", '"license_name" with value "Mixed Licence"'),
        ("link: LICENSE", "link: licence.txt", '"license_link" must be one of'),
        ("link: LICENSE", "link: https://a.org/licence", None),
        ("[en]", "[English]", '"language[0]" with value "English" is not valid'),
        ("An atlas", "7", '"pretty_name" must be a string'),
        ("materials]", "2024]", '"tags[1]" must be a string'),
        ("[chemistry, materials]", "chemistry", '"tags" must be an array'),
        ("1M<n<10M", "1M<n<20M", '"size_categories[0]" must be one of'),
        ("[1M<n<10M]", "n<1K", None),
        ("chgnet-0.3.0, data", "a/b, data", '"configs[0].config_name" with value "a/b"'),
        ("config_name: scores", "config_name: structures", 'duplicate config_name "structures"'),
        ("split: g2", "split: qm-9", '"configs[0].data_files[0].split" with value "qm-9"'),
        ("{split: g2, path", "{path", '"configs[0].data_files[0]" must be a string or an object'),
        ("structures/*.parquet", "{train: a}", '"configs[1].data_files" must be one of'),
        ("path: parquet/chgnet-0.3.0/g2.parquet", "path: 1", ".path"),
        ("default: true", "default: 1", '"configs[1].default" must be a boolean'),
        ("name: train", "name: a-b", '"dataset_info[0].splits[0].name"'),
        ("- config_name: structures", "- name: x", '"dataset_info[0].config_name" is required'),
    ],
)
def test_card_rules(old: str, new: str, message: str | None) -> None:
    assert hub_card.check(f"---{GOOD}---\n", "dataset") == ([], [])
    assert GOOD.count(old) >= 1
    errors, warnings = hub_card.check(f"---{GOOD.replace(old, new, 1)}---\n", "dataset")
    assert warnings == [] and len(errors) == (message is not None)
    assert message is None or message in errors[0]


def test_card_warnings_and_other_kinds() -> None:
    errors, warnings = hub_card.check("---\ntask_categories: [alchemy]\n---\n", "dataset")
    assert errors == [] and len(warnings) == 1 and '"alchemy" is not in' in warnings[0]
    assert hub_card.check("---\nsize_categories: [lots]\n---\n", "model") == ([], [])
    assert hub_card.check("---\n- a list\n---\n", "dataset")[0] == [
        '"value" must be of type object'
    ]
    assert len(hub_card.LICENSES) == len(set(hub_card.LICENSES)) > 80
