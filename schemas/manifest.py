# SPDX-License-Identifier: Apache-2.0
"""The manifest of a release: which files it has, and which a release may have at all."""

from __future__ import annotations

import re
from typing import NamedTuple

import pandas as pd
import pandera.pandas as pa

from .archive import ATLAS_FILE, MANIFEST, PARQUET, STORE
from .names import is_portable_path

#: What a file of a release is.
KINDS: tuple[str, ...] = (
    "card", "index", "structures", "embeddings", "parquet", "scores", "registry",
)  # fmt: skip

#: Files that describe a release to people, Croissant readers and citation managers.
CARD_FILES: tuple[str, ...] = ("README.md", "croissant.json", "CITATION.cff")

#: Parts of an atlas folder that belong to its making and are left out of a release.
PRIVATE: tuple[str, ...] = (".staging", ".analysis", ".lock", "runs", "report.html")

#: What a host or a downloader adds beside a release; never part of it, never a fault.
HOST_FILES: tuple[str, ...] = (".gitattributes", ".git", ".cache", ".huggingface")

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HASH = r"^[0-9a-f]{64}$"
_PLACES: tuple[tuple[str, str], ...] = (
    ("index", re.escape(ATLAS_FILE)),
    ("card", "|".join(map(re.escape, CARD_FILES))),
    ("structures", rf"structures/(?P<set>{_NAME})\.parquet"),
    ("registry", rf"registry/{_NAME}\.parquet"),
    ("scores", rf"scores/{_NAME}\.(parquet|json)"),
    ("parquet", rf"{PARQUET}/(?P<model>{_NAME})/(?P<set>{_NAME})\.parquet"),
    ("embeddings", rf"{re.escape(STORE)}/(?P<model>{_NAME})/zarr\.json"),
    ("embeddings", rf"{re.escape(STORE)}/(?P<model>{_NAME})/(?P<set>{_NAME})/.+"),
)


class Place(NamedTuple):
    """What a path of a release holds."""

    kind: str
    model: str | None
    set: str | None


def place_of(path: str) -> Place | None:
    """What the file at this path (relative, with slashes) is; None if no release has it."""
    if not is_portable_path(path):
        return None
    for kind, pattern in _PLACES:
        found = re.fullmatch(pattern, path)
        if found:
            groups = found.groupdict()
            return Place(kind, groups.get("model"), groups.get("set"))
    return None


def _in_place(table: pd.DataFrame) -> pd.Series:
    """Kind, model and set of every row are those its path says."""
    rows = zip(table["path"], table["kind"], table["model"], table["set"], strict=True)
    said = [place_of(p) == (k, *(None if pd.isna(v) else v for v in rest)) for p, k, *rest in rows]
    return pd.Series(said, index=table.index, dtype=bool)


#: One row a file of the release but the manifest itself, sorted by path.
MANIFEST_TABLE = pa.DataFrameSchema(
    {
        "path": pa.Column(
            str,
            [
                pa.Check.str_matches(r"^[^/\\]+(/[^/\\]+)*$"),
                pa.Check(lambda p: p != MANIFEST, name="not_itself"),
            ],
            unique=True,
        ),
        "bytes": pa.Column("int64", pa.Check.ge(0)),
        "sha256": pa.Column(str, pa.Check.str_matches(_HASH)),
        "kind": pa.Column(str, pa.Check.isin(KINDS)),
        # Text or null; pandas gives such a column a type that depends on its version.
        "model": pa.Column(None, nullable=True),
        "set": pa.Column(None, nullable=True),
        "content_sha256": pa.Column(None, pa.Check.str_matches(_HASH), nullable=True),
    },
    checks=[
        pa.Check(_in_place, name="in_place", error="a path is not one a release has"),
        pa.Check(
            lambda t: t["path"].str.casefold().is_unique,
            name="apart",
            error="two paths differ by the case of letters only",
        ),
        pa.Check(
            lambda t: t["path"].is_monotonic_increasing,
            name="sorted",
            error="rows are not sorted by path",
        ),
    ],
    strict=True,
    ordered=True,
    name="manifest",
)
