# SPDX-License-Identifier: Apache-2.0
"""From scaffold to a release that a fresh reader sees, by the documentation and a loopback Hub."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from flow import command, run, write_by_the_page
from huggingface_hub import HfApi
from servers.hub import HubServer

import matteratlas as ma
from matteratlas.builders.contribute.report import read_report
from matteratlas.builders.merge import merge
from matteratlas.builders.release import release
from matteratlas.registry.contributed import contributed
from matteratlas.registry.validate import validate

REPO = "atlas/matter"


def publish(folder: Path, version: str) -> None:
    api = HfApi()
    api.create_repo(REPO, repo_type="dataset", exist_ok=True)
    api.upload_folder(repo_id=REPO, repo_type="dataset", folder_path=folder, delete_patterns="*")
    api.create_tag(REPO, repo_type="dataset", tag=f"v{version}")


@pytest.fixture
def published(built_atlas: Path, tmp_path: Path, hub: HubServer) -> Path:
    """The maintainers' atlas, released and on the Hub."""
    atlas = Path(shutil.copytree(built_atlas, tmp_path / "maintainers"))
    publish(release(atlas, out=tmp_path / "releases").path, "1.0.0")
    return atlas


def test_a_model_from_scaffold_to_a_fresh_reader(
    published: Path, tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "contrib" / "autocorr2d"
    assert run(*command("contribute new"))[0] == 0
    code, told = run("contribute", "check", str(folder))
    assert code == 1 and "14 choices are open" in told and "key 'licence.code'" in told
    assert "autocorrelation.py: line" in told

    own = write_by_the_page(folder)
    assert 10 <= own < 60
    here = {"ORG/NAME": REPO, "hf://datasets/ORG/NAME": f"hf://datasets/{REPO}"}
    code, told = run(*(here.get(word, word) for word in command("contribute check")))
    assert code == 0, told
    report = read_report(folder / "report.json")
    names = {c.name: c.outcome for c in report.checks}
    assert set(names.values()) <= {"pass", "note"}, told
    assert {
        "card", "licences", "adapter and test", "test", "schema and hashes", "missing reasons",
        "values of last", "permutation invariance", "rotation invariance", "determinism",
        "translation invariance", "batch independence", "recomputed rows", "size",
        "fits the dataset", "alignment", "near-duplicate",
    } <= set(names)  # fmt: skip
    assert [a.model for a in report.alignment][-1] == "random-128"
    assert "morgan" in (folder / "report.md").read_text()

    main = HfApi().dataset_info(REPO).sha
    code, told = run(*(here.get(word, word) for word in command("contribute submit")))
    assert code == 0 and "pull request 1:" in told, told
    assert HfApi().dataset_info(REPO).sha == main, "a proposal changed main"
    discussion = HfApi().get_discussion_details(REPO, 1, repo_type="dataset")
    assert discussion.is_pull_request and discussion.title == "Add model autocorr2d 2026.9.1"
    proposed = HfApi().list_repo_files(REPO, repo_type="dataset", revision="refs/pr/1")
    new = set(proposed) - set(HfApi().list_repo_files(REPO, repo_type="dataset"))
    assert "contributions/autocorr2d.yaml" in new and "atlas.json" not in new
    assert all("autocorr2d" in path for path in new)

    # CI of the Hub looks at the data and runs nothing of it.
    code, told = run("contribute", "check", "--pull-request", "1", "--repo", REPO,
                     "--work", "seen")  # fmt: skip
    assert code == 0 and "contributed code is never run here" in told, told
    assert run("contribute", "unanswered", "--repo", REPO) == (0, "[\n 1\n]\n")
    told = run("contribute", "comment", "seen/report.json", "--pull-request", "1", "--repo", REPO)
    assert told[0] == 0 and run("contribute", "unanswered", "--repo", REPO) == (0, "[]\n")

    # Maintainers: the patch applies, the data merges, the release is read.
    code_repository(tmp_path / "code", folder / "autocorr2d.patch")
    arguments = [here.get(word, word) for word in command("contribute take")]
    arguments = ["1" if word == "12" else word for word in arguments]
    assert run(*arguments)[0] == 0
    taken = tmp_path / "out" / "pr-12" / "atlas"
    assert validate(taken, deep=True).faults == []
    merge(published, [taken])
    made = release(published, out=tmp_path / "releases")
    assert made.version == "1.1.0" and made.step == "minor"
    publish(made.path, "1.1.0")
    reader = ma.open_atlas(f"hf://datasets/{REPO}@latest", cache=False)
    vectors = reader.embeddings("autocorr2d", missing="drop").values
    held = ma.open_atlas(folder / "atlas").embeddings("autocorr2d", missing="drop").values
    assert vectors.shape == (70, 192) and np.array_equal(vectors, held)


def code_repository(folder: Path, patch: Path) -> None:
    """``git am`` takes the patch; the files are the contributor's."""
    git = ["git", "-c", "user.name=m", "-c", "user.email=m@example.org", "-C", str(folder)]
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "begin"], check=True)
    subprocess.run([*git, "am", "-q", str(patch)], check=True)
    for path, name in (
        ("registry/models/autocorrelation", "autocorr2d.yaml"),
        ("builders/adapters", "autocorrelation.py"),
        ("tests/builders/adapters", "test_autocorrelation.py"),
    ):
        assert (folder / path / name).read_bytes() == (patch.parent / name).read_bytes()


def test_a_contributed_model_can_be_built_by_name(tmp_path: Path) -> None:
    run("contribute", "new", "autocorr2d", "--family", "autocorrelation", "--modality", "graph2d",
        "--descriptor", "--out", str(tmp_path))  # fmt: skip
    folder = tmp_path / "autocorr2d"
    write_by_the_page(folder)
    with contributed(folder):
        code, told = run("build", "--models", "autocorr2d,random-128", "--out",
                         str(tmp_path / "atlas"), "--workers", "0")  # fmt: skip
        assert code == 0, told
    assert validate(tmp_path / "atlas").ok
    assert run("models", "show", "autocorr2d")[0] == 3, "known beyond its folder"
