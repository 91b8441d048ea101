# SPDX-License-Identifier: Apache-2.0
"""Fuzz what reads cards, manifests and stores: hostile data is refused in a line, or harmless.

    python benchmarks/fuzz.py --cases 10000 --seed 0 --record fuzz.jsonl
    python benchmarks/fuzz.py --seed 0 --case 4711

Real cards, and an atlas and a release of two real models on a real set, are changed one thing
at a time (``hostile.py``) and given to all that reads or writes from them. Everything is imported
once; cases run in forks of that, some hundred each, with 3 GB of address space, a clock of 2 s an
operation and an empty target folder with canaries around it. An operation may refuse with one line
of this package, or answer: as before where no seal was put right, sensibly (shapes, types, finite
or missing) where all were. Anything else fails the run: a foreign exception, a dead process, a
hang, a byte written outside the target.

With ``--record`` every outcome is a line of that file, and a run that was stopped goes on where it
was. ``--case`` runs one case again in this process and shows where it fails.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import select
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import fuzz_targets
from fuzz_cases import BAD, CARDS, OUTCOMES, SHARES, Answers, Case, cases, outcome

LIMIT_SECONDS = 2.0
LIMIT_BYTES = 4 * 2**30
#: Cases a fork runs before another takes over.
BATCH = 200
MODELS, SETS = ("chgnet-0.3.0", "mat2vec"), ("elements",)


def make(folder: Path) -> None:
    """An atlas with scores, and its release, in shards of a few rows."""
    import faults

    from matteratlas.analysis.analyze import analyze
    from matteratlas.builders.build import build
    from matteratlas.builders.release import release

    with faults.tiny_shards(rows=(16, 64)):
        build(folder / "atlas", models=MODELS, sets=SETS, selection="starter", workers=0)
    analyze(folder / "atlas", k=3, permutations=9, metrics=["mutual_knn"], workers=0)
    release(folder / "atlas", out=folder / "releases")


def read_answers(base: Path, out: Path) -> None:
    """Write what reading the real atlas and its release gives."""
    fuzz_targets.BASE[0] = base
    found = {}
    for root in (base / "atlas", base / "releases/1.0.0"):
        for ask in fuzz_targets.ANSWERING:
            found[f"{root.name} {ask.__name__}"] = ask(root)
    out.write_text(json.dumps(found))


def apart(function: Any, *args: Any) -> None:
    """Run in a process of its own: threads it starts do not survive the forks to come."""
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} failed: {process.exitcode}")


class Arena:
    """A folder with a target in it and canaries around that."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.base, self.folder, self.target = base, folder, folder / "case"
        (folder / "outside").mkdir(parents=True)
        for name in ("victim.txt", "victim.parquet", "outside/keep.parquet", "outside/zarr.json",
                     "outside/.a.1.part"):  # fmt: skip
            (folder / name).write_text(name)

    def clear(self) -> Path:
        """The target folder, empty."""
        shutil.rmtree(self.target, ignore_errors=True)
        self.target.mkdir()
        return self.target

    def around(self) -> list[str]:
        """All outside the target: this arena, and the real atlas that links lead to."""
        out: list[Any] = []
        for top in (self.folder, self.base):
            for folder, folders, names in os.walk(top):
                if folder == str(self.folder):
                    folders[:] = [f for f in folders if f != "case"]
                for name in sorted(names):
                    stat = os.lstat(f"{folder}/{name}")
                    out.append((folder, name, stat.st_size, stat.st_mtime_ns))
                out.append((folder, sorted(folders)))
        return sorted(map(repr, out))


