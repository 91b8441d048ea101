# SPDX-License-Identifier: Apache-2.0
"""The fuzz benchmark, reduced: its cases, its processes, its clock and its record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest
from fuzz_cases import BAD, ORDER, SHARES, Case

SCRIPT = Path(fuzz.__file__)
#: Steps that fail in every way, in place of the real ones.
BROKEN = """
import json, os, sys, time
from pathlib import Path
import fuzz, fuzz_cases, fuzz_targets

def step(case, target, *rest):
    rest[-1]("work")
    if case.number == 1:
        raise KeyError("foreign")
    if case.number == 2:
        os.kill(os.getpid(), 11)
    if case.number == 3:
        (target.parent / "victim.txt").write_text("other")
    if case.number == 4:
        raise fuzz_targets.WrongError("wrong")
    while case.number == 5:
        time.time()
    return "refused", "a line"

fuzz.LIMIT_SECONDS = 0.4
fuzz_cases.card_case = fuzz_cases.store_case = step
todo = [fuzz_cases.Case(n, 0) for n in range(7)]
found = fuzz.run(Path(sys.argv[1]), Path(sys.argv[2]), todo, processes=1)
print(json.dumps({case.number: [what, said] for case, what, said in found}))
"""


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A Python of its own: the fuzzer forks, and this one has threads."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=SCRIPT.parent, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "base"
    made = python("-c", f"import fuzz; fuzz.make(fuzz.Path({str(folder)!r}))")
    assert made.returncode == 0, made.stderr
    return folder


def test_every_target_has_its_share() -> None:
    assert sum(SHARES.values()) == len(ORDER) == 100 and set(ORDER) == set(SHARES)
    assert Case(7, 1).rng.random() == Case(7, 1).rng.random() != Case(7, 2).rng.random()


def test_a_few_hundred_cases(base: Path, tmp_path: Path) -> None:
    """Each a line, the truth, or sense; and a stopped run goes on after its record."""
    record = tmp_path / "record.jsonl"
    options = ["--seed", 1, "--base", base, "--record", record]
    first = python(SCRIPT, *options, "--cases", 40)
    assert first.returncode == 0, first.stdout + first.stderr
    assert [case for case, _, _ in fuzz.recorded(record, 1)] == [Case(n, 1) for n in range(40)]
    assert fuzz.recorded(record, 2) == []
    whole = python(SCRIPT, *options, "--cases", 200)
    found = fuzz.recorded(record, 1)
    bad = [(case.number, what, said) for case, what, said in found if what in BAD]
    assert whole.returncode == 0 and bad == [], bad
    assert [case for case, _, _ in found] == [Case(n, 1) for n in range(200)]
    counts = [what for _, what, _ in found]
    assert counts.count("refused") > 90 and 200 - counts.count("refused") > 20, counts
    assert "| all | 200 |" in whole.stdout


def test_what_is_bad_is_seen(base: Path, tmp_path: Path) -> None:
    """A crash, a death, a hang, an escape and a wrong answer are found and told apart."""
    ran = python("-c", BROKEN, base, tmp_path)
    assert ran.returncode == 0, ran.stderr
    found = {int(number): what for number, what in json.loads(ran.stdout).items()}
    assert {number: what for number, (what, _) in found.items()} == {
        0: "refused", 1: "crash", 2: "crash", 3: "escape", 4: "wrong answer", 5: "hang",
        6: "refused",
    }  # fmt: skip
    assert "KeyError" in found[1][1] and "died (-11)" in found[2][1]


def test_a_case_again(base: Path) -> None:
    """By its number alone, with its operations."""
    again = python(SCRIPT, "--seed", 1, "--base", base, "--case", 7)
    assert again.returncode == 0 and " s  refused: " in again.stdout, again.stdout + again.stderr
