# SPDX-License-Identifier: Apache-2.0
"""The dataset card: what it lists is what `datasets` loads, bit-equal with the store."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard, HfApi
from servers import hub_card
from servers.hub import HubServer
from small_atlas import identify, model_cards, registry, score, write_scores, write_small

from matteratlas.builders.adapters.base import Embedded, Missing
from matteratlas.builders.citation import authors, bibtex, citation, project
from matteratlas.builders.dataset_card import (
    card,
    common_columns,
    configs,
    size_category,
    split_name,
    write_card,
)
from matteratlas.builders.release import release
from matteratlas.registry.files import Files
from matteratlas.registry.tables import write_table
from matteratlas.registry.unit import open_units
from matteratlas.schemas.errors import ArchiveError


@pytest.fixture(autouse=True)
def cards() -> Iterator[None]:
    with registry():
        yield


def miss_one(model: str, set_id: str, i: int, row: Embedded) -> Embedded | Missing:
    return Missing("too_large: 9") if (model, i) == ("graph", 2) else row


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with registry():
        root = write_small(tmp_path_factory.mktemp("card") / "atlas", edit=miss_one)
    write_scores(root, [score()])
    empty = pd.DataFrame({"id": pd.Series([], dtype=str), "agreement": pd.Series([], dtype=float)})
    write_table(empty, root / "scores/local.parquet")
    write_card(root)
    return root


def head_of(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text.split("---\n")[1]))


def load(root: Path | str, tmp_path: Path, name: str | None = None, **options: Any) -> Any:
    return datasets.load_dataset(str(root), name, cache_dir=str(tmp_path / "cache"), **options)


def test_every_configuration_loads_whole_and_streamed(atlas: Path, tmp_path: Path) -> None:
    names = [config["config_name"] for config in configs(atlas)]
    assert names == [
        "structures", "graph", "plain", "structures-ores", "structures-salts", "scores",
        "scores-selections",
    ]  # fmt: skip
    assert datasets.get_dataset_config_names(str(atlas)) == names
    for config in configs(atlas):
        whole = load(atlas, tmp_path, config["config_name"])
        streamed = load(atlas, tmp_path, config["config_name"], streaming=True)
        assert list(whole) == list(streamed) == [f["split"] for f in config["data_files"]]
        for file in config["data_files"]:
            table = pq.read_table(atlas / file["path"], columns=config.get("columns"))
            rows = list(streamed[file["split"]])
            assert len(table) == len(rows) == len(whole[file["split"]]) > 0
            # repr, because NaN is not itself
            assert repr(rows) == repr(whole[file["split"]].to_list()) == repr(table.to_pylist())


def test_vectors_are_bit_equal_with_the_store(atlas: Path, tmp_path: Path) -> None:
    for model_id in ("plain", "graph"):
        units = open_units(Files(str(atlas)), model_id)
        found = load(atlas, tmp_path, model_id)
        assert set(found) == set(units) == {"ores", "salts"}
        for set_id, unit in units.items():
            rows = found[set_id].with_format("arrow")[:]
            assert rows["structure_id"].to_pylist() == list(unit.ids())
            reasons = [reason or None for reason in unit.reasons()]
            assert rows["missing_reason"].to_pylist() == reasons
            for layer in unit.record.layers:
                column = "embedding" if layer == "last" else f"embedding.{layer}"
                values = rows[column].combine_chunks()
                assert pa.types.is_fixed_size_list(values.type)
                stored = unit.vectors(layer).read()
                held = np.asarray(values.is_valid())
                assert (held == (unit.reasons() == "")).all()
                vectors = values.flatten().to_numpy().reshape(-1, unit.record.layers[layer])
                assert vectors.dtype == stored.dtype == np.float32
                assert vectors.tobytes() == stored[held].tobytes()


def test_sets_share_columns_in_one_configuration_and_keep_their_own(
    atlas: Path, tmp_path: Path
) -> None:
    found = load(atlas, tmp_path)  # the default configuration
    assert set(found) == {"ores", "salts"}
    assert "label_volume" not in found["ores"].column_names == found["salts"].column_names
    own = load(atlas, tmp_path, "structures-ores", split="ores")
    assert own["label_volume"] == [(3.0 + i) ** 3 for i in range(7)]
    assert own["id"] == found["ores"]["id"] == [identify("ores", i) for i in range(7)]


def test_the_hub_accepts_the_head(atlas: Path) -> None:
    text = (atlas / "README.md").read_text()
    assert hub_card.check(text, "dataset") == ([], [])
    head = head_of(text)
    assert head["license"] == "other" and head["size_categories"] == ["n<1K"]
    assert head["configs"] == configs(atlas) and "crystal" in head["tags"]
    assert [c["config_name"] for c in head["configs"] if c.get("default")] == ["structures"]
    loaded = DatasetCard(text)
    assert loaded.data.pretty_name == "MatterAtlas"
    assert hub_card.check(text.replace("n<1K", "tiny"), "dataset")[0]


def test_the_body_says_what_is_here(atlas: Path) -> None:
    body = (atlas / "README.md").read_text().split("---\n", 2)[2]
    assert "an unreleased atlas: 2 models, 2 structure sets, 11 structures,\n20 embedded" in body
    (graph,) = re.findall(r"^\| `graph` \|.*$", body, flags=re.M)
    cells = [cell.strip() for cell in graph.strip("|").split("|")]
    assert cells == [
        "`graph`", "Model graph", "atoms3d", "`last` (4)", "2", "float32", "9 of 11", "Apache-2.0",
        "not stated",
    ]  # fmt: skip
    (ores,) = re.findall(r"^\| `ores` \|.*$", body, flags=re.M)
    assert [cell.strip() for cell in ores.strip("|").split("|")] == [
        "`ores`", "Set ores", "1.0.0", "7", "only", "yes", "LGPL-2.1-or-later",
    ]  # fmt: skip
    assert 'load_dataset(path, "graph", split="ores")' in body
    assert not re.search(r"\$\w", body)


def test_a_card_follows_the_atlas_and_is_written_whole(atlas: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(atlas, tmp_path / "copy"))
    assert card(copy) == (atlas / "README.md").read_text()
    frozen = tmp_path / "linked"
    frozen.hardlink_to(copy / "README.md")
    write_small(copy, rows={"ores": range(9)}, units=[("plain", "ores")])
    write_card(copy)
    assert "12 embedded" not in frozen.read_text() == (atlas / "README.md").read_text()
    assert head_of((copy / "README.md").read_text())["configs"] == configs(copy)
    assert len(load(copy, tmp_path, "plain", split="ores")) == 9
    assert not list(copy.glob(".*.part"))


def test_names_that_clash_are_refused(atlas: Path, tmp_path: Path) -> None:
    taken = {"scores-x": model_cards()["plain"].model_copy(update={"id": "scores-x"})}
    with registry(models=taken):
        root = write_small(tmp_path / "taken")
        with pytest.raises(ArchiveError, match="model id 'scores-x' is taken"):
            configs(root)
    copy = Path(shutil.copytree(atlas, tmp_path / "copy"))
    shutil.copy(copy / "structures/ores.parquet", copy / "structures/a-b.parquet")
    assert "a_b" in [f["split"] for f in configs(copy)[0]["data_files"]]
    shutil.copy(copy / "structures/ores.parquet", copy / "structures/a_b.parquet")
    with pytest.raises(ArchiveError, match="two names make one split"):
        configs(copy)
    (copy / "structures/a_b.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArchiveError, match=r"a_b\.parquet: not readable"):
        card(copy)
    assert split_name("a-b.c") == "a_b_c"


def test_common_columns_have_one_type(tmp_path: Path) -> None:
    tables = [
        pa.table({"c": [1], "a": ["x"], "b": [1.0]}),
        pa.table({"a": ["y"], "b": [1], "c": [2]}),
    ]
    paths = [tmp_path / f"{i}.parquet" for i in range(2)]
    for table, path in zip(tables, paths, strict=True):
        pq.write_table(table, path)
    assert common_columns(paths) == ["c", "a"]


@pytest.mark.parametrize(
    ("n", "name"),
    [
        (0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (64_000, "10K<n<100K"),
        (10**9, "1B<n<10B"), (10**12 - 1, "100B<n<1T"), (10**13, "n>1T"),
    ],
)  # fmt: skip
def test_size_categories(n: int, name: str) -> None:
    assert size_category(n) == name and name in hub_card.SIZES


def test_citations_carry_the_version_and_the_keys_the_format_requires() -> None:
    for date in (None, "2026-11-22"):
        found = yaml.safe_load(citation(version="1.2.0", date=date))
        assert {"cff-version", "message", "title", "authors"} <= set(found)
        assert (found["cff-version"], found["type"], found["version"]) == (
            "1.2.0", "dataset", "1.2.0",
        )  # fmt: skip
        assert str(found.get("date-released")) == str(date)
        for person in found["authors"]:
            assert set(person) <= {"name", "family-names", "given-names", "orcid", "affiliation"}
            assert "name" in person or "family-names" in person
        for reference in found["references"]:
            assert {"type", "title", "authors"} <= set(reference)
        assert found["title"] == project()["title"]
        entry = bibtex(version="1.2.0", date=date)
        assert entry.startswith("@misc{matteratlas_1_2_0,") and entry.count("{") == entry.count("}")
        assert "version = {1.2.0}" in entry and authors()[0] in entry
        assert ("year = {2026}" in entry) == bool(date)


def test_a_release_loads_from_the_hub_by_tag(atlas: Path, tmp_path: Path, hub: HubServer) -> None:
    source = Path(shutil.copytree(atlas, tmp_path / "source"))
    for name in ("README.md", "scores/local.parquet"):
        (source / name).unlink()
    made = release(source, out=tmp_path / "out")
    api, repo = HfApi(), "someone/atlas"
    api.create_repo(repo, repo_type="dataset")
    api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=made.path)
    api.create_tag(repo, tag=f"v{made.version}", repo_type="dataset")
    options = {"revision": "v1.0.0"}
    for streaming in (False, True):
        found = load(repo, tmp_path, "graph", split="ores", streaming=streaming, **options)
        local = load(made.path, tmp_path, "graph", split="ores")
        assert repr(list(found)) == repr(list(local)) and len(list(local)) == 7
        shared = load(repo, tmp_path, "structures", streaming=streaming, **options)
        assert [r["id"] for r in shared["salts"]] == [identify("salts", i) for i in range(4)]
        scores = load(repo, tmp_path, "scores", split="pairs", streaming=streaming, **options)
        assert [r["release"] for r in scores] == ["1.0.0"]
