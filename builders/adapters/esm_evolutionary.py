# SPDX-License-Identifier: Apache-2.0
"""ESM-C and ESM3, models of EvolutionaryScale over protein sequences and structures.

ESM-C: ESM Team, "ESM Cambrian" (2024). ESM3: Hayes et al., Science 387, 850 (2025). Layer ``last``
is what the output heads read, the normalised output of the last block; ``block_i`` is what leaves
the i-th block before that. Start and end tokens are left out of the residue rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from ...schemas.errors import CardError, SourceError
from ...schemas.structures import Structure
from .atoms3d import Capture
from .base import Adapter, Embedded
from .tokens import length_batches, pad_tokens
from .weights import weights_file

#: Residues in one padded batch.
_BUDGET = 4096
#: Width of an attention head in all published models.
_HEAD = 64
#: Places of N, CA, C and O among the 37 heavy atoms a residue can have.
_ATOM37 = [0, 1, 2, 4]


class EsmC(Adapter):
    """ESM-C, a vector a residue."""

    batch_size: ClassVar[int] = 64

    def load(self) -> None:
        """Build the network the weights are of, and fill it."""
        self.card.required_options()
        from esm.models.esmc import ESMC
        from esm.tokenization import EsmSequenceTokenizer

        path = weights_file(self.card)
        state = _tensors(path)
        width = _shape(state, "embed.weight", self.card.id)[1]
        tokenizer: Any = EsmSequenceTokenizer()
        model = ESMC(
            d_model=width, n_heads=width // _HEAD, n_layers=_blocks(state), tokenizer=tokenizer,
            use_flash_attn=False,
        )  # fmt: skip
        self._finish(model, state, tokenizer)

    def _finish(self, model: Any, state: Mapping[str, Any], tokenizer: Any) -> None:
        _fill(model, state, self.card.id)
        self._model = model.to(self.device).eval()
        self._tokenizer = tokenizer
        # Beside residues the vocabulary holds the marks '.', '-' and '|'.
        self._letters = {t: i for t, i in tokenizer.get_vocab().items() if t.isalpha()}
        self._capture = Capture()
        self._capture.output_of(model.transformer.norm, "last", lambda output: output)
        for layer in self.card.layers:
            if layer.name != "last":
                block = model.transformer.blocks[int(layer.name.removeprefix("block_")) - 1]
                self._capture.output_of(block, layer.name, lambda output: output)

    def missing_reason(self, structure: Structure) -> str | None:
        """Why the card or the alphabet excludes this sequence, or None when they do not."""
        reason = super().missing_reason(structure)
        if reason is not None:
            return reason
        unknown = next((r for r in structure.sequence or "" if r not in self._letters), None)
        return f"invalid: no token for residue '{unknown}'" if unknown else None

    def forward(self, structures: Sequence[Structure]) -> list[Embedded]:
        """Run sequences of like length together, padded and masked."""
        import torch

        start, end = self._tokenizer.cls_token_id, self._tokenizer.eos_token_id
        ids = [[start, *(self._letters[r] for r in s.sequence or ""), end] for s in structures]
        out: dict[int, Embedded] = {}
        for rows in length_batches([len(i) for i in ids], budget=_BUDGET):
            tokens, mask = pad_tokens([ids[r] for r in rows], pad=self._tokenizer.pad_token_id)
            with torch.no_grad():
                self._model(
                    sequence_tokens=torch.from_numpy(tokens).to(self.device),
                    sequence_id=torch.from_numpy(mask).bool().to(self.device),
                )
            states = self._capture.take()
            for place, row in enumerate(rows):
                inner = slice(1, len(ids[row]) - 1)
                out[row] = Embedded(nodes={n: v[place, inner] for n, v in states.items()})
        return [out[row] for row in range(len(ids))]


class Esm3(EsmC):
    """ESM3 with one of its tracks: ``options.track`` is ``sequence`` or ``structure``.

    Of a structure it reads N, CA and C: as coordinates, and as tokens of the local shape that an
    encoder of its own writes, whose weights ``options.also`` names. Other tracks are masked.
    """

    def load(self) -> None:
        """Build the network the weights are of, and the writer of structure tokens."""
        self._track = str((self.card.options or {}).get("track"))
        if self._track not in {"sequence", "structure"}:
            raise CardError(
                f"model '{self.card.id}': options.track is '{self._track}'; "
                "choose sequence or structure"
            )
        names = ["track", "also"] if self._track == "structure" else ["track"]
        options = self.card.required_options(*names)
        path = weights_file(self.card)
        from esm.models.esm3 import ESM3
        from esm.tokenization import EsmSequenceTokenizer, StructureTokenizer

        state = _tensors(path)
        width = _shape(state, "encoder.sequence_embed.weight", self.card.id)[1]
        # Those of other tracks read tables from the repository, and are not used.
        tokenizers: Any = SimpleNamespace(
            sequence=EsmSequenceTokenizer(), structure=StructureTokenizer()
        )
        model = ESM3(
            d_model=width, n_heads=width // _HEAD, v_heads=_vector_heads(state, self.card.id),
            n_layers=_blocks(state), structure_encoder_fn=_unused, structure_decoder_fn=_unused,
            function_decoder_fn=_unused, tokenizers=tokenizers,
        )  # fmt: skip
        self._finish(model, state, tokenizers.sequence)
        self._tokenizers = tokenizers
        if self._track == "structure":
            folder = Path(str(path).removesuffix(str(self.card.checkpoint.path)))
            self._writer = _structure_encoder(folder / options["also"][0], self.card.id)
            self._writer.to(self.device)

    def missing_reason(self, structure: Structure) -> str | None:
        """Why the card excludes this protein, or None; some residue must have its backbone."""
        if self._track == "sequence":
            return super().missing_reason(structure)
        reason = Adapter.missing_reason(self, structure)
        if reason is None and not _known(structure).any():
            return "invalid: no residue has N, CA and C"
        return reason

    def forward(self, structures: Sequence[Structure]) -> list[Embedded]:
        """Run sequences padded together, structures one by one."""
        if self._track == "sequence":
            return super().forward(structures)
        return [self._fold(s) for s in structures]

    def _fold(self, structure: Structure) -> Embedded:
        import torch
        from esm.utils.encoding import tokenize_structure

        known = _known(structure)
        backbone = np.asarray(structure.backbone, dtype=float)
        atoms = np.full((len(backbone), 37, 3), np.nan, dtype=np.float32)
        atoms[:, _ATOM37] = backbone - backbone[known][:, :3].mean(axis=(0, 1))
        atoms[~known] = np.nan
        with torch.no_grad():
            coordinates, _, tokens = tokenize_structure(
                torch.from_numpy(atoms), self._writer, self._tokenizers.structure
            )
            present = coordinates.isfinite().all(dim=-1).any(dim=-1).float()
            self._model(
                structure_tokens=tokens[None],
                structure_coords=coordinates[None],
                per_res_plddt=present[None],
            )
        return Embedded(nodes={n: v[0, 1:-1] for n, v in self._capture.take().items()})


def _known(structure: Structure) -> np.ndarray:
    """Residues with N, CA and C."""
    backbone = np.asarray(structure.backbone, dtype=float)[:, :3]
    return np.isfinite(backbone).all(axis=(1, 2))


def _unused(_device: Any) -> Any:
    raise RuntimeError("parts of ESM3 that write proteins are not loaded")


def _tensors(path: Path) -> dict[str, Any]:
    """A file of tensors alone; nothing in it is executed."""
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]


def _blocks(state: Mapping[str, Any]) -> int:
    """Blocks of the transformer."""
    return len({n.split(".")[2] for n in state if n.startswith("transformer.blocks.")})


def _shape(state: Mapping[str, Any], name: str, model_id: str) -> tuple[int, ...]:
    if name not in state:
        raise SourceError(f"model '{model_id}': its weights hold no '{name}'")
    return tuple(state[name].shape)


def _vector_heads(state: Mapping[str, Any], model_id: str) -> int:
    """Heads of the geometric attention, which has one distance scale a head."""
    return _shape(state, "transformer.blocks.0.geom_attn.distance_scale_per_head", model_id)[0]


def _fill(model: Any, state: Mapping[str, Any], model_id: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"model '{model_id}': the weights do not fill it: {reason}") from None


def _structure_encoder(path: Path, model_id: str) -> Any:
    """The writer of structure tokens, of the size its weights have."""
    from esm.models.vqvae import StructureTokenEncoder

    state = _tensors(path)
    d_out, d_model = _shape(state, "pre_vq_proj.weight", model_id)
    model = StructureTokenEncoder(
        d_model=d_model, n_heads=1, v_heads=_vector_heads(state, model_id),
        n_layers=_blocks(state), d_out=d_out,
        n_codes=_shape(state, "codebook.embeddings", model_id)[0],
    )  # fmt: skip
    _fill(model, state, model_id)
    return model.eval()
