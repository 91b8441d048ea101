# SPDX-License-Identifier: Apache-2.0
"""How many files an atlas has: a closed formula, held against archives, and its value at scale.

    python benchmarks/file_law.py --atlas out/starter

Writes a reduced archive (three models, three sets, every combination of missing rows, energies and
node vectors) with chunks and shards scaled down by 512, so that arrays have as many shards as at a
million rows, and counts. ``--atlas`` counts a real one too, unit by unit. Then prints what the
formula gives for 60 models like the registry's on a million structures in 1 to 9 sets of one size.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from build_memory import ids

from matteratlas.builders import encode
from matteratlas.builders.adapters.base import Embedded, Missing
from matteratlas.builders.build import open_root
from matteratlas.builders.writer import UnitWriter
from matteratlas.registry import catalog
from matteratlas.registry.archive import open_atlas
from matteratlas.registry.index import write_index
from matteratlas.registry.unit import Unit
from matteratlas.schemas import archive

SCALE = 512
#: atlas.json, and the tables of models, sets, rejected rows and duplicates.
OF_AN_ATLAS = 5
#: manifest.parquet, README.md, croissant.json, CITATION.cff.
OF_A_RELEASE = 4
#: Atoms, residues or tokens of a structure, on average, where node vectors are kept.
NODES = 30


@dataclass(frozen=True)
class Shape:
    """What decides the files of one unit.

    Attributes
    ----------
    dims :
        Of its layers; empty where no row is embedded.
    nodes :
        Dims of the layers that keep node vectors, and rows of those vectors.
    reasons, energy :
        Whether some rows are missing and some not, or for several reasons; whether it has energies.
    """

    rows: int
    dims: tuple[int, ...]
    nodes: tuple[tuple[int, int], ...] = ()
    reasons: bool = False
    energy: bool = False

    def parts(self) -> dict[str, int]:
        """Files by what they hold. An array is its metadata and its shards."""
        column = 1 + shards(self.rows, column_shard(self.rows))
        return {
            "group and twin": 2,
            "ids": column,
            "reasons": column * self.reasons,
            "energies": column * self.energy,
            "vectors": sum(
                1 + shards(self.rows, archive.shard_rows(d, self.rows)) for d in self.dims
            ),
            "row sizes": column * bool(self.nodes),
            "nodes": sum(1 + shards(n, archive.shard_rows(d, n)) for d, n in self.nodes),
        }

    def files(self) -> int:
        """All of them."""
        return sum(self.parts().values())


def shards(rows: int, of: int) -> int:
    return -(-rows // of)


def column_shard(rows: int) -> int:
    """Rows a shard of a one-dimensional column holds."""
    chunk = max(1, min(rows, encode.COLUMN_CHUNK_ROWS))
    return chunk * max(1, min(encode.COLUMN_SHARD_ROWS // chunk, shards(rows, chunk)))


def files(models: Sequence[Sequence[Shape]], sets: int) -> int:
    """Files of an atlas: one group a model, one structures table a set, and all units."""
    units = sum(shape.files() for shapes in models for shape in shapes)
    return OF_AN_ATLAS + sets + len(models) + units


def shape_of(unit: Unit) -> Shape:
    """The shape of a unit on disk, by its record and row sizes."""
    record = unit.record
    kept = [d for layer, d in record.layers.items() if unit.nodes(layer) is not None]
    total = int(unit.row_size().sum()) if kept else 0
    return Shape(
        rows=record.rows,
        dims=tuple(record.layers.values()) if record.embedded else (),
        nodes=tuple((d, total) for d in kept),
        reasons=len(record.reasons) > 1,
        energy="energy" in unit.arrays,
    )


def count(root: Path) -> int:
    """Files that a release takes along, but for scores and what the release itself adds."""
    aside = {*archive.RUNS.split(), archive.STAGING, "scores"}
    return sum(
        p.is_file() and not p.name.startswith(".") and p.suffix != ".html"
        for p in root.rglob("*")
        if p.relative_to(root).parts[0] not in aside
    )


@contextmanager
def scaled() -> Iterator[None]:
    """Chunks and shards of 1/512 the rows."""
    least, most = archive.CHUNK_ROWS
    with (
        patch.object(archive, "CHUNK_ROWS", (least // SCALE, most // SCALE)),
        patch.object(archive, "CHUNK_BYTES", archive.CHUNK_BYTES // SCALE),
        patch.object(archive, "SHARD_BYTES", archive.SHARD_BYTES // SCALE),
        patch.object(encode, "COLUMN_CHUNK_ROWS", encode.COLUMN_CHUNK_ROWS // SCALE),
        patch.object(encode, "COLUMN_SHARD_ROWS", encode.COLUMN_SHARD_ROWS // SCALE),
    ):
        yield


def reduced(root: Path, rows: int) -> tuple[list[list[Shape]], list[str]]:
    """Write the reduced archive; the shapes it should have, and units whose files differ."""
    base = catalog.model("random-128")
    set_cards = list(catalog.structure_sets().values())[:3]
    names = list(ids(rows))
    models = [((64,), False), ((256, 128), True), ((1024, 16, 300), True)]
    open_root(root)
    shapes, wrong = [], []
    for dims, graph in models:
        layers = [
            base.layers[0].model_copy(
                update={"name": f"l{d}", "dim": d, "level": "atom" if graph else "structure"}
            )
            for d in dims
        ]
        changes = {"id": f"dims-{len(dims)}", "layers": layers, "default_layer": layers[0].name}
        card = base.model_copy(update=changes)
        shapes.append([])
        for kind, set_card in enumerate(set_cards):  # all embedded, some, none
            n_nodes = 0
            with UnitWriter(
                root, card, set_card, fingerprint="f", model_fingerprint="m", build_version="0"
            ) as writer:
                for i, name in enumerate(names):
                    if kind == 2 or (kind == 1 and i % 3):
                        writer.append(name, Missing("too_large: 2 > 1"))
                        continue
                    size = 1 + i % 3
                    n_nodes += size
                    nodes = {f"l{d}": np.full((size, d), i, np.float32) for d in dims}
                    pooled = {layer: values[0] for layer, values in nodes.items()}
                    energy = 1.0 if graph else None
                    writer.append(name, Embedded(nodes if graph else {}, pooled, energy))
                writer.finish()
            some = kind < 2
            shape = Shape(
                rows,
                dims if some else (),
                tuple((d, n_nodes) for d in dims) if graph and some else (),
                reasons=kind == 1,
                energy=graph and some,
            )
            shapes[-1].append(shape)
            unit = open_atlas(root).unit(card.id, set_card.id)
            if (
                shape_of(unit).parts() != shape.parts()
                or len(unit.record.files) + 1 != shape.files()
            ):
                wrong.append(f"{card.id}/{set_card.id}")
    write_index(root)
    return shapes, wrong


def at_scale(sets: int, *, rows: int, models: int, kind: str) -> tuple[int, dict[str, float]]:
    """Files of an atlas like the registry's models on equal sets, and their parts a unit."""
    total, parts, cards = 0.0, dict[str, float](), list(catalog.models().values())
    each = -(-rows // sets)
    for card in cards:
        layers = card.layers if kind.startswith("all") else [card.layer()]
        dims = (256,) if kind == "256 wide" else tuple(layer.dim for layer in layers)
        kept = [layer.dim for layer in layers if layer.level != "structure"]
        nodes = tuple((d, NODES * each) for d in kept) if kind == "all, nodes" else ()
        shape = Shape(each, dims, nodes, reasons=True, energy=card.energy is not None)
        total += sets * shape.files() / len(cards)
        for name, n in shape.parts().items():
            parts[name] = parts.get(name, 0.0) + n / len(cards)
    return round(models * (1 + total)) + OF_AN_ATLAS + OF_A_RELEASE + sets, parts


def check(title: str, expected: int, found: int, wrong: Iterable[str]) -> None:
    odd = list(wrong)
    print(f"{title}: {found} files, the formula says {expected}")
    if expected != found or odd:
        raise SystemExit(f"the formula is wrong: {', '.join(odd) or 'files of no unit'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--atlas", type=Path, help="a real atlas to count as well")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, scaled():
        root = Path(folder) / "atlas"
        shapes, wrong = reduced(root, args.rows // SCALE)
        # No tables of structures, rejected rows and duplicates: nothing was loaded.
        check("reduced archive of 3 x 3 units", files(shapes, 0) - 2, count(root), wrong)
    if args.atlas:
        atlas = open_atlas(args.atlas)
        held = [[atlas.unit(m, s) for s in e["units"]] for m, e in atlas.index["models"].items()]
        real = [[shape_of(unit) for unit in units] for units in held]
        wrong = [
            unit.path
            for unit in (u for units in held for u in units)
            if len(unit.record.files) + 1 != shape_of(unit).files()
        ]
        title = f"{args.atlas}, {len(held)} models, {len(atlas.units)} units"
        check(title, files(real, len(atlas.set_ids)), count(args.atlas), wrong)
    print(
        f"\n{args.models} models x {args.rows} structures, dims and energies as in the registry "
        f"({len(catalog.models())} cards),\nsome rows missing in every unit, {NODES} nodes a "
        "structure:\n"
    )
    print("| sets | stored | files | a unit: | group, twin | ids | reasons | energies | vectors | "
          "row sizes | nodes |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for kind in ("256 wide", "one layer", "all layers", "all, nodes"):
        for sets in (1, 3, 5, 9):
            total, parts = at_scale(sets, rows=args.rows, models=args.models, kind=kind)
            shown = " | ".join(f"{n:.1f}" for n in parts.values())
            print(f"| {sets} | {kind} | {total:,} | {sum(parts.values()):.1f} | {shown} |")


if __name__ == "__main__":
    main()
