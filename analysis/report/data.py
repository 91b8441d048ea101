# SPDX-License-Identifier: Apache-2.0
"""What the page stands on: the score tables read and checked, the models in page order, selections.

Everything here is plain data taken from the archive; nothing is computed from vectors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
import pandas as pd

from ...registry.archive import Atlas, open_atlas
from ...registry.index import unseal
from ...registry.parquet import UNREADABLE, read_arrow
from ...schemas.errors import ArchiveError
from ...schemas.index import check_analysis
from ...schemas.scores import ANALYSIS, SCORE_TABLES
from ..metrics.cards import CARDS

SELECTIONS = "scores/selections.parquet"
PAIRS = "scores/pairs.parquet"
MODELS = "scores/models.parquet"
COVERAGE = "scores/coverage.parquet"
GAPS = "scores/gaps.parquet"

#: Selections of one kind of matter each, in page order, and the structures they are made of.
MAIN: dict[str, str] = {"crystals": "crystal", "molecules": "molecule", "proteins": "protein"}

#: Modality -> label, in page order; the position picks the colour.
MODALITIES: dict[str, str] = {
    "atoms3d": "3D atoms",
    "graph2d": "2D graph",
    "smiles": "SMILES",
    "selfies": "SELFIES",
    "protein_sequence": "protein sequence",
    "protein_structure": "protein structure",
    "text": "text",
    "composition": "composition",
    "descriptor": "descriptor",
}


#: Metric -> label and how a value is read.
METRICS: dict[str, tuple[str, str]] = {
    "mutual_knn": (
        "mutual k-NN",
        "share of a structure's k nearest neighbours that both models agree on",
    ),
    "cknna": (
        "CKNNA",
        "alignment of the two kernels over the neighbours both models agree on",
    ),
    "linear_cka": ("linear CKA", "alignment of the two linear kernels over all pairs (unbiased)"),
    "distance_correlation": (
        "distance correlation",
        "dependence between the two models' pairwise distances (bias-corrected)",
    ),
    "information_imbalance": (
        "information imbalance",
        "how badly nearness in the row model predicts nearness in the column model: "
        "0 perfectly, 1 not at all",
    ),
    "intrinsic_dimension": (
        "intrinsic dimension",
        "directions in which near neighbours spread, however the embedding is bent (TwoNN)",
    ),
    "participation_ratio": (
        "participation ratio",
        "directions that carry the variance of the embedding as a whole, were it flat",
    ),
    "distinct_share": ("distinct share", "share of the rows whose vector no other row has"),
}


@dataclass(frozen=True)
class Metric:
    """How a metric is read on the page (``analysis.metrics.cards``)."""

    name: str
    label: str
    meaning: str
    larger: bool  # larger values mean more alike
    symmetric: bool
    null: str

    def best(self, n: int, k: int | None) -> float:
        """Value for two equal spaces."""
        card = {str(key): card for key, card in CARDS.items()}.get(self.name)
        return 1.0 if card is None else card.best(n, 0 if k is None or pd.isna(k) else int(k))


def metric_of(name: str) -> Metric:
    """The metric's description."""
    label, meaning = METRICS.get(name, (name.replace("_", " "), ""))
    card = {str(key): card for key, card in CARDS.items()}.get(name)
    return Metric(
        name,
        label,
        meaning,
        larger=card is None or card.larger_is_similar,
        symmetric=card is None or card.symmetric,
        null=card.null if card else "",
    )


@dataclass(frozen=True)
class Scores:
    """The scores of an atlas and where each came from.

    Attributes
    ----------
    selections, pairs, models, coverage, gaps:
        The score tables (``schemas.scores``); pairs with ``a`` and ``b``, model scores with
        ``chart``: the keys of :class:`Model`.
    analysis:
        ``scores/analysis.json``: parameters, tool versions, date.
    analysed:
        When the analysis was written, where the file system knows; UTC.
    digests:
        SHA-256 of each file read, by path.
    """

    atlas: Atlas
    selections: pd.DataFrame
    pairs: pd.DataFrame
    models: pd.DataFrame
    coverage: pd.DataFrame
    gaps: pd.DataFrame
    analysis: Mapping[str, Any]
    analysed: str | None
    digests: Mapping[str, str]


def read_scores(path: str) -> Scores:
    """Open the atlas at ``path`` and read its scores.

    Raises
    ------
    ArchiveError
        Not an atlas, not analysed yet, or a score table without the columns the page needs.
    """
    atlas = open_atlas(path)
    digests: dict[str, str] = {}
    tables = {
        name: _table(path, name, _read(atlas, name, digests))
        for name in (SELECTIONS, PAIRS, MODELS, COVERAGE, GAPS)
    }
    content = _read(atlas, ANALYSIS, digests)
    mend = f"run: matteratlas analyze {path}"
    analysis = unseal(content, where=f"{path}/{ANALYSIS}", mend=mend)
    check_analysis(analysis, where=f"{path}/{ANALYSIS}", mend=mend)
    for name, entry in (analysis.get("tables") or {}).items():
        if name in digests and digests[name] != entry["sha256"]:
            raise ArchiveError(
                f"{path}/{name}: not the table {ANALYSIS} records; run: matteratlas analyze {path}"
            )
    default = dict(zip(atlas.models["id"], atlas.models["default_layer"], strict=True))
    pairs, models = tables[PAIRS], tables[MODELS]
    return Scores(
        atlas=atlas,
        selections=tables[SELECTIONS],
        pairs=pairs.assign(
            a=_keys(pairs["model_a"], pairs["layer_a"], default),
            b=_keys(pairs["model_b"], pairs["layer_b"], default),
        ),
        models=models.assign(chart=_keys(models["model"], models["layer"], default)),
        coverage=tables[COVERAGE],
        gaps=tables[GAPS],
        analysis=analysis,
        analysed=_modified(atlas, ANALYSIS),
        digests=digests,
    )


