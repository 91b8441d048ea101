# SPDX-License-Identifier: Apache-2.0
"""Embeddings without their model: every form gives the same units, and faults are named by row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from flow import fill_card, run

import matteratlas as ma
from matteratlas.builders.contribute.bring import read_vectors
from matteratlas.builders.contribute.folder import open_contribution
from matteratlas.builders.contribute.report import read_report
from matteratlas.contribute import check
from matteratlas.registry import catalog
from matteratlas.schemas.errors import SourceError

CARD = """\
name: "A model that stays at home"
version: "1"
parameters: null
  domains: [organic_molecule]
  elements: null
  code: MIT
  weights: null
    dim: 6
    where: "mean over tokens of the last hidden state"
authors: ["N. N."]
paper: null
notes: "Numbers drawn at random, for want of a model."
"""


def write(folder: Path, form: str, ids: list[str], values: np.ndarray) -> None:
    if form == "parquet":
        lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        pq.write_table(pa.table({"id": ids, "embedding": lists}), folder / "vectors.parquet")
    elif form == "lists":
        columns = {"id": ids, "embedding": pa.array(list(values))}
        pq.write_table(pa.table(columns), folder / "vectors.parquet")
    elif form == "npy":
        np.save(folder / "vectors.npy", values)
        (folder / "ids.txt").write_text("\n".join(ids) + "\n")
    else:
        group = zarr.open_group(str(folder / "vectors.zarr"), mode="w")
        group.create_array("embedding", data=values)
        group.create_array("id", data=np.array(ids, dtype="U30"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A filled-in folder that still lacks its vectors."""
    done = run("contribute", "new", "secretnet", "--family", "secretnet", "--modality", "smiles",
               "--brought", "--out", str(tmp_path))  # fmt: skip
    assert done[0] == 0 and "put vectors.parquet" in done[1], done
    fill_card(tmp_path / "secretnet" / "secretnet.yaml", CARD.splitlines())
    return tmp_path / "secretnet"


@pytest.fixture
def rows(built_atlas: Path) -> tuple[list[str], np.ndarray]:
    """Ids of G2 molecules, all but the last three, and a vector each."""
    table = ma.open_atlas(built_atlas).structures
    ids = [str(i) for i in table[table["set"] == "g2"]["id"]][:-3]
    return ids, np.random.default_rng(1).normal(size=(len(ids), 6)).astype(np.float32)


@pytest.mark.parametrize("form", ["parquet", "lists", "npy", "zarr"])
def test_every_form_reads_alike(home: Path, rows: tuple[list[str], np.ndarray], form: str) -> None:
    ids, values = rows
    write(home, form, ids, values)
    found = read_vectors(home, open_contribution(home).card())
    assert list(found.rows) == ids
    for i in (0, 7, len(ids) - 1):
        np.testing.assert_array_equal(found.of(ids[i])["last"], values[i])


def test_they_are_checked_and_compared_but_not_recomputed(
    home: Path, rows: tuple[list[str], np.ndarray], built_atlas: Path
) -> None:
    ids, values = rows
    write(home, "npy", ids, values)
    report = check(home, against=str(built_atlas))
    outcomes = {c.name: c.outcome for c in report.checks}
    assert report.ok and outcomes["adapter"] == "skipped" and outcomes["alignment"] == "pass"
    assert "recomputed rows" not in outcomes and "determinism" not in outcomes
    assert report.sets["g2"].embedded == len(ids) and report.sets["g2"].missing == {"failed": 3}
    atlas = ma.open_atlas(home / "atlas")
    table = atlas.rows("secretnet", sets=["g2"])
    assert set(table["reason"]) == {"", "failed: no vector was brought"}
    found = atlas.embeddings("secretnet", sets=["g2"], missing="drop")
    np.testing.assert_array_equal(found.sel(structure=ids).values, values)
    assert atlas.unit("secretnet", "g2").nodes("last") is None

    # The same numbers under another name are the same chart; other vectors are built anew.
    vectors = ma.open_atlas(built_atlas).embeddings("morgan", missing="drop")
    card = home / "secretnet.yaml"
    card.write_text(card.read_text().replace("dim: 6", "dim: 2048"))
    (home / "ids.txt").write_text("\n".join(map(str, vectors["structure"].values)))
    np.save(home / "vectors.npy", vectors.values * 3)
    report = check(home, against=str(built_atlas))
    (same,) = [c for c in report.checks if c.name == "near-duplicate"]
    assert same.outcome == "fail" and "morgan" in same.evidence and "notes" in same.mend
    assert not report.ok and not read_report(home / "report.json").ok
    card.write_text(card.read_text().replace("Numbers drawn", "Three times morgan; numbers drawn"))
    report = check(home, against=str(built_atlas))
    (same,) = [c for c in report.checks if c.name == "near-duplicate"]
    assert same.outcome == "note" and report.ok


