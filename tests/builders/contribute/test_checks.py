# SPDX-License-Identifier: Apache-2.0
"""Checks find what they are for: each fault of a card or an adapter fails its own check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from flow import run, write_by_the_page

from matteratlas.builders.contribute.folder import open_contribution
from matteratlas.builders.contribute.report import Check, Report, markdown, plain, read_report
from matteratlas.builders.contribute.scaffold import scaffold
from matteratlas.contribute import check, submit
from matteratlas.registry import catalog
from matteratlas.schemas.cards import Modality
from matteratlas.schemas.errors import ArchiveError, CardError


def new(folder: Path) -> Path:
    scaffold("autocorr2d", family="autocorrelation", modality="graph2d", out=folder, learned=False)
    write_by_the_page(folder / "autocorr2d")
    return folder / "autocorr2d"


def change(path: Path, old: str, text: str) -> None:
    before = path.read_text(encoding="utf-8")
    assert before.count(old) == 1, (old, before)
    path.write_text(before.replace(old, text), encoding="utf-8")


def failed(report: Report) -> dict[str, Check]:
    return {c.name: c for c in report.checks if c.outcome == "fail"}


@pytest.mark.parametrize("modality", get_args(Modality))
@pytest.mark.parametrize("learned", [True, False])
def test_scaffolds_parse_and_say_what_is_open(modality: str, learned: bool, tmp_path: Path) -> None:
    files = scaffold("x-1.0", family="new-family", modality=modality, out=tmp_path, learned=learned)
    assert [p.name for p in files] == ["x-1.0.yaml", "new_family.py", "test_new_family.py"]
    card = yaml.safe_load(files[0].read_text())
    assert card["adapter"] == "new_family:X10"
    for path in files[1:]:
        ast.parse(path.read_text())
    report = check(tmp_path / "x-1.0")
    (found,) = report.checks
    assert not report.ok and found.name == "card"
    for key in ("name", "licence.code", "layers.0.dim", "environment"):
        assert f"key '{key}'" in found.evidence
    assert ("training.domains" in found.evidence) is learned


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_id": "Bad Name"}, "use lower-case letters"),
        ({"model_id": "soap"}, "is taken"),
        ({"modality": "smell"}, "one of atoms3d"),
        ({"family": "../up"}, "use lower-case letters"),
    ],
)
def test_names_are_checked(arguments: dict[str, str], message: str, tmp_path: Path) -> None:
    given = {"model_id": "x", "family": "x", "modality": "atoms3d", **arguments}
    with pytest.raises(CardError, match=message):
        scaffold(given.pop("model_id"), **given, out=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "text", "name", "evidence"),
    [
        ("family: autocorrelation", "famly: autocorrelation", "card", "did you mean 'family'"),
        ("  kinds: [molecule]", "  kinds: [molecul]", "card", "unknown kind"),
        ("code: BSD-3-Clause", "code: BSD three", "licences", "licence.code"),
        ("code: BSD-3-Clause", "code: bsd-3-clause", "licences", "writes 'BSD-3-Clause'"),
        ("code: BSD-3-Clause", "code: null", "licences", "is null"),
        ("  weights: null", "  weights: MIT", "licences", "no weights"),
        ("learned: false", "learned: true", "card", "training.domains"),
        ("  sets: null", "  sets: [mp]", "card", "'training' is filled in"),
        ("obtained: none", "obtained: brought", "card", "disagree"),
    ],
)
def test_faults_of_a_card(old: str, text: str, name: str, evidence: str, tmp_path: Path) -> None:
    folder = new(tmp_path)
    change(folder / "autocorr2d.yaml", old, text)
    report = check(folder, card_only=True)
    assert evidence in failed(report)[name].evidence and failed(report)[name].mend


def test_an_adapter_that_breaks_every_promise(tmp_path: Path, built_atlas: Path) -> None:
    """Reads positions, remembers calls, and fails some rows: each check names its own."""
    folder = new(tmp_path)
    adapter = folder / "autocorrelation.py"
    change(
        adapter,
        "        return np.asarray(self.calculate(molecule))",
        "        if len(structure) == 5:\n"
        '            raise RuntimeError("no fives")\n'
        "        self.calls = getattr(self, 'calls', 0) + 1\n"
        "        values = np.asarray(self.calculate(molecule))\n"
        "        return values + self.calls + structure.positions[0, 0]",
    )
    report = check(folder, against=str(built_atlas))
    found = failed(report)
    assert {
        "test", "missing reasons", "permutation invariance", "rotation invariance", "determinism",
        "translation invariance", "batch independence", "recomputed rows",
    } <= set(found)  # fmt: skip
    assert "no fives" in found["missing reasons"].evidence
    assert all(c.mend for c in found.values())
    with pytest.raises(ArchiveError, match=r"check '.*' failed; run: matteratlas contribute check"):
        submit(folder, repo="a/b")

    # Mended, the same folder passes: what the old adapter said is not kept.
    write_again = new(tmp_path / "again") / "autocorrelation.py"
    adapter.write_text(write_again.read_text())
    report = check(folder, against=str(built_atlas))
    assert report.ok, failed(report)
    state = report.digest
    change(folder / "autocorr2d.yaml", "at lags 1 to 8", "at eight lags")
    assert open_contribution(folder).digest() != state
    with pytest.raises(ArchiveError, match="of another state"):
        submit(folder, repo="a/b")


def test_values_that_say_nothing(tmp_path: Path) -> None:
    folder = new(tmp_path)
    change(folder / "autocorrelation.py", "np.asarray(self.calculate(molecule))", "np.ones(192)")
    code, told = run("contribute", "check", str(folder), "--sets", "g2")
    assert code == 1 and "every vector is the same" in told
    (folder / "test_autocorrelation.py").unlink()
    code, told = run("contribute", "check", str(folder), "--sets", "g2")
    assert code == 1 and "no test_autocorrelation.py" in told
    assert "build" not in {c.name for c in read_report(folder / "report.json").checks}


def test_a_card_in_place_is_checked_with_its_adapter_and_test(tmp_path: Path) -> None:
    """As CI does on a pull request of the code repository; nothing is written beside the card."""
    (path,) = [p for p in catalog.model_card_paths() if p.stem == "maccs"]
    found = open_contribution(path)
    assert [p.name for p in found.sources()] == [
        "maccs.yaml", "fingerprints.py", "test_fingerprints.py"
    ]  # fmt: skip
    assert found.in_registry and found.work.parts[-3:] == ("out", "contribute", "maccs")
    before = sorted(path.parent.iterdir())
    report = check(path, sets=["g2"], work=tmp_path)
    assert report.ok, failed(report)
    assert {"test", "recomputed rows", "determinism"} <= {c.name for c in report.checks}
    assert sorted(path.parent.iterdir()) == before and (tmp_path / "report.md").is_file()


def test_reading_reports_and_cards_takes_the_core_alone(tmp_path: Path) -> None:
    """The jobs that comment install no model, no chemistry and no analysis."""
    (path,) = [p for p in catalog.model_card_paths() if p.stem == "maccs"]
    (tmp_path / "maccs.yaml").write_bytes(path.read_bytes())
    script = f"""
