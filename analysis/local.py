# SPDX-License-Identifier: Apache-2.0
"""Local agreement: do models keep the same neighbours around one structure, and where not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .blocks import Normalise, Space, as_rows, normalise_rows
from .charts import Chart
from .gaps import Gap, count
from .neighbours import nearest
from .selections import Selection

#: Relabelings of rows for the p-value of a stratum; cheap, so that q-values can be small.
RELABELINGS = 9999

#: Rows from which on a stratum is tested.
STRATUM_ROWS = 5

#: 3D models from which on the agreement is theirs alone.
ENOUGH_3D = 3


def row_overlaps(first: NDArray[np.int32], second: NDArray[np.int32]) -> NDArray[np.float64]:
    """Share of neighbours two lists have in common, row by row; both (n, k), result (n,)."""
    n, k = first.shape
    rows = np.arange(n, dtype=np.int64)[:, None] * n
    found = np.isin(rows + first, rows + second)
    return np.asarray(found.sum(axis=1) / k)


def local_agreement(
    data: Mapping[str, ArrayLike],
    *,
    k: int,
    families: Mapping[str, str] | None = None,
    normalise: Normalise = "l2",
) -> tuple[NDArray[np.float64], int]:
    """Neighbour overlap of every row, averaged over pairs of models of different families.

    Variants of one model agree for reasons that say nothing about matter, so pairs within a family
    are left out, and each pair of families counts once however many variants it has. With a single
    family all pairs count.

    Parameters
    ----------
    data : mapping of model to array_like, shape (n, d)
        Two or more models over the same rows.
    k : int
        Neighbours a row, 1 <= k < n.
    families : mapping of model to family, optional
        By default every model is its own.
    normalise : {"l2", "max", "none"}
        Row scaling; ``l2`` as in mutual kNN, whose value is the mean of these rows for one pair.

    Returns
    -------
    agreement : float64 array, shape (n,)
        In [0, 1]; k / (n - 1) expected of unrelated models.
    pairs : int
        Pairs of models that entered.
    """
    names = list(data)
    family = {name: (families or {}).get(name, name) for name in names}
    lists = {
        name: nearest(Space(normalise_rows(as_rows(rows, name=name), normalise)), k).indices
        for name, rows in data.items()
    }
    pairs = list(combinations(names, 2))
    across = [(a, b) for a, b in pairs if family[a] != family[b]]
    sums: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    for a, b in across or pairs:
        first, second = sorted((family[a], family[b]))
        sums.setdefault((first, second), []).append(row_overlaps(lists[a], lists[b]))
    means = [np.mean(values, axis=0) for values in sums.values()]
    return np.asarray(np.mean(means, axis=0)), len(across or pairs)


def agreeing_charts(keys: Sequence[str], charts: Mapping[str, Chart]) -> list[str]:
    """Default-layer charts of learned models that see more than elements: the 3D ones if enough."""
    learned = [
        key
        for key in keys
        if key == charts[key].card.id
        and charts[key].card.learned
        and not charts[key].card.context_free
    ]
    spatial = [key for key in learned if charts[key].contextual_3d]
    return spatial if len(spatial) >= ENOUGH_3D else learned


def local_rows(
    agreement: NDArray[np.float64],
    pairs: int,
    selection: Selection,
    structures: pd.DataFrame,
    *,
    k: int,
    release: str,
) -> pd.DataFrame:
    """Rows of ``scores/local.parquet`` for one selection; ``structures`` is indexed by id."""
    ids = list(selection.ids)
    return pd.DataFrame(
        {
            "release": release,
            "id": ids,
            "set": structures.loc[ids, "set"].to_numpy(dtype=object),
            "stratum": structures.loc[ids, "stratum"].to_numpy(dtype=object),
            "selection": selection.name,
            "selection_sha256": selection.sha256,
            "n": selection.n,
            "k": k,
            "pairs": pairs,
            "agreement": agreement,
            "null": k / (selection.n - 1),
        }
    )


def agreement_gaps(local: pd.DataFrame, *, seed: int = 0) -> list[Gap]:
    """Strata around whose structures the models agree less than in their whole selection.

    A stratum's mean agreement against the mean of all rows of the selection; the p-value is the
    share of random relabelings of the rows that give the stratum as low a mean (one-sided). Rows
    are taken as exchangeable: frames of one trajectory are not quite, and make p too small.
    """
    gaps = []
    for name, rows in local.groupby("selection", sort=False):
        regions = rows["set"] + ":" + rows["stratum"]
        counts = regions.value_counts()
        tested = sorted(counts.index[counts >= STRATUM_ROWS])
        if len(counts) < 2 or not tested:
            continue
        values = rows["agreement"].to_numpy(float)
        null, mean, n, k = (rows[c].iloc[0] for c in ("null", "agreement", "n", "k"))
        mean = float(values.mean())
        codes = pd.Categorical(regions, categories=tested).codes
        p_values = _relabel(values, codes, len(tested), seed=seed)
        for code, region in enumerate(tested):
            inside = values[codes == code]
            value = float(inside.mean())
            room = mean - float(null)
            gaps.append(
                Gap(
                    kind="agreement",
                    region=region,
                    selection=str(name),
                    statistic="neighbour_overlap",
                    n=len(inside),
                    reference_n=int(n),
                    value=value,
                    reference=mean,
                    standard_error=float(inside.std(ddof=1) / np.sqrt(len(inside))),
                    p_value=float(p_values[code]),
                    lost=(mean - value) / room if room > 0 else 0.0,
                    evidence=(
                        f"{count(int(rows['pairs'].iloc[0]), 'pair')} of models share {value:.1%} "
                        f"of {int(k)} neighbours around these {len(inside)} structures, {mean:.1%} "
                        f"around all {int(n)} {name}; chance is {float(null):.1%}"
                    ),
                )
            )
    return gaps


def _relabel(
    values: NDArray[np.float64], codes: NDArray[np.integer], groups: int, *, seed: int
) -> NDArray[np.float64]:
    """One-sided p-value of each group's mean being as low under random relabeling, (groups,)."""
    random = np.random.default_rng(seed)
    sizes = np.bincount(codes[codes >= 0], minlength=groups)
    stops = np.cumsum(sizes)
    observed = np.array([values[codes == g].sum() for g in range(groups)])
    tolerance = 1e-12 * max(1.0, float(np.abs(values).sum()))
    reached = np.zeros(groups)
    shuffled = np.tile(values, (min(128, RELABELINGS), 1))
    done = 0
    while done < RELABELINGS:
        block = shuffled[: RELABELINGS - done]
        random.permuted(block, axis=1, out=block)
        totals = np.concatenate([np.zeros((len(block), 1)), np.cumsum(block, axis=1)], axis=1)
        sums = totals[:, stops] - totals[:, stops - sizes]
        reached += (sums <= observed + tolerance).sum(axis=0)
        done += len(block)
    return np.asarray((1.0 + reached) / (RELABELINGS + 1.0))
