# SPDX-License-Identifier: Apache-2.0
"""kill -9 a build, a hundred times at random and once before every step it takes in the tree.

    python benchmarks/kills.py --kills 100 --seed 0

Builds real models on real sets in a process of its own, kills it, validates what is left (deep),
lets the next build resume it, and so on until it is complete; then every byte must be the one of a
build that nobody killed (locks, staging and costs apart). One kill in five hits a build with two
worker processes, as a whole or one worker of it. The second table kills before each single step
that changes the tree outside the staging folder: renames, removals, new folders.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from matteratlas.registry import catalog
from matteratlas.registry.index import PENDING
from matteratlas.registry.validate import validate
from matteratlas.schemas.archive import ATLAS_FILE, LOCK, RUNS, STAGING

MODELS = (
    "chgnet-0.3.0", "soap", "acsf", "magpie", "mat2vec", "skipatom", "morgan", "maccs",
    "random-128",
)  # fmt: skip
SETS = ("elements", "g2")

catalog.models(), catalog.structure_sets()  # read once, here and for all children
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__, "matteratlas.builders.build", "zarr", "pyarrow.parquet"])


@cache
def _ready() -> None:
    """Start the server that children fork from: it has imported the package, and runs nothing."""
    path = os.environ.get("PYTHONPATH")
    own = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = own if path is None else f"{own}{os.pathsep}{path}"
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if path is not None:
            os.environ["PYTHONPATH"] = path


@dataclass(frozen=True)
class Job:
    """One build: what it embeds, and how."""

    models: tuple[str, ...] = MODELS
    sets: tuple[str, ...] = SETS
    selection: str = "starter"
    resume: bool = True
    workers: int = 0

    def __call__(self, root: Path) -> None:
        from matteratlas.builders.build import build

        report = build(
            root,
            models=self.models,
            sets=self.sets,
            selection=self.selection,  # type: ignore[arg-type]
            resume=self.resume,
            workers=self.workers,
        )
        if report.failed:
            unit = report.failed[0]
            sys.exit(f"{unit.model} on {unit.set}: {unit.error}")


@dataclass(frozen=True)
class Merge:
    """One merge of these atlases."""

    sources: tuple[Path, ...]

    def __call__(self, root: Path) -> None:
        from matteratlas.builders.merge import merge

        merge(root, self.sources)


Work = Callable[[Path], None]


#: Calls that change a tree.
STEPS = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir")


def run(
    root: Path,
    job: Work,
    *,
    kill_at: int | None = None,
    count: Any = None,
    calls: Sequence[str] = STEPS,
) -> None:
    """Do the job in this process; SIGKILL it before its ``kill_at``-th step in the tree."""
    import warnings

    from matteratlas.builders.embed import set_threads

    warnings.simplefilter("ignore")
    os.setsid()
    set_threads(1)
    if kill_at is not None or count is not None:
        _watch_steps(Path(root), kill_at, count, calls)
    job(root)


def _watch_steps(root: Path, kill_at: int | None, count: Any, calls: Sequence[str]) -> None:
    """Count every call that changes the tree outside staging; die before the one asked for."""
    done = 0

    def outside_staging(path: Any) -> bool:
        place = Path(os.fspath(path)).absolute()
        return place.is_relative_to(root) and STAGING not in place.relative_to(root).parts

    def watched(name: str) -> None:
        real = getattr(os, name)

        def step(*args: Any, **options: Any) -> Any:
            nonlocal done
            paths = [a for a in args[:2] if isinstance(a, (str, os.PathLike))]
            if any(outside_staging(p) for p in paths):
                done += 1
                if done == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                if count is not None:
                    count.value = done
            return real(*args, **options)

        setattr(os, name, step)

    for name in calls:
        watched(name)


def child(root: Path, job: Work, **options: Any) -> Any:
    """A started build in a process of its own, which leads its own process group."""
    _ready()
    process = _context.Process(target=run, args=(root, job), kwargs=options)
    process.start()
    return process


def complete(root: Path, job: Work) -> None:
    """Let a build run to its end.

    Raises
    ------
    RuntimeError
        It failed.
    """
    process = child(root, job)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the build of {root.name} ended with {process.exitcode}")


def steps_of(root: Path, job: Work, *, calls: Sequence[str] = STEPS) -> int:
    """Steps a build takes in the tree; it runs to its end."""
    count = _context.Value("i", 0)
    process = child(root, job, count=count, calls=calls)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the build of {root.name} ended with {process.exitcode}")
    return int(count.value)


def tree(root: Path) -> dict[str, str]:
    """SHA-256 of every file but locks, staging and costs."""
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.relative_to(root).parts[0] not in (LOCK, STAGING, RUNS)
    }


def differences(root: Path, reference: dict[str, str]) -> list[str]:
    """Files that are not those of the reference."""
    found = tree(root)
    return sorted(p for p in found.keys() | reference if found.get(p) != reference.get(p))


def faults(root: Path) -> list[str]:
    """What a deep validation has against the folder; nothing where there is no atlas yet."""
    if not (root / ATLAS_FILE).exists():
        return [f"{p}: before there is an atlas" for p in tree(root) if not p.endswith(".part")]
    return validate(root, deep=True).faults


def phase(root: Path) -> str:
    """What a killed build was doing, by what it left."""
    if not (root / ATLAS_FILE).exists():
        return "starting"
    if PENDING in json.loads((root / ATLAS_FILE).read_bytes()):
        return "moving files"
    builders = list((root / STAGING).glob("builder-*"))
    if not builders:
        return "starting" if not any(root.glob("structures/*")) else "between or after"
    if any(b.glob("*/unit/**/zarr.json") for b in builders if list(b.glob("*/unit"))):
        return "writing a unit"
    if any(list(b.glob("*/*.pooled")) for b in builders):
        return "embedding"
    return "loading sets" if not any(root.glob("structures/*")) else "between units"


@dataclass
class Tally:
    """Kills by (how, phase), and what was wrong after them."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    archives: int = 0

    def table(self) -> str:
        lines = [f"{'killed':22} {'while':18} {'kills':>6}"]
        for (how, what), n in sorted(self.kills.items()):
            lines.append(f"{how:22} {what:18} {n:6d}")
        lines.append(
            f"{sum(self.kills.values())} kills, {self.archives} archives completed, "
            f"{len(self.wrong)} faults or differing bytes"
        )
        return "\n".join(lines + self.wrong[:20])


