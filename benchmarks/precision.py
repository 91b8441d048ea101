# SPDX-License-Identifier: Apache-2.0
"""What the stored precision changes: every metric of every pair of models, and bytes on disk.

    python benchmarks/precision.py out/starter

Takes an atlas stored as float32 and rounds its vectors in memory as a build of that precision would
(``builders.encode.stored``), so nothing is built again. Each pair is scored on the rows both models
embedded. Prints, for each metric and precision, the median and the largest change of a score, the
same in standard errors of that score (jackknife) and against the distance from the null's mean to
its 95 % quantile; bytes a number, from units written anew; and which arrays a precision refuses.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from matteratlas.analysis.metrics import CARDS, METRICS
from matteratlas.analysis.pairwise import pairwise
from matteratlas.builders.adapters.base import Embedded
from matteratlas.builders.embed import set_threads
from matteratlas.builders.encode import stored
from matteratlas.builders.writer import UnitWriter
from matteratlas.registry import catalog
from matteratlas.registry.archive import Atlas, open_atlas
from matteratlas.schemas.archive import Precision
from matteratlas.schemas.errors import ArchiveError

EXACT = "float32"

Vectors = dict[str, pd.DataFrame]


def read(atlas: Atlas, models: Iterable[str]) -> Vectors:
    """Default-layer vectors by structure id, missing rows left out, each structure once."""
    out = {}
    for model in models:
        array = atlas.embeddings(model, missing="drop")
        table = pd.DataFrame(array.to_numpy(), index=array["structure"].to_numpy())
        out[model] = table[~table.index.duplicated()]
    return out


def selections(vectors: Vectors, least: int) -> list[tuple[pd.Index, list[tuple[str, str]]]]:
    """Pairs of models that share the same rows, so that they are scored together."""
    found: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    names = list(vectors)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            common = vectors[a].index.intersection(vectors[b].index, sort=False).sort_values()
            if len(common) >= least:
                found.setdefault(tuple(common), []).append((a, b))
    return [(pd.Index(ids), pairs) for ids, pairs in found.items()]


def rounded(vectors: Vectors, precision: Precision) -> Vectors:
    """Vectors as stored; models whose vectors do not fit are left out."""
    kept = {}
    for model, table in vectors.items():
        with contextlib.suppress(ArchiveError):
            values = stored(table.to_numpy(), precision, where=model).astype(np.float32)
            kept[model] = pd.DataFrame(values, index=table.index)
    return kept


def refused(atlas: Atlas, models: Iterable[str], precision: Precision) -> list[str]:
    """Arrays, node vectors and other layers included, that a build of this precision refuses."""
    out = []
    for model in models:
        for set_id in atlas.index["models"][model]["units"]:
            unit = atlas.unit(model, set_id)
            for name, array in unit.arrays.items():
                if array.ndim == 1:
                    continue
                values, first = array.read(), ""
                with np.errstate(over="ignore"):
                    bad = np.isinf(values.astype(precision.data_type)) & np.isfinite(values)
                try:
                    stored(values, precision, where=f"{model}/{set_id}/{name}")
                except ArchiveError as error:
                    first = str(error)
                if first:
                    out.append(f"{bad.any(axis=1).sum()} of {len(values)} rows; {first}")
    return out


def scores(
    vectors: Vectors,
    chosen: list[tuple[pd.Index, list[tuple[str, str]]]],
    *,
    k: int,
    permutations: int = 0,
) -> pd.DataFrame:
    """One row a metric and pair (both ways round where that matters) or model."""
    rows = []
    for ids, pairs in chosen:
        pairs = [p for p in pairs if set(p) <= set(vectors)]
        if not pairs:
            continue
        models = [m for m in vectors if any(m in p for p in pairs)]
        data = {m: vectors[m].loc[ids].to_numpy() for m in models}
        found = pairwise(data, k=k, permutations=permutations)
        for metric in METRICS:
            if not CARDS[metric].pairwise:
                errors = found["intrinsic_dimension_standard_error"]
                for m in models:
                    value, error = float(found[metric].loc[m]), float(errors.loc[m])
                    rows.append((metric, m, "", len(ids), value, error, np.nan))
                continue
            both = pairs if CARDS[metric].symmetric else [*pairs, *(p[::-1] for p in pairs)]
            for a, b in both:
                at = {"metric": metric, "model_a": a, "model_b": b}
                spread = np.nan
                if permutations:
                    spread = abs(float(found["null_quantile"].sel(at) - found["null_mean"].sel(at)))
                error = float(found["standard_error"].sel(at))
                rows.append((metric, a, b, len(ids), float(found[metric].loc[a, b]), error, spread))
    names = ["metric", "a", "b", "n", "value", "error", "spread"]
    return pd.DataFrame(rows, columns=names).set_index(["metric", "a", "b", "n"])


def compare(exact: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Changes of the scores both hold, one row a metric."""
    both = exact.join(other[["value"]], rsuffix="_stored", how="inner").dropna(subset="value")
    both["change"] = (both["value_stored"] - both["value"]).abs()
    both["errors"] = both["change"] / both["error"].where(both["error"] > 0)
    both["spreads"] = both["change"] / both["spread"].where(both["spread"] > 0)
    grouped = both.groupby("metric", sort=False)
    return grouped.agg(
        scores=("change", "size"),
        median=("change", "median"),
        largest=("change", "max"),
        median_se=("errors", "median"),
        largest_se=("errors", "max"),
        largest_null=("spreads", "max"),
    )


