# SPDX-License-Identifier: Apache-2.0
"""What a pull request on the dataset may hold, and how one becomes a contribution folder again.

A proposal only adds files: the units of one model, what they cost, and the card. ``atlas.json``,
the model's consolidated metadata, tables and dataset card all follow from the units; they are
derived when a maintainer merges, so proposals never conflict with each other and cannot change what
readers see.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...registry.contributed import contributed
from ...registry.files import Files
from ...registry.hub_contribute import PullRequest, fetch_files, pull_request
from ...registry.index import read_index, write_index
from ...schemas.archive import RUNS, STORE
from ...schemas.cards import ModelCard, read_card
from ...schemas.errors import ArchiveError
from ...schemas.manifest import place_of
from .checks import LARGEST_FILE, MOST_BYTES, MOST_FILES, new_files
from .folder import Contribution, open_contribution

#: Folder of the dataset that proposals put their card in.
CARDS = "contributions"

_PLAIN = re.compile(r"[A-Za-z0-9._/-]{1,300}")
_CARD = re.compile(rf"{CARDS}/([a-z0-9][a-z0-9._-]{{0,63}})\.yaml")


def proposed_files(contribution: Contribution) -> dict[str, Path]:
    """Local file of each path that a proposal adds."""
    model, root = contribution.model_id, contribution.atlas
    files = {p.relative_to(root).as_posix(): p for p in new_files(contribution)}
    files.pop(f"{STORE}/{model}/zarr.json", None)  # derived from the units
    runs = root / RUNS / f"{model}.json"
    if runs.is_file():
        files[f"{RUNS}/{model}.json"] = runs
    files[f"{CARDS}/{model}.yaml"] = contribution.card_path
    return files


def check_proposal(added: Mapping[str, int], touched: Iterable[str]) -> str:
    """The model that a pull request adds, told by paths and sizes alone.

    Raises
    ------
    ArchiveError
        It changes or removes files, adds any that is no unit of its one model, or is too large.
    """
    for path in touched:
        raise ArchiveError(
            f"{path[:200]}: changed or removed; a contribution only adds files, open it anew"
        )
    cards = [found[1] for path in added if (found := _CARD.fullmatch(path))]
    if len(cards) != 1:
        raise ArchiveError(f"{CARDS}: holds {len(cards)} new cards; propose one model at a time")
    model = cards[0]
    for path in added:
        place = place_of(path) if _PLAIN.fullmatch(path) else None
        own = place is not None and place.set is not None and place.model == model
        if not own and path not in (f"{CARDS}/{model}.yaml", f"{RUNS}/{model}.json"):
            raise ArchiveError(f"{path[:200]}: no file of a unit of '{model}'; leave it out")
    if not any(path.startswith(f"{STORE}/") for path in added):
        raise ArchiveError(f"{STORE}/{model}: no unit is added; run: matteratlas contribute submit")
    largest = max(added, key=lambda p: added[p])
    if (
        sum(added.values()) > MOST_BYTES
        or len(added) > MOST_FILES
        or (added[largest] > LARGEST_FILE)
    ):
        raise ArchiveError(
            f"{len(added)} files of {sum(added.values())} bytes, the largest {added[largest]}; "
            f"at most {MOST_FILES} files, {MOST_BYTES} and {LARGEST_FILE} bytes"
        )
    small = [p for p in added if p.startswith((CARDS, RUNS)) and added[p] > 2**20]
    if small:
        raise ArchiveError(f"{small[0]}: {added[small[0]]} bytes; cards and costs are small")
    return model


def take(repo: str, number: int, out: Path) -> tuple[Contribution, PullRequest]:
    """Fetch a pull request as a contribution folder with an atlas to merge.

    Structures come from the commit it grew from, vectors and card from its own. Nothing of it is
    run; what it says of itself is for ``validate`` and the checks to judge.

    Raises
    ------
    ArchiveError
        It holds what a contribution may not, or sets that the dataset has not.
    CardError
        Its card is not valid.
    """
    if out.exists() and any(out.iterdir()):
        raise ArchiveError(f"{out}: exists; choose another --out")
    found = pull_request(repo, number)
    model = check_proposal(found.added, found.touched)
    atlas = out / "atlas"
    card = out / f"{model}.yaml"
    targets = {p: atlas / p for p in found.added if not p.startswith(f"{CARDS}/")}
    fetch_files(
        repo, found.head, {**targets, f"{CARDS}/{model}.yaml": card}, sizes=dict(found.added)
    )
    read_card(card, ModelCard)
    base = Files(f"hf://datasets/{repo}@{found.base}")
    index = read_index(base)
    tables = {
        f"structures/{place.set}.parquet"
        for path in targets
        if (place := place_of(path)) is not None and place.set
    }
    for path in sorted(tables):
        if path not in index["files"]:
            raise ArchiveError(f"{path}: the dataset has no such set; propose the set first")
        declared = index["files"][path]
        (atlas / path).parent.mkdir(parents=True, exist_ok=True)
        (atlas / path).write_bytes(base.read(path, sha256=declared["sha256"]))
    with contributed(out):
        write_index(atlas)
    return open_contribution(out), found
