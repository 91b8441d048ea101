# SPDX-License-Identifier: Apache-2.0
"""Weights of models in environments of their own: found, fetched, checked, or refused by name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from servers.files import FileServer
from tiny_weights import hub_of_its_own

from matteratlas.builders.adapters.base import load_adapter
from matteratlas.builders.adapters.weights import obtain, weights_file
from matteratlas.registry import catalog
from matteratlas.schemas.cards import ModelCard
from matteratlas.schemas.errors import CardError, SourceError

BODY = b"weights" * 1000


def changed(model: str, options: dict | None = None, **source: object) -> ModelCard:
    card = catalog.model(model)
    checkpoint = card.checkpoint.model_copy(update=source)
    return card.model_copy(update={"checkpoint": checkpoint, "options": options or card.options})


def test_an_address_is_fetched_once_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATTERATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("MATTERATLAS_DOWNLOADS", raising=False)
    (tmp_path / "a.model").write_bytes(BODY)
    with FileServer(tmp_path) as server:
        card = changed("mace-mp-0-small", path=f"{server.url}/a.model")
        with pytest.raises(SourceError, match="not in the cache"):
            obtain(card)
        monkeypatch.setenv("MATTERATLAS_DOWNLOADS", "1")
        path = weights_file(card)
        assert path.read_bytes() == BODY
        assert len(server.log) == 1
    monkeypatch.delenv("MATTERATLAS_DOWNLOADS")
    assert obtain(card) == path
    right = hashlib.sha256(BODY).hexdigest()
    assert obtain(changed("mace-mp-0-small", path=card.checkpoint.path, sha256=right)) == path
    with pytest.raises(SourceError, match=r"mace-mp-0-small.*sha256"):
        obtain(changed("mace-mp-0-small", path=card.checkpoint.path, sha256="0" * 64))


def test_files_beside_the_weights_come_along_or_are_missed_by_name() -> None:
    model = "esm3-structure"
    source, beside = catalog.model(model).checkpoint, "data/weights/esm3_structure_encoder_v0.pth"
    with hub_of_its_own() as hub:
        repository = str(source.package)
        hub.create(repository, {str(source.path): BODY, beside: b"beside"}, kind="model")
        head = hub.head(repository, kind="model")
        path = weights_file(changed(model, revision=head))
        folder = Path(str(path).removesuffix(str(source.path)))
        assert path.read_bytes() == BODY and (folder / beside).read_bytes() == b"beside"
        options = {"track": "structure", "also": ["data/weights/other.pth"]}
        with pytest.raises(SourceError, match=r"esm3-structure.*has no data/weights/other\.pth"):
            obtain(changed(model, options, revision=head))


def test_cards_without_weights() -> None:
    card = catalog.model("random-128")
    assert obtain(card) is None
    with pytest.raises(CardError, match="names no weights"):
        weights_file(card)
    with pytest.raises(CardError, match="does not say where"):
        obtain(changed("mace-mp-0-small", path=None))


def test_weights_without_a_hash_are_never_unpickled_here() -> None:
    for card in catalog.models().values():
        if card.checkpoint.unpickles and card.checkpoint.sha256 is None:
            assert card.isolation is not None, card.id
    for model in ("mace-mp-0-small", "sevennet-0"):
        card = changed(model, sha256=None).model_copy(update={"isolation": None})
        assert card.checkpoint.unpickles
        with pytest.raises(CardError, match=rf"'{model}': its weights are unpickled and key"):
            load_adapter(card)
