# SPDX-License-Identifier: Apache-2.0
"""Cards: the closed schema of a registry entry.

Every key is required and may be an explicit ``null``; an unknown key is refused with the nearest
known one. Cards are data: nothing in them is ever executed.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from .documents import parse_yaml
from .errors import CardError
from .names import check_texts, portable
from .structures import ATOMIC_NUMBERS, DOMAINS, KINDS

T = TypeVar("T", bound=BaseModel)

Modality = Literal[
    "atoms3d",
    "smiles",
    "selfies",
    "graph2d",
    "protein_sequence",
    "protein_structure",
    "text",
    "composition",
    "descriptor",
]
Level = Literal["atom", "residue", "token", "structure"]
Invariance = Literal["permutation", "rotation", "translation"]
Id = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64), AfterValidator(portable)
]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64), AfterValidator(portable)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


#: Bytes a card may have; those of the registry have three thousand at most.
MAX_BYTES = 2**15


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


def _known_domains(value: list[str] | None) -> list[str] | None:
    bad = [d for d in value or [] if d not in DOMAINS]
    if bad:
        near = difflib.get_close_matches(bad[0], DOMAINS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; one of {', '.join(DOMAINS)}"
        raise ValueError(f"unknown domain {bad[0]!r}{hint}")
    return value


def elements_of(spec: list[str] | str | None) -> frozenset[str] | None:
    """Elements a card's list or range names.

    ``"H-Pu"`` is a range by atomic number; a list names elements and ranges; null is unknown.

    Raises
    ------
    ValueError
        An unknown symbol, or a range that does not ascend.
    """
    if spec is None:
        return None
    out: set[str] = set()
    for part in [spec] if isinstance(spec, str) else spec:
        first, dash, last = part.partition("-")
        for symbol in (first, last) if dash else (first,):
            if symbol not in ATOMIC_NUMBERS:
                raise ValueError(f"unknown element symbol {symbol!r} in {part!r}")
        low, high = ATOMIC_NUMBERS[first], ATOMIC_NUMBERS[last if dash else first]
        if low > high:
            raise ValueError(f"element range {part!r} must ascend; write {last}-{first}")
        out |= {e for e, z in ATOMIC_NUMBERS.items() if low <= z <= high}
    return frozenset(out)


def _element_spec(value: list[str] | str | None) -> list[str] | str | None:
    if elements_of(value) == frozenset():
        raise ValueError("no element is named; give at least one, or null if not known")
    return value


def _known_kinds(value: list[str]) -> list[str]:
    bad = [k for k in value if k not in KINDS]
    if bad:
        raise ValueError(f"unknown kind {bad[0]!r}; one of {', '.join(KINDS)}")
    return value


class Licence(_Closed):
    """SPDX identifiers of code and weights, kept apart because they differ."""

    code: str | None
    weights: str | None


class Checkpoint(_Closed):
    """Where the weights come from and how to know they are the right ones."""

    obtained: Literal["package", "hub", "gated", "url", "none", "brought"]
    package: str | None = Field(description="name==version that ships the file; ORG/NAME on a hub")
    path: str | None = Field(description="file inside; on a hub a pattern where there are several")
    revision: str | None = Field(description="commit on the hub")
    sha256: Sha256 | None
    unpickles: bool = Field(description="the loader runs a full unpickle: trust the package")


class Training(_Closed):
    """What the model was trained on: the basis of in- and out-of-distribution."""

    sets: list[str] | None
    domains: list[str] | None
    elements: list[str] | str | None
    max_atoms: Annotated[int, Field(ge=1)] | None
    level_of_theory: str | None

    _domains = field_validator("domains")(_known_domains)
    _elements = field_validator("elements")(_element_spec)


class Supports(_Closed):
    """What the model can take; anything else is recorded as missing with the reason."""

    kinds: Annotated[list[str], Field(min_length=1)]
    elements: list[str] | str | None
    max_atoms: Annotated[int, Field(ge=1)] | None
    min_atoms: Annotated[int, Field(ge=1)]
    periodicity: list[Annotated[int, Field(ge=0, le=3)]] | None

    _elements = field_validator("elements")(_element_spec)
    _kinds = field_validator("kinds")(_known_kinds)


class Layer(_Closed):
    """One embedding space of a model."""

    name: Name
    dim: Annotated[int, Field(ge=1)]
    level: Level
    irreps: str | None = Field(description="e3nn notation, e.g. 128x0e; null when not equivariant")
    where: str = Field(description="the tensor, in the package's own names")


class Energy(_Closed):
    """What the model's scalar output means."""

    quantity: Literal["total_energy", "formation_energy_per_atom"]
    unit: Literal["eV", "eV/atom"]
    reference: str


