# SPDX-License-Identifier: Apache-2.0
"""Fuzz what reads cards, manifests and stores: hostile data is refused in a line, or harmless.

    python benchmarks/fuzz.py --cases 10000 --seed 0

Real cards, and an atlas and a release of two real models on two real sets, are changed one thing at
a time (``hostile.py``) and given to all that reads or writes from them. Each case runs in a process
of its own kind: 3 GB of address space, a clock of 2 s an operation, an empty target folder with
canaries around it. An operation may refuse with one line of this package, or answer: as before
where no seal was put right, sensibly (shapes, types, finite or missing) where all were. Anything
else fails the run: a foreign exception, a dead process, a hang, a byte written outside the target.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import yaml

LIMIT_SECONDS = 2.0
LIMIT_BYTES = 3 * 2**30
MODELS, SETS = ("chgnet-0.3.0", "mat2vec"), ("elements",)
#: Kinds of cases and how many of a hundred.
SHARES = {
    "card text": 16, "card keys": 23, "index": 8, "pending files": 3, "commit record": 7,
    "array metadata": 7, "model metadata": 4, "analysis record": 3, "manifest": 15, "table": 5,
    "table bytes": 2, "shard": 4, "bytes of any file": 2, "link": 1,
}  # fmt: skip
OUTCOMES = (
    "refused",
    "accepted, equal",
    "accepted, valid",
    "wrong answer",
    "crash",
    "hang",
    "escape",
)
BAD = OUTCOMES[3:]


@dataclass(frozen=True)
class Case:
    """One case, all of it decided by its kind and number."""

    kind: str
    number: int
    seed: int

    @property
    def rng(self) -> random.Random:
        return random.Random(f"{self.seed}:{self.kind}:{self.number}")


# --- the real thing, made once -------------------------------------------------------------------


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


_ANSWERS: dict[str, str] = {}


# --- one case ------------------------------------------------------------------------------------


def card_case(case: Case, target: Path, say: Callable[[str], None]) -> tuple[str, str]:
    """A card from a real one, by its text or by its keys."""
    import fuzz_targets as targets

    from matteratlas.registry import catalog
    from matteratlas.schemas.cards import ModelCard, StructureSetCard, read_card
    from matteratlas.schemas.environments import EnvironmentCard
    from matteratlas.schemas.errors import AtlasError

    rng, here = case.rng, Path(catalog.__file__).parent
    paths = sorted([*here.glob("models/*/*.yaml"), *here.glob("structure_sets/*.yaml"),
                    *here.glob("environments/*.yaml")])  # fmt: skip
    path = rng.choice(paths)
    kinds = {"structure_sets": StructureSetCard, "environments": EnvironmentCard}
    kind: Any = kinds.get(path.parent.name, ModelCard)
    data = path.read_bytes()
    if case.kind == "card text":
        for _ in range(rng.choice([1, 1, 3])):
            data = _yaml_changed(data, rng, target.parent)
        what = "text"
    else:
        doc, marks = yaml.safe_load(data), dict[str, str]()
        what = hostile.mutate(doc, rng, target.parent, marks)
        found = yaml.safe_dump(doc, sort_keys=False, allow_unicode=True, width=10_000)
        for mark, raw in marks.items():
            found = found.replace(f"'{mark}'", raw)
        data = found.encode("utf-8", "surrogatepass")
    file = target / path.name
    file.write_bytes(data)
    say(f"read_card {path.stem}: {what}")
    try:
        card = read_card(file, kind)
    except AtlasError as error:
        targets.lines([str(error)])
        return "refused", str(error)
    say(f"use of {path.stem}: {what}")
    again = kind.model_validate(json.loads(card.model_dump_json()))
    if again != card:
        raise targets.WrongError("a card that is another when read again")
    if any(c in str(card) for c in "\x00\x1b\u202e\u200b"):
        raise targets.WrongError("control characters in a card")
    if kind is ModelCard:
        table = catalog.models_table([card])
    elif kind is StructureSetCard:
        table = catalog.sets_table([card])
    else:
        return "accepted, valid", what
    return ("accepted, valid" if len(table) else "wrong answer"), what


def _yaml_changed(data: bytes, rng: random.Random, arena: Path) -> bytes:
    lines = data.decode("utf-8", "replace").split("\n")
    at = rng.randrange(len(lines))
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    kind = rng.randrange(7)
    if kind == 0:
        return hostile.bytes_changed(data, rng)
    if kind == 1:
        key = lines[at].partition(":")[0]
        new = (
            rng.choice(
                [
                    "!!python/object/apply:os.system ['touch {arena}/victim.txt']",
                    "!!python/name:os.system",
                    "!!python/object/new:type [x, [], {{}}]",
                    "!!binary aGVsbG8=",
                    "!!set {{a, b}}",
                    "&x [*x]",
                    "*nowhere",
                    "!<tag:yaml.org,2002:python/module:os> x",
                    "2001-01-01",
                    "1:2:3:4",
                    ".inf",
                    ".nan",
                    "0o777",
                    "0x" + "f" * 5000,
                    "9" * 5000,
                    "[" * 5000,
                    "{{" * 3000,
                    "? [a]",
                    "<<: {{a: b}}",
                    "yes",
                    "~",
                    "'\\u202e'",
                    '"\\x00"',
                    '"\\ud800"',
                    "|\n  " + "x" * 100_000,
                    "- " * 5000 + "a",
                    "=",
                    "<<",
                ]
            )
            .replace("{arena}", str(arena))
            .replace("{{", "{")
            .replace("}}", "}")
        )
        lines[at] = f"{key}: {new}"
    elif kind == 2:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif kind == 3:
        lines[at] = lines[at] + hostile.text(rng, arena)
    elif kind == 4:
        lines = [*bomb.split("\n"), *lines] if rng.random() < 0.5 else [*lines, "---", *lines]
    elif kind == 5:
        lines += [f"k{i}: {i}" for i in range(rng.choice([100, 5000, 50_000]))]
    else:
        lines[at] = "  " * rng.choice([1, 9, 2000]) + lines[at]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def store_case(case: Case, target: Path, say: Callable[[str], None]) -> tuple[str, str]:
    """An atlas or release with one thing changed, read and written in all ways."""
    import fuzz_targets as targets

    from matteratlas.schemas.errors import AtlasError

    rng = case.rng
    released = case.kind == "manifest" or rng.random() < 0.4
    base = targets.BASE[0] / ("releases/1.0.0" if released else "atlas")
    forged = hostile.Forgery(base, target.parent, rng)
    what = hostile.FORGERIES[case.kind](forged)
    root = target / "atlas"
    asked = [*targets.READS[case.kind]]
    if rng.random() < (0.15 if case.kind == "manifest" else 0.6):
        asked += rng.choices([*targets.OTHERS], [*targets.OTHERS.values()])
    elif case.kind == "manifest":
        asked = [targets.listed]
    forged.write(root, alone="manifest.parquet" if asked == [targets.listed] else None)
    refusals, changed = [], False
    for ask in asked:
        say(f"{ask.__name__}: {what}")
        try:
            answer = ask(root)
        except AtlasError as error:
            targets.lines([str(error)])
            refusals.append(f"{ask.__name__}: {error}")
            continue
        if answer.endswith("faults"):
            refusals.append(f"{ask.__name__}: faults")
        elif answer != _ANSWERS.get(f"{base.name} {ask.__name__}", answer):
            changed = True
            if not forged.resealed and ask in targets.ANSWERING:
                raise targets.WrongError(f"{ask.__name__}: other data under hashes that do not fit")
    if refusals:
        return "refused", refusals[0]
    return ("accepted, valid" if changed else "accepted, equal"), what


# --- processes -----------------------------------------------------------------------------------


def worker(pipe: Connection, base: Path, arena: Path) -> None:
    """Run cases as they come; says each operation before it begins."""
    import fuzz_targets as targets

    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    targets.BASE[0] = base
    os.chdir(arena / "outside")
    for released in (False, True):
        root = base / ("releases/1.0.0" if released else "atlas")
        for ask in targets.ANSWERING:
            _ANSWERS[f"{root.name} {ask.__name__}"] = ask(root)
    pipe.send(("ready", ""))
    target = arena / "case"
    while True:
        case = pipe.recv()
        if case is None:
            return
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        say = lambda text: pipe.send(("begins", text))  # noqa: E731
        try:
            run = card_case if case.kind.startswith("card") else store_case
            outcome = run(case, target, say)
        except targets.WrongError as error:
            outcome = ("wrong answer", str(error))
        except Exception as error:
            import traceback

            last = traceback.extract_tb(error.__traceback__)
            own = [f for f in last if "matteratlas" in f.filename or "/registry/" in f.filename
                   or "/builders/" in f.filename or "/analysis/" in f.filename
                   or "/schemas/" in f.filename]  # fmt: skip
            at = own[-1] if own else last[-1]
            text = " ".join(f"{type(error).__name__}: {error}".split())[:140]
            outcome = ("crash", f"{text} at {Path(at.filename).name}:{at.lineno}")
        pipe.send(("done", outcome))


class Runner:
    """One worker process, its arena, and the clock over it."""

    def __init__(self, base: Path, arena: Path) -> None:
        self.base, self.arena = base, arena
        (arena / "outside").mkdir(parents=True)
        (arena / "victim.txt").write_text("victim")
        (arena / "victim.parquet").write_text("victim")
        (arena / "outside" / "keep.parquet").write_text("keep")
        (arena / "outside" / "zarr.json").write_text("{}")
        (arena / "outside" / ".a.1.part").write_text("part")
        self.around = self._around()
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=worker, args=(theirs, self.base, self.arena))
        self.process.start()
        theirs.close()
        if not self.pipe.poll(120) or self.pipe.recv()[0] != "ready":
            raise RuntimeError("a worker does not start")

    def _around(self) -> list[Any]:
        """All outside the target: this arena, and the real atlas the links lead to."""
        out: list[Any] = []
        for top in (self.arena, self.base):
            for folder, folders, names in os.walk(top):
                if top is self.arena and folder == str(top):
                    folders[:] = [f for f in folders if f != "case"]
                for name in sorted(names):
                    stat = (Path(folder) / name).lstat()
                    out.append((folder, name, stat.st_size, stat.st_mtime_ns))
                out.append((folder, sorted(folders)))
        return sorted(map(repr, out))

    def _spent(self) -> np.ndarray:
        """Seconds of processor and wall so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return np.array([cpu, time.monotonic()])

    def give(self, case: Case) -> None:
        self.case, self.doing, self.begun = case, "mutation", (*self._spent(), 10.0, 60.0)
        self.pipe.send(case)

    def look(self) -> tuple[str, str] | None:
        """The outcome of the case, once there is one."""
        outcome: tuple[str, str] | None = None
        try:
            while self.pipe.poll(0):
                word, said = self.pipe.recv()
                if word == "begins":
                    self.doing, self.begun = said, self._spent()
                else:
                    outcome = said
        except (EOFError, ConnectionResetError):
            self.process.join()
            outcome = ("crash", f"process died ({self.process.exitcode}) in {self.doing}")
            self.start()
        cpu, wall = self._spent() - self.begun if outcome is None else (0.0, 0.0)
        # The clock of the process: on a busy machine the wall's says nothing. But who sleeps hangs.
        if cpu > LIMIT_SECONDS or wall > 15 * LIMIT_SECONDS:
            outcome = ("hang", self.doing)
            self.process.kill()
            self.process.join()
            self.start()
        if outcome is not None:
            now = self._around()
            if now != self.around:
                odd = sorted(set(now) ^ set(self.around))[0]
                outcome = ("escape", f"{odd} in {self.doing}")
                self.around = now
        return outcome

    def stop(self) -> None:
        self.pipe.send(None)
        self.process.join(5)
        self.process.kill()


