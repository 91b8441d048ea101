# SPDX-License-Identifier: Apache-2.0
"""Large language models read before they write: hidden states of a structure's text in a prompt.

As in the Platonic study of matter (Edamadaka et al., arXiv 2512.03750, appendix B): a system
prompt, then the structure as the user's message, and the last hidden states of that input before
anything is generated. Two prompts (``prompts/encoder.txt``, ``prompts/blank.txt``) and two ways to
write a structure make the study's three variants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from ...schemas.errors import CardError, SourceError
from ...schemas.structures import Structure
from .base import Adapter, Embedded, to_ase
from .transformer import (
    check_architecture,
    hidden_states,
    load_model,
    load_tokenizer,
    weights_folder,
)

#: Decimals of coordinates in ångström.
_DECIMALS = 6
#: Put before a chat template: some print the date, and a fixed one keeps vectors the same.
_DATE = "{%- macro strftime_now(format) -%}2025-08-05{%- endmacro -%}"


@cache
def prompt(name: str) -> str:
    """The system prompt of that name, one of the files in ``prompts/``.

    Raises
    ------
    CardError
        There is none.
    """
    folder = Path(__file__).parent / "prompts"
    known = sorted(p.stem for p in folder.glob("*.txt"))
    if name not in known:
        raise CardError(f"no prompt '{name}'; choose from {', '.join(known)}")
    return (folder / f"{name}.txt").read_text(encoding="utf-8").strip()


def as_smiles(structure: Structure) -> str:
    """The molecule as the study writes it by default."""
    return f"SMILES: {structure.smiles}"


def as_atoms(structure: Structure) -> str:
    """The molecule as the study prints its atoms: ASE's summary, then the arrays behind it."""
    atoms = to_ase(structure)
    arrays = {
        "numbers": atoms.numbers.tolist(),
        "positions": (np.round(atoms.positions, _DECIMALS) + 0.0).tolist(),
        "cell": (np.round(atoms.cell.array, _DECIMALS) + 0.0).tolist(),
        "pbc": atoms.pbc.tolist(),
    }
    shown = ", ".join(f"{name!r}: {value}" for name, value in arrays.items())
    return f"Molecule ASE atoms positions and information: {atoms!r} {shown}"


INPUTS = {"smiles": as_smiles, "atoms": as_atoms}


class LanguageModel(Adapter):
    """A decoder over a system prompt and a structure in words, in its own chat format.

    Options: ``encoder``, the architecture; ``prompt``, the system prompt; ``input``, how the
    structure is written (``smiles`` or ``atoms``); ``max_tokens`` of the whole; ``dtype``. Layers:
    ``last``, the last hidden states at the tokens of the structure's text, whose mean is the
    structure's vector; ``final``, that at the last token of the whole, from which the model would
    write on.
    """

    batch_size: ClassVar[int] = 16

    def load(self) -> None:
        """Load tokenizer and decoder from the files at the card's revision."""
        options = self.card.required_options("encoder", "prompt", "input", "max_tokens", "dtype")
        self.system = prompt(options["prompt"])
        if options["input"] not in INPUTS:
            raise CardError(
                f"model '{self.card.id}': key 'options.input' is '{options['input']}'; choose from "
                f"{', '.join(INPUTS)}"
            )
        self.describe = INPUTS[options["input"]]
        self.needs_smiles = options["input"] == "smiles"
        self.longest = int(options["max_tokens"])
        check_architecture(self.card, options["encoder"])
        folder = weights_folder(self.card)
        self.tokenizer = load_tokenizer(folder)
        if not self.tokenizer.chat_template:
            raise SourceError(f"model '{self.card.id}': its tokenizer has no chat template")
        self.model = load_model(
            options["encoder"], folder, device=self.device, dtype=options["dtype"]
        )

    def missing_reason(self, structure: Structure) -> str | None:
        """Why the card or the text's length excludes this structure, or None."""
        reason = super().missing_reason(structure)
        if reason is None and self.needs_smiles and structure.smiles is None:
            reason = "wrong_modality: structure has no smiles"
        if reason is not None:
            return reason
        length = len(self.encode(structure)[0])
        return f"too_large: {length} > {self.longest} tokens" if length > self.longest else None

    def encode(self, structure: Structure) -> tuple[list[int], list[int]]:
        """Token ids of the whole, and the places of those that overlap the structure's text."""
        content = self.describe(structure)
        text = self.tokenizer.apply_chat_template(
            [{"role": "system", "content": self.system}, {"role": "user", "content": content}],
            tokenize=False,
            add_generation_prompt=True,
            chat_template=_DATE + self.tokenizer.chat_template,
        )
        start = text.rindex(content)
        end = start + len(content)
        # The template has written the special tokens already.
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans: Sequence[tuple[int, int]] = found["offset_mapping"]
        kept = [i for i, (a, b) in enumerate(spans) if a < end and b > start]
        return list(found["input_ids"]), kept

    def forward(self, structures: Sequence[Structure]) -> list[Embedded]:
        """Run texts of like length together, padded and masked."""
        encoded = [self.encode(s) for s in structures]
        states = hidden_states(
            self.model,
            [ids for ids, _ in encoded],
            layers=["last"],
            pad=self.tokenizer.pad_token_id or 0,
            device=self.device,
        )
        return [
            Embedded(nodes=_only(rows, kept), pooled={"final": rows["last"][-1]})
            for rows, (_, kept) in zip(states, encoded, strict=True)
        ]


def _only(rows: Mapping[str, np.ndarray], kept: list[int]) -> dict[str, np.ndarray]:
    return {name: values[kept] for name, values in rows.items()}
