# SPDX-License-Identifier: Apache-2.0
"""Read an atlas lazily: metadata and tables on opening, vectors only when asked for."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import dask.array as da
import fsspec
import numpy as np
import pandas as pd
import xarray as xr
import zarr

from ..schemas.archive import ATLAS_FILE, FORMAT, STORE, check_format
from ..schemas.errors import ArchiveError
from ..schemas.structures import Structure, structure_from_row
from . import store
from .tables import MODELS, SETS, UNITS, read_structures_table

#: Columns left out of ``Atlas.structures``; ``Atlas.structure`` returns them.
GEOMETRY = ("numbers", "positions", "cell", "pbc", "backbone")
MissingPolicy = Literal["nan", "drop"]


def open_atlas(location: str) -> Atlas:
    """Open an atlas; reads its marker and index only.

    Parameters
    ----------
    location:
        A folder, or any URL fsspec knows: ``http(s)://``, ``s3://``, ``hf://datasets/ORG/NAME@TAG``.

    Raises
    ------
    ArchiveError
        Nothing there, not an atlas, or a newer format than this reader's.
    """
    return Atlas(str(location))


class Atlas:
    """An opened atlas: its tables as pandas frames, its vectors as lazy arrays."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self._fs, self._root = fsspec.url_to_fs(self.location)
        try:
            marker = json.loads(self._fs.cat_file(f"{self._root}/{ATLAS_FILE}"))
        except FileNotFoundError as error:
            raise ArchiveError(
                f"{location}: no {ATLAS_FILE} there; give the folder that 'matteratlas build' made"
            ) from error
        except ValueError as error:
            raise ArchiveError(f"{location}/{ATLAS_FILE}: not JSON; restore the file") from error
        if not isinstance(marker, dict) or marker.get("format") != FORMAT:
            raise ArchiveError(f"{location}/{ATLAS_FILE}: not a {FORMAT} archive")
        check_format(str(marker.get("format_version")), where=location)
        self.version = str(marker["version"])
        self._groups: dict[str, zarr.Group] = {}

    def __repr__(self) -> str:
        return (
            f"<Atlas {self.location} {self.version}: {self.units['model'].nunique()} models, "
            f"{self.units['set'].nunique()} sets>"
        )

    def table(self, path: str, **options: Any) -> pd.DataFrame:
        """Any Parquet table of the atlas by its path, e.g. ``scores/pairs.parquet``.

        Raises
        ------
        ArchiveError
            The atlas has no such table.
        """
        read = read_structures_table if path.startswith("structures/") else pd.read_parquet
        try:
            with self._fs.open(f"{self._root}/{path}", "rb") as handle:
                return read(handle, **options)
        except FileNotFoundError as error:
            verb = "analyze" if path.startswith("scores/") else "build"
            hint = f"matteratlas {verb} {self.location}"
            raise ArchiveError(f"{self.location}: no {path}; run: {hint}") from error

    @cached_property
    def units(self) -> pd.DataFrame:
        """One row a complete (model, set)."""
        return self.table(UNITS)

    @cached_property
    def models(self) -> pd.DataFrame:
        """One row a model held."""
        totals = self.units.groupby("model")[["rows", "embedded"]].sum()
        return self.table(MODELS).merge(totals, left_on="id", right_index=True)

    @cached_property
    def sets(self) -> pd.DataFrame:
        """One row a stratum of every set held."""
        return self.table(SETS)

    @cached_property
    def structures(self) -> pd.DataFrame:
        """One row a structure, coordinates left out."""
        tables = [
            self._structures(s).drop(columns=[*GEOMETRY], errors="ignore") for s in self.set_ids
        ]
        # Sets declare different labels: the union, NaN where a set has none.
        return pd.concat([t.dropna(axis=1, how="all") for t in tables], ignore_index=True).reindex(
            columns=list(dict.fromkeys(c for t in tables for c in t.columns))
        )

    @cached_property
    def set_ids(self) -> list[str]:
        """Ids of the structure sets held, in registry order."""
        return list(dict.fromkeys(self.sets["id"]))

    def _structures(self, set_id: str) -> pd.DataFrame:
        return self.table(f"structures/{set_id}.parquet")

    def structure(self, structure_id: str) -> Structure:
        """One structure with its coordinates.

        Raises
        ------
        ArchiveError, StructureError
            No such id, or a set whose coordinates may not be passed on.
        """
        for set_id in self.set_ids:
            found = self.table(f"structures/{set_id}.parquet", filters=[("id", "==", structure_id)])
            if len(found):
                return structure_from_row({str(k): v for k, v in found.iloc[0].items()})
        raise ArchiveError(f"{self.location}: no structure '{structure_id}'; see Atlas.structures")

    def unit(self, model: str, set_id: str) -> zarr.Group:
        """The Zarr group of one unit.

        Raises
        ------
        ArchiveError
            Naming the model or set the atlas does not hold, and those it does.
        """
        self._require(model)
        if not ((self.units["model"] == model) & (self.units["set"] == set_id)).any():
            held = self.units.loc[self.units["model"] == model, "set"]
            raise ArchiveError(
                f"{self.location}: model '{model}' has no set '{set_id}'; it has {', '.join(held)}"
            )
        if model not in self._groups:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", category=UserWarning)
                self._groups[model] = zarr.open_group(
                    f"{self.location}/{STORE}/{model}", mode="r", zarr_format=3
                )
        return store.group(self._groups[model], set_id)

    def _require(self, model: str) -> None:
        held = list(dict.fromkeys(self.units["model"]))
        if model not in held:
            import difflib

            near = difflib.get_close_matches(model, held, n=1, cutoff=0.4)
            raise ArchiveError(
                f"{self.location}: no model '{model}'"
                + (f"; did you mean '{near[0]}'?" if near else f"; it holds {', '.join(held)}")
            )

    def _layer(self, model: str, layer: str | None) -> str:
        row = self.models.loc[self.models["id"] == model].iloc[0]
        layers = [entry["name"] for entry in json.loads(row["layers"])]
        wanted = layer or str(row["default_layer"])
        if wanted not in layers:
            raise ArchiveError(
                f"{self.location}: model '{model}' has no layer '{wanted}'; "
                f"it has {', '.join(layers)}"
            )
        return wanted

    def rows(
        self, model: str, *, sets: Sequence[str] | None = None, where: str | None = None
    ) -> pd.DataFrame:
        """Rows of a model joined to the structures table, with its ``reason`` and ``energy``.

        ``where`` is a pandas query over the structures table, e.g. ``"stratum == 'f_block'"``.
        Extra columns: ``unit_row`` (row in the unit), ``reason`` ("" when embedded), ``energy``.
        """
        self._require(model)
        held = list(self.units.loc[self.units["model"] == model, "set"])
        wanted = [s for s in self.set_ids if s in held and (sets is None or s in sets)]
        unknown = [s for s in sets or [] if s not in self.set_ids]
        if unknown:
            raise ArchiveError(
                f"{self.location}: no set '{unknown[0]}'; it holds {', '.join(self.set_ids)}"
            )
        parts = []
        for set_id in wanted:
            unit = self.unit(model, set_id)
            parts.append(
                pd.DataFrame(
                    {
                        "id": store.read(unit, "structure_id"),
                        "set": set_id,
                        "unit_row": np.arange(store.array(unit, "structure_id").shape[0]),
                        "reason": store.read(unit, "reason"),
                        "energy": store.read(unit, "energy"),
                    }
                )
            )
        empty = pd.DataFrame(columns=["id", "set", "unit_row", "reason", "energy"])
        joined = self.select(sets=wanted, where=where).merge(
            pd.concat(parts) if parts else empty, on=["id", "set"], how="left"
        )
        # A structure added after the model ran: the model lags behind.
        joined["reason"] = joined["reason"].fillna("not_embedded: the model lags behind the set")
        joined["unit_row"] = joined["unit_row"].fillna(-1).astype("int64")
        return joined

    def select(
        self, *, sets: Sequence[str] | None = None, where: str | None = None
    ) -> pd.DataFrame:
        """Rows of the structures table by set and pandas query.

        Raises
        ------
        ArchiveError
            Naming the query and what is wrong with it.
        """
        table = self.structures
        if sets is not None:
            table = table[table["set"].isin(list(sets))]
        if where:
            try:
                table = table.query(where, engine="python")
            except Exception as error:
                raise ArchiveError(
                    f"where={where!r}: {error}; columns are {', '.join(table.columns)}"
                ) from error
        return table

    def embeddings(
        self,
        model: str,
        *,
        layer: str | None = None,
        sets: Sequence[str] | None = None,
        where: str | None = None,
        missing: MissingPolicy = "nan",
    ) -> xr.DataArray:
        """Pooled vectors of one model, lazy.

        Parameters
        ----------
        model, layer:
            Model id; layer name, or None for the card's default.
        sets, where:
            Structure sets and a pandas query over the structures table; None takes all.
        missing:
            ``nan`` keeps rows the model could not embed as NaN (the reason is a coordinate);
            ``drop`` leaves them out.

        Returns
        -------
        xarray.DataArray
            float32, dims (structure, feature), dask-backed; coordinates ``structure`` (id),
            ``set``, ``stratum``, ``kind`` and ``reason``.
        """
        rows = self.rows(model, sets=sets, where=where)
        if missing == "drop":
            rows = rows[rows["reason"] == ""]
        return self._gather(model, self._known_layer(model, layer), rows)

    def _known_layer(self, model: str, layer: str | None) -> str:
        self._require(model)
        return self._layer(model, layer)

    def _gather(self, model: str, layer: str, rows: pd.DataFrame) -> xr.DataArray:
        # Rows come set by set, in the order of the structures table: pieces concatenate in order.
        pieces, dim, attrs = [], 0, {}
        for set_id, part in rows.groupby("set", sort=False):
            group = store.group(self.unit(model, str(set_id)), layer)
            array = store.array(group, "embedding")
            dim, attrs = array.shape[1], store.matemb(group)
            # Dask chunks follow shards: one read each.
            lazy = da.from_zarr(array, chunks=(array.shards or array.chunks))
            take = part["unit_row"].to_numpy()
            if (take < 0).any():
                lazy = da.concatenate([lazy, da.full((1, dim), np.nan, dtype=lazy.dtype)])
            if len(take) != lazy.shape[0] or (np.diff(take) != 1).any():
                lazy = lazy[take]
            pieces.append(lazy)
        if not dim:
            first = self.units.loc[self.units["model"] == model, "set"].iloc[0]
            group = store.group(self.unit(model, str(first)), layer)
            dim = store.array(group, "embedding").shape[1]
        data = da.concatenate(pieces) if pieces else da.zeros((0, dim), dtype=np.float32)
        return xr.DataArray(
            data,
            dims=("structure", "feature"),
            coords={
                "structure": rows["id"].to_numpy(dtype=object),
                **{
                    name: ("structure", rows[name].to_numpy(dtype=object))
                    for name in ("set", "stratum", "kind", "reason")
                },
            },
            name=model,
            attrs={"units": "1", "matemb": attrs, "atlas": self.location, "version": self.version},
        )

    def aligned(
        self,
        models: Sequence[str],
        *,
        layers: Mapping[str, str] | None = None,
        sets: Sequence[str] | None = None,
        where: str | None = None,
    ) -> xr.Dataset:
        """The rows every one of ``models`` embedded, in the same order.

        A structure held by several sets is taken once, from the first.

        Returns
        -------
        xarray.Dataset
            One lazy variable a model, dims (structure, <model>_feature).
        """
        if len(models) < 1:
            raise ArchiveError("aligned: name at least one model")
        tables = {m: self.rows(m, sets=sets, where=where) for m in models}
        common: set[str] | None = None
        for table in tables.values():
            ids = set(table.loc[table["reason"] == "", "id"])
            common = ids if common is None else common & ids
        variables: dict[str, xr.DataArray] = {}
        for model, table in tables.items():
            kept = table[table["id"].isin(common or set()) & (table["reason"] == "")]
            kept = kept.drop_duplicates("id")
            layer = self._known_layer(model, (layers or {}).get(model))
            array = self._gather(model, layer, kept).rename(feature=f"{model}_feature")
            variables[model] = array.drop_vars("reason")
        first = next(iter(variables.values()))
        return xr.Dataset(
            {m: a.sel(structure=first["structure"]) for m, a in variables.items()},
            attrs={"atlas": self.location, "version": self.version},
        )

    def nodes(self, model: str, structure_id: str, *, layer: str | None = None) -> xr.DataArray:
        """Atom, residue or token vectors of one structure; float32, dims (node, feature).

        Raises
        ------
        ArchiveError
            The model did not embed the structure, or keeps no node vectors.
        """
        name = self._known_layer(model, layer)
        rows = self.rows(model)
        found = rows[(rows["id"] == structure_id) & (rows["reason"] == "")]
        if found.empty:
            raise ArchiveError(f"{self.location}: '{model}' did not embed '{structure_id}'")
        row = found.iloc[0]
        unit = self.unit(model, row["set"])
        group = store.group(unit, name)
        if "node_embedding" not in group:
            raise ArchiveError(
                f"{self.location}: model '{model}', layer '{name}' is kept at structure level only"
            )
        sizes = store.read(unit, "row_size", slice(int(row["unit_row"]) + 1))
        low, high = int(sizes[:-1].sum()), int(sizes.sum())
        return xr.DataArray(
            store.read(group, "node_embedding", slice(low, high)),
            dims=("node", "feature"),
            name=model,
            attrs={"matemb": store.matemb(group), "structure": structure_id},
        )
