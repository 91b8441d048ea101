# SPDX-License-Identifier: Apache-2.0
"""``manifest.parquet``: every file of a release, sealed, and the check of a folder against it.

The manifest carries a SHA-256 of its own bytes: the digest is taken with the place of the digest
filled by :data:`BLANK`, then written into that place. One changed byte anywhere, footer included,
breaks the seal.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandera.errors import SchemaError

from ..schemas.archive import FORMAT_VERSION, MANIFEST, check_format
from ..schemas.documents import parse_json
from ..schemas.errors import ArchiveError
from ..schemas.manifest import HOST_FILES, MANIFEST_TABLE, place_of
from ..schemas.names import check_texts
from .digest import table_digest
from .hub import sha256_of
from .parquet import UNREADABLE, decoded, open_parquet

#: Packages that decide the bytes of a release.
TOOLS: tuple[str, ...] = ("matteratlas", "numcodecs", "numpy", "pyarrow", "zarr")
#: Keys of the file's metadata.
ABOUT, SEAL = "matteratlas", "matteratlas.sha256"
#: Stands in the seal's place while the seal is computed.
BLANK = "0" * 64
#: A version or a hash.
_WORD = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")

_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("kind", pa.string()),
        ("model", pa.string()),
        ("set", pa.string()),
        ("content_sha256", pa.string()),
    ]
)


@dataclass(frozen=True)
class Parent:
    """The release that a release grew from."""

    version: str
    manifest_sha256: str


@dataclass(frozen=True)
class Manifest:
    """A checked manifest.

    Attributes
    ----------
    files : pandas.DataFrame
        One row a file: path, bytes, sha256, kind, model, set, content_sha256.
    sha256 : str
        Of the manifest file itself.
    """

    version: str
    format_version: str
    parent: Parent | None
    tools: dict[str, str]
    files: pd.DataFrame
    sha256: str


def tool_versions() -> dict[str, str]:
    """Versions of what decides the bytes of a release; Python by its minor."""
    major, minor, _ = platform.python_version_tuple()
    return {"python": f"{major}.{minor}", **{name: metadata.version(name) for name in TOOLS}}


def release_files(root: Path) -> Iterator[str]:
    """Paths of all files below a folder, sorted, but the manifest and what hosts add."""
    found = []
    for folder, folders, names in os.walk(root):
        here = Path(folder).relative_to(root)
        if here == Path():
            folders[:] = [f for f in folders if f not in HOST_FILES]
            names = [n for n in names if n not in HOST_FILES and n != MANIFEST]
        # A link to a folder is listed among the folders and never entered.
        names += [f for f in folders if (Path(folder) / f).is_symlink()]
        found += [(here / name).as_posix() for name in names]
    yield from sorted(found)


def write_manifest(
    root: Path,
    *,
    version: str,
    parent: Manifest | None = None,
    hashes: Mapping[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Manifest:
    """Hash every file of a folder and write its manifest, last of all.

    Equal folders give equal bytes. Content digests of files that the parent has with the same
    SHA-256 are taken over from it; only new tables are read.

    Parameters
    ----------
    hashes :
        SHA-256 of files, by path, that were just checked; these are not hashed again.

    Raises
    ------
    ArchiveError
        A file that no release has, a link, or an unreadable table; by name.
    """
    known: dict[str, Any] = {}
    if parent is not None:
        known = dict(zip(parent.files["sha256"], parent.files["content_sha256"], strict=True))
    paths = list(release_files(root))

    def row(path: str) -> dict[str, Any]:
        place = place_of(path)
        if place is None or (root / path).is_symlink():
            raise ArchiveError(f"{root / path}: no file of a release; remove it")
        if progress:
            progress(path)
        sha256 = (hashes or {}).get(path) or sha256_of(root / path)
        content = known.get(sha256)
        if content is None or pd.isna(content):
            content = _content(root, path)
        size = (root / path).stat().st_size
        return {"path": path, "bytes": size, "sha256": sha256, **place._asdict()} | {
            "content_sha256": content
        }

    table = pa.Table.from_pylist(_parallel(row, paths), schema=_SCHEMA)
    about = {
        "format_version": FORMAT_VERSION,
        "version": version,
        "parent": None
        if parent is None
        else {"version": parent.version, "manifest_sha256": parent.sha256},
        "tools": tool_versions(),
    }
    data = _sealed(table, about)
    found = parse_manifest(data, where=str(root / MANIFEST))
    scratch = root / f".{MANIFEST}.{os.getpid()}.part"
    try:
        scratch.write_bytes(data)
        scratch.replace(root / MANIFEST)
    finally:
        scratch.unlink(missing_ok=True)
    return found


def _content(root: Path, path: str) -> str | None:
    """Content digest of a table, or of the unit whose commit record this is."""
    if path.endswith(".parquet"):
        return table_digest(root / path)
    place = place_of(path)
    if place and place.kind == "embeddings" and place.set and path.count("/") == 3:
        try:
            record = json.loads((root / path).read_text(encoding="utf-8"))
            return str(record["attributes"]["matemb"]["content_sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise ArchiveError(
                f"{root / path}: no commit record of a unit ({error}); build the unit again"
            ) from error
    return None


def _sealed(table: pa.Table, about: dict[str, Any]) -> bytes:
    text = json.dumps(about, sort_keys=True, separators=(",", ":"))
    handle = io.BytesIO()
    with pq.ParquetWriter(
        handle,
        table.schema,
        compression="zstd",
        write_page_index=True,
        write_page_checksum=True,
        store_schema=False,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({ABOUT: text, SEAL: BLANK})
    blank = handle.getvalue()
    if blank.count(BLANK.encode()) != 1:
        raise ArchiveError(f"{MANIFEST}: the place of its seal is not unique; report this release")
    return blank.replace(BLANK.encode(), hashlib.sha256(blank).hexdigest().encode())


def parse_manifest(data: bytes, *, where: str) -> Manifest:
    """A manifest from its bytes.

    Raises
    ------
    ArchiveError
        Not a manifest, altered since it was written, or of a newer format.
    """
    mend = "restore the file from the release"
    try:
        file = open_parquet(io.BytesIO(data), size=len(data))
        keys = {k.decode(): v.decode() for k, v in (file.metadata.metadata or {}).items()}
        seal, about = keys[SEAL], parse_json(keys[ABOUT])
        if len(seal) != len(BLANK) or _unsealed(data, seal) != seal:
            raise ArchiveError(f"{where}: altered since it was written; {mend}")
        table = decoded(file.read(), size=len(data)).to_pandas(ignore_metadata=True)
        check_format(str(about["format_version"]), where=where)
        parent = None if about["parent"] is None else Parent(**about["parent"])
        said = [about["version"], *([parent.version, parent.manifest_sha256] if parent else [])]
        if not all(isinstance(text, str) and _WORD.fullmatch(text) for text in said):
            raise ValueError(f"version {said[0]!r:.60} or its parent's is none")
        if not all(isinstance(text, str) for pair in about["tools"].items() for text in pair):
            raise ValueError("tools without versions")
        check_texts(about["tools"])
        manifest = Manifest(
            version=about["version"],
            format_version=about["format_version"],
            parent=parent,
            tools=about["tools"],
            files=MANIFEST_TABLE.validate(table),
            sha256=hashlib.sha256(data).hexdigest(),
        )
    except SchemaError as error:
        text = str(error).splitlines()[0][:200].encode("ascii", "backslashreplace").decode()
        raise ArchiveError(f"{where}: {text}; {mend}") from error
    except (*UNREADABLE, KeyError) as error:
        raise ArchiveError(f"{where}: not a manifest ({error}); {mend}") from error
    return manifest


def _unsealed(data: bytes, seal: str) -> str:
    return hashlib.sha256(data.replace(seal.encode(), BLANK.encode())).hexdigest()


def read_manifest(root: Path) -> Manifest:
    """The manifest of a release folder; see :func:`parse_manifest` for what it raises."""
    path = root / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ArchiveError(
            f"{path}: missing; {root} is not a release, run: matteratlas release {root}"
        ) from error
    except OSError as error:
        raise ArchiveError(
            f"{path}: cannot be read ({error.strerror or error}); restore the file from the release"
        ) from error
    return parse_manifest(data, where=str(path))


def check_manifest(
    root: Path, *, partial: bool = False, progress: Callable[[str], None] | None = None
) -> list[str]:
    """Faults of a release folder against its manifest, one line each, in order of path.

    Parameters
    ----------
    partial :
        Only part of the release was downloaded: absent files are no fault.
    progress :
        Called with the path of each file about to be hashed.
    """
    try:
        manifest = read_manifest(root)
    except ArchiveError as error:
        return [str(error)]
    columns = zip(*(manifest.files[c] for c in ("path", "bytes", "sha256")), strict=True)
    listed = {str(path): (int(size), str(sha256)) for path, size, sha256 in columns}

    def fault(path: str) -> str | None:
        declared, file = listed.get(path), root / path
        if declared is None:
            return f"{path}: foreign, not in {MANIFEST}; remove it"
        if not os.path.lexists(file):
            return None if partial else f"{path}: missing; restore it from release {found}"
        if file.is_symlink() or not file.is_file():
            return f"{path}: not a plain file; restore it from release {found}"
        if progress:
            progress(path)
        size, (whole, sha256) = file.stat().st_size, declared
        if size != whole:
            what = "truncated" if size < whole else "too long"
            return f"{path}: {what}, {size} bytes of {whole}; restore it from release {found}"
        if sha256_of(file) != sha256:
            return f"{path}: altered, SHA-256 differs; restore it from release {found}"
        return None

    found = manifest.version
    paths = sorted(set(listed) | set(release_files(root)))
    return [line for line in _parallel(fault, paths) if line]


def _parallel(work: Callable[[str], Any], paths: list[str]) -> list[Any]:
    """Results in the order of the paths; hashing lets go of the interpreter's lock."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, paths))
