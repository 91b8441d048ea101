# SPDX-License-Identifier: Apache-2.0
"""Mutual kNN of one pair against scikit-learn's exact neighbours and set intersections.

python benchmarks/race_mutual_knn.py --n 10000
"""

from __future__ import annotations

from races import Race, arguments, environment, make_rows, show

if __name__ == "__main__":
    args = arguments(__doc__, n=[10_000])
    python = environment(args.cache, "peers")
    for n in args.n:
        race = Race(*make_rows(n, args.d), threads=args.threads)
        show(
            f"mutual kNN, n = {n}, d = {args.d}, k = 25",
            race.run("ours", "mutual_knn", k=25),
            race.run(
                "scikit-learn", "sklearn_mutual_knn", script="packages.py", python=python, k=25
            ),
        )
