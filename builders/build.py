# SPDX-License-Identifier: Apache-2.0
"""Build an atlas: structure sets in, complete units out, one task a model on a Dask scheduler."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import pyarrow as pa

from ..registry import catalog
from ..registry.commit import place_tables, settle, vouched_units
from ..registry.files import Files
from ..registry.index import current_state, read_index, start_index
from ..registry.parquet import read_frame
from ..registry.tables import link_sets, read_structures_table, table_version, write_table
from ..registry.unit import Unit
from ..registry.workers import cluster
from ..schemas.archive import (
    ATLAS_FILE,
    LOCK,
    STAGING,
    STORE,
    UNRELEASED,
    Precision,
)
from ..schemas.cards import ModelCard, StructureSetCard
from ..schemas.errors import ArchiveError
from ..schemas.progress import Reporter, Silent
from ..schemas.structure_sets import structure_arrow_schema
from ..schemas.structures import LABEL_PREFIX
from .dataset_card import write_card
from .embed import Storage, UnitReport, embed_model
from .locking import root_lock, told_in_a_line, workspace
from .structures.sets import load_set

if TYPE_CHECKING:
    from distributed import Client

Selection = Literal["full", "starter"]
_TOPIC = "matteratlas-progress"

#: Tables of source rows that a set leaves out, and why.
NOTES = {
    "rejected": pa.schema([(c, pa.string()) for c in ("source_id", "reason", "set")]),
    "duplicates": pa.schema([(c, pa.string()) for c in ("source_id", "kept", "set")]),
}

#: Columns (and array labels) kept only where the set's card allows passing coordinates on.
GEOMETRY = ("numbers", "positions", "cell", "backbone")


@dataclass
class BuildReport:
    """Outcome of a build."""

    root: Path
    units: list[UnitReport] = field(default_factory=list)
    structures: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)
    linked: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> list[UnitReport]:
        """Units that could not be built."""
        return [u for u in self.units if u.outcome == "failed"]

    def counts(self) -> pd.DataFrame:
        """Embedded rows, models x sets."""
        table = pd.DataFrame(
            [{"model": u.model, "set": u.set, "n": u.embedded} for u in self.units]
        )
        if table.empty:
            return table
        return table.pivot_table(index="model", columns="set", values="n", sort=False).astype(int)


def build(
    out: Path,
    *,
    models: Sequence[str] | None = None,
    sets: Sequence[str] | None = None,
    selection: Selection = "full",
    resume: bool = True,
    workers: int = 2,
    scheduler: str | None = None,
    keep_nodes: bool = True,
    precision: str = "float32",
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> BuildReport:
    """Embed structure sets with models into the atlas at ``out``.

    Parameters
    ----------
    out:
        Atlas folder; made if absent. Units already complete are kept.
    models, sets:
        Ids, families (models) or None for all.
    selection:
        ``full`` sets or the deterministic ``starter`` rows of each.
    resume:
        Keep complete units whose inputs have not changed; False rebuilds them.
    workers:
        Local worker processes (one thread each); 0 runs in this process.
    scheduler:
        Address of an existing Dask scheduler; ``workers`` is then ignored. Its workers must see
        ``out`` under the same path.
    keep_nodes:
        Keep atom, residue and token vectors beside the pooled ones.
    precision:
        Stored precision: ``float32``, ``float16`` or ``bitround-N``.

    Returns
    -------
    BuildReport
        One entry a (model, set); a failing model fails its own units only.

    Notes
    -----
    Several builds may work on one archive at the same time, with the same or other models and
    sets: each unit is embedded by one of them, and the archive comes out as from a single build.

    Raises
    ------
    ArchiveError
        ``out`` is not an atlas, is a release, or holds other rows of a set than this build would.
    """
    reporter = reporter or Silent()
    model_cards, set_cards = catalog.select_models(models), catalog.select_sets(sets)
    storage = Storage(keep_nodes=keep_nodes, precision=Precision.parse(precision))
    out = Path(out).absolute()
    report = BuildReport(out)
    with told_in_a_line(out, "build"), _builder(out, workers, scheduler) as (own, client):
        reporter.stage("structures", len(set_cards))
        _prepare_sets(client, out, own, set_cards, selection, report, reporter)
        jobs = [(card, own / f"{card.id}.parquet") for card in set_cards]
        reporter.stage("embeddings", len(model_cards) * sum(report.structures.values()))
        arguments: dict[str, Any] = {
            "build_version": metadata.version("matteratlas"),
            "storage": storage,
            "workspace": own,
            "device": device,
            "resume": resume,
        }
        order = sorted(model_cards, key=_cost, reverse=True)
        report.units = _run(client, out, order, jobs, arguments, reporter)
        with root_lock(out):
            settle(out, scratch=own / "placing")
            try:
                write_card(out)
            except ArchiveError as error:  # an earlier set's table is damaged: units are complete
                reporter.note(f"no dataset card: {error}")
    position = {card.id: i for i, card in enumerate(model_cards)}
    report.units.sort(key=lambda u: position[u.model])
    return report


@contextmanager
def _builder(
    out: Path, workers: int, scheduler: str | None
) -> Iterator[tuple[Path, Client | None]]:
    """A folder to stage in and the workers, on an atlas that is made if absent, and settled."""
    open_root(out)
    with workspace(out) as own, cluster(workers=workers, scheduler=scheduler) as client:
        with root_lock(out):
            settle(out, scratch=own / "placing")  # what a killed build left
        yield own, client


def open_root(out: Path) -> None:
    """Make the atlas folder, or check that it is one this version can write.

    Raises
    ------
    ArchiveError
        The folder holds something else, or a newer format.
    """
    if not (out / ATLAS_FILE).exists():
        strangers = out.exists() and any(not _begun(p.name) for p in out.iterdir())
        # Looked at again: another builder may have made it an atlas meanwhile.
        if strangers and not (out / ATLAS_FILE).exists():
            raise ArchiveError(f"{out}: exists and is not an atlas; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        with root_lock(out):
            if not (out / ATLAS_FILE).exists():
                start_index(out)
    links = (Path(folder) / name for folder, folders, names in os.walk(out)
             for name in (*folders, *names))  # fmt: skip
    link = next((path for path in links if path.is_symlink()), None)
    if link is not None:
        raise ArchiveError(f"{link}: a link; writing would follow it, put the real thing there")
    version = read_index(Files(str(out)))["version"]
    if version != UNRELEASED:
        raise ArchiveError(
            f"{out}: is release {version}, and releases never change; choose another --out"
        )


def _begun(name: str) -> bool:
    """Whether a build that was killed before it marked its folder leaves such a file."""
    return name in (STAGING, LOCK) or (
        name.startswith(f".{ATLAS_FILE}.") and name.endswith(".part")
    )


def _cost(card: ModelCard) -> tuple[int, int]:
    """Rough order of expense, so that the longest models start first."""
    rank = {"atoms3d": 2, "protein_sequence": 1, "protein_structure": 1}
    return rank.get(card.modality, 0), card.parameters or 0


def _prepare_set(own: Path, card: StructureSetCard, selection: Selection) -> dict[str, Any]:
    """Load one set and stage its table, coordinates included, for the workers to stream."""
    loaded = load_set(card, selection=selection)
    path = own / f"{card.id}.parquet"
    write_table(loaded.table, path, schema=structure_arrow_schema(card))
    return {
        "card": card,
        "ids": loaded.table["id"].tolist(),
        "rejected": loaded.rejected.assign(set=card.id),
        "duplicates": loaded.duplicates.assign(set=card.id),
    }


def _prepare_sets(
    client: Client | None,
    out: Path,
    own: Path,
    cards: list[StructureSetCard],
    selection: Selection,
    report: BuildReport,
    reporter: Reporter,
) -> None:
    """Stage every set for the workers, and write the atlas's own tables."""
    prepared: list[dict[str, Any]] = []
    if client is None:
        results: Iterator[dict[str, Any]] = (_prepare_set(own, c, selection) for c in cards)
    else:
        from distributed import as_completed

        futures = [client.submit(_prepare_set, own, c, selection, pure=False) for c in cards]
        results = (f.result() for f in as_completed(futures))
    for result in results:
        prepared.append(result)
        card = result["card"]
        report.structures[card.id] = len(result["ids"])
        report.rejected[card.id] = len(result["rejected"])
        report.duplicates[card.id] = len(result["duplicates"])
        reporter.advance(f"{card.id}: {len(result['ids'])} structures", 1)
    prepared.sort(key=lambda p: str(p["card"].id))
    known = {c.id for c in cards}
    with root_lock(out):
        index = read_index(Files(str(out)))
        staged = {}
        for result in prepared:
            card = result["card"]
            _check_growth(out, index, card, result["ids"])
            staged[f"structures/{card.id}.parquet"] = _stage_structures(own, card)
        for kind in NOTES:
            path = f"registry/{kind}.parquet"
            parts = [p[kind] for p in prepared]
            if current_state(Files(str(out)), index, path):  # sets of earlier builds keep theirs
                earlier = read_frame(out / path)
                parts.insert(0, earlier[~earlier["set"].isin(known)])
            staged[path] = own / path
            write_notes(kind, parts, own / path)
        place_tables(out, staged, scratch=own / "placing")
        held = sorted((out / "structures").glob("*.parquet"))
        ids = {p.stem: read_structures_table(p, columns=["id"]) for p in held}
    for set_id, frame in link_sets(ids).items():
        report.linked[set_id] = int(frame["linked"].notna().sum())


