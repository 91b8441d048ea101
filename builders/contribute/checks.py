# SPDX-License-Identifier: Apache-2.0
"""Checks of a contribution that run nothing of it: card, licences, and the data, block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from ...registry.archive import Atlas, open_atlas
from ...registry.unit import Unit
from ...registry.validate import validate
from ...schemas.archive import PARQUET, REASONS, STORE
from ...schemas.cards import ModelCard, read_plain
from ...schemas.errors import AtlasError
from .folder import BROUGHT, Contribution, open_choices
from .report import Report, Rows

#: Bytes a contribution may bring, and its largest file; more is agreed on beforehand.
MOST_BYTES = 20 * 2**30
LARGEST_FILE = 5 * 2**30
MOST_FILES = 50_000
#: Share of the rows a card admits that may fail.
FAILING = 0.01

SPDX = "# SPDX-License-Identifier:"


def check_card(report: Report, contribution: Contribution) -> ModelCard | None:
    """The card under the schema, every choice made; None stops what needs a card."""
    try:
        read_plain(contribution.card_path)
        choices = [c for path in contribution.sources() for c in open_choices(path)]
        if choices:
            mend = "fill in every place that says CHOOSE"
            report.add(
                "card", "fail", f"{len(choices)} choices are open: {'; '.join(choices)}", mend
            )
            return None
        card = contribution.card()
    except AtlasError as error:
        text = str(error).replace(f"{contribution.folder}/", "")
        report.add("card", "fail", text, "mend the key; docs/reference/cards.md lists all")
        return None
    wrong = _inconsistent(card)
    if wrong:
        report.add("card", "fail", *wrong)
        return None
    report.version = card.version
    report.add("card", "pass", f"all keys valid; layers {', '.join(x.name for x in card.layers)}")
    return card


def _inconsistent(card: ModelCard) -> tuple[str, str] | None:
    """What the schema allows and the registry does not."""
    if card.learned:
        if not card.training.domains:
            return "key 'training.domains' is empty", "name what a learned model was trained on"
        if card.checkpoint.obtained == "none":
            return "key 'checkpoint.obtained' is none", "say where the weights of it come from"
    elif any(v is not None for v in vars(card.training).values()):
        return "key 'training' is filled in", "write null throughout: it is not learned"
    if card.pooling == "none" and any(layer.level != "structure" for layer in card.layers):
        return "key 'pooling' is none", "say how nodes are pooled: mean or sum"
    if (card.checkpoint.obtained == "brought") != (card.adapter == BROUGHT):
        return (
            "keys 'checkpoint.obtained' and 'adapter' disagree",
            f"brought vectors have obtained: brought and adapter: {BROUGHT}; others neither",
        )
    return None


def check_sources(report: Report, contribution: Contribution, card: ModelCard) -> None:
    """Adapter and test: there, finished, and under a licence."""
    if card.adapter == BROUGHT:
        report.add("adapter and test", "pass", "vectors are brought; there is nothing to run")
        return
    faults = []
    for path in contribution.sources()[1:]:
        faults += open_choices(path)
        if not path.read_text(encoding="utf-8").startswith(SPDX):
            faults.append(f"{path.name}: does not begin with '{SPDX} Apache-2.0'")
    if contribution.adapter_path is not None and contribution.test_path is None:
        faults.append(f"no test_{contribution.module}.py beside {contribution.module}.py")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        report.add("adapter and test", "fail", faults[0] + more, "write what is missing")
        return
    names = [p.name for p in contribution.sources()[1:]]
    text = ", ".join(names) or f"the adapter is the registry's own {card.adapter}"
    report.add("adapter and test", "pass", text)


def check_licences(report: Report, card: ModelCard) -> None:
    """SPDX expressions for code and, where there are any, for weights."""
    wrong = []
    for key, value in (("code", card.licence.code), ("weights", card.licence.weights)):
        needed = key == "code" or (card.learned and card.checkpoint.obtained != "brought")
        if value is None:
            if needed:
                wrong.append(f"key 'licence.{key}' is null")
            continue
        try:
            canonical = canonicalize_license_expression(value)
        except InvalidLicenseExpression as error:
            wrong.append(f"key 'licence.{key}' is '{value}': {error}")
            continue
        if canonical != value:
            wrong.append(f"key 'licence.{key}' is '{value}', SPDX writes '{canonical}'")
    if not card.learned and card.licence.weights is not None:
        wrong.append("key 'licence.weights' names a licence, and there are no weights")
    if wrong:
        mend = "write an SPDX expression (spdx.org/licenses), or LicenseRef-NAME for another one"
        report.add("licences", "fail", "; ".join(wrong), mend)
    else:
        text = f"code {card.licence.code}, weights {card.licence.weights or 'none stated'}"
        report.add("licences", "pass", text)


def check_store(report: Report, contribution: Contribution) -> Atlas | None:
    """The atlas that was built: schemas, hashes, ids and every value; None if it is unusable."""
    found = validate(contribution.atlas, deep=True)
    wrong = [*found.faults, *found.notes]
    if wrong or not found.units:
        text = wrong[0] if wrong else "holds no embeddings"
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        report.add("schema and hashes", "fail", text + more, "build it again")
        return None
    atlas = open_atlas(contribution.atlas)
    others = set(atlas.index["models"]) - {contribution.model_id}
    if others or contribution.model_id not in atlas.index["models"]:
        text = f"holds {', '.join(sorted(atlas.index['models']))}"
        report.add("schema and hashes", "fail", text, "contribute one model at a time")
        return None
    units = atlas.index["models"][contribution.model_id]["units"]
    report.sets = {
        name: Rows(rows=u["rows"], embedded=u["embedded"], missing=u["missing"])
        for name, u in units.items()
    }
    text = f"{found.units} units, {found.rows} rows, {found.files} files hashed, every value read"
    report.add("schema and hashes", "pass", text)
    return atlas


def check_record(report: Report, atlas: Atlas, card: ModelCard) -> None:
    """Whether the stored units are of this very card."""
    wrong = []
    for set_id in report.sets:
        record = atlas.unit(card.id, set_id).record
        if record.model_version != card.version:
            wrong.append(f"{set_id}: version {record.model_version}, the card says {card.version}")
        if record.layers != {layer.name: layer.dim for layer in card.layers}:
            wrong.append(f"{set_id}: layers {record.layers} are not the card's")
        if record.default_layer != card.default_layer:
            wrong.append(f"{set_id}: default layer {record.default_layer} is not the card's")
    if wrong:
        report.add("card and data agree", "fail", wrong[0], "build it again with this card")
    else:
        report.add("card and data agree", "pass", "version, layers and dims are the card's")


def check_missing(report: Report, atlas: Atlas, card: ModelCard) -> None:
    """Missing rows: known reasons, and next to none among the rows the card admits."""
    embedded = sum(s.embedded for s in report.sets.values())
    failed, unknown, examples = 0, 0, []
    for set_id in report.sets:
        unit = atlas.unit(card.id, set_id)
        reasons = unit.reasons()
        for row in np.flatnonzero(reasons != ""):
            head = str(reasons[row]).partition(":")[0]
            unknown += head not in REASONS
            if head == "failed":
                failed += 1
                examples.append(f"{set_id} row {row}: {reasons[row]}")
    rows = sum(s.rows for s in report.sets.values())
    text = f"{embedded} of {rows} rows embedded, {failed} failed"
    text += f"; first: {examples[0]}" if examples else ""
    if not embedded or unknown:
        mend = "mend 'supports' in the card" if not unknown else "use the reasons of the format"
        report.add("missing reasons", "fail", text, mend)
    elif card.adapter != BROUGHT and failed > FAILING * (embedded + failed):
        mend = "let the card's 'supports' say what it cannot take, or mend the adapter"
        report.add("missing reasons", "fail", text, mend)
    else:
        report.add("missing reasons", "note" if failed else "pass", text)


@dataclass
class _Values:
    """What one pass over a layer gathers."""

    rows: int = 0
    infinite: int = 0
    low: np.ndarray = field(default_factory=lambda: np.empty(0))
    high: np.ndarray = field(default_factory=lambda: np.empty(0))
    norms: list[np.ndarray] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)

    def take(self, block: np.ndarray) -> None:
        """Add (rows, dim) embedded vectors."""
        finite = np.isfinite(block).all(axis=1)
        self.infinite += int((~finite).sum())
        block = np.ascontiguousarray(block[finite])
        if not len(block):
            return
        self.low = np.minimum(self.low, block.min(0)) if self.rows else block.min(0)
        self.high = np.maximum(self.high, block.max(0)) if self.rows else block.max(0)
        self.rows += len(block)
        self.norms.append(np.linalg.norm(block.astype(np.float64), axis=1))
        self.seen |= {_short_hash(row) for row in block}


def check_values(report: Report, atlas: Atlas, card: ModelCard) -> None:
    """Numbers of every layer: finite, not constant, of sane size, not all alike."""
    for layer in card.layers:
        values = _Values()
        for set_id in report.sets:
            for block in _blocks(atlas.unit(card.id, set_id), layer.name):
                values.take(block)
        name = f"values of {layer.name}"
        if values.infinite or not values.rows:
            text = f"{values.infinite} of {values.rows + values.infinite} vectors are not finite"
            report.add(name, "fail", text, "mend the adapter")
            continue
        norms = np.concatenate(values.norms)
        constant = int((values.low == values.high).sum())
        alike = values.rows - len(values.seen)
        least, middle, most = (float(f(norms)) for f in (np.min, np.median, np.max))
        text = (
            f"{values.rows} vectors, {len(values.seen)} distinct; {constant} of {layer.dim} "
            f"columns constant; norms {least:.3g} to {most:.3g}, median {middle:.3g}"
        )
        if values.rows > 1 and len(values.seen) == 1:
            report.add(name, "fail", text, "every vector is the same; mend the adapter")
        elif card.learned and least == 0:
            report.add(name, "fail", text, "a learned model answers zero; mend the adapter")
        elif alike > values.rows / 2 or constant > layer.dim / 2 or most > 1e4 * (middle or 1.0):
            mend = "say in the card's 'notes' why so much of it is alike, or so far apart"
            report.add(name, "note", text, mend)
        else:
            report.add(name, "pass", text)


def _blocks(unit: Unit, layer: str) -> Iterable[np.ndarray]:
    """Embedded vectors, a chunk at a time."""
    vectors = unit.vectors(layer)
    for start in range(0, len(unit), vectors.chunk_rows):
        stop = min(start + vectors.chunk_rows, len(unit))
        block = np.asarray(vectors.read(start, stop), np.float32)
        yield block[unit.reasons(start, stop) == ""]


def _short_hash(row: np.ndarray) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=12).digest()


def new_files(contribution: Contribution) -> list[Path]:
    """Data files a contribution brings, sorted."""
    model, root = contribution.model_id, contribution.atlas
    found = [p for top in (STORE, PARQUET) for p in (root / top / model).rglob("*") if p.is_file()]
    return sorted(found)


def check_size(report: Report, contribution: Contribution) -> None:
    """Bytes and files that would be added to the dataset."""
    sizes = {p: p.stat().st_size for p in new_files(contribution)}
    report.bytes = sum(sizes.values())
    largest = max(sizes.values(), default=0)
    text = f"{report.bytes / 1e6:.2f} MB in {len(sizes)} files, the largest {largest / 1e6:.2f} MB"
    if report.bytes > MOST_BYTES or largest > LARGEST_FILE or len(sizes) > MOST_FILES:
        mend = f"at most {MOST_BYTES >> 30} GiB; store float16, leave out node vectors, or ask"
        report.add("size", "fail", text, mend)
    else:
        report.add("size", "pass", text)