def bytes_per_number(vectors: Vectors, precision: Precision) -> pd.DataFrame:
    """Stored bytes over numbers of each model's vectors, in both formats."""
    set_card = catalog.structure_set("elements")
    sizes = {}
    for model, table in vectors.items():
        card = catalog.model(model)
        layer = card.layer()
        card = card.model_copy(update={"layers": [layer]})
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            with UnitWriter(
                root,
                card,
                set_card,
                fingerprint="f",
                model_fingerprint="m",
                build_version="benchmark",
                keep_nodes=False,
                precision=precision,
            ) as writer:
                for name, vector in zip(table.index, table.to_numpy(), strict=True):
                    writer.append(name, Embedded(pooled={layer.name: vector}))
                record = writer.finish()
            zarr = sum(f.bytes for f in record.files if f"/{layer.name}/c/" in f.path)
            twin = pq.read_metadata(root / "parquet" / card.id / f"{set_card.id}.parquet")
            columns = [
                twin.row_group(group).column(i)
                for group in range(twin.num_row_groups)
                for i in range(twin.num_columns)
            ]
            parquet = sum(
                c.total_compressed_size for c in columns if c.path_in_schema.startswith("embedding")
            )
        sizes[model] = {"Zarr": zarr / table.size, "Parquet": parquet / table.size}
    return pd.DataFrame(sizes).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("atlas", help="folder of an atlas stored as float32")
    parser.add_argument("--models", help="comma-separated ids; default: all the atlas holds")
    parser.add_argument(
        "--precisions",
        default="bitround-16,bitround-13,bitround-10,float16,bitround-7,bitround-4",
    )
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--permutations", type=int, default=200, help="of the float32 scores")
    parser.add_argument("--least", type=int, default=50, help="fewest rows a pair shares")
    args = parser.parse_args()
    set_threads(1)
    atlas = open_atlas(args.atlas)
    models = args.models.split(",") if args.models else list(atlas.index["models"])
    if set(atlas.units.loc[atlas.units["model"].isin(models), "precision"]) != {EXACT}:
        raise SystemExit(f"{args.atlas}: not stored as {EXACT}; build one with --precision {EXACT}")
    vectors = read(atlas, models)
    chosen = selections(vectors, args.least)
    exact = scores(vectors, chosen, k=args.k, permutations=args.permutations)
    counts = exact.index.get_level_values("n")
    print(
        f"{len(models)} models, {sum(len(p) for _, p in chosen)} pairs in {len(chosen)} selections "
        f"of {counts.min()} to {counts.max()} rows, k {args.k}\n"
    )
    sizes, tables = {EXACT: bytes_per_number(vectors, Precision())}, {}
    for name in args.precisions.split(","):
        precision = Precision.parse(name)
        kept = rounded(vectors, precision)
        tables[name] = compare(exact, scores(kept, chosen, k=args.k))
        sizes[name] = bytes_per_number(kept, precision)
    show(tables, sizes)
    for name in args.precisions.split(","):
        for why in refused(atlas, models, Precision.parse(name)):
            print(f"\n{name} refuses {why}")


def show(tables: dict[str, pd.DataFrame], sizes: dict[str, pd.DataFrame]) -> None:
    print(
        "| metric | stored as | scores | median change | largest | median, SE | largest, SE | "
        "largest, null spreads |\n|---|---|---|---|---|---|---|---|"
    )
    for metric in METRICS:
        for name, table in tables.items():
            row = table.loc[metric]
            shown = [f"{row['scores']:.0f}", f"{row['median']:.1e}", f"{row['largest']:.1e}"]
            shown += [f"{row['median_se']:.1e}", f"{row['largest_se']:.2g}"]
            null = row["largest_null"]
            shown.append(f"{null:.2g}" if np.isfinite(null) else "-")
            print(f"| {metric} | {name} | {' | '.join(shown)} |")
    print("\n| stored as | bytes a number in Zarr: median (least - most) | in Parquet |")
    print("|---|---|---|")
    for name, size in sizes.items():
        shown = [
            f"{size[f].median():.2f} ({size[f].min():.2f} - {size[f].max():.2f})" for f in size
        ]
        print(f"| {name} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
