# SPDX-License-Identifier: Apache-2.0
"""Merges: complete, strict, byte for byte one build of everything, and safe to kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kills import Merge, Work, differences, step_kills, tree

import matteratlas as ma
from matteratlas.builders.build import build
from matteratlas.builders.merge import merge
from matteratlas.registry.files import Files
from matteratlas.registry.index import read_index, read_runs, seal, write_index, write_json
from matteratlas.registry.tables import MODELS, write_table
from matteratlas.registry.validate import validate
from matteratlas.schemas.archive import ATLAS_FILE, STORE
from matteratlas.schemas.errors import ArchiveError


def make(root: Path, models: list[str], sets: list[str], **options: Any) -> Path:
    report = build(root, models=models, sets=sets, **{"selection": "starter", **options}, workers=0)
    assert not report.failed
    return root


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``whole``, three parts of it, and a part whose set has grown."""
    folder = tmp_path_factory.mktemp("parts")
    make(folder / "whole", ["mat2vec", "chgnet-0.3.0", "random-128"], ["elements", "g2"])
    make(folder / "a", ["mat2vec"], ["elements", "g2"])
    make(folder / "b", ["chgnet-0.3.0", "random-128"], ["elements"])
    make(folder / "c", ["chgnet-0.3.0", "random-128", "mat2vec"], ["g2"])
    make(folder / "grown", ["mat2vec"], ["elements"], selection="full")
    return folder


