# SPDX-License-Identifier: Apache-2.0
"""Real embeddings that the metrics are cross-checked on, for tests/analysis/golden.

    python benchmarks/golden/make_real_inputs.py tests/analysis/golden/real.npz

Builds a small atlas in a temporary folder (two learned potentials and an element table, which gives
all structures of one composition the same row) and writes the vectors of the structures that all
three embedded, float32, in the order of their ids.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from matteratlas.builders.build import build
from matteratlas.registry.archive import open_atlas

MODELS = {"chgnet": "chgnet-0.3.0", "sevennet": "sevennet-0", "mat2vec": "mat2vec"}
SETS = ["g2", "prototypes", "minerals"]


def main(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "atlas"
        report = build(root, models=list(MODELS.values()), sets=SETS, selection="starter")
        if report.failed:
            raise SystemExit(f"a unit failed: {report.failed[0]}")
        atlas = open_atlas(root)
        tables = {}
        for name, model in MODELS.items():
            array = atlas.embeddings(model, missing="drop")
            table = pd.DataFrame(array.to_numpy(), index=array["structure"].to_numpy())
            tables[name] = table[~table.index.duplicated()]
    ids = sorted(set.intersection(*(set(table.index) for table in tables.values())))
    rows = {name: table.loc[ids].to_numpy(np.float32) for name, table in tables.items()}
    np.savez_compressed(path, ids=np.array(ids), **rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
