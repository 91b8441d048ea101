# SPDX-License-Identifier: Apache-2.0
"""Checks that run the contributed adapter: on its author's machine, or where there are no secrets.

Invariances, determinism and batches are those of the adapter contract, on rows of the contribution
itself; a sample of what is stored is embedded anew by a freshly loaded model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ...registry.archive import Atlas
from ...schemas.cards import ModelCard
from ...schemas.errors import AtlasError
from ...schemas.structures import Structure
from ..adapters.base import Adapter, Embedded, load_adapter
from ..recompute import Sources, recompute
from .folder import Contribution
from .report import Report

Transform = Callable[[Structure, np.random.Generator], Structure]

#: Rows taken of each set, smallest structures first, for what is embedded many times.
ROWS = 3
#: What another batch or a second call may change, relative; the card's tolerance if less.
BATCH_TOLERANCE = 1e-4
#: Seconds the contributed test may take.
TEST_SECONDS = 900


def run_test(report: Report, contribution: Contribution) -> None:
    """Run the contributed test as pytest would in the code repository."""
    path = contribution.test_path
    if path is None:
        report.add("test", "pass", "the adapter is the registry's own, and so are its tests")
        return
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir"]
    try:
        done = subprocess.run(
            [*command, str(path.parent), "-c", os.devnull, str(path)],
            capture_output=True,
            text=True,
            timeout=TEST_SECONDS,
            check=False,
            cwd=path.parent,
        )
    except subprocess.TimeoutExpired:
        report.add("test", "fail", f"took more than {TEST_SECONDS} s", "compare fewer structures")
        return
    last = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()
    told = [line for line in last if line.startswith("E  ")][:2] + last[-1:]
    if done.returncode == 0:
        report.add("test", "pass", last[-1])
    elif "No module named pytest" in done.stderr:
        report.add("test", "fail", "pytest is not installed", "pip install pytest")
    else:
        report.add("test", "fail", " | ".join(told), f"run: pytest {path.name}")


def check_adapter(report: Report, atlas: Atlas, card: ModelCard, *, device: str = "cpu") -> None:
    """Invariances, determinism and batch independence of the adapter on rows it embedded."""
    try:
        rows = _rows(atlas, card)
        adapter = load_adapter(card, device=device)
        reference = _embedded(adapter, rows)
    except Exception as error:  # any package may fail in its own way
        text = str(error) if isinstance(error, AtlasError) else f"{type(error).__name__}: {error}"
        report.add("adapter", "fail", text, "mend the adapter")
        return
    generator = np.random.default_rng(0)
    for name in card.invariances:
        moved = [TRANSFORMS[name](s, generator) for s in rows]
        _compare(report, f"{name} invariance", adapter, moved, reference, card.tolerance,
                 f"mend the adapter, or leave {name} out of the card's 'invariances'")  # fmt: skip
    if not card.invariances:
        report.add("invariances", "note", "the card claims none")
    limit = min(card.tolerance, BATCH_TOLERANCE)
    mend = "seed or switch off what is random: dropout, sampling, training mode"
    _compare(report, "determinism", adapter, rows, reference, limit, mend)
    mend = "a vector may not depend on its neighbours in a batch: mask the padding"
    try:
        alone = [_embedded(adapter, [s])[0] for s in rows]
        turned = _embedded(adapter, rows[::-1])[::-1]
        off = max(_deviation(alone, reference), _deviation(turned, reference))
    except ValueError as error:
        report.add("batch independence", "fail", str(error), mend)
        return
    _told(report, "batch independence", off, limit, len(rows), mend)


def check_recomputed(
    report: Report, atlas: Atlas, card: ModelCard, *, sample: int = 8, device: str = "cpu"
) -> None:
    """Stored rows against the model, freshly loaded."""
    found = recompute(atlas.location, sample=sample, models=[card.id], device=device)
    text = found.text().splitlines()[-1]
    if found.faults:
        mend = "build again: the adapter changed, or is not deterministic"
        report.add("recomputed rows", "fail", found.faults[0], mend)
    elif found.unchecked:
        name, why = next(iter(found.unchecked.items()))
        report.add("recomputed rows", "fail", f"{name}: {why}", "mend it, so that rows can be told")
    else:
        report.add("recomputed rows", "pass", text)


def _rows(atlas: Atlas, card: ModelCard) -> list[Structure]:
    """A few small embedded structures of every set."""
    found: list[Structure] = []
    for set_id in atlas.index["models"][card.id]["units"]:
        unit = atlas.unit(card.id, set_id)
        table = atlas.rows(card.id, sets=[set_id])
        table = table[table["reason"] == ""].sort_values(["n_atoms", "id"])
        # The smallest say least of an arrangement: begin a quarter of the way up.
        start = min(len(table) // 4, max(0, len(table) - ROWS))
        ids = [str(i) for i in table["id"].iloc[start : start + ROWS]]
        held = Sources(Path(atlas.location)).get(set_id, unit.record.structure_set_version, ids)
        found += [held[i] for i in ids if i in held]
    if not found:
        raise AtlasError("no row is embedded, so nothing can be tried")
    return found


def _embedded(adapter: Adapter, rows: Sequence[Structure]) -> list[Embedded]:
    found = []
    for structure, result in zip(rows, adapter.embed(list(rows)), strict=True):
        if not isinstance(result, Embedded):
            raise ValueError(f"{structure.id}: {result.reason}")
        found.append(result)
    return found


def _compare(
    report: Report,
    name: str,
    adapter: Adapter,
    rows: Sequence[Structure],
    reference: Sequence[Embedded],
    limit: float,
    mend: str,
) -> None:
    try:
        off = _deviation(_embedded(adapter, rows), reference)
    except ValueError as error:
        report.add(name, "fail", str(error), mend)
        return
    _told(report, name, off, limit, len(rows), mend)


def _told(report: Report, name: str, off: float, limit: float, n: int, mend: str) -> None:
    text = f"vectors of {n} structures change by {off:.1e} of their largest number, {limit:.0e} may"
    good = off <= limit
    report.add(name, "pass" if good else "fail", text, "" if good else mend)


def _deviation(found: Sequence[Embedded], expected: Sequence[Embedded]) -> float:
    """Largest difference over the largest number, of all structures and layers."""
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        for layer, values in b.pooled.items():
            wanted = np.asarray(values, float)
            scale = float(np.abs(wanted).max()) or 1.0
            apart = np.abs(np.asarray(a.pooled[layer], float) - wanted)
            worst = max(worst, float(apart.max()) / scale)
    return worst


def permuted(structure: Structure, generator: np.random.Generator) -> Structure:
    """The same matter with its atoms in another order (sequence and backbone keep theirs)."""
    order = generator.permutation(len(structure))
    return dataclasses.replace(
        structure, numbers=structure.numbers[order], positions=structure.positions[order]
    )


def rotated(structure: Structure, generator: np.random.Generator) -> Structure:
    """The same matter turned at random, cell and backbone with it."""
    q, r = np.linalg.qr(generator.normal(size=(3, 3)))
    turn = q * np.sign(np.diag(r))
    turn *= np.sign(np.linalg.det(turn))  # a rotation, never a mirror image
    backbone = structure.backbone
    return dataclasses.replace(
        structure,
        positions=structure.positions @ turn,
        cell=structure.cell @ turn,
        backbone=None if backbone is None else backbone @ turn,
    )


def translated(structure: Structure, generator: np.random.Generator) -> Structure:
    """The same matter shifted by a few ångström; a crystal's atoms may leave the cell."""
    shift = generator.uniform(-5.0, 5.0, size=3)
    backbone = structure.backbone
    return dataclasses.replace(
        structure,
        positions=structure.positions + shift,
        backbone=None if backbone is None else backbone + shift,
    )


TRANSFORMS: dict[str, Transform] = {
    "permutation": permuted,
    "rotation": rotated,
    "translation": translated,
}


def adapter_digest(contribution: Contribution) -> str:
    """SHA-256 of the adapter, and of vectors that were brought; units are kept while it stays."""
    content = hashlib.sha256()
    names = ["vectors*", "ids.*"]
    files = [p for n in names for p in sorted(contribution.folder.glob(n))]
    plain = [p for f in files for p in (sorted(f.rglob("*")) if f.is_dir() else [f])]
    if contribution.adapter_path is not None:
        plain.append(contribution.adapter_path)
    for path in filter(Path.is_file, plain):
        content.update(f"{path.parent.name}/{path.name}\n".encode())
        with path.open("rb") as handle:
            content.update(hashlib.file_digest(handle, "sha256").digest())
    return content.hexdigest()
