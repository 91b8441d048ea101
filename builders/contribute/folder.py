# SPDX-License-Identifier: Apache-2.0
"""A contribution: a folder with a card and, unless vectors are brought, an adapter and its test.

    contrib/<id>/<id>.yaml          the card
    contrib/<id>/<module>.py        its adapter, if the family is new
    contrib/<id>/test_<module>.py   one test against the package's own path
    contrib/<id>/atlas/             what was built of it

Files have the names they will have in the code repository.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...registry.files import Files
from ...registry.index import read_index
from ...schemas.archive import ATLAS_FILE
from ...schemas.cards import ModelCard, read_card, read_plain
from ...schemas.errors import CardError

#: What a contributor has still to decide begins with this word.
CHOICE = "CHOOSE"
#: Adapters of vectors that were brought.
BROUGHT = "brought:Brought"


@dataclass(frozen=True)
class Contribution:
    """Paths of a contribution; files that are not there are None."""

    card_path: Path
    work: Path

    @property
    def folder(self) -> Path:
        """Where card, adapter and test lie."""
        return self.card_path.parent

    @property
    def model_id(self) -> str:
        """As the card's file is called."""
        return self.card_path.stem

    @property
    def atlas(self) -> Path:
        """The atlas built of it."""
        return self.work / "atlas"

    @property
    def module(self) -> str:
        """Module of the adapter, as the card says; empty where it says none, or is unreadable."""
        try:
            module = str(read_plain(self.card_path).get("adapter", "")).partition(":")[0]
        except CardError:
            return ""
        return module if module.isidentifier() else ""

    @property
    def adapter_path(self) -> Path | None:
        """The adapter: beside the card, or where the code repository has it."""
        adapters = self._repository / "builders/adapters" if self.in_registry else self.folder
        return _there(adapters / f"{self.module}.py")

    @property
    def test_path(self) -> Path | None:
        """The adapter's test: beside the card, or where the code repository has it."""
        tests = self._repository / "tests/builders/adapters" if self.in_registry else self.folder
        return _there(tests / f"test_{self.module}.py")

    @property
    def in_registry(self) -> bool:
        """Whether the card is in place in the code repository."""
        return self.folder.parent.name == "models" and self.folder.parents[1].name == "registry"

    @property
    def _repository(self) -> Path:
        return self.folder.parents[2]

    def sources(self) -> list[Path]:
        """What its author wrote."""
        return [p for p in (self.card_path, self.adapter_path, self.test_path) if p is not None]

    def card(self) -> ModelCard:
        """The card, valid and with every choice made.

        Raises
        ------
        CardError
            Naming the key.
        """
        choices = open_choices(self.card_path)
        if choices:
            raise CardError(choices[0])
        return read_card(self.card_path, ModelCard)

    def digest(self) -> str:
        """SHA-256 of what was written and built: the same contribution, the same digest."""
        content = hashlib.sha256()
        for path in self.sources():
            content.update(
                f"{path.name}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
            )
        if (self.atlas / ATLAS_FILE).exists():
            index = read_index(Files(str(self.atlas)))
            units = index["models"].get(self.model_id, {"units": {}})["units"]
            for set_id, unit in sorted(units.items()):
                content.update(f"{set_id}\n{unit['content_sha256']}\n".encode())
        return content.hexdigest()


def open_contribution(path: Path, *, work: Path | None = None) -> Contribution:
    """The contribution at ``path``: its folder, or its card.

    Parameters
    ----------
    work:
        Where embeddings and reports go; by default beside the card, or ``out/contribute/<id>`` for
        a card in the code repository.

    Raises
    ------
    CardError
        There is no card, or more than one.
    """
    card = path
    if path.is_dir():
        cards = sorted(path.glob("*.yaml"))
        if len(cards) != 1:
            has = ", ".join(c.name for c in cards) or "no card"
            raise CardError(f"{path}: holds {has}; a contribution has one card, <id>.yaml")
        card = cards[0]
    elif path.suffix != ".yaml" or not path.is_file():
        raise CardError(f"{path}: no card there; run: matteratlas contribute new {path.stem}")
    found = Contribution(card.resolve(), (work or card.parent).resolve())
    if work is None and found.in_registry:
        return Contribution(found.card_path, Path(f"out/contribute/{card.stem}").resolve())
    return found


def open_choices(path: Path) -> list[str]:
    """Lines naming what is still to be chosen in a card or a Python file."""
    if path.suffix == ".yaml":
        return [
            f"{path.name}: key '{key}': choose {text}"
            for key, text in _choices(read_plain(path), "")
        ]
    lines = path.read_text(encoding="utf-8").splitlines()
    return [
        f"{path.name}: line {number}: write {_hint(line)}"
        for number, line in enumerate(lines, 1)
        if CHOICE in line
    ]


def _choices(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _choices(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _choices(inner, f"{key}.{number}")
    elif isinstance(value, str) and value.startswith(CHOICE):
        yield key, _hint(value)


def _hint(text: str) -> str:
    return text.partition(CHOICE)[2].lstrip(": ").rstrip(" \"'")


def _there(path: Path) -> Path | None:
    return path if path.is_file() else None
