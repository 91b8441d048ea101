# SPDX-License-Identifier: Apache-2.0
"""Damage an atlas and a release in every way, and say what validation and reading make of it.

    python benchmarks/faults.py --flips 12 --seed 0

Three real models on two real sets, in shards of a few rows each so that arrays have several;
scored and released. One file of every kind is flipped byte by byte, cut, removed, replaced by a
link and by a folder; then whole parts are swapped, renamed, added. Each time validation must name
the file, and everything a reader can ask for must either be what it was or raise an error of this
package. At the end builds run into a full disk (a small tmpfs where mounting is allowed, else a
limit on the size of files).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import matteratlas as ma
from matteratlas.builders import encode
from matteratlas.registry.validate import validate
from matteratlas.schemas import archive
from matteratlas.schemas.errors import AtlasError

MODELS = ("chgnet-0.3.0", "mat2vec", "magpie")
SETS = ("elements", "g2")
UNIT = "embeddings.zarr/chgnet-0.3.0/elements"

#: One file of every kind: its path, and whose readings it may change ("" for everything).
KINDS: dict[str, tuple[str, str]] = {
    "index": ("atlas.json", ""),
    "structures": ("structures/elements.parquet", ""),
    "cards of models": ("registry/models.parquet", "tables"),
    "cards of sets": ("registry/sets.parquet", ""),
    "notes: rejected": ("registry/rejected.parquet", "tables"),
    "notes: duplicates": ("registry/duplicates.parquet", "tables"),
    "model metadata": ("embeddings.zarr/chgnet-0.3.0/zarr.json", "chgnet-0.3.0"),
    "unit metadata": (f"{UNIT}/zarr.json", "chgnet-0.3.0"),
    "array metadata": (f"{UNIT}/conv_4/zarr.json", "chgnet-0.3.0"),
    "matrix shard": (f"{UNIT}/conv_4/c/1/0", "chgnet-0.3.0"),
    "node shard": (f"{UNIT}/conv_4.nodes/c/0/0", "chgnet-0.3.0"),
    "id shard": (f"{UNIT}/structure_id/c/1", "chgnet-0.3.0"),
    "reason shard": (f"{UNIT}/reason/c/0", "chgnet-0.3.0"),
    "energy shard": (f"{UNIT}/energy/c/0", "chgnet-0.3.0"),
    "row size shard": (f"{UNIT}/row_size/c/1", "chgnet-0.3.0"),
    "Parquet twin": ("parquet/chgnet-0.3.0/elements.parquet", "chgnet-0.3.0"),
    "scores": ("scores/pairs.parquet", "tables"),
    "analysis record": ("scores/analysis.json", "tables"),
    "costs": ("runs/mat2vec.json", "nothing"),
}
#: What a release adds.
RELEASED: dict[str, tuple[str, str]] = {
    "manifest": ("manifest.parquet", "nothing"),
    "dataset card": ("README.md", "nothing"),
    "Croissant": ("croissant.json", "nothing"),
    "citation": ("CITATION.cff", "nothing"),
    "released index": ("atlas.json", ""),
    "released shard": (f"{UNIT}/conv_4/c/1/0", "chgnet-0.3.0"),
}
#: Kinds that no reader opens: other files say the same to it, or it is not data.
UNREAD = frozenset(
    {"unit metadata", "array metadata", "Parquet twin", "costs",
     "manifest", "dataset card", "Croissant", "citation"}
)  # fmt: skip


@contextlib.contextmanager
def tiny_shards(rows: tuple[int, int] = (8, 16)) -> Iterator[None]:
    """Chunks and shards of so few rows (matrices: shards of one chunk) while units are written."""
    small = {
        "CHUNK_ROWS": (rows[0], rows[0]),
        "CHUNK_BYTES": 1,
        "SHARD_BYTES": 1,
        "COLUMN_CHUNK_ROWS": rows[0],
        "COLUMN_SHARD_ROWS": rows[1],
    }
    held = [(m, n, getattr(m, n)) for m in (archive, encode) for n in small if hasattr(m, n)]
    try:
        for module, name, _ in held:
            setattr(module, name, small[name])
        yield
    finally:
        for module, name, value in held:
            setattr(module, name, value)


def make(folder: Path) -> tuple[Path, Path]:
    """An atlas of tiny shards with scores, and its release."""
    from matteratlas.analysis.analyze import analyze
    from matteratlas.builders.build import build
    from matteratlas.builders.release import release

    atlas = folder / "atlas"
    with tiny_shards():
        report = build(atlas, models=MODELS, sets=SETS, selection="starter", workers=0)
    assert not report.failed, report.failed
    analyze(atlas, k=3, permutations=20, metrics=["linear_cka"], workers=0)
    return atlas, release(atlas, out=folder / "releases").path


def readings(root: Path) -> dict[str, Callable[[], str]]:
    """Everything a reader can ask for, as a digest of the answer; keys begin with whose it is."""

    def values(model: str, layer: str) -> str:
        array = ma.open_atlas(root).embeddings(model, layer=layer)
        return _digest(array.to_numpy(), *(array[c].to_numpy() for c in sorted(array.coords)))

    def read(model: str) -> str:
        array = ma.open_atlas(root).read(model)
        return _digest(array.to_numpy(), array["structure"].to_numpy())

    def rows(model: str) -> str:
        return _digest(ma.open_atlas(root).rows(model).drop(columns="linked", errors="ignore"))

    def nodes(model: str) -> str:
        atlas = ma.open_atlas(root)
        table = atlas.rows(model)
        ids = table.loc[table["reason"] == "", "id"]
        layers = atlas.index["models"][model]["layers"]
        kept = [atlas.unit(model, s).nodes(n) for s in SETS for n in layers]
        whole = [array.read() for array in kept if array is not None]
        return _digest(
            *whole, *(atlas.nodes(model, i).to_numpy() for i in (ids.iloc[0], ids.iloc[-1]))
        )

    def aligned(*models: str) -> str:
        found = ma.open_atlas(root).aligned(list(models))
        return _digest(*(found[m].to_numpy() for m in models), found["structure"].to_numpy())

    atlas = ma.open_atlas(root)
    asked: dict[str, Callable[[], str]] = {}
    for model in MODELS:
        for layer in atlas.index["models"][model]["layers"]:
            asked[f"{model} embeddings {layer}"] = lambda m=model, n=layer: values(m, n)
        asked[f"{model} read"] = lambda m=model: read(m)
        asked[f"{model} rows"] = lambda m=model: rows(m)
    asked["chgnet-0.3.0 nodes"] = lambda: nodes("chgnet-0.3.0")
    asked["chgnet-0.3.0 aligned"] = lambda: aligned("mat2vec", "chgnet-0.3.0")
    asked["mat2vec aligned"] = lambda: aligned("mat2vec", "magpie")
    first = atlas.structures["id"].iloc[0]
    asked["sets structures"] = lambda: _digest(ma.open_atlas(root).structures)
    asked["sets structure"] = lambda: repr(ma.open_atlas(root).structure(first))
    asked["tables models"] = lambda: _digest(ma.open_atlas(root).models)
    scores = sorted(p.name for p in (root / "scores").glob("*.parquet"))
    notes = [f"registry/{k}.parquet" for k in ("rejected", "duplicates", "sets", "models")]
    for path in [*notes, *(f"scores/{name}" for name in scores)]:
        asked[f"tables {path}"] = lambda p=path: _digest(ma.open_atlas(root).table(p))
    return asked


def _digest(*parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, pd.DataFrame):
            found.update(repr(part.to_dict("list")).encode())
        elif part.dtype == object:
            found.update(repr(part.tolist()).encode())
        else:
            found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()


@dataclass
class Outcome:
    """What one fault came to.

    Attributes
    ----------
    unnamed, misread, others : list of str
        What must not be: tries whose file validation did not name, readings that were neither as
        before nor an error of this package, readings of other models that failed.
    """

    fault: str
    path: str
    tries: int = 0
    says: str = ""
    reads: str = ""
    unnamed: list[str] = field(default_factory=list)
    misread: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        """All that must not be."""
        return [
            *(
                f"{self.fault} of {self.path}: validation does not name it ({t})"
                for t in self.unnamed
            ),
            *(f"{self.fault} of {self.path}: {t}" for t in self.misread),
            *(f"{self.fault} of {self.path}: {t}" for t in self.others),
        ]


class Bench:
    """An atlas to damage, what it answers when it is whole, and the outcome of each fault."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked = readings(root)
        self.answers = {name: ask() for name, ask in self.asked.items()}
        self.outcomes: list[Outcome] = []
        found = validate(root, deep=True)
        assert found.faults == [] and found.notes == [], found

    def look(
        self, outcome: Outcome, names: list[str], owner: str, *, what: str, read: bool
    ) -> None:
        """Validate, then read; ``names``: paths of which a fault must name one."""
        outcome.tries += 1
        try:
            faults = validate(self.root).faults
        except AtlasError as error:
            faults = [str(error)]
        except Exception as error:
            outcome.unnamed.append(f"{what}: validate raises {type(error).__name__}: {error}")
            faults = []
        naming = [f for f in faults if any(n in f for n in names) and "\n" not in f]
        if not naming:
            outcome.unnamed.append(f"{what}: {faults[:2]}")
        elif not outcome.says:
            outcome.says = naming[0].replace(f"{self.root}/", "")
        raised = 0
        for name, ask in self.asked.items():
            try:
                answer: str | None = ask()
            except AtlasError as error:
                answer, raised = None, raised + 1
                if "\n" in str(error):
                    outcome.misread.append(f"{what}: {name}: more than a line")
                outcome.reads = outcome.reads or str(error).replace(f"{self.root}/", "")
            except Exception as error:
                outcome.misread.append(f"{what}: {name}: {type(error).__name__}: {error}")
                raised += 1
                continue
            if answer is not None and answer != self.answers[name]:
                outcome.misread.append(f"{what}: {name}: other values, no error")
            if answer is None and owner and not name.startswith(owner):
                outcome.others.append(f"{what}: {name} fails too")
        if read and not raised:
            outcome.misread.append(f"{what}: nothing that was read failed")
        if not raised:
            outcome.reads = outcome.reads or "as before: not opened by readers"

    def file_faults(self, kind: str, path: str, owner: str, *, flips: int, seed: int) -> None:
        """Flip, cut, remove and replace one file, then put it back."""
        target, data = self.root / path, (self.root / path).read_bytes()
        chance, read = random.Random(f"{seed}:{path}"), kind not in UNREAD
        places = {0, len(data) - 1, len(data) - 5, len(data) // 2}
        while len(places) < min(flips, len(data)):
            places.add(chance.randrange(len(data)))
        flip = Outcome(f"{kind}: byte flipped", path)
        for place in sorted(places)[:flips]:
            changed = bytearray(data)
            changed[place] ^= 1 << chance.randrange(8)
            target.write_bytes(changed)
            # A bit that no decoder looks at may be flipped unseen where only parts are hashed.
            self.look(flip, [path], owner, what=f"byte {place} of {len(data)}", read=False)
        read_flips = flip.reads != "as before: not opened by readers"
        if read and not read_flips:
            flip.misread.append("no flip at all was noticed by a reader")
        cut = Outcome(f"{kind}: truncated", path)
        for length in sorted({0, len(data) // 2, len(data) - 1}):
            target.write_bytes(data[:length])
            whole = path.endswith(".json") and length == len(data) - 1  # all but its line's end
            self.look(cut, [path], owner, what=f"cut to {length}", read=read and not whole)
        gone = Outcome(f"{kind}: removed", path)
        target.unlink()
        if kind != "costs":  # they are unknown then, which is no fault
            self.look(gone, [path], owner, what="removed", read=read)
            self.outcomes.append(gone)
        link = Outcome(f"{kind}: a link elsewhere", path)
        with tempfile.NamedTemporaryFile() as elsewhere:
            elsewhere.write(data[:-1] + bytes([data[-1] ^ 1]))
            elsewhere.flush()
            target.symlink_to(elsewhere.name)
            self.look(link, [path], owner, what="link", read=read)
        target.unlink()
        folder = Outcome(f"{kind}: a folder instead", path)
        target.mkdir()
        (target / "x").write_text("x")
        self.look(folder, [path], owner, what="folder", read=read)
        shutil.rmtree(target)
        target.write_bytes(data)
        self.outcomes += [flip, cut, link, folder]

    def moved(self, what: str, names: list[str], owner: str, swap: Callable[[Path], None],
              back: Callable[[Path], None], *, read: bool = True) -> None:  # fmt: skip
        """Do something to the tree, look, and undo it."""
        outcome = Outcome(what, names[0])
        swap(self.root)
        try:
            self.look(outcome, names, owner, what=what, read=read)
        finally:
            back(self.root)
        self.outcomes.append(outcome)

    def done(self) -> None:
        """All is as it was."""
        found = validate(self.root, deep=True)
        assert found.faults == [], found.faults


def exchange(one: str, two: str) -> Callable[[Path], None]:
    """Swap two files or folders; the same again undoes it."""

    def swap(root: Path) -> None:
        aside = root.parent / "aside"
        (root / one).rename(aside)
        (root / two).rename(root / one)
        aside.rename(root / two)

    return swap


def rename(one: str, two: str) -> tuple[Callable[[Path], None], Callable[[Path], None]]:
    """Rename, and the way back."""
    return (
        lambda root: [(root / one).rename(root / two), None][1],
        lambda root: [(root / two).rename(root / one), None][1],
    )


def tree_faults(bench: Bench, *, released: bool = False) -> None:
    """Swaps, renames and foreign files."""
    chgnet, layer = "chgnet-0.3.0", f"{UNIT}/conv_4"
    for name, one, two in (
        ("two shards of an array swapped", f"{layer}/c/0/0", f"{layer}/c/1/0"),
        ("node shards swapped", f"{layer}.nodes/c/0/0", f"{layer}.nodes/c/1/0"),
        ("id shards swapped", f"{UNIT}/structure_id/c/0", f"{UNIT}/structure_id/c/1"),
        ("shards of two layers swapped", f"{layer}/c/0/0", f"{UNIT}/conv_3/c/0/0"),
        ("two layers swapped", layer, f"{UNIT}/conv_3"),
        ("units of two sets swapped", UNIT, f"embeddings.zarr/{chgnet}/g2"),
    ):
        bench.moved(name, [one], chgnet, exchange(one, two), exchange(one, two))
    one, two = UNIT, "embeddings.zarr/mat2vec/elements"
    bench.moved("units of two models swapped", [one], "", exchange(one, two), exchange(one, two))
    one, two = "structures/elements.parquet", "structures/g2.parquet"
    bench.moved("two sets swapped", [one], "", exchange(one, two), exchange(one, two))
    one, two = (f"parquet/{m}/elements.parquet" for m in (chgnet, "mat2vec"))
    bench.moved("two twins swapped", [one], "", exchange(one, two), exchange(one, two), read=False)
    one, two = "scores/pairs.parquet", "scores/models.parquet"
    bench.moved("two score tables swapped", [one], "tables", exchange(one, two), exchange(one, two))
    for name, old, new, owner in (
        ("model folder renamed", f"embeddings.zarr/{chgnet}", "embeddings.zarr/chgnet", chgnet),
        ("unit folder renamed", UNIT, f"embeddings.zarr/{chgnet}/ccd", chgnet),
        ("twins of a model renamed", f"parquet/{chgnet}", "parquet/chgnet", "nothing"),
        ("array renamed", layer, f"{UNIT}/conv_9", chgnet),
        ("set file renamed", "structures/g2.parquet", "structures/g3.parquet", ""),
    ):
        bench.moved(name, [old], owner, *rename(old, new), read=not name.startswith("twins"))
    for place in (
        "notes.txt", "structures/ores.parquet", "structures/ores.csv", "registry/old.parquet",
        f"{UNIT}/extra.bin", f"{layer}/c/9/0", f"embeddings.zarr/{chgnet}/readme.md",
        "embeddings.zarr/ghost/g2/zarr.json", f"embeddings.zarr/{chgnet}/ghost/zarr.json",
        "parquet/ghost/g2.parquet", f"parquet/{chgnet}/ghost.parquet", "scores/old.parquet",
        *([] if released else ["runs/notes.txt", "manifest.parquet"]),
    ):  # fmt: skip
        # An empty table, an empty document: what is foreign need not look so.
        bench.moved("foreign file", [place], "nothing", _adder(place), _remover(place), read=False)


def _adder(place: str) -> Callable[[Path], None]:
    def add(root: Path) -> None:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        if place.endswith(".parquet"):
            shutil.copyfile(root / "structures" / "g2.parquet", root / place)
        else:
            (root / place).write_text("{}" if place.endswith(".json") else "x")

    return add


def _remover(place: str) -> Callable[[Path], None]:
    def remove(root: Path) -> None:
        (root / place).unlink()
        for folder in (root / place).parents:
            if any(folder.iterdir()):
                break
            folder.rmdir()

    return remove


def run_faults(folder: Path, *, flips: int, seed: int) -> list[Outcome]:
    """Every fault on an atlas, and those of a release on one."""
    atlas, release = make(folder)
    # A copy: the release shares its files with the atlas.
    bench = Bench(Path(shutil.copytree(atlas, folder / "damaged")))
    for kind, (path, owner) in KINDS.items():
        bench.file_faults(kind, path, owner, flips=flips, seed=seed)
    tree_faults(bench)
    bench.done()
    private = Bench(Path(shutil.copytree(release, folder / "release")))
    for kind, (path, owner) in RELEASED.items():
        private.file_faults(kind, path, owner, flips=flips, seed=seed)
    tree_faults(private, released=True)
    private.done()
    return [*bench.outcomes, *private.outcomes]


@dataclass(frozen=True)
class FullDisk:
    """What a build came to that ran out of room.

    Attributes
    ----------
    how, room :
        What limits it, and the bytes it had.
    error :
        The line it ended with, "" if it had room enough.
    wrong :
        What must not be.
    """

    how: str
    room: int
    error: str
    wrong: list[str]


@contextlib.contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[Path]:
    """A file system in memory of this many bytes.

    Raises
    ------
    OSError
        Mounting is not allowed here.
    """
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(options, capture_output=True, text=True)
    if done.returncode:
        raise OSError(errno.EPERM, done.stderr.strip() or "mount failed")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file of this process grows beyond this many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


#: A build into an atlas of the first model on the first set: grows the set, adds both.
SMALL = {"models": ["mat2vec"], "sets": ["elements"], "selection": "starter"}
LARGE = {"models": ["mat2vec", "chgnet-0.3.0"], "sets": ["elements", "g2"], "selection": "full"}


def full_disk(folder: Path, room: int, *, how: str) -> FullDisk:
    """Build with so much room; then with enough of it: the bytes must be those of one build."""
    from kills import differences, tree

    from matteratlas.builders.build import build

    base, whole = folder / "base", folder / "whole"
    if not whole.exists():
        build(base, **SMALL, workers=0)  # type: ignore[arg-type]
        shutil.copytree(base, whole)
        build(whole, **LARGE, workers=0)  # type: ignore[arg-type]
    with contextlib.ExitStack() as stack:
        if how == "tmpfs":
            used = sum(-(-p.stat().st_size // 4096) * 4096 for p in base.rglob("*") if p.is_file())
            place = stack.enter_context(tmpfs(folder / "mount", used + room))
        else:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        root = Path(shutil.copytree(base, place / "atlas"))
        error, wrong = "", []
        try:
            with file_limit(room) if how != "tmpfs" else contextlib.nullcontext():
                report = build(root, **LARGE, workers=0)  # type: ignore[arg-type]
            failed = [str(u.error) for u in report.failed]
            error = failed[0] if failed else ""
        except AtlasError as caught:
            error = str(caught)
        except Exception as caught:
            wrong.append(f"{type(caught).__name__}: {caught}")
        error = error.replace(f"{root}/", "").replace(str(root), "ATLAS")
        wrong += ["more than a line"] if "\n" in error else []
        wrong += [f"left: {p}" for p in (root / ".staging").glob("*")]
        wrong += [f"after: {f}" for f in validate(root, deep=True).faults]
        rows = ma.open_atlas(root).embeddings("mat2vec", sets=["elements"])
        wrong += [] if rows.notnull().all(axis=1).sum() >= 45 else ["rows are gone"]
        if how == "tmpfs":  # room comes: the archive moves to where there is enough
            root = Path(shutil.copytree(root, folder / "moved"))
        build(root, **LARGE, workers=0)  # type: ignore[arg-type]
        wrong += [f"resumed: {f}" for f in validate(root, deep=True).faults]
        wrong += [f"resumed: {p} differs" for p in differences(root, tree(whole))]
    shutil.rmtree(folder / "moved", ignore_errors=True)
    shutil.rmtree(folder / "mount", ignore_errors=True)
    return FullDisk(how, room, error, wrong)


def table(outcomes: list[Outcome]) -> str:
    """The fault table."""
    lines = [f"{'fault':38} {'tries':>5}  {'validate says':70}  read says"]
    for o in outcomes:
        name = o.fault if o.fault != "foreign file" else f"foreign {o.path}"
        lines.append(f"{name[:38]:38} {o.tries:5d}  {o.says[:70]:70}  {o.reads[:70]}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=12, help="flipped bytes a file")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = run_faults(Path(scratch), flips=args.flips, seed=args.seed)
        wrong = [line for o in outcomes for line in o.wrong]
        print(table(outcomes))
        print(f"{sum(o.tries for o in outcomes)} faults, {len(wrong)} not told as they should be")
        print(*wrong[:40], sep="\n", end="\n\n" if wrong else "\n")
        print(f"{'room, bytes':>12} {'limit':10} the build says", flush=True)
        how = "tmpfs"
        for room in [2**n for n in range(12, 24)]:
            try:
                found = full_disk(Path(scratch), room, how=how)
            except PermissionError as error:
                print(f"no tmpfs here ({error.strerror}): a limit on the size of files instead")
                how = "file size"
                found = full_disk(Path(scratch), room, how=how)
            print(f"{room:12,d} {found.how:10} {found.error[:110] or 'done'}", flush=True)
            wrong += found.wrong
            print(*found.wrong[:10], sep="\n", end="\n" if found.wrong else "")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
