# SPDX-License-Identifier: Apache-2.0
"""``croissant.json``: the release described for machines (Croissant 1.1, JSON-LD).

Every Parquet file is a FileObject with its hash; the files of a configuration of the dataset card
make a FileSet, and its columns the fields of a RecordSet. Shapes of vectors are declared.

Source: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..registry.files import Files
from ..registry.hub import sha256_of
from ..registry.index import read_index
from ..registry.parquet import read_frame
from ..registry.tables import MODELS, SETS
from ..schemas.archive import STORE, UNRELEASED
from ..schemas.errors import ArchiveError, of_sound_data
from .citation import authors, bibtex, project, project_url
from .dataset_card import SCORES, STRUCTURES, configs

CROISSANT = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
PARQUET_FORMAT = "application/x-parquet"
#: As used for Zarr elsewhere; no media type is registered.
ZARR_FORMAT = "application/vnd.zarr; version=3"

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{
        term: f"cr:{term}"
        for term in (
            "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract",
            "field", "fileObject", "fileProperty", "fileSet", "format", "includes", "isArray",
            "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
            "references", "regex", "repeated", "replace", "samplingRate", "separator", "source",
            "subField", "transform",
        )
    },
}  # fmt: skip

_DESCRIPTIONS = {
    "structure_id": "Id of the structure: a hash of its canonical form.",
    "id": "Id of the structure: a hash of its canonical form.",
    "missing_reason": "Why the model did not embed the structure; null where it did.",
    "energy": "The model's scalar output; its meaning and unit are on the model's card.",
    "embedding": "Pooled vector of the model's default layer.",
    "positions": "Cartesian coordinates, flattened, in ångström.",
    "cell": "Lattice vectors, row by row, in ångström.",
}


def write_croissant(
    root: Path, *, date: str | None = None, hashes: Mapping[str, str] | None = None
) -> Path:
    """Write ``croissant.json`` into a release.

    Parameters
    ----------
    date :
        ``YYYY-MM-DD`` of publication.
    hashes :
        Known SHA-256 by path; others are computed.
    """
    path = root / CROISSANT
    content = croissant(root, date=date, hashes=hashes)
    text = json.dumps(content, indent=1, ensure_ascii=False)
    # Hosts put it into their pages as a script: no text in it may end that.
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    path.write_text(text + "\n", encoding="utf-8")
    return path


def croissant(
    root: Path, *, date: str | None = None, hashes: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The JSON-LD document of a release; equal releases give equal documents.

    Raises
    ------
    ArchiveError
        The folder is no release yet, or a table is damaged.
    """
    with of_sound_data(root, f"run: matteratlas validate {root}"):
        return _croissant(root, date, hashes)


def _croissant(root: Path, date: str | None, hashes: Mapping[str, str] | None) -> dict[str, Any]:
    index = read_index(Files(str(root)))
    version = str(index["version"])
    if version == UNRELEASED:
        raise ArchiveError(f"{root}: has no version to describe; run: matteratlas release {root}")
    known = dict(hashes or {})
    listed = configs(root)
    about = project()
    out: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": "MatterAtlas",
        "description": (
            f"{about['title']}: {len(index['models'])} models embed the same molecules, crystals "
            "and proteins; vectors, structures and scores of their agreement."
        ),
        "conformsTo": CONFORMS_TO,
        "version": version,
        "isLiveDataset": False,
        "license": _licences(root),
        "creator": [{"@type": "sc:Organization", "name": name} for name in authors()],
        "keywords": list(about["keywords"]),
        "citeAs": bibtex(version=version, date=date),
        "distribution": _distribution(root, listed, known),
        "recordSet": [_record_set(root, config) for config in listed],
    }
    if project_url():
        out["url"] = project_url()
    if date is not None:
        out["datePublished"] = date
    return out


def _distribution(
    root: Path, listed: list[dict[str, Any]], hashes: Mapping[str, str]
) -> list[dict[str, Any]]:
    paths = sorted({f["path"] for config in listed for f in config["data_files"]})
    files: list[dict[str, Any]] = [
        {
            "@type": "cr:FileObject",
            "@id": path,
            "name": path,
            "contentUrl": path,
            "contentSize": f"{(root / path).stat().st_size} B",
            "encodingFormat": PARQUET_FORMAT,
            "sha256": hashes.get(path) or sha256_of(root / path),
        }
        for path in paths
    ]
    sets = [
        {
            "@type": "cr:FileSet",
            "@id": _file_set(config),
            "name": _file_set(config),
            "description": f"Files of '{config['config_name']}', one a structure set.",
            "encodingFormat": PARQUET_FORMAT,
            "includes": [f["path"] for f in config["data_files"]],
        }
        for config in listed
        if not _single(config)
    ]
    store = {
        "@type": "cr:FileSet",
        "@id": STORE,
        "name": STORE,
        "description": "The canonical store: pooled and node vectors, sharded Zarr v3.",
        "encodingFormat": ZARR_FORMAT,
        "includes": [f"{STORE}/*"],
    }
    return [*files, *sets, *([store] if (root / STORE).is_dir() else [])]