import sys
for name in "torch rdkit ase pymatgen faiss distributed altair jinja2 threadpoolctl".split():
    sys.modules[name] = None
from matteratlas.cli import app
for words in (["check", {str(tmp_path)!r}, "--card-only"],
              ["comment", {str(tmp_path / "report.json")!r}]):
    try:
        app(["contribute", *words])
    except SystemExit as end:
        assert not end.code, (words, end.code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "all checks passed" in done.stdout and "<code>maccs</code>" in done.stdout


def test_reports_come_back_and_nothing_in_them_is_markup(tmp_path: Path) -> None:
    nasty = "<img src=x onerror=alert(1)> @you #1 www.x.org | `a` [b](c) *d*\x00\u202e\n## e"
    report = Report(model=nasty, version=nasty, digest="0" * 64, reference="https://x.org")
    report.add("n", "fail", nasty * 100, nasty)
    report.write(tmp_path)
    assert read_report(tmp_path / "report.json") == report
    text = (tmp_path / "report.md").read_text()
    assert text == markdown(report)
    for harm in ("<img", "@you", "#1 ", "www.x", "`a`", "](", "*d*", "\x00", "\u202e", "\n## e",
                 "https://"):  # fmt: skip
        assert harm not in text, harm
    assert plain("") == "" and plain("5 of 6 rows") == "<code>5 of 6 rows</code>"
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(line.count("|") == 5 for line in rows)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"format": "2"}',
        '{"format":"1","model":"m","version":"1","digest":"0","checks":[]}',
        '{"format":"1","model":"m","version":"1","digest":"' + "0" * 64 + '","more":1}',
        '{"format":"1","model":"m","version":"1","digest":"' + "0" * 64 + '","bytes":NaN}',
    ],
)
def test_what_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ArchiveError, match="not a report"):
        read_report(path)
    with pytest.raises(ArchiveError, match="no report there"):
        read_report(tmp_path / "absent.json")
