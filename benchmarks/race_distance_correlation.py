# SPDX-License-Identifier: Apache-2.0
"""Distance correlation (U and V) of one pair against the dcor package.

    python benchmarks/race_distance_correlation.py --n 1500

dcor broadcasts n x n x d differences: 256 features take 8 GB at n = 2,000 and cannot be held at
n = 5,000 on a common machine, so it races at fewer rows, and ours runs alone at more.
"""

from __future__ import annotations

from races import Race, arguments, environment, make_rows, show

if __name__ == "__main__":
    args = arguments(__doc__, n=[1500])
    python = environment(args.cache, "peers")
    for n in args.n:
        race = Race(*make_rows(n, args.d), threads=args.threads)
        for estimator in ("u", "v"):
            ours = race.run("ours", "distance_correlation", estimator=estimator)
            peer = race.run(
                "dcor", f"dcor_{estimator}", script="packages.py", python=python, warm_rows=200
            )
            show(f"distance correlation ({estimator}), n = {n}, d = {args.d}", ours, peer)
    race = Race(*make_rows(10_000, args.d), threads=args.threads)
    ours = race.run("ours", "distance_correlation", estimator="u")
    show(f"distance correlation (u), n = 10000, d = {args.d}, ours alone", ours)
