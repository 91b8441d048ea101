# SPDX-License-Identifier: Apache-2.0
"""What ``atlas.json`` and ``scores/analysis.json`` may say: types, bounds, paths inside.

A seal proves that a document is whole, not that its writer meant well.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .archive import FORMAT, MAX_DIM, UNRELEASED, Count
from .cards import Sha256
from .errors import ArchiveError
from .manifest import place_of
from .names import Part

Text = Annotated[str, Field(max_length=256)]
#: Kinds of files that a build moves into place one by one.
MOVED = ("structures", "registry", "parquet", "embeddings")


class _Strict(BaseModel):
    """No number passes for text, nor text for a number; keys of later minors are let be."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _File(_Strict):
    bytes: Count
    sha256: Sha256


class _State(_Strict):
    bytes: Count | None = None
    sha256: Sha256


class _Unit(_Strict):
    set_version: Text
    rows: Count
    embedded: Count
    missing: dict[Text, Count]
    precision: Text
    content_sha256: Sha256


class _Model(_Strict):
    version: Text
    layers: Annotated[dict[Part, Annotated[int, Field(ge=1, le=MAX_DIM)]], Field(min_length=1)]
    default_layer: Text
    metadata_sha256: Sha256
    units: dict[Part, _Unit]

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.default_layer not in self.layers:
            raise ValueError(f"default_layer '{self.default_layer}' is none of its layers")
        return self


class _Index(_Strict):
    format: str
    format_version: Text
    version: Annotated[str, Field(pattern=rf"^({UNRELEASED}|[0-9A-Za-z][0-9A-Za-z.+-]{{0,63}})$")]
    models: dict[Part, _Model]
    files: dict[str, _File]
    pending: dict[str, list[_State | None]] = {}
    sha256: str

    @field_validator("files")
    @classmethod
    def _tables(cls, value: dict[str, Any]) -> dict[str, Any]:
        return _in_place(value, ("structures", "registry"))

    @field_validator("pending")
    @classmethod
    def _moving(cls, value: dict[str, Any]) -> dict[str, Any]:
        found = _in_place(value, MOVED)
        for path in found:
            if path.startswith("embeddings") and path.count("/") != 2:
                raise ValueError(f"'{path}' is no file that a build moves")
        return found

    @model_validator(mode="after")
    def _apart(self) -> Self:
        for names in (list(self.models), *(list(m.units) for m in self.models.values())):
            if len({n.casefold() for n in names}) < len(names):
                raise ValueError("two names differ by the case of letters only")
        return self


class _Table(_File):
    rows: Count | None = None


class _Inputs(_Strict):
    units: list[Text] = []


class _Selection(_Strict):
    name: Text
    excluded: dict[str, str] | None = None


class _Skipped(_Strict):
    selection: Text
    reason: str


class _Analysis(_Strict):
    tables: dict[str, _Table]
    inputs: _Inputs = _Inputs()
    parameters: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None
    selections: list[_Selection] | None = None
    skipped: list[_Skipped] | None = None
    notes: list[str] | None = None

    @field_validator("tables")
    @classmethod
    def _scores(cls, value: dict[str, Any]) -> dict[str, Any]:
        return _in_place(value, ("scores",))

    @field_validator("parameters")
    @classmethod
    def _constants(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value and not isinstance(value.get("constants") or {}, dict):
            raise ValueError("constants are no mapping")
        return value


def _in_place(value: dict[str, Any], kinds: tuple[str, ...]) -> dict[str, Any]:
    for path in value:
        place = place_of(path)
        if (
            place is None
            or place.kind not in kinds
            or (path.endswith(".json") and kinds == ("scores",))
        ):
            shown = path[:80].encode("ascii", "backslashreplace").decode()
            raise ValueError(f"'{shown}' is no such file of an atlas")
    return value


def check_index(content: dict[str, Any], *, where: str) -> None:
    """Refuse an index that says what none does.

    Raises
    ------
    ArchiveError
        Naming the file, the key and the mend.
    """
    _check(_Index, content, where, "restore the file")
    if content["format"] != FORMAT:
        raise ArchiveError(f"{where}: not a {FORMAT} archive; give another folder")


def check_analysis(content: dict[str, Any], *, where: str, mend: str) -> None:
    """Refuse a record of an analysis that says what none does; see :func:`check_index`."""
    _check(_Analysis, content, where, mend)


def _check(model: type[BaseModel], content: dict[str, Any], where: str, mend: str) -> None:
    try:
        model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part)[:60] for part in first["loc"])
        key = key.encode("ascii", "backslashreplace").decode()
        message = first["msg"].removeprefix("Value error, ")[:200]
        raise ArchiveError(f"{where}: key '{key}': {message}; {mend}") from error


__all__ = ["check_analysis", "check_index"]
