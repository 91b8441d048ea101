# SPDX-License-Identifier: Apache-2.0
"""Pull, push and lazy reading of a Hub that misbehaves: what becomes of each, by kind of fault.

    python benchmarks/hub_faults.py --runs 300 --seed 0

The real clients speak to a Hub on loopback. Each run has a seed, which draws the fault (connections
that are cut or refused, 429 and 5xx, short, wrong and replaced bytes, slow and stalled answers),
the requests it strikes, how often, and the job. It must end in success or in one line of refusal;
what is then in the folder, in the cache and on the Hub must be right or absent, and the same job
without the fault must finish what the first one began.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
from servers import faults
from servers.faults import Fault
from servers.http_base import Request
from servers.hub import HubServer
from servers.hub_client import connected

from matteratlas.registry import hub as network
from matteratlas.registry import hub_push
from matteratlas.registry import pull as pulling
from matteratlas.registry.archive import open_atlas
from matteratlas.registry.manifest import read_manifest
from matteratlas.registry.pull import pull
from matteratlas.registry.push import push
from matteratlas.registry.validate import validate
from matteratlas.schemas.errors import AtlasError

DATASET = "matter/atlas"
TOKEN = "hf_secret_of_the_loopback"
JOBS = ("pull all", "pull part", "pull layer", "read", "push")
#: Requests a fault strikes: method and path.
PLACES: tuple[tuple[str | None, str], ...] = (
    (None, "*"),
    ("GET", "*/resolve/*"),
    ("GET", "*/cdn/*"),
    ("GET", "*.parquet"),
    ("GET", "*zarr.json"),
    ("GET", "*atlas.json"),
    ("GET", "/api/datasets/*"),
    ("POST", "*"),
    ("PUT", "*"),
)
#: Seconds without a byte after which a read is given up here (a minute for users).
STALL = 0.3
BLOCK = 8192


def draw_fault(rng: random.Random) -> Fault:
    """Any of the ways a server goes wrong."""
    at = rng.choice([0, 1, 17, rng.randrange(40_000)])
    return rng.choice(
        [
            faults.cut(at), faults.truncate(at), faults.shorten(at), faults.refuse(),
            faults.fail(rng.choice([500, 502, 503, 504])), faults.fail(403), faults.fail(404),
            faults.rate_limit(rng.choice([0, 1, 40, 280, 900])),
            faults.corrupt(rng.randrange(-40_000, 40_000), 1 << rng.randrange(8)),
            faults.replace(rng.choice([b"", b"<html>", b"{}", b"[]", bytes(rng.randrange(9000))])),
            faults.drip(0.002, 4096), faults.slow(0.02), faults.slow(2 * STALL),
        ]
    )  # fmt: skip


@dataclass
class Run:
    """One run and what became of it."""

    seed: int
    job: str
    fault: str
    struck: int
    outcome: str  #: success, refused, or wrong
    said: str = ""


@contextmanager
def hurried() -> Iterator[None]:
    """No pauses, small blocks, short patience: what is waited for is not what is tested."""
    from huggingface_hub.utils import _http

    still = SimpleNamespace(sleep=lambda _: None)
    with (
        patch.object(network, "time", still),
        patch.object(hub_push, "time", still),
        patch.object(_http, "time", still),
        patch.object(network, "READ_TIMEOUT", STALL),
        patch.object(pulling, "BLOCK", BLOCK),
    ):
        yield


class Bench:
    """A dataset with a release, another release to push onto it, and what each should give.

    Parameters
    ----------
    first, second :
        Release folders; the second grew from the first.
    models :
        A model and one of its sets, with the layer pulled alone.
    """

    def __init__(
        self, folder: Path, first: Path, second: Path, *, part: tuple[str, str, str]
    ) -> None:
        self.folder, self.first, self.second = folder, first, second
        model, set_id, layer = part
        self.selections: dict[str, dict[str, Any]] = {
            "pull all": {},
            "pull part": {"models": [model], "sets": [set_id]},
            "pull layer": {"models": [model], "sets": [set_id], "layers": [layer]},
        }
        self.part = part
        self.tag = f"v{read_manifest(first).version}"
        self.expected: dict[str, dict[str, bytes]] = {}
        with self.hub() as hub:
            self.found = hub.objects._held.copy(), hub.repo(DATASET)
            self.state = dict(self.found[1].refs), dict(self.found[1].commits)
            for job, selection in self.selections.items():
                out = folder / job.replace(" ", "-")
                pull(f"{DATASET}@{self.tag}", out=out, **selection)
                assert validate(out, deep=True).ok
                self.expected[job] = tree(out)
            self.values = self.read(folder / "cache-0")

    @contextmanager
    def hub(self) -> Iterator[HubServer]:
        """A Hub with the first release, the same commit each time."""
        with (
            HubServer() as hub,
            connected(hub, home=self.folder / "hf-home", token=TOKEN),
            hurried(),
        ):
            if hasattr(self, "state"):
                objects, repo = self.found
                hub.objects._held = objects.copy()
                repo.refs, repo.commits = (kept.copy() for kept in self.state)
                hub.repos["dataset", DATASET] = repo
            else:
                hub.create(DATASET, tree(self.first))
                repo = hub.repo(DATASET)
                repo.refs[f"refs/tags/{self.tag}"] = hub.head(DATASET)
            yield hub

    def read(self, cache: Path) -> Any:
        """A model's vectors, read lazily."""
        model, set_id, _ = self.part
        atlas = open_atlas(f"hf://datasets/{DATASET}@{self.tag}", cache=cache)
        return np.asarray(atlas.embeddings(model, sets=[set_id]).values)

    def run(self, seed: int) -> Run:
        """One run by its seed."""
        rng = random.Random(seed)
        job, fault = rng.choice(JOBS), draw_fault(rng)
        # Half of the pushes and pulls are struck where they work, not just anywhere.
        method, path = rng.choice(PLACES[:7] if job != "push" else PLACES)
        skip = rng.choice([0, 0, 1, 3, 10])
        times = rng.choice([1, 2, 4, 7, None])
        if fault.delay > STALL:  # each costs its time
            times = rng.choice([1, 5])
        with self.hub() as hub:
            folder = self.folder / f"run-{seed}"
            plan = faults.plan(fault, method=method, path=path, skip=skip, times=times)
            struck: list[Request] = []

            def planned(request: Request) -> Fault | None:
                found = plan(request)
                struck.extend([request] if found else [])
                return found

            found = Run(seed, job, fault.name, 0, "success")
            try:
                with quietly():
                    hub.fault = planned
                    self.attempt(found, job, folder, hub)
                    hub.fault = None
                    found.struck = len(struck)
                    self.finish(found, job, folder, hub)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        return found

    def attempt(self, run: Run, job: str, folder: Path, hub: HubServer) -> None:
        """The job, with the fault."""
        try:
            self.work(run, job, folder, hub)
        except AtlasError as error:
            run.outcome, run.said = "refused", str(error)
            if "\n" in run.said or TOKEN in run.said or "Signature=" in run.said:
                run.outcome = "wrong"
        except Exception as error:
            run.outcome, run.said = "wrong", f"{type(error).__name__}: {error}"
        self.check_no_harm(run, job, folder, hub)

    def work(self, run: Run, job: str, folder: Path, hub: HubServer) -> None:
        """The job; its result must be right."""
        if job == "read":
            good = np.array_equal(self.read(folder), self.values, equal_nan=True)
        elif job == "push":
            push(self.second, DATASET)
            tag = f"v{read_manifest(self.second).version}"
            good = self.released(hub, tag)
        else:
            pull(f"{DATASET}@{self.tag}", out=folder, **self.selections[job])
            good = tree(folder) == self.expected[job]
        if not good:
            run.outcome, run.said = "wrong", "done, but not what was asked for"

    def released(self, hub: HubServer, revision: str) -> bool:
        """Whether the Hub holds the second release there, and its tag where asked for."""
        if hub.repo(DATASET).ref_of(revision) is None:
            return False
        files = hub.files(DATASET, revision)
        files.pop(".gitattributes")
        return files == tree(self.second)

    def check_no_harm(self, run: Run, job: str, folder: Path, hub: HubServer) -> None:
        """Nothing wrong is left where a reader looks."""
        if job == "push":
            files = hub.files(DATASET, "main")
            files.pop(".gitattributes")
            if files not in (tree(self.first), tree(self.second)):
                run.outcome, run.said = "wrong", "main holds neither release"
        elif job != "read" and folder.exists():
            found = {p: d for p, d in tree(folder).items() if p.split("/")[0][0] != "."}
            expected = self.expected[job]
            bad = [p for p, data in found.items() if expected.get(p) != data]
            if bad or ("atlas.json" in found and found != expected):
                run.outcome, run.said = "wrong", f"left behind: {bad or 'an index without files'}"

    def finish(self, run: Run, job: str, folder: Path, hub: HubServer) -> None:
        """The same job without the fault finishes."""
        second = Run(run.seed, job, "none", 0, "success")
        try:
            self.work(second, job, folder, hub)
        except Exception as error:
            second.outcome, second.said = "wrong", f"{type(error).__name__}: {error}"
        if second.outcome != "success":
            run.outcome, run.said = "wrong", f"afterwards: {second.said} (first: {run.said})"


