# SPDX-License-Identifier: Apache-2.0
"""One case of the fuzzer: decided by a seed and a number, and what came of it."""

from __future__ import annotations

import json
import random
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz_targets as targets
import hostile
import hostile_cards

from matteratlas.registry import catalog
from matteratlas.schemas.cards import ModelCard, StructureSetCard, read_card
from matteratlas.schemas.environments import EnvironmentCard
from matteratlas.schemas.errors import AtlasError

#: What is attacked, and how many of a hundred cases each gets.
SHARES = {
    "model cards": 26, "set cards": 8, "environment cards": 5, "manifests": 15, "index": 8,
    "pending files": 3, "structure tables": 4, "registry tables": 4, "score tables": 4,
    "twin tables": 2, "unit metadata": 10, "shards": 5, "analysis record": 3, "releases": 3,
}  # fmt: skip
#: Cards of each kind: where they are in the registry, and how they are read.
CARDS: dict[str, tuple[str, Any]] = {
    "model cards": ("models/*/*.yaml", ModelCard),
    "set cards": ("structure_sets/*.yaml", StructureSetCard),
    "environment cards": ("environments/*.yaml", EnvironmentCard),
}
OUTCOMES = (
    "refused",
    "accepted, equal",
    "accepted, valid",
    "wrong answer",
    "crash",
    "hang",
    "escape",
)
BAD = OUTCOMES[3:]

Say = Callable[[str], None]
#: What reading the real atlas and the real release gives, by folder and operation.
Answers = dict[str, str]


def _order() -> tuple[str, ...]:
    found = [kind for kind, share in SHARES.items() for _ in range(share)]
    random.Random(0).shuffle(found)
    return tuple(found)


ORDER = _order()


@dataclass(frozen=True)
class Case:
    """One case, all of it decided by its number and the seed."""

    number: int
    seed: int

    @property
    def kind(self) -> str:
        return ORDER[self.number % len(ORDER)]

    @property
    def rng(self) -> random.Random:
        return random.Random(f"{self.seed}:{self.kind}:{self.number}")


def cases(numbers: Iterable[int], seed: int, kinds: Iterable[str]) -> list[Case]:
    """The cases of these numbers that are of these kinds."""
    wanted = set(kinds)
    return [case for case in (Case(n, seed) for n in numbers) if case.kind in wanted]


def outcome(case: Case, target: Path, answers: Answers, say: Say) -> tuple[str, str]:
    """What comes of a case in an empty folder: one of the outcomes, and a line about it."""
    try:
        if case.kind in CARDS:
            return card_case(case, target, say)
        return store_case(case, target, answers, say)
    except targets.WrongError as error:
        return "wrong answer", str(error)
    except Exception as error:
        return "crash", blamed(error)


def blamed(error: BaseException) -> str:
    """A foreign exception, and the last line of the package it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    parts = ("matteratlas", "registry", "builders", "analysis", "schemas")
    own = [f for f in frames if set(parts) & set(Path(f.filename).parts)
           and "site-packages" not in f.filename]  # fmt: skip
    at = (own or frames)[-1]
    text = " ".join(f"{type(error).__name__}: {error}".split())[:140]
    return f"{text} at {Path(at.filename).name}:{at.lineno}"


def card_case(case: Case, target: Path, say: Say) -> tuple[str, str]:
    """A card from a real one, by its text or by its keys."""
    rng, (pattern, kind) = case.rng, CARDS[case.kind]
    path = rng.choice(sorted(Path(catalog.__file__).parent.glob(pattern)))
    data, what = path.read_bytes(), "text"
    if rng.random() < 0.4:
        for _ in range(rng.choice([1, 1, 3])):
            data = hostile_cards.text_changed(data, rng, target.parent)
    else:
        data, what = hostile_cards.keys_changed(data, rng, target.parent)
    file = target / path.name
    file.write_bytes(data)
    say(f"read_card {path.stem}: {what}")
    try:
        card = read_card(file, kind)
    except AtlasError as error:
        targets.lines([str(error)])
        return "refused", str(error)
    say(f"use of {path.stem}: {what}")
    again = kind.model_validate(json.loads(card.model_dump_json()))
    if again != card:
        raise targets.WrongError("a card that is another when read again")
    if any(c in str(card) for c in "\x00\x1b\u202e\u200b"):
        raise targets.WrongError("control characters in a card")
    shown = {ModelCard: catalog.models_table, StructureSetCard: catalog.sets_table}
    if kind in shown and not len(shown[kind]([card])):
        raise targets.WrongError("a card without a row")
    return "accepted, valid", what


def store_case(case: Case, target: Path, answers: Answers, say: Say) -> tuple[str, str]:
    """An atlas or release with one thing changed, read and written in all ways."""
    rng = case.rng
    released = case.kind in ("manifests", "releases") or rng.random() < 0.4
    base = targets.BASE[0] / ("releases/1.0.0" if released else "atlas")
    forged = hostile.Forgery(base, target.parent, rng)
    what = hostile.FORGERIES[case.kind](forged)
    root = target / "atlas"
    asked = [*targets.READS[case.kind]]
    if rng.random() < (0.15 if case.kind == "manifests" else 0.6):
        asked += rng.choices([*targets.OTHERS], [*targets.OTHERS.values()])
    elif case.kind == "manifests":
        asked = [targets.listed]
    forged.write(root, alone="manifest.parquet" if asked == [targets.listed] else None)
    refusals, changed = [], False
    for ask in asked:
        say(f"{ask.__name__}: {what}")
        try:
            answer = ask(root)
        except AtlasError as error:
            targets.lines([str(error)])
            refusals.append(f"{ask.__name__}: {error}")
            continue
        if answer.endswith("faults"):
            refusals.append(f"{ask.__name__}: faults")
        elif answer != answers.get(f"{base.name} {ask.__name__}", answer):
            changed = True
            if not forged.resealed and ask in targets.ANSWERING:
                raise targets.WrongError(f"{ask.__name__}: other data under hashes that do not fit")
    if refusals:
        return "refused", refusals[0]
    return ("accepted, valid" if changed else "accepted, equal"), what
