# SPDX-License-Identifier: Apache-2.0
"""What a comparison of models may choose, and how its metrics are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .blocks import Normalise
from .metrics.cards import MetricName
from .metrics.cknna import Variant
from .metrics.intrinsic_dimension import Method
from .tiles import Kernel

#: Metrics of shared neighbours.
OVERLAPS: tuple[MetricName, ...] = ("mutual_knn", "cknna")
#: Global metrics, and the matrix whose centred products they are.
KERNELS: dict[MetricName, Kernel] = {
    "linear_cka": "linear",
    "distance_correlation": "distance",
}


@dataclass(frozen=True)
class Settings:
    """Every choice that a result depends on.

    Attributes
    ----------
    scaling : dict of metric to row scaling
        The metrics to compute, and how each scales rows.
    """

    scaling: Mapping[MetricName, Normalise]
    k: int = 25
    permutations: int = 0
    seed: int = 0
    variant: Variant = "masked_unbiased"
    imbalance_k: int = 1
    dimension_method: Method = "twonn"
    dimension_k: int = 50
