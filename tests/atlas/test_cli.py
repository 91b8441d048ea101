# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it: real processes, exit codes, one-line errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from matteratlas.cli import app
from matteratlas.registry import catalog


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "matteratlas.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        timeout=300,
    )


@pytest.mark.parametrize(
    "command",
    [[], ["models", "list"], ["models", "show"], ["sets", "list"], ["sets", "show"], ["build"],
     ["sets", "add"], ["locate"], ["expand"],
     ["validate"], ["analyze"], ["gaps"], ["report"], ["sweep"]],
)  # fmt: skip
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert not command or "Example: matteratlas" in result.output


def test_lists_name_every_card() -> None:
    for noun, cards in (("models", catalog.models()), ("sets", catalog.structure_sets())):
        result = CliRunner().invoke(app, [noun, "list", "--json"])
        assert [row["id"] for row in json.loads(result.stdout)] == list(cards)


def test_show_prints_the_card() -> None:
    result = CliRunner().invoke(app, ["models", "show", "mat2vec", "--json"])
    assert json.loads(result.stdout) == catalog.model("mat2vec").model_dump(mode="json")
    result = CliRunner().invoke(app, ["sets", "show", "elements"])
    assert "id: elements" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["models", "show", "mat2vek"], 3, "did you mean 'mat2vec'"),
        (["sets", "show", "element"], 3, "did you mean 'elements'"),
        (["validate", "no/such/folder"], 5, "no atlas.json"),
        (["analyze", "no/such/folder"], 5, "no atlas.json"),
        (["report", "no/such/folder"], 5, "no atlas.json"),
        (["build", "--models", "nope", "--out", "no/such/folder"], 3, "no model 'nope'"),
    ],
)
def test_errors_are_one_line_with_a_code(arguments: list[str], code: int, says: str) -> None:
    result = run(*arguments)
    assert result.returncode == code
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("matteratlas: ") and says in lines[0]
    assert not Path("no").exists()


def test_validate_exits_with_its_code_on_a_fault(atlas_copy: Path) -> None:
    (atlas_copy / "parquet" / "mat2vec" / "g2.parquet").unlink()
    result = CliRunner().invoke(app, ["validate", str(atlas_copy), "--json"])
    assert result.exit_code == 5
    content = json.loads(result.stdout)
    assert not content["ok"] and "parquet/mat2vec/g2.parquet: missing" in content["faults"][0]


def test_the_whole_job(tmp_path: Path) -> None:
    """build -> validate -> analyze -> gaps -> report, on a real model and two baselines."""
    out = str(tmp_path / "atlas")
    build = [
        "build", "--sets", "elements,g2", "--models", "chgnet-0.3.0,mat2vec",
        "--models", "random-128", "--out", out, "--workers", "0", "--json",
    ]  # fmt: skip
    done = run(*build)
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    assert first["outcomes"] == {"built": 6} and first["missing"]["unsupported_element"] >= 1
    second = json.loads(run(*build).stdout)
    assert second["outcomes"] == {"kept": 6} and second["missing"] == first["missing"]
    assert run("validate", out, "--deep").returncode == 0
    analysed = run("analyze", out, "--permutations", "20")
    assert analysed.returncode == 0, analysed.stderr
    assert run("validate", out).returncode == 0
    found = json.loads(run("gaps", out, "--json", "--top", "3").stdout)
    assert found and {"kind", "region", "value", "evidence"} <= set(found[0])
    page = json.loads(run("report", out, "--json").stdout)
    assert Path(page["page"]).stat().st_size == page["bytes"] < 5e6


def test_progress_is_plain_lines_when_piped(tmp_path: Path) -> None:
    done = run(
        "build", "--sets", "elements", "--models", "mat2vec", "--out", str(tmp_path / "a"),
        "--workers", "0",
    )  # fmt: skip
    assert done.returncode == 0
    assert "embeddings: 71/71" in done.stderr and "\x1b[" not in done.stderr + done.stdout
    assert "mat2vec\t71" in done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    """The core reads an atlas without torch, FAISS, a chemistry toolkit or a scheduler."""
    code = (
        "import sys, matteratlas as ma; from matteratlas.registry import catalog;"
        "ma.open_atlas; catalog.models();"
        "heavy = {'torch', 'faiss', 'rdkit', 'ase', 'pymatgen', 'distributed', 'sevenn', 'jax'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_models_list_tells_how_far_each_has_been_run() -> None:
    result = CliRunner().invoke(app, ["models", "list", "--json"])
    found = {row["id"]: row["status"] for row in json.loads(result.stdout)}
    assert found == {i: str(catalog.status(c)) for i, c in catalog.models().items()}
    assert {s.partition(":")[0] for s in found.values()} <= {"ran", "loads", "blocked"}
    assert found["mat2vec"] == "ran" and found["esm2-8m"] == "loads"


@pytest.mark.parametrize(
    ("environment", "options", "says"),
    [
        ({"HF_HUB_OFFLINE": "1"}, ["--download"], "HF_HUB_OFFLINE forbids the network"),
        ({"HF_HUB_OFFLINE": "0"}, [], "allow its download with --download"),
    ],
)
def test_a_model_from_a_hub_is_never_fetched_unasked(
    tmp_path: Path, environment: dict[str, str], options: list[str], says: str
) -> None:
    done = run(
        *[
            "build",
            "--models",
            "esm2-8m,mat2vec",
            "--sets",
            "elements",
            "--out",
            str(tmp_path / "a"),
        ],
        *["--workers", "0", "--json", *options],
        **environment,
        MATTERATLAS_DOWNLOADS="",
        HF_HOME=str(tmp_path / "home"),
        HF_ENDPOINT="http://127.0.0.1:9",
    )
    assert done.returncode == 9, done.stderr
    units = {u["model"]: u for u in json.loads(done.stdout)["units"]}
    assert units["mat2vec"]["outcome"] == "built"
    assert units["esm2-8m"]["outcome"] == "failed" and says in units["esm2-8m"]["error"]
