# SPDX-License-Identifier: Apache-2.0
"""Intrinsic dimension (TwoNN, MLE) of one model against scikit-dimension.

python benchmarks/race_intrinsic_dimension.py --n 10000
"""

from __future__ import annotations

from races import Race, arguments, environment, make_rows, show

if __name__ == "__main__":
    args = arguments(__doc__, n=[10_000])
    python = environment(args.cache, "peers")
    for n in args.n:
        race = Race(*make_rows(n, args.d), threads=args.threads)
        show(
            f"intrinsic dimension (TwoNN), n = {n}, d = {args.d}",
            race.run("ours", "intrinsic_dimension"),
            race.run("scikit-dimension", "skdim_twonn", script="packages.py", python=python),
        )
        show(
            f"intrinsic dimension (MLE), n = {n}, d = {args.d}, k = 50",
            race.run("ours", "intrinsic_dimension", method="mle", k=50),
            race.run("scikit-dimension", "skdim_mle", script="packages.py", python=python, k=50),
        )