def _record_set(root: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    name, files = config["config_name"], config["data_files"]
    schema = pq.read_schema(root / files[0]["path"])
    columns = config.get("columns") or schema.names
    source = (
        {"fileObject": {"@id": files[0]["path"]}}
        if _single(config)
        else {"fileSet": {"@id": _file_set(config)}}
    )
    fields = [_field(name, column, schema.field(column).type, source) for column in columns]
    key = next((c for c in ("id", "structure_id") if c in columns), None)
    out: dict[str, Any] = {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": _about(name),
    }
    if name == STRUCTURES or (key == "structure_id" and not _single(config)):
        # A structure may stand in several sets: only both together name a record.
        out["key"] = [{"@id": f"{name}/{key}"}, {"@id": f"{name}/set"}]
    elif key is not None and not name.startswith(SCORES):
        out["key"] = {"@id": f"{name}/{key}"}
    if "set" not in columns and not name.startswith(SCORES):
        fields.insert(0, _set_field(name, source))
    return {**out, "field": fields}


def _field(config: str, column: str, kind: pa.DataType, source: dict[str, Any]) -> dict[str, Any]:
    shape, item = [], kind
    while _is_list(item):
        shape.append(item.list_size if pa.types.is_fixed_size_list(item) else -1)
        item = item.value_type
    out: dict[str, Any] = {"@type": "cr:Field", "@id": f"{config}/{column}", "name": column}
    if column in _DESCRIPTIONS:
        out["description"] = _DESCRIPTIONS[column]
    elif column.startswith("embedding."):
        out["description"] = f"Pooled vector of layer '{column.removeprefix('embedding.')}'."
    out["dataType"] = _data_type(item)
    if shape:
        out |= {"isArray": True, "arrayShape": ",".join(map(str, shape))}
    return {**out, "source": {**source, "extract": {"column": column}}}


def _set_field(config: str, source: dict[str, Any]) -> dict[str, Any]:
    """The structure set of a row, which model files say by their names."""
    return {
        "@type": "cr:Field",
        "@id": f"{config}/set",
        "name": "set",
        "description": "The structure set.",
        "dataType": "sc:Text",
        "source": {
            **source,
            "extract": {"fileProperty": "filename"},
            "transform": {"regex": r"^(.+)\.parquet$"},
        },
    }


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_floating(kind):
        return f"cr:Float{kind.bit_width}"
    if pa.types.is_integer(kind):
        return f"cr:{'Int' if pa.types.is_signed_integer(kind) else 'UInt'}{kind.bit_width}"
    return "sc:Text"


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _about(config: str) -> str:
    if config == STRUCTURES:
        return "Structures of all sets: the columns that every set has."
    if config.startswith(f"{STRUCTURES}-"):
        return f"Structures of set '{config.removeprefix(f'{STRUCTURES}-')}' with all columns."
    if config == SCORES:
        return "Agreement of every pair of models on every selection, against its null."
    if config.startswith(f"{SCORES}-"):
        return f"Analysis results: {config.removeprefix(f'{SCORES}-')}."
    return f"Pooled vectors of model '{config}', one row a structure."


def _single(config: Mapping[str, Any]) -> bool:
    """One file by the nature of the configuration; a model has one a set, were it only one."""
    name = str(config["config_name"])
    return name.startswith((f"{STRUCTURES}-", f"{SCORES}-")) or name == SCORES


def _file_set(config: Mapping[str, Any]) -> str:
    return f"files-of-{config['config_name']}"


def _licences(root: Path) -> list[dict[str, str]]:
    """Each licence stated on a card, with what it covers; what states none is said last."""
    covered: dict[str | None, list[str]] = {}
    for table, kind, column in (
        (MODELS, "weights of", "licence.weights"),
        (MODELS, "code of", "licence.code"),
        (SETS, "structures of", "licence"),
    ):
        cards = read_frame(root / table)
        for row in cards.drop_duplicates("id").to_dict("records") if "id" in cards else []:
            licence = row.get(column)
            stated = licence if isinstance(licence, str) else None
            covered.setdefault(stated, []).append(f"{kind} {row['id']}")
    works = []
    for licence in sorted(covered, key=lambda name: (name is None, name)):
        what = "; ".join(covered[licence])
        if licence is None:
            works.append(_work("Not stated by the source", what, None))
        elif re.fullmatch(r"[A-Za-z0-9.+-]+", licence) and not licence.startswith("LicenseRef"):
            works.append(_work(licence, what, f"https://spdx.org/licenses/{licence}"))
        else:
            works.append(_work(licence, what, None))
    return works


def _work(name: str, description: str, url: str | None) -> dict[str, str]:
    out = {"@type": "sc:CreativeWork", "name": name, "description": description}
    return {**out, "url": url} if url else out
