# SPDX-License-Identifier: Apache-2.0
"""What other people's packages say of the real embeddings in tests/analysis/golden.

DADApy needs numpy < 2, so the packages live in an environment of their own, made for the occasion::

    python3.11 -m venv golden-env
    golden-env/bin/pip install "dadapy==0.3.4" "dcor==0.7" "scikit-dimension==0.5.0" \\
        "rsatoolbox==0.3.2" "numpy<2"
    golden-env/bin/python benchmarks/golden/make_real_golden.py tests/analysis/golden

Reads ``real.npz`` and writes ``real_values.json``. Importing dcor compiles for a minute or more.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from pathlib import Path

import dcor
import numpy as np
import skdim
from dadapy import Data, MetricComparisons
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import calc_rdm, compare

PACKAGES = ("dadapy", "dcor", "scikit-dimension", "rsatoolbox", "numpy", "scipy", "scikit-learn")

#: Pairs of embeddings and whether any of their rows repeat (packages differ in what ties do).
PAIRS = {"chgnet~sevennet": False, "chgnet~mat2vec": True}


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def dimensions(x: np.ndarray) -> dict[str, float]:
    return {
        "dadapy_2nn": float(Data(x).compute_id_2NN()[0]),
        "skdim_twonn": float(skdim.id.TwoNN().fit(x).dimension_),
        "skdim_mle_k50": float(skdim.id.MLE().fit(x, n_neighbors=50).dimension_),
    }


def values(x: np.ndarray, y: np.ndarray, *, repeats: bool) -> dict[str, object]:
    record: dict[str, object] = {
        "dcor_u_distance_correlation_sqr": float(dcor.u_distance_correlation_sqr(x, y)),
        "dcor_distance_correlation_sqr": float(dcor.distance_correlation_sqr(x, y)),
        "dcor_distance_correlation": float(dcor.distance_correlation(x, y)),
    }
    for method in ("euclidean", "correlation"):
        rdms = [calc_rdm(Dataset(z), method=method) for z in (x, y)]
        for how in ("corr", "spearman", "cosine"):
            value = float(np.squeeze(compare(*rdms, method=how)))
            record[f"rsatoolbox_{method}_{how}"] = value
    if repeats:
        return record
    for k in (1, 5, 25):
        forth, back = MetricComparisons(x).return_information_imbalace(y, k=k)
        record[f"dadapy_information_imbalance_k{k}"] = [float(forth[0]), float(back[0])]
    both = {"x": x, "y": y, "unit_x": unit(x), "unit_y": unit(y)}
    both["unit_both"] = np.hstack([both["unit_x"], both["unit_y"]])
    return record | {f"dimension_{name}": dimensions(rows) for name, rows in both.items()}


def main(folder: Path) -> None:
    inputs = np.load(folder / "real.npz")
    record = {
        "made_by": "benchmarks/golden/make_real_golden.py",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "values": {
            pair: values(
                *(inputs[side].astype(np.float64) for side in pair.split("~")), repeats=repeats
            )
            for pair, repeats in PAIRS.items()
        },
    }
    (folder / "real_values.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
