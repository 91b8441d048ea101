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
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import zarr

from ..registry import store
from ..schemas.archive import FORMAT_VERSION, RECORDS, STORE, record_path
from ..schemas.cards import ModelCard, StructureSetCard
from ..schemas.structures import Structure, structure_from_row
from .adapters.base import Adapter, Embedded, Missing, load_adapter
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


def unit_fingerprint(
    card: ModelCard, set_card: StructureSetCard, ids: list[str], *, keep_nodes: bool
) -> str:
    """Hash of everything a unit's rows depend on; equal fingerprints need no rebuild."""
    content = {
        "format": FORMAT_VERSION,
        "model": model_fingerprint(card, keep_nodes=keep_nodes),
        "set": [set_card.id, set_card.version],
        "ids": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def model_fingerprint(card: ModelCard, *, keep_nodes: bool) -> str:
    """Hash of the card fields that decide a model's vectors (prose and reported scores do not)."""
    prose = {
        "notes", "performance", "authors", "paper", "name", "lifecycle", "starter", "licence",
        "training",
    }  # fmt: skip
    content = {"card": card.model_dump(mode="json", exclude=prose), "nodes": keep_nodes}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def embed_model(
    root: Path,
    card: ModelCard,
    jobs: list[tuple[StructureSetCard, Path]],
    *,
    build_version: str,
    keep_nodes: bool = True,
    device: str = "cpu",
    threads: int = 1,
    progress: Progress | None = None,
) -> list[UnitReport]:
    """Embed every set of ``jobs`` with one model, loading it only if some unit is not there yet.

    Parameters
    ----------
    root:
        The atlas folder.
    jobs:
        (set card, Parquet file of its structures with coordinates), in registry order.
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
    reports: list[UnitReport] = []
    adapter: Adapter | None = None
    for set_card, source in jobs:
        ids = pq.read_table(source, columns=["id"])["id"].to_pylist()
        fingerprint = unit_fingerprint(card, set_card, ids, keep_nodes=keep_nodes)
        existing = read_unit_record(root, card.id, set_card.id)
        if existing is not None and existing["fingerprint"] == fingerprint:
            reports.append(_report_kept(card, set_card, existing))
            if progress:
                progress(card.id, set_card.id, len(ids))
            continue
        try:
            if adapter is None:
                adapter = load_adapter(card, device=device)
            reports.append(
                _embed_set(
                    root,
                    adapter,
                    set_card,
                    source,
                    fingerprint=fingerprint,
                    build_version=build_version,
                    keep_nodes=keep_nodes,
                    progress=progress,
                )
            )
        except Exception as error:
            reports.append(
                UnitReport(
                    card.id,
                    set_card.id,
                    "failed",
                    rows=len(ids),
                    error=" ".join(f"{type(error).__name__}: {error}".split())[:300],
                )
            )
    return reports


def _embed_set(
    root: Path,
    adapter: Adapter,
    set_card: StructureSetCard,
    source: Path,
    *,
    fingerprint: str,
    build_version: str,
    keep_nodes: bool,
    progress: Progress | None,
) -> UnitReport:
    card = adapter.card
    start = time.perf_counter()
    model_seconds, carried = 0.0, 0
    carry = CarryStore(root, card, keep_nodes=keep_nodes)
    with UnitWriter(
        root,
        card,
        set_card,
        fingerprint=fingerprint,
        model_fingerprint=model_fingerprint(card, keep_nodes=keep_nodes),
        build_version=build_version,
        keep_nodes=keep_nodes,
    ) as writer:
        for window in read_structures(source, window=WINDOW):
            results: list[Embedded | Missing | None] = [carry.get(s.id) for s in window]
            carried += sum(r is not None for r in results)
            # Neighbours in size share a batch: less padding, fewer shapes to compile.
            todo = [i for i, r in enumerate(results) if r is None]
            todo.sort(key=lambda i: len(window[i]))
            clock = time.perf_counter()
            for i, fresh in zip(todo, adapter.embed([window[i] for i in todo]), strict=True):
                results[i] = fresh
            model_seconds += time.perf_counter() - clock
            for structure, result in zip(window, results, strict=True):
                writer.append(structure.id, result or Missing("failed: no result"))
            if progress:
                progress(card.id, set_card.id, len(window))
        record = writer.finish()
    report = UnitReport(
        card.id,
        set_card.id,
        "built",
        rows=record.rows,
        embedded=record.embedded,
        missing=record.missing,
        carried=carried,
        seconds=time.perf_counter() - start,
        model_seconds=model_seconds,
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    write_run(root, card, report)
    return report


def read_structures(source: Path, *, window: int) -> Iterator[list[Structure]]:
    """Stream structures of a Parquet table in windows."""
    with pq.ParquetFile(source) as table:
        for batch in table.iter_batches(batch_size=window):
            yield [structure_from_row(row) for row in batch.to_pylist()]


class CarryStore:
    """Rows of this model that complete units of the atlas already hold, by structure id."""

    def __init__(self, root: Path, card: ModelCard, *, keep_nodes: bool) -> None:
        self._card = card
        self._index: dict[str, tuple[zarr.Group, int]] = {}
        self._offsets: dict[str, np.ndarray] = {}
        wanted = model_fingerprint(card, keep_nodes=keep_nodes)
        for path in sorted((root / RECORDS / card.id).glob("*.json")):
            if json.loads(path.read_text(encoding="utf-8"))["model_fingerprint"] != wanted:
                continue
            unit = zarr.open_group(root / STORE / card.id / path.stem, mode="r")
            for row, structure_id in enumerate(store.read(unit, "structure_id")):
                self._index.setdefault(str(structure_id), (unit, row))

    def get(self, structure_id: str) -> Embedded | Missing | None:
        """The stored row, or None. Failed rows are tried again."""
        found = self._index.get(structure_id)
        if found is None:
            return None
        unit, row = found
        reason = str(store.read(unit, "reason", row))
        if reason:
            return None if reason.startswith("failed") else Missing(reason)
        key = str(unit.store_path)
        if key not in self._offsets:
            self._offsets[key] = np.concatenate([[0], np.cumsum(store.read(unit, "row_size"))])
        low, high = (int(v) for v in self._offsets[key][row : row + 2])
        energy = float(store.read(unit, "energy", row))
        layers = {layer.name: store.group(unit, layer.name) for layer in self._card.layers}
        return Embedded(
            nodes={
                name: store.read(group, "node_embedding", slice(low, high))
                for name, group in layers.items()
                if "node_embedding" in group
            },
            pooled={name: store.read(group, "embedding", row) for name, group in layers.items()},
            energy=None if np.isnan(energy) else energy,
        )


def read_unit_record(root: Path, model_id: str, set_id: str) -> dict[str, Any] | None:
    """Commit record of a complete unit, or None when the unit is absent."""
    path = record_path(root, model_id, set_id)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_run(root: Path, card: ModelCard, report: UnitReport) -> None:
    """Keep what a unit cost beside the archive; costs vary from run to run, units do not."""
    path = root / "runs" / card.id / f"{report.set}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = {}
    for package in ["matteratlas", *(card.environment or {})]:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    content = {
        **asdict(report),
        "ms_per_structure": 1e3 * report.model_seconds / max(1, report.embedded - report.carried),
        "versions": versions,
        "cpus": os.cpu_count(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    scratch = path.with_suffix(f".{os.getpid()}.part")
    scratch.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    scratch.replace(path)


def _report_kept(card: ModelCard, set_card: StructureSetCard, record: dict[str, Any]) -> UnitReport:
    return UnitReport(
        card.id,
        set_card.id,
        "kept",
        rows=record["rows"],
        embedded=record["embedded"],
        missing=record["missing"],
    )


def set_threads(threads: int) -> None:
    """Give BLAS, OpenMP and torch the same number of threads; oversubscription costs far more."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:  # not loaded yet: it will read the variables above
        import torch

        torch.set_num_threads(threads)
