# SPDX-License-Identifier: Apache-2.0
"""``make test-families``: test every model in an environment of its own, write the result table.

Resumable: the table is written after each environment, and a model that ran is not run again until
its card, its environment, the code or these tests change.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

from matteratlas.builders import adapters, environments
from matteratlas.builders.environments import prepare
from matteratlas.registry import catalog
from matteratlas.registry.environment_cards import environment, read_families, write_families
from matteratlas.schemas.cards import ModelCard
from matteratlas.schemas.errors import SourceError

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "registry" / "families.csv"
Row = dict[str, str]


def tests_of(card: ModelCard) -> tuple[str, str]:
    """The file with a model's tests, and the one with its package's own word."""
    if catalog.at_hand(card):
        return "test_families.py", "published.py"
    own = f"small_{card.adapter.partition(':')[0]}.py"
    return "test_small_weights.py", own if (HERE / own).is_file() else "small.py"


def best(card: ModelCard) -> str:
    """The outcome of tests that all pass: small weights are not the published ones."""
    return "ran" if catalog.at_hand(card) else "loads"


def done(card: ModelCard, row: Row | None) -> bool:
    """Whether a model's tests have all passed, and nothing has changed since."""
    return row is not None and (row["outcome"], row["why"], row["fingerprint"]) == (
        best(card), "", fingerprint(card)
    )  # fmt: skip


def fingerprint(card: ModelCard) -> str:
    """Hash of all that the result depends on."""
    code = Path(adapters.__path__[0])
    files = [
        code / f"{card.adapter.partition(':')[0]}.py",
        *(code / f"{name}.py" for name in ("base", "frames", "remote", "stand_ins", "worker")),
        *([] if catalog.at_hand(card) else [code / "weights.py"]),
        Path(environments.__file__), *(HERE / name for name in tests_of(card)),
    ]  # fmt: skip
    content = [card.model_dump_json(), environment(str(card.isolation)).fingerprint]
    content += [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]
    return hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]


def blank(card: ModelCard, outcome: str, why: str) -> Row:
    pins = environment(str(card.isolation)).pins
    return {
        "model": card.id, "family": card.family, "environment": str(card.isolation),
        "outcome": outcome, "why": " ".join(why.split())[:300],
        "packages": " ".join(f"{n}=={v}" for n, v in {**(card.environment or {}), **pins}.items()),
        "ms_per_structure": "", "peak_mb": "", "fingerprint": fingerprint(card),
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def test(cards: list[ModelCard]) -> dict[str, Row]:
    """Rows of the models of one environment."""
    try:
        prepare(environment(str(cards[0].isolation)))
    except SourceError as error:
        return {card.id: blank(card, "blocked", str(error)) for card in cards}
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        subprocess.run(
            [
                sys.executable, "-m", "pytest",
                *dict.fromkeys(str(HERE / tests_of(card)[0]) for card in cards),
                "-k", " or ".join(f"[{card.id}]" for card in cards), f"--junitxml={report}",
            ],
            check=False,
            cwd=HERE.parents[1],
        )  # fmt: skip
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    return {card.id: row_of(card, [c for c in cases if f"[{card.id}]" in c.get("name", "")])
            for card in cards}  # fmt: skip


def row_of(card: ModelCard, cases: list[ElementTree.Element]) -> Row:
    """The outcome of one model's tests."""
    if not cases:
        return blank(card, "blocked", "no test ran")
    faults = [
        (case.get("name", "").partition("[")[0], fault.tag, fault.get("message", ""))
        for case in cases
        for fault in case
        if fault.tag in {"failure", "error"}
    ]
    if any(tag == "error" for _, tag, _ in faults):
        return blank(card, "blocked", next(m for _, tag, m in faults if tag == "error"))
    why = "; ".join(f"{n}: {m}" for n, _, m in faults)
    worse = "loads" if catalog.at_hand(card) else "blocked"
    row = blank(card, worse if faults else best(card), why)
    measured = {p.get("name"): p.get("value", "") for c in cases for p in c.iter("property")}
    return row | {k: measured.get(k, "") for k in ("ms_per_structure", "peak_mb")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="families or model ids; default: all")
    parser.add_argument("--again", action="store_true", help="also what ran and has not changed")
    arguments = parser.parse_args()
    named = catalog.select_models(arguments.families) if arguments.families else None
    cards = [c for c in named or catalog.models().values() if c.isolation]
    rows = read_families(TABLE)
    known = {c.id for c in catalog.models().values() if c.isolation}
    rows = {model: row for model, row in rows.items() if model in known}
    if not arguments.again:
        cards = [c for c in cards if not done(c, rows.get(c.id))]
    for home in dict.fromkeys(str(c.isolation) for c in cards):
        rows |= test([c for c in cards if c.isolation == home])
        write_families(rows, TABLE)
    write_families(rows, TABLE)
    for row in rows.values():
        print(f"{row['model']}: {row['outcome']} {row['why']}".rstrip())
    if any(row["outcome"] != best(catalog.model(model)) for model, row in rows.items()):
        sys.exit(1)


if __name__ == "__main__":
    main()
