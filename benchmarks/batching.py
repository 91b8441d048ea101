# SPDX-License-Identifier: Apache-2.0
"""What native batching gives: the batches of a build against one call a structure.

    python benchmarks/batching.py --models sevennet-0,chgnet-0.3.0 --sets g2 --rows 60

Rows are the first supported ones of the sets' starter selection, sorted by size. Both ways run once
before they are timed (kernels, compiled shapes). Prints CPU milliseconds a structure and the ratio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable

from matteratlas.builders.adapters.base import Adapter, load_adapter
from matteratlas.builders.embed import set_threads
from matteratlas.builders.structures.sets import load_set
from matteratlas.registry import catalog
from matteratlas.schemas.structures import Structure


def milliseconds(adapter: Adapter, batches: Iterable[list[Structure]], rows: int) -> float:
    clock = time.process_time()
    for batch in batches:
        list(adapter.forward(batch))
    return 1e3 * (time.process_time() - clock) / rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="sevennet-0,chgnet-0.3.0,so3lr,chemnet,minilm-l6-v2")
    parser.add_argument("--sets", default="g2")
    parser.add_argument("--rows", type=int, default=60)
    args = parser.parse_args()
    set_threads(1)
    everything = [
        s
        for set_id in args.sets.split(",")
        for s in load_set(catalog.structure_set(set_id), selection="starter").structures
    ]
    print(f"{'model':16} {'rows':>5} {'batched ms':>11} {'single ms':>10} {'ratio':>6}")
    for model_id in args.models.split(","):
        adapter = load_adapter(catalog.model(model_id))
        rows = [s for s in everything if adapter.missing_reason(s) is None][: args.rows]
        rows.sort(key=len)
        size = adapter.batch_size
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        singles = [[s] for s in rows]
        milliseconds(adapter, batches, len(rows)), milliseconds(adapter, singles, len(rows))
        together = milliseconds(adapter, batches, len(rows))
        alone = milliseconds(adapter, singles, len(rows))
        print(
            f"{model_id:16} {len(rows):5d} {together:11.2f} {alone:10.2f} {alone / together:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
