# SPDX-License-Identifier: Apache-2.0
"""Embed one model over structure sets: stream rows in, write units out.

Runs in a worker process that holds one loaded model. Rows another unit of the same model already
has (an older version of the set, or a set that shares the structure) are carried over, never
embedded twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from filelock import Timeout

from ..registry.commit import sound_unit, vouched_units
from ..registry.files import Files
from ..registry.index import read_index, read_runs, seal, write_json
from ..registry.parquet import read_arrow
from ..registry.unit import Unit, open_unit
from ..schemas.archive import FORMAT_VERSION, RUNS, STORE, Precision, UnitRecord
from ..schemas.cards import ModelCard, StructureSetCard
from ..schemas.errors import ArchiveError
from ..schemas.structures import Structure, structure_from_row
from .adapters.base import Adapter, Embedded, Missing, load_adapter
from .locking import root_lock, unit_lock
from .writer import UnitWriter

#: Structures read, sorted by size, embedded and written together: bounds memory.
WINDOW = 256

Progress = Callable[[str, str, int], None]


@dataclass(frozen=True)
class UnitReport:
    """What happened to one (model, set)."""

    model: str
    set: str
    outcome: str  # "built", "kept", "failed"
    rows: int = 0
    embedded: int = 0
    missing: dict[str, int] | None = None
    carried: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0
    peak_rss_mb: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Storage:
    """What is stored of a model's answer, and how."""

    keep_nodes: bool = True
    precision: Precision = field(default_factory=Precision)


