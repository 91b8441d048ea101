# SPDX-License-Identifier: Apache-2.0
"""Pull requests on the Hub: what they may hold, what becomes of harmful ones, who may open one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flow import fill_card, run
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from hypothesis import given
from hypothesis import strategies as st
from servers.hub import Account, HubServer
from servers.hub_client import connected
from test_bring import CARD, write

import matteratlas as ma
from matteratlas.builders.contribute.folder import open_contribution
from matteratlas.builders.contribute.proposal import check_proposal, proposed_files, take
from matteratlas.builders.merge import merge
from matteratlas.contribute import check, check_pull_request, submit
from matteratlas.registry.hub_contribute import pull_request, repo_name
from matteratlas.schemas.errors import ArchiveError, AtlasError, SourceError

REPO = "atlas/matter"


@pytest.fixture(scope="module")
def checked(built_atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A contribution that passed its check: brought vectors of the G2 molecules."""
    folder = tmp_path_factory.mktemp("contrib")
    run("contribute", "new", "secretnet", "--family", "secretnet", "--modality", "smiles",
        "--brought", "--out", str(folder))  # fmt: skip
    home = folder / "secretnet"
    fill_card(home / "secretnet.yaml", CARD.splitlines())
    table = ma.open_atlas(built_atlas).structures
    ids = [str(i) for i in table[table["set"] == "g2"]["id"]]
    values = np.random.default_rng(1).normal(size=(len(ids), 6)).astype(np.float32)
    write(home, "npy", ids, values)
    report = check(home, against=str(built_atlas))
    assert report.ok, report.checks
    return home


@pytest.fixture
def published(hub: HubServer, built_atlas: Path) -> HubServer:
    """The dataset on the Hub."""
    HfApi().create_repo(REPO, repo_type="dataset")
    HfApi().upload_folder(repo_id=REPO, repo_type="dataset", folder_path=built_atlas,
                          ignore_patterns=[".lock", ".staging/*"])  # fmt: skip
    return hub


Files = dict[str, bytes]


def propose(files: Files, *more: CommitOperationDelete) -> int:
    adds = [CommitOperationAdd(path, data) for path, data in files.items()]
    made = HfApi().create_commit(
        REPO, [*adds, *more], commit_message="x", repo_type="dataset", create_pr=True
    )
    return int(made.pr_num or 0)


def honest(folder: Path) -> Files:
    return {n: p.read_bytes() for n, p in proposed_files(open_contribution(folder)).items()}


def test_proposals_are_taken_as_they_were(
    published: HubServer, checked: Path, tmp_path: Path, built_atlas: Path
) -> None:
    made = submit(checked, repo=f"hf://datasets/{REPO}")
    found = pull_request(REPO, made.number)
    assert not found.touched and len(found.added) == made.files
    again = submit(checked, repo=REPO)  # a second time: the one that is open, and nothing is sent
    assert again.again and not made.again and (again.number, again.url) == (made.number, made.url)
    assert pull_request(REPO, made.number).head == found.head
    assert sum(found.added.values()) == made.bytes
    report = check_pull_request(REPO, made.number, out=tmp_path / "seen")
    assert report.ok, report.checks
    assert report.commit == found.head and report.model == "secretnet"
    taken, _ = take(REPO, made.number, tmp_path / "taken")
    own = honest(checked)
    assert honest(taken.folder) == own
    target = Path(shutil.copytree(built_atlas, tmp_path / "target"))
    merge(target, [taken.atlas])
    reader = ma.open_atlas(target)
    assert reader.embeddings("secretnet", missing="drop").shape == (70, 6)
    assert not (target / "contributions").exists()
    # Again, now that the dataset has it: refused before anything is uploaded.
    HfApi().upload_folder(repo_id=REPO, repo_type="dataset", folder_path=target,
                          ignore_patterns=[".lock", ".staging/*"])  # fmt: skip
    with pytest.raises(ArchiveError, match=r"the dataset has secretnet on .*; choose another id"):
        submit(checked, repo=REPO)
    assert len(list(HfApi().get_repo_discussions(REPO, repo_type="dataset"))) == 1


Harm = Callable[[Files], "Files | tuple[Files, CommitOperationDelete]"]


