# SPDX-License-Identifier: Apache-2.0
"""Metrics between embeddings of the same structures: plain functions from arrays to numbers."""

from __future__ import annotations

from .cards import (
    ALL_METRICS,
    CARDS,
    DEFAULT_METRICS,
    METRICS,
    VERSIONS,
    AnyMetricName,
    MetricCard,
    MetricName,
)
from .cka import linear_cka
from .cknna import cknna
from .cycle_knn import cycle_knn
from .distance_correlation import distance_correlation
from .idcor import IdCor, idcor
from .information_imbalance import information_imbalance
from .intrinsic_dimension import intrinsic_dimension
from .local_agreement import local_knn_agreement
from .mutual_knn import mutual_knn
from .procrustes import procrustes
from .rbf_cka import rbf_cka
from .rsa import rank_error_bound, rsa
from .svcca import svcca

__all__ = [
    "ALL_METRICS",
    "CARDS",
    "DEFAULT_METRICS",
    "METRICS",
    "VERSIONS",
    "AnyMetricName",
    "IdCor",
    "MetricCard",
    "MetricName",
    "cknna",
    "cycle_knn",
    "distance_correlation",
    "idcor",
    "information_imbalance",
    "intrinsic_dimension",
    "linear_cka",
    "local_knn_agreement",
    "mutual_knn",
    "procrustes",
    "rank_error_bound",
    "rbf_cka",
    "rsa",
    "svcca",
]
