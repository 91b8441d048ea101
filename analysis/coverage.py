# SPDX-License-Identifier: Apache-2.0
"""Coverage: how much of each stratum every model embedded, and which matter is thin or refused."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pandas as pd

from ..registry import catalog
from ..registry.archive import Atlas
from ..schemas.cards import elements_of
from ..schemas.scores import COVERAGE
from ..schemas.structures import ATOMIC_NUMBERS, KINDS
from .charts import Chart, ChartReader
from .gaps import Gap, count

#: Structures from which on an element or a size counts as covered.
ENOUGH = 10

#: Share of vectors missing beyond the usual from which on a refusal is told.
EXCESS = 0.05


def coverage_table(atlas: Atlas, reader: ChartReader) -> pd.DataFrame:
    """One row a model, set and stratum: counts, missing reasons, relation to the training domains.

    Structures that several sets hold count in each. A set the model never ran on counts as
    ``not_embedded``.
    """
    structures = atlas.structures
    keys = [structures["set"], structures["stratum"]]
    rows = []
    for card in dict.fromkeys(chart.card.id for chart in reader.charts.values()):
        held = atlas.rows(card).set_index(["set", "id"])["reason"]
        index = pd.MultiIndex.from_frame(structures[["set", "id"]])
        reasons = held.reindex(index).fillna("not_embedded").to_numpy(dtype=object)
        table = pd.DataFrame(
            {
                "head": [str(r).split(":")[0] for r in reasons],
                "relation": catalog.relations(catalog.model(card), structures).to_numpy(),
            },
            index=structures.index,
        )
        for (set_id, stratum), part in table.groupby(keys, sort=False):
            missing = Counter(part.loc[part["head"] != "", "head"])
            relation = Counter(part["relation"])
            rows.append(
                {
                    "release": atlas.version,
                    "model": card,
                    "set": set_id,
                    "stratum": stratum,
                    "structures": len(part),
                    "embedded": len(part) - missing.total(),
                    "in_distribution": relation["in"],
                    "out_of_distribution": relation["out"],
                    "unknown_distribution": relation["unknown"],
                    "reasons": json.dumps(dict(sorted(missing.items()))),
                }
            )
    return pd.DataFrame(rows, columns=list(COVERAGE.columns))


def coverage_gaps(reader: ChartReader) -> list[Gap]:
    """Elements and sizes with few structures, or whose structures the 3D models refuse.

    The elements asked for are those that some learned 3D model of the atlas supports, and those
    present. Counting: no p-value.
    """
    structures, presence = reader.structures, reader.presence
    models = {
        key: chart
        for key, chart in reader.charts.items()
        if chart.contextual_3d and key == chart.card.id
    }
    kinds = structures["kind"].to_numpy(dtype=object)
    holds = _holds(structures)
    wanted = set(holds)
    for chart in models.values():
        wanted |= elements_of(chart.card.supports.elements) or set()
    gaps = []
    for element in sorted(wanted, key=ATOMIC_NUMBERS.__getitem__):
        mask = holds.get(element, np.zeros(len(structures), dtype=bool))
        counts = ", ".join(count(int((mask & (kinds == k)).sum()), k) for k in KINDS)
        gaps += _scarcity(
            f"element:{element}", int(mask.sum()), len(structures), f"with {element} ({counts})"
        )
        for kind in KINDS:
            gaps += _refusal(
                f"element:{element}|{kind}", kind, mask & (kinds == kind), kinds, presence, models
            )
    size = structures["n_atoms"].to_numpy()
    for kind in KINDS:
        of_kind = kinds == kind
        for low, high in _size_bins(size[of_kind]):
            mask = of_kind & (size >= low) & (size <= high)
            region = f"size:{kind}:{low}-{high}" if low < high else f"size:{kind}:{low}"
            text = f"that are {kind}s of {low} to {high} atoms"
            gaps += _scarcity(region, int(mask.sum()), int(of_kind.sum()), text)
            gaps += _refusal(region, kind, mask, kinds, presence, models)
    return gaps


def _holds(structures: pd.DataFrame) -> dict[str, np.ndarray]:
    """Element -> which structures hold it."""
    found: dict[str, np.ndarray] = {}
    for row, elements in enumerate(structures["elements"]):
        for element in elements:
            if element not in found:
                found[element] = np.zeros(len(structures), dtype=bool)
            found[element][row] = True
    return found


def _size_bins(sizes: np.ndarray) -> list[tuple[int, int]]:
    """Bins 1, 2, 3-4, 5-8, ... from the smallest size present to the largest."""
    if not len(sizes):
        return []
    powers = np.ceil(np.log2([sizes.min(), sizes.max()])).astype(int)
    return [(2 ** (p - 1) + 1 if p else 1, 2**p) for p in range(powers[0], powers[1] + 1)]


def _scarcity(region: str, found: int, total: int, text: str) -> list[Gap]:
    if found >= ENOUGH:
        return []
    return [
        Gap(
            kind="coverage",
            region=region,
            statistic="structures",
            n=found,
            reference_n=total,
            value=float(found),
            reference=float(ENOUGH),
            lost=1.0 - found / ENOUGH,
            evidence=f"{found} of {total} structures {text}; {ENOUGH} count as covered",
        )
    ]


def _refusal(
    region: str,
    kind: str,
    mask: np.ndarray,
    kinds: np.ndarray,
    presence: pd.DataFrame,
    models: dict[str, Chart],
) -> list[Gap]:
    """Share of (3D model, structure) cells without a vector, among models that take the kind."""
    able = [key for key, chart in models.items() if kind in chart.card.supports.kinds]
    if not able or not mask.any():
        return []
    refused = 1.0 - presence.loc[mask, able].to_numpy().mean(axis=0)
    usual = 1.0 - float(presence.loc[kinds == kind, able].to_numpy().mean())
    share = float(refused.mean())
    lost = (share - usual) / (1.0 - usual) if usual < 1.0 else 0.0
    if lost < EXCESS:
        return []
    names = [key for key, part in zip(able, refused, strict=True) if part == 1.0]
    partly = [key for key, part in zip(able, refused, strict=True) if 0.0 < part < 1.0]
    told = (("none", names if len(names) < len(able) else []), ("some", partly))
    text = "".join(f"; {some} by {', '.join(keys)}" for some, keys in told if keys)
    rows = int(mask.sum())
    return [
        Gap(
            kind="coverage",
            region=region,
            statistic="refused_share",
            n=rows,
            reference_n=int((kinds == kind).sum()),
            value=share,
            reference=usual,
            lost=lost,
            evidence=(
                f"{count(rows, kind)}: {len(able) - len(names)} of {len(able)} learned 3D models "
                f"embed any{text}; {share:.0%} of the vectors are missing, {usual:.0%} over all "
                f"{kind}s"
            ),
        )
    ]