def _changes_index(files: Files) -> Files:
    return {**files, "atlas.json": b"{}"}


def _changes_other_model(files: Files) -> Files:
    return {**files, "parquet/morgan/g2.parquet": b"x"}


def _removes(files: Files) -> tuple[Files, CommitOperationDelete]:
    return files, CommitOperationDelete("registry/models.parquet")


def _adds_table(files: Files) -> Files:
    return {**files, "structures/new.parquet": b"x"}


def _adds_code(files: Files) -> Files:
    return {**files, "embeddings.zarr/secretnet/run.py": b"x"}


def _hidden(files: Files) -> Files:
    return {**files, "embeddings.zarr/secretnet/g2/.hidden": b"x"}


def _two_models(files: Files) -> Files:
    return {**files, "contributions/other.yaml": files["contributions/secretnet.yaml"]}


def _other_model(files: Files) -> Files:
    return {n.replace("zarr/secretnet", "zarr/other"): data for n, data in files.items()}


def _no_card(files: Files) -> Files:
    return {n: data for n, data in files.items() if not n.startswith("contributions/")}


def _evil_card(files: Files) -> Files:
    return {**files, "contributions/secretnet.yaml": b"id: !!python/object/apply:os.abort []\n"}


def _giant_card(files: Files) -> Files:
    return {**files, "contributions/secretnet.yaml": b"# " + b"x" * 2**21}


