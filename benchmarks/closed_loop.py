# SPDX-License-Identifier: Apache-2.0
"""The closed loop on real data: does a batch chosen by gaps teach a probe more than a random one?

    OMP_NUM_THREADS=1 python benchmarks/closed_loop.py ATLAS --seeds 10 --out docs/explanation

A *setting* is a universe of real structures, a target stratum in it and a label. Half of the target
is held out as test. The known set is 150 structures drawn from all other strata, so that the target
is missing from it; the pool is everything else: the other half of the target and all distractors.
The gap report is ``reach``: regions of which the known set holds fewer than a random sample of the
universe (known and pool, no labels) would, at a false discovery rate of 5 %. Nobody tells it the
target. Every method orders the pool once; after each budget a ridge probe on frozen embeddings is
fitted on known structures and picks, and read on the held-out half of the target.

Settings were kept where random picks, and picks of the target alone, improve the probe on seeds
0 to 3: what nothing improves tells no methods apart. Seeds from 100 on were not used before. No
method sees a label, the test half, or the target's name.

Methods: ``random``; ``k_centre`` (farthest first); ``facility`` (facility location over the whole
pool, without a gap report); ``gap_random`` (random within the gaps); ``gap_k_centre`` (farthest
first within the gaps); ``gap_driven`` (as ``matteratlas suggest``: facility location weighted
by the gaps' severities); ``chemistry`` and ``cells``: the same, with a report that knows no strata,
only elements, sizes, pairs and stoichiometries, or only how thin cells of the embedding space are.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from matteratlas.analysis.acquire.acquisition import acquire, cluster
from matteratlas.analysis.acquire.reasons import shared_weights
from matteratlas.analysis.evidence.chemistry import Regions, find_regions
from matteratlas.analysis.evidence.reach import reach_table
from matteratlas.analysis.evidence.universe import beside_pool
from matteratlas.builders.structures.sets import load_set
from matteratlas.registry import catalog
from matteratlas.registry.archive import open_atlas

MODEL = "chgnet-0.3.0"
BUDGETS = (0, 5, 10, 20, 40, 80, 160)
START = 150
CELL_ROWS = 25
RESAMPLES = 2000
CHEMISTRY = ("element", "size", "stoichiometry", "pair", "rings")
METHODS = (
    "random", "k_centre", "facility", "gap_random", "gap_k_centre", "gap_driven", "chemistry",
    "cells",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Sets that make the universe, the target stratum, the label and its unit."""

    sets: tuple[str, ...]
    target: str
    label: str
    unit: str


CRYSTALS = ("minerals", "prototypes", "elements", "mof", "exotic")
SETTINGS = (
    Setting(CRYSTALS, "minerals:chalcogenides", "volume", "ln(A^3/atom)"),
    Setting(CRYSTALS, "minerals:oxysalts", "volume", "ln(A^3/atom)"),
    Setting(CRYSTALS, "prototypes:binary", "volume", "ln(A^3/atom)"),
    Setting(("mlearn",), "mlearn:mo", "energy_per_atom", "eV/atom (DFT)"),
    Setting(("mlearn",), "mlearn:si", "energy_per_atom", "eV/atom (DFT)"),
    Setting(("mof",), "mof:f_block", "density", "g/cm^3"),
)