def all_bytes(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_merged_parts_are_one_build_of_everything(parts: Path, tmp_path: Path) -> None:
    sources = [parts / name for name in "abc"]
    before = [all_bytes(s) for s in sources]
    report = merge(tmp_path / "out", sources)
    assert differences(tmp_path / "out", tree(parts / "whole")) == []
    assert validate(tmp_path / "out", deep=True).faults == []
    assert [all_bytes(s) for s in sources] == before
    assert {u.outcome for u in report.units} == {"copied"} and len(report.units) == 6
    assert report.structures == {"elements": 45, "g2": 70}
    assert "3 atlases merged; units: 6 copied" in report.text()
    assert json.loads(json.dumps(report.summary()))["units"][0]["model"] == "chgnet-0.3.0"
    costs = read_runs(Files(str(tmp_path / "out")), "chgnet-0.3.0")
    assert costs["g2"] == read_runs(Files(str(parts / "c")), "chgnet-0.3.0")["g2"]
    assert costs["elements"] == read_runs(Files(str(parts / "b")), "chgnet-0.3.0")["elements"]


def test_order_and_repeats_do_not_matter(parts: Path, tmp_path: Path) -> None:
    merge(tmp_path / "out", [parts / "c", parts / "a"])
    report = merge(tmp_path / "out", [parts / "b", parts / "a"])
    assert sorted(u.outcome for u in report.units) == ["copied"] * 2 + ["kept"] * 4
    assert differences(tmp_path / "out", tree(parts / "whole")) == []
    report = merge(tmp_path / "out", [parts / "whole", parts / "a"])
    assert {u.outcome for u in report.units} == {"kept"}
    assert differences(tmp_path / "out", tree(parts / "whole")) == []


def test_the_unit_and_the_set_with_more_rows_win(parts: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(parts / "a", tmp_path / "out"))
    report = merge(out, [parts / "grown"])
    outcomes = {(u.model, u.set): u.outcome for u in report.units}
    assert outcomes == {("mat2vec", "elements"): "replaced", ("mat2vec", "g2"): "kept"}
    assert report.structures == {"elements": 71, "g2": 70}
    assert len(ma.open_atlas(out).embeddings("mat2vec", sets=["elements"])) == 71
    assert validate(out, deep=True).faults == []
    # The other way round the larger one is there already, and stays.
    other = Path(shutil.copytree(parts / "grown", tmp_path / "other"))
    report = merge(other, [parts / "a"])
    assert {(u.set, u.outcome) for u in report.units} == {("elements", "kept"), ("g2", "copied")}
    assert differences(other, tree(out)) == []


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def damaged(root: Path) -> None:
    flip(next((root / STORE / "mat2vec" / "g2").rglob("c/0/0")))


def other_format(root: Path) -> None:
    index = read_index(Files(str(root)))
    write_json(seal({**index, "format_version": "2.1"}), root / ATLAS_FILE)


def interrupted(root: Path) -> None:
    index = read_index(Files(str(root)))
    name = "structures/g2.parquet"
    entry = index["files"].pop(name)
    write_json(seal({**index, "pending": {name: [entry]}}), root / ATLAS_FILE)


def changed_structure(root: Path) -> None:
    path = root / "structures" / "g2.parquet"
    table = pd.read_parquet(path)
    table.loc[3, "name"] = "something else"
    _rewrite(table, path)
    write_index(root)


def one_structure_less(root: Path) -> None:
    """Neither set contains the other: one of g2 is gone, and one more is there."""
    path = root / "structures" / "g2.parquet"
    table = pd.read_parquet(path)
    table.loc[69, "id"] = "ma1-" + "a" * 26
    shutil.rmtree(root / STORE), shutil.rmtree(root / "parquet")
    _rewrite(table, path)
    write_index(root)


def other_set_version(root: Path) -> None:
    path = root / "structures" / "g2.parquet"
    _rewrite(pd.read_parquet(path), path, version="9.9")
    write_index(root)


def _rewrite(table: pd.DataFrame, path: Path, version: str | None = None) -> None:
    import pyarrow.parquet as pq

    from matteratlas.registry.tables import table_version

    schema = pq.read_schema(path)
    write_table(table, path, schema=schema, version=version or table_version(path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (damaged, r"one: not valid: embeddings\.zarr/mat2vec/g2/.*sha256 differs"),
        (other_format, r"one: format 2\.1, this merges 2\.0"),
        (interrupted, "one: a build of it was interrupted"),
        (changed_structure, r"set 'g2': structure 'ma1-\w{26}' of \S+/one is not in \S+/a, or not"),
        (one_structure_less, r"set 'g2': structure 'ma1-a{26}' of \S+/one is not in \S+/a"),
        (other_set_version, r"set 'g2': version \S+ in \S+/a, 9\.9 in \S+/one"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_byte_is_written(
    parts: Path, tmp_path: Path, change: Callable[[Path], None], says: str
) -> None:
    one = Path(shutil.copytree(parts / "a", tmp_path / "one"))
    change(one)
    before = all_bytes(one)
    with pytest.raises(ArchiveError, match=says) as caught:
        merge(tmp_path / "out", [parts / "a", one])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() and all_bytes(one) == before


def test_units_that_disagree_on_a_row_are_refused_by_name(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same unit with one number otherwise, and a smaller one with one number otherwise."""
    from matteratlas.builders.adapters.element_tables import ElementTable

    real = ElementTable.forward

    def nudged(self: Any, structures: Any) -> Any:
        for structure, result in zip(structures, real(self, structures), strict=True):
            if structure.formula == "Cu4":
                (layer,) = result.pooled or result.nodes
                values = (result.pooled or result.nodes)[layer]
                values.flat[0] += np.float32(1e-3)
            yield result

    monkeypatch.setattr(ElementTable, "forward", nudged)
    twin = make(tmp_path / "twin", ["mat2vec"], ["elements"])
    monkeypatch.undo()
    table = ma.open_atlas(twin).structures
    (wrong,) = table.loc[table["formula"] == "Cu4", "id"].head(1)
    for other in ("a", "grown"):
        with pytest.raises(ArchiveError, match=f"mat2vec on elements: row '{wrong}' of .*twin"):
            merge(tmp_path / "out", [parts / other, twin])
    assert not (tmp_path / "out").exists()


def test_a_model_of_two_versions_is_refused(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matteratlas.registry import catalog

    cards = dict(catalog.models())
    cards["mat2vec"] = cards["mat2vec"].model_copy(update={"version": "99"})
    with monkeypatch.context() as patched:
        patched.setattr(catalog, "models", lambda folder=None: cards)
        make(tmp_path / "new", ["mat2vec"], ["elements"])
    with pytest.raises(ArchiveError, match=r"model 'mat2vec': version \S+ in \S+, 99 in \S+/new"):
        merge(tmp_path / "out", [parts / "c", tmp_path / "new"])
    assert not (tmp_path / "out").exists()


def test_cards_that_this_version_does_not_know_are_kept(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matteratlas.registry import catalog

    known = {m: c for m, c in catalog.models().items() if m != "mat2vec"}
    monkeypatch.setattr(catalog, "models", lambda folder=None: known)
    merge(tmp_path / "out", [parts / "b", parts / "a"])
    cards = pd.read_parquet(tmp_path / "out" / MODELS).set_index("id")
    original = pd.read_parquet(parts / "a" / MODELS).set_index("id")
    assert set(cards.index) == {"mat2vec", "chgnet-0.3.0", "random-128"}
    assert cards.loc["mat2vec", "version"] == original.loc["mat2vec", "version"]
    assert cards.loc["mat2vec", "paper.doi"] == original.loc["mat2vec", "paper.doi"]
    assert validate(tmp_path / "out").faults == []


def test_arguments_that_make_no_sense(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no source to merge"):
        merge(tmp_path / "out", [])
    with pytest.raises(ArchiveError, match="no such folder; pull"):
        merge(tmp_path / "out", [parts / "a", tmp_path / "nowhere"])
    with pytest.raises(ArchiveError, match="given twice"):
        merge(tmp_path / "out", [parts / "a", parts / "b" / ".." / "a"])
    with pytest.raises(ArchiveError, match="given twice"):
        merge(parts / "a", [parts / "a"])
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with pytest.raises(ArchiveError, match="not an atlas"):
        merge(tmp_path / "thesis", [parts / "a"])
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_full_disk_leaves_what_there_was(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(parts / "a", tmp_path / "out"))
    before = tree(out)
    real = shutil.copyfile

    def full(source: Any, target: Any, **options: Any) -> Any:
        if "conv_4" in str(source):
            raise OSError(28, "No space left on device")
        return real(source, target, **options)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ArchiveError, match="No space left on device; make room"):
        merge(out, [parts / "b"])
    monkeypatch.undo()
    assert validate(out, deep=True).faults == [] and not (out / ".staging").exists()
    held = tree(out)
    assert {p for p in before if p.startswith((STORE, "parquet"))} <= set(held)
    merge(out, [parts / "b"])
    assert validate(out, deep=True).faults == []


def test_a_source_that_changes_meanwhile_is_noticed(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matteratlas.builders import merge as module

    one = Path(shutil.copytree(parts / "a", tmp_path / "one"))
    real = module.open_root

    def then_damage(out: Path) -> None:
        real(out)
        damaged(one)

    monkeypatch.setattr(module, "open_root", then_damage)
    with pytest.raises(ArchiveError, match="changed while it was copied"):
        merge(tmp_path / "out", [one])
    assert validate(tmp_path / "out", deep=True).faults == []


def here(root: Path, job: Work) -> None:
    job(root)


def test_killed_before_any_rename_it_can_be_run_again(parts: Path, tmp_path: Path) -> None:
    """Into an atlas that has the unit with fewer rows: tables and unit are replaced."""
    base = make(tmp_path / "base", ["mat2vec"], ["elements"])
    job = Merge((parts / "grown",))
    found = list(step_kills(tmp_path, job, base=base, calls=("replace",), again=here))
    assert sum(what == "moving files" for _, what, _ in found) > 6
    assert [line for _, _, wrong in found for line in wrong] == []