def _flipped(files: Files) -> Files:
    name = next(
        n for n in files if "/c/" in n and n.startswith("embeddings.zarr/secretnet/g2/last")
    )
    data = bytearray(files[name])
    data[len(data) // 2] ^= 1
    return {**files, name: bytes(data)}


def _half(files: Files) -> Files:
    gone = next(n for n in files if n.startswith("embeddings.zarr/secretnet/g2/last"))
    return {n: data for n, data in files.items() if n != gone}


def _giant_shape(files: Files) -> Files:
    name = "embeddings.zarr/secretnet/g2/last/zarr.json"
    document = json.loads(files[name])
    document["shape"] = [2**40, 6]
    return {**files, name: json.dumps(document).encode()}


def _new_set(files: Files) -> Files:
    return {n.replace("/g2", "/moon"): data for n, data in files.items()}


def _no_json(files: Files) -> Files:
    return {**files, "embeddings.zarr/secretnet/g2/zarr.json": b"[" * 100_000}


@pytest.mark.parametrize(
    ("harm", "evidence"),
    [
        (_changes_index, "atlas.json: changed or removed"),
        (_changes_other_model, "parquet/morgan/g2.parquet: changed or removed"),
        (_removes, "registry/models.parquet: changed or removed"),
        (_adds_table, "structures/new.parquet: no file of a unit"),
        (_adds_code, "no file of a unit of 'secretnet'"),
        (_hidden, ".hidden: no file of a unit"),
        (_two_models, "holds 2 new cards"),
        (_other_model, "zarr/other"),
        (_no_card, "holds 0 new cards"),
        (_evil_card, "tag"),
        (_giant_card, "cards and costs are small"),
        (_flipped, "sha256 differs"),
        (_half, "secretnet/g2"),
        (_giant_shape, "secretnet/g2"),
        (_new_set, "no such set"),
        (_no_json, ""),
    ],
    ids=lambda v: v.__name__ if callable(v) else "by name",
)
def test_harmful_proposals_fail_by_name(
    published: HubServer, checked: Path, tmp_path: Path, harm: Harm, evidence: str
) -> None:
    made = harm(honest(checked))
    number = propose(*made) if isinstance(made, tuple) else propose(made)
    work = tmp_path / "work"
    report = check_pull_request(REPO, number, out=work)
    wrong = [c for c in report.checks if c.outcome == "fail"]
    assert wrong and evidence in wrong[0].evidence, report.checks
    assert (work / "report.md").is_file()
    outside = {p for p in tmp_path.rglob("*") if p.is_file() and not p.is_relative_to(work)}
    assert not {p for p in outside if "hf-home" not in p.parts}


_PART = st.sampled_from(
    ["embeddings.zarr", "parquet", "m", "g2", "..", ".", "", "zarr.json", "g2.parquet", "runs",
     "m.json", "contributions", "m.yaml", "atlas.json", "structures", "~", "C:", "a\\b", "\n", "é"]
)  # fmt: skip


@given(st.lists(st.lists(_PART, min_size=1, max_size=5).map("/".join), max_size=4))
def test_only_files_of_the_one_model_pass(paths: list[str]) -> None:
    added = {"contributions/m.yaml": 1, "embeddings.zarr/m/g2/zarr.json": 1} | dict.fromkeys(
        paths, 1
    )
    try:
        model = check_proposal(added, ())
    except ArchiveError as error:
        assert "\n" not in str(error).replace("\n'", "") or "\n" in "".join(paths)
        return
    assert model == "m"
    for path in added:
        assert ".." not in path and not path.startswith("/") and "\\" not in path
        top, _, rest = path.partition("/")
        assert (top, rest.split("/")[0]) in {
            ("embeddings.zarr", "m"), ("parquet", "m")
        } or path in {"contributions/m.yaml", "runs/m.json"}  # fmt: skip


def test_sizes_are_looked_at_before_anything_is_fetched() -> None:
    added = {"contributions/m.yaml": 1, "embeddings.zarr/m/g2/zarr.json": 2**40}
    with pytest.raises(ArchiveError, match="at most"):
        check_proposal(added, ())
    many = {f"embeddings.zarr/m/g2/c/{i}": 1 for i in range(60_000)}
    with pytest.raises(ArchiveError, match="60001 files"):
        check_proposal({"contributions/m.yaml": 1, **many}, ())


def test_who_may_propose_and_what_the_others_are_told(
    checked: Path, built_atlas: Path, tmp_path: Path
) -> None:
    """A stranger's token opens a pull request; without one, or with a bad one, a line says so."""
    tokens = {"hf_ownersecret1": Account("atlas"), "hf_guestsecret1": Account("guest", write=False)}
    with HubServer(tokens=tokens) as hub:
        with connected(hub, home=tmp_path / "owner"):
            HfApi().create_repo(REPO, repo_type="dataset")
            HfApi().upload_folder(repo_id=REPO, repo_type="dataset", folder_path=built_atlas,
                                  ignore_patterns=[".lock", ".staging/*"])  # fmt: skip
        with connected(hub, home=tmp_path / "guest", token="hf_guestsecret1"):
            assert submit(checked, repo=REPO).number == 1
            with pytest.raises(SourceError, match="pull request 7"):
                pull_request(REPO, 7)
            with pytest.raises(SourceError, match="is not there; check its name"):
                submit(checked, repo="atlas/none")
        for token in ("", "hf_wrongsecret1"):
            with connected(hub, home=tmp_path / "other", token=token):
                with pytest.raises(SourceError) as caught:
                    submit(checked, repo=REPO)
                assert "log in" in str(caught.value) or "HF_TOKEN" in str(caught.value)
                assert "secret" not in str(caught.value).replace("secretnet", "")
                assert "\n" not in str(caught.value)


def test_an_open_pull_request_with_other_files_is_named(
    published: HubServer, checked: Path
) -> None:
    """Own and of this version: told with number and mend; once it is closed, a new one opens."""
    files = honest(checked)
    card = "contributions/secretnet.yaml"
    title = f"Add model secretnet {open_contribution(checked).card().version}"
    api = HfApi()
    api.create_commit(REPO, [CommitOperationAdd(card, files[card] + b"\n")], repo_type="dataset",
                      commit_message=title, create_pr=True)  # fmt: skip
    with pytest.raises(ArchiveError, match=r"pull request 1 of secretnet .* other files; close"):
        submit(checked, repo=REPO)
    api.change_discussion_status(REPO, 1, "closed", repo_type="dataset")
    made = submit(checked, repo=REPO)
    assert made.number == 2 and not made.again


def test_names_of_datasets() -> None:
    assert (
        repo_name("a/b") == repo_name("datasets/a/b") == repo_name("hf://datasets/a/b@v1") == "a/b"
    )
    for bad in ("", "a", "a/b/c", "../b", "a/b?x", "https://x.org/a/b"):
        with pytest.raises(AtlasError, match="ORG/NAME"):
            repo_name(bad)
