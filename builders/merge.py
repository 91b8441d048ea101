# SPDX-License-Identifier: Apache-2.0
"""Merge atlases built apart: every unit and row of each, or nothing and the reason.

All checks come before the first write. Then tables and units are copied to staging, held against
their hashes and moved into place one by one, as a build does it: a merge that is killed leaves a
valid atlas, and running it again finishes. Merged parts are, byte for byte, what one build of
everything gives.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..registry import catalog
from ..registry.commit import place_tables, place_unit, settle, vouched_units
from ..registry.files import Files
from ..registry.index import PENDING, file_entry, read_index, read_runs, unit_names
from ..registry.parquet import read_frame
from ..registry.tables import MODELS, SETS, table_version, write_table
from ..registry.unit import Documents, Unit, unit_documents
from ..registry.validate import validate
from ..schemas.archive import ATLAS_FILE, FORMAT_VERSION, STORE, UNRELEASED, UnitRecord
from ..schemas.errors import ArchiveError, of_sound_data
from ..schemas.progress import Reporter, Silent
from .build import NOTES, open_root, write_notes
from .contained import differing_row, differing_structure
from .dataset_card import write_card
from .embed import keep_costs
from .locking import root_lock, told_in_a_line, unit_lock, workspace


@dataclass(frozen=True)
class MergedUnit:
    """What became of one (model, set): ``copied``, ``kept``, or ``replaced`` by a larger one."""

    model: str
    set: str
    outcome: str
    rows: int
    embedded: int
    source: str


@dataclass
class MergeReport:
    """What a merge did.

    Attributes
    ----------
    structures : dict
        Rows of each set's structures table, by set.
    notes : list of str
        What a user should know and no row depends on.
    """

    root: Path
    sources: list[str]
    units: list[MergedUnit] = field(default_factory=list)
    structures: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return {**asdict(self), "root": str(self.root)}

    def text(self) -> str:
        """A few lines for a reader."""
        outcomes = Counter(u.outcome for u in self.units)
        rows, embedded = sum(u.rows for u in self.units), sum(u.embedded for u in self.units)
        models, sets = {u.model for u in self.units}, {u.set for u in self.units}
        done = ", ".join(f"{n} {outcome}" for outcome, n in sorted(outcomes.items())) or "none"
        return "\n".join(
            [
                f"{self.root}: {len(self.sources)} atlases merged; units: {done}",
                f"  {len(models)} models, {len(sets)} sets, {rows} rows, {embedded} embedded",
                *(f"  note: {note}" for note in self.notes),
            ]
        )


@dataclass
class _Part:
    """One atlas that goes in, checked."""

    root: Path
    index: dict[str, Any]
    units: dict[tuple[str, str], Documents]

    def unit(self, key: tuple[str, str]) -> Unit:
        return Unit(Files(str(self.root)), f"{STORE}/{key[0]}/{key[1]}", self.units[key])


@dataclass
class _Plan:
    """Where each table and unit comes from."""

    sets: dict[str, _Part] = field(default_factory=dict)
    units: dict[tuple[str, str], _Part] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def merge(
    out: str | Path, sources: Sequence[str | Path], *, reporter: Reporter | None = None
) -> MergeReport:
    """Merge the atlases at ``sources`` into the one at ``out``, which is made if absent.

    Parameters
    ----------
    out:
        Atlas folder, new or not; what it holds counts as one more source.
    sources:
        Atlas folders or releases; they stay as they are.

    Returns
    -------
    MergeReport
        One entry a (model, set) of the merged atlas.

    Raises
    ------
    ArchiveError
        Before anything is written: an atlas that does not validate, of another format, or
        interrupted; versions or rows of a set that differ; a model of two versions; units that
        disagree on a row. Afterwards: a unit that did not arrive whole. Naming each.
    """
    out, reporter = Path(out).absolute(), reporter or Silent()
    roots = [Path(s).absolute() for s in sources]
    _check_roots(out, roots)
    held = (out / ATLAS_FILE).exists()
    reporter.stage("checking", len(roots) + held)
    parts = [_checked(out, reporter, own=True)] if held else []
    parts += [_checked(root, reporter) for root in roots]
    plan = _Plan()
    with of_sound_data(" or ".join(map(str, roots)), "run: matteratlas validate on each"):
        _plan_sets(plan, parts)
        _plan_units(plan, parts)
    report = MergeReport(out, [str(r) for r in roots], notes=plan.notes)
    nonsense = of_sound_data(" or ".join(map(str, roots)), "run: matteratlas validate on each")
    with told_in_a_line(out, "merge"), nonsense:
        open_root(out)
        with workspace(out) as own:
            _carry_out(out, own, plan, parts, report, reporter)
    _check_arrival(out, plan)
    return report


def _check_roots(out: Path, roots: list[Path]) -> None:
    if not roots:
        raise ArchiveError(f"{out}: no source to merge; give at least one atlas folder")
    for root in roots:
        if not root.is_dir():
            raise ArchiveError(f"{root}: no such folder; pull the atlas first")
    real = [r.resolve() for r in (out, *roots)]
    twice = [r for r, n in Counter(real).items() if n > 1]
    if twice:
        raise ArchiveError(f"{twice[0]}: given twice; name each atlas once")


def _checked(root: Path, reporter: Reporter, *, own: bool = False) -> _Part:
    """A part that validates; ``own`` is the atlas merged into, which may have been interrupted."""
    index = read_index(Files(str(root)))
    if index["format_version"] != FORMAT_VERSION:
        raise ArchiveError(
            f"{root}: format {index['format_version']}, this merges {FORMAT_VERSION}; "
            "build it again"
        )
    if own and index["version"] != UNRELEASED:
        raise ArchiveError(
            f"{root}: is release {index['version']}, and releases never change; choose another OUT"
        )
    faults = validate(root).faults
    if faults:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise ArchiveError(f"{root}: not valid: {faults[0]}{more}")
    if PENDING in index and not own:
        raise ArchiveError(f"{root}: a build of it was interrupted; run matteratlas build again")
    models = set(index["models"]) | ({m for m, _ in unit_names(root)} if own else set())
    units = {
        (model, set_id): documents
        for model in sorted(models)
        for set_id, documents in vouched_units(root, index, model, adopt=own).items()
    }
    reporter.advance(f"{root}: {len(units)} units", 1)
    return _Part(root, index, units)


def _plan_sets(plan: _Plan, parts: list[_Part]) -> None:
    """Of each set the table that contains all others."""
    for set_id in sorted({Path(p).stem for part in parts for p in part.index["files"]
                          if p.startswith("structures/")}):  # fmt: skip
        path = f"structures/{set_id}.parquet"
        having = [p for p in parts if path in p.index["files"]]
        versions = {table_version(p.root / path): p for p in having}
        if len(versions) > 1:
            (a, one), (b, two) = list(versions.items())[:2]
            raise ArchiveError(
                f"set '{set_id}': version {a} in {one.root}, {b} in {two.root}; build it alike"
            )
        rows = {id(p): len(read_frame(p.root / path, columns=["id"])) for p in having}
        largest = max(having, key=lambda p: rows[id(p)])
        for part in having:
            if part.index["files"][path]["sha256"] == largest.index["files"][path]["sha256"]:
                continue
            differing = differing_structure(part.root / path, largest.root / path)
            if differing:
                raise ArchiveError(
                    f"set '{set_id}': structure '{differing}' of {part.root} is not in "
                    f"{largest.root}, or not the same there; build the set alike"
                )
        plan.sets[set_id] = largest


def _plan_units(plan: _Plan, parts: list[_Part]) -> None:
    """Of each unit the one that contains all others."""
    keys = sorted({key for part in parts for key in part.units})
    for model in sorted({m for m, _ in keys}):
        said: dict[tuple[Any, ...], _Part] = {}
        for part in parts:
            for key in [k for k in part.units if k[0] == model]:
                record = part.unit(key).record
                layers = tuple(sorted(record.layers.items()))
                said.setdefault((record.model_version, layers, record.default_layer), part)
        if len(said) > 1:
            (a, one), (b, two) = list(said.items())[:2]
            what = f"version {a[0]} in {one.root}, {b[0]} in {two.root}"
            if a[0] == b[0]:
                what = f"its layers in {one.root} are not those in {two.root}"
            raise ArchiveError(f"model '{model}': {what}; build it alike")
    for key in keys:
        having = [p for p in parts if key in p.units]
        largest = max(having, key=lambda p: p.unit(key).record.rows)
        big = largest.unit(key)
        for part in having:
            small = part.unit(key)
            if small.record.content_sha256 == big.record.content_sha256:
                continue
            try:
                differing = differing_row(small, big)
            except ArchiveError as error:
                raise ArchiveError(f"{error}; or mend the atlas first") from error
            if differing:
                raise ArchiveError(
                    f"{key[0]} on {key[1]}: {differing} of {part.root} is not in {largest.root}, "
                    "or not the same there; leave one atlas out, or build the unit again in one"
                )
        plan.units[key] = largest


def _carry_out(
    out: Path,
    own: Path,
    plan: _Plan,
    parts: list[_Part],
    report: MergeReport,
    reporter: Reporter,
) -> None:
    """Write what the plan says and ``out`` does not have."""
    with root_lock(out):
        settle(out, scratch=own / "placing")
        staged = _stage_tables(own, plan, parts)
        cards = staged.pop(MODELS, None)
        place_tables(out, staged, scratch=own / "placing")
    for set_id, part in plan.sets.items():
        table = read_frame(part.root / f"structures/{set_id}.parquet", columns=["id"])
        report.structures[set_id] = len(table)
    reporter.stage("merging", len(plan.units))
    held = {p.root: p for p in parts}.get(out)
    for (model, set_id), part in plan.units.items():
        unit = part.unit((model, set_id))
        record, outcome = unit.record, "kept"
        if part.root != out:
            known = held is not None and (model, set_id) in held.units
            outcome = "replaced" if known else "copied"
            with unit_lock(out, model, set_id):
                replaced = held.unit((model, set_id)).record if held and known else None
                _check_target(out, record, replaced)
                _copy_unit(out, own, unit, part, cards)
        report.units.append(
            MergedUnit(model, set_id, outcome, record.rows, record.embedded, str(part.root))
        )
        reporter.advance(f"{model} on {set_id}", 1)
    with root_lock(out):
        write_card(out)
    if any((p.root / "scores").is_dir() for p in parts):
        report.notes.append(f"scores are not merged; run: matteratlas analyze {out}")


def _stage_tables(own: Path, plan: _Plan, parts: list[_Part]) -> dict[str, Path]:
    """Copies of the tables that go in, by their path in the atlas."""
    staged: dict[str, Path] = {}
    for set_id, part in plan.sets.items():
        path = f"structures/{set_id}.parquet"
        staged[path] = own / path
        _copy(part.root / path, own / path, part.index["files"][path])
    for kind in NOTES:
        path = f"registry/{kind}.parquet"
        staged[path] = own / path
        write_notes(kind, _notes(path, plan, parts), own / path)
    for path in (MODELS, SETS):
        tables = [read_frame(p.root / path) for p in parts if path in p.index["files"]]
        if path == MODELS:
            plan.notes += _differing_cards(tables)
        # Cards this version does not know; those it knows are written from what it knows.
        cards: dict[str, pd.DataFrame] = {}
        for table in tables:
            for card_id, rows in table.groupby("id", sort=False):
                cards.setdefault(str(card_id), rows)
        if cards:
            staged[path] = own / path
            write_table(pd.concat(cards.values(), ignore_index=True), own / path)
    return staged


def _differing_cards(tables: Iterable[pd.DataFrame]) -> list[str]:
    """Models that this version does not know and whose cards differ between the atlases."""
    seen: dict[str, str] = {}
    found = []
    for table in tables:
        for card in table[~table["id"].isin(set(catalog.models()))].to_dict("records"):
            text = repr(sorted((k, str(v)) for k, v in card.items() if v is not None))
            if seen.setdefault(card["id"], text) != text:
                found.append(f"model '{card['id']}': its cards differ; the first is kept")
    return found


def _notes(path: str, plan: _Plan, parts: list[_Part]) -> list[pd.DataFrame]:
    """Rows of a table of notes, each set's from the atlas its structures come from first."""
    tables = {id(p): read_frame(p.root / path) for p in parts if path in p.index["files"]}
    found = []
    for set_id, first in plan.sets.items():
        order = [first, *(p for p in parts if p is not first)]
        mine = [t[t["set"] == set_id] for p in order if (t := tables.get(id(p))) is not None]
        told: set[tuple[Any, ...]] = set()
        for table in mine:
            rows = [tuple(r) for r in table.itertuples(index=False)]
            found.append(table[np.array([r not in told for r in rows], dtype=bool)])
            told |= set(rows)
    return found or [pd.DataFrame(columns=NOTES[Path(path).stem].names)]