def main() -> None:
    """Run all settings, write curves as CSV and SVG, print a summary as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("atlas", type=Path, help="atlas with full sets")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path())
    given = parser.parse_args()
    started = time.process_time()
    parts = []
    for setting in SETTINGS:
        rows, x, y, regions = read(given.atlas, given.model, setting)
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            parts.append(run(setting, rows, x, y, regions, seed).assign(model=given.model))
    runs = pd.concat(parts, ignore_index=True)
    given.out.mkdir(parents=True, exist_ok=True)
    table = curves(runs)
    table.to_csv(given.out / "closed-loop.csv", index=False, float_format="%.6g")
    draw(table, given.out / "closed-loop.svg")
    for row in budgets_needed(runs).to_dict("records"):
        print(json.dumps(row))
    print(json.dumps({"processor seconds": round(time.process_time() - started, 1)}))


def read(
    atlas: Path, model: str, setting: Setting
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, Regions]:
    """Structures of a universe that have a vector and a label; vectors, labels and regions."""
    opened = open_atlas(str(atlas))
    table = opened.structures.drop_duplicates("id")
    table = table[table["set"].isin(setting.sets) & (table["kind"] == "crystal")]
    array = opened.embeddings(model, missing="drop")
    places = pd.Series(np.arange(array.shape[0]), index=array["structure"].to_numpy())
    places = places[~places.index.duplicated()]
    if setting.label == "volume":  # from the structures themselves; some sets keep theirs back
        volumes: dict[str, float] = {}
        for name in setting.sets:
            for s in load_set(catalog.structure_set(name)):
                if s.periodicity == 3:
                    volumes[s.id] = float(np.log(abs(np.linalg.det(s.cell)) / len(s)))
        label = table["id"].map(volumes)
    else:
        label = table[f"label_{setting.label}"]
    table = table[label.notna() & table["id"].isin(places.index)].sort_values("id")
    rows = table.reset_index(drop=True)
    x = np.asarray(array)[places.loc[rows["id"]].to_numpy()]
    regions = find_regions(rows, {}, types=(*CHEMISTRY, "stratum"))
    return rows, x, label.loc[table.index].to_numpy(dtype=float), regions


def run(
    setting: Setting, rows: pd.DataFrame, x: np.ndarray, y: np.ndarray, regions: Regions, seed: int
) -> pd.DataFrame:
    """All methods on one draw: one row a method and budget."""
    random = np.random.default_rng(seed)
    target = (rows["set"] + ":" + rows["stratum"] == setting.target).to_numpy()
    inside = random.permutation(np.flatnonzero(target))
    others = random.permutation(np.flatnonzero(~target))
    half = len(inside) // 2
    test, start = inside[:half], np.sort(others[:START])
    pool = np.sort(np.concatenate([inside[half:], others[START:]]))
    ids = rows["id"].to_numpy(dtype=str)
    by_strata = weights(regions, start, pool)
    chemical = weights(
        regions.kept((regions.table["type"] != "stratum").to_numpy()), start, pool
    )  # fmt: skip
    in_gap = np.flatnonzero(by_strata > 0)
    most = max(BUDGETS)

    def order(method: str) -> np.ndarray:
        options = {"ids": ids[pool], "seed": seed}
        if method in ("random", "k_centre"):
            return acquire(x[pool], x[start], most, method=method, **options).rows
        if method in ("gap_random", "gap_k_centre"):
            within = {"ids": ids[pool[in_gap]], "seed": seed, "method": method.removeprefix("gap_")}
            first = in_gap[acquire(x[pool[in_gap]], x[start], most, **within).rows]
            rest = acquire(x[pool], x[np.r_[start, pool[first]]], most, method="random", **options)
            return np.concatenate([first, rest.rows])[:most]
        told = {
            "facility": None,
            "gap_driven": by_strata,
            "chemistry": chemical,
            "cells": cells(x, start, pool),
        }[method]
        return acquire(x[pool], x[start], most, weights=told, **options).rows

    found = []
    for method in METHODS:
        picked = pool[order(method)]
        for budget in BUDGETS:
            taken = np.concatenate([start, picked[:budget]])
            found.append(
                {
                    "target": setting.target,
                    "label": setting.label,
                    "unit": setting.unit,
                    "method": method,
                    "seed": seed,
                    "budget": budget,
                    "pool": len(pool),
                    "in_target": int(target[picked[:budget]].sum()),
                    "error": probe(x, y, taken, test),
                    "coverage": covered(x, taken, test),
                    "test": len(test),
                }
            )
    return pd.DataFrame(found)


def weights(regions: Regions, start: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Weight of each row of the pool, by the most severe proven, unexplained gap it lies in."""
    count = len(regions.kinds)
    known, whole = np.zeros(count, bool), np.zeros(count, bool)
    known[start], whole[start], whole[pool] = True, True, True
    report = reach_table([beside_pool(regions, known, whole, scope="known")], release="closed-loop")
    proven = report[(report["severity"] > 0) & report["explained_by"].isna()]
    severity = regions.table["region"].map(proven.set_index("region")["severity"]).fillna(0.0)
    share = regions.member[pool].multiply(severity.to_numpy()).tocsr()
    most = np.asarray(share.max(axis=1).todense())[:, 0]
    best = np.where(most > 0, np.asarray(share.argmax(axis=1)).ravel(), -1)
    return shared_weights(best, severity.to_numpy())


