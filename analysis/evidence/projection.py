# SPDX-License-Identifier: Apache-2.0
"""A map of each kind of matter: projections of a sample, and nearest structures by model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ...schemas.maps import MAP, NEAREST
from ...schemas.structures import KINDS
from ..blocks import Space, normalise_rows
from ..neighbours import nearest
from ..selections import subsample
from ..tables import typed
from .context import Evidence, Findings

#: Structures of a kind on its map at most; a sample by hash above.
ROWS = 400
#: Models of a kind at most: one a family first, those that embedded most of it.
MODELS = 6
#: Share of a kind's structures that a model must have embedded to be on its map.
SHARE = 0.5
#: Nearest structures told of each.
NEIGHBOURS = 6
#: Principal components that t-SNE starts from.
COMPONENTS = 50
PERPLEXITY = 30.0
STEPS = 500

_MAP, _NEAREST = "scores/map.parquet", "scores/nearest.parquet"


def map_stage(evidence: Evidence) -> Findings:
    """Projections and nearest structures of a sample of each kind, in several models' spaces.

    Learned models that see more than elements, one a family first. All of a kind's models show the
    same structures, so that two of them can be put side by side. Neighbours are among the sample,
    not the whole atlas; rows have unit length.

    Returns
    -------
    Findings
        ``scores/map.parquet`` and ``scores/nearest.parquet``; a note for a kind with too few rows.
    """
    found = Findings()
    places: list[pd.DataFrame] = []
    lists: list[pd.DataFrame] = []
    for kind in KINDS:
        ids = evidence.structures.index[(evidence.structures["kind"] == kind).to_numpy()]
        if not len(ids):
            continue
        models = mapped_models(evidence, ids)
        shared = evidence.reader.presence.loc[ids, models].all(axis=1).to_numpy()
        rows = ids[shared] if models else ids[:0]
        if len(rows) < evidence.min_rows:
            found.notes.append(
                f"map of {kind}s: {len(rows)} embedded by all {len(models)} models that embedded "
                f"half of them, {evidence.min_rows} needed"
            )
            continue
        taken = list(subsample(list(rows), ROWS, seed=evidence.seed, label=f"map:{kind}"))
        for model in models:
            common: dict[str, Any] = {
                "release": evidence.release,
                "kind": kind,
                "model": model,
                "layer": evidence.charts[model].layer.name,
                "n": len(taken),
            }
            values = normalise_rows(evidence.reader.rows(model, taken).astype(np.float64), "l2")
            flat = project(values, seed=evidence.seed)
            places.append(
                pd.DataFrame(
                    {
                        **common,
                        "method": "t-sne",
                        "id": taken,
                        "x": flat[:, 0],
                        "y": flat[:, 1],
                        "available": len(rows),
                        "seed": evidence.seed,
                    }
                )
            )
            lists.append(_nearest(values, taken, common))
    for path, parts, schema in ((_MAP, places, MAP), (_NEAREST, lists, NEAREST)):
        columns = list(schema.columns)
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
        found.tables[path] = typed(table[columns].copy(), schema)
    return found


def mapped_models(evidence: Evidence, ids: pd.Index) -> list[str]:
    """Models of a kind's map in registry order: best covered first, a family at a time."""
    shares = evidence.reader.presence.loc[ids, list(evidence.charts)].mean()
    able = [
        str(m)
        for m, chart in evidence.charts.items()
        if chart.card.learned and not chart.card.context_free and shares[m] >= SHARE
    ]
    able.sort(key=lambda m: -shares[m])  # stable: registry order among equals
    family = {m: evidence.charts[m].card.family for m in able}
    first = list({family[m]: m for m in reversed(able)}.values())
    first.sort(key=able.index)
    chosen = [*first, *(m for m in able if m not in first)][:MODELS]
    return [m for m in evidence.charts if m in chosen]


def project(rows: ArrayLike, *, seed: int = 0) -> NDArray[np.float64]:
    """Two coordinates a row: t-SNE started from principal components.

    van der Maaten and Hinton, J. Mach. Learn. Res. 9, 2579 (2008). Near rows stay near; distances
    between clusters and their sizes mean little.

    Parameters
    ----------
    rows : array_like, shape (n, d)
        n >= 4.

    Returns
    -------
    float64 array, shape (n, 2)
        Rounded to 0.001.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    values = np.asarray(rows, dtype=np.float64)
    if values.shape[1] > COMPONENTS:
        kept = min(COMPONENTS, len(values) - 1)
        values = PCA(kept, svd_solver="full").fit_transform(values)
    # A space of one direction has no second component to start from.
    start = "pca" if min(values.shape) > 1 and np.linalg.matrix_rank(values) > 1 else "random"
    perplexity = min(PERPLEXITY, (len(values) - 1) / 3)
    flat = TSNE(perplexity=perplexity, init=start, random_state=seed, max_iter=STEPS).fit_transform(
        values
    )
    return np.asarray(flat, dtype=np.float64).round(3)


def _nearest(values: NDArray[np.float64], ids: list[str], common: dict[str, Any]) -> pd.DataFrame:
    k = min(NEIGHBOURS, len(ids) - 1)
    indices = nearest(Space(values), k).indices
    names = np.array(ids, dtype=object)
    gaps = values[:, None, :] - values[indices]
    return pd.DataFrame(
        {
            **common,
            "id": np.repeat(names, k),
            "rank": np.tile(np.arange(1, k + 1), len(ids)),
            "neighbour": names[indices.ravel()],
            "distance": np.sqrt(np.einsum("nkd,nkd->nk", gaps, gaps)).ravel(),
        }
    )
