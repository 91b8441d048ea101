# SPDX-License-Identifier: Apache-2.0
"""CKNNA as published with Huh et al. 2024 (unbiased HSIC of masked kernels), on n x n matrices.

Written from the published formula: kernels, top-k masks, and the product of the masked kernels that
the estimator sums, in the embeddings' own precision. ``stabiliser`` is the 1e-6 of the published
denominator; without it, and averaged over the two orders of its arguments, it is what
``matteratlas.analysis.metrics.cknna`` computes.
"""

from __future__ import annotations

import timed
import torch


def hsic_unbiased(k: torch.Tensor, l: torch.Tensor) -> torch.Tensor:  # noqa: E741
    m = k.shape[0]
    k = k.clone().fill_diagonal_(0)
    l = l.clone().fill_diagonal_(0)  # noqa: E741
    value = (k * l.T).sum() + k.sum() * l.sum() / ((m - 1) * (m - 2))
    value -= 2 * torch.mm(k, l).sum() / (m - 2)
    return value / (m * (m - 3))


def similarity(k: torch.Tensor, l: torch.Tensor, top: int) -> torch.Tensor:  # noqa: E741
    masks = []
    for kernel in (k, l):
        others = kernel.clone().fill_diagonal_(float("-inf"))
        _, nearest = torch.topk(others, top, dim=1)
        masks.append(torch.zeros_like(kernel).scatter_(1, nearest, 1))
    mask = masks[0] * masks[1]
    return hsic_unbiased(mask * k, mask * l)


def dense_cknna(x, y, *, k, stabiliser=1e-6, orders=1):
    a, b = (torch.nn.functional.normalize(torch.from_numpy(rows), dim=1) for rows in (x, y))
    first, second = a @ a.T, b @ b.T
    both = [similarity(first, second, k)]
    if orders == 2:
        both.append(similarity(second, first, k))
    own = torch.sqrt(similarity(first, first, k) * similarity(second, second, k))
    return (sum(both) / orders / (own + stabiliser)).item()


if __name__ == "__main__":
    timed.run({"dense_cknna": dense_cknna})