def cells(x: np.ndarray, start: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Share each cell of the embedding space lacks of what it would hold of a random sample.

    Shrunk by one row instead of tested: cells are too small to prove anything one by one.
    """
    whole = np.concatenate([start, pool])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    count = max(2, len(whole) // CELL_ROWS)
    codes = cluster(unit[whole].astype(np.float32), count)[1]
    held = np.bincount(codes[: len(start)], minlength=count)
    expected = np.bincount(codes, minlength=count) * len(start) / len(whole)
    return np.clip(1 - (held + 1) / (expected + 1), 0, 1)[codes[len(start) :]]


def probe(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Mean absolute error of a ridge probe whose penalty leave-one-out chooses."""
    from sklearn.linear_model import RidgeCV

    mean, spread = x[train].mean(axis=0), x[train].std(axis=0) + 1e-9
    fitted = RidgeCV(alphas=np.logspace(-3, 4, 15)).fit((x[train] - mean) / spread, y[train])
    return float(np.abs(fitted.predict((x[test] - mean) / spread) - y[test]).mean())


def covered(x: np.ndarray, taken: np.ndarray, test: np.ndarray) -> float:
    """Share of test rows nearer to a known or picked row than test rows are to one another."""
    unit = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float64)

    def near(a: np.ndarray, b: np.ndarray, own: bool) -> np.ndarray:
        square = np.maximum(2.0 - 2.0 * unit[a] @ unit[b].T, 0.0)
        if own:
            np.fill_diagonal(square, np.inf)
        return np.sqrt(square.min(axis=1))

    return float((near(test, taken, False) <= np.median(near(test, test, True))).mean())


def interval(values: np.ndarray, random: np.random.Generator) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over seeds."""
    means = values[random.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def curves(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds with 95 % intervals, one row a setting, method and budget."""
    random = np.random.default_rng(0)
    keys = ["model", "target", "label", "unit", "method", "budget"]
    out = []
    for key, part in runs.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True)) | {"seeds": len(part), "pool": part["pool"].iloc[0]}
        row |= {"test": part["test"].iloc[0], "in_target": part["in_target"].mean()}
        for what in ("error", "coverage"):
            low, high = interval(part[what].to_numpy(), random)
            row |= {what: part[what].mean(), f"{what}_low": low, f"{what}_high": high}
        out.append(row)
    return pd.DataFrame(out)


def reached(curve: np.ndarray, wanted: float) -> float:
    """Budget at which a curve of errors first is at or below ``wanted``, between the two beside."""
    for i, error in enumerate(curve):
        if error <= wanted:
            if i == 0:
                return 0.0
            low, high = BUDGETS[i - 1], BUDGETS[i]
            return low + (high - low) * (curve[i - 1] - wanted) / (curve[i - 1] - error)
    return float("inf")