def forked(todo: list[Case], arena: Arena, answers: Answers, pipe: int) -> None:
    """Run cases one after the other; a line before each operation and one after each case."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 2)  # what C libraries print of their own accord
    os.chdir(arena.folder / "outside")
    before = arena.around()

    def say(*words: Any) -> None:
        os.write(pipe, json.dumps(words).encode() + b"\n")

    for case in todo:
        say(case.number, "clearing")
        target = arena.clear()
        say(case.number, "mutation")
        found = outcome(case, target, answers, lambda text, n=case.number: say(n, text[:300]))
        now = arena.around()
        if now != before:
            found = ("escape", f"{sorted(set(now) ^ set(before))[0]}: {found[1]}")
            before = now
        say(case.number, "done", found[0], found[1][:600])


@dataclass
class Runner:
    """A fork at work, and the clock over it."""

    arena: Arena
    answers: Answers
    todo: list[Case] = field(default_factory=list)
    process: BaseProcess | None = None
    pipe: int = -1
    tried: set[Case] = field(default_factory=set)
    begun: tuple[float, float] | None = None

    def start(self) -> None:
        self.pipe, theirs = os.pipe()
        batch = self.todo[:BATCH]
        self.process = multiprocessing.get_context("fork").Process(
            target=forked, args=(batch, self.arena, self.answers, theirs)
        )
        self.process.start()
        os.close(theirs)
        self.rest, self.doing, self.begun = b"", "start", None
        self.begun = self._spent()

    def _spent(self) -> tuple[float, float]:
        """Seconds of processor and wall so far."""
        assert self.process is not None
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            if fields[0] == "R" and self.begun:  # waits for a processor, and for nothing else
                self.begun = (self.begun[0], time.monotonic())
        except OSError:
            cpu = 0.0
        return cpu, time.monotonic()

    def end(self, *, kill: bool = False) -> int | None:
        assert self.process is not None
        if kill:
            self.process.kill()
        self.process.join()
        os.close(self.pipe)
        code, self.process = self.process.exitcode, None
        return code

    def look(self) -> list[tuple[Case, str, str]]:
        """Outcomes since the last look."""
        found: list[tuple[Case, str, str]] = []
        if not select.select([self.pipe], [], [], 0)[0]:
            return found + self._late()
        data = os.read(self.pipe, 2**20)
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            number, what, *said = json.loads(line)
            self.doing, self.begun = what, self._spent()
            if what == "done":
                case = self.todo.pop(0)
                assert case.number == number
                found.append((case, *said))
        if not data:
            code = self.end()
            if code and self.todo:  # the end of a batch is no death
                case = self.todo.pop(0)
                found.append((case, "crash", f"process died ({code}) in {self.doing}"))
        return found

    def _late(self) -> list[tuple[Case, str, str]]:
        spent = self._spent()
        assert self.begun is not None
        cpu, wall = (now - then for now, then in zip(spent, self.begun, strict=True))
        # The fuzzer's own changes to tables take their time; they are none of the package's.
        most = 30.0 if self.doing in ("start", "clearing", "mutation", "done") else LIMIT_SECONDS
        # The clock of the process: on a busy machine the wall's says nothing. But who sleeps hangs.
        if cpu <= most and wall <= 30 * most:
            return []
        self.end(kill=True)
        case = self.todo[0]
        if case not in self.tried:  # alone and with warm caches, before it is said to hang
            self.tried.add(case)
            return []
        del self.todo[0]
        return [(case, "hang", f"{cpu:.1f} s of processor, {wall:.0f} s in {self.doing}")]


def run(
    base: Path, folder: Path, todo: list[Case], *, processes: int, record: Path | None = None
) -> list[tuple[Case, str, str]]:
    """Every case with its outcome."""
    apart(read_answers, base, folder / "answers.json")
    answers = json.loads((folder / "answers.json").read_text())
    fuzz_targets.BASE[0] = base
    runners = [
        Runner(Arena(base, folder / f"arena{i}"), answers, todo[i::processes])
        for i in range(processes)
    ]
    found: list[tuple[Case, str, str]] = []
    last = time.monotonic()
    while True:
        for runner in runners:
            if runner.process is None and runner.todo:
                runner.start()
        busy = [r for r in runners if r.process is not None]
        if not busy:
            return found
        select.select([r.pipe for r in busy], [], [], 0.1)
        for runner in busy:
            for case, result, said in runner.look():
                found.append((case, result, said))
                if record is not None:
                    row = [case.seed, case.number, case.kind, result, said]
                    with record.open("a") as handle:
                        handle.write(json.dumps(row) + "\n")
        if time.monotonic() - last > 20:
            last = time.monotonic()
            bad = sum(result in BAD for _, result, _ in found)
            print(f"{len(found)} of {len(todo)}, {bad} bad", file=sys.stderr, flush=True)


def recorded(record: Path | None, seed: int) -> list[tuple[Case, str, str]]:
    """What a record holds of this seed."""
    if record is None or not record.exists():
        return []
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    return [(Case(number, of), result, said) for of, number, _, result, said in rows if of == seed]


def table(found: list[tuple[Case, str, str]]) -> str:
    """Counts by target and outcome."""
    lines = [
        "| target | cases | " + " | ".join(OUTCOMES) + " |",
        "|---|" + "---:|" * (1 + len(OUTCOMES)),
    ]
    for kind in [*SHARES, "all"]:
        mine = Counter(result for case, result, _ in found if kind in (case.kind, "all"))
        if mine:
            counts = [f"{mine.total():,}", *(f"{mine[o]:,}" for o in OUTCOMES)]
            lines.append(f"| {kind} | " + " | ".join(counts) + " |")
    return "\n".join(lines)


def replay(base: Path, folder: Path, case: Case) -> int:
    """One case in this process, with the operations, their seconds and the whole traceback."""
    import fuzz_cases

    apart(read_answers, base, folder / "answers.json")
    answers = json.loads((folder / "answers.json").read_text())
    fuzz_targets.BASE[0] = base
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    begun = time.process_time()

    def say(text: str) -> None:
        print(f"{time.process_time() - begun:7.2f} s  {text}"[:300], flush=True)

    step = fuzz_cases.card_case if case.kind in CARDS else fuzz_cases.store_case
    arguments: Any = () if case.kind in CARDS else (answers,)
    found = step(case, Arena(base, folder / "arena").clear(), *arguments, say)
    say(f"{found[0]}: {found[1]}")
    return int(found[0] in BAD)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", type=int, default=0, dest="first", help="number of the first")
    parser.add_argument("--case", type=int, help="run this one again, and show where it fails")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", choices=list(SHARES), default=list(SHARES))
    parser.add_argument("--base", type=Path, help="where the real atlas is, or is made")
    parser.add_argument("--record", type=Path, help="file of outcomes; a run goes on after them")
    parser.add_argument("--show", type=int, default=1, help="refusals shown of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        folder = Path(scratch)
        base = (options.base or folder / "base").absolute()
        if not (base / "releases").exists():
            apart(make, base)
        if options.case is not None:
            return replay(base, folder, Case(options.case, options.seed))
        numbers = range(options.first, options.first + options.cases)
        asked = cases(numbers, options.seed, options.kinds)
        known = recorded(options.record, options.seed)
        done = {case for case, _, _ in known}
        found = [row for row in known if row[0] in set(asked)]
        begun = time.monotonic()
        found += run(
            base,
            folder,
            [case for case in asked if case not in done],
            processes=options.processes,
            record=options.record,
        )
    found.sort(key=lambda row: row[0].number)
    print(table(found))
    print(f"\n{len(found):,} cases from {options.first}, seed {options.seed}, "
          f"{time.monotonic() - begun:.0f} s")  # fmt: skip
    shown: Counter[str] = Counter()
    for case, result, said in found:
        if result in BAD or (result == "refused" and shown[case.kind] < options.show):
            shown[case.kind] += result == "refused"
            print(f"{result}: --case {case.number} ({case.kind}): {said}"[:400])
    return int(any(result in BAD for _, result, _ in found))


if __name__ == "__main__":
    sys.exit(main())
