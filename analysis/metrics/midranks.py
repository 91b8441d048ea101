# SPDX-License-Identifier: Apache-2.0
"""Ranks in which equal values share the mean of the places they take."""

from __future__ import annotations

import numpy as np

from .matrices import Floats


def mid_ranks(values: Floats) -> Floats:
    """Ascending ranks along the last axis, 1 for the smallest, ties at their mean; same shape."""
    order = np.argsort(values, axis=-1)
    ranked = np.take_along_axis(values, order, axis=-1)
    last = values.shape[-1] - 1
    index = np.arange(last + 1)
    step = ranked[..., 1:] != ranked[..., :-1]
    edge = np.ones((*values.shape[:-1], 1), bool)
    first = np.where(np.concatenate([edge, step], axis=-1), index, 0)
    first = np.maximum.accumulate(first, axis=-1)
    final = np.where(np.concatenate([step, edge], axis=-1), index, last)
    final = np.minimum.accumulate(final[..., ::-1], axis=-1)[..., ::-1]
    out = np.empty(values.shape)
    np.put_along_axis(out, order, 0.5 * (first + final) + 1.0, axis=-1)
    return out