def budgets_needed(runs: pd.DataFrame) -> pd.DataFrame:
    """Budget with which each method reaches what random reaches with B, with 95 % intervals.

    Errors are means over seeds; intervals resample the seeds, all methods alike.
    """
    random = np.random.default_rng(0)
    out = []
    for target, part in runs.groupby("target", sort=False):
        wide = {
            m: rows.pivot(index="seed", columns="budget", values="error").to_numpy()
            for m, rows in part.groupby("method", sort=False)
        }
        seeds = len(wide["random"])
        draws = random.integers(0, seeds, (RESAMPLES, seeds))
        for i, budget in enumerate(BUDGETS[1:], start=1):
            if budget < 40:
                continue
            for method in METHODS[1:]:
                needed = reached(wide[method].mean(axis=0), wide["random"].mean(axis=0)[i])
                again = [
                    reached(wide[method][d].mean(axis=0), wide["random"][d].mean(axis=0)[i])
                    for d in draws
                ]
                low, high = np.quantile(again, [0.025, 0.975], method="nearest")
                best = wide["random"].mean(axis=0)[: i + 1].min()
                out.append(
                    {
                        "target": target,
                        "method": method,
                        "B": budget,
                        "random error at B": round(float(wide["random"].mean(axis=0)[i]), 4),
                        "error at B": round(float(wide[method].mean(axis=0)[i]), 4),
                        "budget needed": round(needed, 1),
                        "low": round(float(low), 1),
                        "high": round(float(high), 1),
                        "at most half": bool(needed <= budget / 2),
                        "for random's best so far": round(
                            reached(wide[method].mean(axis=0), float(best)), 1
                        ),
                    }
                )
    return pd.DataFrame(out)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Small multiples: error against budget, a panel a setting; bands are 95 % intervals."""
    colours = {
        "random": "#888888", "k_centre": "#d98c00", "facility": "#7a4fbf", "gap_driven": "#0a7d5a",
        "gap_random": "#69b7e8", "cells": "#c2417c",
    }  # fmt: skip
    width, height, left, top = 300, 220, 58, 34
    targets = list(dict.fromkeys(table["target"]))
    across = 3
    down = -(-len(targets) // across)
    body = []
    xs = {b: i / (len(BUDGETS) - 1) for i, b in enumerate(BUDGETS)}
    for i, target in enumerate(targets):
        ox, oy = (i % across) * width, 24 + (i // across) * height
        part = table[(table["target"] == target) & table["method"].isin(colours)]
        logs = np.log10(part[["error_low", "error_high"]].to_numpy())
        low, high = float(logs.min()) - 0.03, float(logs.max()) + 0.03

        def place(budget: int, error: float, box: tuple[float, ...]) -> str:
            bx, by, lo, hi = box
            px = bx + left + xs[budget] * (width - left - 16)
            py = by + top + (hi - np.log10(error)) / (hi - lo) * (height - top - 44)
            return f"{px:.1f},{py:.1f}"

        box = (ox, oy, low, high)
        body.append(f'<text x="{ox + left}" y="{oy + 18}" font-weight="600">{target}</text>')
        unit = part["unit"].iloc[0].replace("^", "")
        label = f"{part['label'].iloc[0]}, MAE, {unit}"
        body.append(f'<text x="{ox + left}" y="{oy + 30}" fill="#666">{label}</text>')
        for tick in np.linspace(low, high, 4)[1:-1]:
            px, py = place(0, 10**tick, box).split(",")
            body.append(
                f'<text x="{float(px) - 6}" y="{py}" text-anchor="end">{10**tick:.2g}</text>'
            )
        for budget in BUDGETS:
            px, py = place(budget, 10**low, box).split(",")
            y = float(py) + 14
            body.append(f'<text x="{px}" y="{y}" text-anchor="middle" fill="#666">{budget}</text>')
        for method, colour in colours.items():
            rows = part[part["method"] == method]
            upper = [place(r.budget, r.error_high, box) for r in rows.itertuples()]
            lower = [place(r.budget, r.error_low, box) for r in rows.itertuples()]
            line = " ".join(place(r.budget, r.error, box) for r in rows.itertuples())
            band = " ".join(upper + lower[::-1])
            body.append(f'<polygon points="{band}" fill="{colour}" opacity="0.15"/>')
            body.append(
                f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
            )
    for i, (method, colour) in enumerate(colours.items()):
        body.append(f'<rect x="{58 + 120 * i}" y="6" width="12" height="12" fill="{colour}"/>')
        body.append(f'<text x="{76 + 120 * i}" y="16">{method}</text>')
    size = (across * width, down * height + 30)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" '
        'font-family="system-ui, sans-serif" font-size="11" role="img" '
        'aria-label="Probe error against budget by method">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(body)}</svg>\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
