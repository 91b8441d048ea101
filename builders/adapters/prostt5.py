# SPDX-License-Identifier: Apache-2.0
"""ProstT5: one encoder that reads a protein's residues or its 3Di states.

Heinzinger et al., NAR Genom. Bioinform. 6, lqae150 (2024). 3Di, Foldseek's alphabet of 20 local
shapes (van Kempen et al., Nat. Biotechnol. 42, 243, 2024), is written from the backbone with
``mini3di``. A prefix tells the model which of the two it reads; prefix and end token are left out
of the residue rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...schemas.cards import ModelCard
from ...schemas.errors import SourceError
from ...schemas.structures import Structure
from .base import Adapter, Embedded
from .transformer import hidden_states, load_model, token_layers, weights_folder

#: Fixed places of the published vocabulary: filler, end, the first residue, and the unknown one.
_PAD, _END, _FIRST, _ANY = 0, 1, 3, 23
#: The 20 residues, and those rarer that the authors read as X.
_RESIDUES, _RARE = "ACDEFGHIKLMNPQRSTVWY", "UZOBX"


class ProstT5Sequence(Adapter):
    """ProstT5 over residues."""

    batch_size: ClassVar[int] = 64
    prefix: ClassVar[str] = "<AA2fold>"

    def load(self) -> None:
        """Load the encoder, and the places of letters in its vocabulary."""
        self.card.required_options()
        folder = weights_folder(self.card)
        self.start, self.letters = read_vocabulary(self.card, folder, self.prefix)
        self.model = load_model("t5", folder, device=self.device)

    def written(self, structure: Structure) -> str:
        """The letters the model reads of a structure, one a residue."""
        return structure.sequence or ""

    def missing_reason(self, structure: Structure) -> str | None:
        """Why the card or the alphabet excludes this protein, or None when they do not."""
        reason = super().missing_reason(structure)
        if reason is not None:
            return reason
        text = self.written(structure)
        unknown = next((letter for letter in text if letter not in self.letters), None)
        return f"invalid: no token for residue '{unknown}'" if unknown else None

    def forward(self, structures: Sequence[Structure]) -> list[Embedded]:
        """Run proteins of like length together, padded and masked."""
        states = hidden_states(
            self.model,
            [
                [self.start, *(self.letters[letter] for letter in self.written(s)), _END]
                for s in structures
            ],
            layers=token_layers(self.card),
            pad=_PAD,
            device=self.device,
        )
        return [
            Embedded(nodes={name: rows[1:-1] for name, rows in found.items()}) for found in states
        ]


class ProstT5Structure(ProstT5Sequence):
    """ProstT5 over 3Di states."""

    prefix: ClassVar[str] = "<fold2AA>"

    def load(self) -> None:
        """Load the writer of 3Di too, so that its absence shows at once."""
        import mini3di

        self._writer: Any = mini3di.Encoder()
        super().load()

    def written(self, structure: Structure) -> str:
        """3Di states in lower case; a residue without its backbone has the state of none, d."""
        backbone = np.asarray(structure.backbone, dtype=np.float64)
        beta = np.full_like(backbone[:, 1], np.nan)  # placed by the writer from the other three
        with np.errstate(invalid="ignore", divide="ignore"):
            states = self._writer.encode_atoms(
                ca=backbone[:, 1], cb=beta, n=backbone[:, 0], c=backbone[:, 2]
            )
        return str(self._writer.build_sequence(states)).lower()


def read_vocabulary(card: ModelCard, folder: Path, prefix: str) -> tuple[int, dict[str, int]]:
    """Id of the prefix, and ids of the letters that may follow it.

    The file of added tokens lists the 3Di letters in the order the residues have in the
    vocabulary they were added to, whose first residue has id 3 and X, the unknown one, 23.

    Raises
    ------
    SourceError
        The file is not that of ProstT5.
    """
    path = folder / "added_tokens.json"
    try:
        added = json.loads(path.read_text(encoding="utf-8"))
        states = {t: int(i) for t, i in added.items() if len(t) == 1}
        start = int(added[prefix])
        order = "".join(sorted(states, key=states.__getitem__)).upper()
        if sorted(order) != list(_RESIDUES):
            raise ValueError(f"3Di letters {order.lower()}")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise SourceError(
            f"model '{card.id}': added_tokens.json is not that of ProstT5 ({error}); check the "
            "card's revision"
        ) from error
    if prefix == ProstT5Structure.prefix:
        return start, states
    residues = {letter: _FIRST + i for i, letter in enumerate(order)}
    return start, residues | dict.fromkeys(_RARE, _ANY)
