# SPDX-License-Identifier: Apache-2.0
"""Ranks of the models' neighbours in each other's distances, compiled.

What is ranked for a row are the neighbours that any model gives it: models agree on many, and each
is counted once. A rank counts the rows that are closer, and half of those as close.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..candidates import compiled

#: Thresholds of a row are padded to a multiple of this, and counted so many at a time.
LANES = 16


@compiled(error_model="numpy")
def list_targets(
    indices: Any, member: Any, mark: Any, starts: Any, targets: Any, models: Any, edges: Any
) -> int:
    """List the rows whose distances rank something, each once a row; and what they stand for.

    Parameters
    ----------
    indices : int32 array, shape (m, r, w)
        Neighbours of each model and row.
    member : uint16 array, shape (m, r, w)
        Their bits; those without any do not count.
    mark : int32 array, shape (n,), zeros, left so
    starts : int64 array, shape (r + 1,)
        Filled: where a row's targets begin, multiples of ``LANES``.
    targets : int32 array
        Filled; -1 between a row's last and the next row.
    models, edges : int32 arrays
        Filled: model and target of each neighbour that counts.

    Returns
    -------
    int
        Number of those neighbours.
    """
    m, rows, width = indices.shape
    found = 0
    place = 0
    for i in range(rows):
        starts[i] = place
        first = place
        for a in range(m):
            for t in range(width):
                if member[a, i, t] == 0:
                    continue
                j = indices[a, i, t]
                if mark[j] == 0:
                    targets[place] = j
                    place += 1
                    mark[j] = place
                models[found] = a
                edges[found] = mark[j] - 1
                found += 1
        for at in range(first, place):
            mark[targets[at]] = 0
        while place % LANES:
            targets[place] = -1
            place += 1
    starts[rows] = place
    return found


# Sums may be taken in any order: they are spread over the lanes of the processor.
@compiled(error_model="numpy", fastmath={"reassoc", "nsz", "contract"})
def thresholds(
    points: Any,
    first: int,
    starts: Any,
    targets: Any,
    unit: float,
    low: Any,
    high: Any,
    place: Any,
) -> None:
    """Squared distances from rows to their targets, with the reach of rounding on either side.

    Parameters
    ----------
    points : float32 array, shape (n, d)
    first : int
        Number of the tile's first row.
    starts, targets : arrays
        As :func:`list_targets` leaves them.
    unit : float
        Rounding error of a squared distance, in parts of the squared lengths it is made of.
    low, high : float32 arrays, shape (targets,)
        Filled, descending in each row; below all distances where there is no target.
    place : int32 array, shape (targets,)
        Filled: where in them each target's threshold is.
    """
    width = points.shape[1]
    found = np.empty(targets.size, np.float64)
    for i in range(starts.size - 1):
        own = 0.0
        for c in range(width):
            own += np.float64(points[first + i, c]) ** 2
        begin, end = starts[i], starts[i + 1]
        for t in range(begin, end):
            other = targets[t]
            value = 0.0
            if other < 0:
                found[t] = 1.0
                continue
            for c in range(width):
                gap = np.float64(points[first + i, c]) - np.float64(points[other, c])
                value += gap * gap
            found[t] = -value
        order = np.argsort(found[begin:end])
        for t in range(end - begin):
            value = -found[begin + order[t]]
            place[begin + order[t]] = begin + t
            low[begin + t] = high[begin + t] = -1.0
            if value >= 0.0:
                reach = unit * (own + (np.sqrt(own) + np.sqrt(value)) ** 2)
                low[begin + t] = value - reach
                high[begin + t] = value + reach


@compiled(error_model="numpy")
def count_closer(squared: Any, starts: Any, low: Any, high: Any, doubled: Any, work: Any) -> None:
    """Count the columns closer than each threshold, and those as close as it, twice and once.

    Columns beyond a row's largest threshold are left out first, then each of the others is held
    against thresholds from the largest down to the first it is beyond.

    Parameters
    ----------
    squared : float32 array, shape (r, c)
    starts, low, high : arrays
        As :func:`thresholds` leaves them: below ``low`` a column is closer; up to ``high`` it is
        as close.
    doubled : int32 array, shape (targets,)
        Raised by 2 for each closer column and by 1 for each as close.
    work : float32 array, shape (c + 1,)
        Room to work in.
    """
    rows, columns = squared.shape
    for i in range(rows):
        begin, end = starts[i], starts[i + 1]
        most = high[begin]
        kept = 0
        for j in range(columns):
            value = squared[i, j]
            work[kept] = value
            kept += value <= most
        for at in range(kept):
            value = work[at]
            for chunk in range(begin, end, LANES):
                if value > high[chunk]:
                    break
                for t in range(LANES):
                    doubled[chunk + t] += np.int32(value < low[chunk + t]) + np.int32(
                        value <= high[chunk + t]
                    )


@compiled(error_model="numpy")
def sum_ranks(
    counts: Any, place: Any, models: Any, edges: Any, bits: Any, full: Any, without: Any
) -> None:
    """Sum twice the ranks of all neighbours of a model, over all rows and without each block.

    Parameters
    ----------
    counts : int32 array, shape (blocks, targets)
        Twice the columns of each block that are closer than each threshold.
    place : int32 array, shape (targets,)
    models, edges, bits : arrays, shape (edges,)
        Model, target and bits of each neighbour.
    full : int64 array, shape (m,)
        Raised.
    without : int64 array, shape (blocks, m)
        Raised.
    """
    blocks = counts.shape[0]
    for e in range(edges.size):
        at = place[edges[e]]
        total = np.int64(1)
        for g in range(blocks):
            total += counts[g, at]
        a, bit = models[e], np.int64(bits[e])
        full[a] += total * (bit & 1)
        for g in range(blocks):
            without[g, a] += (total - counts[g, at]) * ((bit >> (g + 1)) & 1)


def room(members: NDArray[np.uint16]) -> tuple[int, int]:
    """How many neighbours count in (m, r, w), and room enough for their targets."""
    edges = int(np.count_nonzero(members))
    return edges, edges + LANES * members.shape[1]