def _check_target(out: Path, record: UnitRecord, replaced: UnitRecord | None) -> None:
    """A unit that a build made after the checks is never written over."""
    units = read_index(Files(str(out)))["models"].get(record.model, {"units": {}})["units"]
    found = units.get(record.structure_set, {}).get("content_sha256")
    if found not in (None, record.content_sha256, replaced and replaced.content_sha256):
        raise ArchiveError(
            f"{out}: {record.model} on {record.structure_set} was built meanwhile; merge again"
        )


def _copy_unit(out: Path, own: Path, unit: Unit, part: _Part, cards: Path | None) -> None:
    """Copy, check and place one unit, and what it cost."""
    record, source = unit.record, part.root
    stage = own / f"{record.model}.{record.structure_set}"
    group, twin = stage / "unit", stage / "unit.parquet"
    folder = Path(STORE) / record.model / record.structure_set
    for file in record.files:
        within = Path(file.path)
        copied = group / within.relative_to(folder) if within.is_relative_to(folder) else twin
        _copy(source / within, copied, file.model_dump(exclude={"path"}))
    shutil.copyfile(source / folder / "zarr.json", group / "zarr.json")
    if unit_documents(group) != part.units[record.model, record.structure_set]:
        raise ArchiveError(f"{source / folder}: changed while it was copied; merge again")
    with root_lock(out):
        place_unit(
            out,
            record.model,
            record.structure_set,
            group=group,
            twin=twin,
            scratch=stage,
            cards=cards,
        )
    shutil.rmtree(stage)
    costs = read_runs(Files(str(source)), record.model).get(record.structure_set)
    if costs is not None:
        keep_costs(out, record.model, record.structure_set, costs)


def _copy(source: Path, target: Path, declared: dict[str, Any]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    if file_entry(target) != declared:
        raise ArchiveError(f"{source}: changed while it was copied; merge again")


def _check_arrival(out: Path, plan: _Plan) -> None:
    """Every unit of the plan is in ``out`` as it was, and ``out`` has no fault."""
    index = read_index(Files(str(out)))
    for (model, set_id), part in plan.units.items():
        wanted: UnitRecord = part.unit((model, set_id)).record
        entry = index["models"].get(model, {"units": {}})["units"].get(set_id)
        if entry is None or entry["content_sha256"] != wanted.content_sha256:
            raise ArchiveError(
                f"{out}: unit {model} on {set_id} of {part.root} is not there; merge again"
            )
    faults = validate(out).faults
    if faults:
        raise ArchiveError(f"{out}: not valid after the merge: {faults[0]}")
