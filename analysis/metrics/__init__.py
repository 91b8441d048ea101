# SPDX-License-Identifier: Apache-2.0
"""Metrics between embeddings of the same structures: plain functions from arrays to a float."""

from __future__ import annotations

from .cards import CARDS, METRICS, VERSIONS, MetricCard, MetricName
from .cka import linear_cka
from .cknna import cknna
from .distance_correlation import distance_correlation
from .information_imbalance import information_imbalance
from .intrinsic_dimension import intrinsic_dimension
from .mutual_knn import mutual_knn

__all__ = [
    "CARDS",
    "METRICS",
    "VERSIONS",
    "MetricCard",
    "MetricName",
    "cknna",
    "distance_correlation",
    "information_imbalance",
    "intrinsic_dimension",
    "linear_cka",
    "mutual_knn",
]
