# SPDX-License-Identifier: Apache-2.0
"""What every adapter shares: support checks, batching, pooling, failures by row.

A family's module holds one :class:`Adapter` subclass that loads the published weights and turns
structures into node vectors (atoms, residues or tokens) or a pooled vector. The base class decides
which structures the model can take (from its card), isolates failures, and pools; adapters never
see a structure their card excludes and never touch files other than their checkpoint.
"""

from __future__ import annotations

import importlib
import resource
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...registry.contributed import contributed_folders
from ...registry.hub import package_file, sha256_of
from ...schemas.cards import ModelCard, elements_of
from ...schemas.errors import CardError, SourceError
from ...schemas.structures import Structure, check_geometry

if TYPE_CHECKING:
    import ase


@dataclass(frozen=True, slots=True)
class Embedded:
    """What a model says of one structure.

    Attributes
    ----------
    nodes:
        Layer -> (n_nodes, dim) float32, one row an atom, residue or token; empty for layers that
        exist at structure level only.
    pooled:
        Layer -> (dim,) float32. Filled by the base class from ``nodes`` for every layer given
        there; an adapter gives it itself for structure-level layers.
    energy:
        The model's scalar output in its card's unit, or None.
    """

    nodes: Mapping[str, np.ndarray] = field(default_factory=dict)
    pooled: Mapping[str, np.ndarray] = field(default_factory=dict)
    energy: float | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a row has no embedding.

    ``reason`` starts with one of ``wrong_modality``, ``unsupported_element``,
    ``unsupported_periodicity``, ``too_large``, ``too_small``, ``invalid`` or ``failed``, then
    ``: `` and the particulars.
    """

    reason: str


class Adapter(ABC):
    """One loaded model.

    Parameters
    ----------
    card:
        The model's card.
    device:
        ``cpu`` or a CUDA device string.
    """

    #: Structures handed to :meth:`forward` at once.
    batch_size: ClassVar[int] = 1
    #: Extra to install when the family's package is absent.
    extra: ClassVar[str] = "models"

    def __init__(self, card: ModelCard, *, device: str = "cpu") -> None:
        self.card = card
        self.device = device
        self._elements = elements_of(card.supports.elements)
        self.load()

    @abstractmethod
    def load(self) -> None:
        """Load the weights of ``self.card`` (through :meth:`checkpoint`) onto ``self.device``."""

    @abstractmethod
    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Embed supported structures, in order, with the model's native batching where it has any.

        May raise; the base class then finds the culprit by embedding one at a time.
        """

    def versions(self) -> dict[str, str]:
        """Versions of the packages the card names under ``environment``, as they are here."""
        found = {}
        for package in self.card.environment or {}:
            try:
                found[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        return found

    def peak_mb(self) -> float:
        """Most memory the process that holds the model has held, in MB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def checkpoint(self) -> Path:
        """The card's weights file, its SHA-256 checked before anything reads it.

        Raises
        ------
        SourceError
            The file is missing or is not the one the card names.
        """
        source = self.card.checkpoint
        if not (source.package and source.path):
            raise CardError(f"model '{self.card.id}': card names no packaged checkpoint")
        path = package_file(source.package, source.path)
        self.check_hash(path)
        return path

    def check_hash(self, path: Path) -> None:
        """Refuse a weights file that is not the one the card names.

        Raises
        ------
        SourceError
            Its SHA-256 differs.
        """
        source = self.card.checkpoint
        if source.sha256 and path.is_file():
            actual = sha256_of(path)
            if actual != source.sha256:
                raise SourceError(
                    f"model '{self.card.id}': {path.name} has sha256 {actual}, the card says "
                    f"{source.sha256}; reinstall {source.package}"
                )

    def missing_reason(self, structure: Structure) -> str | None:
        """Why the card excludes this structure, or None when the model can take it."""
        supports = self.card.supports
        if structure.kind not in supports.kinds:
            return f"wrong_modality: {self.card.modality} model, structure is a {structure.kind}"
        needed = _NEEDS.get(self.card.modality)
        if needed and getattr(structure, needed) is None:
            return f"wrong_modality: structure has no {needed}"
        if self._elements is not None:
            unknown = [e for e in structure.elements if e not in self._elements]
            if unknown:
                return f"unsupported_element: {','.join(unknown)}"
        if supports.periodicity is not None and structure.periodicity not in supports.periodicity:
            return f"unsupported_periodicity: {structure.periodicity}"
        size = self.size(structure)
        if supports.max_atoms is not None and size > supports.max_atoms:
            return f"too_large: {size} > {supports.max_atoms}"
        if size < supports.min_atoms:
            return f"too_small: {size} < {supports.min_atoms}"
        return None

    def size(self, structure: Structure) -> int:
        """What ``max_atoms`` counts: residues for sequence models, atoms for the rest."""
        if self.card.modality in {"protein_sequence", "protein_structure"}:
            return len(structure.sequence or "")
        return len(structure)

    def embed(self, structures: Sequence[Structure]) -> list[Embedded | Missing]:
        """Embed any structures, in order; what cannot be embedded comes back as the reason.

        Returns
        -------
        list
            One :class:`Embedded` (float32, finite, dims as the card says) or :class:`Missing` for
            each structure.
        """
        out: list[Embedded | Missing | None] = [None] * len(structures)
        todo: list[int] = []
        for i, structure in enumerate(structures):
            try:
                reason = self.missing_reason(structure)
                if reason is None and self.card.modality == "atoms3d":
                    check_geometry(structure)
            except Exception as error:
                reason = f"invalid: {_one_line(error)}"
            if reason is None:
                todo.append(i)
            else:
                out[i] = Missing(reason)
        for start in range(0, len(todo), self.batch_size):
            rows = todo[start : start + self.batch_size]
            for i, result in zip(
                rows, self._forward_rows([structures[i] for i in rows]), strict=True
            ):
                out[i] = result
        return [r if r is not None else Missing("failed: no result") for r in out]

    def _forward_rows(self, structures: Sequence[Structure]) -> list[Embedded | Missing]:
        try:
            results = list(self.forward(structures))
            if len(results) != len(structures):
                raise RuntimeError(f"{len(results)} results for {len(structures)} structures")
            return [self._checked(r) for r in results]
        except Exception as error:
            if len(structures) == 1:
                return [Missing(f"failed: {_one_line(error)}")]
        return [self._forward_rows([s])[0] for s in structures]

    def _checked(self, result: Embedded) -> Embedded | Missing:
        """Pool, cast, and hold the result against the card."""
        pooled = {k: np.asarray(v, dtype=np.float32) for k, v in result.pooled.items()}
        nodes = {k: np.asarray(v, dtype=np.float32) for k, v in result.nodes.items()}
        for name, values in nodes.items():
            if name not in pooled:
                pooled[name] = pool(values, how=self.card.pooling)
        for layer in self.card.layers:
            if layer.name not in pooled:
                raise RuntimeError(f"layer '{layer.name}' is missing from the adapter's output")
            if pooled[layer.name].shape != (layer.dim,):
                raise RuntimeError(
                    f"layer '{layer.name}' has shape {pooled[layer.name].shape}, "
                    f"the card says ({layer.dim},)"
                )
            if not np.isfinite(pooled[layer.name]).all():
                return Missing(f"failed: layer '{layer.name}' is not finite")
        return Embedded(nodes=nodes, pooled=pooled, energy=result.energy)


#: The form of a structure each modality reads.
_NEEDS: dict[str, str] = {
    "smiles": "smiles",
    "selfies": "smiles",
    "graph2d": "smiles",
    "protein_sequence": "sequence",
    "protein_structure": "backbone",
}


def pool(nodes: np.ndarray, *, how: str = "mean") -> np.ndarray:
    """Pool (n_nodes, dim) node vectors to (dim,) float32; sums run in float64."""
    values = np.asarray(nodes, dtype=np.float64)
    if how == "mean":
        return values.mean(axis=0).astype(np.float32)
    if how == "sum":
        return values.sum(axis=0).astype(np.float32)
    raise CardError(f"pooling '{how}' cannot make a structure vector from nodes; use mean or sum")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def to_ase(structure: Structure, *, box: float | None = None) -> ase.Atoms:
    """The structure as ASE atoms; with ``box``, non-periodic directions get that vacuum in Å.

    Some crystal models read periodic cells only; a molecule centred in a large enough box has no
    periodic neighbour within their cutoff.
    """
    from ase import Atoms

    atoms = Atoms(
        numbers=structure.numbers,
        positions=structure.positions,
        cell=structure.cell,
        pbc=structure.pbc,
    )
    atoms.info["charge"] = structure.charge
    if structure.multiplicity is not None:
        atoms.info["spin"] = structure.multiplicity
    if box is not None and not all(structure.pbc):
        axes = [i for i, periodic in enumerate(structure.pbc) if not periodic]
        atoms.center(vacuum=box, axis=axes)
        atoms.pbc = True
    return atoms


def load_adapter(card: ModelCard, *, device: str = "cpu") -> Adapter:
    """The loaded adapter of a card, in a process of its own where the card asks for isolation.

    Raises
    ------
    CardError
        The card names an adapter or an environment that does not exist, or weights that would be
        unpickled in this process without a hash to know them by.
    MissingExtraError
        The family's package is not installed.
    SourceError
        The card's environment cannot be prepared, or its weights are not the card's.
    """
    if card.isolation is None:
        source = card.checkpoint
        if source.unpickles and not source.sha256:
            raise CardError(
                f"model '{card.id}': its weights are unpickled and key 'checkpoint.sha256' is "
                "null: what they hold is not known; give the hash, or name an environment under "
                "'isolation'"
            )
        return load_here(card, device=device)
    from .remote import Remote

    return Remote(card, device=device)


def load_here(card: ModelCard, *, device: str = "cpu") -> Adapter:
    """Instantiate the adapter a card names (``module:Class`` under ``builders.adapters``) here.

    Raises
    ------
    CardError
        The card names an adapter that does not exist.
    MissingExtraError
        The family's package is not installed.
    """
    module_name, _, class_name = card.adapter.partition(":")
    _open_contributions(module_name)
    try:
        module = importlib.import_module(f".{module_name}", __package__)
    except ModuleNotFoundError as error:
        if error.name and error.name.endswith(f"adapters.{module_name}"):
            raise CardError(
                f"model '{card.id}': adapter module '{module_name}' does not exist"
            ) from error
        raise
    cls = getattr(module, class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, Adapter)):
        raise CardError(f"model '{card.id}': '{card.adapter}' is not an adapter")
    return _construct(cls, card, device)


#: Contributed folders that adapters were looked for in.
_opened: set[str] = set()


def _open_contributions(module_name: str) -> None:
    """Let adapters of contributed folders be found, after all of this package's own.

    They are read anew each time: their authors are at work on them.
    """
    package = importlib.import_module(str(__package__))
    own, folders = Path(__file__).parent, [str(f) for f in contributed_folders()]
    package.__path__[:] = [p for p in package.__path__ if p not in _opened] + folders
    _opened.update(folders)
    name = f"{__package__}.{module_name}"
    held = sys.modules.get(name)
    if held is not None and Path(str(held.__file__)).parent != own:
        del sys.modules[name]
    importlib.invalidate_caches()


def _construct(cls: type[Adapter], card: ModelCard, device: str) -> Adapter:
    from ...schemas.errors import missing_extra

    try:
        return cls(card, device=device)
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), cls.extra) from error
