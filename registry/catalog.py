# SPDX-License-Identifier: Apache-2.0
"""The catalogue: which models and structure sets exist, and how a model relates to a stratum."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from ..schemas.cards import ModelCard, StructureSetCard, elements_of, read_card
from ..schemas.errors import CardError
from .brought import LOADER, brought_cards
from .contributed import contributed_folders

Relation = Literal["in", "out", "unknown"]
State = Literal["ran", "loads", "blocked"]

_HERE = Path(__file__).parent

#: Order in which sets claim a structure that several of them hold.
SET_ORDER: tuple[str, ...] = (
    "g2", "ccd", "elements", "prototypes", "minerals", "mlearn", "exotic", "mof", "proteins",
)  # fmt: skip


def model_card_paths(folder: Path | None = None) -> list[Path]:
    """All model card files, sorted by family and id."""
    return sorted((folder or _HERE / "models").glob("*/*.yaml"))


def models(folder: Path | None = None) -> dict[str, ModelCard]:
    """Every model card by id: the registry's, then those of :func:`contributed_folders`.

    Raises
    ------
    CardError
        Naming the first card that does not validate, sits in the wrong family folder, or repeats
        an id.
    """
    if folder is not None:
        return _models(folder)
    found = _models(_HERE / "models")
    for extra in contributed_folders():
        for path in sorted(extra.glob("*.yaml")):
            card = _contributed(path, path.stat().st_mtime_ns if path.exists() else 0)
            # One that is in the registry by now is the registry's.
            found = found if found.get(card.id) == card else _with(found, card, path)
    return found


def _with(found: dict[str, ModelCard], card: ModelCard, path: Path) -> dict[str, ModelCard]:
    if card.id in found:
        raise CardError(f"{path}: key 'id' '{card.id}' is already taken; choose another")
    return {**found, card.id: card}


@cache
def _contributed(path: Path, changed: int) -> ModelCard:
    del changed  # part of the cache's key
    return read_card(path, ModelCard)


@cache
def _models(folder: Path) -> dict[str, ModelCard]:
    found: dict[str, ModelCard] = {}
    for path in model_card_paths(folder):
        card = read_card(path, ModelCard)
        if card.family != path.parent.name:
            raise CardError(
                f"{path}: key 'family' is '{card.family}' but the folder is '{path.parent.name}'"
            )
        if card.id in found:
            raise CardError(f"{path}: key 'id' '{card.id}' is already taken; choose another")
        found[card.id] = card
    return found


def structure_sets(folder: Path | None = None) -> dict[str, StructureSetCard]:
    """Every structure-set card by id, in the order in which sets claim shared structures.

    The registry's, then those that :mod:`.brought` finds.

    Raises
    ------
    CardError
        Naming the first card that does not validate, or a brought one with an id that is taken.
    """
    if folder is not None:
        return _sets(folder)
    found = _sets(_HERE / "structure_sets")
    for path in brought_cards():
        card = _brought(path, path.stat().st_mtime_ns if path.exists() else 0)
        if card.id in found:
            raise CardError(f"{path}: key 'id' '{card.id}' is already taken; choose another")
        found = {**found, card.id: card}
    return found


def was_brought(card: StructureSetCard) -> bool:
    """Whether a user brought the set: it is known where it lies, and no part of ``all``."""
    return card.loader == LOADER


@cache
def _brought(path: Path, changed: int) -> StructureSetCard:
    del changed  # part of the cache's key
    card = read_card(path, StructureSetCard)
    if not was_brought(card):
        raise CardError(f"{path}: key 'loader' must be '{LOADER}' of a set that is brought")
    return card


@cache
def _sets(folder: Path) -> dict[str, StructureSetCard]:
    paths = sorted(folder.glob("*.yaml"))
    cards = {p.stem: read_card(p, StructureSetCard) for p in paths}
    known = [s for s in SET_ORDER if s in cards]
    return {s: cards[s] for s in known + sorted(set(cards) - set(known))}


def _pick(what: str, wanted: str, known: Iterable[str]) -> str:
    names = list(known)
    if wanted in names:
        return wanted
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.4)
    raise CardError(
        f"no {what} '{wanted}' in the registry"
        + (f"; did you mean '{near[0]}'?" if near else f"; see: matteratlas {what}s list")
    )


def model(model_id: str) -> ModelCard:
    """The card of one model; the error names the nearest id."""
    return models()[_pick("model", model_id, models())]


def structure_set(set_id: str) -> StructureSetCard:
    """The card of one structure set; the error names the nearest id."""
    return structure_sets()[_pick("set", set_id, structure_sets())]


def at_hand(card: ModelCard) -> bool:
    """Whether the model comes with packages alone: no download from a hub, and no account."""
    return card.checkpoint.obtained in {"package", "none"}


class Status(NamedTuple):
    """How far a model has been run.

    Attributes
    ----------
    state, why:
        How far, and why no further; ``str()`` gives both.
    tested:
        What it was run with: the date of the record (with weights from a package, the release of
        matteratlas, whose tests run the model every time), then ``package==version`` as often as
        there are packages. Empty for what was never run.
    """

    state: State
    why: str
    tested: str

    def __str__(self) -> str:
        return f"{self.state}: {self.why}" if self.why else self.state


@cache
def small_weights(path: Path | None = None) -> dict[str, dict[str, str]]:
    """Rows of ``small_weights.csv`` by model id: what the tests with small weights last found.

    Columns: ``model``, ``outcome`` (``loads`` or ``blocked``), ``why``, ``packages``, ``date``.
    """
    with (path or _HERE / "small_weights.csv").open(encoding="utf-8", newline="") as handle:
        return {row["model"]: row for row in csv.DictReader(handle)}


def status(card: ModelCard) -> Status:
    """How far a model has been run.

    ``ran``: with its published weights, or it has none; every run of the tests repeats it.
    ``loads``: its weights have to be fetched from a hub, and were not; its adapter is tested on
    small random weights of the same class (:func:`small_weights`). ``blocked``: neither, and why.
    Models in an environment of their own have theirs from ``make test-families``.
    """
    from .environment_cards import read_families

    if card.checkpoint.obtained == "brought":
        return Status("blocked", "its vectors were brought; the model is not to be had", "")
    if card.isolation is None and at_hand(card):
        versions = {"matteratlas": metadata.version("matteratlas"), **(card.environment or {})}
        return Status("ran", "", " ".join(f"{name}=={v}" for name, v in versions.items()))
    table = small_weights() if card.isolation is None else read_families()
    row = table.get(card.id)
    if row is None:
        target = "test-small-weights" if card.isolation is None else "test-families"
        return Status("blocked", f"not tested yet; run: make {target}", "")
    states: dict[str, State] = {"ran": "ran", "loads": "loads"}
    state = states.get(row["outcome"], "blocked")
    return Status(state, row["why"], f"{row['date']} {row['packages']}".strip())


def select_models(names: Sequence[str] | None) -> list[ModelCard]:
    """Cards for ids, families, ``starter`` or ``all``; keeps registry order, drops repeats.

    ``all``, and no names, means every model that is :func:`at_hand`. The others are taken where
    their id or family is named.
    """
    if not names or list(names) == ["all"]:
        return [c for c in models().values() if at_hand(c)]
    if list(names) == ["starter"]:
        return [c for c in models().values() if c.starter]
    families = {c.family for c in models().values()}
    wanted: set[str] = set()
    for name in names:
        if name in families and name not in models():
            wanted |= {c.id for c in models().values() if c.family == name}
        else:
            wanted.add(_pick("model", name, models()))
    return [c for c in models().values() if c.id in wanted]


def select_sets(names: Sequence[str] | None) -> list[StructureSetCard]:
    """Cards for set ids or ``all`` (those of the registry); keeps registry order."""
    if not names or list(names) == ["all"]:
        return [c for c in structure_sets().values() if not was_brought(c)]
    wanted = {_pick("set", n, structure_sets()) for n in names}
    return [c for c in structure_sets().values() if c.id in wanted]


def relation(
    card: ModelCard,
    *,
    domains: Sequence[str],
    elements: Iterable[str] | None = None,
    n_atoms: int | None = None,
) -> Relation:
    """Is a structure inside what the model was trained on?

    A relation between a model and matter, never a property of a structure. ``in`` needs a training
    domain among the stratum's ``domains``, every element among the training elements, and no more
    atoms than the training's largest; one certain failure gives ``out``. A limit the card or the
    caller leaves out is not applied; without training domains the answer is ``unknown`` (also for
    models that never trained).
    """
    training = card.training
    if training.domains is None:
        return "unknown"
    if not set(domains) & set(training.domains):
        return "out"
    trained = elements_of(training.elements)
    if trained is not None and elements is not None and not set(elements) <= trained:
        return "out"
    if training.max_atoms is not None and n_atoms is not None and n_atoms > training.max_atoms:
        return "out"
    return "in"


def relations(card: ModelCard, structures: pd.DataFrame) -> pd.Series:
    """:func:`relation` for every row of a structures table (index kept).

    Rows of a set or stratum this registry does not know are ``unknown``.
    """
    cards = structure_sets()
    domains = {
        (s, name): stratum.domains
        for s, set_card in cards.items()
        for name, stratum in set_card.strata.items()
    }
    values = [
        relation(card, domains=domains[(s, stratum)], elements=elements, n_atoms=n)
        if (s, stratum) in domains
        else "unknown"
        for s, stratum, elements, n in zip(
            structures["set"],
            structures["stratum"],
            structures["elements"],
            structures["n_atoms"],
            strict=True,
        )
    ]
    return pd.Series(values, index=structures.index, name=card.id, dtype=object)


def models_table(cards: Iterable[ModelCard] | None = None) -> pd.DataFrame:
    """The model cards as a table, one row a model, nested keys joined by a dot."""
    rows = [
        _flatten(c.model_dump(mode="json")) for c in (models().values() if cards is None else cards)
    ]
    return pd.DataFrame(rows)


def sets_table(cards: Iterable[StructureSetCard] | None = None) -> pd.DataFrame:
    """The structure-set cards as a table, one row a stratum."""
    rows: list[dict[str, Any]] = []
    for card in structure_sets().values() if cards is None else cards:
        base = card.model_dump(mode="json", exclude={"strata", "labels", "sources"})
        if isinstance(base["elements"], str):
            base["elements"] = [base["elements"]]
        base["sources"] = [s.package for s in card.sources]
        base["labels"] = [f"{k} [{v.unit}; {v.level_of_theory}]" for k, v in card.labels.items()]
        for name, stratum in card.strata.items():
            rows.append({**base, "stratum": name, **{f"stratum.{k}": v for k, v in stratum}})
    return pd.DataFrame(rows)


def _flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    import json

    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and key not in {"options", "environment"}:
            flat |= _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, dict) or (
            isinstance(value, list) and value and isinstance(value[0], dict)
        ):
            flat[f"{prefix}{key}"] = json.dumps(value, sort_keys=True)
        elif isinstance(value, list):
            flat[f"{prefix}{key}"] = [str(v) for v in value]
        elif key == "elements" and isinstance(value, str):
            # A range and a list of ranges mean the same; one column holds one type.
            flat[f"{prefix}{key}"] = [value]
        else:
            flat[f"{prefix}{key}"] = value
    return flat
