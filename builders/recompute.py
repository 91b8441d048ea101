# SPDX-License-Identifier: Apache-2.0
"""Embed a random sample of an atlas's rows anew and compare: does the data say what models say?

Hashes tell whether bytes are those that were written; only the model can tell whether they were
right. Structures come from the atlas's own tables, or, where coordinates may not be passed on, from
the set's loader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..registry import catalog
from ..registry.archive import Atlas, open_atlas
from ..registry.parquet import UNREADABLE, read_arrow
from ..registry.unit import Unit
from ..schemas.archive import STORE, Precision, nodes_name
from ..schemas.cards import ModelCard
from ..schemas.errors import ArchiveError, AtlasError
from ..schemas.progress import Reporter, Silent
from ..schemas.structures import Structure, structure_from_row
from .adapters.base import Adapter, Embedded, Missing, load_adapter
from .embed import set_threads
from .structures.canonical import structure_id
from .structures.sets import iter_structures, load_set

#: Deviation allowed beside the stored precision's own rounding, relative to a vector's norm: what
#: another batch or machine may change. Adapters are held to the same by their tests.
TOLERANCE = 1e-4

_MEND = "build the unit again, or mend its adapter or card"


@dataclass
class Recomputation:
    """What was embedded anew and how it compares.

    Attributes
    ----------
    units, rows, missing :
        Units looked at, embedded rows compared, missing rows tried again.
    faults : list of str
        One line a row that is not what the model says.
    unchecked : dict
        Why a model, or one of its units (``model/set``), was not checked.
    worst : dict
        Largest deviation of a model's vectors, relative to their norm, rounding included.
    """

    units: int = 0
    rows: int = 0
    missing: int = 0
    faults: list[str] = field(default_factory=list)
    unchecked: dict[str, str] = field(default_factory=dict)
    worst: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """No fault found; see ``unchecked`` for what was not looked at."""
        return not self.faults

    def summary(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"ok": self.ok, **vars(self)}

    def text(self) -> str:
        """Faults, what was not checked and why, and one line that sums up."""
        lines = [*self.faults, *(f"not checked: {n}: {w}" for n, w in self.unchecked.items())]
        if not self.units:
            return "\n".join([*lines, "recomputed: nothing was checked"])
        state = "as stored" if self.ok else f"{len(self.faults)} faults"
        if self.worst:
            model = max(self.worst, key=lambda m: self.worst[m])
            state += f", largest deviation {self.worst[model]:.1e} of a vector's norm ({model})"
        lines.append(
            f"recomputed: {self.rows} rows and {self.missing} missing rows of {self.units} units "
            f"of {len(self.worst)} models: {state}"
        )
        return "\n".join(lines)


def recompute(
    root: str | Path,
    *,
    sample: int = 8,
    seed: int = 0,
    models: Sequence[str] | None = None,
    sets: Sequence[str] | None = None,
    tolerance: float | None = None,
    device: str = "cpu",
    threads: int = 1,
    reporter: Reporter | None = None,
) -> Recomputation:
    """Embed random rows of every unit anew and compare them with what is stored.

    Parameters
    ----------
    root:
        Atlas or release folder, valid by ``registry.validate``.
    sample:
        Embedded rows drawn a unit, and missing rows; all where there are fewer.
    seed:
        Of the draw, which depends on it, the unit's name and its length only.
    models, sets:
        Ids; None takes all the atlas holds.
    tolerance:
        Largest deviation of a vector over its norm, and of an energy over its size (1 at least),
        beside the rounding of the stored precision; :data:`TOLERANCE` by default.
    threads:
        BLAS, OpenMP and torch threads of this process; builds have one.

    Returns
    -------
    Recomputation
        Pooled vectors of every layer, node vectors where kept, energies and missing reasons that
        differ, each by its row. A model that cannot be run here is named in ``unchecked``.

    Raises
    ------
    ArchiveError
        Not an atlas, or a model or set it does not hold.
    """
    if sample < 1:
        raise ArchiveError(f"recompute: sample is {sample}; give at least one row")
    set_threads(threads)
    atlas = open_atlas(root)
    held = {m: list(entry["units"]) for m, entry in atlas.index["models"].items()}
    chosen = {m: list(held[m]) if m in held else [] for m in models or held}
    for model_id in chosen:
        if model_id not in held:
            raise ArchiveError(f"{root}: no model '{model_id}'; it holds {', '.join(held)}")
    everywhere = {s for names in held.values() for s in names}
    for set_id in sets or ():
        if set_id not in everywhere:
            raise ArchiveError(f"{root}: no set '{set_id}'; it holds {', '.join(everywhere)}")
    result, sources = Recomputation(), Sources(Path(root))
    limit = TOLERANCE if tolerance is None else tolerance
    reporter = reporter or Silent()
    reporter.stage("recomputation", len(chosen))
    for model_id, names in chosen.items():
        wanted = [s for s in names if sets is None or s in sets]
        checker = _Checker(atlas, sources, result, sample, seed, limit)
        checker.model(model_id, wanted, device)
        if model_id in result.unchecked:
            reporter.note(f"{model_id} not checked: {result.unchecked[model_id]}")
        reporter.advance(model_id, 1)
    return result


class _Checker:
    """Compares the units of models, one after the other."""

    def __init__(
        self,
        atlas: Atlas,
        sources: Sources,
        result: Recomputation,
        sample: int,
        seed: int,
        tolerance: float,
    ) -> None:
        self.atlas, self.sources, self.result = atlas, sources, result
        self.sample, self.seed, self.tolerance = sample, seed, tolerance

    def model(self, model_id: str, sets: list[str], device: str) -> None:
        """Load a model and compare its units; what stands in the way is told, not raised."""
        try:
            units = {s: self.atlas.unit(model_id, s) for s in sets}
        except ArchiveError as error:
            self.result.faults.append(str(error))
            return
        if not units:
            return
        try:
            card = catalog.model(model_id)
            _check_card(card, next(iter(units.values())))
            adapter = load_adapter(card, device=device)
        except Exception as error:  # any package may fail in its own way to load
            self.result.unchecked[model_id] = _one_line(error)
            return
        for set_id, unit in units.items():
            try:
                self.unit(adapter, unit)
            except ArchiveError as error:
                self.result.faults.append(str(error))
            except AtlasError as error:  # the set's source is not to be had
                self.result.unchecked[f"{model_id}/{set_id}"] = _one_line(error)

    def unit(self, adapter: Adapter, unit: Unit) -> None:
        """Compare one unit's sample."""
        record = unit.record
        reasons, ids = unit.reasons(), unit.ids()
        draw = np.random.default_rng(_seed(self.seed, record.model, record.structure_set))
        parts = [np.flatnonzero(reasons == ""), np.flatnonzero(reasons != "")]
        rows = [np.sort(draw.permutation(part)[: self.sample]) for part in parts]
        wanted = [int(row) for row in np.concatenate(rows)]
        structures = self.sources.get(
            record.structure_set, record.structure_set_version, [str(ids[row]) for row in wanted]
        )
        known = [row for row in wanted if str(ids[row]) in structures]
        for row in wanted:
            if row not in known:
                self.fault(unit, "", row, ids[row], "the set holds no such structure")
        order = sorted(known, key=lambda row: len(structures[str(ids[row])]))
        results = adapter.embed([structures[str(ids[row])] for row in order])
        fresh = dict(zip(order, results, strict=True))
        offsets = np.concatenate([[0], np.cumsum(unit.row_size())])
        self.result.units += 1
        self.result.worst.setdefault(record.model, 0.0)
        for row in known:
            identifier = str(ids[row])
            if structure_id(structures[identifier]) != identifier:
                text = "the structure's content is not what its id says"
                self.fault(unit, "structure_id", row, identifier, text)
            said, stored_reason = fresh[row], str(reasons[row])
            self.result.missing += bool(stored_reason)
            if stored_reason or isinstance(said, Missing):
                if not _recurs(stored_reason, said):
                    now = said.reason if isinstance(said, Missing) else "the model embeds it"
                    then = stored_reason or "embedded"
                    self.fault(unit, "reason", row, identifier, f"stored: {then}; anew: {now}")
                continue
            self.result.rows += 1
            self.row(unit, row, identifier, said, slice(offsets[row], offsets[row + 1]))

    def row(self, unit: Unit, row: int, name: str, said: Embedded, nodes: slice) -> None:
        """Compare one embedded row: vectors of every layer, node vectors, energy."""
        model = unit.record.model
        for layer in unit.record.layers:
            found = unit.vectors(layer).read(row, row + 1)[0]
            off = self.compare(unit, layer, row, name, found, said.pooled[layer])
            self.result.worst[model] = float(np.fmax(self.result.worst[model], off))
            array = unit.nodes(layer)
            if array is not None:
                found = array.read(int(nodes.start), int(nodes.stop))
                anew = said.nodes.get(layer, np.empty((0, array.shape[1]), np.float32))
                self.compare(unit, nodes_name(layer), row, name, found, anew)
        energy = float(unit.energy(row, row + 1)[0])
        expected = np.nan if said.energy is None else float(said.energy)
        limit = self.tolerance * max(1.0, abs(expected)) if said.energy is not None else 0.0
        if np.isnan(energy) != np.isnan(expected) or abs(energy - expected) > limit:
            text = f"{energy:.9g} is stored, the model says {expected:.9g}"
            self.fault(unit, "energy", row, name, text)

    def compare(
        self, unit: Unit, array: str, row: int, name: str, found: np.ndarray, expected: np.ndarray
    ) -> float:
        """Deviation of stored numbers over the norm of fresh ones; too large a one is a fault."""
        if found.shape != expected.shape:
            text = f"shape {found.shape} is stored, the model gives {expected.shape}"
            self.fault(unit, array, row, name, text)
            return np.nan
        norm = float(np.linalg.norm(expected.astype(np.float64)))
        apart = float(np.linalg.norm(found.astype(np.float64) - expected.astype(np.float64)))
        relative, absolute = rounding(unit.record.precision)
        limit = (self.tolerance + relative) * norm + absolute * expected.size**0.5
        if not apart <= limit:  # NaN is a fault
            text = f"{apart:.3g} away from a fresh embedding of norm {norm:.3g} (limit {limit:.1g})"
            self.fault(unit, array, row, name, text)
        return apart / (norm or 1.0)

    def fault(self, unit: Unit, array: str, row: int, name: object, text: str) -> None:
        where = f"{STORE}/{unit.record.model}/{unit.record.structure_set}"
        where = f"{where}/{array}" if array else where
        self.result.faults.append(f"{where}, row {row} ('{name}'): {text}; {_MEND}")