def unit_fingerprint(
    card: ModelCard, set_card: StructureSetCard, ids: list[str], storage: Storage
) -> str:
    """Hash of everything a unit's rows depend on; equal fingerprints need no rebuild."""
    content = {
        "format": FORMAT_VERSION,
        "model": model_fingerprint(card, storage),
        "set": [set_card.id, set_card.version],
        "ids": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def model_fingerprint(card: ModelCard, storage: Storage) -> str:
    """Hash of what decides a model's stored vectors (prose and reported scores do not).

    Nor does where the model runs: the versions it runs with are the card's ``environment``.
    """
    prose = {
        "notes", "performance", "authors", "paper", "name", "lifecycle", "starter", "licence",
        "training", "isolation",
    }  # fmt: skip
    content = {
        "card": card.model_dump(mode="json", exclude=prose),
        "nodes": storage.keep_nodes,
        "precision": str(storage.precision),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def embed_model(
    root: Path,
    card: ModelCard,
    jobs: list[tuple[StructureSetCard, Path]],
    *,
    build_version: str,
    storage: Storage = Storage(),
    workspace: Path | None = None,
    device: str = "cpu",
    resume: bool = True,
    threads: int = 1,
    progress: Progress | None = None,
) -> list[UnitReport]:
    """Embed every set of ``jobs`` with one model, loading it only if some unit is not there yet.

    A unit that another builder is at is left to the end; by then it is there, or that builder died
    and this one does it.

    Parameters
    ----------
    root:
        The atlas folder.
    jobs:
        (set card, Parquet file of its structures with coordinates), in registry order.
    storage:
        Whether node vectors are kept, and the stored precision.
    workspace:
        Where to stage; a folder on the atlas's file system.
    resume:
        Keep units that are complete already; False makes them anew.
    threads:
        BLAS, OpenMP and torch threads of this process.
    progress:
        Called with (model, set, rows done since the last call).

    Returns
    -------
    list of UnitReport
        One a job. A model that cannot be loaded fails all its units by name and nothing else.
    """
    set_threads(threads)
    again = set() if resume else {set_card.id for set_card, _ in jobs}
    embedder = _Embedder(root, card, build_version, storage, workspace, device, again, progress)
    reports: dict[str, UnitReport] = {}
    for patience in (0.0, -1.0):
        for set_card, source in jobs:
            if set_card.id in reports:
                continue
            try:
                with unit_lock(root, card.id, set_card.id).acquire(timeout=patience):
                    reports[set_card.id] = embedder.embed(set_card, source)
            except Timeout:
                continue
    return [reports[set_card.id] for set_card, _ in jobs]


class _Embedder:
    """One model at work in one process; the adapter is loaded when first needed."""

    def __init__(
        self,
        root: Path,
        card: ModelCard,
        build_version: str,
        storage: Storage,
        workspace: Path | None,
        device: str,
        again: set[str],
        progress: Progress | None,
    ) -> None:
        self.root, self.card, self.storage = root, card, storage
        self.build_version, self.workspace, self.device = build_version, workspace, device
        self._again = again  # sets whose units as they are now count for nothing
        self.progress: Progress = progress or (lambda *_: None)
        self._adapter: Adapter | None = None

    def embed(self, set_card: StructureSetCard, source: Path) -> UnitReport:
        """Keep the unit if it is the one wanted, else make it; a failure is a report."""
        ids = read_arrow(source, columns=["id"])["id"].to_pylist()
        fingerprint = unit_fingerprint(self.card, set_card, ids, self.storage)
        existing = None
        if set_card.id not in self._again:
            existing = self._existing(set_card, ids, fingerprint)
        if existing is not None:
            self.progress(self.card.id, set_card.id, len(ids))
            return UnitReport(
                self.card.id,
                set_card.id,
                "kept",
                rows=existing.rows,
                embedded=existing.embedded,
                missing=existing.missing,
            )
        try:
            if self._adapter is None:
                self._adapter = load_adapter(self.card, device=self.device)
            return self._build(self._adapter, set_card, source, fingerprint)
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            return UnitReport(self.card.id, set_card.id, "failed", rows=len(ids), error=text)

    def _existing(
        self, set_card: StructureSetCard, ids: list[str], fingerprint: str
    ) -> UnitRecord | None:
        """The unit there is, if it will do and every byte of it is sound: resuming heals damage."""
        index = read_index(Files(str(self.root)))
        record = sound_unit(self.root, index, self.card.id, set_card.id)
        if record is None or record.fingerprint == fingerprint:
            return record
        wanted = model_fingerprint(self.card, self.storage)
        same = (record.model_fingerprint, record.structure_set_version) == (
            wanted,
            set_card.version,
        )
        if same and record.rows > len(ids):
            # Another builder grew the set meanwhile: rows there are never go.
            held = open_unit(Files(str(self.root)), self.card.id, set_card.id).ids()
            return record if set(ids) <= set(held) else None
        return None

    def _build(
        self, adapter: Adapter, set_card: StructureSetCard, source: Path, fingerprint: str
    ) -> UnitReport:
        start = time.perf_counter()
        model_seconds, carried = 0.0, 0
        wanted = model_fingerprint(self.card, self.storage)
        carry = CarryStore(
            self.root, self.card, model_fingerprint=wanted, but=frozenset(self._again)
        )
        # One thread: what it has begun is over before anything else asks the same adapter.
        with (
            UnitWriter(
                self.root,
                self.card,
                set_card,
                fingerprint=fingerprint,
                model_fingerprint=wanted,
                build_version=self.build_version,
                keep_nodes=self.storage.keep_nodes,
                precision=self.storage.precision,
                workspace=self.workspace,
            ) as writer,
            ThreadPoolExecutor(1) if self.card.isolation else nullcontext() as pool,
        ):
            for done in _answers(adapter, read_structures(source, window=WINDOW), carry, pool):
                carried += done.carried
                model_seconds += done.seconds
                for structure, result in zip(done.window, done.results, strict=True):
                    writer.append(structure.id, result or Missing("failed: no result"))
                self.progress(self.card.id, set_card.id, len(done.window))
            record = writer.finish()
        self._again.discard(set_card.id)
        report = UnitReport(
            self.card.id,
            set_card.id,
            "built",
            rows=record.rows,
            embedded=record.embedded,
            missing=record.missing,
            carried=carried,
            seconds=time.perf_counter() - start,
            model_seconds=model_seconds,
            peak_rss_mb=adapter.peak_mb(),
        )
        write_run(self.root, self.card, report, versions=adapter.versions())
        return report


@dataclass(frozen=True)
class _Done:
    """A window of structures and what the model says of them."""

    window: list[Structure]
    results: list[Embedded | Missing | None]
    carried: int
    seconds: float


def _answers(
    adapter: Adapter,
    windows: Iterator[list[Structure]],
    carry: CarryStore,
    pool: ThreadPoolExecutor | None,
) -> Iterator[_Done]:
    """Windows with their results, in order.

    With a ``pool`` a window is embedded while the caller writes the one before it: worth it only
    where the model computes in another process.
    """

    def work(window: list[Structure]) -> _Done:
        results: list[Embedded | Missing | None] = [carry.get(s.id) for s in window]
        # Neighbours in size share a batch: less padding, fewer shapes to compile.
        todo = [i for i, r in enumerate(results) if r is None]
        todo.sort(key=lambda i: len(window[i]))
        clock = time.perf_counter()
        for i, fresh in zip(todo, adapter.embed([window[i] for i in todo]), strict=True):
            results[i] = fresh
        return _Done(window, results, len(window) - len(todo), time.perf_counter() - clock)

    if pool is None:
        yield from map(work, windows)
        return
    ahead: Future[_Done] | None = None
    for window in windows:
        begun = pool.submit(work, window)
        if ahead is not None:
            yield ahead.result()
        ahead = begun
    if ahead is not None:
        yield ahead.result()


def read_structures(source: Path, *, window: int) -> Iterator[list[Structure]]:
    """Stream structures of a Parquet table in windows."""
    with pq.ParquetFile(source) as table:
        for batch in table.iter_batches(batch_size=window):
            yield [structure_from_row(row) for row in batch.to_pylist()]


class CarryStore:
    """Rows of this model that complete units of the atlas already hold, by structure id."""

    def __init__(
        self,
        root: Path,
        card: ModelCard,
        *,
        model_fingerprint: str,
        but: frozenset[str] = frozenset(),
    ) -> None:
        self._card = card
        self._index: dict[str, tuple[Unit, int]] = {}
        self._offsets: dict[str, np.ndarray] = {}
        files = Files(str(root))
        try:
            units = vouched_units(root, read_index(files), card.id)
        except ArchiveError:
            units = {}
        for set_id in sorted(set(units) - but):
            try:
                unit = Unit(files, f"{STORE}/{card.id}/{set_id}", units[set_id])
                ids = unit.ids() if unit.record.model_fingerprint == model_fingerprint else ()
            except ArchiveError:
                continue  # damaged: nothing to carry from it
            for row, structure_id in enumerate(ids):
                self._index.setdefault(str(structure_id), (unit, row))

    def get(self, structure_id: str) -> Embedded | Missing | None:
        """The stored row, or None. Failed rows are tried again."""
        found = self._index.get(structure_id)
        if found is None:
            return None
        try:
            return self._read(*found)
        except ArchiveError:
            return None  # damaged: embed it again

    def _read(self, unit: Unit, row: int) -> Embedded | Missing | None:
        reason = str(unit.reasons(row, row + 1)[0])
        if reason:
            return None if reason.startswith("failed") else Missing(reason)
        if unit.path not in self._offsets:
            self._offsets[unit.path] = np.concatenate([[0], np.cumsum(unit.row_size())])
        low, high = (int(v) for v in self._offsets[unit.path][row : row + 2])
        energy = float(unit.energy(row, row + 1)[0])
        nodes = {layer.name: unit.nodes(layer.name) for layer in self._card.layers}
        return Embedded(
            nodes={
                name: array.read(low, high).astype(np.float32)
                for name, array in nodes.items()
                if array is not None
            },
            pooled={
                layer.name: unit.vectors(layer.name).read(row, row + 1)[0].astype(np.float32)
                for layer in self._card.layers
            },
            energy=None if np.isnan(energy) else energy,
        )


def write_run(
    root: Path, card: ModelCard, report: UnitReport, *, versions: Mapping[str, str]
) -> None:
    """Keep what a unit cost beside the archive; costs vary from run to run, units do not."""
    costs = {
        **asdict(report),
        "ms_per_structure": 1e3 * report.model_seconds / max(1, report.embedded - report.carried),
        "versions": {"matteratlas": metadata.version("matteratlas"), **versions},
        "cpus": os.cpu_count(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    keep_costs(root, card.id, report.set, costs)


def keep_costs(root: Path, model_id: str, set_id: str, costs: Mapping[str, Any]) -> None:
    """Put what a unit cost with what the model's other units did."""
    with root_lock(root):
        held = {**read_runs(Files(str(root)), model_id), set_id: dict(costs)}
        write_json(seal({"model": model_id, "sets": held}), root / RUNS / f"{model_id}.json")


def set_threads(threads: int) -> None:
    """Give BLAS, OpenMP and torch the same number of threads; oversubscription costs far more."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:  # not loaded yet: it will read the variables above
        import torch

        torch.set_num_threads(threads)
