# SPDX-License-Identifier: Apache-2.0
"""Damage a real release in every way, one fault at a time: what do validate and the reader say?

    python benchmarks/faults.py [--flips 6] [--seed 0]

Builds a small real atlas whose arrays have several shards, analyses it, freezes it, and then, for a
sample of every kind of file: flips one byte, truncates, deletes; swaps shards and units, renames,
adds foreign files, replaces a file by a link. ``validate`` must name the file. A reader that uses
the file must raise, or give exactly the values of the sound atlas: anything else is SILENT.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd

from matteratlas import open_atlas, validate
from matteratlas.analysis.analyze import analyze
from matteratlas.builders import encode
from matteratlas.builders.build import build
from matteratlas.builders.release import release
from matteratlas.schemas import archive
from matteratlas.schemas.errors import AtlasError

MODELS = ["chgnet-0.3.0", "mat2vec", "morgan", "random-128"]
SETS = ["g2", "elements"]


@dataclass(frozen=True)
class Outcome:
    """One fault and what came of it."""

    kind: str
    path: str
    fault: str
    named: bool
    said: str
    reading: str


@contextmanager
def small_shards() -> Iterator[None]:
    """Chunks of 8 rows and shards of few chunks, so that a small atlas has several of both."""
    with (
        patch.object(archive, "CHUNK_ROWS", (8, 8)),
        patch.object(archive, "SHARD_BYTES", 4096),
        patch.object(encode, "COLUMN_CHUNK_ROWS", 16),
        patch.object(encode, "COLUMN_SHARD_ROWS", 32),
    ):
        yield


def make_release(folder: Path) -> Path:
    """A real release of four models on two sets, scores included."""
    root = folder / "atlas"
    with small_shards():
        report = build(root, models=MODELS, sets=SETS, selection="starter", workers=0)
    if report.failed:
        raise SystemExit(f"the atlas could not be built: {report.failed[0].error}")
    analyze(root, permutations=20)
    return release(root, out=folder / "releases").path


def kinds(root: Path) -> dict[str, list[str]]:
    """Every kind of file of a release and files of that kind."""
    unit = "embeddings.zarr/chgnet-0.3.0/elements"
    patterns = {
        "index": "atlas.json",
        "manifest": "manifest.parquet",
        "dataset card": "README.md",
        "croissant": "croissant.json",
        "citation": "CITATION.cff",
        "structures": "structures/*.parquet",
        "registry table": "registry/*.parquet",
        "model metadata": "embeddings.zarr/*/zarr.json",
        "unit metadata": "embeddings.zarr/*/*/zarr.json",
        "array metadata": f"{unit}/*/zarr.json",
        "vectors": f"{unit}/conv_4/c/*/0",
        "node vectors": f"{unit}/conv_4.nodes/c/*/0",
        "ids": f"{unit}/structure_id/c/*",
        "reasons": f"{unit}/reason/c/*",
        "energies": f"{unit}/energy/c/*",
        "row sizes": f"{unit}/row_size/c/*",
        "parquet twin": "parquet/*/*.parquet",
        "scores": "scores/*.parquet",
        "analysis record": "scores/analysis.json",
    }
    found = {
        kind: sorted(p.relative_to(root).as_posix() for p in root.glob(pattern))
        for kind, pattern in patterns.items()
    }
    empty = [kind for kind, paths in found.items() if not paths]
    if empty:
        raise SystemExit(f"no file of kind {empty}")
    return found


def read_all(root: Path) -> dict[str, object]:
    """Everything a reader can ask for; each value, or the error it raised."""
    asks: dict[str, Callable[[], object]] = {
        "structures": lambda: open_atlas(root).structures,
        "models": lambda: open_atlas(root).models,
        "sets": lambda: open_atlas(root).sets,
        "nodes": lambda: (
            open_atlas(root)
            .nodes("chgnet-0.3.0", str(open_atlas(root).unit("chgnet-0.3.0", "elements").ids()[0]))
            .values
        ),
        "aligned": lambda: open_atlas(root).aligned(MODELS[:2])["mat2vec"].values,
        "all nodes": lambda: open_atlas(root).unit("chgnet-0.3.0", "elements").nodes("conv_4")[:],
    }
    for model in MODELS:
        asks[f"{model} vectors"] = lambda m=model: open_atlas(root).embeddings(m).values
        asks[f"{model} rows"] = lambda m=model: open_atlas(root).rows(m)
        asks[f"{model} read"] = lambda m=model: open_atlas(root).read(m, slice(40, 60)).values
    for path in sorted(p for p in SCORES if p):
        asks[path] = lambda p=path: open_atlas(root).table(p)
    said: dict[str, object] = {}
    for name, ask in asks.items():
        try:
            said[name] = ask()
        except AtlasError as error:
            said[name] = error
    return said


SCORES = ["scores/pairs.parquet", "scores/gaps.parquet", "scores/coverage.parquet"]


def same(a: object, b: object) -> bool:
    """Equal values, NaN where NaN."""
    if isinstance(a, pd.DataFrame) and isinstance(b, pd.DataFrame):
        return a.shape == b.shape and bool(a.astype(str).equals(b.astype(str)))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
    return False


def judge(root: Path, sound: dict[str, object], kind: str, path: str, fault: str) -> Outcome:
    """What validate and the reader say of ``root`` as it is now."""
    try:
        faults = validate(root).faults
    except AtlasError as error:
        faults = [str(error)]
    mine = [f for f in faults if path in f]
    now = read_all(root)
    raised = sum(isinstance(v, AtlasError) for v in now.values())
    silent = [
        name
        for name, value in now.items()
        if not isinstance(value, AtlasError) and not same(sound[name], value)
    ]
    reading = f"SILENT: {silent[0]}" if silent else f"{raised} of {len(now)} raise"
    said = (mine or faults or ["valid"])[0].replace(str(root), "")
    return Outcome(kind, path, fault, bool(mine), said[:110], reading)


def damage_files(
    root: Path, sound: dict[str, object], *, flips: int, files: int, seed: int
) -> Iterator[Outcome]:
    """Flip, truncate and delete files of every kind; each is put back before the next."""
    random_ = random.Random(seed)
    for kind, paths in kinds(root).items():
        for path in random_.sample(paths, min(files, len(paths))):
            target = root / path
            content = target.read_bytes()
            ends = [0, len(content) - 1][: max(0, flips - 1)]
            places = ends + [random_.randrange(len(content)) for _ in range(flips - len(ends))]
            faults: list[tuple[str, bytes | None]] = []
            for place in places:
                flipped = bytearray(content)
                flipped[place] ^= 1 << random_.randrange(8)
                faults.append((f"byte {place} of {len(content)} flipped", bytes(flipped)))
            faults += [("truncated", content[: len(content) // 2]), ("deleted", None)]
            for fault, data in faults:
                target.unlink()  # released files are hard links: never write into them
                if data is not None:
                    target.write_bytes(data)
                yield judge(root, sound, kind, path, fault)
                target.unlink(missing_ok=True)
                target.write_bytes(content)


def damage_tree(root: Path, sound: dict[str, object]) -> Iterator[Outcome]:
    """Swap, rename, add and link; each is put back before the next."""
    unit = "embeddings.zarr/chgnet-0.3.0"
    for kind, a, b in (
        ("vectors", f"{unit}/elements/conv_4/c/0/0", f"{unit}/elements/conv_4/c/1/0"),
        ("ids", f"{unit}/elements/structure_id/c/0", f"{unit}/elements/structure_id/c/1"),
        ("vectors", f"{unit}/elements/conv_4/c/0/0", f"{unit}/elements/conv_3/c/0/0"),
        ("unit", f"{unit}/elements", f"{unit}/g2"),
        ("structures", "structures/elements.parquet", "structures/g2.parquet"),
        ("model", unit, "embeddings.zarr/random-128"),
        ("parquet twin", "parquet/mat2vec/g2.parquet", "parquet/mat2vec/elements.parquet"),
    ):
        _swap(root / a, root / b)
        yield judge(root, sound, kind, a, f"swapped with {b.removeprefix(unit + '/')}")
        _swap(root / a, root / b)
    for kind, a, b in (
        ("model", unit, "embeddings.zarr/chgnet-9"),
        ("unit", f"{unit}/g2", f"{unit}/g3"),
        ("structures", "structures/g2.parquet", "structures/g3.parquet"),
        ("scores", "scores/pairs.parquet", "scores/pears.parquet"),
    ):
        (root / a).rename(root / b)
        yield judge(root, sound, kind, a, f"renamed {Path(b).name}")
        (root / b).rename(root / a)
    for path in (
        "notes.txt",
        "structures/extra.parquet",
        "scores/extra.parquet",
        f"{unit}/extra.json",
        f"{unit}/g2/extra",
        f"{unit}/g2/conv_4/c/9/0",
        "parquet/chgnet-0.3.0/other.parquet",
        "registry/extra.parquet",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"foreign")
        yield judge(root, sound, "foreign file", path, "added")
        (root / path).unlink()
        if not any((root / path).parent.iterdir()):
            (root / path).parent.rmdir()
    path = f"{unit}/g2/conv_4/c/0/0"
    content = (root / path).read_bytes()
    (root / path).unlink()
    (root / path).symlink_to(Path("/etc/hostname"))
    yield judge(root, sound, "vectors", path, "replaced by a link")
    (root / path).unlink()
    (root / path).write_bytes(content)


def _swap(a: Path, b: Path) -> None:
    aside = a.with_name(a.name + ".aside")
    a.rename(aside)
    b.rename(a)
    aside.rename(b)


def wrong(outcome: Outcome) -> bool:
    """Whether a law is broken: the file is not named, or a reader was deceived."""
    return not outcome.named or outcome.reading.startswith("SILENT")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=6)
    parser.add_argument("--files", type=int, default=2, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = make_release(Path(folder))
        work = Path(shutil.copytree(root, Path(folder) / "work"))
        sound = read_all(work)
        if any(isinstance(v, AtlasError) for v in sound.values()) or not validate(work).ok:
            raise SystemExit("the sound atlas does not read")
        outcomes = [
            *damage_files(work, sound, flips=options.flips, files=options.files, seed=options.seed),
            *damage_tree(work, sound),
        ]
        if not validate(work).ok:
            raise SystemExit("the atlas was not put back")
    table = pd.DataFrame([vars(o) for o in outcomes])
    table["what"] = table["fault"].str.replace(r"byte.*", "byte flipped", regex=True)
    for (kind, what), group in table.groupby(["kind", "what"], sort=False):
        reading = ", ".join(sorted(set(group["reading"])))
        print(f"{kind} | {what} | {len(group)} | named {group['named'].sum()} | {reading}")
    print("examples:")
    for row in table.drop_duplicates("kind").itertuples():
        print(f"  {row.said}")
    bad = [o for o in outcomes if wrong(o)]
    for outcome in bad:
        print(f"WRONG {outcome}")
    print(f"{len(outcomes)} faults, {len(bad)} not named or not noticed")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
