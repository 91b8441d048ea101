# SPDX-License-Identifier: Apache-2.0
"""CI files: they parse, and contributed code never meets a secret or a token that writes."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from matteratlas.builders.contribute.report import Report
from matteratlas.registry import catalog

ROOT = Path(__file__).parents[3]
GITHUB = ROOT / ".github"
WORKFLOWS = {p.name: p for p in sorted((GITHUB / "workflows").glob("*.yml"))}
#: Started by somebody's pull request: what it runs may be theirs.
FOREIGN = {"pull_request"}
#: Expressions that say nothing a stranger could choose.
HARMLESS = re.compile(r"\$\{\{\s*(github\.(ref|token|repository)|steps\.\w+\.outputs\.\w+)\s*\}\}")


def read(name: str) -> dict[str, Any]:
    found = yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))
    found["on"] = found.pop(True)  # YAML 1.1 takes `on` for a truth value
    return dict(found)


def faults(workflow: dict[str, Any]) -> Iterator[str]:
    """What breaks the rules."""
    events = workflow["on"]
    events = set(events if isinstance(events, dict) else [events])
    if "pull_request_target" in events:
        yield "pull_request_target runs with secrets on a stranger's request"
    if "permissions" not in workflow or writes(workflow["permissions"]):
        yield "the workflow's token may write"
    for name, job in workflow["jobs"].items():
        text = json.dumps(job)
        granted = job.get("permissions", workflow.get("permissions", {}))
        trusted = writes(granted) or "secrets." in text
        if events & FOREIGN and trusted:
            yield f"{name}: secrets or a writing token where contributed code runs"
        if "timeout-minutes" not in job:
            yield f"{name}: no time limit"
        for step in job["steps"]:
            yield from (f"{name}: {fault}" for fault in step_faults(step))
            run = step.get("run", "")
            if trusted and re.search(r"contribute (check|take)|\bbuild\b|pytest|make |docker", run):
                yield f"{name}: looks at contributions beside a secret or a writing token"
        if not events & FOREIGN and re.search(r"docker|check\.py|make (test|install)", text):
            yield f"{name}: runs contributed code outside its own workflow"


def step_faults(step: dict[str, Any]) -> Iterator[str]:
    uses, given = step.get("uses", ""), step.get("with", {})
    if uses and not re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", uses):
        yield f"{uses} is not pinned to a commit"
    if uses.startswith("actions/checkout@"):
        if given.get("persist-credentials") is not False:
            yield "the token stays in the checkout"
        if "ref" in given or "repository" in given:
            yield "another commit than the event's own is checked out"
    for found in re.findall(r"\$\{\{.*?\}\}", step.get("run", "")):
        yield f"{found} is pasted into a script; pass it by env"


def writes(permissions: Any) -> bool:
    if isinstance(permissions, str):
        return permissions not in ("read-all", "{}")
    return any(level == "write" for level in permissions.values())


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_keep_the_rules(name: str) -> None:
    assert list(faults(read(name))) == []


def test_there_are_four_and_one_secret() -> None:
    assert set(WORKFLOWS) == {
        "ci.yml", "contribution.yml", "contribution-report.yml", "hub-contribution.yml"
    }  # fmt: skip
    texts = {name: path.read_text(encoding="utf-8") for name, path in WORKFLOWS.items()}
    assert [n for n, text in texts.items() if "secrets." in text] == ["hub-contribution.yml"]
    jobs = read("hub-contribution.yml")["jobs"]
    holders = [n for n, job in jobs.items() if "secrets." in json.dumps(job)]
    assert holders == ["answer"] and jobs["answer"]["environment"] == "hub"
    writing = [
        (w, n) for w in WORKFLOWS for n, job in read(w)["jobs"].items()
        if writes(job.get("permissions", {}))
    ]  # fmt: skip
    assert writing == [("contribution-report.yml", "comment")]


def _event(w: dict[str, Any]) -> None:
    w["on"] = {"pull_request_target": None}


def _secret(w: dict[str, Any]) -> None:
    w["jobs"]["run"]["env"] = {"HF_TOKEN": "${{ secrets.HF_TOKEN }}"}


def _writes(w: dict[str, Any]) -> None:
    w["jobs"]["run"]["permissions"] = {"pull-requests": "write"}


def _head(w: dict[str, Any]) -> None:
    w["jobs"]["run"]["steps"][0]["with"]["ref"] = "${{ github.event.pull_request.head.sha }}"


def _tag(w: dict[str, Any]) -> None:
    w["jobs"]["run"]["steps"][0]["uses"] = "actions/checkout@v4"


def _injected(w: dict[str, Any]) -> None:
    w["jobs"]["run"]["steps"].append({"run": "echo ${{ github.event.pull_request.title }}"})


def _default_token(w: dict[str, Any]) -> None:
    del w["permissions"]


@pytest.mark.parametrize(
    "harm", [_event, _secret, _writes, _head, _tag, _injected, _default_token],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_the_rules_see_what_they_are_for(harm: Callable[[dict[str, Any]], None]) -> None:
    workflow = copy.deepcopy(read("contribution.yml"))
    harm(workflow)
    assert list(faults(workflow))


def test_contributed_code_runs_without_network_root_and_capabilities() -> None:
    steps = read("contribution.yml")["jobs"]["run"]["steps"]
    (run,) = [s["run"] for s in steps if "docker run" in s.get("run", "")]
    for limit in ("--network none", "--cap-drop ALL", "--security-opt no-new-privileges"):
        assert limit in run
    assert "--env" not in run and "/var/run/docker.sock" not in run
    dockerfile = (GITHUB / "contribution" / "Dockerfile").read_text(encoding="utf-8")
    users = [line.split()[1] for line in dockerfile.splitlines() if line.startswith("USER ")]
    assert users == ["runner"]


@pytest.mark.parametrize("path", sorted((GITHUB / "ISSUE_TEMPLATE").glob("request-*.yml")))
def test_issue_forms_are_forms(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(form)
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids) >= 5
    for part in form["body"]:
        assert part["type"] in {"input", "textarea", "dropdown", "checkboxes"}
        assert part["attributes"]["label"]
        if part["type"] in {"dropdown", "checkboxes"}:
            options = part["attributes"]["options"]
            assert options and len({str(o) for o in options}) == len(options)
    assert any(part.get("validations", {}).get("required") for part in form["body"])


def shell(script: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(GITHUB / "contribution" / script), *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": scripts},
    )  # fmt: skip


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=m", "-c", "user.email=m@example.org"]
    command = ["git", *who, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_proposed_cards_are_read_as_data(tmp_path: Path) -> None:
    """A good card, one with a tag, one that is a link, and files that are none."""
    main = tmp_path / "main"
    main.mkdir()
    git(main, "init", "-q", "-b", "main")
    git(main, "commit", "-q", "--allow-empty", "-m", "begin")
    fork = tmp_path / "fork"
    subprocess.run(["git", "clone", "-q", str(main), str(fork)], check=True)
    family = fork / "registry" / "models" / "fingerprints"
    family.mkdir(parents=True)
    (path,) = [p for p in catalog.model_card_paths() if p.stem == "morgan"]
    shutil.copyfile(path, family / "morgan.yaml")
    (family / "evil.yaml").write_text("id: !!python/object/apply:os.system [touch pwned]\n")
    (family / "link.yaml").symlink_to("/etc/passwd")
    (family / "a b;touch pwned.yaml").write_text("id: x\n")
    (fork / "sitecustomize.py").write_text("raise SystemExit('ran')\n")
    git(fork, "add", "-A")
    git(fork, "commit", "-q", "-m", "propose")
    done = shell("cards.sh", fork, git(fork, "rev-parse", "HEAD"), "reports", cwd=main)
    assert done.returncode == 0, done.stderr
    reports = {p.stem: json.loads(p.read_text()) for p in sorted((main / "reports").glob("*.json"))}
    assert {name: r["ok"] for name, r in reports.items()} == {
        "evil": False, "link": False, "morgan": True
    }  # fmt: skip
    assert "tag" in reports["evil"]["checks"][0]["evidence"]
    assert "root:" not in json.dumps(reports["link"])
    assert not list(tmp_path.rglob("pwned*")) and not (main / "sitecustomize.py").exists()
    done = shell("comment.sh", "comment.md", "reports", cwd=main)
    assert done.returncode == 0 and (main / "comment.md").read_text().count("\n## ") >= 2
    assert shell("cards.sh", fork, "HEAD; touch pwned", "reports", cwd=main).returncode == 1


def test_a_hostile_report_becomes_a_harmless_comment(tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    report = Report(model="m", version="1", digest="0" * 64)
    report.add("card", "fail", "<script>alert(1)</script> @everyone [x](javascript:1) | a | `b`")
    report.write(folder)
    (folder / "other.json").write_text('{"format": "1", "model": "' + "x" * 2**21 + '"}')
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "link.json").symlink_to("/etc/passwd")
    done = shell("comment.sh", "comment.md", "reports", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "comment.md").read_text()
    assert text.count("is not a report and was left out") == 2
    for harm in ("<script", "@everyone", "](", "javascript:", "root:"):
        assert harm not in text, harm