def write_notes(kind: str, parts: list[pd.DataFrame], path: Path) -> None:
    """Write the notes of several sets on source rows left out; equal notes are equal bytes."""
    table = pd.concat(parts, ignore_index=True).sort_values("set", kind="stable")
    write_table(table.astype(object), path, schema=NOTES[kind])


def _check_growth(out: Path, index: dict[str, Any], card: StructureSetCard, ids: list[str]) -> None:
    """A set may grow; rows it holds never go unless its card's version says that data changed."""
    path = f"structures/{card.id}.parquet"
    if current_state(Files(str(out)), index, path):
        version = table_version(out / path)
        held = set(read_structures_table(out / path, columns=["id"])["id"])
    else:  # absent or damaged, so written anew: then the units say which rows there are
        version, held = card.version, set()
        for model in index["models"]:
            documents = vouched_units(out, index, model).get(card.id)
            if documents:
                unit = Unit(Files(str(out)), f"{STORE}/{model}/{card.id}", documents)
                if unit.record.structure_set_version == version:
                    held |= _ids(unit)
    gone = len(held - set(ids))
    if gone and version == card.version:
        raise ArchiveError(
            f"{out}: holds {len(held)} structures of set '{card.id}' and this build would drop "
            f"{gone}; build the full set (--sets {card.id}) or choose another --out"
        )


