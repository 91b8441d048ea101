# SPDX-License-Identifier: Apache-2.0
"""Freeze an atlas as a release: an immutable folder named by its semantic version.

Everything is put together in a staging folder beside the releases and moved into place whole, so a
killed release leaves nothing that a reader would take for one. Data files are hard links where the
file system has them: builds replace files by renaming, never in place, so the links keep what was
released. Equal inputs give equal bytes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..registry.diff import diff
from ..registry.files import Files
from ..registry.hub import sha256_of
from ..registry.index import read_index, seal, unit_records, unseal, write_json
from ..registry.manifest import Manifest, read_manifest, release_files, write_manifest
from ..registry.parquet import read_arrow
from ..registry.validate import validate
from ..registry.versions import Version, is_version, latest
from ..schemas.archive import ATLAS_FILE, MANIFEST, STAGING, UNRELEASED
from ..schemas.errors import ArchiveError
from ..schemas.manifest import CARD_FILES, PRIVATE, place_of
from ..schemas.scores import ANALYSIS
from .citation import release_date, write_citation
from .croissant import write_croissant
from .dataset_card import write_card
from .locking import root_lock

#: The list of releases, for readers of ``FOLDER@latest``.
RELEASES = "releases.json"
#: The first release. Its number promises what later ones will keep, which 0.x would not.
FIRST = Version(1, 0, 0)

#: A file system without hard links, or without room for one more, says so with one of these.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}


@dataclass
class ReleaseReport:
    """A release that was made.

    Attributes
    ----------
    step, why :
        What the differences from the parent call for, and one line a reason; ``first`` without one.
    linked : int
        Files shared with the atlas by hard links; the others were written or copied.
    """

    path: Path
    version: str
    parent: str | None
    step: str
    why: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    linked: int = 0
    manifest_sha256: str = ""

    def summary(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return {**asdict(self), "path": str(self.path)}

    def text(self) -> str:
        """A few lines for a reader."""
        origin = f"{self.step} step from {self.parent}" if self.parent else "the first release"
        return "\n".join(
            [
                f"{self.path}: release {self.version}, {origin}",
                f"  {self.files} files, {self.bytes:,} bytes, {self.linked} files shared by links",
                f"  {MANIFEST}: sha256 {self.manifest_sha256}",
                *(f"  {line}" for line in self.why),
            ]
        )


def release(
    path: str | Path,
    *,
    out: str | Path,
    version: str | None = None,
    parent: str | Path | None = None,
    date: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> ReleaseReport:
    """Freeze the atlas at ``path`` as ``out/<version>``; the atlas stays as it is.

    Parameters
    ----------
    path :
        An atlas that is no release and that validates.
    out :
        Folder of releases; made if absent.
    version :
        Semantic version. By default the parent's, raised by what the differences call for; the
        first release is 1.0.0.
    parent :
        Release the atlas grew from: a folder, or a version in ``out``. By default the highest
        version in ``out``; none makes this a first release.
    date :
        ``YYYY-MM-DD`` of publication; by default the day of ``$SOURCE_DATE_EPOCH``, else none.
    progress :
        Called with the name of each thing about to be done.

    Raises
    ------
    ArchiveError
        The atlas has a fault, the version is taken or too low for what changed, or nothing
        changed; naming the file and the mend.
    """
    source, target = Path(path), Path(out)
    day = release_date(date)
    tell = progress or (lambda _: None)
    index = read_index(Files(str(source)))
    if index["version"] != UNRELEASED:
        raise ArchiveError(
            f"{source}: is release {index['version']} already; give the atlas it was made from"
        )
    if target.resolve().is_relative_to(source.resolve()):
        raise ArchiveError(f"{target}: lies inside the atlas; choose another --out")
    target.mkdir(parents=True, exist_ok=True)
    try:
        with root_lock(target), root_lock(source):
            return _release(source, target, version, parent, day, tell)
    except OSError as error:
        raise ArchiveError(
            f"{target}: {error.strerror or error}; make room or access, and release again"
        ) from error


def list_releases(out: Path) -> list[str]:
    """Versions of the complete releases in a folder, ascending."""
    folders = {p.parent.name for p in out.glob(f"*/{MANIFEST}")}
    return sorted(filter(is_version, folders), key=lambda v: (Version.parse(v), v))


def _release(
    source: Path,
    out: Path,
    version: str | None,
    parent: str | Path | None,
    day: str | None,
    tell: Callable[[str], None],
) -> ReleaseReport:
    """Hold the locks of both folders."""
    shutil.rmtree(out / STAGING, ignore_errors=True)  # of releases that were killed
    _write_list(out)
    origin = _parent(out, parent)
    tell(f"validate {source}")
    _check(source, tell)
    report = ReleaseReport(path=out, version="", parent=None, step="first")
    before: Manifest | None = None
    if origin is not None:
        tell(f"compare with {origin}")
        before = read_manifest(origin)
        found = diff(origin, source)
        report.parent, report.step, report.why = before.version, found.step, found.why
    chosen = _version(source, out, version, report)
    stage = out / STAGING / f"{chosen}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    stage.mkdir(parents=True)
    try:
        hashes = _fill(source, stage, str(chosen), report)
        tell("describe")
        write_card(stage, date=day)
        write_citation(stage, version=str(chosen), date=day)
        write_croissant(stage, date=day, hashes=hashes)
        manifest = write_manifest(
            stage, version=str(chosen), parent=before, hashes=hashes, progress=tell
        )
        stage.rename(out / str(chosen))
    finally:
        shutil.rmtree(out / STAGING, ignore_errors=True)
    _write_list(out)
    report.path, report.version = out / str(chosen), str(chosen)
    report.files = len(manifest.files) + 1
    size = (report.path / MANIFEST).stat().st_size
    report.bytes = int(manifest.files["bytes"].sum()) + size
    report.manifest_sha256 = manifest.sha256
    return report


def _parent(out: Path, parent: str | Path | None) -> Path | None:
    """Folder of the release this one grew from."""
    if parent is None:
        newest = latest(list_releases(out))
        return out / newest if newest else None
    for folder in (Path(parent), out / parent):
        if (folder / MANIFEST).exists():
            return folder
    raise ArchiveError(
        f"{parent}: no release there; {out} holds {', '.join(list_releases(out)) or 'none'}"
    )


def _check(source: Path, tell: Callable[[str], None]) -> None:
    """Refuse an atlas that is not sound, not finished, or scored before it was changed."""
    found = validate(source, progress=tell)
    wrong = [*found.faults, *found.notes]
    if wrong:
        more = f" (and {len(wrong) - 1} more; run: matteratlas validate {source})"
        raise ArchiveError(f"{source}: {wrong[0]}{more if len(wrong) > 1 else ''}")
    if not found.units:
        raise ArchiveError(f"{source}: holds no embeddings; run: matteratlas build --out {source}")
    for name in release_files(source):
        foreign = place_of(name) is None and name.split("/")[0] not in PRIVATE
        if foreign or (source / name).is_symlink():
            raise ArchiveError(f"{source / name}: no file of a release; remove it")
    if not (source / ANALYSIS).exists():
        return
    inputs = unseal((source / ANALYSIS).read_bytes(), where=str(source / ANALYSIS))["inputs"]
    index = read_index(Files(str(source)))
    units = sorted(
        f"{model}/{set_id}:{unit['content_sha256']}"
        for model, entry in index["models"].items()
        for set_id, unit in entry["units"].items()
    )
    if sorted(inputs["units"]) != units:
        raise ArchiveError(
            f"{source / ANALYSIS}: scores are of other embeddings than are here; "
            f"run: matteratlas analyze {source}"
        )


def _version(source: Path, out: Path, wanted: str | None, report: ReleaseReport) -> Version:
    """The version to give, checked against the parent and against what is there."""
    if report.parent is None:
        chosen, least = FIRST, None
    elif report.step == "none":
        if wanted is None:
            raise ArchiveError(
                f"{source}: holds what release {report.parent} holds; nothing to release"
            )
        least = chosen = Version.parse(report.parent)
    else:
        least = chosen = Version.parse(report.parent).bump(report.step)  # type: ignore[arg-type]
    if wanted is not None:
        chosen = Version.parse(wanted)
    taken = {Version.parse(v): v for v in list_releases(out)}
    if chosen in taken or (out / str(chosen)).exists():
        raise ArchiveError(
            f"{out / taken.get(chosen, str(chosen))}: exists, and releases never change; "
            "give a higher --version"
        )
    if report.parent is not None and not chosen > Version.parse(report.parent):
        raise ArchiveError(
            f"version {chosen} does not come after its parent {report.parent}; "
            f"give {least if report.step != 'none' else 'a higher one'}"
        )
    if least is not None and chosen.core < least.core:
        raise ArchiveError(
            f"version {chosen} is too low after {report.parent}: {report.why[0]}, which makes a "
            f"{report.step} step; give at least {least}"
        )
    return chosen


def _fill(source: Path, stage: Path, version: str, report: ReleaseReport) -> dict[str, str]:
    """Put the data into the staging folder; returns hashes that the validation vouches for."""
    index = read_index(Files(str(source)))
    vouched = {p: str(f["sha256"]) for p, f in index["files"].items()}
    for record in unit_records(source):
        vouched |= {f.path: f.sha256 for f in record.files}
    hashes = {}
    for name in release_files(source):
        place = place_of(name)
        if place is None or name == ATLAS_FILE or name in CARD_FILES:
            continue
        file = stage / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if place.kind == "scores":
            _stamp(source / name, file, version)
        elif _link(source / name, file):
            report.linked += 1
            if name in vouched:
                hashes[name] = vouched[name]
    if (stage / ANALYSIS).exists():
        _stamp_record(stage, version)
    write_json(seal({**index, "version": version}), stage / ATLAS_FILE)
    return hashes


def _link(source: Path, target: Path) -> bool:
    """Share a file by a hard link, or copy it where that cannot be; whether it is shared."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, target)
        return False
    return True