Harm = Callable[[Path, list[str], np.ndarray], None]


def _twice(folder: Path, ids: list[str], values: np.ndarray) -> None:
    write(folder, "npy", [*ids[:-1], ids[0]], values)


def _stranger(folder: Path, ids: list[str], values: np.ndarray) -> None:
    write(folder, "parquet", ["CCO", *ids[1:]], values)


def _short(folder: Path, ids: list[str], values: np.ndarray) -> None:
    write(folder, "zarr", ids[:-1], values)


def _narrow(folder: Path, ids: list[str], values: np.ndarray) -> None:
    write(folder, "lists", ids, values[:, :5])


def _nan(folder: Path, ids: list[str], values: np.ndarray) -> None:
    write(folder, "npy", ids, np.where(np.arange(len(ids))[:, None] == 4, np.nan, values))


def _ragged(folder: Path, ids: list[str], values: np.ndarray) -> None:
    columns = {"id": ids, "embedding": [list(v[: 5 + (i != 2)]) for i, v in enumerate(values)]}
    pq.write_table(pa.table(columns), folder / "vectors.parquet")


def _null(folder: Path, ids: list[str], values: np.ndarray) -> None:
    columns = {"id": ids, "embedding": [None, *map(list, values[1:])]}
    pq.write_table(pa.table(columns), folder / "vectors.parquet")


def _text(folder: Path, ids: list[str], values: np.ndarray) -> None:
    write(folder, "npy", ids, values.astype("U8"))


def _pickle(folder: Path, ids: list[str], values: np.ndarray) -> None:
    write(folder, "npy", ids, np.array(list(map(list, values)), dtype=object))


def _two(folder: Path, ids: list[str], values: np.ndarray) -> None:
    write(folder, "npy", ids, values)
    write(folder, "parquet", ids, values)


def _cut(folder: Path, ids: list[str], values: np.ndarray) -> None:
    write(folder, "npy", ids, values)
    data = (folder / "vectors.npy").read_bytes()
    (folder / "vectors.npy").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda *_: None, "holds no vectors; bring one of"),
        (_twice, "rows 0 and 66 have one id"),
        (_stranger, "row 0: 'CCO' is no structure id"),
        (_short, r"has shape \(67, 6\), ids and card say \(66, 6\)"),
        (_narrow, r"shape \(67, 5\)"),
        (_nan, "row 4 .* is not finite"),
        (_ragged, "rows differ in length"),
        (_null, "empty rows"),
        (_text, "holds no numbers"),
        (_pickle, "unreadable"),
        (_two, "vectors.parquet and vectors.npy"),
        (_cut, "unreadable"),
    ],
)
def test_faults_are_named(
    home: Path, rows: tuple[list[str], np.ndarray], harm: Harm, message: str
) -> None:
    harm(home, *rows)
    with pytest.raises(SourceError, match=message) as caught:
        read_vectors(home, open_contribution(home).card())
    assert "\n" not in str(caught.value) and str(home) in str(caught.value)


def test_elsewhere_the_model_is_not_to_be_had(home: Path) -> None:
    from matteratlas.builders.adapters.base import load_adapter

    card = open_contribution(home).card()
    with pytest.raises(SourceError, match="read them from a release"):
        load_adapter(card)
    assert catalog.status(card).state == "blocked" and not catalog.at_hand(card)
