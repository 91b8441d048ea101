# SPDX-License-Identifier: Apache-2.0
"""croissant.json under the reference implementation: valid, and its records are the data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlcroissant
import numpy as np
import pyarrow.parquet as pq
import pytest
from small_atlas import model_cards, registry, score, write_scores, write_small

from matteratlas.builders.adapters.base import Embedded, Missing
from matteratlas.builders.croissant import CONFORMS_TO, croissant, write_croissant
from matteratlas.builders.dataset_card import configs
from matteratlas.builders.release import release
from matteratlas.registry.hub import sha256_of
from matteratlas.schemas.errors import ArchiveError


@pytest.fixture(autouse=True)
def cards() -> Iterator[None]:
    with registry():
        yield


def miss_one(model: str, set_id: str, i: int, row: Embedded) -> Embedded | Missing:
    return Missing("too_large: 9") if (model, i) == ("graph", 2) else row


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("croissant")
    licensed = model_cards(graph={"licence": {"code": "MIT", "weights": "CC-BY-4.0"}})
    with registry(models=licensed):
        root = write_small(base / "atlas", edit=miss_one)
        write_scores(root, [score()])
        return release(root, out=base / "out", date="2026-11-22").path


@pytest.fixture(scope="module")
def dataset(released: Path) -> mlcroissant.Dataset:
    return mlcroissant.Dataset(jsonld=str(released / "croissant.json"))


def plain(value: Any) -> Any:
    """A record's value as Parquet has it: the reader gives text as bytes."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | np.ndarray):
        return [plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def test_the_reference_implementation_has_nothing_to_say(
    released: Path, dataset: mlcroissant.Dataset
) -> None:
    issues = dataset.metadata.ctx.issues
    assert (set(issues.errors), set(issues.warnings)) == (set(), set())
    assert dataset.metadata.ctx.conforms_to.value == CONFORMS_TO
    content = json.loads((released / "croissant.json").read_text())
    assert dataset.metadata.version == content["version"] == "1.0.0"
    assert content["isLiveDataset"] is False and content["datePublished"] == "2026-11-22"
    assert content["citeAs"].startswith("@misc{matteratlas_1_0_0,")
    assert content["creator"][0]["name"] == "The MatterAtlas developers"
    assert content["url"].startswith("https://")


def test_every_table_is_listed_with_its_hash(released: Path) -> None:
    content = json.loads((released / "croissant.json").read_text())
    files = {d["@id"]: d for d in content["distribution"] if d["@type"] == "cr:FileObject"}
    tables = {p.relative_to(released).as_posix() for p in released.glob("[ps]*/**/*.parquet")}
    assert set(files) == tables and len(tables) == 8
    for path, entry in files.items():
        assert entry["sha256"] == sha256_of(released / path)
        assert entry["contentUrl"] == path
        assert entry["contentSize"] == f"{(released / path).stat().st_size} B"
        assert entry["encodingFormat"] == "application/x-parquet"


def test_record_sets_are_the_configurations(released: Path, dataset: mlcroissant.Dataset) -> None:
    listed = {config["config_name"]: config for config in configs(released)}
    assert [r.id for r in dataset.metadata.record_sets] == list(listed)
    for name, config in listed.items():
        records = [
            {k.partition("/")[2]: plain(v) for k, v in record.items()}
            for record in dataset.records(name)
        ]
        expected = []
        for file in config["data_files"]:
            table = pq.read_table(released / file["path"], columns=config.get("columns"))
            rows = table.to_pylist()
            if "set" not in table.column_names and not name.startswith("scores"):
                rows = [{"set": Path(file["path"]).stem, **row} for row in rows]
            expected += rows
        assert len(records) == len(expected) > 0
        assert records == expected


def test_vectors_are_declared_as_arrays(dataset: mlcroissant.Dataset) -> None:
    fields = {f.name: f for r in dataset.metadata.record_sets if r.id == "graph" for f in r.fields}
    shapes = {n: (f.is_array, f.array_shape, f.data_type) for n, f in fields.items()}
    assert shapes["embedding"] == (True, "4", np.float32)
    assert shapes["embedding.first"] == (True, "3", np.float32)
    assert shapes["energy"] == (None, None, np.float64)
    records = list(dataset.records("graph"))
    assert sum(r["graph/embedding"] is None for r in records) == 2
    assert {len(r["graph/embedding"]) for r in records if r["graph/embedding"]} == {4}


def test_licences_name_what_they_cover(released: Path) -> None:
    licences = json.loads((released / "croissant.json").read_text())["license"]
    said = {entry["name"]: entry for entry in licences}
    assert said["CC-BY-4.0"]["description"] == "weights of graph"
    assert said["CC-BY-4.0"]["url"] == "https://spdx.org/licenses/CC-BY-4.0"
    assert said["LGPL-2.1-or-later"]["description"] == "structures of ores; structures of salts"
    assert said["Not stated by the source"]["description"] == "weights of plain"
    assert "url" not in said["Not stated by the source"]


def test_an_altered_table_is_noticed(released: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(released, tmp_path / "copy"))
    path = copy / "scores/pairs.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    broken = mlcroissant.Dataset(jsonld=str(copy / "croissant.json"))
    with pytest.raises(mlcroissant.GenerationError) as caught:
        list(broken.records("scores"))
    assert "scores/pairs.parquet" in str(caught.value)
    assert "Hash of downloaded file" in str(caught.value.__cause__)
    content = json.loads((copy / "croissant.json").read_text())
    content["recordSet"][0]["field"][0]["source"] = {"fileSet": {"@id": "nowhere"}}
    (copy / "croissant.json").write_text(json.dumps(content))
    with pytest.raises(mlcroissant.ValidationError, match="nowhere"):
        mlcroissant.Dataset(jsonld=str(copy / "croissant.json"))


def test_equal_releases_have_equal_documents(released: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(released, tmp_path / "copy"))
    text = (copy / "croissant.json").read_bytes()
    write_croissant(copy, date="2026-11-22")
    assert (copy / "croissant.json").read_bytes() == text
    undated = croissant(copy)
    assert "datePublished" not in undated
    assert croissant(copy, hashes={"scores/pairs.parquet": "0" * 64}) != undated
    (copy / "croissant.json").write_text(json.dumps(undated))
    issues = mlcroissant.Dataset(jsonld=str(copy / "croissant.json")).metadata.ctx.issues
    assert not issues.errors


def test_an_unreleased_atlas_has_no_version_to_describe(tmp_path: Path) -> None:
    root = write_small(tmp_path / "atlas", rows={"ores": range(2)})
    with pytest.raises(ArchiveError, match="has no version to describe; run: matteratlas release"):
        croissant(root)
