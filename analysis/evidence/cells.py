# SPDX-License-Identifier: Apache-2.0
"""Cells of a reference model's space: which of them a set leaves empty or thin.

For every kind of matter one chart, the one that holds most of the atlas; its rows (unit length) are
cut into cells by k-means, blind to sets. Under the null that a set is a random sample of the
atlas's structures of that kind, the number of them in a cell is hypergeometric, as in
:mod:`.reach`. Cells see what elements and sizes do not: arrangements, as one model tells them
apart.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.reach import CELLS
from ...schemas.structures import KINDS
from ..blocks import normalise_rows
from ..charts import Chart
from ..gaps import LEVEL, Gap
from ..tables import typed
from .context import Evidence, Findings
from .reach import LEAST_EXPECTED, LEAST_ROWS, family_q, shortfall_p

#: Structures a cell holds on average; between MOST_CELLS and two cells a kind.
ROWS_PER_CELL = 40
MOST_CELLS = 256

#: Share of the best-covering chart's structures that another must hold to stand for it.
NEARLY = 0.95

#: Rounds of k-means, and starts of which the best is kept.
ITERATIONS, STARTS = 25, 3

CELLS_TABLE = "scores/cells.parquet"


def cells_stage(evidence: Evidence) -> Findings:
    """Occupancy of every cell by every set, with tests against all sets together."""
    notes: list[str] = []
    members = evidence.atlas.structures.groupby("set", sort=False)["id"]
    sets = {str(name): set(ids) for name, ids in members}
    parts = []
    for kind in KINDS:
        chart = reference_chart(evidence, kind)
        if chart is None:
            continue
        own = evidence.structures.index[(evidence.structures["kind"] == kind).to_numpy()]
        ids = [i for i in own if evidence.reader.presence.at[i, chart.key]]
        cells = min(len(ids) // ROWS_PER_CELL, MOST_CELLS)
        if cells < 2:
            notes.append(
                f"cells of {kind}s: {chart.key} holds {len(ids)}, {2 * ROWS_PER_CELL} needed"
            )
            continue
        rows = evidence.reader.rows(chart.key, ids)
        labels, centres = cut_cells(rows, cells, seed=evidence.seed)
        told = _described(evidence.structures.loc[ids], labels, centres)
        for name, held in sets.items():
            inside = np.array([i in held for i in ids])
            if inside.sum() < LEAST_ROWS:
                continue
            table = occupancy(labels, inside, cells).assign(set=name, kind=kind)
            table = table.assign(model=chart.card.id, layer=chart.layer.name)
            parts.append(table.join(told, on="cell"))
    table = _tested(parts, evidence)
    return Findings({CELLS_TABLE: table}, cell_gaps(table), notes)


def reference_chart(evidence: Evidence, kind: str) -> Chart | None:
    """The chart that holds most structures of a kind: a learned model of atoms in space if any.

    Among those that hold nearly as many (:data:`NEARLY`) the one with most structures of all kinds,
    then the first of the registry. None where no learned model that sees more than elements holds
    any.
    """
    rows = (evidence.structures["kind"] == kind).to_numpy()
    learned = [c for c in evidence.charts.values() if c.card.learned and not c.card.context_free]
    spatial = [c for c in learned if c.contextual_3d]
    presence = evidence.reader.presence
    for charts in (spatial, learned):
        held = [(int(presence.loc[rows, c.key].sum()), int(presence[c.key].sum())) for c in charts]
        most = max((own for own, _ in held), default=0)
        near = [i for i, (own, _) in enumerate(held) if own >= NEARLY * most]
        if most:
            return charts[max(near, key=lambda i: (held[i][1], held[i][0], -i))]
    return None


def cut_cells(
    rows: NDArray[np.float32], cells: int, *, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut rows (n, d) into cells by FAISS k-means on unit length; deterministic for a seed.

    Returns
    -------
    labels : int64 array, shape (n,)
        Cells are numbered by size, the largest 0.
    centres : int64 array, shape (cells,)
        The row nearest to each centroid; -1 for a cell without rows.
    """
    import faiss

    points = np.ascontiguousarray(normalise_rows(np.asarray(rows, np.float64), "l2"), np.float32)
    means = faiss.Kmeans(
        points.shape[1],
        cells,
        niter=ITERATIONS,
        nredo=STARTS,
        seed=seed + 1,  # 0 stands for the clock in some releases
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # sums in one order: the same cells on every machine
    try:
        means.train(points)
        distances, nearest = means.index.search(points, 1)
    finally:
        faiss.omp_set_num_threads(threads)
    raw, far = nearest[:, 0].astype(np.int64), distances[:, 0]
    sizes = np.bincount(raw, minlength=cells)
    order = np.lexsort((np.arange(cells), -sizes))
    rename = np.empty(cells, dtype=np.int64)
    rename[order] = np.arange(cells)
    labels = rename[raw]
    centres = np.full(cells, -1, dtype=np.int64)
    for row in np.argsort(-far, kind="stable"):  # the nearest is written last
        centres[labels[row]] = row
    return labels, centres


def occupancy(labels: NDArray[np.int64], inside: NDArray[np.bool_], cells: int) -> pd.DataFrame:
    """Structures in each cell of a set (``inside``, bool) and of all, and the lower tail's p."""
    n, total = int(inside.sum()), len(labels)
    observed = np.bincount(labels[inside], minlength=cells)
    held = np.bincount(labels, minlength=cells)
    expected = n * held / total
    testable = (expected >= LEAST_EXPECTED) & (n < total)
    p = np.minimum(shortfall_p(observed, n, held, total), 1.0)
    table = pd.DataFrame(
        {
            "cell": np.arange(cells),
            "cells": cells,
            "n": n,
            "universe_n": total,
            "in_universe": held,
            "observed": observed,
            "expected": expected,
            "p_value": np.where(testable, p, np.nan),
        }
    )
    return table[held > 0].reset_index(drop=True)


def _described(
    structures: pd.DataFrame, labels: NDArray[np.int64], centres: NDArray[np.int64]
) -> pd.DataFrame:
    """Centre and a few words of every cell: its commonest strata, sizes and elements."""
    rows = {}
    for cell in np.unique(labels):
        part = structures[labels == cell]
        centre = structures.iloc[centres[cell]]
        strata = (part["set"] + ":" + part["stratum"]).value_counts().head(2)
        elements = pd.Series([e for row in part["elements"] for e in row]).value_counts()
        common = elements.index[elements >= 0.5 * len(part)][:5]
        low, high = int(part["n_atoms"].min()), int(part["n_atoms"].max())
        words = [
            f"around {centre['formula']}",
            f"{low} to {high} atoms" if low < high else f"{low} atoms",
            ", ".join(f"{share} {name}" for name, share in strata.items()),
        ]
        if len(common):
            words.append(f"mostly with {' '.join(common)}")
        rows[int(cell)] = {"centre": centre["id"], "description": "; ".join(words)}
    return pd.DataFrame.from_dict(rows, orient="index")


def _tested(parts: list[pd.DataFrame], evidence: Evidence) -> pd.DataFrame:
    """q-values over kinds and sets together, and severities."""
    if not parts:
        return typed(pd.DataFrame(columns=list(CELLS.columns)), CELLS)
    for part, q in zip(parts, family_q([x["p_value"] for x in parts]), strict=True):
        part["q_value"] = q
    table = pd.concat(parts, ignore_index=True)
    lost = 1.0 - table["observed"] / table["expected"]
    table["severity"] = lost.clip(0.0, 1.0).where(table["q_value"] < LEVEL, 0.0)
    table = table.assign(release=evidence.release, seed=evidence.seed)
    return typed(table[list(CELLS.columns)].copy(), CELLS)


def cell_gaps(table: pd.DataFrame) -> list[Gap]:
    """Gaps for the cells that a set is proven to leave empty or thin."""
    return [
        Gap(
            kind="coverage",
            region=f"cell:{row['kind']}:{row['cell']}",
            model=row["model"],
            selection=f"{row['set']}~atlas",
            statistic="cell_shortfall",
            n=row["n"],
            reference_n=row["universe_n"],
            value=float(row["observed"]),
            reference=row["expected"],
            p_value=row["p_value"],
            q_value=row["q_value"],
            lost=row["severity"],
            part=True,
            evidence=(
                f"{row['observed']} of the {row['n']} {row['kind']}s of {row['set']} in cell "
                f"{row['cell']} of the space of {row['model']}; a random sample of the atlas would "
                f"hold {row['expected']:.0f} ({row['description']})"
            ),
        )
        for row in table[table["severity"] > 0].to_dict("records")
    ]
