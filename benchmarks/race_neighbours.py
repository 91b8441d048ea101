# SPDX-License-Identifier: Apache-2.0
"""Exact neighbours of every row: ours (float32 tiles, float64 order) against FAISS and the floor.

    OMP_NUM_THREADS=1 python benchmarks/race_neighbours.py --n 10000 50000

One process, one round after another, so that both sides and the floor see the same machine; medians
of processor seconds. Ours counts all it takes from rows of float64: centring, looking for copies,
float32, search, distances in float64, doubt. FAISS gets float32 rows and gives float32 distances.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from floor import SIDE, allowed_threads, floor_seconds
from races import arguments, make_rows

K = 35
ROUNDS = 3


def seconds(task: Callable[[], object]) -> tuple[float, object]:
    start = time.process_time()
    result = task()
    return time.process_time() - start, result


def main() -> None:
    args = arguments(__doc__, n=[10_000])
    from threadpoolctl import threadpool_limits

    from matteratlas.analysis.blocks import Space, normalise_rows
    from matteratlas.analysis.neighbours import load_faiss, nearest

    faiss = load_faiss()
    square = np.random.default_rng(0).standard_normal((SIDE, SIDE), dtype=np.float32)
    print("| rows | floor s | FAISS / floor | ours / floor | FAISS / ours | same neighbours |")
    print("|---|---|---|---|---|---|")
    with threadpool_limits(args.threads):
        assert allowed_threads() == args.threads
        nearest(Space(make_rows(1200, args.d)[0]), K)  # compiles
        for n in args.n:
            rows = normalise_rows(make_rows(n, args.d)[0], "l2")
            single = rows.astype(np.float32)
            peak, peer, ours = [], [], []
            for _ in range(ROUNDS):
                peak.append(seconds(lambda: square @ square)[0])
                spent, (_, labels) = seconds(lambda single=single: faiss.knn(single, single, K + 1))
                peer.append(spent)
                spent, found = seconds(lambda rows=rows: nearest(Space(rows), K))
                ours.append(spent)
            rate = 2e-9 * SIDE**3 / statistics.median(peak)
            floor = floor_seconds(n, [args.d], peak=rate)
            a, b = statistics.median(peer), statistics.median(ours)
            same = np.mean(
                [np.isin(x, y).mean() for x, y in zip(found.indices, labels, strict=True)]
            )
            print(
                f"| {n} | {floor:.2f} | {a / floor:.2f} | {b / floor:.2f} | {a / b:.2f} | "
                f"{same:.6f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
