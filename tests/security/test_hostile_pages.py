# SPDX-License-Identifier: Apache-2.0
"""What cards say is shown on pages, and is nothing but text there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import small_atlas as made
import yaml

from matteratlas.analysis.report.page import atlas_name
from matteratlas.builders.croissant import croissant, write_croissant
from matteratlas.builders.dataset_card import _plain, card
from matteratlas.builders.release import release
from matteratlas.registry.archive import open_atlas
from matteratlas.registry.files import Files
from matteratlas.registry.index import file_entries, read_index, seal, write_json
from matteratlas.registry.tables import MODELS, SETS, write_table
from matteratlas.schemas.errors import ArchiveError

HOSTILE = (
    "<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>",
    "![x](http://127.0.0.1/t.png)", "[click](javascript:alert(1))", "https://evil.example/?x",
    "www.evil.example",
    "a | b\n|---|\n# head",
    "`code` **bold** $model ${split}", "---\nlicense: mit\n---", "@everyone", "&lt;b&gt;",
)  # fmt: skip


@pytest.fixture(scope="module")
def forged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release whose tables of cards hold hostile texts under hashes that fit."""
    folder = tmp_path_factory.mktemp("pages")
    with made.registry():
        made.write_small(folder / "atlas")
        root = release(folder / "atlas", out=folder / "releases").path
    root = Path(shutil.copytree(root, folder / "forged"))
    texts = " ".join(HOSTILE)
    for path, columns in (
        (MODELS, ["name", "modality", "licence.code", "licence.weights"]),
        (SETS, ["name", "version", "licence", "stratum", "citation"]),
    ):
        table = pd.read_parquet(root / path)
        table[columns] = texts
        write_table(table, root / path)
    index = read_index(Files(str(root)))
    listed = [*root.glob("structures/*.parquet"), *root.glob("registry/*.parquet")]
    write_json(seal({**index, "files": file_entries(root, listed)}), root / "atlas.json")
    return root


def test_the_dataset_card(forged: Path) -> None:
    _, head, body = card(forged).split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "other"
    rows = [line for line in body.splitlines() if "alert" in line]
    assert rows and all(line.startswith("| ") for line in rows)
    for row in rows:
        shown = row.replace("`plain`", "").replace("`graph`", "")
        for mark in ("<", "](", "![", "**", "://", "www.", "$"):
            assert mark not in shown, mark
        assert shown.count(" | ") in (6, 8)  # not a cell more than the table has


def test_croissant_ends_no_script(forged: Path) -> None:
    content = croissant(forged)
    path = write_croissant(forged)
    text = path.read_text("utf-8")
    assert "<" not in text and "\\u003c/script" in text
    assert json.loads(text) == content
    names = {work.get("url") for work in content["license"]}
    assert names == {None}


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_the_text_itself(text: str) -> None:
    import html

    shown = " ".join(text.split())
    assert html.unescape(_plain(shown)) == shown
    assert not set("<>[]`*|$@!#") & set(_plain(shown).replace("&#", ""))


def test_the_name_on_a_page_holds_no_password(forged: Path) -> None:
    class Remote:
        location = "http://me:pa55w0rd@host.example"

    assert atlas_name(Remote()) == "host.example"  # type: ignore[arg-type]


def test_cards_that_steer_a_terminal_are_refused(forged: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(forged, tmp_path / "copy"))
    table = pd.read_parquet(root / MODELS)
    table["name"] = "\x1b]0;owned\x07\u202e"
    write_table(table, root / MODELS)
    index = read_index(Files(str(root)))
    index["files"] |= file_entries(root, [root / MODELS])
    write_json(seal(index), root / "atlas.json")
    with pytest.raises(ArchiveError, match=r"U\+"):
        _ = open_atlas(root).models
