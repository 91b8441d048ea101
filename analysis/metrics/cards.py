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
    cycle_knn,
    distance_correlation,
    idcor,
    information_imbalance,
    intrinsic_dimension,
    local_agreement,
    mutual_knn,
    procrustes,
    rbf_cka,
    rsa,
    svcca,
)

MetricName = Literal[
    "mutual_knn",
    "cknna",
    "linear_cka",
    "distance_correlation",
    "information_imbalance",
    "intrinsic_dimension",
]
AnyMetricName = Literal[
    MetricName,
    "rbf_cka",
    "rsa",
    "svcca",
    "procrustes",
    "cycle_knn",
    "local_knn_agreement",
    "idcor",
]

DEFAULT_METRICS: tuple[MetricName, ...] = get_args(MetricName)
"""The families a study takes unless it says otherwise."""

METRICS: tuple[MetricName, ...] = DEFAULT_METRICS
"""What ``pairwise`` computes for all pairs of many models at once."""

Change = Literal[
    "rotations", "scale", "translations", "lengths of rows", "invertible maps", "scale of features"
]
"""A change to one embedding: an orthogonal map, one positive factor, one added vector, a positive
factor a row, an invertible linear map, a positive factor a feature."""

Source = Literal["neighbour lists", "ranks", "distances", "inner products", "features"]


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
    computed_from : str
        What of the embeddings it looks at.
    best : callable (n, k) -> float
        Value for two equal embeddings; NaN where it depends on the embedding.
    null : str
        Expectation over unrelated embeddings.
    source : str
        Publication that defines it.
    """

    name: AnyMetricName
    version: str
    pairwise: bool
    symmetric: bool
    larger_is_similar: bool
    lower: float | None
    upper: float | None
    normalise: Normalise
    invariant_to: tuple[Change, ...]
    computed_from: Source
    best: Callable[[int, int], float]
    null: str
    source: str


def _one(_n: int, _k: int) -> float:
    return 1.0


def _depends(_n: int, _k: int) -> float:
    return float("nan")


_RIGID: tuple[Change, ...] = ("rotations", "scale", "translations")
_DIRECTIONS: tuple[Change, ...] = ("rotations", "scale", "lengths of rows")

CARDS: dict[str, MetricCard] = {
    str(card.name): card
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
            invariant_to=_DIRECTIONS,
            computed_from="neighbour lists",
            best=_one,
            null="k/(n-1)",
            source="Huh et al. 2024",
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
            invariant_to=_DIRECTIONS,
            computed_from="neighbour lists",
            best=_one,
            null="about k/(n-1)",
            source="Huh et al. 2024, code",
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
            invariant_to=_RIGID,
            computed_from="features",
            best=_one,
            null="0",
            source="Kornblith et al. 2019; Song et al. 2012",
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
            invariant_to=_RIGID,
            computed_from="distances",
            best=_one,
            null="0",
            source="Szekely & Rizzo 2013",
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
            invariant_to=_RIGID,
            computed_from="ranks",
            best=lambda n, k: (k + 1.0) / n,
            null="1",
            source="Glielmo et al. 2022",
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
            invariant_to=_RIGID,
            computed_from="neighbour lists",
            best=_depends,
            null="-",
            source="Facco et al. 2017",
        ),
        MetricCard(
            name="rbf_cka",
            version=rbf_cka.VERSION,
            pairwise=True,
            symmetric=True,
            larger_is_similar=True,
            lower=None,
            upper=1.0,
            normalise="none",
            invariant_to=_RIGID,
            computed_from="distances",
            best=_one,
            null="0",
            source="Kornblith et al. 2019; Song et al. 2012",
        ),
        MetricCard(
            name="rsa",
            version=rsa.VERSION,
            pairwise=True,
            symmetric=True,
            larger_is_similar=True,
            lower=-1.0,
            upper=1.0,
            normalise="none",
            invariant_to=_RIGID,
            computed_from="distances",
            best=_one,
            null="0",
            source="Kriegeskorte et al. 2008",
        ),
        MetricCard(
            name="svcca",
            version=svcca.VERSION,
            pairwise=True,
            symmetric=True,
            larger_is_similar=True,
            lower=0.0,
            upper=1.0,
            normalise="none",
            invariant_to=_RIGID,
            computed_from="features",
            best=_one,
            null="about sqrt(max(k_x, k_y)/(n-1)), k directions kept",
            source="Raghu et al. 2017",
        ),
        MetricCard(
            name="procrustes",
            version=procrustes.VERSION,
            pairwise=True,
            symmetric=True,
            larger_is_similar=True,
            lower=0.0,
            upper=1.0,
            normalise="none",
            invariant_to=_RIGID,
            computed_from="features",
            best=_one,
            null="above 0, rises to 1 with features / rows",
            source="Williams et al. 2021; Ding et al. 2021",
        ),
        MetricCard(
            name="cycle_knn",
            version=cycle_knn.VERSION,
            pairwise=True,
            symmetric=False,
            larger_is_similar=True,
            lower=0.0,
            upper=1.0,
            normalise="l2",
            invariant_to=_DIRECTIONS,
            computed_from="neighbour lists",
            best=_depends,
            null="about 1-(1-k/(n-1))^k",
            source="Huh et al. 2024, code",
        ),
        MetricCard(
            name="local_knn_agreement",
            version=local_agreement.VERSION,
            pairwise=True,
            symmetric=True,
            larger_is_similar=True,
            lower=0.0,
            upper=1.0,
            normalise="l2",
            invariant_to=_DIRECTIONS,
            computed_from="neighbour lists",
            best=_one,
            null="k/(n-1)",
            source="mutual kNN, row by row",
        ),
        MetricCard(
            name="idcor",
            version=idcor.VERSION,
            pairwise=True,
            symmetric=True,
            larger_is_similar=True,
            lower=None,
            upper=None,
            normalise="l2",
            invariant_to=_DIRECTIONS,
            computed_from="neighbour lists",
            best=_one,
            null="0 where dimensions are estimated right; see the p-value",
            source="Basile et al. 2024",
        ),
    )
}

ALL_METRICS: tuple[AnyMetricName, ...] = tuple(card.name for card in CARDS.values())
"""Every metric, those of ``pairwise`` first."""

VERSIONS: dict[MetricName, str] = {name: CARDS[name].version for name in METRICS}
"""Of the metrics that ``pairwise`` computes; every metric's is on its card."""