class Sources:
    """Structures by set and id: the atlas's tables, else the set's own source."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._loaded: dict[str, Any] = {}

    def get(self, set_id: str, version: str, ids: list[str]) -> dict[str, Structure]:
        """Those of ``ids`` that the set holds.

        Raises
        ------
        ArchiveError
            The atlas has no readable table of the set.
        AtlasError
            Coordinates are withheld, and the source cannot be had in that version.
        """
        path = self.root / "structures" / f"{set_id}.parquet"
        try:
            table = read_arrow(path)
            if ids:
                table = table.filter(pc.is_in(table["id"], pa.array(list(ids), pa.string())))
        except (*UNREADABLE, KeyError) as error:
            raise ArchiveError(f"{path}: unreadable ({error}); build the atlas again") from error
        rows = [row for row in table.to_pylist() if row["id"] in set(ids)]
        withheld = {row["id"] for row in rows if row["positions"] is None}
        found = {r["id"]: structure_from_row(r) for r in rows if r["id"] not in withheld}
        if withheld:
            found |= self._from_source(set_id, version, withheld)
        return found

    def _from_source(self, set_id: str, version: str, ids: set[str]) -> dict[str, Structure]:
        card = catalog.structure_set(set_id)
        if card.version != version:
            raise AtlasError(
                f"set '{set_id}' {version} has no coordinates here and the registry's card is "
                f"{card.version}; install the matteratlas that built it"
            )
        if set_id not in self._loaded:
            self._loaded[set_id] = load_set(card).table
        table = self._loaded[set_id]
        picked = table[table["id"].isin(ids)]
        return {s.id: s for block in iter_structures(picked, card=card) for s in block}


def rounding(precision: Precision) -> tuple[float, float]:
    """Largest error of storing one number: relative, and absolute near zero."""
    if precision.quantization_nsb is not None:
        return 2.0 ** -(precision.quantization_nsb + 1), 0.0
    return (2.0**-11, 2.0**-25) if precision.data_type == "float16" else (0.0, 0.0)


def _check_card(card: ModelCard, unit: Unit) -> None:
    """Whether the registry's card is of the model that was run."""
    record = unit.record
    if card.version != record.model_version:
        raise ArchiveError(
            f"the registry's card is version {card.version}, the atlas holds "
            f"{record.model_version}; install the matteratlas that built it"
        )
    if {layer.name: layer.dim for layer in card.layers} != record.layers:
        raise ArchiveError("its layers are not those of the registry's card; build it again")


def _recurs(stored: str, said: Embedded | Missing) -> bool:
    """Whether a row is missing for the reason stored; how a failure is worded may differ."""
    if not isinstance(said, Missing) or not stored:
        return False
    head = said.reason.partition(":")[0]
    return said.reason == stored or head == stored or (
        head == "failed" and stored.startswith("failed")
    )  # fmt: skip


def _seed(seed: int, model_id: str, set_id: str) -> int:
    text = f"{seed}/{model_id}/{set_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, AtlasError) else f"{type(error).__name__}: {text}"[:300]
