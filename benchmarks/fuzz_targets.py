# SPDX-License-Identifier: Apache-2.0
"""What the fuzzer asks of a forged atlas or release: every way of reading, checking and writing.

Each takes the folder and gives a text to compare; :class:`WrongError` where the answer is none.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

import matteratlas as ma
from matteratlas.analysis.report import write_report
from matteratlas.builders.build import open_root
from matteratlas.builders.croissant import croissant
from matteratlas.builders.dataset_card import card
from matteratlas.builders.locking import root_lock
from matteratlas.builders.merge import merge
from matteratlas.builders.release import release
from matteratlas.registry.commit import settle
from matteratlas.registry.diff import diff
from matteratlas.registry.manifest import check_manifest, read_manifest
from matteratlas.registry.validate import validate
from matteratlas.schemas.errors import AtlasError
from matteratlas.schemas.scores import SCORE_TABLES

#: Folder of the real atlas and its release.
BASE: list[Path] = [Path()]


class WrongError(Exception):
    """An operation answered with what it should not."""


def digest(*parts: Any) -> str:
    """Hash of tables and arrays, in time and room of the order of their own."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, pd.DataFrame):
            for i, name in enumerate(part.columns):
                found.update(f"{name} {part.dtypes.iloc[i]}".encode("utf-8", "surrogatepass"))
                for cell in part.iloc[:, i].tolist():
                    text = cell if isinstance(cell, str) else json.dumps(cell, default=_shown)
                    found.update(text.encode("utf-8", "surrogatepass") + b"\0")
        elif part.dtype == object:
            found.update(json.dumps(part.tolist(), default=_shown).encode())
        else:
            found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()


def _shown(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else repr(value)


def tables(root: Path) -> str:
    """Every table by the index, the cards and structures."""
    atlas = ma.open_atlas(root)
    found = [repr(atlas).replace(str(root), ""), atlas.version, list(atlas.set_ids)]
    frames = [atlas.units, atlas.models, atlas.sets, atlas.structures]
    for path in sorted(atlas.index["files"])[:12]:
        frames.append(atlas.table(path))
    found += [repr(atlas.structure(one)) for one in atlas.structures["id"].head(1)]
    return repr(found) + digest(*frames)


def scores(root: Path) -> str:
    """Every score table that the real atlas has."""
    atlas = ma.open_atlas(root)
    held = json.loads((BASE[0] / "atlas/scores/analysis.json").read_bytes())["tables"]
    return digest(*(atlas.table(path) for path in SCORE_TABLES if path in held))


def vectors(root: Path) -> str:
    """Every vector, by all ways."""
    atlas = ma.open_atlas(root)
    found: list[Any] = []
    for model in list(atlas.index["models"])[:4]:
        rows = atlas.rows(model)
        for layer, dim in list(atlas.index["models"][model]["layers"].items())[:6]:
            array = atlas.embeddings(model, layer=layer)
            values = array.to_numpy()
            if values.dtype != np.float32 or values.shape != (len(rows), dim):
                raise WrongError(f"{model}: {values.dtype} {values.shape}")
            missing = array["reason"].to_numpy() != ""
            if not np.isnan(values[missing]).all():
                raise WrongError(f"{model}: missing rows with values")
            found.append(values)
        read = atlas.read(model)
        found += [read.to_numpy(), rows.drop(columns="linked")]
        held = rows.loc[rows["reason"] == "", "id"]
        kept = [atlas.unit(model, s).nodes(n) for s in atlas.index["models"][model]["units"]
                for n in atlas.index["models"][model]["layers"]]  # fmt: skip
        if len(held) and any(array is not None for array in kept):
            found += [atlas.nodes(model, held.iloc[-1]).to_numpy()]
            found += [array.read() for array in kept if array is not None]
    both = list(atlas.index["models"])[:2]
    common = atlas.aligned(both)
    found += [common[m].to_numpy() for m in both]
    return digest(*found)


def check(root: Path) -> str:
    """Validation: any number of faults, a line each."""
    found = validate(root, deep=True)
    lines([*found.faults, *found.notes])
    return "" if found.ok else "faults"


def manifest(root: Path) -> str:
    """The manifest, and the folder against it."""
    found = check_manifest(root)
    lines(found)
    return read_manifest(root).files.to_csv() + ("faults" if found else "")


def listed(root: Path) -> str:
    """The manifest alone."""
    return read_manifest(root).files.to_csv()


def lines(found: list[str]) -> None:
    for line in found:
        if not isinstance(line, str) or str(AtlasError(line)) != line:
            raise WrongError(f"not a line: {line!r}"[:200])


def compare(root: Path) -> str:
    """Differences from the real one, both ways."""
    base = BASE[0] / ("releases/1.0.0" if (root / "manifest.parquet").exists() else "atlas")
    one, other = diff(base, root), diff(root, base)
    return json.dumps([one.step, other.step, one.why, other.why])


def describe(root: Path) -> str:
    """Card and Croissant, which must say nothing that runs or loads."""

    said = card(root)
    head = yaml.safe_load(said.split("---\n")[1])
    if not isinstance(head, dict) or head["license"] != "other":
        raise WrongError("the card's head is another")
    text = said.split("---\n", 2)[2]
    for bad in ("<script", "<img", "](javascript", "![x]", "\x1b", "\u202e"):
        if bad in text:
            raise WrongError(f"the card holds {bad!r}")
    if json.loads((root / "atlas.json").read_bytes())["version"] == "unreleased":
        return said
    return said + json.dumps(croissant(root))


def page(root: Path) -> str:
    """The report, whose scripts are its own."""
    out = write_report(str(root), out=root.parent / "page.html")
    text = Path(out).read_text(encoding="utf-8")
    for bad in ("<script>alert", "<img src=x", "<b>x", 'href="javascript'):
        if bad in text.lower():
            raise WrongError(f"the page holds {bad!r}")
    return ""


def merged(root: Path) -> str:
    """Merged into a new atlas, and the real one merged into it."""
    merge(root.parent / "merged", [root])
    return check(root.parent / "merged")


def grown(root: Path) -> str:
    """Written to: an interrupted change settled, the real atlas merged in."""
    open_root(root)
    with root_lock(root):
        settle(root, scratch=root / ".staging" / "fuzz")
    return ""


def released(root: Path) -> str:
    """Frozen as a release."""
    made = release(root, out=root.parent / "releases")
    return check(made.path)


#: What reads a kind of forgery: always, and one of the others by chance.
READS: dict[str, tuple[Any, ...]] = {
    "index": (tables, vectors), "pending files": (grown,), "unit metadata": (vectors,),
    "shards": (vectors,), "analysis record": (scores,), "manifests": (manifest,),
    "structure tables": (tables,), "registry tables": (tables,), "score tables": (scores,),
    "twin tables": (check,), "releases": (tables, scores, vectors),
}  # fmt: skip
OTHERS: dict[Any, int] = {
    check: 35, compare: 20, describe: 20, grown: 8, merged: 6, page: 6, released: 5,
}  # fmt: skip
ANSWERING = (tables, scores, vectors)