def _stamp(source: Path, target: Path, version: str) -> None:
    """Copy a score table, naming in its rows the release they are now part of."""
    if source.suffix != ".parquet":
        shutil.copyfile(source, target)
        return
    table = read_arrow(source)
    if "release" not in table.column_names:
        shutil.copyfile(source, target)
        return
    column = pa.array([version] * len(table), pa.string())
    table = table.set_column(table.column_names.index("release"), "release", column)
    pq.write_table(
        table,
        target,
        compression="zstd",
        write_page_index=True,
        write_page_checksum=True,
        use_content_defined_chunking=True,
    )


def _stamp_record(stage: Path, version: str) -> None:
    """The analysis's record with the release's name and the hashes of the stamped tables."""
    path = stage / ANALYSIS
    record = unseal(path.read_bytes(), where=str(path))
    tables = {
        name: {
            **about,
            "bytes": (stage / name).stat().st_size,
            "sha256": sha256_of(stage / name),
        }
        for name, about in record["tables"].items()
    }
    write_json(seal({**record, "release": version, "tables": tables}), path)


def _write_list(out: Path) -> None:
    """Bring the list of releases up to date with the folders there are."""
    content: Mapping[str, Any] = {"releases": list_releases(out)}
    path = out / RELEASES
    try:
        if json.loads(path.read_text(encoding="utf-8")) == content:
            return
    except (FileNotFoundError, ValueError):
        pass  # absent or damaged: it is derived, so it is written anew
    write_json(dict(content), path)
