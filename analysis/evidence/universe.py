# SPDX-License-Identifier: Apache-2.0
"""Reference universes: what a set is held against, counted by region.

A *shipped* universe is a card and a table of counts in ``registry/universes``, made by
``benchmarks/universes.py``; the atlas itself is the universe of each of its sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from ... import registry
from ...schemas.errors import CardError
from ...schemas.reach import UNIVERSE_COUNTS, UniverseCard
from .chemistry import Regions

#: Name of the atlas's own structures as a universe.
ATLAS = "atlas"


@dataclass(frozen=True)
class Universe:
    """A card and its counts: index ``region``, columns ``type``, ``kind``, ``count``."""

    card: UniverseCard
    counts: pd.DataFrame


@dataclass(frozen=True)
class Drawn:
    """Rows of an atlas beside the universe they would be a random sample of, region by region.

    Attributes
    ----------
    scope, universe : str
        Ids: ``atlas`` or a set; ``atlas`` or a shipped universe.
    table : DataFrame
        ``region``, ``type``, ``kind``, and ``observed`` of ``n`` structures in scope,
        ``in_universe`` of ``universe_n`` structures in the universe, scope included.
    rows, pool : bool arrays, shape (structures,), or None
        The structures themselves, where they are at hand; columns of ``regions`` are the rows of
        ``table``.
    regions : Regions or None
    """

    scope: str
    universe: str
    table: pd.DataFrame
    rows: NDArray[np.bool_] | None = None
    pool: NDArray[np.bool_] | None = None
    regions: Regions | None = None


def shipped_universes(folder: Path | None = None) -> dict[str, Universe]:
    """The universes of the registry by id.

    Raises
    ------
    CardError
        A card or its counts do not validate.
    """
    root = folder or Path(registry.__path__[0]) / "universes"
    found = {}
    for file in sorted(root.glob("*.yaml")):
        try:
            card = UniverseCard.model_validate(yaml.safe_load(file.read_text("utf-8")))
        except (ValidationError, yaml.YAMLError) as error:
            raise CardError(f"{file}: {str(error).splitlines()[0]}; mend the card") from error
        path = file.with_suffix(".csv")
        if card.id != file.stem or not path.is_file():
            raise CardError(f"{file}: id '{card.id}' or {path.name} does not belong to it")
        counts = UNIVERSE_COUNTS.validate(pd.read_csv(path, keep_default_na=False))
        found[card.id] = Universe(card, counts.set_index("region"))
    return found


def count_regions(
    regions: Regions, *, least: int = 1, rows: NDArray[np.bool_] | None = None
) -> tuple[dict[str, dict[str, int]], pd.DataFrame]:
    """Totals by kind and type, and the counts of a universe made of ``rows`` (default: all)."""
    taken = np.ones(len(regions.kinds), dtype=bool) if rows is None else rows
    counts = regions.table.assign(count=regions.counts(taken))
    totals: dict[str, dict[str, int]] = {}
    for kind in sorted({str(k) for k in regions.kinds[taken]}):
        known = regions.known[taken & (regions.kinds == kind)].sum()
        totals[kind] = {str(t): int(n) for t, n in known.items() if n}
    table = counts[counts["count"] >= least].sort_values(
        ["kind", "type", "count", "region"], ascending=[True, True, False, True]
    )
    return totals, table[["region", "type", "kind", "count"]].reset_index(drop=True)


def beside_universe(
    regions: Regions, sets: NDArray[np.object_], universe: Universe, *, scope: str = ATLAS
) -> Drawn:
    """All structures beside a shipped universe.

    Structures of the sets drawn from the universe are in its counts; the others join it, so that
    what is compared is a part of the whole and the test is exact.

    Parameters
    ----------
    regions : Regions
        Of the structures, each once.
    sets : object array, shape (structures,)
    """
    everything = np.ones(len(sets), dtype=bool)
    outside = ~np.isin(sets, universe.card.sets)
    # Regions the universe has and the atlas lacks altogether are those most worth telling.
    own = regions.table["region"]
    names = universe.counts.index
    place = pd.Series(np.arange(len(own)), index=own).reindex(names)
    held = place.notna().to_numpy()

    def spread(values: NDArray[np.int64]) -> NDArray[np.int64]:
        out = np.zeros(len(names), dtype=np.int64)
        out[held] = values[place[held].to_numpy(dtype=np.int64)]
        return out

    kinds, types = universe.counts["kind"], universe.counts["type"]
    known = {
        (kind, kind_of): (regions.kinds == kind) & regions.known[kind_of].to_numpy()
        for kind, kind_of in set(zip(kinds, types, strict=True))
    }
    keys = list(zip(kinds, types, strict=True))
    joined = np.array([int((known[key] & outside).sum()) for key in keys], dtype=np.int64)
    total = np.array([universe.card.totals[k][t] for k, t in keys], dtype=np.int64)
    table = pd.DataFrame(
        {
            "region": names.to_numpy(dtype=object),
            "type": types.to_numpy(dtype=object),
            "kind": kinds.to_numpy(dtype=object),
            "observed": spread(regions.counts(everything)),
            "n": np.array([int(known[key].sum()) for key in keys], dtype=np.int64),
            "in_universe": universe.counts["count"].to_numpy() + spread(regions.counts(outside)),
            "universe_n": total + joined,
        }
    )
    return Drawn(scope, universe.card.id, table)


def beside_pool(
    regions: Regions,
    rows: NDArray[np.bool_],
    pool: NDArray[np.bool_],
    *,
    scope: str,
    universe: str = ATLAS,
) -> Drawn:
    """Some structures beside a pool that holds them; both bool, one a structure."""
    table = regions.table.assign(
        observed=regions.counts(rows),
        n=regions.totals(rows),
        in_universe=regions.counts(pool),
        universe_n=regions.totals(pool),
    )
    return Drawn(scope, universe, table, rows, pool, regions)
