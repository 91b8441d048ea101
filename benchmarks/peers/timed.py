# SPDX-License-Identifier: Apache-2.0
"""Time one contestant of a race in a process of its own; needs nothing but NumPy.

Called as ``python <file of contestants> NAME FOLDER OPTIONS``: reads ``x.npy`` and ``y.npy`` from
the folder, calls the contestant once on few rows (imports, compilation), then on all of them, and
prints one line of JSON: its values, seconds, processor seconds, and peak memory in MB with what the
process held before the call.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

WARM_ROWS = 1200
REPEATS, ENOUGH_SECONDS = 5, 10.0


def memory_mb() -> tuple[float, float]:
    """Memory held now, and the most held so far, by this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, peak = (float(status[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
    return now, peak


def run(contestants: Mapping[str, Callable[..., object]]) -> None:
    warnings.simplefilter("ignore")
    name, folder, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    contestant = contestants[name]
    warm = options.pop("warm_rows", WARM_ROWS)
    contestant(x[:warm], y[:warm], **options)
    before = memory_mb()[0]
    wall: list[float] = []
    cpu: list[float] = []
    while len(wall) < REPEATS and sum(wall) < ENOUGH_SECONDS:
        start = time.perf_counter(), time.process_time()
        value = contestant(x, y, **options)
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    record = {
        "values": np.atleast_1d(np.asarray(value, float)).tolist(),
        "wall": statistics.median(wall),
        "cpu": statistics.median(cpu),
        "runs": len(wall),
        "before": before,
        "peak": memory_mb()[1],
    }
    print(json.dumps(record))
