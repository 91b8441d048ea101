# SPDX-License-Identifier: Apache-2.0
"""Charts: embedding spaces of an archive, one a model or one a layer, read once and cut by ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from ..registry import catalog
from ..registry.archive import Atlas
from ..schemas.cards import Layer, ModelCard

Layers = Literal["default", "all"]

#: Vectors of all charts together are kept in memory up to this many bytes, else read per selection.
CACHE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Chart:
    """One embedding space: a model and one of its layers."""

    card: ModelCard
    layer: Layer

    @property
    def key(self) -> str:
        """The model's id; with the layer's name behind a slash where it is not the default."""
        default = self.layer.name == self.card.default_layer
        return self.card.id if default else f"{self.card.id}/{self.layer.name}"

    @property
    def pooling(self) -> str:
        """How nodes became one vector; ``none`` for layers that exist per structure only."""
        return self.card.pooling if self.layer.level != "structure" else "none"

    @property
    def contextual_3d(self) -> bool:
        """A learned model of atoms in space (not an element table)."""
        card = self.card
        return card.learned and not card.context_free and card.modality == "atoms3d"


class ChartReader:
    """The charts of an atlas and their rows.

    Attributes
    ----------
    charts : dict of str to Chart
        By key, in registry order.
    structures : DataFrame
        One row a structure; one that several sets hold is taken once, from the first.
    presence : DataFrame of bool
        Structures (by id) x charts: is there a finite vector.
    notes : list of str
        What was found wrong and left out.
    """

    def __init__(self, atlas: Atlas, *, layers: Layers = "default") -> None:
        self.structures = atlas.structures.drop_duplicates("id").reset_index(drop=True)
        self.notes: list[str] = []
        held = set(atlas.units["model"])
        for stranger in sorted(held - set(catalog.models())):
            catalog.model(stranger)  # raises, naming it
        cards = [c for c in catalog.models().values() if c.id in held]
        self.charts: dict[str, Chart] = {}
        for card in cards:
            default = card.layer()
            others = [x for x in card.layers if x is not default] if layers == "all" else []
            for layer in (default, *others):
                chart = Chart(card, layer)
                self.charts[chart.key] = chart
        index = pd.Index(self.structures["id"])
        self._arrays: dict[str, xr.DataArray | np.ndarray] = {}
        self._places: dict[str, pd.Series] = {}
        columns = {}
        lazy = {key: self._open(atlas, chart) for key, chart in self.charts.items()}
        keep = sum(array.nbytes for array in lazy.values()) <= CACHE_BYTES
        for key, array in lazy.items():
            values = np.asarray(array) if keep else array
            finite = np.asarray(np.isfinite(values).all(axis=1))
            places = pd.Series(np.arange(array.shape[0]), index=array["structure"].to_numpy())
            places = places[finite]
            places = places[~places.index.duplicated()]
            if not finite.all():
                self.notes.append(
                    f"{key}: {int((~finite).sum())} vectors are not finite and are left out; "
                    f"run: matteratlas validate {atlas.location} --deep"
                )
            self._arrays[key], self._places[key] = values, places
            columns[key] = index.isin(places.index)
        self.presence = pd.DataFrame(columns, index=index, dtype=bool)

    @staticmethod
    def _open(atlas: Atlas, chart: Chart) -> xr.DataArray:
        return atlas.embeddings(chart.card.id, layer=chart.layer.name, missing="drop")

    def rows(self, key: str, ids: Sequence[str]) -> np.ndarray:
        """Vectors of ``ids``, in their order; float32, shape (len(ids), d)."""
        places = self._places[key].loc[list(ids)].to_numpy()
        array = self._arrays[key]
        if isinstance(array, np.ndarray):
            return array[places]
        order = np.argsort(places)  # one pass over the store, then back into place
        taken = np.asarray(array.isel(structure=places[order]))
        out = np.empty_like(taken)
        out[order] = taken
        return out

    def relations(self) -> pd.DataFrame:
        """Structures x charts of learned models whose training domains are known: in or out.

        Context-free charts (element tables) are left out: they see elements, not arrangements, so
        that a structure's domain is nothing to them.
        """
        columns: dict[str, pd.Series] = {}
        by_model: dict[str, pd.Series] = {}
        for key, chart in self.charts.items():
            card = chart.card
            if not card.learned or card.context_free or card.training.domains is None:
                continue
            if card.id not in by_model:
                by_model[card.id] = catalog.relations(card, self.structures)
            columns[key] = by_model[card.id]
        table = pd.DataFrame(columns, dtype=object)
        table.index = self.presence.index
        return table
