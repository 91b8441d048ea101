# SPDX-License-Identifier: Apache-2.0
"""Every Python block of README and docs runs; lines of console blocks that start with ``$`` too."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.evaluators.doctest import NUMBER
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

#: Enough for every page: a learned crystal model, a table, a fingerprint, the random baseline.
MODELS = ["chgnet-0.3.0", "mat2vec", "morgan", "soap", "random-128"]
#: Pages whose commands speak to a Hub.
HUB_PAGES = {"publish.md", "pull.md"}


def _run_console(example: Any) -> str | None:
    """Run the lines of a ```console block that start with ``$``; each must succeed."""
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in example.parsed.splitlines():
        if line.startswith("$ "):
            done = subprocess.run(
                shlex.split(line[2:]),
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
                env={**os.environ, "PATH": scripts},
            )
            if done.returncode:
                return f"{line}\nexit {done.returncode}\n{done.stderr[-2000:]}"
    return None


@pytest.fixture(scope="session")
def documented_atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The atlas the pages speak of as ``out/starter``: same layout, fewer models and sets."""
    from matteratlas.analysis.analyze import analyze
    from matteratlas.builders.build import build

    folder = tmp_path_factory.mktemp("docs")
    path = folder / "out" / "starter"
    report = build(path, models=MODELS, sets=["g2", "elements"], selection="starter", workers=0)
    assert not report.failed, report.failed
    analyze(path, permutations=20)
    return folder


@contextmanager
def _hub(folder: Path) -> Iterator[None]:
    """A Hub on loopback that all clients take for the real one, with a release of the atlas."""
    sys.path.insert(0, str(Path(__file__).parent / "tests"))
    from servers.hub import HubServer
    from servers.hub_client import connected

    from matteratlas.builders.release import release

    made = release(folder / "out" / "starter", out=folder / "published").path
    files = {p.relative_to(made).as_posix(): p.read_bytes() for p in made.rglob("*") if p.is_file()}
    shutil.rmtree(folder / "published")
    with (
        HubServer() as hub,
        connected(hub, home=folder / "hf-home"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("MATTERATLAS_CACHE", str(folder / "cache"))
        hub.create("matteratlas/matteratlas", files)
        head = hub.head("matteratlas/matteratlas")
        hub.repo("matteratlas/matteratlas").refs["refs/tags/v1.0.0"] = head
        yield


@pytest.fixture(scope="module")
def page_folder(
    documented_atlas: Path, tmp_path_factory: pytest.TempPathFactory, request: Any
) -> Any:
    """A page runs in a folder of its own that holds the atlas; some have a Hub to speak to."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(documented_atlas / "out", folder / "out")
    before = Path.cwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MATTERATLAS_SETS", str(folder / "sets"))
        with _hub(folder) if request.path.name in HUB_PAGES else nullcontext():
            yield folder
    os.chdir(before)


pytest_collect_file = Sybil(
    parsers=[
        PythonCodeBlockParser(doctest_optionflags=NUMBER),
        CodeBlockParser(language="console", evaluator=_run_console),
        SkipParser(),
    ],
    patterns=["README.md", "docs/**/*.md"],
    fixtures=["page_folder"],
).pytest()
