# SPDX-License-Identifier: Apache-2.0
"""What the archive means: metrics, calibrated comparisons of all pairs of models, and what follows.

``from matteratlas.analysis import metrics, pairwise`` needs NumPy only; FAISS and xarray are
imported when a function that needs them runs.
"""

from __future__ import annotations

from . import metrics

# Bound here, at the package's own import, so that ``analysis.pairwise`` is always the function and
# never the module of that name, whichever of them is imported first.
from .pairwise import pairwise

__all__ = ["metrics", "pairwise"]