def _ids(unit: Unit) -> set[str]:
    try:
        return set(unit.ids())
    except ArchiveError:
        return set()  # damaged as well


def _stage_structures(own: Path, card: StructureSetCard) -> Path:
    """The set's table as it may be passed on."""
    kept = read_structures_table(own / f"{card.id}.parquet")
    if not card.redistribute_coordinates:
        arrays = [n for n, label in card.labels.items() if label.shape != "scalar"]
        kept[[*GEOMETRY, *(f"{LABEL_PREFIX}{n}" for n in arrays)]] = None
    path = own / "structures" / f"{card.id}.parquet"
    write_table(kept, path, schema=structure_arrow_schema(card), version=card.version)
    return path


def _run(
    client: Client | None,
    out: Path,
    cards: list[ModelCard],
    jobs: list[tuple[StructureSetCard, Path]],
    arguments: dict[str, Any],
    reporter: Reporter,
) -> list[UnitReport]:
    units: list[UnitReport] = []

    def finished(found: list[UnitReport]) -> None:
        units.extend(found)
        for unit in found:
            if unit.outcome == "failed":
                reporter.note(f"{unit.model} on {unit.set} failed: {unit.error}")

    if client is None:
        for card in cards:
            finished(
                embed_model(
                    out, card, jobs, **arguments, progress=lambda m, _, n: reporter.advance(m, n)
                )
            )
        return units
    from distributed import as_completed

    def on_event(event: tuple[float, tuple[str, str, int]]) -> None:
        model_id, _, n = event[1]
        reporter.advance(model_id, n)

    client.subscribe_topic(_TOPIC, on_event)
    futures = {
        client.submit(_embed_on_worker, out, card, jobs, arguments, priority=-i, pure=False): card
        for i, card in enumerate(cards)
    }
    for future in as_completed(futures):
        card = futures[future]
        try:
            finished(future.result())
        except Exception as error:
            text = " ".join(f"worker died: {type(error).__name__}: {error}".split())[:300]
            finished([UnitReport(card.id, s.id, "failed", error=text) for s, _ in jobs])
    client.unsubscribe_topic(_TOPIC)
    return units


def _embed_on_worker(
    out: Path,
    card: ModelCard,
    jobs: list[tuple[StructureSetCard, Path]],
    arguments: dict[str, Any],
) -> list[UnitReport]:
    from distributed import get_worker

    worker = get_worker()

    def progress(model_id: str, set_id: str, n: int) -> None:
        worker.log_event(_TOPIC, (model_id, set_id, n))

    return embed_model(out, card, jobs, **arguments, progress=progress)
