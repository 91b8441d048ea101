# SPDX-License-Identifier: Apache-2.0
"""CKNNA of one pair, and of all pairs of 59 models, against the published dense form.

    python benchmarks/race_cknna.py --n 10000

First both must agree: in float64 on 1,000 rows, without the published 1e-6 in the denominator and
averaged over the order of arguments, which the published code is not symmetric in. Then they race
in the precision each is used in. The dense form of all pairs is extrapolated from the one measured
pair (it shares nothing between pairs); ours of all pairs is measured.
"""

from __future__ import annotations

import os
import time

import numpy as np
from races import THREADS, Race, arguments, make_rows, show

K = 25
MODELS = 59


def all_pairs(n: int, d: int, models: int, threads: int) -> tuple[float, float]:
    """Seconds and processor seconds of CKNNA of all pairs of models, in one process."""
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    from matteratlas.analysis import pairwise

    random = np.random.default_rng(1)
    latent = random.standard_normal((n, 12))
    data = {}
    for model in range(models):
        view = np.tanh(latent @ random.standard_normal((12, d)) / 3)
        view += 0.2 * random.standard_normal((n, d))
        data[f"model-{model}"] = view.astype(np.float32)
    few = {name: rows[:1200] for name, rows in list(data.items())[:2]}
    pairwise(few, metrics=["cknna"], k=K, threads=threads)
    start = time.perf_counter(), time.process_time()
    pairwise(data, metrics=["cknna"], k=K, threads=threads)
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main() -> None:
    args = arguments(__doc__, n=[10_000])
    race = Race(*make_rows(1000, args.d), threads=args.threads)
    show(
        f"CKNNA, agreement in float64, n = 1000, d = {args.d}, k = {K}",
        race.run("ours", "cknna", k=K),
        race.run("dense", "dense_cknna", script="dense_cknna.py", k=K, stabiliser=0.0, orders=2),
    )
    pairs = MODELS * (MODELS - 1) // 2
    for n in args.n:
        race = Race(*make_rows(n, args.d, dtype="float32"), threads=args.threads)
        ours = race.run("ours", "cknna", k=K)
        dense = race.run("dense", "dense_cknna", script="dense_cknna.py", k=K)
        title = f"CKNNA of one pair, float32, n = {n}, d = {args.d}, k = {K}"
        show(title, ours, dense, tolerance=1e-2)  # the published 1e-6, and float32 sums
        wall, cpu = all_pairs(n, args.d, MODELS, args.threads)
        print(f"\n### CKNNA of all {pairs} pairs of {MODELS} models, n = {n}\n")
        print(f"ours, measured: {wall:.1f} s, {cpu:.1f} processor seconds, with error bars")
        print(
            f"dense, extrapolated from the one pair measured: {pairs * dense.wall:.0f} s, "
            f"{pairs * dense.cpu:.0f} processor seconds: {pairs * dense.wall / wall:.0f}x and "
            f"{pairs * dense.cpu / cpu:.0f}x ours"
        )


if __name__ == "__main__":
    main()
