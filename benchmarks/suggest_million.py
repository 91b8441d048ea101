# SPDX-License-Identifier: Apache-2.0
"""A batch among a million candidates: time and peak memory of every acquisition method.

Candidates are synthetic: points around a few thousand centres in 128 dimensions, a tenth of which
nothing known lies near; those carry the weight of a gap. Run:
``python benchmarks/suggest_million.py``.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from matteratlas.analysis.acquire.acquisition import METHODS, acquire

#: The law: seconds and bytes.
SECONDS, BYTES = 300.0, 4 * 10**9


def main() -> None:
    """Print one JSON line a method, and fail where the law is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--known", type=int, default=10_000)
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--gap", type=float, default=0.1, help="share of candidates in gaps")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    given = parser.parse_args()

    random = np.random.default_rng(0)
    centres = random.normal(size=(4000, given.dimensions)).astype(np.float32)
    thin = int(given.gap * len(centres))
    known = centres[random.integers(thin, len(centres), given.known)]
    known = known + 0.3 * random.normal(size=known.shape).astype(np.float32)
    cells = random.integers(0, len(centres), given.candidates)
    candidates = np.empty((given.candidates, given.dimensions), np.float32)
    for start in range(0, given.candidates, 2**16):
        block = centres[cells[start : start + 2**16]]
        noise = random.standard_normal(block.shape, dtype=np.float32)
        candidates[start : start + 2**16] = block + 0.3 * noise
    weights = (cells < thin).astype(float)
    costs = random.integers(2, 200, given.candidates).astype(float)
    broken = []
    for method in given.methods:
        for weighted in (True, False) if method == "gap_driven" else (False,):
            wall, processor = time.perf_counter(), time.process_time()
            picks = acquire(
                candidates, known, given.batch, method=method,
                weights=weights if weighted else None, costs=costs if weighted else None,
            )  # fmt: skip
            line = {
                "method": method,
                "weights and costs": weighted,
                "candidates": given.candidates,
                "known": given.known,
                "dimensions": given.dimensions,
                "picks": len(picks.rows),
                "picks in gaps": int((weights[picks.rows] > 0).sum()),
                "seconds": round(time.perf_counter() - wall, 1),
                "processor seconds": round(time.process_time() - processor, 1),
                "peak GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
            }
            print(json.dumps(line), flush=True)
            if line["seconds"] > SECONDS or line["peak GB"] * 1e9 > BYTES:
                broken.append(method)
    if broken:
        raise SystemExit(f"over 5 minutes or 4 GB: {', '.join(broken)}")


if __name__ == "__main__":
    main()
