# SPDX-License-Identifier: Apache-2.0
"""Run scoring tasks here or on a Dask cluster; what is done is on disk and never done again.

Tasks with many rows are cut further by the engine. Every part is a file that stands for its
selections, rows and settings: a worker or a whole run that is killed loses what it was doing only.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..registry.archive import open_atlas
from .charts import ChartReader, Layers
from .choices import Settings as Choices
from .engine.job import Job
from .engine.results import as_dataset
from .engine.run import run
from .engine.store import FolderStore
from .metrics import CARDS, METRICS
from .pairwise import ENGINE_ROWS, available_threads
from .scoring import Part, Scored, Settings, Shape, Task, exchangeable, put_together, score_task

if TYPE_CHECKING:
    from dask.distributed import Client

    from ..schemas.progress import Reporter

#: Folder inside the atlas for what an analysis has done so far; gone when it is through.
WORK = ".analysis"


@dataclass(frozen=True)
class Place:
    """An atlas folder and how its charts are read; the same on every machine that takes part."""

    root: str
    layers: Layers
    fingerprint: str

    @property
    def folder(self) -> Path:
        """Where the parts of this analysis lie."""
        return Path(self.root) / WORK / self.fingerprint[:16]

    def clear(self, *, others: bool = False) -> None:
        """Remove the parts: of this analysis, or of those before it."""
        work = Path(self.root) / WORK
        for folder in work.glob("*"):
            if (folder != self.folder) == others:
                shutil.rmtree(folder, ignore_errors=True)
        if work.is_dir() and not any(work.iterdir()):
            work.rmdir()


@dataclass(frozen=True)
class ArchiveSource:
    """Vectors of some charts on some structures, read from the atlas where they are needed."""

    place: Place
    charts: tuple[str, ...]
    ids: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Chart keys."""
        return self.charts

    @property
    def rows(self) -> int:
        """Number of structures."""
        return len(self.ids)

    @cached_property
    def fingerprint(self) -> str:
        """Of the archive's content, the charts and the ids."""
        content = [self.place.fingerprint, self.place.layers, self.charts, self.ids]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def read(self, name: str) -> NDArray[Any]:
        """One chart's vectors, float32 (rows, features)."""
        return _reader(self.place).rows(name, self.ids)


@lru_cache(maxsize=2)
def _reader(place: Place) -> ChartReader:
    return ChartReader(open_atlas(place.root), layers=place.layers)


def run_tasks(
    tasks: Sequence[Task],
    place: Place,
    settings: Settings,
    *,
    client: Client | None,
    said: Reporter,
    done: Callable[[Task], None],
) -> Iterator[Scored]:
    """Score tasks, in any order: on a cluster, else in this process."""
    left = []
    for task in tasks:
        kept = _load(_path(task, place, settings))
        if kept is None:
            left.append(task)
        else:
            done(task)
            yield kept
    small = [task for task in left if task.selections[0].n <= ENGINE_ROWS]
    for task in _small(small, place, settings, client):
        found = _load(_path(task, place, settings))
        assert found is not None
        done(task)
        yield found
    for task in left:
        if task.selections[0].n > ENGINE_ROWS:
            scored = _large(task, place, settings, client, said)
            _save(scored, _path(task, place, settings))
            done(task)
            yield scored


def _small(
    tasks: Sequence[Task], place: Place, settings: Settings, client: Client | None
) -> Iterator[Task]:
    if client is None:
        for task in tasks:
            yield _score(task, place=place, settings=settings)
        return
    from dask.distributed import as_completed

    futures = client.map(_score, list(tasks), place=place, settings=settings, pure=False, retries=2)
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        client.cancel(futures)


def _score(task: Task, *, place: Place, settings: Settings) -> Task:
    """Score one task where its rows are read, and leave the part."""
    reader, needed = _reader(place), set(task.charts)
    ids = task.selections[0].ids
    # In registry order, whatever order selections name them in.
    data = {key: reader.rows(key, ids) for key in reader.charts if key in needed}
    groups = exchangeable(reader.structures, ids, settings.within)
    _save(score_task(task, data, settings, groups), _path(task, place, settings))
    return task


def _large(
    task: Task, place: Place, settings: Settings, client: Client | None, said: Reporter
) -> Scored:
    reader, needed = _reader(place), set(task.charts)
    ids = task.selections[0].ids
    shapes = {key: Shape.of(reader.rows(key, ids)) for key in reader.charts if key in needed}
    kept = tuple(key for key, shape in shapes.items() if shape.distinct >= settings.k + 2)
    if not kept:
        return put_together(task, None, shapes, settings)
    choices = Choices(
        {name: CARDS[name].normalise for name in METRICS if name in task.metrics},
        k=settings.k,
        permutations=settings.permutations,
        seed=settings.seed,
    )
    groups = exchangeable(reader.structures, ids, settings.within)
    job = Job(ArchiveSource(place, kept, ids), choices, groups)
    store = FolderStore(place.folder / job.fingerprint[:16])
    run(job, store, threads=available_threads(), client=client, reporter=said)
    scored = put_together(task, as_dataset(job, store), shapes, settings)
    shutil.rmtree(store.root)
    return scored


def _path(task: Task, place: Place, settings: Settings) -> Path:
    content = {
        "selections": [[s.name, s.sha256, s.role, s.models, s.pairs] for s in task.selections],
        "ids": hashlib.sha256("\n".join(task.selections[0].ids).encode()).hexdigest(),
        "metrics": task.metrics,
        "settings": asdict(settings),
    }
    name = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return place.folder / f"part-{name[:32]}.json"


def _save(scored: Scored, path: Path) -> None:
    """Whole or not at all; parts of the same task are equal."""

    def listed(parts: Sequence[Part]) -> list[dict[str, Any]]:
        return [
            {**asdict(p), "columns": {k: v.tolist() for k, v in p.columns.items()}} for p in parts
        ]

    content = {
        "pairs": listed(scored.pairs), "models": listed(scored.models),
        "excluded": scored.excluded,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.with_suffix(f".{uuid.uuid4().hex}")
    stage.write_text(json.dumps(content))
    stage.replace(path)


def _load(path: Path) -> Scored | None:
    """A part; None if it is not there or not whole."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None

    def parts(listed: list[dict[str, Any]]) -> list[Part]:
        return [
            Part(
                p["selection"], p["metric"], p["normalise"], tuple(p["charts"]),
                {k: np.array(v, dtype=float) for k, v in p["columns"].items()}, p["within"],
            )
            for p in listed
        ]  # fmt: skip

    return Scored(parts(content["pairs"]), parts(content["models"]), content["excluded"])
