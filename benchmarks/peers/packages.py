# SPDX-License-Identifier: Apache-2.0
"""Other packages' side of each race; each import is the contestant's own, so none needs all."""

from __future__ import annotations

import numpy as np
import timed


def dcor_u(x, y):
    import dcor

    return dcor.u_distance_correlation_sqr(x, y)


def dcor_v(x, y):
    import dcor

    return dcor.distance_correlation_sqr(x, y)


def skdim_twonn(x, _):
    import skdim

    return skdim.id.TwoNN().fit(x).dimension_


def skdim_mle(x, _, *, k):
    import skdim

    return skdim.id.MLE().fit(x, n_neighbors=k).dimension_


def sklearn_mutual_knn(x, y, *, k):
    from sklearn.neighbors import NearestNeighbors

    lists = []
    for rows in (x, y):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        lists.append(NearestNeighbors(n_neighbors=k).fit(unit).kneighbors(return_distance=False))
    shared = sum(len(np.intersect1d(a, b)) for a, b in zip(*lists, strict=True))
    return shared / (k * len(x))


def rsatoolbox_rsa(x, y, *, method):
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm, compare

    # Its "euclidean" is the squared distance over the number of features.
    first, second = (calc_rdm(Dataset(rows), method="euclidean") for rows in (x, y))
    return compare(first, second, method=method)[0, 0]


def faiss_neighbours(x, _, *, k):
    import faiss

    x = x.astype("float32")
    return faiss.knn(x, x, k + 1)[0].astype("float64").sum()


def dadapy_imbalance(x, y, *, k):
    from dadapy import MetricComparisons

    comparison = MetricComparisons(x, n_jobs=1)
    forth, back = comparison.return_information_imbalace(y, k=k, subset_size=len(x))
    return forth[0], back[0]


if __name__ == "__main__":
    contestants = (
        dcor_u,
        dcor_v,
        skdim_twonn,
        skdim_mle,
        sklearn_mutual_knn,
        rsatoolbox_rsa,
        faiss_neighbours,
        dadapy_imbalance,
    )
    timed.run({contestant.__name__: contestant for contestant in contestants})
