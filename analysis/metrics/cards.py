# SPDX-License-Identifier: Apache-2.0
"""What each metric is, as data: the property cards printed in docs/reference/metrics.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from ..blocks import Normalise
from . import (
    cka,
    cknna,
    distance_correlation,
    information_imbalance,
    intrinsic_dimension,
    mutual_knn,
)

MetricName = Literal[
    "mutual_knn",
    "cknna",
    "linear_cka",
    "distance_correlation",
    "information_imbalance",
    "intrinsic_dimension",
]
METRICS: tuple[MetricName, ...] = get_args(MetricName)


@dataclass(frozen=True)
class MetricCard:
    """Properties of one metric with its default settings.

    Attributes
    ----------
    name, version : str
        ``version`` rises whenever the same input would give another number.
    pairwise : bool
        Whether it compares two embeddings (else it describes one).
    symmetric : bool
        Whether swapping the embeddings leaves it unchanged.
    larger_is_similar : bool
        Whether larger values mean more alike.
    lower, upper : float or None
        Range; None where unbounded.
    normalise : {"l2", "max", "none"}
        Default row scaling.
    invariant_to : tuple of str
        Changes to either embedding that leave it unchanged, under the default row scaling.
    best : callable (n, k) -> float
        Value for two equal embeddings.
    null : str
        Expectation over unrelated embeddings.
    """

    name: MetricName
    version: str
    pairwise: bool
    symmetric: bool
    larger_is_similar: bool
    lower: float | None
    upper: float | None
    normalise: Normalise
    invariant_to: tuple[str, ...]
    best: Callable[[int, int], float]
    null: str


def _one(_n: int, _k: int) -> float:
    return 1.0


CARDS: dict[MetricName, MetricCard] = {
    card.name: card
    for card in (
        MetricCard(
            name="mutual_knn",
            version=mutual_knn.VERSION,
            pairwise=True,
            symmetric=True,
            larger_is_similar=True,
            lower=0.0,
            upper=1.0,
            normalise="l2",
            invariant_to=("orthogonal maps", "isotropic scaling", "scaling of single rows"),
            best=_one,
            null="k / (n - 1)",
        ),
        MetricCard(
            name="cknna",
            version=cknna.VERSION,
            pairwise=True,
            symmetric=True,
            larger_is_similar=True,
            lower=None,
            upper=None,
            normalise="l2",
            invariant_to=("orthogonal maps", "isotropic scaling", "scaling of single rows"),
            best=_one,
            null="about k / (n - 1)",
        ),
        MetricCard(
            name="linear_cka",
            version=cka.VERSION,
            pairwise=True,
            symmetric=True,
            larger_is_similar=True,
            lower=None,
            upper=1.0,
            normalise="none",
            invariant_to=("orthogonal maps", "isotropic scaling", "translations"),
            best=_one,
            null="0 (biased estimator: rises to 1 with features / rows)",
        ),
        MetricCard(
            name="distance_correlation",
            version=distance_correlation.VERSION,
            pairwise=True,
            symmetric=True,
            larger_is_similar=True,
            lower=None,
            upper=1.0,
            normalise="none",
            invariant_to=("orthogonal maps", "isotropic scaling", "translations"),
            best=_one,
            null="0 (V estimator: rises to 1 with features / rows)",
        ),
        MetricCard(
            name="information_imbalance",
            version=information_imbalance.VERSION,
            pairwise=True,
            symmetric=False,
            larger_is_similar=False,
            lower=0.0,
            upper=2.0,
            normalise="none",
            invariant_to=("orthogonal maps", "isotropic scaling", "translations"),
            best=lambda n, k: (k + 1.0) / n,
            null="1",
        ),
        MetricCard(
            name="intrinsic_dimension",
            version=intrinsic_dimension.VERSION,
            pairwise=False,
            symmetric=True,
            larger_is_similar=True,
            lower=0.0,
            upper=None,
            normalise="none",
            invariant_to=("orthogonal maps", "isotropic scaling", "translations"),
            best=_one,
            null="none: a property of one embedding",
        ),
    )
}

VERSIONS: dict[MetricName, str] = {name: card.version for name, card in CARDS.items()}
