# SPDX-License-Identifier: Apache-2.0
"""What a check found, as JSON for machines and Markdown for people.

A report may come from a machine that ran somebody's code: it is read under a closed schema with
limits, and written out again so that nothing in it is markup, a link or a mention.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...schemas.errors import ArchiveError

Outcome = Literal["pass", "note", "fail", "skipped"]

#: A larger file is no report.
MOST_BYTES = 2**20

_Text = Annotated[str, Field(max_length=2000)]
_Short = Annotated[str, Field(max_length=200)]
_Count = Annotated[int, Field(ge=0)]
_Score = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Check(_Closed):
    """One check: what was looked at, what was found, and what to do about it."""

    name: _Short
    outcome: Outcome
    evidence: _Text
    mend: _Text = ""


class Rows(_Closed):
    """How much of a set was embedded."""

    rows: _Count
    embedded: _Count
    missing: Annotated[dict[_Short, _Count], Field(max_length=100)]


class Alignment(_Closed):
    """How one chart of the reference sees the rows it has in common with the new one."""

    model: _Short
    rows: _Count
    mutual_knn: _Score | None
    calibrated: _Score | None
    linear_cka: _Score | None


class Report(_Closed):
    """Everything a check found."""

    format: Literal["1"] = "1"
    model: _Short
    version: _Short
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    commit: Annotated[str, Field(pattern=r"^([0-9a-f]{40})?$")] = ""
    reference: _Short = ""
    bytes: _Count = 0
    sets: Annotated[dict[_Short, Rows], Field(max_length=100)] = {}
    checks: Annotated[list[Check], Field(max_length=100)] = []
    alignment: Annotated[list[Alignment], Field(max_length=2000)] = []

    @property
    def ok(self) -> bool:
        """No check failed, and some were made."""
        return bool(self.checks) and all(c.outcome != "fail" for c in self.checks)

    def add(self, name: str, outcome: Outcome, evidence: str, mend: str = "") -> None:
        """One check more; long texts are cut."""
        self.checks.append(
            Check(name=name, outcome=outcome, evidence=_cut(evidence), mend=_cut(mend))
        )

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``report.md`` and ``report.json``; both paths."""
        folder.mkdir(parents=True, exist_ok=True)
        page, data = folder / "report.md", folder / "report.json"
        page.write_text(markdown(self), encoding="utf-8")
        content = {**self.model_dump(mode="json"), "ok": self.ok}
        data.write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
        return page, data


def read_report(path: Path) -> Report:
    """A report from anywhere.

    Raises
    ------
    ArchiveError
        It is absent, too large, or not a report.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ArchiveError(f"{path}: larger than {MOST_BYTES} bytes; no report is")
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            content.pop("ok", None)  # follows from the checks
        return Report.model_validate(content)
    except OSError as error:
        raise ArchiveError(f"{path}: no report there; run: matteratlas contribute check") from error
    except (ValueError, RecursionError, ValidationError) as error:
        text = " ".join(str(error).split())[:160]
        raise ArchiveError(f"{path}: not a report ({text}); run the check again") from error


def markdown(report: Report) -> str:
    """The report for people: tables in which every foreign text is plain text."""
    counts = Counter(str(c.outcome) for c in report.checks)
    told = ", ".join(f"{counts[o]} {w}" for o, w in _WORDS.items() if counts[o])
    lines = [
        f"## {plain(report.model)} {plain(report.version)}: "
        f"{'all checks passed' if report.ok else 'not ready'}",
        "",
        f"{told}. Size of what is new: {report.bytes / 1e6:.2f} MB."
        + (f" Compared with {plain(report.reference)}." if report.reference else "")
        + (f" Looked at commit `{report.commit}`." if report.commit else ""),
        "",
        "| check | outcome | evidence | what to do |",
        "|---|---|---|---|",
        *(
            f"| {plain(c.name)} | {_MARKS[c.outcome]} | {plain(c.evidence)} | {plain(c.mend)} |"
            for c in sorted(report.checks, key=lambda c: c.outcome != "fail")
        ),
    ]
    if report.sets:
        lines += [
            "",
            "### Rows",
            "",
            "| set | rows | embedded | missing |",
            "|---|---|---|---|",
            *(
                f"| {plain(name)} | {s.rows} | {s.embedded} | "
                f"{plain(', '.join(f'{n} {r}' for r, n in sorted(s.missing.items())))} |"
                for name, s in report.sets.items()
            ),
        ]
    if report.alignment:
        lines += [
            "",
            "### How other charts see the same rows",
            "",
            "Share of nearest neighbours in common (mutual kNN), the same calibrated so that 0 is "
            "chance and 1 is identity, and linear CKA.",
            "",
            "| chart | rows | mutual kNN | calibrated | linear CKA |",
            "|---|---|---|---|---|",
            *(
                f"| {plain(a.model)} | {a.rows} | {_number(a.mutual_knn)} | "
                f"{_number(a.calibrated)} | {_number(a.linear_cka)} |"
                for a in report.alignment
            ),
        ]
    return "\n".join([*lines, ""])


_WORDS = {"fail": "failed", "note": "with a note", "pass": "passed", "skipped": "not made"}
_MARKS = {"fail": "**FAIL**", "note": "note", "pass": "pass", "skipped": "not made"}


def plain(text: str) -> str:
    """Text that Markdown, HTML and mention filters leave alone: code, every mark an entity."""
    kept = "".join(c if c.isprintable() else " " for c in unicodedata.normalize("NFC", text))
    kept = " ".join(kept.split())
    if not kept:
        return ""
    # Between <code> and </code> GitHub and the Hub make no mentions or issue links of it, and with
    # punctuation as entities there is nothing left to parse.
    inner = re.sub(r"[^\w ',.;=+%()/-]|_|(?<=\bwww)\.", lambda m: f"&#{ord(m[0])};", kept)
    return f"<code>{inner}</code>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cut(text: str, most: int = 1900) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."