def cases(count: int, seed: int, kinds: list[str]) -> Iterator[Case]:
    """So many cases, each kind its share."""
    whole = sum(SHARES[k] for k in kinds)
    for kind in kinds:
        for number in range(-(-count * SHARES[kind] // whole)):
            yield Case(kind, number, seed)


def run(
    base: Path, folder: Path, todo: list[Case], *, processes: int = 2
) -> list[tuple[Case, tuple[str, str]]]:
    """Every case with its outcome; hangs are tried once more, alone on their worker."""
    import fuzz_targets  # noqa: F401  what workers need, so that they have it when they fork

    runners = [Runner(base, folder / f"arena{i}") for i in range(processes)]
    queue, found, tried = list(reversed(todo)), [], set[Case]()
    busy: list[Runner] = []
    for runner in runners:
        if queue:
            runner.give(queue.pop())
            busy.append(runner)
    last = time.monotonic()
    while busy:
        wait([r.pipe for r in busy], timeout=0.1)
        for runner in list(busy):
            outcome = runner.look()
            if outcome is None:
                continue
            if outcome[0] == "hang" and runner.case not in tried:
                tried.add(runner.case)  # the machine may have been busy
                runner.give(runner.case)
                continue
            found.append((runner.case, outcome))
            if queue:
                runner.give(queue.pop())
            else:
                busy.remove(runner)
        if time.monotonic() - last > 20:
            last = time.monotonic()
            print(f"{len(found)} of {len(todo)}", file=sys.stderr, flush=True)
    for runner in runners:
        runner.stop()
    return found


def table(found: list[tuple[Case, tuple[str, str]]]) -> str:
    """Counts by kind and outcome."""
    lines = [
        "| kind | cases | " + " | ".join(OUTCOMES) + " |",
        "|---|" + "---:|" * (1 + len(OUTCOMES)),
    ]
    kinds = [*dict.fromkeys(case.kind for case, _ in found)]
    for kind in [*kinds, "all"]:
        mine = Counter(o for c, (o, _) in found if kind in (c.kind, "all"))
        counts = [f"{sum(mine.values()):,}", *(f"{mine[o]:,}" for o in OUTCOMES)]
        lines.append(f"| {kind} | " + " | ".join(counts) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kinds", nargs="*", choices=list(SHARES), default=list(SHARES))
    parser.add_argument("--base", type=Path, help="where the real atlas is, or is made")
    parser.add_argument("--show", type=int, default=1, help="refusals shown of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        base = options.base or Path(scratch) / "base"
        if not (base / "releases").exists():
            # In a process of its own: threads do not survive the forks of the workers.
            maker = multiprocessing.get_context("spawn").Process(target=make, args=(base,))
            maker.start()
            maker.join()
        todo = list(cases(options.cases, options.seed, options.kinds))
        random.Random(options.seed).shuffle(todo)
        begun = time.monotonic()
        found = run(base, Path(scratch), todo, processes=options.processes)
    print(table(found))
    print(f"\n{len(found):,} cases, seed {options.seed}, {time.monotonic() - begun:.0f} s")
    shown: Counter[str] = Counter()
    for case, (outcome, said) in found:
        if outcome in BAD or (outcome == "refused" and shown[case.kind] < options.show):
            shown[case.kind] += outcome == "refused"
            print(f"{outcome}: {case.kind} {case.number}: {said}"[:400])
    return int(any(outcome in BAD for _, (outcome, _) in found))


if __name__ == "__main__":
    sys.exit(main())
