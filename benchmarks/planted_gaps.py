# SPDX-License-Identifier: Apache-2.0
"""Planted gaps: is what was taken out of a set named first, and is nothing named where nothing is.

    OMP_NUM_THREADS=1 python benchmarks/planted_gaps.py --plants 60 --draws 400

On the real structures of the registry's sets. A set is a random share of them; a plant takes all
structures of one element, size bin or prototype out of it. Printed: how often the planted region
ranks first (or one that the very same structures make up), by type and by the number of structures
expected; and the share of draws with nothing planted in which any region passes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from matteratlas.analysis.evidence.chemistry import Regions, find_regions
from matteratlas.analysis.evidence.reach import LEAST_EXPECTED, reach_table
from matteratlas.analysis.evidence.universe import beside_pool
from matteratlas.builders.structures.sets import load_set
from matteratlas.registry import catalog

#: What is planted.
PLANTED = ("element", "size", "prototype")

#: Structures of a region that the set should have held, for it to be planted.
FEWEST = 12


def real_regions(sets: Sequence[str], *, share: float) -> Regions:
    """Regions of the structures of these sets that a share of them can show to be missing."""
    loaded = [load_set(catalog.structure_set(s)) for s in sets]
    table = pd.concat([s.table for s in loaded], ignore_index=True).drop_duplicates("id")
    geometries = {s.id: s for one in loaded for s in one.structures}
    regions = find_regions(table.reset_index(drop=True), geometries)
    everything = np.ones(len(regions.kinds), dtype=bool)
    return regions.kept(regions.counts(everything) * share >= LEAST_EXPECTED)


def draw(regions: Regions, *, share: float, seed: int) -> NDArray[np.bool_]:
    """A random share of the structures."""
    n = len(regions.kinds)
    rows = np.zeros(n, dtype=bool)
    rows[np.random.default_rng(seed).choice(n, round(share * n), replace=False)] = True
    return rows


def report(regions: Regions, rows: NDArray[np.bool_]) -> pd.DataFrame:
    """The reach table of a set that should be a sample of all structures."""
    pool = np.ones(len(rows), dtype=bool)
    return reach_table([beside_pool(regions, rows, pool, scope="planted")], release="none")


def plants(regions: Regions, kind_of: str, *, share: float, count: int, seed: int) -> list[int]:
    """Regions worth planting: enough structures, and no more than half of their kind."""
    pool = np.ones(len(regions.kinds), dtype=bool)
    held, total = regions.counts(pool), regions.totals(pool)
    fit = (regions.table["type"] == kind_of).to_numpy()
    fit &= (held * share >= FEWEST) & (held <= 0.5 * total)
    found = np.flatnonzero(fit)
    order = np.random.default_rng(seed).permutation(len(found))
    # Every region once; beyond their number, again with another set.
    return [int(found[order[i % len(found)]]) for i in range(count)] if len(found) else []


def plant(regions: Regions, column: int, *, share: float, seed: int) -> dict[str, object]:
    """Take a region out of a random set; what the report says of it."""
    aside = regions.member[:, column].toarray().ravel() > 0
    rows = draw(regions, share=share, seed=seed)
    table = report(regions, rows & ~aside)
    region = regions.table["region"].iloc[column]
    first = table.iloc[0]
    same = False
    if first["severity"] > 0:
        other = int(np.flatnonzero(regions.table["region"] == first["region"])[0])
        same = bool(((regions.member[:, other].toarray().ravel() > 0) == aside).all())
    own = table[table["region"] == region].iloc[0]
    proven = table[table["severity"] > 0]
    return {
        "type": regions.table["type"].iloc[column],
        "region": region,
        "expected": float((rows & aside).sum()),
        "first": same,
        "found": bool(own["severity"] > 0),
        "rank": int(own["rank"]),
        "others": int(proven["explained_by"].isna().sum()) - 1,
        "explained": int(proven["explained_by"].notna().sum()),
    }


def false_alarms(regions: Regions, *, share: float, draws: int, sets: int = 1) -> int:
    """Draws with nothing planted, of so many sets each, in which some region passes."""
    pool = np.ones(len(regions.kinds), dtype=bool)
    found = 0
    for seed in range(10**6, 10**6 + draws):
        drawn = [
            beside_pool(
                regions, draw(regions, share=share, seed=seed + 10**6 * i), pool, scope=f"{i}"
            )
            for i in range(sets)
        ]
        found += bool((reach_table(drawn, release="none")["severity"] > 0).any())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sets", default="all", help="comma-separated; default all of the registry"
    )
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--plants", type=int, default=60, help="of each type")
    parser.add_argument("--draws", type=int, default=400)
    options = parser.parse_args()
    sets = list(catalog.structure_sets()) if options.sets == "all" else options.sets.split(",")
    start = time.monotonic()
    regions = real_regions(sets, share=options.share)
    print(f"{len(regions.kinds)} structures, {len(regions.table)} regions")
    rows = [
        plant(regions, column, share=options.share, seed=i)
        for kind_of in PLANTED
        for i, column in enumerate(
            plants(regions, kind_of, share=options.share, count=options.plants, seed=0)
        )
    ]
    table = pd.DataFrame(rows)
    table["expected"] = pd.cut(table["expected"], [0, 20, 50, 200, 10**6], right=False)
    cells = table.groupby(["type", "expected"], observed=True)[["first", "found"]]
    print(cells.mean().round(3).assign(plants=cells.size()).to_string())
    whole = table.groupby("type")[["first", "found", "others", "explained"]].mean().round(3)
    print(whole.assign(plants=table.groupby("type").size()).to_string())
    missed = table[~table["first"]]
    if len(missed):
        print(missed.to_string())
    for sets_a_draw in (1, 5):
        alarms = false_alarms(regions, share=options.share, draws=options.draws, sets=sets_a_draw)
        share = alarms / options.draws
        error = (max(share, 0.05) * (1 - share) / options.draws) ** 0.5
        print(
            f"nothing planted in {sets_a_draw} sets: {alarms} of {options.draws} draws "
            f"({share:.3f}, error {error:.3f})"
        )
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
