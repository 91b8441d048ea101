# SPDX-License-Identifier: Apache-2.0
"""Representational similarity of one pair against rsatoolbox: squared distances, two comparisons.

python benchmarks/race_rsa.py --n 2000
"""

from __future__ import annotations

from races import Race, arguments, environment, make_rows, show

COMPARISONS = {"pearson": "corr", "spearman": "spearman"}

if __name__ == "__main__":
    args = arguments(__doc__, n=[2000])
    python = environment(args.cache, "peers")
    for n in args.n:
        race = Race(*make_rows(n, args.d), threads=args.threads)
        for compare, method in COMPARISONS.items():
            show(
                f"RSA ({compare}), n = {n}, d = {args.d}",
                race.run("ours", "rsa", distance="sqeuclidean", compare=compare),
                race.run(
                    "rsatoolbox",
                    "rsatoolbox_rsa",
                    script="packages.py",
                    python=python,
                    method=method,
                ),
                tolerance=1e-5 if compare == "spearman" else 1e-6,
            )