def random_kills(
    folder: Path, *, kills: int, seed: int, job: Job = Job(), parallel: float = 0.2
) -> Tally:
    """Kill builds at random moments until ``kills`` of them died; see the module."""
    chance = random.Random(seed)
    clock = time.perf_counter()
    complete(folder / "reference", job)
    took = {0: time.perf_counter() - clock}
    reference = tree(folder / "reference")
    tally, number, root = Tally(), 0, folder / "killed-0"
    while sum(tally.kills.values()) < kills or root.exists():
        workers = 2 if chance.random() < parallel else 0
        if workers and workers not in took:
            clock = time.perf_counter()
            complete(folder / "timed", Job(**{**vars(job), "workers": workers}))
            took[workers] = time.perf_counter() - clock
        done = sum(tally.kills.values()) >= kills
        process = child(root, Job(**{**vars(job), "workers": workers}))
        process.join(None if done else chance.uniform(0, took[workers]))
        how = _kill(process, workers, chance) if process.is_alive() else ""
        if how:
            tally.kills[how, phase(root)] += 1
            found = faults(root) if root.exists() else []
            tally.wrong += [f"kill {sum(tally.kills.values())} ({how}): {f}" for f in found]
        if (
            how == "one of two workers"
        ):  # the build stands still while it is looked at, then goes on
            os.killpg(process.pid, signal.SIGCONT)
            process.join()
        if process.exitcode == 0:
            tally.wrong += [f"archive {number}: {f}" for f in faults(root)]
            tally.wrong += [f"archive {number}: {p} differs" for p in differences(root, reference)]
            tally.archives += 1
            shutil.rmtree(root)
            number += 1
            root = folder / f"killed-{number}"
            if sum(tally.kills.values()) >= kills:
                break
    return tally


