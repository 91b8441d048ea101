# SPDX-License-Identifier: Apache-2.0
"""Nulls drawn on a sample of the rows against draws on all rows; and p-values under no relation.

    OMP_NUM_THREADS=1 python benchmarks/null_agreement.py --n 5000 --permutations 199

Models of several widths, some of which see a shared latent and some of which do not. The engine's
nulls of CKA, distance correlation and information imbalance come from a sample of the rows and are
scaled; double precision draws every relabeling on all rows. Prints, over all pairs of a metric, the
ratio of the null's spread and of the reach of its 95 % quantile above its mean, p-values that
differ, and calibrated scores; then how p-values of unrelated Gaussians fall, by tenths.
"""

from __future__ import annotations

import argparse
import importlib
import time

import numpy as np
import xarray as xr

from matteratlas.analysis import metrics, pairwise
from matteratlas.analysis.engine import job as jobs

PAIRED = [name for name in metrics.METRICS if metrics.CARDS[name].pairwise]


def made_up(n: int, seed: int) -> dict[str, np.ndarray]:
    """Eight embeddings: four of one latent with more and more noise, a coarse one, three alone."""
    random = np.random.default_rng(seed)
    latent = random.normal(size=(n, 8))
    out = {
        f"latent, noise {noise}": np.tanh(latent @ random.normal(size=(8, 96)))
        + noise * random.normal(size=(n, 96))
        for noise in (0.3, 1.0, 3.0, 10.0)
    }
    out["coarse"] = np.round(latent[:, :3])
    out["alone, 4-d"] = random.normal(size=(n, 4))
    out["alone, 64-d"] = random.normal(size=(n, 64))
    out["alone, heavy tails"] = random.standard_t(3, size=(n, 16))
    return {name: rows.astype(np.float32) for name, rows in out.items()}


def compare(exact: xr.Dataset, sampled: xr.Dataset) -> str:
    """One line a metric."""
    upper = np.triu_indices(exact.sizes["model_a"], 1)
    lines = [
        f"{'metric':24} {'spread ratio':>22} {'quantile ratio':>22} {'p differs most':>15} "
        f"{'verdicts that differ':>21} {'calibrated differs':>19}"
    ]
    for name in PAIRED:
        both = [x.sel(metric=name) for x in (exact, sampled)]
        spreads = [x["null"].std("draw").values[upper] for x in both]
        reaches = [(x.null_quantile - x.null_mean).values[upper] for x in both]
        p = [x.p_value.values[upper] for x in both]
        scores = [x.calibrated.values[upper] for x in both]
        verdicts = ((p[0] <= 0.05) != (p[1] <= 0.05)).sum()
        ratios = []
        for one, two in (spreads, reaches):
            ratio = two / one
            ratios.append(f"{np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})")
        lines.append(
            f"{name:24} {ratios[0]:>22} {ratios[1]:>22} {np.abs(p[1] - p[0]).max():15.3f} "
            f"{verdicts:10d} of {p[0].size:7d} {np.abs(scores[1] - scores[0]).max():19.4f}"
        )
    return "\n".join(lines)


def histogram(runs: int, n: int, draws: int, rows: int) -> str:
    """Shares of p-values of unrelated Gaussians in each tenth, nulls drawn on some of the rows."""
    random, found = np.random.default_rng(9), []
    held = jobs.NULL_ROWS, jobs.NULL_RANK_ROWS
    jobs.NULL_ROWS = jobs.NULL_RANK_ROWS = rows
    try:
        for seed in range(runs):
            data = {str(i): random.normal(size=(n, 4 + 8 * i)) for i in range(6)}
            scores = pairwise(
                data, metrics=PAIRED, k=10, permutations=draws, seed=seed, arithmetic="single"
            )
            found += [
                scores.p_value.sel(model_a=a, model_b=b).values for a, b in ("01", "23", "45")
            ]
    finally:
        jobs.NULL_ROWS, jobs.NULL_RANK_ROWS = held
    p = np.array(found)
    lines = [f"{'metric':24} p <= 0.05, and shares of the tenths (0.1 each expected)"]
    for index, name in enumerate(PAIRED):
        shares = np.histogram(p[:, index], bins=10, range=(0, 1))[0] / len(p)
        tenths = " ".join(f"{s:.2f}" for s in shares)
        lines.append(f"{name:24} {(p[:, index] <= 0.05).mean():.3f}     {tenths}")
    error = np.sqrt(0.05 * 0.95 / len(p))
    lines.append(f"{len(p)} pairs a metric; 0.05 is known to +- {error:.3f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--permutations", type=int, default=199)
    parser.add_argument("--runs", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    importlib.import_module("matteratlas.analysis.engine.run")
    data = made_up(args.n, args.seed)
    results = {}
    for arithmetic in ("double", "single"):
        clock = time.process_time()
        results[arithmetic] = pairwise(
            data, metrics=PAIRED, permutations=args.permutations, arithmetic=arithmetic,
            keep_draws=True, threads=1,
        )  # fmt: skip
        print(f"{arithmetic}: {time.process_time() - clock:.0f} processor s", flush=True)
    sampled = results["single"]
    print(f"n = {args.n}, {args.permutations} draws; the engine's on {sampled.attrs['null_rows']} "
          f"rows, of ranks on {sampled.attrs['null_rank_rows']}")  # fmt: skip
    print(compare(results["double"], sampled))
    print(f"\nunrelated Gaussians, n = 300, 199 draws on 150 of the rows, {args.runs} runs")
    print(histogram(args.runs, 300, 199, 150))


if __name__ == "__main__":
    main()