def _read(atlas: Atlas, name: str, digests: dict[str, str]) -> bytes:
    try:
        with fsspec.open(f"{atlas.location}/{name}", "rb") as handle:
            content: bytes = handle.read()
    except FileNotFoundError as error:
        raise ArchiveError(
            f"{atlas.location}: no {name}; run: matteratlas analyze {atlas.location}"
        ) from error
    digests[name] = hashlib.sha256(content).hexdigest()
    return content


def _modified(atlas: Atlas, name: str) -> str | None:
    fs, root = fsspec.url_to_fs(atlas.location)
    try:
        when = fs.modified(f"{root}/{name}")
    except NotImplementedError:  # some remote stores keep no times
        return None
    return f"{when:%Y-%m-%d %H:%M} UTC"


def _table(path: str, name: str, content: bytes) -> pd.DataFrame:
    # Ids of every row of every selection are many and the page names none of them.
    columns = [c for c in SCORE_TABLES[name].columns if c != "ids"]
    try:
        table = read_arrow(content, columns=columns).to_pandas(ignore_metadata=True)
    except (*UNREADABLE, KeyError) as error:
        raise ArchiveError(
            f"{path}/{name}: not the table expected ({error}); run: matteratlas analyze {path}"
        ) from error
    for column in ("k", "reference_n", "draw"):
        if column in table.columns:
            table[column] = table[column].astype("Int64")
    return table


def _keys(models: pd.Series, layers: pd.Series, default: Mapping[str, str]) -> pd.Series:
    """Model id; with the layer behind a slash where it is not the default (``analysis.charts``)."""
    own = layers == models.map(default)
    return models.where(own, models + "/" + layers)


@dataclass(frozen=True)
class Model:
    """A chart as the page knows it: a model, or one layer of it.

    Attributes
    ----------
    index:
        Place in page order.
    key:
        Model id; with the layer behind a slash where it is not the default.
    card:
        The model's row of the models table.
    """

    index: int
    key: str
    card: Mapping[str, Any]

    @property
    def default(self) -> bool:
        """Whether this is the model's default layer."""
        return self.key == self.card["id"]

    @property
    def modality(self) -> str:
        """Modality of the card."""
        return str(self.card["modality"])

    @property
    def learned(self) -> bool:
        """False for descriptors and random vectors."""
        return bool(self.card["learned"])

    @property
    def contextual(self) -> bool:
        """Whether a structure's arrangement enters, and not its elements alone."""
        return not bool(self.card["context_free"])

    @property
    def three_d(self) -> bool:
        """A learned model of atoms in space."""
        return self.learned and self.contextual and self.modality == "atoms3d"

    @property
    def domains(self) -> frozenset[str]:
        """Training domains; empty when the card does not say."""
        return frozenset(listed(self.card["training.domains"]))

    @property
    def training_sets(self) -> frozenset[str]:
        """Training sets; empty when the card does not say."""
        return frozenset(listed(self.card["training.sets"]))


def roster(scores: Scores) -> list[Model]:
    """Charts in page order: learned before baselines, by modality, family, model and layer."""
    order = {name: i for i, name in enumerate(MODALITIES)}
    cards = sorted(
        records(scores.atlas.models),
        key=lambda c: (
            not c["learned"],
            order.get(c["modality"], len(order)),
            bool(c["context_free"]),
            c["family"],
            c["id"],
        ),
    )
    scored = {*scores.pairs["a"], *scores.pairs["b"], *scores.models["chart"]}
    found: list[Model] = []
    for card in cards:
        layers = [f"{card['id']}/{layer['name']}" for layer in json.loads(card["layers"])]
        for key in (card["id"], *(key for key in layers if key in scored)):
            found.append(Model(len(found), key, card))
    return found


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as mappings."""
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def listed(value: Any) -> list[str]:
    """A list cell of a Parquet table as strings; null is empty."""
    if value is None or isinstance(value, float):
        return []
    return [value] if isinstance(value, str) else [str(v) for v in value]


def text(value: Any) -> str | None:
    """A text cell, or None where the table holds null."""
    return None if value is None or value is pd.NA or value != value else str(value)


def number(value: Any, digits: int = 6) -> float | None:
    """A float rounded to ``digits`` significant figures, or None where the table holds null."""
    if value is None or pd.isna(value):
        return None
    return float(f"{float(value):.{digits}g}")
