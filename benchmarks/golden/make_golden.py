# SPDX-License-Identifier: Apache-2.0
"""Golden values of the metrics from other people's packages, for tests/analysis/golden.

DADApy needs numpy < 2, so the packages live in an environment of their own, made for the occasion::

    python3.11 -m venv golden-env
    golden-env/bin/pip install "dadapy==0.3.4" "dcor==0.7" "scikit-dimension==0.5.0" "numpy<2"
    golden-env/bin/python benchmarks/golden/make_golden.py tests/analysis/golden

Writes ``inputs.npz`` (the embeddings, float32) and ``values.json`` (what the packages say of them,
and which versions said it). Importing dcor compiles for a minute or more.
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

PACKAGES = ("dadapy", "dcor", "scikit-dimension", "numpy", "scipy", "scikit-learn")


def make_inputs() -> dict[str, np.ndarray]:
    """Three pairs of embeddings: one curved source seen twice, offset and stretched, unrelated."""
    random = np.random.default_rng(20260131)
    latent = random.normal(size=(180, 5))
    wide = np.tanh(latent @ random.normal(size=(5, 24))) + 0.2 * random.normal(size=(180, 24))
    narrow = (latent @ random.normal(size=(5, 9))) ** 2 + 0.2 * random.normal(size=(180, 9))
    scales = np.geomspace(0.01, 30.0, 12)
    offset = 50.0 + wide[:140, :12] * scales
    pairs = {
        "curved": (wide, narrow),
        "offset": (offset, wide[:140, 6:] + 0.3 * random.normal(size=(140, 18))),
        "unrelated": (random.normal(size=(90, 120)), random.standard_t(4, size=(90, 3))),
    }
    return {
        f"{name}_{side}": array.astype(np.float32)
        for name, pair in pairs.items()
        for side, array in zip("xy", pair, strict=True)
    }


def dimensions(x: np.ndarray) -> dict[str, float]:
    return {
        "dadapy_2nn": float(Data(x).compute_id_2NN()[0]),
        "dadapy_2nn_fraction_0.7": float(Data(x).compute_id_2NN(mu_fraction=0.7)[0]),
        "skdim_twonn": float(skdim.id.TwoNN().fit(x).dimension_),
        "skdim_mle_k20": float(skdim.id.MLE().fit(x, n_neighbors=20).dimension_),
        "skdim_mle_k50": float(skdim.id.MLE().fit(x, n_neighbors=50).dimension_),
    }


def values(x: np.ndarray, y: np.ndarray) -> dict[str, object]:
    imbalance = {}
    for k in (1, 5):
        forth, back = MetricComparisons(x).return_information_imbalace(y, k=k)
        imbalance[f"k{k}"] = [float(forth[0]), float(back[0])]
    return {
        "dadapy_information_imbalance": imbalance,
        "dcor_u_distance_correlation_sqr": float(dcor.u_distance_correlation_sqr(x, y)),
        "dcor_distance_correlation": float(dcor.distance_correlation(x, y)),
        "dcor_distance_correlation_sqr": float(dcor.distance_correlation_sqr(x, y)),
        "dimension_x": dimensions(x),
        "dimension_y": dimensions(y),
    }


def main(folder: Path) -> None:
    inputs = make_inputs()
    names = list(dict.fromkeys(key.rsplit("_", 1)[0] for key in inputs))
    record = {
        "made_by": "benchmarks/golden/make_golden.py",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "values": {
            name: values(
                inputs[f"{name}_x"].astype(np.float64), inputs[f"{name}_y"].astype(np.float64)
            )
            for name in names
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "inputs.npz", **inputs)
    (folder / "values.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
