# SPDX-License-Identifier: Apache-2.0
"""Small made-up embeddings, each kind stressing one thing."""

from __future__ import annotations

import numpy as np


def made_up_pair(kind: str, n: int = 70) -> tuple[np.ndarray, np.ndarray]:
    """Two embeddings of the same n rows."""
    random = np.random.default_rng(sum(map(ord, kind)))
    latent = random.normal(size=(n, 4))
    x = np.tanh(latent @ random.normal(size=(4, 12))) + 0.2 * random.normal(size=(n, 12))
    y = (latent @ random.normal(size=(4, 7))) ** 2 + 0.2 * random.normal(size=(n, 7))
    if kind == "wide":
        y = y @ random.normal(size=(7, 300)) + 0.1 * random.normal(size=(n, 300))
    elif kind == "one_feature":
        x, y = x[:, :1], y[:, 0]
    elif kind == "offset":
        x = x + 1e3
    elif kind == "single_precision":
        x, y = x.astype(np.float32), y.astype(np.float32)
    elif kind == "copies":  # a table of few distinct rows against a space with some repeats
        x = x[random.integers(0, 9, n)]
        y[20:32] = y[:12]
    elif kind == "counts":  # whole numbers: many equal distances between distinct rows
        x = random.poisson(1.0, size=(n, 6)).astype(float)
        y = random.integers(0, 2, size=(n, 20)).astype(float)
    elif kind == "zero_rows":
        x[5] = 0.0
        y[[7, 9]] = 0.0
    elif kind != "plain":
        raise ValueError(kind)
    return x, y


KINDS = (
    "plain",
    "wide",
    "one_feature",
    "offset",
    "single_precision",
    "copies",
    "counts",
    "zero_rows",
)

# Equal distances between distinct rows survive only exact arithmetic: whole numbers as given. (Of
# unit length they do not, and a row of zeros is equally far from all rows of unit length.)
SCALED = [(kind, how) for kind in KINDS for how in ("l2", "max", "none")]
EXACT = [
    (kind, how)
    for kind, how in SCALED
    if (kind != "counts" or how == "none") and (kind, how) != ("zero_rows", "l2")
]
