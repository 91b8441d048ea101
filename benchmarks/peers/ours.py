# SPDX-License-Identifier: Apache-2.0
"""This package's side of each race."""

from __future__ import annotations

import timed

from matteratlas.analysis import metrics
from matteratlas.analysis.blocks import Space
from matteratlas.analysis.neighbours import nearest


def both_imbalances(x, y, **options):
    return metrics.information_imbalance(x, y, **options)


def neighbours(x, _, *, k):
    return nearest(Space(x.astype("float64")), k).scores.sum()


def dimension(x, _, **options):
    return metrics.intrinsic_dimension(x, **options)


if __name__ == "__main__":
    timed.run(
        {
            "cknna": metrics.cknna,
            "distance_correlation": metrics.distance_correlation,
            "intrinsic_dimension": dimension,
            "mutual_knn": metrics.mutual_knn,
            "rsa": metrics.rsa,
            "information_imbalance": both_imbalances,
            "neighbours": neighbours,
        }
    )
