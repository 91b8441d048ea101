# SPDX-License-Identifier: Apache-2.0
"""``matteratlas suggest`` from a user's own files: a folder of crystals, a list of SMILES."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from ase.build import bulk
from ase.io import write
from typer.testing import CliRunner

from matteratlas.analysis.analyze import analyze
from matteratlas.builders.build import build
from matteratlas.cli import app
from matteratlas.schemas.suggestions import SUGGESTIONS


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pools") / "atlas"
    report = build(root, models=["soap"], sets=["elements", "g2"], selection="starter", workers=0)
    assert not report.failed
    analyze(root, permutations=0, workers=0)
    return root


def suggested(start: Path, pool: Path, out: Path) -> list[dict[str, object]]:
    done = CliRunner().invoke(
        app,
        ["suggest", str(start), "--pool", str(pool), "--model", "soap", "--top", "3",
         "--out", str(out), "--json"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows: list[dict[str, object]] = json.loads(done.stdout)["picks"]
    table = SUGGESTIONS.validate(pd.read_parquet(out))
    assert list(table["id"]) == [r["id"] for r in rows]
    return rows


def test_a_folder_of_crystals_is_a_pool(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATTERATLAS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder / "uc.cif", bulk("UC", "rocksalt", a=4.96))
    write(folder / "mgo.cif", bulk("MgO", "rocksalt", a=4.21))
    write(folder / "cu.cif", bulk("Cu", cubic=True))
    (folder / "broken.cif").write_text("data_x\nloop_\n_cell\n")
    rows = suggested(start, folder, tmp_path / "picks.parquet")
    assert {r["formula"] for r in rows} == {"CU", "MgO", "Cu4"}
    assert [r["rank"] for r in rows] == [1, 2, 3]
    assert all(r["reason"] for r in rows)


def test_a_list_of_smiles_is_a_pool(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATTERATLAS_CACHE", str(tmp_path / "cache"))
    smiles = tmp_path / "mine.smi"
    smiles.write_text("CCO ethanol\nc1ccccc1 benzene\nCC[Se]C selenide\nno_smiles x\n")
    rows = suggested(start, smiles, tmp_path / "picks.parquet")
    assert {r["formula"] for r in rows} == {"C2H6O", "C6H6", "C3H8Se"}