@contextmanager
def quietly() -> Iterator[None]:
    """The client tells of every try on its logger."""
    import logging

    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    logging.getLogger("matteratlas").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
        logging.getLogger("matteratlas").setLevel(logging.NOTSET)


def tree(root: Path) -> dict[str, bytes]:
    """Every file of a folder by path."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def make(folder: Path) -> tuple[Path, Path]:
    """Two releases of real models: the second adds a model."""
    from matteratlas.builders.build import build
    from matteratlas.builders.release import release

    atlas = folder / "atlas"
    made = []
    for models in (["chgnet-0.3.0", "mat2vec"], ["chgnet-0.3.0", "mat2vec", "magpie"]):
        report = build(atlas, models=models, sets=["g2", "elements"], workers=0)
        assert not report.failed, report.failed
        made.append(release(atlas, out=folder / "releases").path)
    return made[0], made[1]


def table(runs: list[Run]) -> str:
    """Outcomes by job and by fault."""
    lines = [f"{'':16} {'runs':>5} {'struck':>6} {'success':>8} {'refused':>8} {'wrong':>6}"]
    keys: list[Callable[[Run], str]] = [lambda r: r.job, lambda r: r.fault]
    for key in keys:
        for name in sorted({key(r) for r in runs}):
            mine = [r for r in runs if key(r) == name]
            count = Counter(r.outcome for r in mine)
            lines.append(
                f"{name:16} {len(mine):5} {sum(r.struck > 0 for r in mine):6} "
                f"{count['success']:8} {count['refused']:8} {count['wrong']:6}"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first run; the next has one more"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        first, second = make(folder)
        bench = Bench(folder, first, second, part=("chgnet-0.3.0", "elements", "conv_4"))
        runs = []
        for seed in range(args.seed, args.seed + args.runs):
            runs.append(bench.run(seed))
            if runs[-1].outcome == "wrong":
                print(runs[-1], flush=True)
        print(table(runs))
        said = Counter(r.said.split("; ")[-1][:60] for r in runs if r.outcome == "refused")
        print(
            "mends of the refusals:", *(f"{n:4} {text}" for text, n in said.most_common()), sep="\n"
        )
    sys.exit(1 if any(r.outcome == "wrong" for r in runs) else 0)


if __name__ == "__main__":
    main()
