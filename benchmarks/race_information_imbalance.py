# SPDX-License-Identifier: Apache-2.0
"""Information imbalance of one pair, both ways, against DADApy.

    python benchmarks/race_information_imbalance.py --n 2000

DADApy needs numpy < 2 and has an environment of its own; it is told not to sample subsets.
"""

from __future__ import annotations

from races import Race, arguments, environment, make_rows, show

if __name__ == "__main__":
    args = arguments(__doc__, n=[2000, 5000])
    python = environment(args.cache, "dadapy")
    for n in args.n:
        race = Race(*make_rows(n, args.d), threads=args.threads)
        show(
            f"information imbalance, n = {n}, d = {args.d}, k = 1",
            race.run("ours", "information_imbalance", k=1),
            race.run("DADApy", "dadapy_imbalance", script="packages.py", python=python, k=1),
        )