class Performance(_Closed):
    """A reported figure with its unit and source."""

    task: str
    value: float
    unit: str
    source: str


class Paper(_Closed):
    """The publication to cite."""

    title: str
    doi: str | None
    arxiv: str | None


class ModelCard(_Closed):
    """A model, as the registry knows it (``registry/models/<family>/<id>.yaml``)."""

    id: Id
    name: str
    family: Id
    version: str
    lifecycle: Literal["active", "superseded", "deprecated", "aborted"]
    starter: bool = Field(description="embedded by 'build --models starter'")
    learned: bool = Field(description="false for descriptors and the random baseline")
    modality: Modality
    architecture: Literal["vanilla", "invariant", "equivariant"] | None
    context_free: bool = Field(description="embeds elements apart from their surroundings")
    parameters: int | None
    training: Training
    supports: Supports
    checkpoint: Checkpoint
    licence: Licence
    adapter: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*:[A-Z][A-Za-z0-9]*$")]
    options: dict[str, Any] | None
    layers: Annotated[list[Layer], Field(min_length=1)]
    default_layer: Name
    pooling: Literal["mean", "sum", "none"]
    invariances: list[Invariance]
    tolerance: Annotated[float, Field(gt=0, description="relative, for the invariance tests")]
    energy: Energy | None
    environment: dict[str, str] | None = Field(description="package: version the card was run with")
    isolation: Id | None = Field(description="environment of its own, run out of process")
    authors: list[str] | None
    paper: Paper | None
    performance: list[Performance] | None
    notes: str | None

    @model_validator(mode="after")
    def _consistent(self) -> ModelCard:
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names):
            raise ValueError("layers: names must be distinct")
        if self.default_layer not in names:
            raise ValueError(f"default_layer: {self.default_layer!r} is not among {names}")
        if self.checkpoint.obtained == "package" and not (
            self.checkpoint.package and self.checkpoint.path and self.checkpoint.sha256
        ):
            raise ValueError("checkpoint: package, path and sha256 are needed for a packaged file")
        if self.checkpoint.obtained in {"hub", "gated"} and not (
            self.checkpoint.package and self.checkpoint.path and self.checkpoint.revision
        ):
            raise ValueError("checkpoint: package, path and revision are needed for a hub's file")
        return self

    def layer(self, name: str | None = None) -> Layer:
        """The layer called ``name``, or the default one."""
        wanted = name or self.default_layer
        for layer in self.layers:
            if layer.name == wanted:
                return layer
        raise CardError(
            f"model '{self.id}' has no layer '{wanted}'; choose from "
            f"{', '.join(layer.name for layer in self.layers)}"
        )

    def required_options(self, *names: str) -> dict[str, Any]:
        """The card's options, which must be exactly ``names``.

        Raises
        ------
        CardError
            An option is missing or is not one the adapter knows.
        """
        options = self.options or {}
        if set(options) != set(names):
            raise CardError(
                f"model '{self.id}': key 'options' must hold {', '.join(names)}; "
                f"it holds {', '.join(options) or 'nothing'}"
            )
        return dict(options)


class Stratum(_Closed):
    """A named part of a structure set."""

    description: str
    domains: Annotated[list[str], Field(min_length=1)]
    count: Annotated[int, Field(ge=1, le=10**12, description="rows in the full set")]
    starter: Annotated[int, Field(ge=0, description="rows in the starter selection")]

    _domains = field_validator("domains")(_known_domains)

    @model_validator(mode="after")
    def _within(self) -> Stratum:
        if self.starter > self.count:
            raise ValueError(f"starter: {self.starter} rows of {self.count}; take at most all")
        return self


class Label(_Closed):
    """A reference value of the rows."""

    description: str
    unit: str
    level_of_theory: str
    shape: Literal["scalar", "per_atom_vector", "tensor"]


class Source(_Closed):
    """The archive the structures come from."""

    package: str = Field(description="name==version")
    kind: Literal["wheel", "sdist", "installed", "brought"]
    path: str = Field(description="file or folder inside the package; brought: beside the card")
    sha256: Sha256 | None = Field(description="of the archive; null when read as installed")


