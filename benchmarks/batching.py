# SPDX-License-Identifier: Apache-2.0
"""What native batching gives: the batches of a build against one call a structure.

    python benchmarks/batching.py --models sevennet-0,chgnet-0.3.0 --sets g2 --rows 60

Rows are the first supported ones of the sets' starter selection, sorted by size. Both ways take
turns and run once before they are timed (kernels, compiled shapes); of each the fastest round
counts. Prints CPU milliseconds a structure and their ratio, then the floor: the flops of the
matrix products PyTorch makes for the batches, at the peak rate measured here, and the largest
ratio any batching could reach, one call a structure over that floor. Models of a hub are given
random weights in their published size (``tests`` of a checkout say what that is).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from matteratlas.builders.adapters.base import Adapter, load_adapter
from matteratlas.builders.embed import set_threads
from matteratlas.builders.structures.sets import load_set
from matteratlas.registry import catalog
from matteratlas.schemas.cards import ModelCard
from matteratlas.schemas.structures import Structure


def milliseconds(adapter: Adapter, batches: Iterable[list[Structure]], rows: int) -> float:
    """CPU milliseconds a structure."""
    clock = time.process_time()
    for batch in batches:
        list(adapter.forward(batch))
    return 1e3 * (time.process_time() - clock) / rows


def matrix_flops(adapter: Adapter, batches: Iterable[list[Structure]]) -> float:
    """Flops of the matrix products PyTorch makes; 0 where another package computes."""
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            list(adapter.forward(batch))
    return float(counter.get_total_flops())


def peak_rate(side: int = 1024) -> float:
    """Flops a CPU second of a large float32 product, the best of 10."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    times = []
    for _ in range(10):
        clock = time.process_time()
        for _ in range(4):
            torch.mm(a, b)
        times.append(time.process_time() - clock)
    return 8 * side**3 / min(times)


def adapter_of(card: ModelCard) -> Adapter:
    """The loaded adapter; random weights in the published size where the real ones are far."""
    if catalog.at_hand(card):
        return load_adapter(card)
    tests = Path(__file__).parents[1] / "tests"
    sys.path[:0] = [str(tests / "builders" / "adapters"), str(tests)]
    from published_configs import empty_model
    from tiny_weights import tiny_adapter

    adapter: Any = tiny_adapter(card)
    model = empty_model(str(card.checkpoint.package)).to_empty(device="cpu").eval()
    with torch.no_grad():
        for values in model.state_dict().values():
            if values.is_floating_point():
                values.normal_(std=0.02)
            else:
                values.zero_()
    for name, buffer in adapter.model.named_buffers():
        if name not in model.state_dict() and buffer.shape == model.get_buffer(name).shape:
            model.get_buffer(name).copy_(buffer)
    adapter.model = model
    return adapter  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="sevennet-0,chgnet-0.3.0,so3lr,chemnet,minilm-l6-v2")
    parser.add_argument("--sets", default="g2")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    set_threads(1)
    rate = peak_rate()
    print(f"peak {rate / 1e9:.0f} GFLOP/s; milliseconds a structure:")
    print(f"{'model':19} {'rows':>5} {'batched':>8} {'single':>8} {'ratio':>6}", end=" ")
    print(f"{'floor':>7} {'ratio at the floor':>19}")
    everything = [
        s
        for set_id in args.sets.split(",")
        for s in load_set(catalog.structure_set(set_id), selection="starter").structures
    ]
    for model_id in args.models.split(","):
        adapter = adapter_of(catalog.model(model_id))
        rows = [s for s in everything if adapter.missing_reason(s) is None][: args.rows]
        rows.sort(key=len)
        if not rows:
            print(f"{model_id:19} {0:5d} takes no structure of {args.sets}")
            continue
        size = adapter.batch_size
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        singles = [[s] for s in rows]
        floor = 1e3 * matrix_flops(adapter, batches) / rate / len(rows)  # warms up, too
        milliseconds(adapter, singles, len(rows))
        together, alone = [], []
        for _ in range(args.rounds):
            together.append(milliseconds(adapter, batches, len(rows)))
            alone.append(milliseconds(adapter, singles, len(rows)))
        a, b = min(together), min(alone)
        most = f"{b / floor:.1f}" if floor else "-"
        print(f"{model_id:19} {len(rows):5d} {a:8.2f} {b:8.2f} {b / a:6.2f}", end=" ")
        print(f"{floor:7.2f} {most:>19}", flush=True)


if __name__ == "__main__":
    main()