def _kill(process: Any, workers: int, chance: random.Random) -> str:
    """Kill the build, or stop it and kill one of its workers; says which, "" if it was too late."""
    import psutil

    if workers and chance.random() < 0.5:
        found = [
            c
            for c in psutil.Process(process.pid).children(recursive=True)
            if "spawn_main" in " ".join(_command(c))
        ]
        if found:
            os.killpg(process.pid, signal.SIGSTOP)
            chance.choice(found).kill()
            return "one of two workers"
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # not yet leader of its group
        process.kill()
    process.join()
    if process.exitcode == 0:
        return ""
    return "build and its workers" if workers else "build in one process"


def _command(process: Any) -> list[str]:
    import psutil

    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []


def step_kills(
    folder: Path,
    job: Work,
    *,
    base: Path | None = None,
    calls: Sequence[str] = STEPS,
    only: Callable[[int], bool] = lambda _: True,
    again: Callable[[Path, Work], None] = complete,
) -> Iterator[tuple[int, str, list[str]]]:
    """Kill a job before each of its steps in the tree, starting from a copy of ``base``.

    Parameters
    ----------
    calls :
        What counts as a step.
    only :
        Which steps, by number.
    again :
        Does the job once more on what is left.

    Yields
    ------
    tuple
        Number of the step, what it was, and what was wrong: faults after the kill, faults or
        differing bytes after resuming.
    """
    whole = _fresh(folder / "whole", base)
    steps = steps_of(whole, job, calls=calls)
    reference = tree(whole)
    for number in filter(only, range(1, steps + 1)):
        root = _fresh(folder / "killed", base)
        process = child(root, job, kill_at=number, calls=calls)
        process.join()
        if process.exitcode != -signal.SIGKILL:
            yield number, "", [f"step {number}: the build ended with {process.exitcode}"]
            continue
        what, wrong = phase(root), [f"step {number}: {f}" for f in faults(root)]
        again(root, job)
        wrong += [f"step {number}, resumed: {f}" for f in faults(root)]
        wrong += [f"step {number}, resumed: {p} differs" for p in differences(root, reference)]
        yield number, what, wrong


def _fresh(root: Path, base: Path | None) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    if base is not None:
        shutil.copytree(base, root)
    return root


def scenarios(folder: Path) -> dict[str, tuple[Work, Path | None]]:
    """A new atlas, one that grows in every way, one that a kill left half moved, and a merge."""
    small = Job(models=("mat2vec", "random-128"), sets=("elements",))
    complete(folder / "small", small)
    # The set grows, so both its units are replaced; a model is new.
    grown = Job(models=("morgan", "mat2vec", "random-128"), sets=("elements",), selection="full")
    other = Job(models=("morgan", "mat2vec"), sets=("g2",))
    complete(folder / "other", other)
    found: dict[str, tuple[Work, Path | None]] = {
        "new": (small, None),
        "growing": (grown, folder / "small"),
        "made anew": (Job(**{**vars(small), "resume": False}), folder / "small"),
        "merging": (Merge((folder / "small", folder / "other")), None),
    }
    for number in range(1, 200):
        root = _fresh(folder / f"left-{number}", folder / "small")
        process = child(root, grown, kill_at=number)
        process.join()
        units = list(root.glob("embeddings.zarr/*/*/zarr.json"))
        if len(units) < 2 and phase(root) == "moving files":
            # Its old unit is away and its new one not there: settling has most to do.
            found["settling"] = (grown, root)
            return found
    raise RuntimeError("no step leaves a unit half replaced")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        clock = time.perf_counter()
        tally = random_kills(Path(scratch), kills=args.kills, seed=args.seed)
        wrong += len(tally.wrong)
        print(tally.table(), f"\n{time.perf_counter() - clock:.0f} s\n", flush=True)
        print(f"{'before each step of':24} {'steps':>6} {'moving':>7} {'wrong':>6}", flush=True)
        (Path(scratch) / "steps").mkdir()
        for name, (job, base) in scenarios(Path(scratch) / "steps").items():
            found = list(step_kills(Path(scratch) / "steps", job, base=base))
            bad = [line for _, _, lines in found for line in lines]
            moving = sum(what == "moving files" for _, what, _ in found)
            print(f"{name:24} {len(found):6d} {moving:7d} {len(bad):6d}", *bad[:20], sep="\n  "[:1])
            wrong += len(bad)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