class StructureSetCard(_Closed):
    """A structure set, as the registry knows it (``registry/structure_sets/<id>.yaml``)."""

    id: Name
    name: str
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    kinds: Annotated[list[str], Field(min_length=1)]
    description: str
    loader: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*:[a-z_][a-z0-9_]*$")]
    sources: Annotated[list[Source], Field(min_length=1)]
    selection: str = Field(description="what was taken and how it was filtered")
    strata: dict[Name, Stratum]
    elements: list[str] | str
    labels: dict[Name, Label]
    licence: str | None
    licence_note: str
    redistribute_coordinates: bool
    citation: str

    _elements = field_validator("elements")(_element_spec)
    _kinds = field_validator("kinds")(_known_kinds)

    @property
    def count(self) -> int:
        """Rows of the full set."""
        return sum(s.count for s in self.strata.values())

    @property
    def starter(self) -> int:
        """Rows of the starter selection."""
        return sum(s.starter for s in self.strata.values())


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One error as one line, with the nearest known key where one is misspelt.

    A misspelt key is also a missing one; the misspelling says more, so unknown keys come first.
    """
    errors = error.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    loc = first["loc"]
    if first["type"] == "extra_forbidden":
        path, owner = _locate(loc[:-1], model)
        where = ".".join([*path, str(loc[-1])])
        near = difflib.get_close_matches(str(loc[-1]), owner.model_fields, n=1, cutoff=0.5)
        return f"unknown key '{where}'" + (
            f"; did you mean '{near[0]}'?" if near else "; remove it"
        )
    where = ".".join(_locate(loc, model)[0])
    if first["type"] == "missing":
        return f"key '{where}' is missing; add it (null if not known)"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and message.partition(": ")[0] in _key_names(loc, model):
        # Raised over several keys; the message opens with the one to mend.
        key, _, message = message.partition(": ")
        where = f"{where}.{key}" if where else key
    return f"key '{where}': {message}"


def _key_names(loc: tuple[int | str, ...], model: type[BaseModel]) -> set[str]:
    owner = _locate(loc, model)[1]
    return set(owner.model_fields) if owner is not None else set()


def _locate(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[list[str], Any]:
    """Keys and indices along ``loc`` without pydantic's union tags, and the model they end in."""
    names: list[str] = []
    owner: Any = model
    in_mapping = False
    for part in loc:
        if isinstance(part, int) or in_mapping:
            names.append(str(part))
            in_mapping = False
        elif owner is not None and part in owner.model_fields:
            names.append(part)
            annotation = owner.model_fields[part].annotation
            owner, in_mapping = _inner_model(annotation), _is_mapping(annotation)
    return names, owner


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(map(_is_mapping, get_args(annotation)))


def _inner_model(annotation: Any) -> Any:
    """The pydantic model inside an annotation such as ``list[Layer]`` or ``Paper | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for arg in get_args(annotation):
        found = _inner_model(arg)
        if found is not None:
            return found
    return None


def read_plain(path: Path) -> dict[str, Any]:
    """A card's mapping as plain data, not held against a schema yet.

    Raises
    ------
    CardError
        The file cannot be read, is no YAML, or holds tags, anchors, repeated keys or no mapping.
    """
    data: Any
    try:
        with path.open("rb") as handle:
            text = handle.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise CardError(f"{path}: longer than {MAX_BYTES:,} bytes; a card is a page of text")
        data = parse_yaml(text)
        check_texts(data)
    except RecursionError as error:
        raise CardError(f"{path}: nested too deeply; write it flat") from error
    except OSError as error:
        raise CardError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise CardError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(data, dict):
        raise CardError(f"{path}: a card is a mapping of keys; found {type(data).__name__}")
    return data


def read_card(path: Path, model: type[T]) -> T:
    """Read and validate one card.

    Raises
    ------
    CardError
        One line naming the file, the key and the mend.
    """
    data = read_plain(path)
    try:
        card = model.model_validate(data)
    except ValidationError as error:
        raise CardError(f"{path}: {_explain(error, model)}") from error
    if getattr(card, "id", path.stem) != path.stem:
        raise CardError(f"{path}: key 'id' is '{card.id}' but the file is '{path.stem}.yaml'")  # type: ignore[attr-defined]
    return card
