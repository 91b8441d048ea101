# SPDX-License-Identifier: Apache-2.0
"""Pull an atlas, or the part of it that is asked for, into a folder.

What comes is kept in the folder's staging place under its declared hash, is held against that hash,
and moves into place when everything is there, the index last. A pull that is cut goes on where it
stopped; what was pulled already is not moved again.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..schemas.archive import ATLAS_FILE, LOCK, STAGING, SUBSET_OF, FileRecord
from ..schemas.errors import ArchiveError, SourceError
from ..schemas.progress import Reporter, Silent
from .files import Files
from .hub_names import SCHEME, dataset_parts, kept_folder, location_of, remember
from .index import SEAL, read_index
from .packages import sha256_of
from .pull_plan import Plan, Selection, make_plan, same_atlas

#: Bytes of one request: what a cut connection costs at most, and what a thread holds.
BLOCK = 8 * 2**20
#: Requests at a time.
THREADS = 8
#: Times a file is fetched whose bytes are not the declared ones.
TRIES = 3


@dataclass
class PullReport:
    """What a pull did, or would do.

    Attributes
    ----------
    path :
        The folder; :func:`matteratlas.open_atlas` opens it.
    location :
        Where from, pinned to a commit or release.
    whole :
        The release as it is; else a part, which is an atlas of its own.
    bytes, present, moved :
        Bytes of all files; of those that were there already; and that came over the network, the
        metadata included that said what there is.
    units : dict
        Bytes of each unit, by ``model/set``.
    """

    path: Path
    location: str
    version: str
    whole: bool
    dry_run: bool
    files: int = 0
    bytes: int = 0
    present: int = 0
    moved: int = 0
    units: dict[str, int] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return {**vars(self), "path": str(self.path)}

    def text(self) -> str:
        """A few lines for a reader."""
        what = "release" if self.whole else "part of"
        verb = "would move" if self.dry_run else "moved"
        to_move = self.moved if not self.dry_run else self.bytes - self.present
        models = sorted({name.split("/")[0] for name in self.units})
        sets = sorted({name.split("/")[1] for name in self.units})
        return "\n".join(
            [
                f"{self.path}: {what} {self.version} of {self.location}",
                f"  {len(models)} models x {len(sets)} sets, {len(self.units)} units, "
                f"{self.files} files, {self.bytes:,} bytes",
                f"  {verb} {to_move:,} bytes; {self.present:,} were there already",
            ]
        )


def pull(
    location: str,
    *,
    models: Sequence[str] | None = None,
    sets: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    out: str | Path | None = None,
    dry_run: bool = False,
    reporter: Reporter | None = None,
) -> PullReport:
    """Fetch an atlas or a part of it; the folder is an atlas, valid and complete in itself.

    Parameters
    ----------
    location :
        ``ORG/NAME``, ``ORG/NAME@TAG`` (a tag, commit, branch, ``latest`` or ``stable``) of the Hub,
        or a URL or path that :func:`matteratlas.open_atlas` takes.
    models, sets, layers :
        What is wanted; None is all. ``default`` among the layers is each model's default one. Of a
        unit with fewer layers the Parquet twin does not come along.
    out :
        Folder. By default one in ``$MATTERATLAS_CACHE`` for each commit of a Hub dataset. It may
        hold another part of the same atlas, which then grows.
    dry_run :
        Only say what would be moved.

    Raises
    ------
    ArchiveError
        No atlas there, nothing of what is asked for, wrong bytes, another atlas in ``out``, or no
        room.
    SourceError
        The network or the Hub refuses; one line with the mend.
    """
    selection = Selection(*(tuple(v) if v else None for v in (models, sets, layers)))
    asked = location_of(str(location))
    source = Files(asked)
    on_hub = asked.startswith("hf://")
    pinned = source.location
    target = Path(out) if out is not None else _default_folder(source, asked)
    held = _held(target)
    if on_hub and source.local is not None:
        _refuse_less(source, selection, asked)  # offline: what was pulled before
    if held is not None and SUBSET_OF not in held and _is_source(held, source):
        selection = Selection()  # it is here whole
    part = held if held is not None and SUBSET_OF in held else None
    plan = make_plan(source, selection, location=pinned, held=part)
    if held is not None and not same_atlas(held, plan.sha256) and source.local != target:
        raise ArchiveError(
            f"{target}: holds another atlas than {asked}; choose another --out, or remove it"
        )
    report = PullReport(target, pinned, plan.version, plan.whole, dry_run)
    report.files, report.bytes = len(plan.files) + len(plan.made), plan.bytes
    report.units = {f"{m}/{s}": size for (m, s), size in sorted(plan.units.items())}
    report.moved = plan.read if source.local is None else 0
    job = _Job(source, target, plan, report, reporter or Silent())
    if out is None and target.parent.is_dir():
        job.siblings = [p for p in target.parent.iterdir() if p != target and p.is_dir()]
    try:
        if dry_run:
            job.look()
        else:
            with _claimed(target):
                job.run()
            if on_hub and source.local is None and out is None:
                dataset, revision, _ = dataset_parts(asked)
                remember(dataset, revision, dataset_parts(pinned)[1] or "")
    except OSError as error:
        raise ArchiveError(
            f"{error.filename or target}: {error.strerror or error}; make room or access, and "
            "pull again: it goes on where it stopped"
        ) from error
    return report


def _default_folder(source: Files, asked: str) -> Path:
    if source.local is not None and asked.startswith("hf://"):
        return source.local
    if not source.location.startswith(SCHEME):
        raise ArchiveError(f"{asked}: not of the Hub; say where to with --out")
    dataset, commit, folder = dataset_parts(source.location)
    if folder:
        raise ArchiveError(f"{asked}: a folder of a dataset; say where to with --out")
    return kept_folder(dataset, commit or "")


def _held(target: Path) -> dict[str, Any] | None:
    """Index of what the folder holds; None where there is nothing but an unfinished pull.

    Raises
    ------
    ArchiveError
        There is something else.
    """
    if not target.exists():
        return None
    if not target.is_dir():
        raise ArchiveError(f"{target}: not a folder; choose another --out")
    if (target / ATLAS_FILE).exists():
        return read_index(Files(str(target)))
    strange = sorted(p.name for p in target.iterdir() if p.name not in (STAGING, LOCK))
    if strange and not (target / STAGING).is_dir():
        raise ArchiveError(f"{target}: holds {strange[0]} and no atlas; choose another --out")
    return None


def _is_source(held: dict[str, Any], source: Files) -> bool:
    return bool(held[SEAL] == read_index(source)[SEAL])


def _refuse_less(source: Files, selection: Selection, asked: str) -> None:
    if selection.everything and SUBSET_OF in read_index(source):
        raise SourceError(
            f"{asked}: only a part of it was pulled and HF_HUB_OFFLINE forbids the Hub; unset it, "
            "or name the --models and --sets that were pulled"
        )


@contextmanager
def _claimed(target: Path) -> Iterator[None]:
    """The folder for oneself; nothing but the atlas is left in it when a pull is done."""
    target.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ArchiveError(
            f"{target}: a pull or a build is at work there; wait for it, or choose another --out"
        ) from None
    try:
        yield
        (target / LOCK).unlink(missing_ok=True)
    finally:
        lock.release()


class _Job:
    """One pull into one folder."""

    def __init__(
        self, source: Files, target: Path, plan: Plan, report: PullReport, reporter: Reporter
    ) -> None:
        self.source, self.target, self.plan = source, target, plan
        self.report, self.reporter = report, reporter
        self.stage = target / STAGING / "pull"
        self.stop = threading.Event()
        self.counting = threading.Lock()
        # The same content may have several places; it is fetched once.
        self.wanted: dict[str, list[FileRecord]] = {}
        #: Other commits of the dataset that were pulled: what did not change is copied from them.
        self.siblings: list[Path] = []

    def look(self) -> None:
        """Compare with what is there."""
        for record in self.plan.files:
            if _is(self.target / record.path, record):
                self.report.present += record.bytes
            else:
                self.wanted.setdefault(record.sha256, []).append(record)

    def run(self) -> None:
        """Fetch, check, place."""
        self.look()
        self.check_room()
        self.stage.mkdir(parents=True, exist_ok=True)
        jobs = [records[0] for _, records in sorted(self.wanted.items())]
        self.reporter.stage("pull (kB)", sum(map(_kilobytes, jobs)))
        with ThreadPoolExecutor(THREADS) as pool:
            # Largest first, so that none is left alone at the end.
            futures = [pool.submit(self.have, r) for r in sorted(jobs, key=lambda r: -r.bytes)]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = next((e for e in (f.exception() for f in done) if e is not None), None)
            if failed is not None:
                self.stop.set()
                pool.shutdown(cancel_futures=True)
                raise failed
        self.place()
        shutil.rmtree(self.target / STAGING, ignore_errors=True)

    def check_room(self) -> None:
        """Refuse before the first byte what the disk cannot hold."""
        need = sum(r.bytes for records in self.wanted.values() for r in records)
        need -= sum(p.stat().st_size for p in self.stage.glob("*")) if self.stage.exists() else 0
        free = shutil.disk_usage(self.target).free
        if need > free:
            raise ArchiveError(
                f"{self.target}: {need:,} bytes are to come and {free:,} are free; make room, or "
                "pull less with --models, --sets, --layers"
            )

    def have(self, record: FileRecord) -> None:
        """Bring a content into the staging place, checked."""
        ready = self.stage / record.sha256
        if _is(ready, record):
            self.note(record, present=True)
            return
        for folder in self.siblings:
            if _is(folder / record.path, record):
                shutil.copyfile(folder / record.path, self.stage / f"{record.sha256}.copy")
                (self.stage / f"{record.sha256}.copy").replace(ready)
                self.note(record, present=True)
                return
        part = self.stage / f"{record.sha256}.part"
        for _ in range(TRIES):
            if self.fetch(record, part) == record.sha256:
                part.replace(ready)
                self.note(record, present=False)
                return
            part.unlink()  # damaged on the way, or before; from the start again
        raise ArchiveError(
            f"{self.source.location}/{record.path}: SHA-256 of what came is not the declared one, "
            f"{TRIES} times; nothing of it is kept, tell its publisher"
        )

    def fetch(self, record: FileRecord, part: Path) -> str:
        """Append what is still to come to a partial file; returns the hash of the whole."""
        digest, at = hashlib.sha256(), 0
        with part.open("a+b") as handle:
            handle.seek(0)
            while block := handle.read(BLOCK):
                digest.update(block)
                at += len(block)
            if at > record.bytes:
                handle.truncate(0)
                digest, at = hashlib.sha256(), 0
            self.report_present(at)
            while at < record.bytes:
                if self.stop.is_set():
                    raise ArchiveError(f"{record.path}: stopped; pull again")
                stop = min(at + BLOCK, record.bytes)
                data = self.source.read(record.path, at, stop)
                handle.write(data)
                handle.flush()
                digest.update(data)
                at = stop
                if self.source.local is None:
                    with self.counting:
                        self.report.moved += len(data)
        return digest.hexdigest()

    def report_present(self, size: int) -> None:
        """Count what an earlier pull left."""
        with self.counting:
            self.report.present += size

    def note(self, record: FileRecord, *, present: bool) -> None:
        """One content more is there."""
        with self.counting:
            if present:
                self.report.present += record.bytes
            self.reporter.advance(record.path, _kilobytes(record))

    def place(self) -> None:
        """Move everything to where it belongs; the documents that vouch for it come last."""
        for sha256, records in sorted(self.wanted.items()):
            for record in records[:-1]:
                copy = self.stage / f"{sha256}.copy"
                shutil.copyfile(self.stage / sha256, copy)
                copy.replace(self.free_place(record.path))
            (self.stage / sha256).replace(self.free_place(records[-1].path))
        for path, data in self.plan.made.items():
            scratch = self.stage / "made"
            scratch.write_bytes(data)
            scratch.replace(self.free_place(path))

    def free_place(self, path: str) -> Path:
        """Where a file goes: its folder is made, and lies in the target."""
        file = self.target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.parent.resolve().is_relative_to(self.target.resolve()):
            raise ArchiveError(f"{file}: its folder is a link out of {self.target}; remove it")
        return file


def _kilobytes(record: FileRecord) -> int:
    return -(-record.bytes // 1000)


def _is(path: Path, record: FileRecord) -> bool:
    """Whether a plain file has the declared size and hash."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != record.bytes:
        return False
    return sha256_of(path) == record.sha256
