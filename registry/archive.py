# SPDX-License-Identifier: Apache-2.0
"""Read an atlas lazily: metadata and tables on opening, vectors only when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from ..schemas.archive import PARQUET, STORE
from ..schemas.errors import ArchiveError
from .cache import Cache
from .catalog import SET_ORDER
from .contents import Contents
from .files import Files
from .replies import redacted
from .rows import LazyRows, attach
from .shards import ShardedArray
from .unit import Nothing, Unit, open_units

MissingPolicy = Literal["nan", "drop"]


def open_atlas(
    location: str | Path, *, cache: bool | Path = True, cache_bytes: int = 5 * 2**30
) -> Atlas:
    """Open an atlas; reads its index only, in one request.

    Parameters
    ----------
    location:
        A folder, or a URL: ``http(s)://``, ``s3://``, ``hf://datasets/ORG/NAME@TAG``. ``@latest``
        and ``@stable`` name the newest release of a Hub dataset or of a folder of releases, with
        and without pre-releases.
    cache:
        What is read from a URL is kept in a folder (True: the default one) and checked each time
        it is read again; False keeps nothing.
    cache_bytes:
        Most bytes the cache holds; what was read longest ago goes first.

    Raises
    ------
    ArchiveError
        Nothing there, not an atlas, damaged, or of another format.
    SourceError
        The URL cannot be reached, or may not be read.
    """
    kept = None
    if cache and "://" in str(location):
        kept = Cache(None if cache is True else Path(cache), max_bytes=cache_bytes)
    return Atlas(Files(str(location), cache=kept))


class Atlas(Contents):
    """An opened atlas: its tables as pandas frames, its vectors as lazy arrays."""

    def __init__(self, files: Files) -> None:
        super().__init__(files)
        self._units: dict[str, dict[str, Unit]] = {}

    def __repr__(self) -> str:
        return (
            f"<Atlas {redacted(self.location)} {self.version}: {len(self.index['models'])} models, "
            f"{self.units['set'].nunique()} sets>"
        )

    def unit(self, model: str, set_id: str) -> Unit:
        """One unit: its commit record, columns and lazy arrays.

        Raises
        ------
        ArchiveError
            Naming the model or set the atlas does not hold, and those it does.
        """
        self._require(model)
        entry = self.index["models"][model]
        if set_id not in entry["units"]:
            raise ArchiveError(
                f"{self.location}: model '{model}' has no set '{set_id}'; "
                f"it has {', '.join(entry['units'])}"
            )
        if model not in self._units:
            state = self._moving(f"{STORE}/{model}/zarr.json")
            sha256 = state["sha256"] if state else entry["metadata_sha256"]
            held = open_units(self.files, model, sha256=sha256)
            for name, said in entry["units"].items():
                record = held[name].record if name in held else None
                if record is None or (record.layers, record.rows) != (
                    entry["layers"], said["rows"]
                ):  # fmt: skip
                    raise ArchiveError(
                        f"{self.location}: the index says of '{model}' on '{name}' what its "
                        "metadata do not; run: matteratlas validate"
                    )
            self._units[model] = held
        return self._units[model][set_id]

    def _declared(self, path: str) -> dict[str, Any]:
        if not path.startswith(f"{PARQUET}/"):
            return super()._declared(path)
        model, _, name = path.removeprefix(f"{PARQUET}/").partition("/")
        files = self.unit(model, name.removesuffix(".parquet")).record.files
        found = next((f for f in files if f.path == path), None)
        return found.model_dump() if found else super()._declared(path)

    def _require(self, model: str) -> None:
        held = list(self.index["models"])
        if model not in held:
            import difflib

            near = difflib.get_close_matches(model, held, n=1, cutoff=0.4)
            raise ArchiveError(
                f"{self.location}: no model '{model}'"
                + (f"; did you mean '{near[0]}'?" if near else f"; it holds {', '.join(held)}")
            )

    def _layer(self, model: str, layer: str | None) -> str:
        self._require(model)
        entry = self.index["models"][model]
        wanted = layer or str(entry["default_layer"])
        if wanted not in entry["layers"]:
            raise ArchiveError(
                f"{self.location}: model '{model}' has no layer '{wanted}'; "
                f"it has {', '.join(entry['layers'])}"
            )
        return wanted

    def _sets_of(self, model: str, sets: Sequence[str] | None) -> list[str]:
        """Sets a model was run on among those asked for, in registry order where it is known."""
        self._require(model)
        held = self.index["models"][model]["units"]
        everywhere = {s for m in self.index["models"].values() for s in m["units"]}
        order = [s for s in SET_ORDER if s in everywhere]
        order += sorted(everywhere - set(order))
        unknown = [s for s in sets or [] if s not in everywhere and s not in self.set_ids]
        if unknown:
            raise ArchiveError(
                f"{self.location}: no set '{unknown[0]}'; it holds {', '.join(order)}"
            )
        return [s for s in order if s in held and (sets is None or s in sets)]

    def rows(
        self, model: str, *, sets: Sequence[str] | None = None, where: str | None = None
    ) -> pd.DataFrame:
        """Rows of a model joined to the structures table, with its ``reason`` and ``energy``.

        ``where`` is a pandas query over the structures table, e.g. ``"stratum == 'f_block'"``.
        Extra columns: ``unit_row`` (row in the unit), ``reason`` ("" when embedded), ``energy``.
        """
        wanted = self._sets_of(model, sets)
        parts = []
        for set_id in wanted:
            unit = self.unit(model, set_id)
            parts.append(
                pd.DataFrame(
                    {
                        "id": unit.ids(),
                        "set": set_id,
                        "unit_row": np.arange(len(unit)),
                        "reason": unit.reasons(),
                        "energy": unit.energy(),
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
        return self._gather(model, self._layer(model, layer), rows)

    def read(
        self,
        model: str,
        rows: slice = slice(None),
        *,
        layer: str | None = None,
        sets: Sequence[str] | None = None,
    ) -> xr.DataArray:
        """Contiguous rows of one model, at once, moving only the chunks that hold them.

        Parameters
        ----------
        rows:
            Rows of the model's sets laid end to end in registry order; step 1.

        Returns
        -------
        xarray.DataArray
            float32, in memory, dims (structure, feature); coordinates ``structure`` (id) and
            ``set``. Rows the model could not embed are NaN.
        """
        name = self._layer(model, layer)
        wanted = self._sets_of(model, sets)
        sizes = [int(self.index["models"][model]["units"][s]["rows"]) for s in wanted]
        start, stop, step = rows.indices(sum(sizes))
        if step != 1:
            raise ArchiveError(f"read: rows {rows} has step {step}; give contiguous rows")
        dim = int(self.index["models"][model]["layers"][name])
        values, ids, owners = [np.empty((0, dim), np.float32)], [], []
        base = 0
        for set_id, size in zip(wanted, sizes, strict=True):
            low, high = max(start - base, 0), min(stop - base, size)
            base += size
            if low >= high:
                continue
            unit = self.unit(model, set_id)
            block = unit.vectors(name).read(low, high)
            values.append(block.astype(np.float32, copy=False))
            ids.append(unit.ids(low, high))
            owners.append(np.full(high - low, set_id, dtype=object))
        return xr.DataArray(
            values[1] if len(values) == 2 else np.concatenate(values),
            dims=("structure", "feature"),
            coords={
                "structure": np.concatenate(ids) if ids else np.empty(0, object),
                "set": ("structure", np.concatenate(owners) if owners else np.empty(0, object)),
            },
            name=model,
            attrs={"units": "1", "atlas": redacted(self.location), "version": self.version},
        )

    def _gather(self, model: str, layer: str, rows: pd.DataFrame) -> xr.DataArray:
        """Vectors of these rows of :meth:`rows`, in their order."""
        place = rows["unit_row"].to_numpy()
        owner = np.full(len(rows), -1, dtype=np.int32)
        matrices: list[ShardedArray | Nothing] = []
        attrs: dict[str, Any] = {}
        name = f"{model}-{redacted(self.location)}-{layer}"
        for set_id in pd.unique(rows["set"]):
            mine = (rows["set"] == set_id).to_numpy() & (place >= 0)
            if not mine.any():
                continue
            unit = self.unit(model, str(set_id))
            owner[mine] = len(matrices)
            matrices.append(unit.vectors(layer))
            attrs = unit.matemb(layer) or attrs
            name += f"-{unit.record.content_sha256[:16]}"
        dim = int(self.index["models"][model]["layers"][layer])
        lazy = LazyRows(matrices, owner, place, dim=dim)
        array = xr.DataArray(
            lazy.to_dask(name=name),
            dims=("structure", "feature"),
            coords={
                "structure": rows["id"].to_numpy(dtype=object),
                **{
                    column: ("structure", rows[column].to_numpy(dtype=object))
                    for column in ("set", "stratum", "kind", "reason")
                },
            },
            name=model,
            attrs={
                "units": "1",
                "matemb": attrs,
                "atlas": redacted(self.location),
                "version": self.version,
            },
        )
        return attach(array, lazy)

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
            layer = self._layer(model, (layers or {}).get(model))
            if variables:
                order = next(iter(variables.values()))["structure"].values
                kept = kept.set_index("id").loc[order].reset_index()
            array = self._gather(model, layer, kept).rename(feature=f"{model}_feature")
            # A model that was not run on a set may hold a shared structure in another one: the
            # set and stratum that are named are the first model's.
            others = ("set", "stratum", "kind") if variables else ()
            variables[model] = array.drop_vars(["reason", *others])
        return xr.Dataset(
            variables, attrs={"atlas": redacted(self.location), "version": self.version}
        )

    def nodes(self, model: str, structure_id: str, *, layer: str | None = None) -> xr.DataArray:
        """Atom, residue or token vectors of one structure; float32, dims (node, feature).

        Raises
        ------
        ArchiveError
            The model did not embed the structure, or keeps no node vectors.
        """
        name = self._layer(model, layer)
        rows = self.rows(model)
        found = rows[(rows["id"] == structure_id) & (rows["reason"] == "")]
        if found.empty:
            raise ArchiveError(f"{self.location}: '{model}' did not embed '{structure_id}'")
        row = found.iloc[0]
        unit = self.unit(model, row["set"])
        array = unit.nodes(name)
        if array is None:
            raise ArchiveError(
                f"{self.location}: model '{model}', layer '{name}' is kept at structure level only"
            )
        sizes = unit.row_size(0, int(row["unit_row"]) + 1)
        low, high = int(sizes[:-1].sum()), int(sizes.sum())
        return xr.DataArray(
            array.read(low, high).astype(np.float32, copy=False),
            dims=("node", "feature"),
            name=model,
            attrs={"matemb": unit.matemb(name), "structure": structure_id},
        )
