# SPDX-License-Identifier: Apache-2.0
"""Weights of models in environments of their own, wherever they are published.

What has to be downloaded is fetched by the process that builds: the model's own has no access
tokens and finds the files in the cache.
"""

from __future__ import annotations

from pathlib import Path

from ...registry.hub import model_files, package_file, sha256_of
from ...registry.models_url import model_url
from ...schemas.cards import ModelCard
from ...schemas.errors import CardError, SourceError


def obtain(card: ModelCard) -> Path | None:
    """Have a card's weights on this machine, downloaded if the user allows it; None if it has none.

    The path is that of the card's file. Its hash is checked where the card gives one. Beside it, in
    the same repository, lie the files that ``options.also`` names.

    Raises
    ------
    CardError
        The card does not say where its weights are.
    SourceError
        They are not to be had, or are not the card's.
    """
    source = card.checkpoint
    if source.obtained == "none":
        return None
    if not source.path or (source.obtained != "url" and not source.package):
        raise CardError(f"model '{card.id}': key 'checkpoint' does not say where the weights are")
    if source.obtained == "package":
        path = package_file(str(source.package), source.path)
    elif source.obtained == "url":
        path = model_url(source.path)
    else:
        also = [str(name) for name in (card.options or {}).get("also", [])]
        wanted = [source.path, *also]
        folder = model_files(str(source.package), str(source.revision), wanted)
        absent = [name for name in wanted if not (folder / name).is_file()]
        if absent:
            raise SourceError(
                f"model '{card.id}': {source.package} has no {absent[0]}; delete {folder} and "
                "fetch it again"
            )
        path = folder / source.path
    if source.sha256 and (actual := sha256_of(path)) != source.sha256:
        raise SourceError(
            f"model '{card.id}': {path.name} has sha256 {actual}, the card says {source.sha256}; "
            f"delete {path.resolve()} and fetch it again"
        )
    return path


def weights_file(card: ModelCard) -> Path:
    """The card's weights file; see :func:`obtain`.

    Raises
    ------
    CardError
        The card has no weights.
    """
    path = obtain(card)
    if path is None:
        raise CardError(f"model '{card.id}': key 'checkpoint' names no weights")
    return path
